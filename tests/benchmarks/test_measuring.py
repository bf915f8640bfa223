"""What the figures rest on: the system's accounting, and what is said about a round."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from trialogue.benchmarks._measure import Figure, Sample, Target, quantile
from trialogue.benchmarks._measure_targets import Options, open_ours
from trialogue.benchmarks._measure_work import FanOut, Requests, Streams
from trialogue.benchmarks._micro_counter import SOFTWARE_TASK_CLOCK, open_counter
from trialogue.benchmarks._process import cpu_seconds, open_process

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measured by /proc")

BURNING = """
import threading, time
def burn():
    while time.thread_time() < 0.2: pass
thread = threading.Thread(target=burn)
thread.start()
thread.join()
print("listening burnt", flush=True)
time.sleep(30)
"""


def test_cpu_time_of_threads_that_ended_counts() -> None:
    """A store's worker threads come and go."""
    with open_process([sys.executable, "-c", BURNING]) as process:
        assert process.endpoints == ["burnt"]
        assert process.cpu_seconds() > 0.2
        assert process.resident_bytes() > 1_000_000
        assert process.proportional_bytes() > 100_000
        pid = process.pid
    with pytest.raises(ProcessLookupError):
        cpu_seconds(pid)


def test_process_that_does_not_listen_is_an_error_that_says_why() -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such port')"]
    with pytest.raises(RuntimeError, match="no such port"), open_process(command):
        pass


def sample(server: float, client: float) -> Sample:
    return Sample(count=1000, server_seconds=server, client_seconds=client, wall_seconds=1)


def test_generator_is_named_as_the_bottleneck_only_if_it_is() -> None:
    assert sample(server=0.5, client=0.95).is_bound_by_client
    assert not sample(server=0.95, client=0.95).is_bound_by_client
    assert not sample(server=0.5, client=0.5).is_bound_by_client
    assert sample(server=0.5, client=0).microseconds == 500


@pytest.mark.parametrize(
    ("value", "verdict"), [(1.0, "aim"), (1.01, "must"), (2.0, "must"), (2.01, "missed")]
)
def test_target_is_met_up_to_its_edge(value: float, verdict: str) -> None:
    assert Figure(name="x", values=[0, value, 9], must=2, aim=1).verdict == verdict


def test_quantile_is_a_value_that_was_seen() -> None:
    assert quantile(range(1000), 0.99) == 990
    assert quantile([5.0], 0.999) == 5


def test_counter_counts_where_there_is_one() -> None:
    """Instructions need hardware; the call is the same for the clock, which any kernel has."""
    counter = open_counter(SOFTWARE_TASK_CLOCK)
    if counter is None:
        pytest.skip("this system lets nobody count")
    before = counter.read()
    sum(range(100_000))
    assert 100_000 < counter.read() - before < 1e9
    counter.close()


@pytest.fixture(scope="module")
def ours() -> Generator[Target]:
    with open_ours(Options()) as target:
        yield target


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["ws", "tcp"])
@pytest.mark.parametrize(("depth", "method"), [(1, "session.get"), (8, "_bench.get")])
def test_requests_are_counted(ours: Target, scheme: str, depth: int, method: str) -> None:
    work = Requests(ours, scheme=scheme, connections=4, depth=depth, rounds=5, method=method)
    assert work.run().count == 4 * depth * 5
    assert work.run().server_seconds > 0
    work.close()


@pytest.mark.slow
def test_refused_request_is_an_error_and_not_counted(ours: Target) -> None:
    """An error is quick to make: a server that refuses everything would be the fastest."""
    work = Requests(ours, scheme="ws", connections=1, depth=1, rounds=2, method="no.such")
    with pytest.raises(RuntimeError, match="METHOD_NOT_FOUND"):
        work.run()
    work.close()


@pytest.mark.slow
@pytest.mark.parametrize("manner", ["yield", "burst"])
def test_tokens_are_counted_and_not_frames(ours: Target, manner: str) -> None:
    """A server may join what an agent wrote; the peers send each by itself."""
    work = Streams(ours, connections=3, manner=manner, tokens=50, turns=2)
    done = work.run()
    assert done.count == 300
    if manner == "burst":
        assert done.notes["frames"] < 300
    work.close()


@pytest.mark.slow
def test_each_delivery_of_a_fan_out_is_counted(ours: Target) -> None:
    work = FanOut(ours, subscribers=5, events=10, manner="yield")
    count = work.run().count
    assert count % 5 == 0
    assert count >= 5 * 11
    work.close()
