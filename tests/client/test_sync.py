"""The synchronous client, as a script uses it: no Trio in sight. Real sockets, real threads."""

from __future__ import annotations

import queue
import signal
import socket
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest
import trio

import trialogue
from trialogue import connect_sync
from trialogue.client import DoneChunk, Event, TextChunk
from trialogue.core.abc import Agent, Turn
from trialogue.core.errors import (
    ConnectionLostError,
    SessionClosedError,
    SessionNotFoundError,
)
from trialogue.core.events import TurnEnded


async def agent(turn: Turn) -> None:
    """Repeat what was said, word by word; ``wait`` waits."""
    if turn.input.content == "wait":
        await trio.sleep_forever()
    for word in turn.input.content.split():
        await turn.write(word + " ")
        await trio.sleep(0.001)


@contextmanager
def serving(agent: Agent) -> Generator[str]:
    """Run a server in a thread of its own."""
    urls: queue.SimpleQueue[tuple[str, trio.Event, trio.lowlevel.TrioToken]] = queue.SimpleQueue()

    async def serve() -> None:
        async with trialogue.open_server(agent, transports=["tcp://127.0.0.1:0"]) as server:
            stop = trio.Event()
            urls.put((server.endpoints[0], stop, trio.lowlevel.current_trio_token()))
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    url, stop, token = urls.get(timeout=30)
    try:
        yield url
    finally:
        token.run_sync_soon(stop.set)
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(agent) as url:
        yield url


def test_a_script(url: str) -> None:
    with connect_sync(url, name="script") as client:
        assert client.state == "connected"
        assert client.url == url
        assert client.server_info.version == trialogue.__version__
        assert client.principal == "anonymous"
        assert client.limits == client.hello.limits
        session = client.create_session(name="first")
        reply = client.send_message(session.id, "hello you")
        assert reply.message is not None
        assert reply.message.content == "hello you "
        text = ""
        for chunk in client.stream_message(session.id, "one two three"):
            match chunk:
                case TextChunk():
                    text += chunk.text
                case DoneChunk():
                    assert chunk.outcome == "completed"
                case _:
                    pytest.fail(f"{chunk}")
        assert text == "one two three "
        assert session.id in [each.id for each in client.iter_sessions()]
        events = list(client.iter_events(session.id, page_size=3))
        assert events[0].type == "session.created"
        assert client.find_session("ses_unknown") is None
        assert client.ping() >= 0
    assert client.state == "disconnected"


def test_events_and_their_end(url: str) -> None:
    with connect_sync(url) as client:
        session = client.create_session()
        with client.events(session.id, after="0-0") as events:
            client.send_message(session.id, "hello")
            for event in events:
                if isinstance(event.body, TurnEnded):
                    break
            client.close_session(session.id)
            assert [event.type for event in events] == ["session.closed"]
        assert list(events) == []
        with pytest.raises(ValueError, match="closed"):
            events.open()


def test_listening_and_all_events(url: str) -> None:
    heard: list[Event] = []
    with connect_sync(url) as client, client.listening(heard.append):
        session = client.create_session()
        with client.all_events() as events:
            client.subscribe(session.id)
            client.send_message(session.id, "hello")
            for event in events:
                if event.type == "turn.ended":
                    break
            client.unsubscribe(session.id)
    assert [event.type for event in heard if event.is_durable][-1] == "turn.ended"


def test_errors_are_the_same(url: str) -> None:
    with connect_sync(url) as client:
        session = client.create_session()
        with pytest.raises(SessionNotFoundError):
            client.get_session("ses_unknown")
        with pytest.raises(SessionNotFoundError):
            next(client.events("ses_unknown"))
        client.close_session(session.id)
        with pytest.raises(SessionClosedError):
            list(client.stream_message(session.id, "too late"))


def test_nobody_there() -> None:
    with pytest.raises(OSError, match=r"127\.0\.0\.1"), connect_sync("tcp://127.0.0.1:1"):
        pass


def test_what_the_block_raises_comes_out_as_it_was(url: str) -> None:
    with pytest.raises(ZeroDivisionError), connect_sync(url):
        raise ZeroDivisionError


def test_after_the_block_calls_say_so(url: str) -> None:
    with connect_sync(url) as client:
        session = client.create_session()
        stream = client.events(session.id)
        stream.open()
    with pytest.raises(ConnectionLostError):
        client.health()
    with pytest.raises(ConnectionLostError):
        next(stream)


