"""What docs/ gives to Grafana and Prometheus names metrics that there are (docs/operations.md)."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from trio.testing import MockClock

from trialogue.core.abc import Turn
from trialogue.core.models import TokenUsage
from trialogue.testing import open_test_server
from trialogue.testing.shared_store import SharedEngine

from ._scraping import read, scrape

DOCS: Final = Path(__file__).parents[2] / "docs"
DASHBOARD: Final = DOCS / "grafana-dashboard.json"
RULES: Final = DOCS / "prometheus-rules.yml"
METRIC: Final = re.compile(r"\b((?:trialogue|process)_\w+)(?:\{([^}]*)\})?")
#: Prometheus puts it on what it scrapes.
ADDED: Final = {"instance"}


def find_queries() -> Iterator[str]:
    """Give every query of the dashboard and of the alerts."""
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]
    yield from re.findall(r"^ +expr: (.*)$", RULES.read_text(), re.MULTILINE)


def find_named() -> Iterator[str]:
    """Give what docs/operations.md names."""
    yield from re.findall(r"`(trialogue_[^`]*)`", (DOCS / "operations.md").read_text())


@pytest.fixture
async def labels_of(autojump_clock: MockClock) -> dict[str, set[str]]:
    """Each metric that a server has which has done everything once, and its labels."""

    async def speak(turn: Turn) -> None:
        await turn.write("hello")

    store = SharedEngine().open_store("a")
    async with open_test_server(speak, store=store) as test, test.open_peer() as peer:
        session = await test.client.create_session()
        await test.client.send_message(session.id, "hi")
        await peer.refused("SESSION_NOT_FOUND", "session.get", sessionId="ses_none")
        test.server.counters.count_tokens("large", TokenUsage(input_tokens=1))
        found: dict[str, set[str]] = {}
        for name, labels in read(scrape(test.server)):
            told = {name for name, _ in labels}
            found.setdefault(name, set()).update(told)
            # A histogram as people name it.
            found.setdefault(name.removesuffix("_bucket"), set()).update(told - {"le"})
        return found


async def test_every_metric_that_is_asked_for_is_there(labels_of: dict[str, set[str]]) -> None:
    queries = [*find_queries(), *find_named()]
    asked = [found for query in queries for found in METRIC.findall(query)]
    assert len(queries) > 40
    for name, matchers in asked:
        assert name in labels_of, name
        labels = set(re.findall(r"(\w+)\s*[=!]~?", matchers))
        assert labels <= labels_of[name] | ADDED, (name, labels)


async def test_every_label_that_is_summed_by_is_there(labels_of: dict[str, set[str]]) -> None:
    """A typing error there gives one sum, and no error."""
    found = 0
    for query in find_queries():
        for labels in re.findall(r"by \(([^)]*)\)", query):
            (name, _), *_ = METRIC.findall(query)
            asked = {label.strip() for label in labels.split(",")}
            assert asked <= labels_of[name] | ADDED, query
            found += 1
    assert found > 10


def test_panels_do_not_lie_on_each_other() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place: Any = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert 0 <= x < 24
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len(set(numbers))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool here")
def test_promtool_can_read_every_query(tmp_path: Path) -> None:
    """Those of the dashboard as rules of their own; Grafana's variables filled in."""
    rules = ["groups:", " - name: dashboard", "   rules:"]
    for number, query in enumerate(find_queries()):
        if not query.startswith("label_values"):
            filled = query.replace("$__rate_interval", "5m").replace("$instance", ".*")
            rules += [f"    - record: query:number{number}", f"      expr: {json.dumps(filled)}"]
    file = tmp_path / "dashboard.yml"
    file.write_text("\n".join(rules))
    for path in (file, RULES):
        checked = subprocess.run(
            ["promtool", "check", "rules", str(path)],
            capture_output=True,
            encoding="utf-8",
            timeout=30,
            check=False,
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
