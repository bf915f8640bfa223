"""``trialogue serve``: a server for agents, on any number of transports."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Annotated, Any

import attrs
import trio

from ..agents import resolve_agents
from ..core import Server, Settings, open_server
from ..core._arguments import check_authenticator, check_reach, is_encrypted, is_local
from ..core._nursery import give_up_when
from ..core.abc import Agent, Authenticator, SessionStore, TlsFiles, Tracer
from ..core.errors import SettingsError
from ..core.plugins import find_transport, load_object
from ._auth import check_auth, complete_auth, find_authenticator
from ._command import Argv, Environ, given_flags, option, takes_flags
from ._exits import EXIT_FAILED, EXIT_OK, EXIT_USAGE, CommandError
from ._logging import set_up_logging
from ._mcp import find_takers, open_mcp_tools
from ._options import Setting, find_unknown_variables, load_options, write_config
from ._place import Place, find_place
from ._settings import OTHER_VARIABLES, SERVE_OPTIONS, make_settings, make_store_settings
from ._signals import StopSignals, catch_stop_signals
from ._stores import StoreUnavailableError, complete_store, find_store, is_shareable
from ._values import mask_url
from ._watching import find_metrics, find_tracer, open_metrics

__all__ = ["serve"]

log = logging.getLogger("trialogue.serve")


@takes_flags(SERVE_OPTIONS)
def serve(
    *agent: Annotated[
        str,
        option(
            "A built-in agent (demo, echo, script:FILE), a model (openai:MODEL, anthropic:MODEL, "
            "local:PATH) or module:function, perhaps with a name to ask for it: "
            "bot=mybot:agent. The first is the default. [demo]",
            metavar="[NAME=]AGENT",
        ),
    ],
    config: Annotated[
        str | None,
        option("A TOML file with settings by these names: drain_seconds = 20.", metavar="FILE"),
    ] = None,
    print_config: Annotated[
        bool, option("Print each setting and where it was set, and end. It is a TOML file.")
    ] = False,
    flags: object = None,
    environ: Environ,
    argv: Argv,
) -> int:
    """Serve agents to any number of clients.

    Once every listener is bound, it prints one line each: "listening ws://127.0.0.1:8765".

    A setting is taken from its flag, or else from its variable (TRIALOGUE_DRAIN_SECONDS for
    --drain-seconds), or else from the file (drain_seconds).

    SIGINT or SIGTERM drains: clients are told, nothing new is begun, and turns may go on for the
    drain time, then they are interrupted. A second signal interrupts them at once, and ends by
    force what is not over by itself in 0.15 s. That loses nothing that was acknowledged.

    Sessions outlive the server, in a folder of JSON Lines unless told otherwise.

    With --workers several processes serve, which this one starts, watches and ends.

    Exit codes: 0 drained; 130 or 143 ended by a second SIGINT or SIGTERM; 1 failed, or the engine of
    the store is away; 2 a setting is wrong, or an address or the store cannot be used.
    """
    said = {"agent": agent, **given_flags(flags)}
    if config is None:
        config = environ.get("TRIALOGUE_CONFIG") or None
    elif not config:
        raise SettingsError("--config: names no file")
    settings = load_options(SERVE_OPTIONS, flags=said, environ=environ, config=config)
    store = settings["store"]
    settings["store"] = attrs.evolve(store, value=complete_store(store.value, environ))
    auth = settings["auth"]
    settings["auth"] = attrs.evolve(auth, value=complete_auth(auth.value, environ))
    unknown = [
        f"{name} is no setting" + (f"; did you mean {meant}?" if meant else "")
        for name, meant in find_unknown_variables(environ, SERVE_OPTIONS, OTHER_VARIABLES).items()
    ]
    if print_config:
        _check_together(settings)
        print(write_config(settings.values()))
        for notice in unknown:
            print(f"trialogue serve: {notice}", file=sys.stderr)
        return EXIT_OK
    place = find_place(environ)
    if settings["workers"].value > 1 and place is None:
        return _serve_with_workers(settings, argv, environ, unknown)
    with catch_stop_signals() as signals:
        if place is not None:
            place.follow(signals)
        plan = _plan(settings, environ, place)
        number = None if place is None else place.number
        set_up_logging(settings["log"].value, settings["log_level"].value, worker=number)
        if place is None:
            for notice in unknown:
                log.warning("%s", notice)
        if settings["mcp"].value and not find_takers(plan.agents):
            log.warning("none of the agents takes tools: the MCP servers are not started")
        try:
            return trio.run(_run, plan, signals)
        except StoreUnavailableError as exc:
            error = settings["store"].error(str(exc))
            if exc.is_away:
                raise CommandError(str(error), EXIT_FAILED) from exc
            raise error from exc
        except OSError as exc:
            # Its text begins with the URL.
            raise CommandError(exc.strerror or str(exc), EXIT_USAGE) from exc


def _serve_with_workers(
    settings: Mapping[str, Setting],
    argv: Sequence[str],
    environ: Mapping[str, str],
    notices: Sequence[str],
) -> int:
    """Have others serve. What they serve is found by them, this process needs nothing of it."""
    from ._workers import FORCE_WORKERS_SECONDS, run_workers  # here, since most servers have none

    _check_together(settings)
    with catch_stop_signals(FORCE_WORKERS_SECONDS) as signals:
        set_up_logging(settings["log"].value, settings["log_level"].value)
        for notice in notices:
            log.warning("%s", notice)
        run = partial(
            run_workers, arguments=argv, environ=environ, signals=signals, tell=_print_endpoints
        )
        try:
            return trio.run(run, settings["workers"].value, settings["transport"].value)
        except SettingsError as exc:
            raise settings["transport"].error(str(exc)) from exc
        except OSError as exc:
            raise CommandError(exc.strerror or str(exc), EXIT_USAGE) from exc


@attrs.frozen(kw_only=True)
class _Plan:
    """What was asked for, found and checked as far as can be without binding."""

    agents: Mapping[str, Agent]
    transports: tuple[str, ...]
    settings: Settings
    store: AbstractAsyncContextManager[SessionStore]
    authenticate: Authenticator | None
    tls: TlsFiles | None
    allow_origins: tuple[str, ...]
    allow_hosts: tuple[str, ...]
    tools: AbstractAsyncContextManager[None]
    tracing: AbstractAsyncContextManager[Tracer | None]
    metrics: str | None
    place: Place | None


def _plan(
    settings: Mapping[str, Setting], environ: Mapping[str, str], place: Place | None
) -> _Plan:
    """Find what the settings name.

    Raises:
        SettingsError: Something does not exist, or may not be together.
    """
    tls = _tls_files(settings["tls_cert"], settings["tls_key"])
    limits = _check_together(settings)
    authenticate = _named(settings["authenticate"], _find_authenticator)
    authenticate = authenticate or find_authenticator(settings)
    if tls is not None:
        _check_tls(tls, settings["tls_cert"], settings["tls_key"])
    agents: Mapping[str, Agent] = _named(settings["agent"], resolve_agents)
    return _Plan(
        agents=agents,
        transports=settings["transport"].value,
        settings=limits,
        store=_named(
            settings["store"],
            partial(
                find_store,
                settings=make_store_settings(settings),
                url=settings["advertise"].value,
            ),
        ),
        authenticate=authenticate,
        tls=tls,
        allow_origins=settings["allow_origin"].value,
        allow_hosts=settings["allow_host"].value,
        tools=open_mcp_tools(settings["mcp"].value, find_takers(agents), environ),
        tracing=_named(settings["traces"], find_tracer),
        metrics=_named(
            settings["metrics"],
            partial(
                find_metrics,
                asks=authenticate is not None,
                worker=None if place is None else place.number,
            ),
        ),
        place=place,
    )


def _named(setting: Setting, find: Any) -> Any:
    """Find what a setting names; an error says where it was set. None names nothing."""
    if setting.value is None:
        return None
    try:
        return find(setting.value)
    except SettingsError as exc:
        raise setting.error(str(exc)) from exc


def _find_authenticator(path: str) -> Authenticator:
    authenticate: Authenticator = load_object(path)
    check_authenticator(authenticate)
    return authenticate


def _tls_files(certificate: Setting, key: Setting) -> TlsFiles | None:
    for one, other in ((certificate, key), (key, certificate)):
        if one.value is not None and other.value is None:
            raise one.error(f"{other.option.name} is missing: a server needs both")
    for setting in (certificate, key):
        if setting.value is not None:
            _check_readable(setting)
    if certificate.value is None:
        return None
    return TlsFiles(certificate=certificate.value, key=key.value)


def _check_readable(setting: Setting) -> None:
    try:
        with open(setting.value, "rb"):
            pass
    except OSError as exc:
        raise setting.error(f"{setting.value}: {exc.strerror}") from None


def _check_tls(files: TlsFiles, certificate: Setting, key: Setting) -> None:
    from ..transports._tls import server_context  # here, since most servers have none

    try:
        server_context(files, "")
    except SettingsError as exc:
        # It says which of the files.
        raise certificate.error(f"{certificate.option.name}, {key.option.name}: {exc}") from exc


def _check_together(settings: Mapping[str, Setting]) -> Settings:
    """Refuse what no server could be made of, without looking at files or importing an agent."""
    check_auth(settings)
    _check_transports(settings)
    _check_advertised(settings["advertise"], settings["store"].value)
    if settings["workers"].value > 1:
        _check_workers(settings)
    return make_settings(settings)


def _check_advertised(setting: Setting, store: str) -> None:
    """Refuse a URL that no client could come to, or that nobody would be told."""
    if setting.value is None:
        return
    try:
        find_transport(setting.value).check_url(setting.value)
    except SettingsError as exc:
        raise setting.error(str(exc)) from None
    if not is_shareable(store):
        raise setting.error(f"it is for servers that share a store, as redis://…; not {store}")


def _check_transports(settings: Mapping[str, Setting]) -> None:
    """Refuse addresses that nothing knows, or that would let strangers in."""
    transports = settings["transport"]
    encrypts = settings["tls_cert"].value is not None
    asks = settings["authenticate"].value is not None or bool(settings["auth"].value)
    for url in transports.value:
        try:
            find_transport(url).check_url(url)
        except SettingsError as exc:
            raise transports.error(str(exc)) from None
        if is_encrypted(url) and not encrypts:
            raise transports.error(f"{url} needs tls_cert and tls_key")
        if settings["insecure"].value:
            continue
        try:
            check_reach(url, asks=asks)
        except SettingsError as exc:
            hint = "listen on 127.0.0.1, or say --insecure"
            flag = "" if asks else " (--auth)"
            raise transports.error(f"{exc}{flag}; {hint}") from None


def _check_workers(settings: Mapping[str, Setting]) -> None:
    """Refuse what several processes cannot have together."""
    store, metrics = settings["store"], settings["metrics"]
    if not is_shareable(store.value):
        raise store.error(
            f"{mask_url(store.value)} is one process's, and there are to be "
            f"{settings['workers'].value} workers: they need redis://HOST:PORT/0 or the like"
        )
    if metrics.value == "on":
        raise metrics.error(
            "at an address that workers share a scrape would see one of them: HOST:PORT gives each "
            "a port of its own, from PORT on"
        )


async def _run(plan: _Plan, signals: StopSignals) -> int:
    code = EXIT_OK
    # A start may take long, of an MCP server say: who does not want it need not wait for it.
    async with give_up_when(partial(signals.wait, 1), "stopped while it started") as (
        starting,
        started,
    ):
        code = await _serve(plan, signals, started)
    if starting.cancelled_caught:
        log.info("got %s before it served: stopped", signals.received[0].name)
    return code


async def _serve(plan: _Plan, signals: StopSignals, started: Callable[[], object]) -> int:
    async with (
        plan.tools,
        plan.tracing as tracer,
        open_server(
            plan.agents,
            transports=plan.transports,
            settings=plan.settings,
            store=plan.store,
            authenticate=plan.authenticate,
            tracer=tracer,
            tls=plan.tls,
            allow_origins=plan.allow_origins,
            allow_hosts=plan.allow_hosts,
            insecure=True,  # or _check_transports has refused it
            sockets=() if plan.place is None else plan.place.sockets,
        ) as server,
        open_metrics(plan.metrics, server, plan.allow_hosts),
    ):
        started()
        if plan.place is None:
            _print_endpoints(server.endpoints)
        else:
            plan.place.tell_ready(server.endpoints)
        server.probe_lag()
        # What is there now stays to the end: no collection looks at it again, which would be 50,000
        # objects and some 15 ms of silence each time. Of them 200 are garbage.
        gc.freeze()
        log.info(
            "serving %s; Ctrl-C drains, a second one ends at once",
            ", ".join(plan.agents),
            extra={"endpoints": " ".join(server.endpoints)},
        )
        for url in plan.transports:
            if not is_local(url):
                log.warning("reachable from other machines", extra={"transport": url})
        stopped_by = await signals.wait(1)
        log.info("got %s: draining", stopped_by.name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_when_insisted, signals, server, nursery.cancel_scope)
            await server.drain()
            nursery.cancel_scope.cancel(reason="drained")
    if len(signals.received) > 1:
        log.warning("got %s: ended at once", signals.received[-1].name)
        return signals.exit_code
    log.info("drained")
    return EXIT_OK


async def _end_when_insisted(
    signals: StopSignals, server: Server, draining: trio.CancelScope
) -> None:
    await signals.wait(2)
    server.stop(at_once=True)
    draining.cancel(reason="a second signal")


def _print_endpoints(endpoints: Sequence[str]) -> None:
    """Say on standard output where a server listens."""
    for url in endpoints:
        print(f"listening {url}")
    sys.stdout.flush()
