"""Who has no mouse, does not see, or has a small screen uses the same page."""

import gzip
import hashlib
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from trialogue import ToolCall, Turn
from trialogue.testing import Puppet

from ._browser import Page, open_chat

#: Axe-core 4.14.1, axe.min.js, as published on npm. MPL-2.0: https://github.com/dequelabs/axe-core
AXE = gzip.decompress((Path(__file__).parent / "axe.min.js.gz").read_bytes()).decode()
RUN_AXE = """axe.run(document, {resultTypes: ["violations"]}).then(({violations}) => violations.map((v) =>
  `${v.id}: ${v.nodes.map((n) => `${n.target} ${n.any.map((a) => a.message)}`).join("; ")}`))"""
#: What fades in or pulses is to be judged as it is when it is still.
STILL = {"name": "prefers-reduced-motion", "value": "reduce"}
TEXT = """Here is **what** I found, see [the tour](https://example.org/tour):

1. one
2. `two`

```python
def answer(word: str) -> int:  # of everything
    return f"{word:>40}" + "a line that is too long for a phone, and has to scroll in its own box"
```

| store | a column | another one | and a wide one | of a table | that scrolls |
|---|:-:|--:|---|---|---|
| memory | no | 1,000 | something | something | something |

AWordThatIsAsLongAsAnAddressAndHasNoPlaceWhereItMayBeBrokenSoThatItHasToBeBrokenSomewhereAnyway
"""


async def show_everything(turn: Turn) -> None:
    """Have one of everything in the transcript, and wait with a form."""

    async def look_up(_: ToolCall) -> dict[str, Any]:
        return {"found": True}

    await turn.write("I should look it up first, and then say what it is.", kind="reasoning")
    await turn.call_tool("look_up_in_the_big_dictionary", {"word": "x" * 200}, look_up)
    await turn.write(TEXT)
    await turn.ask("May I?", options=["Yes", "No"], detail="It is harmless.")
    await turn.ask(
        "Where to?",
        schema={
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "A town"},
                "copies": {"type": "integer"},
                "when": {"enum": ["now", "later"]},
                "quick": {"type": "boolean"},
            },
        },
    )


async def violations(page: Page) -> list[str]:
    """Ask axe what is wrong with what is seen."""
    await page.script(f"if (!globalThis.axe) {{ {AXE} }}")
    found: list[str] = await page.ask(RUN_AXE)
    return found


async def test_axe_finds_nothing(page: Page) -> None:
    async with open_chat(page, {"one": show_everything, "two": show_everything}):
        await page.command("Emulation.setEmulatedMedia", features=[STILL])
        await page.see("#agent")
        assert await violations(page) == []
        await page.say("Show me everything")
        await page.click(".ask button", "Yes")
        await page.see(".ask-form input")
        await page.say("And this later")
        await page.see("#queue")
        await page.click(".tool summary")
        for scheme in ("light", "dark"):
            await page.command(
                "Emulation.setEmulatedMedia",
                features=[STILL, {"name": "prefers-color-scheme", "value": scheme}],
            )
            assert await violations(page) == []
            await page.shoot(scheme)
        await page.click("#open-credential")
        assert await violations(page) == []
        await page.press(Keys.ESCAPE)
        await page.click("#session-menu")
        assert await violations(page) == []
        await page.press(Keys.ESCAPE)


async def test_phone_has_no_sideways_scroll(page: Page) -> None:
    async with open_chat(page, show_everything):
        await page.resize(360, 740)
        await page.see("#welcome")
        await page.shoot("welcome")
        await page.say("Show me everything, and " + "averylongword" * 10)
        await page.click(".ask button", "Yes")
        await page.see(".ask-form input")
        await page.say("And this later, " + "averylongword" * 10)
        await page.see("#queue")
        for width in (320, 360):
            await page.resize(width, 740)
            wide = await page.script("""
                const limit = document.documentElement.clientWidth;
                const isInBox = (e) => e.closest("pre, .table, .visually-hidden, #sidebar, #skip");
                return [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() && !isInBox(e)
                  && e.getBoundingClientRect().right > limit + 1).map((e) => `${e.localName}.${e.className}`)
                  .concat(document.documentElement.scrollWidth > limit ? ["page"] : [])
                  .concat(document.querySelector("#scroller").scrollWidth > document.querySelector("#scroller").clientWidth ? ["scroller"] : []);
            """)
            assert wide == []
        await page.shoot("conversation")
        # Turned, or with a keyboard in it, it still shows the end; a browser may scroll meanwhile.
        await page.script("""
            const scroller = document.querySelector("#scroller");
            addEventListener("resize", () => scroller.dispatchEvent(new Event("scroll")), { once: true });
        """)
        await page.resize(360, 480)
        await page.wait("""
            innerHeight === 480 && document.querySelector(".latest").hidden && ((e) =>
              e.scrollHeight - e.scrollTop - e.clientHeight < 5)(document.querySelector("#scroller"))
        """)
        await page.resize(360, 740)
        await page.click("#sidebar-toggle")
        await page.wait("document.activeElement.id === 'new-session'")
        await page.see("#session-list a", "Show me everything")
        await page.shoot("sessions")
        await page.press(Keys.ESCAPE)
        await page.see_not("#sidebar")


