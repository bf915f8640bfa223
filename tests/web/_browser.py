"""A real browser, led by a test. What waits is done in a thread, so the server can run beside."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from selenium.webdriver import Chrome
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from trialogue.core.abc import Agent

from ._site import PATIENCE_SECONDS, Site, open_site

#: Kept as output of the tests; git ignores it.
REPORTS: Final = Path(__file__).parents[2] / "reports" / "web"
#: Resolves when an expression of the page is true. It looks each frame or so, and is one call.
_WAIT: Final = """
const [source, args, ms, done] = arguments;
const check = new Function("args", `return (${source})`);
const until = performance.now() + ms;
(function look() {
  let value = null;
  try { value = check(args); } catch (error) { value = null; }
  if (value) return done({ value });
  if (performance.now() > until) return done(null);
  setTimeout(look, 10);
})();
"""
#: Gives what a promise of the page's comes to.
_ASK: Final = """
const [source, args, done] = arguments;
new Function("args", `return (${source})`)(args).then(done, (error) => done(String(error)));
"""
#: Elements of a kind that are seen and have a text in them.
_FIND: Final = """[...document.querySelectorAll(args[0])].find((e) => e.checkVisibility({visibilityProperty: true})
  && (e.innerText + " " + (e.getAttribute("aria-label") ?? "") + (e.value ?? "")).includes(args[1]))"""


class Page:
    """A window with the page in it."""

    def __init__(self, driver: Chrome, name: str) -> None:
        self.driver: Any = driver  # whose types are of half of it
        self.name = name
        #: The console may say that a WebSocket broke: the test has broken it.
        self.may_lose_connection = False

    async def _run(self, function: Any, *args: Any) -> Any:
        return await trio.to_thread.run_sync(partial(function, *args))

    async def open(self, url: str) -> None:
        """Go somewhere."""
        await self._run(self.driver.get, url)

    async def script(self, source: str, *args: Any) -> Any:
        """Run a function body in the page, and give what it returns."""
        return await self._run(self.driver.execute_script, source, *args)

    async def wait(self, expression: str, *args: Any) -> Any:
        """Wait until an expression of the page is true; ``args`` are there by that name."""
        milliseconds = PATIENCE_SECONDS * 500
        found = await self._run(
            self.driver.execute_async_script, _WAIT, expression, list(args), milliseconds
        )
        if found is None:
            text = await self.script("return document.body.innerText")
            await self.shoot("failed")
            raise AssertionError(f"never: {expression} {args}\n{text}\n{await self.console()}")
        return found["value"]

    async def ask(self, expression: str, *args: Any) -> Any:
        """Wait for what a promise of the page's comes to."""
        return await self._run(self.driver.execute_async_script, _ASK, expression, list(args))

    async def see(self, selector: str, text: str = "") -> Any:
        """Wait until something is seen, and give it."""
        return await self.wait(_FIND, selector, text)

    async def see_not(self, selector: str, text: str = "") -> None:
        """Wait until nothing of the kind is seen."""
        await self.wait(f"!({_FIND})", selector, text)

    async def text(self, selector: str) -> str:
        """Give the text of the first of a kind, as it is seen."""
        found: str = await self.script(
            "return document.querySelector(arguments[0])?.innerText ?? ''", selector
        )
        return found

    async def click(self, selector: str, text: str = "") -> None:
        """Click as a person would: it has to be seen, and not covered."""
        element = await self.see(selector, text)
        await self._run(element.click)

    async def press(self, *keys: str) -> None:
        """Press keys together, wherever the focus is."""
        chain = ActionChains(self.driver, duration=0)
        for key in keys[:-1]:
            chain.key_down(key)
        chain.send_keys(keys[-1])
        for key in keys[:-1]:
            chain.key_up(key)
        await self._run(chain.perform)

    async def type(self, text: str) -> None:
        """Type wherever the focus is."""
        await self._run(ActionChains(self.driver, duration=0).send_keys(text).perform)

    async def say(self, text: str) -> None:
        """Write a message and send it."""
        await self.click("#message")
        await self.type(text + Keys.ENTER)

    async def choose(self, selector: str, file: Path) -> None:
        """Choose a file, as its dialog would give it."""
        (chooser,) = await self.find(selector)
        await self._run(chooser.send_keys, str(file))

    async def find(self, selector: str) -> Sequence[Any]:
        """Give all of a kind, seen or not."""
        found: Sequence[Any] = await self._run(self.driver.find_elements, By.CSS_SELECTOR, selector)
        return found

    async def reload(self) -> None:
        """Load it again."""
        await self._run(self.driver.refresh)

    async def command(self, name: str, **params: Any) -> Any:
        """Send a command of the DevTools protocol."""
        return await self._run(self.driver.execute_cdp_cmd, name, params)

    async def resize(self, width: int, height: int) -> None:
        """Be a screen of that many pixels."""
        await self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    async def prefer(self, scheme: str) -> None:
        """Be a system that is light or dark."""
        await self.command(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    async def shoot(self, name: str) -> None:
        """Keep a picture of what is seen."""
        data = await self.command("Page.captureScreenshot", format="png")
        folder = trio.Path(REPORTS)
        await folder.mkdir(parents=True, exist_ok=True)
        await (folder / f"{self.name}-{name}.png").write_bytes(base64.b64decode(data["data"]))

    async def new_tab(self, url: str) -> None:
        """Open another window in front."""
        await self._run(self.driver.switch_to.new_window, "tab")
        await self.open(url)

    async def turn_to(self, number: int) -> None:
        """Look at another window."""
        await self._run(self.driver.switch_to.window, self.driver.window_handles[number])

    async def console(self) -> list[str]:
        """Give what the page complained of since this was last asked."""
        entries: list[dict[str, Any]] = await self._run(self.driver.get_log, "browser")
        return [
            entry["message"]
            for entry in entries
            if entry["level"] in {"SEVERE", "WARNING"}
            and not (self.may_lose_connection and re.search("WebSocket", entry["message"]))
        ]

    async def leave(self) -> None:
        """Go away from the site, and see that the page had nothing to complain of."""
        complaints = await self.console()
        for handle in self.driver.window_handles:
            await self._run(self.driver.switch_to.window, handle)
            await self.open("about:blank")
        assert not complaints, complaints

    async def close(self) -> None:
        """Close all windows but one, and forget what was emulated."""
        for handle in self.driver.window_handles[1:]:
            await self._run(self.driver.switch_to.window, handle)
            await self._run(self.driver.close)
        await self._run(self.driver.switch_to.window, self.driver.window_handles[0])
        await self.command("Emulation.clearDeviceMetricsOverride")
        await self.command("Emulation.setEmulatedMedia", features=[])
        await self.open("about:blank")
        # A connection that was lost may be told of only now: it is no matter of the next test.
        await self.console()


@asynccontextmanager
async def open_chat(
    page: Page, agent: Agent | Mapping[str, Agent], **options: Any
) -> AsyncGenerator[Site]:
    """Serve the page and an agent, and look at it; at the end the console has to be clean.

    Args:
        page: Where to look.
        agent: As for `open_site`.
        options: Likewise.
    """
    async with open_site(agent, **options) as site:
        await page.open(site.url)
        yield site
        await page.leave()
