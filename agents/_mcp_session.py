"""A connection to an MCP server through the `mcp` SDK. Alone knows it, and what it is made of."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from typing import Any, Final, TypeAlias, cast

import anyio
import httpx2
import trio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared.message import SessionMessage
from mcp_types import (
    CONNECTION_CLOSED,
    Implementation,
    JSONRPCNotification,
    JSONRPCResponse,
    LoggingMessageNotificationParams,
    Tool,
    ToolListChangedNotification,
    jsonrpc_message_adapter,
)
from mcp_types.methods import validate_server_result
from pydantic import ValidationError

from ..core._failures import find_failure
from ..core._json import as_object
from ..core._tool_schema import find_schema_fault
from ..core.errors import SettingsError, leaves
from ._mcp_connection import McpConnection, McpLostError, McpToolInfo, ReportProgress
from ._mcp_listing import ListingSieve
from ._mcp_process import Child, SaidLog, open_child
from ._mcp_results import read_result
from ._mcp_server import McpServer, Redactor, find_secrets
from .tools import ToolError

__all__ = ["open_connection"]

TransportStreams: TypeAlias = tuple[
    MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]
]
Transport: TypeAlias = AbstractAsyncContextManager[Any]

log = logging.getLogger("trialogue.mcp")

#: What a child needs to be found, to find its own files, and to speak the person's language.
_PASSED_ON: Final = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
)
#: Messages that wait for a child to read them. So the news that a call is cancelled need not wait
#: for one that has stopped reading.
_MAX_UNSENT: Final = 64
#: Of one program, of what it tells unasked, in a second. Each costs us a quarter of a millisecond,
#: which a program that tells without end would take from everybody.
_MAX_TOLD_PER_SECOND: Final = 400
#: Of one server; no model is served with more, and some server may have pages without end.
_MAX_TOOLS: Final = 500
#: Between two reports of one call's progress: an event each, for everybody who is attached.
_PROGRESS_SECONDS: Final = 0.05
#: An answer to a request of HTTP may be awaited for as long as its call may.
_HTTP_TIMEOUT: Final = httpx2.Timeout(30.0, read=None)
_LISTEN_AGAIN_SECONDS: Final = 5.0
#: Of what a server says of a failure, to the model or in the log.
_MAX_ERROR_CHARS: Final = 4000
_MAX_SHOWN_NAME: Final = 128
_NOT_FOUND: Final = 404
_SESSION_HEADER: Final = "mcp-session-id"
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "notice": logging.INFO,
    "warning": logging.WARNING,
}


@asynccontextmanager
async def open_connection(
    server: McpServer, environ: Mapping[str, str]
) -> AsyncGenerator[McpConnection]:
    """Connect to a server; see `OpenConnection`."""
    secrets = await trio.to_thread.run_sync(_find_secrets, server, environ)
    redactor = Redactor([*secrets.values(), *server.hidden])
    session = _Session(server.name, redactor)
    try:
        async with (
            _open_transport(server, session, secrets, environ) as transport,
            session.open(session.sift(transport)),
        ):
            yield session
    except BaseException as exc:
        failure = find_failure(exc)
        if failure is None:
            if (cancelled := _only_cancelled(exc)) is exc:
                raise
            raise cancelled from None  # noqa: ASYNC104 - it is a Cancelled, or a group of them
        raise _explain_end(  # noqa: ASYNC104 - what is no failure was raised above
            session.lost or failure, session.status, redactor
        ) from failure


def _only_cancelled(exc: BaseException) -> BaseException:
    """Leave out what broke because the connection was cancelled."""
    if not isinstance(exc, BaseExceptionGroup):
        return exc
    group = cast("BaseExceptionGroup[BaseException]", exc)
    cancelled, rest = group.split(trio.Cancelled)
    if cancelled is None or (rest is not None and find_failure(rest) is None):
        return group
    return cancelled


def _find_secrets(server: McpServer, environ: Mapping[str, str]) -> dict[str, str]:
    place = f"mcp.{server.name}"
    if server.url is None:
        return find_secrets(f"{place}.env", server.env, environ)
    headers = find_secrets(f"{place}.headers", server.headers, environ)
    if server.bearer_token is not None:
        found = find_secrets(place, {"bearer_token": server.bearer_token}, environ)
        headers["Authorization"] = f"Bearer {found['bearer_token']}"
    return headers


def _explain_end(failure: Exception, status: int | None, redactor: Redactor) -> Exception:
    """Say why a connection ended, in words that go on after the server's name."""
    causes = list(leaves(failure))
    for kind in (SettingsError, McpLostError):
        for cause in causes:
            if isinstance(cause, kind):
                return cause
    match causes[0]:
        case MCPError() as exc:
            why = f"refused: {exc.message}" + ("" if status is None else f" (HTTP {status})")
        case httpx2.HTTPError() as exc:
            why = f"cannot be reached: {str(exc) or type(exc).__name__}"
        case ValidationError() | UnicodeError():
            why = "answered something that is not MCP"
        case RuntimeError() | OSError() as exc:
            why = f"failed: {exc}"
        case exc:
            log.error("a connection to an MCP server failed in a way not foreseen", exc_info=exc)
            why = "failed in a way not foreseen; the log has it"
    return McpLostError(redactor.text(why)[:_MAX_ERROR_CHARS])


