"""The sending half of every connection: post, don't send.

`Outbox.post` appends and marks; the flusher calls `Outbox.flush` once a tick, which is one join
and one non-blocking send. What does not fit goes to a writer task that lives as long as the
connection is stuck. Nothing here knows sockets, or whether a connection has a task of its own.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from logging import getLogger
from typing import Any, Final, Protocol

import trio

from ..core._flusher import Flusher
from ..core._frame import Frame
from ..core._ids import new_id
from ..core.settings import Settings

__all__ = ["Framing", "Outbox", "Spawn", "frame_line"]

log: Final = getLogger("trialogue.transports")

#: What is joined for one send: worth a system call. A larger frame goes alone, since a copy of its
#: own for each of a thousand readers that are stuck would be their cost; the frame is shared.
CHUNK_BYTES: Final = 16 * 1024
#: Likewise what the flusher joins, which is sent before anybody is stuck.
FLUSH_BYTES: Final = 64 * 1024

_NOTHING: Final = memoryview(b"")

#: How a transport writes a frame. It keeps what it made in the frame's slot.
Framing = Callable[[Frame], bytes]


class Spawn(Protocol):
    """Starts a task that outlives the caller: a nursery's ``start_soon``."""

    def __call__(self, task: Callable[..., Awaitable[object]], /, *args: Any) -> object:
        """Start ``task(*args)``."""


def frame_line(frame: Frame) -> bytes:
    """Write a frame as one line."""
    line = frame.line
    if line is None:
        line = frame.line = frame.payload + b"\n"
    return line


