"""``trialogue.js`` and ``conversation.js`` by themselves: client_tests.js has what they promise."""

import re
from pathlib import Path

import trio

from trialogue import Turn

from ._browser import Page
from ._site import open_site

HERE = Path(__file__).parent


async def test_protocol_client_keeps_its_promises(page: Page) -> None:
    async with open_site(_greet) as site:
        for file in ("client_tests.html", "client_tests.js"):
            site.extra[f"/{file}"] = HERE / file
        await page.open(f"{site.url}client_tests.html")
        await page.wait("globalThis.runTests")
        result = await page.ask("runTests()")
        assert result["failures"] == {}
        assert result["count"] >= 30
        await page.leave()


async def test_example_of_the_documentation_runs(page: Page, tmp_path: Path) -> None:
    documentation = (HERE.parents[1] / "docs" / "web.md").read_text("utf-8")
    (example,) = re.findall(r"^```js\n(.*?)^```", documentation, re.MULTILINE | re.DOTALL)
    (tmp_path / "client_tests.js").write_text(example, "utf-8")
    async with open_site(_greet) as site:
        site.extra["/client_tests.html"] = HERE / "client_tests.html"
        site.extra["/client_tests.js"] = tmp_path / "client_tests.js"
        await page.open(f"{site.url}client_tests.html")
        await page.wait("document.title === 'completed'")
        assert await page.text("body") == "Hello to you"
        await page.leave()


async def _greet(turn: Turn) -> None:
    await turn.write(f"{turn.input.content} ")
    await trio.sleep(0.1)
    await turn.write("to you")