def test_several_threads_may_use_one_client(url: str) -> None:
    replies: list[str] = []

    def talk(n: int) -> None:
        session = client.create_session()
        reply = client.send_message(session.id, f"I am {n}")
        assert reply.message is not None
        replies.append(reply.message.content)

    with connect_sync(url) as client:
        threads = [threading.Thread(target=talk, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert sorted(replies) == [f"I am {n} " for n in range(8)]


def test_a_stream_that_is_left_early_is_closed(url: str) -> None:
    with connect_sync(url) as client:
        session = client.create_session()
        with client.stream_message(session.id, "one two three", cancel_on_exit=True) as chunks:
            next(chunks)
        client.cancel_turn(session.id)
        assert client.stats()["subscriptions"] == 0


def test_ctrl_c_cancels_the_call_on_the_server(url: str) -> None:
    """As cancelling its scope would; and the client goes on."""
    with default_interrupts(), connect_sync(url) as client:
        session = client.create_session()
        interrupt_soon()
        with pytest.raises(KeyboardInterrupt):
            client.send_message(session.id, "wait")
        with client.events(session.id, after="0-0") as events:
            ended = next(e.body for e in events if isinstance(e.body, TurnEnded))
        assert ended.outcome == "cancelled"


def test_ctrl_c_that_is_caught_loses_nothing_of_a_stream(url: str) -> None:
    """A bug once seen: what had been taken when it came was dropped."""
    words = "".join(f"w{number} " for number in range(400))
    interrupts = 0
    main = threading.get_ident()
    for _ in range(5):
        text = ""
        read = threading.Event()

        def pest(read: threading.Event = read) -> None:
            while not read.wait(0.01):
                signal.pthread_kill(main, signal.SIGINT)

        thread = threading.Thread(target=pest)
        with default_interrupts(), connect_sync(url) as client:
            stream = client.stream_message(client.create_session().id, words)
            stream.open()
            # They come while the stream is read, and at no other time: not to the test's runner.
            with quiet_interrupts():
                thread.start()
                try:
                    while not read.is_set():
                        try:
                            with loud_interrupts():
                                for chunk in stream:
                                    # One between the two is not the client's to keep.
                                    with quiet_interrupts():
                                        if isinstance(chunk, TextChunk):
                                            text += chunk.text
                            read.set()
                        except KeyboardInterrupt:
                            interrupts += 1
                finally:
                    read.set()
                    thread.join()
                    while signal.SIGINT in signal.sigpending():
                        signal.sigwait([signal.SIGINT])
        assert text == words
    assert interrupts > 20


@contextmanager
def quiet_interrupts() -> Generator[None]:
    """Hold SIGINT back."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


@contextmanager
def loud_interrupts() -> Generator[None]:
    """Let SIGINT come where it is held back."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def test_threads_may_share_a_stream(url: str) -> None:
    """A bug once seen: the second that opened it met an AttributeError."""
    words = "".join(f"w{number} " for number in range(50))
    chunks: queue.SimpleQueue[str | BaseException] = queue.SimpleQueue()
    with connect_sync(url) as client:
        stream = client.stream_message(client.create_session().id, words)
        start = threading.Barrier(3)

        def read() -> None:
            start.wait()
            try:
                for chunk in stream:
                    if isinstance(chunk, TextChunk):
                        chunks.put(chunk.text)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is shown
                chunks.put(exc)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    got = [chunks.get() for _ in range(chunks.qsize())]
    assert all(isinstance(text, str) for text in got), got
    assert sorted("".join(map(str, got)).split()) == sorted(words.split())


def test_stream_that_could_not_be_opened_says_so_again(url: str) -> None:
    """A bug once seen: the second attempt was an AttributeError."""
    with connect_sync(url) as client:
        stream = client.stream_message("ses_unknown", "hello")
        with pytest.raises(SessionNotFoundError):
            next(stream)
        with pytest.raises(ValueError, match="could not be opened"):
            next(stream)


def test_ctrl_c_while_connecting_ends_the_attempt() -> None:
    """Not after its ten seconds, and with no thread left."""
    with socket.create_server(("127.0.0.1", 0)) as deaf, default_interrupts():
        interrupt_soon()
        started = time.monotonic()
        with (
            pytest.raises(KeyboardInterrupt),
            connect_sync(f"tcp://127.0.0.1:{deaf.getsockname()[1]}"),
        ):
            pass
        assert time.monotonic() - started < 9


@contextmanager
def default_interrupts() -> Generator[None]:
    """Have SIGINT do what it does in a script."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt_soon() -> None:
    """Press Ctrl-C in a moment."""
    main = threading.main_thread().ident
    assert main == threading.get_ident()
    threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()


async def test_inside_of_trio_it_refuses(url: str) -> None:
    """It would block everything else."""
    with connect_sync(url) as client, pytest.raises(RuntimeError):
        client.health()
