"""The seams: what the core asks of transports, stores, agents and clients, and what it gives them.

Each has a contract test kit in `trialogue.testing`. Nothing here does anything.

Whoever writes a transport implements `Transport`, `Listener`, `Connection` and `Channel`, and
drives a `Link`. A store is a `SessionStore` and a `SessionLog`. An agent is an async function of
one `Turn`.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import attrs
import trio

from ._agent import Agent, Answer, ChildResult, Excerpt, ToolCall, ToolFunction, Turn
from ._cluster import Cluster, Member
from ._frame import Frame
from ._identity import Identity, Revocation
from ._options import AgentOptions
from .errors import SettingsError, StoreError
from .methods import Credential
from .models import SessionStatus

if TYPE_CHECKING:
    from ._flusher import Flusher
    from .log import Damage, Entry, Note, Recollection, Summary, SummaryPage
    from .settings import Settings

__all__ = [
    "Acceptor",
    "Agent",
    "AgentOptions",
    "Answer",
    "Authenticator",
    "Channel",
    "ChildResult",
    "CloseReason",
    "Cluster",
    "ConnectOptions",
    "Connection",
    "Done",
    "Excerpt",
    "Frame",
    "Identity",
    "Link",
    "ListenOptions",
    "Listener",
    "Member",
    "Page",
    "PeerInfo",
    "Revocation",
    "SessionLog",
    "SessionStore",
    "Span",
    "SpanKind",
    "TlsFiles",
    "ToolCall",
    "ToolFunction",
    "Tracer",
    "Transport",
    "Turn",
]


# -- transports ------------------------------------------------------------------------------


class CloseReason(enum.Enum):
    """Why the core ends a connection. A transport maps it to what its protocol can say."""

    NORMAL = "normal"
    GOING_AWAY = "going away"
    UNAUTHORIZED = "unauthorized"
    PROTOCOL_ERROR = "protocol error"
    TOO_SLOW = "too slow"
    TIMEOUT = "timeout"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server error"


@attrs.frozen(kw_only=True)
class PeerInfo:
    """Who is at the other end.

    Attributes:
        transport: The scheme: ``ws``, ``tcp``, ``unix``, ``loopback`` …
        address: For logs, e.g. ``127.0.0.1:51234``.
        credential: From an ``Authorization`` header, where the transport has headers.
        traceparent, tracestate: Likewise (W3C).
    """

    transport: str
    address: str
    credential: Credential | None = None
    traceparent: str | None = None
    tracestate: str | None = None

    def __str__(self) -> str:
        return f"{self.transport}:{self.address}"


class Connection(ABC):
    """The transport's end of a server-side connection. It has no ``receive``: see `Link`."""

    __slots__ = ()

    #: On line transports a first frame that is no envelope ends the connection, so that no web
    #: page can drive the port with a form post (PROTOCOL §1.4).
    first_frame_must_parse: bool = False
    #: What this is a part of, where several are made for one peer: a transport that makes one for
    #: each request names its own connection here. Those of a group share a rate limit.
    group: object = None

    @property
    @abstractmethod
    def peer(self) -> PeerInfo:
        """Who is there."""

    @property
    @abstractmethod
    def outbound_bytes(self) -> int:
        """What has been posted and not yet taken by the operating system or the reader."""

    @abstractmethod
    def post(self, frame: Frame) -> None:
        """Put a frame behind those posted before. Never waits, never raises.

        On a connection that is closing it does nothing. If more than `Settings.stuck_bytes` wait
        that could have been sent before, the connection is closed as too slow: what is posted in
        one go is not judged. It never calls the link from within: what follows from a closed
        connection comes later, from the driver.
        """

    @abstractmethod
    def call_when_drained(self, callback: Callable[[], None]) -> None:
        """Call once, synchronously, when the outbox has drained below its high-water mark.

        If it is below the mark already, that is in the flusher's next pass, never from within
        this call. If the connection closes first, never. Calls are made in registration order.
        """

    @abstractmethod
    async def wait_drained(self) -> None:
        """Wait until everything posted has been taken, or the connection is closed."""

    @abstractmethod
    def close_soon(self, reason: CloseReason) -> None:
        """Take no more posts, send what was posted, then close; bounded by the write timeout."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close at once. Idempotent, and never fails."""