# -- transports ------------------------------------------------------------------------------


@asynccontextmanager
async def _open_transport(
    server: McpServer, session: _Session, secrets: Mapping[str, str], environ: Mapping[str, str]
) -> AsyncGenerator[Transport]:
    """Start the program, or make what HTTP needs."""
    if server.url is None:
        given = {name: environ[name] for name in _PASSED_ON if name in environ} | dict(secrets)
        async with open_child(
            server.command,
            environ=given,
            cwd=server.cwd,
            said=session.said,
            max_line_bytes=server.max_answer_bytes,
        ) as child:
            yield _open_lines(child, session)
    else:
        async with httpx2.AsyncClient(
            # What is compressed may be any size, and is known to be too large too late.
            headers={"Accept-Encoding": "identity", **secrets},
            timeout=_HTTP_TIMEOUT,
            event_hooks={"response": [session.take_response, _Bound(server.max_answer_bytes)]},
        ) as http:
            yield streamable_http_client(
                server.url, http_client=http, max_sse_event_size=server.max_answer_bytes
            )


class _Bound:
    """Lets no answer of HTTP be larger than so many bytes. Streams of events have their own bound."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    async def __call__(self, response: httpx2.Response) -> None:
        await trio.lowlevel.checkpoint()
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "text/event-stream":
            response.stream = _BoundedBody(response, self._max_bytes)


class _BoundedBody(httpx2.AsyncByteStream):
    """The body of one answer."""

    def __init__(self, response: httpx2.Response, max_bytes: int) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        self._inner = response.stream
        self._coding = response.headers.get("content-encoding", "identity").strip().lower()
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncGenerator[bytes]:  # noqa: ASYNC900 - HTTP wants it so
        if self._coding != "identity":
            raise httpx2.StreamError(f"it is compressed ({self._coding}), which was not asked for")
        left = self._max_bytes
        async for part in self._inner:
            left -= len(part)
            if left < 0:
                raise httpx2.StreamError(f"it has more than {self._max_bytes} bytes")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


@asynccontextmanager
async def _open_lines(child: Child, session: _Session) -> AsyncGenerator[TransportStreams]:
    """Carry messages to and from a child. The SDK's own takes lines of any length into memory."""
    to_session, from_child = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_child, from_session = anyio.create_memory_object_stream[SessionMessage](_MAX_UNSENT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read_lines, child, session, to_session)
        nursery.start_soon(_write_lines, child, session, from_session)
        try:
            yield from_child, to_child
        finally:
            nursery.cancel_scope.cancel(reason="the MCP session is over")
            for stream in (to_session, from_child, to_child, from_session):
                stream.close()


async def _read_lines(
    child: Child,
    session: _Session,
    to_session: MemoryObjectSendStream[SessionMessage | Exception],
) -> None:
    with to_session:
        try:
            while True:
                line = await child.receive_line()
                try:
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError:
                    shown = line[:200].decode("utf-8", "replace")
                    session.said.write(logging.WARNING, f"{shown} (which is no message of MCP)")
                    continue
                if not isinstance(message, JSONRPCNotification) or session.takes_another():
                    await to_session.send(SessionMessage(message))
        except McpLostError as exc:
            session.lose(exc)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            pass  # the session is over


async def _write_lines(
    child: Child, session: _Session, from_session: MemoryObjectReceiveStream[SessionMessage]
) -> None:
    try:
        async for item in from_session:
            text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
            await child.send_line(text.encode())
    except McpLostError as exc:
        session.lose(exc)


