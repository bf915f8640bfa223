"""The SDK that every user interface is built on."""

if __name__ != "trialogue.client":
    # Two copies of one module are two of every class: fail here rather than in an isinstance().
    raise ImportError(f"import this as 'trialogue.client', not as {__name__!r}")

from ._client import Client as Client
from ._connect import connect as connect
from ._event_stream import AllEvents as AllEvents
from ._event_stream import EventStream as EventStream
from ._events import Event as Event
from ._events import EventPage as EventPage
from ._events import read_event as read_event
from ._pages import Pages as Pages
from ._state import ConnectionState as ConnectionState
from ._state import StateChanges as StateChanges
from ._stream import AskChunk as AskChunk
from ._stream import Chunk as Chunk
from ._stream import DoneChunk as DoneChunk
from ._stream import ErrorChunk as ErrorChunk
from ._stream import MessageStream as MessageStream
from ._stream import TextChunk as TextChunk
from ._stream import ToolChunk as ToolChunk
from ._sync import SyncClient as SyncClient
from ._sync import SyncStream as SyncStream
from ._sync import connect_sync as connect_sync
from ._tools import LocalTool as LocalTool
from ._wire import Response as Response
from ._wire import build_request as build_request
from ._wire import extract_response as extract_response