class Outbox:
    """What one connection still has to send.

    Args:
        flusher: Calls `flush` after a post.
        settings: High-water mark, hard limit and write timeout.
        spawn: Starts the writer task; of a nursery that lives as long as the connection.
        framing: Makes bytes of a frame.
        try_send: Sends what it can at once and says how much, or raises BlockingIOError or
            another OSError.
        send_some: Waits until it could send a part, and says how much. Trio's exceptions.

    A subclass overrides `_ended`.
    """

    # Thousands of them are idle.
    __slots__ = (
        "_callbacks",
        "_dirty",
        "_finish_by",
        "_flusher",
        "_framing",
        "_hard",
        "_high",
        "_queue",
        "_scope",
        "_send_some",
        "_settled",
        "_spawn",
        "_timeout",
        "_try_send",
        "_writing",
        "closed",
        "ended",
        "killed",
        "outbound_bytes",
        "stuck",
    )

    def __init__(
        self,
        *,
        flusher: Flusher,
        settings: Settings,
        spawn: Spawn,
        framing: Framing,
        try_send: Callable[[bytes], int],
        send_some: Callable[[bytes | memoryview], Awaitable[int]],
    ) -> None:
        self._flusher = flusher
        self._spawn = spawn
        self._framing = framing
        self._try_send = try_send
        self._send_some = send_some
        self._high = settings.high_water_bytes
        self._hard = settings.stuck_bytes
        self._timeout = settings.write_timeout_seconds
        self._queue: list[bytes] = []
        #: Posted and not yet taken. No property, since it is asked at each post and request.
        self.outbound_bytes = 0
        self._dirty = False
        self._writing = False
        self._scope: trio.CancelScope | None = None
        self._finish_by = math.inf
        self._callbacks: list[Callable[[], None]] | None = None
        self._settled: trio.Event | None = None
        #: Takes no more posts.
        self.closed = False
        #: Over: everything was sent after `finish`, or it was killed.
        self.ended = False
        #: Over, and what was waiting is lost.
        self.killed = False
        #: Killed because the peer does not read: what the kernel holds is of no use either.
        self.stuck = False

    @property
    def is_congested(self) -> bool:
        """Whether the high-water mark is reached."""
        return self.outbound_bytes >= self._high

    def post(self, frame: Frame) -> None:
        """Put a frame behind those posted before. See `Connection.post`."""
        self.raw(self._framing(frame))

    def raw(self, data: bytes) -> None:
        """Put bytes that need no framing behind those posted before."""
        if self.closed:
            return
        if not self._dirty:
            # Judged once a tick: what is posted in one go was offered to nobody yet, and says
            # nothing of how the peer reads. The limits on requests in flight bound it.
            if self.outbound_bytes > self._hard:
                self.kill(stuck=True)
                return
            self._dirty = True
            self._flusher.mark_outbox(self)
        self._queue.append(data)
        self.outbound_bytes += len(data)

    def call_when_drained(self, callback: Callable[[], None]) -> None:
        """Call once when the outbox is below its mark. See `Connection.call_when_drained`."""
        if self.ended:
            return
        if self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)
        if self.outbound_bytes < self._high and not self._dirty:
            self._dirty = True
            self._flusher.mark_outbox(self)

    def flush(self) -> None:
        """Send what the operating system takes at once; leave the rest to the writer task."""
        self._dirty = False
        if self.ended:
            return
        if self._queue and not self._writing:
            rest = self._flush_now()
            if rest is None:
                return
            if rest:
                self._writing = True
                self._spawn(self._write, rest)
        if self._callbacks and self.outbound_bytes < self._high:
            self._call_back()
        if self._settled is not None or self.closed:
            self._settle()

    def _flush_now(self) -> memoryview | None:
        """Send without waiting.

        Returns:
            What is left of the chunk that did not go as a whole. None: the outbox has ended.
        """
        while self._queue:
            # As a rule one frame, an answer.
            chunk = self._take_chunk(FLUSH_BYTES) if len(self._queue) > 1 else self._queue.pop()
            try:
                sent = self._try_send(chunk)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.kill()
                return None
            self.outbound_bytes -= sent
            if sent < len(chunk):
                return memoryview(chunk)[sent:]
        return _NOTHING

    def finish(self) -> None:
        """Take no more posts; the outbox ends when all is sent, or after the write timeout."""
        if self.closed:
            return
        self.closed = True
        self._finish_by = trio.current_time() + self._timeout
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, self._finish_by)
        # The end comes with the flusher's next pass, never from within this call.
        if not self._dirty:
            self._dirty = True
            self._flusher.mark_outbox(self)

    def kill(self, *, stuck: bool = False) -> None:
        """End at once, and lose what waits. Idempotent."""
        if self.ended:
            return
        self.closed = self.ended = self.killed = True
        self.stuck = stuck
        self._queue.clear()
        self.outbound_bytes = 0
        self._callbacks = None
        if self._scope is not None:
            self._scope.cancel(reason="the connection is closed")
        self._settle()
        self._ended()

    async def wait_drained(self) -> None:
        """Wait until everything posted has been taken, or the outbox has ended."""
        if not self.ended:
            # Not left to the flusher, so that this works while it is being shut down too.
            self.flush()
        if self.ended or (not self._queue and not self._writing):
            await trio.lowlevel.checkpoint()
            return
        if self._settled is None:
            self._settled = trio.Event()
        await self._settled.wait()

    def _ended(self) -> None:
        """Called once, when the outbox has ended. Must not raise, nor call the link."""

    def _take_chunk(self, limit: int) -> bytes:
        """Take frames off the front of the queue: one, or as many as fit into so many bytes."""
        queue = self._queue
        number = size = 0
        for data in queue:
            size += len(data)
            if number and size > limit:
                break
            number += 1
        chunk = b"".join(queue[:number]) if number > 1 else queue[0]
        del queue[:number]
        return chunk

    def _settle(self) -> None:
        """If nothing is left to send, tell those who wait for that."""
        if self._queue or self._writing:
            if not self.ended:
                return
        elif self.closed and not self.ended:
            self.ended = True
            self._callbacks = None
            self._ended()
        if self._settled is not None:
            self._settled.set()
            self._settled = None

    def _call_back(self) -> None:
        # As many as there are now: one that asks again from within is called in the next pass.
        # And only while below the mark: the first to be called may fill the outbox, and the
        # others then come before it the next time.
        waiting = self._callbacks or []
        try:
            for _ in range(len(waiting)):
                if self.outbound_bytes >= self._high or self.ended:
                    break
                waiting.pop(0)()
        except Exception:
            # The flusher serves every connection: one cursor's bug ends one connection.
            log.exception(
                "a drained connection's callback failed", extra={"error_id": new_id("err")}
            )
            self.kill()

    async def _write(self, rest: memoryview) -> None:
        """Send what did not fit, and what is posted meanwhile. Ends when all is sent."""
        try:
            while not self.ended:
                if not rest:
                    if not self._queue:
                        break
                    rest = memoryview(self._take_chunk(CHUNK_BYTES))
                deadline = min(trio.current_time() + self._timeout, self._finish_by)
                sent = 0
                with trio.CancelScope(deadline=deadline) as self._scope:
                    sent = await self._send_some(rest)
                if not sent:
                    self.kill(stuck=True)
                if self.killed:
                    return
                self.outbound_bytes -= sent
                rest = rest[sent:]
                if self._callbacks and self.outbound_bytes < self._high:
                    self._call_back()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.kill()
        except BaseException:
            # Cut in the middle of a frame: nothing may follow it.
            self.kill()
            raise
        finally:
            self._writing = False
            self._scope = None
        self._settle()