# -- the session -----------------------------------------------------------------------------


class _Session(McpConnection):
    """A session, open within `open`."""

    def __init__(self, name: str, redactor: Redactor) -> None:
        self.said = SaidLog(log, name, redactor.text)
        self.lost: McpLostError | None = None
        self.status: int | None = None
        self._is_forgotten = False
        self._redactor = redactor
        self._client: Client | None = None
        self._woken = trio.Event()
        self._told_at, self._told = -1, 0

    @asynccontextmanager
    async def open(self, transport: Transport) -> AsyncGenerator[None]:
        """Come to terms with the server, and hold that."""
        client = Client(
            transport,
            client_info=Implementation(name="trialogue", version=version("trialogue")),
            cache=None,
            logging_callback=self._take_log,
            message_handler=self._take_message,
        )
        async with client, trio.open_nursery() as nursery:
            self._client = client
            if client.session.discover_result is not None:
                nursery.start_soon(self._listen, client)
            yield
            nursery.cancel_scope.cancel(reason="the MCP session is over")

    @asynccontextmanager
    async def sift(self, transport: Transport) -> AsyncGenerator[Any]:
        """Leave out the tools that would make the SDK refuse all, or a provider the request."""
        async with transport as (received, sent):
            yield ListingSieve(received, _read_result, self._is_good_listing), sent

    def _is_good_listing(self, listing: dict[str, Any]) -> bool:
        """Look at a result that lists one tool, and tell what is wrong with it."""
        tool = as_object(listing["tools"][0]) or {}
        wrong = _find_tool_fault(tool) or self._find_own_fault(listing)
        if wrong is not None:
            name = str(tool.get("name"))[:_MAX_SHOWN_NAME]
            said = f"of its tool {name!r} what no model could be told, so it is left out: {wrong}"
            self.said.write(logging.WARNING, said)
        return wrong is None

    def _find_own_fault(self, listing: dict[str, Any]) -> str | None:
        """Say what is no MCP, as the SDK sees it."""
        try:
            validate_server_result("tools/list", self._opened.protocol_version, listing)
        except ValidationError as exc:
            # What is wrong with the listing itself is no fault of this tool's.
            faults = [error for error in exc.errors() if error["loc"][:1] == ("tools",)]
            said = (f"{'.'.join(map(str, each['loc'][2:]))}: {each['msg']}" for each in faults)
            return "; ".join(said) or None
        except (KeyError, RuntimeError):
            pass  # of no version that is known, or none that is agreed on
        return None

    def takes_another(self) -> bool:
        """Count what is told unasked, and say whether there is time for it."""
        second = int(trio.current_time())
        if second != self._told_at:
            self._told_at, self._told = second, 0
        self._told += 1
        if self._told == _MAX_TOLD_PER_SECOND + 1:
            self.said.write(logging.WARNING, "too much at once; some of it is left out")
            self.doubt()  # the tools may be others
        return self._told <= _MAX_TOLD_PER_SECOND

    def lose(self, why: McpLostError) -> None:
        """Note that the connection has ended."""
        if self.lost is None:
            self.lost = why
            self._woken.set()

    def doubt(self) -> None:
        self._woken.set()

    async def wait_changed(self) -> None:
        await self._woken.wait()
        if self.lost is not None:
            raise self.lost
        self._woken = trio.Event()

    async def list_tools(self) -> Sequence[McpToolInfo]:
        client = self._opened
        if client.server_capabilities.tools is None:
            await trio.lowlevel.checkpoint()
            return ()
        found: dict[str, McpToolInfo] = {}
        cursor: str | None = None
        try:
            while True:
                page = await client.list_tools(cursor=cursor)
                for tool in page.tools:
                    found.setdefault(tool.name, _read_tool(tool))
                cursor = page.next_cursor
                if cursor is None:
                    return tuple(found.values())
                if len(found) >= _MAX_TOOLS or not page.tools:
                    self.said.write(logging.WARNING, f"that there are more tools than {len(found)}")
                    return tuple(found.values())[:_MAX_TOOLS]
        except MCPError as exc:
            raise self._lost_by(f"does not list its tools: {exc.message}") from exc
        except ValidationError as exc:
            raise self._lost_by("lists its tools in a way that is not MCP") from exc

    async def call_tool(
        self, name: str, arguments: Mapping[str, Any], report_progress: ReportProgress
    ) -> Any:
        if self.lost is not None:
            raise McpLostError(str(self.lost), was_refused=True)
        relay = _ProgressRelay(report_progress)
        try:
            answer = await self._opened.call_tool(name, dict(arguments), progress_callback=relay)
        except MCPError as exc:
            raise self._explain(exc) from exc
        except (ValidationError, RuntimeError) as exc:
            said = "" if isinstance(exc, ValidationError) else f": {exc}"
            raise ToolError(
                self._show(f"{name} answered in a way that it should not{said}")
            ) from exc
        finally:
            relay.is_over = True
        result = self._redactor.value(
            answer.model_dump(by_alias=True, exclude_none=True, mode="json")
        )
        return read_result(result)

    def _explain(self, exc: MCPError) -> McpLostError | ToolError:
        """Tell what ended the connection from what the server said of the call."""
        if self.lost is not None:
            return self.lost
        if self._is_forgotten and exc.code != CONNECTION_CLOSED:
            return McpLostError("has forgotten the session", was_refused=True)
        if exc.code == CONNECTION_CLOSED:
            # Over HTTP it may be this call's connection alone, or the server's own use of the code.
            self.doubt()
            return self._lost_by(f"broke off: {exc.message}")
        return ToolError(self._show(exc.message))

    def _lost_by(self, why: str) -> McpLostError:
        why = "has forgotten the session" if self._is_forgotten else why
        return self.lost or McpLostError(self._show(why))

    def _show(self, text: str) -> str:
        return self._redactor.text(text)[:_MAX_ERROR_CHARS]

    @property
    def _opened(self) -> Client:
        assert self._client is not None
        return self._client

    # -- what comes unasked --------------------------------------------------------------------

    async def _take_message(self, message: object) -> None:
        await trio.lowlevel.checkpoint()
        if isinstance(message, ToolListChangedNotification):
            self.doubt()

    async def take_response(self, response: httpx2.Response) -> None:
        """Look at what HTTP says, which the SDK does not pass on."""
        await trio.lowlevel.checkpoint()
        if response.is_error:
            self.status = response.status_code
        if response.status_code == _NOT_FOUND and (_SESSION_HEADER in response.request.headers):
            self._is_forgotten = True
            self.doubt()

    async def _take_log(self, params: LoggingMessageNotificationParams) -> None:
        await trio.lowlevel.checkpoint()
        self.said.write(_LEVELS.get(params.level, logging.ERROR), str(params.data))

    async def _listen(self, client: Client) -> None:
        """Ask to be told of changes, as from 2026-07-28 on; they come to `_take_message`."""
        while True:
            try:
                async with client.listen(tools_list_changed=True) as events:
                    async for _ in events:
                        pass
            except MCPError:
                return  # it cannot tell
            except (SubscriptionLost, TimeoutError):
                pass
            await trio.sleep(_LISTEN_AGAIN_SECONDS)
            self.doubt()  # something may have changed meanwhile


