"""What Prometheus reads (docs/operations.md): every number of the server, with bounded labels."""

import shutil
import subprocess
from collections import Counter

import attrs
import pytest
import trio
from trio.testing import MockClock

from trialogue import Request
from trialogue.core._histogram import Histogram
from trialogue.core._stats import Stats
from trialogue.core.abc import Turn
from trialogue.core.errors import ERROR_CODES, WireError
from trialogue.core.models import TokenUsage
from trialogue.testing import open_test_server

from ._scraping import read, scrape


async def speak(turn: Turn) -> None:
    turn.report_usage(input_tokens=5, output_tokens=7, model='large "one"\\')
    await turn.write("one ")
    await trio.sleep(0.3)
    await turn.write("two")


async def test_scrape_gives_what_the_server_has_counted(autojump_clock: MockClock) -> None:
    async with open_test_server(speak) as test, test.open_peer() as peer:
        session = await test.client.create_session()
        await test.client.send_message(session.id, "hi")
        await peer.refused("SESSION_NOT_FOUND", "session.get", sessionId="ses_none")
        found = read(scrape(test.server))
    assert found["trialogue_connections", ()] == 2
    assert found["trialogue_ready", ()] == 1
    assert found["trialogue_turns_ended_total", (("outcome", "completed"),)] == 1
    requests = "trialogue_requests_total"
    assert found[requests, (("code", "OK"), ("method", "session.create"))] == 1
    assert found[requests, (("code", "OK"), ("method", "session.get"))] == 0
    assert found[requests, (("code", "SESSION_NOT_FOUND"), ("method", "session.get"))] == 1
    tokens = "trialogue_model_tokens_total"
    assert found[tokens, (("direction", "output"), ("model", 'large "one"\\'))] == 7
    times, method = "trialogue_request_seconds", ("method", "message.send")
    assert found[f"{times}_sum", (method,)] == pytest.approx(0.3)
    assert found[f"{times}_bucket", (("le", "0.25"), method)] == 0
    assert found[f"{times}_bucket", (("le", "0.5"), method)] == 1
    assert found[f"{times}_bucket", (("le", "+Inf"), method)] == 1
    assert found["trialogue_token_gap_seconds_count", ()] == 1
    assert found["process_cpu_seconds_total", ()] > 0


async def test_server_that_drains_is_not_ready(autojump_clock: MockClock) -> None:
    async with open_test_server(speak) as test:
        await test.server.drain(0)
        assert read(scrape(test.server))["trialogue_ready", ()] == 0


async def test_every_counter_of_the_server_is_there(autojump_clock: MockClock) -> None:
    """What is counted and not shown would be counted in vain: each number, changed, changes it."""
    async with open_test_server(speak) as test:
        stats = test.server.counters
        fields = [field.name for field in attrs.fields(Stats)]
        for number, name in enumerate(fields, 1001):
            match getattr(stats, name):
                case Histogram() as histogram:
                    histogram.observe(number)
                case Counter():
                    getattr(stats, name)["TIMEOUT"] = number
                case dict() if name == "methods":
                    stats.methods["message.send"].seconds.observe(number)
                case dict():
                    stats.count_tokens("large", TokenUsage(input_tokens=number))
                case _:
                    setattr(stats, name, number)
        shown = {value for key, value in read(scrape(test.server)).items() if "bucket" not in key}
    assert len(fields) > 20
    assert set(range(1001, 1001 + len(fields))) <= shown


async def test_labels_are_of_closed_sets(autojump_clock: MockClock) -> None:
    """Whatever peers ask for and methods of one's own raise: nobody adds series as he likes."""

    def fail(request: Request, params: dict[str, str]) -> None:
        class OwnError(WireError):
            code = params["code"]

        raise OwnError("as told")

    async with (
        open_test_server(speak, methods={"_fail": fail}) as test,
        test.open_peer() as peer,
    ):
        for number in range(3):
            await peer.refused("METHOD_NOT_FOUND", f"no.method.{number}")
            with pytest.raises(WireError, match="as told"):
                await test.client.call("_fail", {"code": f"CODE_{number}"})
        found = read(scrape(test.server))
        registered = {*test.server.registry.methods, "unknown"}
    for name, labels in found:
        if name.startswith("trialogue_"):
            known = dict(labels)
            assert known.get("method", "unknown") in registered
            assert known.get("code", "OK") in {*ERROR_CODES, "OK", "other"}
    requests = "trialogue_requests_total"
    assert found[requests, (("code", "other"), ("method", "_fail"))] == 3
    assert found["trialogue_errors_total", (("code", "other"),)] == 3


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool here")
async def test_promtool_finds_no_fault(autojump_clock: MockClock) -> None:
    """Names, units and help as Prometheus wants them; Debian has it in the package prometheus."""
    async with open_test_server(speak) as test:
        session = await test.client.create_session()
        await test.client.send_message(session.id, "hi")
        text = scrape(test.server)
    checked = subprocess.run(  # noqa: ASYNC221 - the server has ended
        ["promtool", "check", "metrics"],
        input=text,
        text=True,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