class Link(ABC):
    """The core's end of a server-side connection. A driver gives it what arrives.

    Whether the driver is one task a connection or one poller for thousands is its own affair.
    """

    __slots__ = ("on_ready",)

    def __init__(self) -> None:
        #: Set by the driver: called when feeding may go on after a `feed` that returned False.
        self.on_ready: Callable[[], None] | None = None

    @property
    @abstractmethod
    def max_frame_bytes(self) -> int:
        """The largest frame that may be buffered now. Grows when the peer is authenticated."""

    @property
    def is_ready(self) -> bool:
        """Whether it takes anything; if not, feed and read nothing until `on_ready`.

        To be asked before the first read of a peer whose handshake brought a credential: what it
        sends is judged once that was checked.
        """
        return True

    @abstractmethod
    def feed(self, payload: bytes) -> bool:
        """Take one whole frame. Synchronous: requests that never wait are answered within.

        Returns:
            False if the driver must not feed (and not read) any more until `on_ready`.
            `on_ready` is never called from within `feed`.
        """

    @abstractmethod
    def heard(self) -> None:
        """Note that bytes of whatever kind have come: the peer is alive. Once a read is enough."""

    @abstractmethod
    def refuse_oversize(self) -> None:
        """Answer a frame that was over `max_frame_bytes`, then close the connection."""

    @abstractmethod
    def close(self) -> None:
        """Tell the core that the connection is over. Idempotent. The driver's last call."""


@attrs.frozen(kw_only=True)
class Page:
    """What is shown to who asks for a path, by transports that have paths.

    Attributes:
        body: Whole.
        media_type: What it is.
        is_well: False says that the server is not what was asked for: well, or ready.
    """

    body: bytes
    media_type: str = "application/json"
    is_well: bool = True


class Acceptor(ABC):
    """What a listener is given to make connections into links."""

    flusher: Flusher
    settings: Settings

    @property
    def pages(self) -> Mapping[str, Callable[[], Page]]:
        """Path → what makes its page, for transports that have paths. Anybody may see them."""
        return MappingProxyType({})

    @abstractmethod
    def reserve(self, *, is_known: bool = False) -> bool:
        """Take a place for a new connection, before its handshake.

        Args:
            is_known: It is of a peer that was there before: a server that drains takes it.

        Returns False if ``max_connections`` are there: refuse the peer (`OVERLOADED`, or HTTP
        503) and close.
        """

    @abstractmethod
    def release(self) -> None:
        """Give the place back: the connection is over, or its handshake failed."""

    @abstractmethod
    def link(self, connection: Connection) -> Link:
        """Make the core's end for a connection whose handshake is done.

        From here on the core answers for authentication and heartbeats.
        """


