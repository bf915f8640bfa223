"""The kit that a third party's transport is put through: ours, and one of a third party."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trialogue.testing import _recording, scripted
from trialogue.testing.transport_kit import CHECKS, Check, Connect, name_of, record_conversation

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_transport"


@pytest.fixture(autouse=True)
def short_goodbyes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server waits so long for a peer that takes nothing, and so do we."""
    monkeypatch.setattr("trialogue.core._server.GOODBYE_SECONDS", 0.3)


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
async def test_transport(connect: Connect, check: Check) -> None:
    await check(connect)


#: Byte by byte a conversation takes seconds, and shows what http and wss have shown.
OVER_TLS = [check for check in CHECKS if "byte_by_byte" not in name_of(check)]


@pytest.mark.parametrize("check", OVER_TLS, ids=name_of)
async def test_http_over_tls(make_connect: Callable[..., Connect], check: Check) -> None:
    await check(make_connect("https"))


@pytest.fixture
def netstrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """The transport of the example, as if it were installed."""
    info = tmp_path / "netstring_transport-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: netstring-transport\nVersion: 0\n")
    point = "[trialogue.transports]\nnetstring = netstring_transport:transport\n"
    (info / "entry_points.txt").write_text(point)
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(EXAMPLE), *sys.path])
    monkeypatch.delitem(sys.modules, "netstring_transport", raising=False)
    return Connect("netstring://127.0.0.1:0")


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
async def test_transport_of_a_third_party(netstrings: Connect, check: Check) -> None:
    """Found by its entry point; the kit knows no more of it than its URL."""
    await check(netstrings)


async def test_recording_tells_one_conversation_from_another(
    make_connect: Callable[..., Connect], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that, that they are the same would prove nothing."""
    whole = await record_conversation(make_connect("loopback"))
    assert len(whole.responses) >= 45
    assert [len(events) >= 30 for events in whole.events] == [True, True]
    assert any("👩‍👩‍👧" in text for text in whole.texts)

    other = scripted(*_recording.AGENT.turns, default="You said {input}")
    monkeypatch.setattr(_recording, "AGENT", other)
    changed = await record_conversation(make_connect("loopback"))
    assert changed.texts != whole.texts
    assert changed.events != whole.events
    assert changed.responses != whole.responses
