"""The page as a person uses it. Each test ends with a look at the console: it has to be clean."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
from selenium.webdriver.common.keys import Keys

from trialogue import AgentError, Identity, Revocation, ToolCall, Turn, UnauthorizedError
from trialogue.testing import LedTurn, Puppet

from ..cli._process import serving
from ._browser import Page, open_chat
from ._site import open_cable


async def begin(page: Page, puppet: Puppet, text: str = "Hello") -> LedTurn:
    """Say something, and give the turn that answers."""
    await page.say(text)
    await page.see(".from-user:not(.sending)", text)  # a browser takes longer than a puppet waits
    return await puppet.next_turn()


@asynccontextmanager
async def talking(page: Page, text: str = "Hello") -> AsyncGenerator[LedTurn]:
    """Say something to an agent that the test leads, and give the turn."""
    puppet = Puppet()
    async with open_chat(page, puppet):
        yield await begin(page, puppet, text)


def asking(**options: Any) -> Any:
    """Make a step of a turn that asks, and writes the answer."""

    async def ask(turn: Turn) -> None:
        answer = await turn.ask("Which one?", **options)
        await turn.write(f"You said {answer.value!r}.")

    return ask


async def test_streamed_answer_appears(page: Page) -> None:
    puppet = Puppet()
    async with open_chat(page, puppet):
        await page.see("#welcome", "What shall we talk about?")
        await page.shoot("welcome")
        led = await begin(page, puppet, "Hello, *you*")
        await page.see(".working", "Thinking")
        led.write("This is **bo")
        await page.see(".from-assistant.streaming", "This is **bo")
        led.write("ld**, 😀 and `code`")
        await page.see(".from-assistant strong", "bold")
        led.finish()
        await page.see(".from-assistant:not(.streaming) code", "code")
        assert await page.text(".from-assistant .markdown") == "This is bold, 😀 and code"
        assert await page.text(".from-user .said") == "Hello, *you*"


async def test_growing_answer_keeps_what_is_done(page: Page) -> None:
    """A block that does not change is not made anew: a selection in it stays."""
    async with talking(page) as led:
        led.write("First.\n\nSecond [link][a]")
        await page.see(".from-assistant p", "Second [link][a]")
        await page.script("document.querySelector('.markdown p').dataset.mine = 'yes'")
        led.write(", and more.\n\n- one\n- two\n")
        await page.see(".from-assistant li", "two")
        assert await page.text("[data-mine]") == "First."
        led.write("\n[a]: https://example.org/\n")
        await page.see(".from-assistant a[href='https://example.org/']", "link")
        led.finish()


async def test_stop_ends_the_answer_and_keeps_what_was_said(page: Page) -> None:
    puppet = Puppet()
    async with open_chat(page, puppet):
        led = await begin(page, puppet)
        led.write("Once upon a time")
        await page.see(".from-assistant", "Once upon")
        await page.click("#stop")
        await page.see(".end", "Stopped")
        assert led.cancelled.is_set()
        await page.see(".from-assistant", "Once upon a time")
        await page.see_not("#stop")
        led = await begin(page, puppet, "Again")
        await page.press(Keys.ESCAPE)
        await page.wait("document.querySelectorAll('.end.cut').length === 2")
        assert led.cancelled.is_set()


async def test_failed_turn_says_why(page: Page) -> None:
    async with open_chat(page, _fail):
        await page.say("Hello")
        await page.see(".end.failed", "the model is on holiday")


async def _fail(turn: Turn) -> None:
    await turn.write("I will try.")
    raise AgentError("the model is on holiday")


async def test_thoughts_and_tools_fold_open(page: Page) -> None:
    puppet, go_on = Puppet(), trio.Event()

    async def work(turn: Turn) -> None:
        async def look_up(call: ToolCall) -> dict[str, Any]:
            call.report_progress("page 2", progress=2, total=8)
            await go_on.wait()
            return {"found": ["<b>this</b>"]}

        await turn.write("Where might it be?", kind="reasoning")
        await turn.call_tool("look_up", {"word": "bread"}, look_up)
        await turn.write("It is there.")

    async with open_chat(page, puppet):
        led = await begin(page, puppet)
        led.start(work)
        await page.see(".tool.running", "look_up")
        await page.see(".tool-progress", "page 2")
        assert await page.script("return document.querySelector('progress').position") == 0.25
        go_on.set()
        await page.see(".tool.is-ok", "Done")
        await page.see_not(".tool-progress")
        await page.click(".tool summary")
        await page.see(".tool .fold-body", '"<b>this</b>"')
        await page.see(".tool .fold-body", '"word": "bread"')
        await page.see_not(".reasoning .said")
        await page.click(".reasoning summary", "Thought")
        await page.see(".reasoning .said", "Where might it be?")
        led.finish()


async def test_what_comes_meanwhile_waits_and_can_be_withdrawn(page: Page) -> None:
    puppet = Puppet()
    async with open_chat(page, puppet):
        led = await begin(page, puppet)
        await page.see("#stop")
        await page.say("And then?")
        await page.say("And after that?")
        await page.see("#queue", "Waiting for the answer before (2)")
        assert len(await page.find("article.message")) == 1
        await page.click("#queue li:first-of-type button")
        await page.see("#queue", "Waiting for the answer before (1)")
        await page.wait("document.querySelector('#message').value === 'And then?'")
        led.finish()
        second = await puppet.next_turn()
        assert second.turn.input.content == "And after that?"
        await page.see_not("#queue")
        await page.see(".from-user", "And after that?")
        second.finish()


async def test_running_answer_can_be_told_something(page: Page) -> None:
    async with talking(page) as led:
        await page.see("#when-busy")
        await page.script("document.querySelector('#when-busy').value = 'steer'")
        await page.say("Shorter, please")
        heard = await led.do(lambda turn: turn.next_steering())
        assert heard.content == "Shorter, please"
        await page.see(".from-user", "Shorter, please")
        led.finish()


# -- asks --------------------------------------------------------------------------------------


async def test_option_is_chosen_in_place_in_every_tab(page: Page) -> None:
    """PROTOCOL §9: everybody sees who answered what."""
    async with talking(page) as led:
        led.start(asking(options=["red", "green"], detail="Both are fine.", name="paint"))
        await page.see(".ask", "Both are fine.")
        await page.see("#session-list .dot.is-waiting")
        await page.new_tab(await page.script("return location.href"))
        await page.click(".ask button", "green")
        await page.see(".ask-closed", "green")
        await page.turn_to(0)
        await page.see(".ask-closed", "green")
        await page.see(".from-assistant", "You said 'green'.")
        led.finish()


async def test_free_text_is_answered_in_place(page: Page) -> None:
    async with talking(page) as led:
        led.start(asking())
        await page.click(".ask textarea")
        await page.type("the <i>blue</i> one" + Keys.ENTER)
        await page.see(".ask-closed", "the <i>blue</i> one")
        await page.see(".from-assistant", "You said 'the <i>blue</i> one'.")
        led.finish()


async def test_form_is_made_of_a_schema_and_says_what_does_not_fit(page: Page) -> None:
    schema = {
        "type": "object",
        "required": ["name", "copies"],
        "properties": {
            "name": {"type": "string", "title": "Name", "minLength": 3},
            "copies": {"type": "integer"},
            "when": {"enum": ["daily", "weekly"]},
            "encrypt": {"type": "boolean"},
            "note": {"type": "string"},
        },
    }
    async with talking(page) as led:
        led.start(asking(schema=schema))
        await page.click(".ask textarea", "")
        await page.type("ab")
        await page.press(Keys.TAB)
        await page.type("many")
        await page.click(".ask button", "Answer")
        await page.see(".ask .problem", "copies: this should be a number")
        await page.press(Keys.CONTROL, "a")
        await page.type("2")
        await page.click(".ask button", "Answer")
        await page.see(".ask .problem", "name: 'ab' is too short")
        await page.type("c")
        await page.click("label", "encrypt")
        await page.shoot("form")
        await page.click(".ask button", "Answer")
        await page.see(".ask-closed")
        await page.see(".from-assistant", "{'name': 'abc', 'copies': 2, 'encrypt': True}")
        led.finish()


async def test_schema_that_is_no_form_is_answered_as_json(page: Page) -> None:
    async with talking(page) as led:
        led.start(asking(schema={"type": "array", "items": {"type": "integer"}}))
        await page.click(".ask textarea")
        await page.type("[1, 2")
        await page.click(".ask button", "Answer")
        await page.see(".ask .problem", "This is no JSON")
        await page.press(Keys.CONTROL, Keys.END)
        await page.type("]")
        await page.click(".ask button", "Answer")
        await page.see(".from-assistant", "You said [1, 2].")
        led.finish()


async def test_question_of_before_is_there_after_a_reload(page: Page) -> None:
    """PROTOCOL §6.3: open asks are in the answer of the subscription."""
    puppet = Puppet()
    async with open_chat(page, puppet) as site:
        led = await begin(page, puppet)
        led.start(asking(options=["yes"]))
        await page.see(".ask")
        session = (await site.test.client.list_sessions()).sessions[0]
        for number in range(45):
            await site.test.client.add_message(session.id, "user", f"note {number}")
        await page.reload()
        await page.see(".from-user", "note 44")
        await page.click(".ask button", "yes")
        await page.see(".ask-closed", "yes")
        led.finish()


# -- coming back -------------------------------------------------------------------------------


async def test_reload_in_the_middle_of_a_sentence_goes_on(page: Page) -> None:
    async with talking(page) as led:
        led.write("One, two, ")
        await page.see(".from-assistant", "One, two,")
        await page.reload()
        await page.see(".from-assistant.streaming", "One, two,")
        await page.see("#stop")
        led.write("three.")
        led.finish()
        await page.see(".from-assistant:not(.streaming)", "One, two, three.")
        await page.see_not("#stop")
        assert len(await page.find("article.message")) == 2


async def test_lost_connection_goes_on_in_the_middle_of_a_sentence(page: Page) -> None:
    """PROTOCOL §6.3: no text is missed, and none comes twice."""
    puppet = Puppet()
    async with open_chat(page, puppet) as site:
        page.may_lose_connection = True
        led = await begin(page, puppet)
        led.write("One 😀, ")
        await page.see(".from-assistant", "One 😀,")
        await page.script("document.querySelector('.from-assistant').dataset.mine = 'yes'")
        site.is_up = False
        site.cut()
        await page.see("#banner", "Connecting again")
        led.write("two, ")
        await page.say("Said while away")
        await page.see(".sending", "Said while away")
        site.is_up = True
        await page.script("document.querySelector('#retry').click()")
        await page.see(".from-assistant.streaming", "One 😀, two,")
        await page.see("#queue", "Said while away")
        await page.see_not("#banner")
        led.write("three.")
        led.finish()
        await page.see(".from-assistant[data-mine]:not(.streaming)", "One 😀, two, three.")
        (await puppet.next_turn()).finish()
        await page.see(".from-user:not(.sending)", "Said while away")
        assert len(await page.find("article.message")) == 3


async def test_two_tabs_are_in_step(page: Page) -> None:
    puppet = Puppet()
    async with open_chat(page, puppet):
        led = await begin(page, puppet)
        led.write("Half of")
        await page.new_tab(await page.script("return location.href"))
        await page.see(".from-assistant", "Half of")
        await page.say("From the second")
        await page.turn_to(0)
        await page.see("#queue", "From the second")
        led.write(" it.")
        led.finish()
        second = await puppet.next_turn()
        await page.see(".from-user", "From the second")
        second.write("Both see this.")
        second.finish()
        for tab in (0, 1):
            await page.turn_to(tab)
            await page.see(".from-assistant:not(.streaming)", "Both see this.")
            assert len(await page.find("article.message")) == 4


async def test_server_that_was_killed_is_come_back_to(page: Page, tmp_path: Any) -> None:
    """What was said is there, the answer is marked as interrupted, and one can go on."""
    arguments = ("agents_for_cli:slow", "--transport", "http://127.0.0.1:0")
    store = ("--store", f"jsonl:{tmp_path}")
    start = partial(serving, *arguments, *store)
    async with open_cable("") as site:
        page.may_lose_connection = True
        with start() as server:
            site.backend = server.urls[0]
            await page.open(site.url)
            await page.say("1000")
            await page.see(".from-assistant.streaming", "word3")
            await trio.sleep(0.15)  # so that a checkpoint of the text is on disk
        await page.see("#banner", "Connecting again")
        with start() as server:
            site.backend = server.urls[0]
            await page.script("document.querySelector('#retry').click()")
            await page.see(".end.cut", "The server was restarted")
            await page.see(".from-assistant:not(.streaming)", "word3")
            await page.say("2")
            await page.see(".from-assistant:not(.streaming):nth-last-of-type(1)", "word0 word1")
            await page.shoot("restarted")
            await page.leave()


# -- sessions ----------------------------------------------------------------------------------


async def test_fork_from_a_message_goes_on_from_there(page: Page) -> None:
    puppet = Puppet()
    async with open_chat(page, puppet):
        for number in ("one", "two"):
            led = await begin(page, puppet, f"Question {number}")
            led.write(f"Answer {number}")
            led.finish()
            await page.see(".from-assistant:not(.streaming)", f"Answer {number}")
        await page.click(".from-assistant .icon-button[aria-label^='Fork']")
        await page.see("#title", "Question one (fork)")
        await page.see(".from-assistant", "Answer one")
        assert len(await page.find("article.message")) == 2
        led = await begin(page, puppet, "Question three")
        led.finish()
        await page.click("#session-list a[title='Question one']")
        await page.see(".from-assistant", "Answer two")
        assert len(await page.find("article.message")) == 4


async def test_sessions_are_named_found_closed_and_deleted(page: Page) -> None:
    puppet = Puppet()
    async with open_chat(page, puppet):
        for name in ("First <b>one</b>", "Second one"):
            await page.click("#new-session")
            (await begin(page, puppet, name)).finish()
        await page.click("#session-list button[aria-label='Actions for First <b>one</b>']")
        await page.click(".menu button", "Rename")
        await page.type("Better name" + Keys.ENTER)
        await page.see("#session-list a", "Better name")
        await page.press(Keys.CONTROL, "k")
        await page.type("SECOND")
        await page.see_not("#session-list a", "Better name")
        await page.see("#session-list a", "Second one")
        await page.press(Keys.ESCAPE)
        await page.click("#session-list a", "Better name")
        await page.see("#title", "Better name")
        await page.click("#session-menu")
        await page.click(".menu button", "Close")
        await page.click("dialog button", "Close")
        await page.see("#ended", "This session is closed.")
        await page.see("#session-list .dot.is-closed")
        await page.see_not("#composer")
        await page.click("#ended button", "Go on in a fork")
        await page.see("#title", "Better name (fork)")
        await page.see("#composer")
        await page.click("#session-menu")
        await page.click(".menu button", "Delete")
        await page.click("dialog button", "Delete")
        await page.see_not("#session-list a", "Better name (fork)")
        await page.see("#welcome")


async def test_session_deleted_elsewhere_says_so(page: Page) -> None:
    puppet = Puppet()
    async with open_chat(page, puppet) as site:
        (await begin(page, puppet)).finish()
        session = (await site.test.client.list_sessions()).sessions[0]
        await site.test.client.delete_session(session.id)
        await page.see("#ended", "This session was deleted.")
        await page.reload()
        await page.see(".toast", "Session not found")
        await page.see("#welcome")


async def test_older_messages_come_when_asked_for(page: Page) -> None:
    puppet = Puppet()
    async with open_chat(page, puppet) as site:
        session = await site.test.client.create_session(name="Long")
        for number in range(100):
            await site.test.client.add_message(session.id, "user", f"note {number}")
        await page.open(f"{site.url}#/s/{session.id}")
        await page.see(".from-user", "note 99")
        assert len(await page.find("article.message")) == 40
        await page.script("document.querySelector('.column .older').click()")
        await page.wait("document.querySelectorAll('article.message').length === 80")
        await page.script("document.querySelector('.column .older').click()")
        await page.wait("document.querySelectorAll('article.message').length === 100")
        texts = await page.script(
            "return [...document.querySelectorAll('.said')].map((e) => e.textContent)"
        )
        assert texts == [f"note {number}" for number in range(100)]
        await page.see_not(".column .older")


async def test_long_session_does_not_grow_without_end(page: Page) -> None:
    async def say_much(turn: Turn) -> None:
        for _ in range(205):
            await turn.write("so", kind="reasoning")
            await turn.write("and so")
        await turn.write(" on.")

    async with open_chat(page, say_much):
        await page.say("Go on")
        await page.see(".end, .message", "and so on.")
        count = "document.querySelectorAll('.log > *').length"
        await page.wait(f"{count} <= 400")
        await page.script("document.querySelector('#scroller').scrollTop = 0")
        await page.see(".latest")
        before = await page.script(f"return {count}")
        await page.click(".column .older")
        await page.wait(f"{count} === args[0] + 40", before)


async def test_files_go_with_a_message(page: Page, tmp_path: Path) -> None:
    puppet = Puppet()
    file = tmp_path / "notes.txt"
    file.write_bytes(b"Hi")
    transfer = """
        const [target, type, name, size] = arguments, data = new DataTransfer();
        data.items.add(new File(["x".repeat(size)], name, { type: "image/png" }));
        const init = { clipboardData: data, dataTransfer: data, bubbles: true, cancelable: true };
        const event = type === "paste" ? new ClipboardEvent(type, init) : new DragEvent(type, init);
        return document.querySelector(target).dispatchEvent(event);
    """
    async with open_chat(page, puppet):
        await page.choose("#files", file)
        await page.see("#attached li", "notes.txt")
        assert not await page.script(transfer, "#message", "paste", "pasted.png", 3)
        await page.see("#attached li", "pasted.png")
        assert not await page.script(transfer, "main", "drop", "dropped.png", 0)
        await page.see("#attached li", "dropped.png")
        await page.click("#attached button[aria-label*=pasted]")
        await page.see_not("#attached li", "pasted.png")
        assert not await page.script(transfer, "main", "drop", "large.png", 262_144)
        await page.see(".toast", "“large.png” is too large")
        await page.shoot("attached")
        await page.click("#send")
        led = await puppet.next_turn()
        files = led.turn.input.attachments or ()
        assert [(file.name, file.media_type, file.data) for file in files] == [
            ("notes.txt", "text/plain", "SGk="),
            ("dropped.png", "image/png", ""),
        ]
        await page.see(".from-user:not(.sending) .files", "notes.txt")
        await page.see("#title", "notes.txt")
        assert await page.find("#attached li") == []
        await page.choose("#files", file)
        await page.see("#attached li", "notes.txt")
        await page.say("Later")
        await page.click("#queue button")
        await page.see("#attached li", "notes.txt")
        led.finish()


async def test_what_was_refused_comes_back_before_what_was_written_meanwhile(page: Page) -> None:
    """It was lost."""
    puppet = Puppet()
    async with open_chat(page, puppet, max_message_bytes=4096):
        (await begin(page, puppet)).finish()
        await page.script("""
            const input = document.querySelector("#message");
            input.value = "x".repeat(5000);
            input.form.requestSubmit();
            input.value = "and more";
        """)
        await page.see(".toast")
        await page.wait(
            'document.querySelector("#message").value === "x".repeat(5000) + "\\nand more"'
        )


async def test_agent_is_chosen_for_a_new_session(page: Page) -> None:
    one, two = Puppet(), Puppet()
    async with open_chat(page, {"one": one, "two": two}):
        await page.see("#agent")
        await page.script("document.querySelector('#agent').value = 'two'")
        (await begin(page, two)).finish()
        await page.see("#agent-name", "two")


async def test_credential_is_asked_for_and_kept_in_the_tab(page: Page) -> None:
    """PROTOCOL §3.1: it goes into hello, and never into an address."""

    async def authenticate(credential: Any, _peer: Any) -> str:
        await trio.lowlevel.checkpoint()
        if credential.token != "open sesame":
            raise UnauthorizedError("Unknown or wrong credential")
        return "ada"

    puppet = Puppet()
    async with open_chat(page, puppet, authenticate=authenticate, token="open sesame") as site:
        await page.see("#credential", "Credential")
        await page.press(Keys.ESCAPE)
        await page.see("#banner", "Not connected.")
        await page.click("#retry")
        await page.see("#credential", "Credential")
        await page.type("wrong")
        await page.click("#credential button", "Connect")
        await page.see("#credential-why", "Unknown or wrong credential")
        await page.press(Keys.CONTROL, "a")
        await page.type("open sesame")
        await page.click("#credential button", "Connect")
        await page.see("html[data-state=connected]")
        led = await begin(page, puppet)
        led.finish()
        await page.reload()
        await page.see(".from-user", "Hello")
        assert not [path for path in site.fetched if "sesame" in path]
        kept = await page.script(
            "return [JSON.stringify(localStorage), location.href, document.cookie]"
        )
        assert not any("sesame" in text for text in kept)


async def test_revoked_credential_is_asked_for_anew_and_the_session_goes_on(page: Page) -> None:
    """PROTOCOL §3.6, and what a credential does not allow is not offered."""
    revocation = Revocation()

    async def authenticate(credential: Any, _peer: Any) -> Identity:
        await trio.lowlevel.checkpoint()
        if credential.token == "first" and revocation.is_revoked:
            raise UnauthorizedError("Not a valid credential")
        scopes = {"read"} if credential.token == "reader" else {"read", "write", "answer"}
        return Identity(
            principal="ada",
            scopes=scopes,
            revocation=revocation if credential.token == "first" else None,
        )

    puppet = Puppet()
    async with open_chat(page, puppet, authenticate=authenticate, token="owner"):
        page.may_lose_connection = True
        await give_credential(page, "first")
        led = await begin(page, puppet)
        led.write("One, ")
        await page.see(".from-assistant", "One,")
        revocation.revoke()
        await give_credential(page, "second")
        led.write("two.")
        led.finish()
        await page.see(".from-assistant:not(.streaming)", "One, two.")
        await page.click("#open-credential")
        await give_credential(page, "reader")
        await page.see("#ended", "allows to read, and not to write")
        await page.see(".from-assistant", "One, two.")


async def give_credential(page: Page, token: str) -> None:
    """Fill in the dialog that is or will be open."""
    await page.see("#credential")
    await page.script("document.querySelector('#token').select()")
    await page.type(token)
    await page.click("#credential button", "Connect")
    await page.see("html[data-state=connected]")
    await page.see_not("#credential")


async def test_session_of_an_older_page_is_found_by_its_name(page: Page) -> None:
    async with open_chat(page, Puppet()) as site:
        for number in range(60):
            await site.test.client.create_session(name=f"Session {number}")
        await page.reload()
        await page.see("#session-list a", "Session 59")
        assert len(await page.find("#session-list a")) == 50
        await page.click("#search")
        await page.type("session 7")
        await page.see("#session-list a", "Session 7")
        await page.press(Keys.CONTROL, "a")
        await page.press(Keys.BACKSPACE)
        await page.wait("document.querySelectorAll('#session-list a').length === 60")
        await page.see_not("#more-sessions")
        # Asked for again, the newest page does not bring the button back, nor take the others away.
        await page.script("document.dispatchEvent(new Event('visibilitychange'))")
        await site.test.client.create_session(name="The newest")
        await page.script("document.dispatchEvent(new Event('visibilitychange'))")
        await page.see("#session-list a", "The newest")
        assert len(await page.find("#session-list a")) == 61
        await page.see_not("#more-sessions")


async def test_search_while_not_connected_ends(page: Page) -> None:
    """A bug once seen: it asked for the next page in a loop that never let anything else run."""
    async with open_chat(page, Puppet()) as site:
        page.may_lose_connection = True
        for number in range(60):
            await site.test.client.create_session(name=f"Session {number}")
        await page.reload()
        await page.see("#more-sessions")
        site.is_up = False
        site.cut()
        await page.see("#banner", "Connecting again")
        await page.click("#search")
        await page.type("session 5")
        await page.wait("document.querySelectorAll('#session-list a').length === 10")