class Listener(ABC):
    """A bound endpoint that accepts nobody yet."""

    @property
    @abstractmethod
    def endpoint(self) -> str:
        """The URL to connect to, with the real port. Known before serving."""

    @abstractmethod
    async def serve(
        self,
        accept: Acceptor,
        *,
        handler_nursery: trio.Nursery,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept until cancelled; does not return.

        Args:
            accept: Makes links.
            handler_nursery: Gets the tasks of the connections. Cancelling `serve` stops
                accepting only; the owner of this nursery ends the connections. No exception of a
                connection may leave its task.
            task_status: Started once accepting.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Unbind. Connections that were accepted stay. Idempotent."""


class Channel(ABC):
    """A client's end of a connection: frames in both directions.

    One task may send while another receives. Raises trio's four: `trio.ClosedResourceError`,
    `trio.BrokenResourceError`, `trio.EndOfChannel` (from `receive`), `trio.BusyResourceError`.
    """

    @abstractmethod
    async def send(self, payload: bytes) -> None:
        """Send one frame. If it is cancelled half-way, the channel is broken."""

    @abstractmethod
    async def receive(self) -> bytes:
        """Wait for the next frame."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close, with a goodbye where the transport has one; bounded to 1 s, and never fails."""


@attrs.frozen(kw_only=True)
class TlsFiles:
    """A server's certificate chain and key, as PEM files."""

    certificate: str
    key: str


@attrs.frozen(kw_only=True)
class ListenOptions:
    """What a listener needs beside its URL.

    Attributes:
        settings: The server's limits.
        tls: Files, or an ``ssl.SSLContext``; needed by ``wss`` and ``tcps``.
        allow_origins: Origins that a browser may connect from, beside the listener's own;
            ``"*"`` allows all.
        allow_hosts: Host names that a request may name, beside the listener's own address.
        socket: One that is bound already, as by `Transport.open_sockets`; None binds.
    """

    settings: Settings
    tls: TlsFiles | Any = None
    allow_origins: Collection[str] = ()
    allow_hosts: Collection[str] = ()
    socket: Any = None


@attrs.frozen(kw_only=True)
class ConnectOptions:
    """What a client's channel needs beside its URL.

    Attributes:
        connect_seconds: For the whole handshake.
        max_frame_bytes: The largest frame that is accepted from the server.
        credential: Sent as a header by transports that have headers.
        tls: A file of CA certificates, or an ``ssl.SSLContext``; None trusts the system's.
    """

    connect_seconds: float = 10.0
    max_frame_bytes: int = 4 * 1024 * 1024
    credential: Credential | None = None
    tls: str | Any = None


class Transport(ABC):
    """One way for frames to travel.

    Found by URL scheme, through the ``trialogue.transports`` entry points; the object named
    there is an instance.
    """

    schemes: Sequence[str] = ()

    def check_url(self, url: str) -> None:  # noqa: B027 - one that knows no better finds out later
        """Check the form of a URL to listen on, before anything is begun.

        Raises:
            SettingsError: It has another.
        """

    def open_sockets(self, url: str, count: int) -> AbstractAsyncContextManager[Sequence[Any]]:
        """Bind one address for several processes, as long as the block lasts.

        Gives each the socket that it listens on, as `ListenOptions.socket`; it may be one for all.
        Nobody is accepted before one of them listens.

        Raises:
            SettingsError: It is wrong, or such an address is one process's.
            OSError: The address cannot be bound.
        """
        raise SettingsError(f"{url}: only one process can listen there")

    @abstractmethod
    async def open_listener(self, url: str, options: ListenOptions) -> Listener:
        """Bind. Nobody is accepted yet, but the endpoint is known.

        Raises:
            SettingsError: The URL or the TLS files are wrong.
            OSError: The address cannot be bound.
        """

    @abstractmethod
    def open_channel(
        self, url: str, options: ConnectOptions
    ) -> AbstractAsyncContextManager[Channel]:
        """Connect: ``async with transport.open_channel(url, options) as channel``.

        Raises:
            OSError, trio.BrokenResourceError, trio.TooSlowError: Nobody there, or no handshake.
            UnauthorizedError: The server refused the credential in the handshake.
        """


class Authenticator(Protocol):
    """Says who a credential names. Any async function of this shape will do.

    One that has a method ``lifespan()``, which gives an async context manager, is held by it as
    long as the server runs.
    """

    @abstractmethod
    async def __call__(self, credential: Credential, peer: PeerInfo, /) -> str | Identity:
        """Return the principal, who may do everything then, or an `Identity`.

        Raises:
            UnauthorizedError: Unknown, wrong, expired: the same message for all of them.
        """


# -- being watched ---------------------------------------------------------------------------


SpanKind: TypeAlias = Literal["request", "turn", "tool", "model"]


class Tracer(ABC):
    """Is told what the server does, one span inside of another. Nothing of it may raise or wait."""

    @abstractmethod
    def start(
        self,
        kind: SpanKind,
        name: str,
        attributes: Mapping[str, Any],
        *,
        traceparent: str | None = None,
        tracestate: str | None = None,
    ) -> Span:
        """Tell of something that begins now.

        Args:
            kind: A request, a turn, a call of a tool or of a model.
            name: Of the method, the agent, the tool or the model.
            attributes: By wire names, such as ``sessionId``; never what was said.
            traceparent: As the peer sent it (W3C), whatever that is: what it belongs to.
            tracestate: Likewise: what other tracers have noted with that.
        """


class Span(ABC):
    """Something that a `Tracer` was told of, and that has not ended."""

    @abstractmethod
    def start(self, kind: SpanKind, name: str, attributes: Mapping[str, Any]) -> Span:
        """Tell of something that begins now and belongs to this; see `Tracer.start`.

        This may have ended before, as a request has whose turn begins.
        """

    @abstractmethod
    def activate(self) -> AbstractContextManager[object]:
        """Have what others tell of from within a block, and its tasks, belong to this."""

    @abstractmethod
    def end(self, error: str | None = None, attributes: Mapping[str, Any] | None = None) -> None:
        """Tell of its end, once.

        Args:
            error: A code of PROTOCOL §10, or what else has gone wrong; None if nothing has.
            attributes: Of what is known now.
        """


# -- stores ----------------------------------------------------------------------------------


#: Told that something is durable, or why it is not.
Done: TypeAlias = Callable[[Exception | None], None]


class SessionLog(ABC):
    """The right to write one session's log, in one term. From `SessionStore.create` or ``open``.

    It has one user, the session's journal, which never calls it twice at a time.
    """

    #: The term that this right was given in. 1 for a session that was created.
    term: int
    #: The store asks for a snapshot: opening this log has become slow.
    wants_snapshot: bool = False

    def append_soon(self, batch: Sequence[Entry], summary: Summary, done: Done) -> bool:
        """As `append`, without a task that waits for it. No cancel takes it back.

        A store need not have it: `append` is called then, from a task made for that.

        Args:
            batch: As with `append`.
            summary: As with `append`.
            done: Called once, within this call or later on the event loop: with None when the
                batch is durable, or with why it is not.

        Returns:
            False if it did nothing, and never calls ``done``.

        Raises:
            FencedError, StoreError: As `append`, if that is known at once; ``done`` is not called.
        """
        return False

    def note(self, note: Note) -> None:  # noqa: B027 - a store that forgets has nothing to do
        """Keep something that is no event: synchronous, and nobody waits for it.

        It is written behind what was appended before, within 100 ms, with the next sync. A store
        that forgets anyway does nothing. After a failure it does nothing either.
        """

    @abstractmethod
    async def append(self, batch: Sequence[Entry], summary: Summary) -> None:
        """Return when all of the batch is durable under the store's policy.

        Args:
            batch: Consecutive entries, the first following the last one appended.
            summary: Of the session as it is after the batch.

        Raises:
            FencedError: Another process has taken the session. Nothing of the batch was written.
            CreatedError: The batch creates a session under a key that has created another one
                already, by another process. Nothing of it was written.
            StoreError: The store failed; what of the batch is written shows when it is read.
        """


class SessionStore(ABC):
    """Where sessions live. All but `create` and `open` need no ownership and write nothing.

    Whatever needs what a store is on may raise `UnavailableError` while that cannot be reached, and
    an append may fail with it: it is told as `OverloadedError`, and is no bug (PROTOCOL §10).
    """

    #: Whether sessions outlive the process. If not, idle sessions expire by default.
    durable: bool = True
    #: Through which the servers that share it reach each other; None where only one may have it.
    cluster: Cluster | None = None

    @abstractmethod
    def create(self, session_id: str) -> SessionLog:
        """Give the log of a new session, in term 1. No I/O: the first append makes it exist."""

    @abstractmethod
    async def open(self, session_id: str) -> SessionLog:
        """Take the session for this process: a new term, unless this process has it already.

        Raises:
            SessionNotFoundError: There is none.
            StoreError: It cannot be written.
        """

    @abstractmethod
    async def read(self, session_id: str, after: int, limit: int) -> Sequence[Entry]:
        """Read up to ``limit`` entries whose seq is greater than ``after``, in order.

        Fewer than there are may come, none only at the end.

        Raises:
            SessionNotFoundError: There is none.
            DamagedError: What comes next is damaged. All before it was or can be read.
        """

    async def recall(self, session_id: str) -> Recollection:
        """Give the newest snapshot and the partial texts after it.

        Raises:
            SessionNotFoundError: There is none.
        """
        from .log import Recollection

        await trio.lowlevel.checkpoint()
        return Recollection()

    async def find_created(self, owner: str | None, key: str) -> str | None:
        """Find the session that a principal created under an idempotency key, if it is known."""
        await trio.lowlevel.checkpoint()
        return None

    def check_writable(self) -> None:  # noqa: B027 - most stores have nothing to check
        """Refuse new work if it could not be written.

        Raises:
            OverloadedError: The disk is nearly full. What is under way may still be written.
        """

    def statistics(self) -> Mapping[str, Any]:
        """Give counters for ``server.stats``, by their wire names."""
        return {}

    @property
    def failure(self) -> str | None:
        """Why nothing is written any more, as after a failed sync; None while all is well."""
        return None

    @property
    def damaged(self) -> Mapping[str, Damage]:
        """The sessions known to be read-only since something of them is damaged, and what is.

        A store beside or around another one passes on what that says.
        """
        return {}

    async def list_ids(self) -> Sequence[str]:
        """Name all sessions, whoever owns them, in no order: for copying a store.

        Raises:
            StoreError: This store cannot.
        """
        await trio.lowlevel.checkpoint()
        raise StoreError("this store cannot name all of its sessions")

    async def list_open_work(self) -> Sequence[str]:
        """Name the sessions that have a running turn or queued inputs, without reading them.

        Without those that another process has which is alive, where a store can tell.
        """
        await trio.lowlevel.checkpoint()
        return ()

    @abstractmethod
    async def summary(self, session_id: str) -> Summary | None:
        """Say what is known of a session, None if there is none."""

    @abstractmethod
    async def list(
        self,
        *,
        owner: str | None = None,
        status: SessionStatus | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> SummaryPage:
        """List sessions, newest activity first.

        Args:
            owner: Only this principal's; None lists those without an owner.
            status: Only those in this state.
            limit: Of one page.
            cursor: From the page before.

        Raises:
            InvalidRequestError: The cursor is not one of ours.
        """

    @abstractmethod
    async def delete(self, session_id: str) -> bool:
        """Remove a session for good. Returns False if there was none."""

    @abstractmethod
    async def prune(
        self,
        *,
        keep: int | None = None,
        older_seconds: float | None = None,
        keep_bytes: int | None = None,
        protect: Collection[str] = (),
    ) -> Sequence[str]:
        """Delete sessions, those of oldest activity first, until each limit that is given holds.

        Args:
            keep: How many may stay.
            older_seconds: Those whose last activity is longer ago go.
            keep_bytes: How large their logs may be together.
            protect: Ids that are in use, and stay in any case.

        Returns:
            The ids of what was deleted.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Flush and let go. Idempotent."""
