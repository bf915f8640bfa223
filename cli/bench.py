"""``trialogue bench``: a server under load, anyone's or one of our own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal
from urllib.parse import urlsplit

import attrs
import trio

from ..benchmarks._load_settings import SCENARIOS, SCHEMES, LoadSettings, ScenarioName
from ..core.errors import SettingsError
from ._client_command import TOKEN_VARIABLE
from ._command import Environ, option
from ._exits import EXIT_FAILED, EXIT_OK, EXIT_UNREACHABLE, EXIT_USAGE, CommandError
from ._tables import open_status, print_table
from ._values import parse_rate, parse_seconds

if TYPE_CHECKING:
    from ..benchmarks._load_result import LoadResult

__all__ = ["bench"]

#: What the agent of our own server is told, unless something else is asked for.
_OWN_CHAT: Final = "speak 10 20"
_OWN_ECHO: Final = "burst 1"
#: What settings are called that have another name here.
_FLAGS: Final = {
    "duration_seconds": "--duration",
    "processes": "--processes",
    "rate": "--rate",
    "sessions": "--sessions",
}
#: Libraries of the extra.
_EXTRA: Final = frozenset({"hdrh", "plotly"})


def bench(
    url: Annotated[
        str | None,
        option("A server, such as ws://127.0.0.1:8765. Without one, one is started for it."),
    ] = None,
    /,
    *,
    scenario: Annotated[
        ScenarioName,
        option(
            "chat: turns that are streamed. echo: turns in one request. fanout: messages to all "
            "who follow one session. idle: reads now and then. reconnect-storm: chat, and all "
            "connections cut twice. slow-readers: chat, beside readers that fall behind. mixed: "
            "chat, echo, reads, reconnections, slow readers. [chat]"
        ),
    ] = "chat",
    sessions: Annotated[
        int, option("How many, each with a connection of its own. [100]", metavar="COUNT")
    ] = 100,
    rate: Annotated[
        str | None,
        option(
            "What is due a second, at random times, answered or not: 200 or 6000/60s. "
            "[100; fanout and idle 10]",
            metavar="RATE",
        ),
    ] = None,
    duration: Annotated[str, option("How long. [10s]", metavar="TIME")] = "10s",
    processes: Annotated[
        int, option("Processes that make the load together. [1]", metavar="COUNT")
    ] = 1,
    transport: Annotated[
        Literal["ws", "tcp", "unix", "http"] | None,
        option(
            "Of the server that is started; a URL says it itself. Over HTTP goes its WebSocket. [ws]"
        ),
    ] = None,
    agent: Annotated[
        str | None,
        option(
            "Of the server that is started: demo, echo, script:FILE or module:function. [one that "
            "gives 20 tokens, one every 10 ms]",
            metavar="AGENT",
        ),
    ] = None,
    store: Annotated[
        str | None,
        option("Of the server that is started: memory, jsonl:FOLDER … [memory]", metavar="STORE"),
    ] = None,
    message: Annotated[
        str | None, option("What is said to the agent each time.", metavar="TEXT")
    ] = None,
    max_failed: Annotated[
        float,
        option("How much of what is sent may fail, in percent. [1]", metavar="PERCENT"),
    ] = 1.0,
    json: Annotated[
        Path | None, option("Write all that was found, with its histograms.", metavar="FILE")
    ] = None,
    html: Annotated[
        Path | None,
        option("Write a page with plots, which needs no network to be seen.", metavar="FILE"),
    ] = None,
    seed: Annotated[int, option("Of what is random. [0]", metavar="NUMBER")] = 0,
    token: Annotated[
        str | None, option("The credential. Better put it into TRIALOGUE_TOKEN.", metavar="TOKEN")
    ] = None,
    tls_ca: Annotated[
        str | None,
        option("Trust this authority for wss, tcps and https, a PEM file.", metavar="FILE"),
    ] = None,
    environ: Environ,
) -> int:
    """Put a server under load, and say how it bears it.

    What is due does not wait for what was due before, and a latency counts from when its request
    was due: a server that stalls cannot hide it by being asked less.

    Every event's number and every piece's offset is checked: what is lost or comes twice is
    counted. Where the server runs on this machine, its CPU time and memory are read too. The
    sessions are deleted at the end.

    Ctrl-C ends it, with what was measured so far.

    Exit codes: 0 measured, and all came; 1 events were lost or came twice, connections did not come
    back, or more failed than --max-failed; 2 wrongly asked; 3 no connection; 130 or 143 stopped by
    SIGINT or SIGTERM.
    """
    own = url is None
    _check(url, transport, agent, store)
    for file in (json, html):
        if file is not None and not file.absolute().parent.is_dir():
            raise SettingsError(f"{file}: there is no such folder")
    if not 0 <= max_failed <= 100:
        raise SettingsError(f"--max-failed: {max_failed:g} is no percentage")
    if tls_ca is not None and not Path(tls_ca).is_file():
        raise SettingsError(f"--tls-ca: there is no file {tls_ca!r}")
    try:
        settings = LoadSettings(
            url=url or "",
            scenario=scenario,
            sessions=sessions,
            rate=SCENARIOS[scenario].rate if rate is None else _parse_rate(rate),
            duration_seconds=parse_seconds(duration),
            processes=processes,
            seed=seed,
            token=token or environ.get(TOKEN_VARIABLE) or None,
            tls_ca=tls_ca,
        )
        if message is not None:
            settings = attrs.evolve(settings, chat=message, echo=message)
        elif own and agent is None:
            settings = attrs.evolve(settings, chat=_OWN_CHAT, echo=_OWN_ECHO)
    except ValueError as exc:
        text = str(exc)
        for field, flag in _FLAGS.items():
            text = text.replace(f"'{field}'", flag)
        raise SettingsError(text) from None
    with _explained():
        if html is not None:
            import_module("plotly")  # rather now than after the load
        opening = _open_server(settings, transport, agent, store)
        result, code = trio.run(_run, settings, opening)
        if result is None:
            return code
        problems = result.problems(max_failed / 100)
        _print(result)
        try:
            if json is not None:
                _write_json(json, result, problems)
            if html is not None:
                _write_html(html, result, problems)
        except OSError as exc:
            raise CommandError(f"{exc.filename}: {exc.strerror}") from exc
    for line in (*problems, *result.notes()):
        print(f"{'FAILED' if line in problems else 'note'}: {line}")
    return code or (EXIT_FAILED if problems else EXIT_OK)


def _check(url: str | None, transport: str | None, agent: str | None, store: str | None) -> None:
    if url is None:
        return
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise SettingsError(f"{url}: a load is made over {', '.join(SCHEMES)}")
    if transport is not None and transport != scheme:
        raise SettingsError(f"--transport {transport}: {url} is another one")
    for name, value in (("agent", agent), ("store", store)):
        if value is not None:
            raise SettingsError(f"--{name} is for a server that is started: {url} has its own")


def _parse_rate(text: str) -> float:
    """Read a number a second, or a rate as elsewhere."""
    try:
        return float(text)
    except ValueError:
        limit = parse_rate(text)
    if limit is None:
        raise ValueError("rate: 'off' is none")
    return limit.max_requests / limit.window_seconds


@contextmanager
def _explained() -> Generator[None]:
    """Say what people can do something about."""
    try:
        yield
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] not in _EXTRA:
            raise
        raise CommandError(
            f"this needs {exc.name.partition('.')[0]!r}: pip install 'trialogue[bench]'", EXIT_USAGE
        ) from exc


def _open_server(
    settings: LoadSettings, transport: str | None, agent: str | None, store: str | None
) -> Callable[[], AbstractContextManager[tuple[str, list[int]]]]:
    from ..benchmarks._load_server import DEFAULT_AGENT, find_pids, open_own_server

    if settings.url:
        return lambda: nullcontext((settings.url, find_pids(settings.url)))
    return lambda: open_own_server(
        transport or "ws",
        agent=agent or DEFAULT_AGENT,
        store=store or "memory",
        sessions=settings.sessions,
    )


async def _run(
    settings: LoadSettings, open_server: Callable[[], AbstractContextManager[tuple[str, list[int]]]]
) -> tuple[LoadResult | None, int]:
    """Run it, until it is over or the first signal; the second one does not wait for it."""
    from ..benchmarks._load_report import describe_progress
    from ..benchmarks._load_run import LoadError, run_load

    stop = trio.Event()
    received: list[int] = []
    result: LoadResult | None = None
    failure: CommandError | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def heed() -> None:
                async for number in signals:
                    if received:
                        nursery.cancel_scope.cancel(reason="a second signal")
                        return
                    received.append(number)
                    stop.set()

            nursery.start_soon(heed)
            opening = open_server()
            try:
                url, pids = await trio.to_thread.run_sync(opening.__enter__)
                try:
                    with open_status() as show:
                        result = await run_load(
                            attrs.evolve(settings, url=url),
                            stop=stop,
                            pids=pids,
                            on_change=lambda found: show(describe_progress(found)),
                        )
                finally:
                    with trio.CancelScope(shield=True):  # bounded by `open_process`
                        await trio.to_thread.run_sync(opening.__exit__, None, None, None)
            except LoadError as exc:
                code = EXIT_UNREACHABLE if exc.is_unreachable else EXIT_FAILED
                failure = CommandError(str(exc), code)
            except RuntimeError as exc:
                failure = CommandError(str(exc))
            nursery.cancel_scope.cancel(reason="the load is over")
    if failure is not None:
        raise failure
    return result, 128 + received[0] if received else EXIT_OK


def _print(result: LoadResult) -> None:
    from ..benchmarks._load_report import TIME_COLUMNS, describe_counts, describe_times

    settings = result.settings
    print(
        f"{settings.scenario} at {settings.url}: {settings.sessions:,} sessions, "
        f"{settings.rate:g}/s for {result.seconds:g} s\n"
    )
    print_table(TIME_COLUMNS, describe_times(result), TIME_COLUMNS)
    print()
    columns = ("what", "how much", "")
    print_table(columns, describe_counts(result), columns)


def _write_json(path: Path, result: LoadResult, problems: Sequence[str]) -> None:
    from ..benchmarks._process import describe_machine, write_result

    write_result(path, "load", describe_machine(), result.to_json(problems))


def _write_html(path: Path, result: LoadResult, problems: Sequence[str]) -> None:
    from ..benchmarks._load_html import write_html

    write_html(path, result, problems)