async def test_conversation_by_keyboard_alone(page: Page) -> None:
    puppet = Puppet()

    async def step(turn: Turn) -> None:
        answer = await turn.ask("Tea?", options=["Yes", "No"])
        await turn.write(f"You said {answer.value}.")

    async with open_chat(page, puppet):
        await page.wait("document.activeElement.id === 'message'")
        await page.type("Hello" + Keys.ENTER)
        await page.see(".from-user:not(.sending)", "Hello")
        led = await puppet.next_turn()
        led.start(step)
        await page.see(".ask button")
        # Back from the box to the question above it.
        for _ in range(12):
            if await page.script("return document.activeElement.textContent") == "No":
                break
            await page.press(Keys.SHIFT, Keys.TAB)
        await page.press(Keys.ENTER)
        await page.see(".ask-closed", "No")
        await page.see(".from-assistant", "You said No.")
        await page.wait("document.activeElement.id === 'message'")
        await page.press(Keys.ESCAPE)
        await page.see(".end", "Stopped")
        await page.press(Keys.ALT, Keys.ARROW_UP)
        await page.wait("document.activeElement.matches('.from-assistant')")
        await page.press(Keys.ALT, Keys.ARROW_UP)
        await page.wait("document.activeElement.matches('.from-user')")
        await page.press("?")
        await page.see("#shortcuts", "Keyboard shortcuts")
        await page.press(Keys.ESCAPE)
        await page.see_not("#shortcuts")
        await page.press("/")
        await page.wait("document.activeElement.id === 'message'")
        await page.press(Keys.ALT, "n")
        await page.see("#welcome")
        await page.press(Keys.CONTROL, "k")
        await page.press(Keys.TAB)
        await page.press(Keys.ENTER)
        await page.see("#title", "Hello")
        await page.press(Keys.TAB)
        await page.press(Keys.ENTER)
        await page.wait("document.activeElement.textContent === 'Rename …'")
        await page.press(Keys.ARROW_UP)
        await page.wait("document.activeElement.textContent === 'Delete …'")
        await page.press(Keys.ESCAPE)
        await page.wait("document.activeElement.matches('[aria-haspopup=menu]')")


async def test_listener_hears_the_answer_once(page: Page) -> None:
    """Our choice: the live region has the question and the whole answer, not each piece of it."""
    puppet = Puppet()
    async with open_chat(page, puppet):
        await page.script("""
            globalThis.heard = [];
            new MutationObserver(() => heard.push(document.querySelector("#announcer").textContent))
              .observe(document.querySelector("#announcer"), {childList: true});
        """)
        await page.say("Hello")
        await page.see(".from-user:not(.sending)", "Hello")
        led = await puppet.next_turn()
        for word in ("One ", "**two** ", "three."):
            led.write(word)
            await page.see(".from-assistant", word.strip("* "))
        led.finish()
        await page.wait("heard.length >= 2")
        assert await page.script("return heard") == ["The agent is answering", "One two three."]
        live = await page.script(
            "return [...document.querySelectorAll('[aria-live], [role=log], [role=status], [role=alert]')]"
            ".map((e) => `${e.id || e.className} ${e.ariaLive ?? ''}`)"
        )
        assert live == ["log off", "announcer ", "toasts "]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_colours_follow_the_system_until_chosen(page: Page, scheme: str) -> None:
    async with open_chat(page, show_everything):
        await page.prefer(scheme)
        paper = "return getComputedStyle(document.body).backgroundColor"
        colours = {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 25, 28)"}
        assert await page.script(paper) == colours[scheme]
        for chosen in ("light", "dark"):
            await page.click("#theme")
            assert await page.script(paper) == colours[chosen]
        await page.reload()
        assert await page.script(paper) == colours["dark"]
        await page.click("#theme")
        assert await page.script(paper) == colours[scheme]


def test_axe_is_as_it_was_published() -> None:
    published = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
    assert hashlib.sha256(AXE.encode()).hexdigest() == published