class _ProgressRelay:
    """Passes the progress of one call on, in order and not too often."""

    def __init__(self, report: ReportProgress) -> None:
        self._report = report
        self._done = -math.inf
        self._at = -math.inf
        self.is_over = False

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        # The SDK runs each report in a task of its own, in any order.
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        is_next = progress > self._done and math.isfinite(progress)
        is_soon = now - self._at < _PROGRESS_SECONDS and progress != total
        if self.is_over or not is_next or is_soon:
            return
        self._done, self._at = progress, now
        self._report(message, progress, total if total and math.isfinite(total) else None)


def _read_tool(tool: Tool) -> McpToolInfo:
    hints = tool.annotations
    return McpToolInfo(
        name=tool.name,
        description=tool.description or tool.title or "",
        schema=tool.input_schema,
        reads_only=bool(hints and hints.read_only_hint),
        is_idempotent=bool(hints and hints.idempotent_hint),
    )


def _read_result(item: SessionMessage | Exception) -> dict[str, Any] | None:
    message = item.message if isinstance(item, SessionMessage) else None
    return message.result if isinstance(message, JSONRPCResponse) else None


def _find_tool_fault(tool: dict[str, Any]) -> str | None:
    """Say what is wrong with a tool's schema. Many leave out that it is of an object."""
    schema = as_object(tool.get("inputSchema"))
    if schema is None:
        return "inputSchema: expected a JSON Schema"
    schema.setdefault("type", "object")
    fault = find_schema_fault(schema)
    return None if fault is None else f"inputSchema{fault[0]}: {fault[1]}"
