"""Whatever a model, a tool or another client writes is text: it runs nothing, and loads nothing."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import trio

from trialogue import ToolCall, Turn

from ._browser import Page, open_chat
from ._site import WEB

HOSTILE: list[str] = json.loads((Path(__file__).parent / "hostile.json").read_text("utf-8"))
OWN = sorted(path for path in WEB.glob("*.js"))
#: Of an answer: what may be in it, and what each of these may have.
ELEMENTS = [
    "a",
    "blockquote",
    "br",
    "button",
    "code",
    "div",
    "em",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "li",
    "ol",
    "p",
    "path",
    "pre",
    "s",
    "span",
    "strong",
    "svg",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "tr",
    "ul",
]
ATTRIBUTES = [
    "aria-hidden",
    "aria-label",
    "class",
    "d",
    "href",
    "rel",
    "role",
    "start",
    "tabindex",
    "target",
    "title",
    "type",
    "viewBox",
]
#: Lists what should not be there.
AUDIT = """
const [elements, attributes] = arguments;
const found = [];
for (const node of document.querySelectorAll(".markdown *, .said *, .fold-body *, .preview *, h1 *, #session-list .session-name *")) {
  const name = node.localName;
  if (!elements.includes(name)) found.push(name);
  for (const attribute of node.attributes) {
    if (!attributes.includes(attribute.name)) found.push(`${name} ${attribute.name}`);
  }
  const href = node.getAttribute("href");
  if (href !== null && !/^(https?:\\/\\/|mailto:)/i.test(href)) found.push(href);
  if (name === "a" && (node.target !== "_blank" || !node.rel.includes("noopener"))) found.push(node.outerHTML);
}
return found;
"""


@pytest.mark.parametrize("how", ["streamed", "whole"])
async def test_hostile_text_runs_nothing_and_loads_nothing(page: Page, how: str) -> None:
    async def agent(turn: Turn) -> None:
        for text in HOSTILE:
            await turn.write(text[: len(text) // 2], kind="text")
            if how == "streamed":
                await trio.sleep(0.005)
            await turn.write(text[len(text) // 2 :] + "\n\n")
            if how == "whole":

                async def tool(_: ToolCall, text: str = text) -> str:
                    await trio.lowlevel.checkpoint()
                    return text

                await turn.call_tool(
                    "".join(filter(str.isprintable, text))[:40], {text[:30]: text}, tool
                )

    async with open_chat(page, agent) as site:
        await page.script("globalThis.hits = 0; globalThis.canary = () => { hits++; }")
        await page.say(HOSTILE[1])
        await page.see(".from-assistant")
        await page.wait("document.querySelector('#stop').hidden")
        await page.wait("document.querySelector('.log').innerText.includes('clobbered')")
        await page.script("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
        await page.script(
            "document.querySelectorAll('.markdown span.no-link').forEach((e) => e.click())"
        )
        assert await page.script(AUDIT, ELEMENTS, ATTRIBUTES) == []
        assert await page.script("return hits") == 0
        assert await page.text("#title") == HOSTILE[1]
        assert (await page.script("return document.body.children.length")) < 20
        # Everything that was asked for is the page's own.
        own = {f"/{path.relative_to(WEB)}" for path in WEB.rglob("*")} | {"/", "/v1/ws"}
        assert {path.partition("?")[0] for path in site.fetched} <= own
        loaded = await page.script(
            "return performance.getEntriesByType('resource').map((e) => e.name)"
        )
        assert all(name.startswith(site.url) for name in loaded)
        if how == "whole":
            await page.shoot("hostile")


async def test_hostile_name_is_text_everywhere(page: Page) -> None:
    async def agent(turn: Turn) -> None:
        await turn.ask(
            "<img src=x onerror=canary()>",
            options=["<b>yes</b>"],
            detail="<script>canary()</script>",
        )

    async with open_chat(page, agent) as site:
        name = "<img src=x onerror=canary()>"
        session = await site.test.client.create_session(name=name)
        await page.open(f"{site.url}#/s/{session.id}")
        await page.see("#title", name)
        await page.see("#session-list a", name)
        await page.say("Hello")
        await page.see(".ask", "<script>canary()</script>")
        await page.see(".ask button", "<b>yes</b>")
        assert await page.script("return document.querySelectorAll('img').length") == 2
        assert await page.script("return document.title") == f"{name} · Trialogue"


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_page_makes_no_element_of_a_string(path: Path) -> None:
    """Our choice: where nothing is parsed as HTML, nothing has to be sanitised."""
    text = path.read_text("utf-8")
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|DOMParser|document\.write|\beval\b|new Function|createContextualFragment|setHTML|srcdoc|setAttribute\(\"(?:on|style)"
    assert re.findall(ways, text) == []


def test_page_says_its_policy_itself() -> None:
    """Wherever it is served from. Trusted Types forbid what the test above looks for."""
    page = (WEB / "index.html").read_text("utf-8")
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert found is not None
    policy: str = found[1]
    rules = {
        name: value for name, _, value in (r.strip().partition(" ") for r in policy.split(";"))
    }
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in policy
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script>", page)
    assert not re.search(r"(?:src|href)=\"(?:https?:|//)", page)


def test_vendored_files_are_as_they_were_published() -> None:
    said = (WEB / "vendor" / "VENDORED.txt").read_text("utf-8")
    sums = re.findall(r"^(\S+\.js)\n(?:    .*\n)+?    sha256 ([0-9a-f]{64})$", said, re.MULTILINE)
    files = {path.name: path.read_bytes() for path in (WEB / "vendor").glob("*.js")}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in files.items()} == dict(sums)
