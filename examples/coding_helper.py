"""A coding helper: a model with file tools, which asks before it changes anything.

Here the model is a scripted one, so that the example runs by itself: it is told of a test that
fails, looks around, mends the code, and is allowed to. With a model of a provider's in its place
this is the whole helper:

    helper = make_helper(model, Path("."))
    trialogue.run(helper)
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import trio

import trialogue
from trialogue import Client
from trialogue.agents.loop import ToolLoop
from trialogue.agents.model import Model
from trialogue.agents.tools import ToolError, tool
from trialogue.client import AskChunk, DoneChunk, ErrorChunk, TextChunk, ToolChunk
from trialogue.testing import ModelAnswer, ScriptedModel, tool_call

PROMPT = "You help with the code in one folder. Look before you change anything, and be brief."


class Folder:
    """The tools, for the files of one folder and no others."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def _find(self, path: str) -> Path:
        found = (self._root / path).resolve()
        if not found.is_relative_to(self._root):
            raise ToolError(f"{path} is not in this folder")
        return found

    def list_files(self, pattern: str = "**/*") -> list[str]:
        """List files.

        Args:
            pattern: A glob, from the folder.
        """
        found = (path for path in self._root.glob(pattern) if path.is_file())
        return sorted(str(path.relative_to(self._root)) for path in found)[:200]

    def read_file(self, path: str) -> str:
        """Read a text file."""
        try:
            return self._find(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise ToolError(f"{path} cannot be read: {exc}") from exc

    def replace_text(self, path: str, old: str, new: str) -> str:
        """Replace a text in a file, which has to be there once.

        Args:
            path: The file.
            old: What is there now, with enough around it to be the only one.
            new: What is to be there.
        """
        file = self._find(path)
        text = self.read_file(path)
        if text.count(old) != 1:
            raise ToolError(f"that text is in {path} {text.count(old)} times")
        file.write_text(text.replace(old, new), "utf-8")
        return "done"

    async def run_file(self, path: str) -> str:
        """Run a Python file, and give its exit code and what it printed."""
        done = await trio.run_process(
            [sys.executable, str(self._find(path))],
            cwd=self._root,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return f"exit code {done.returncode}\n{done.stdout.decode(errors='replace')[-4000:]}"


def make_helper(model: Model, root: Path) -> ToolLoop:
    """Make the agent. Reading is harmless, and may run side by side; the rest is asked about."""
    folder = Folder(root)
    looks = tool(effect="none", parallel=True)
    return ToolLoop(
        model,
        tools=[
            looks(folder.list_files),
            looks(folder.read_file),
            tool(effect="unsafe")(folder.replace_text),
            tool(effect="unsafe", timeout_seconds=60)(folder.run_file),
        ],
        system_prompt=PROMPT,
        description="Helps with the code in one folder.",
    )


async def talk(client: Client, text: str) -> None:
    """Say something, show what comes, and allow what is asked."""
    session = await client.create_session()
    print(f"> {text}")
    async with client.stream_message(session.id, text) as chunks:
        async for chunk in chunks:
            match chunk:
                case TextChunk():
                    print(chunk.text, end="", flush=True)
                case ToolChunk(state="called"):
                    print(f"\n[{chunk.name} {dict(chunk.arguments)}]", end="")
                case ToolChunk(state="completed"):
                    print(f" → {str(chunk.result or chunk.error)[:60]!r}")
                case AskChunk(state="opened", ask=ask) if ask is not None:
                    # Here a person would be asked.
                    print(f"\n? {ask.title} {dict(ask.arguments or {})} approve")
                    await client.answer_ask(session.id, ask.ask_id, "approve")
                case ErrorChunk():
                    raise chunk.error
                case DoneChunk():
                    print()
                case _:
                    pass


async def main() -> None:
    """Let the helper mend a small project."""
    model = ScriptedModel(
        [
            ModelAnswer("I will have a look.", [tool_call("list_files")]),
            [tool_call("read_file", path="sums.py"), tool_call("read_file", path="check.py")],
            tool_call("replace_text", path="sums.py", old="a - b", new="a + b"),
            tool_call("run_file", path="check.py"),
            "It subtracted. It adds now, and the check passes.",
        ]
    )
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "sums.py").write_text("def add(a, b):\n    return a - b\n", "utf-8")
        check = "from sums import add\nassert add(2, 3) == 5, add(2, 3)\nprint('all good')\n"
        (root / "check.py").write_text(check, "utf-8")
        helper = make_helper(model, root)
        async with (
            trialogue.open_server(helper, transports=["loopback://"]) as server,
            trialogue.connect(server.endpoints[0]) as client,
        ):
            await talk(client, "check.py fails. Can you mend it?")
        assert "a + b" in (root / "sums.py").read_text("utf-8")


if __name__ == "__main__":
    trio.run(main)
