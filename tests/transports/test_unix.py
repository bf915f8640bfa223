"""What is a Unix socket's own: its file."""

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from tests.transports.conftest import Serve
from trialogue.core.abc import ConnectOptions, ListenOptions
from trialogue.core.errors import SettingsError
from trialogue.core.settings import Settings
from trialogue.transports.unix import transport

OPTIONS = ListenOptions(settings=Settings())


async def test_file_is_its_owners_alone_and_goes_with_the_listener(
    serve: Serve, tmp_path: Path
) -> None:
    path = tmp_path / "s.sock"
    async with serve(f"unix://{path}") as server, server.connect() as channel:
        assert server.endpoint == f"unix://{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await channel.send(b"1")
        assert await channel.receive() == b"1"
        assert server.acceptor.links[0].connection.peer.address == f"pid {os.getpid()}"
    assert not path.exists()


async def test_file_that_a_killed_process_left_is_replaced(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    async with serve(f"unix://{path}") as server, server.connect() as channel:
        await channel.send(b"1")
        assert await channel.receive() == b"1"


async def test_socket_that_somebody_listens_at_is_in_use(serve: Serve, tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/s.sock"
    async with serve(url) as server:
        with pytest.raises(OSError, match="the address is in use") as caught:
            await transport.open_listener(url, OPTIONS)
        assert caught.value.errno == errno.EADDRINUSE
        async with server.connect() as channel:
            await channel.send(b"1")
            assert await channel.receive() == b"1"


async def test_other_file_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(OSError, match="no socket"):
        await transport.open_listener(f"unix://{path}", OPTIONS)
    assert path.read_text() == "mine"


async def test_file_that_another_server_took_over_stays(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    listener = await transport.open_listener(f"unix://{path}", OPTIONS)
    path.unlink()
    other = await transport.open_listener(f"unix://{path}", OPTIONS)
    await listener.aclose()
    assert path.exists()
    await other.aclose()
    assert not path.exists()


async def test_mask_of_the_process_is_as_before(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        listener = await transport.open_listener(f"unix://{tmp_path}/s.sock", OPTIONS)
        assert os.umask(0o022) == 0o022
        await listener.aclose()
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("unix://", "not of the form"),
        ("unix:///run/", "not of the form"),
        ("unix:///run/x?y", "not of the form"),
        ("unix:///" + "x" * 200, "at most 107 bytes"),
    ],
)
async def test_wrong_url_says_what_is_wrong(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        await transport.open_listener(url, OPTIONS)


async def test_missing_folder_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no such file or folder"):
        await transport.open_listener(f"unix://{tmp_path}/no/s.sock", OPTIONS)


async def test_nobody_there_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no such file or folder"):
        async with transport.open_channel(f"unix://{tmp_path}/s.sock", ConnectOptions()):
            pass


async def test_relative_and_quoted_paths(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("unix://s.sock", "unix:s.sock", "unix://a%20b.sock"):
        async with serve(url) as server, server.connect() as channel:
            await channel.send(b"1")
            assert await channel.receive() == b"1"
