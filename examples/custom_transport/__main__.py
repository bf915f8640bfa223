"""A transport that Trialogue does not bring: netstrings over TCP, found by its entry point.

`pip install ./examples/custom_transport` is all that a server or a client needs to know it. So
that this can run without installing anything, it only notes the entry point, as an installer would.
"""

import sys
import tempfile
import tomllib
from pathlib import Path

import trio

import trialogue
from trialogue.agents.demo import demo

HERE = Path(__file__).parent


def note_entry_points(folder: Path) -> None:
    """Do what `pip install` does, as far as entry points go."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines: list[str] = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {where}" for name, where in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    sys.path[:0] = [str(folder), str(HERE)]


async def main() -> None:
    """Serve, connect and talk: nothing here knows more of the transport than its URL."""
    async with trialogue.open_server(demo, transports=["netstring://127.0.0.1:0"]) as server:
        print("listening", server.endpoints[0])
        async with trialogue.connect(server.endpoints[0]) as client:
            session = await client.create_session()
            for text in ("My name is Ada.", "What is 7 * 6?", "Who am I?"):
                print(">", text)
                turn = await client.send_message(session.id, text)
                assert turn.message is not None
                print(turn.message.content)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        note_entry_points(Path(folder))
        trio.run(main)
