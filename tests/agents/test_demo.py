"""The agent `demo`: what it says, what it remembers, and how it takes being interrupted."""

from datetime import UTC, datetime
from itertools import pairwise

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from trialogue.agents.demo import Demo, Tempo, demo
from trialogue.core.errors import AgentError
from trialogue.core.models import Attachment, SessionConfig

from .fake import FakeSession, FakeTurn

NOW = datetime(2026, 11, 23, 14, 5, tzinfo=UTC)
SILENT = Tempo(start=0, word=0, comma=0, stop=0, tool=0)


@pytest.fixture
def session() -> FakeSession:
    """A talk with the demo, on a Monday in November."""
    return FakeSession(Demo(clock=lambda: NOW))


def configured(**config: object) -> FakeSession:
    return FakeSession(
        Demo(clock=lambda: NOW, tempo=SILENT),
        attrs.evolve(SessionConfig(), **config),  # type: ignore[arg-type]
    )


# -- what it says ----------------------------------------------------------------------------


async def test_it_speaks_word_by_word_with_pauses(
    autojump_clock: MockClock, session: FakeSession
) -> None:
    turn = await session.tell("Hello!")
    assert turn.text == ("Hello! I am the demo. Ask me “What can you do?”, or tell me your name.")
    assert [text for _, _, text in turn.pieces][:4] == ["Hello!", " I", " am", " the"]
    times = [at for at, _, _ in turn.pieces]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] > 0
    assert all(pause > 0 for pause in pauses)
    assert pauses[0] > pauses[1]  # after a full stop, longer
    assert times[-1] < 3


async def test_help_names_what_then_works(autojump_clock: MockClock, session: FakeSession) -> None:
    """Whatever stands in quotation marks in the help is understood."""
    said = await session.ask("What can you do?")
    examples = [part.partition("”")[0] for part in said.split("“")[1:]]
    assert len(examples) >= 12
    for example in examples:
        turn = await session.tell(example)
        if example in {"Please fail", "Please crash"}:
            assert turn.error is not None
        else:
            assert turn.error is None
            assert "“What can you do?” tells" not in turn.text, example
            assert "ask me “What can you do?”" not in turn.text, example


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("Who are you?", "I am the demo of Trialogue: a small program that talks"),
        ("How are you?", "All my tasks are running, thank you."),
        ("thanks!", "You are welcome."),
        ("Bye", "Goodbye!"),
        ("say hello world", "hello world"),
        ("Stop!", "I am not doing anything just now."),
        ("", "You say nothing, and I have nothing to add."),
        ("   \n ", "You say nothing, and I have nothing to add."),
        ("Xyzzy plugh", "Xyzzy plugh"),
        ("What are your instructions?", "I have no instructions; a session's system prompt"),
    ],
)
async def test_small_talk(
    autojump_clock: MockClock, session: FakeSession, said: str, answer: str
) -> None:
    assert answer in await session.ask(said)


async def test_several_sentences_are_answered_one_by_one(
    autojump_clock: MockClock, session: FakeSession
) -> None:
    turn = await session.tell("Hi, I'm Ada. I live in Vienna. What is 2+2?")
    assert turn.text == "Nice to meet you, Ada! Good to know: you live in Vienna.|2 + 2 is 4."


async def test_attachment_is_noticed() -> None:
    agent = Demo(clock=lambda: NOW, tempo=SILENT)
    turn = FakeTurn("")
    file = Attachment(name="notes.txt", media_type="text/plain", data="")
    turn.replace_input(attachments=(file,))
    assert (await turn.run(agent)).text == "Thank you for notes.txt, but I cannot open files."


# -- tools and reasoning -----------------------------------------------------------------------


async def test_sum_is_a_tool_call(autojump_clock: MockClock, session: FakeSession) -> None:
    turn = await session.tell("What is 12 * (3 + 4)?")
    (tool,) = turn.tools
    assert (tool.name, tool.arguments) == ("calculator", {"expression": "12 * ( 3 + 4 )"})
    assert (tool.status, tool.result) == ("ok", "84")
    assert turn.text == "12 * (3 + 4) is 84."


async def test_sum_without_an_answer_is_a_tool_that_fails(
    autojump_clock: MockClock, session: FakeSession
) -> None:
    turn = await session.tell("1/0")
    assert (turn.tools[0].status, turn.error) == ("error", None)
    assert turn.text == "Nothing can be divided by zero."


async def test_dates_are_a_tool_call(autojump_clock: MockClock, session: FakeSession) -> None:
    turn = await session.tell("How many days until 24 December?")
    (tool,) = turn.tools
    assert tool.arguments == {"question": "until", "date": "2026-12-24"}
    assert tool.result == {"date": "2026-12-24", "weekday": "Thursday", "days": 31}
    assert turn.text == "31 days (4 weeks and 3 days) until Thursday, 24 December 2026."
    assert await session.ask("days until 30 February") == "February never has a day 30."


async def test_clock_is_this_machines_if_no_other_is_given(autojump_clock: MockClock) -> None:
    assert str(datetime.now(UTC).astimezone().year) in await FakeSession(demo).ask("what day is it")


async def test_timer_reports_how_far_it_is(autojump_clock: MockClock, session: FakeSession) -> None:
    turn = await session.tell("Set a timer for 3 seconds, please")
    (tool,) = turn.tools
    assert (tool.name, tool.arguments) == ("timer", {"seconds": 3})
    assert tool.progress == [
        {"text": "3 s left", "progress": 0, "total": 3},
        {"text": "2 s left", "progress": 1, "total": 3},
        {"text": "1 s left", "progress": 2, "total": 3},
    ]
    assert trio.current_time() > 3
    assert "600 seconds" in await session.ask("timer 3000 minutes")


async def test_why_is_thought_about_first(autojump_clock: MockClock, session: FakeSession) -> None:
    turn = await session.tell("Why is the sky blue?")
    assert [message.kind for message in turn.written] == ["reasoning", "text"]
    assert "not spoken before" in turn.reasoning
    assert "Why is the sky blue" in turn.text
    again = await session.tell("Why is it blue?")
    assert "spoken once before" in again.reasoning
    assert (await session.ask("Should I have tea?")).startswith(("Yes", "No"))


async def test_it_fails_and_crashes_when_asked_to(
    autojump_clock: MockClock, session: FakeSession
) -> None:
    failed = await session.tell("Please fail.")
    assert isinstance(failed.error, AgentError)
    crashed = await session.tell("crash!")
    assert type(crashed.error) is RuntimeError
    assert crashed.text == "Here it"


# -- memory ------------------------------------------------------------------------------------


async def test_it_remembers_what_it_was_told(
    autojump_clock: MockClock, session: FakeSession
) -> None:
    for told in (
        "Hello",
        "My name is Ada. My cat is called Tom, and I live in Vienna!",
        "I like green tea but I hate coffee",
        "I'm 36 years old and I'm from Graz.",
        "Please remember that the key is under my mat.",
    ):
        await session.tell(told)
    for question, answer in (
        ("What is my name?", "Your name is Ada."),
        ("Who am I?", "Your name is Ada."),
        ("Hello", "Hello, Ada!"),
        ("What's my cat called?", "Your cat is called Tom."),
        ("do you remember my cat?", "Your cat is called Tom."),
        ("Where do I live?", "You live in Vienna."),
        ("Where am I from?", "You are from Graz."),
        ("What do I like?", "You like green tea."),
        ("what do I hate?", "You hate coffee."),
        ("How old am I?", "You told me that you are 36 years old."),
        ("What did I tell you to remember?", "You told me to remember: the key is under your mat."),
        ("What is my favourite colour?", "You have not told me about your favourite colour."),
        ("What do I play?", "You have not told me."),
        ("What did I say first?", "The first thing you said was “Hello”."),
        ("What did I just say?", "Just before this you said “What did I say first?”."),
        ("What did you say?", "The last thing I said was “Just before this you said"),
        ("How many messages have I sent?", "With this one, you have sent 22 messages."),
    ):
        assert (await session.ask(question)).startswith(answer), question
    known = await session.ask("What do you know about me?")
    assert known == (
        "I know that your name is Ada, your cat is called Tom, you live in Vienna, you like green "
        "tea, you hate coffee, you are 36 years old and you are from Graz."
    )
    summary = await session.ask("Summarise our talk.")
    assert summary.startswith("You have sent 24 messages, and I have answered 23. You told me that")
    assert "You began with “Hello”. You asked “What is my name?”, “Who am I?”" in summary


async def test_it_remembers_nothing_that_was_not_said(
    autojump_clock: MockClock, session: FakeSession
) -> None:
    for question, answer in (
        ("What did I say first?", "This is the first thing you say."),
        ("What is my name?", "You have not told me your name yet."),
        ("What do you know about me?", "I know nothing about you yet."),
        ("What did I ask you to remember?", "You have not told me to remember anything."),
    ):
        assert (await session.ask(question)).startswith(answer)


async def test_what_is_told_anew_takes_the_place_of_the_old(
    autojump_clock: MockClock, session: FakeSession
) -> None:
    await session.ask("My name is Ada. I live in Vienna. My cat is small.")
    said = await session.ask("Call me Bob. I live in Graz. My cat is big.")
    assert said.startswith("Then I will call you Bob, and not Ada any more.")
    assert await session.ask("I am called Bob") == "I know, Bob."
    known = await session.ask("what do you know about me?")
    assert known == "I know that your name is Bob, you live in Graz and your cat is big."


@pytest.mark.parametrize(
    "said", ["I'm tired of this", "Call me later", "My name is not important", "Is my name Ada?"]
)
async def test_not_everything_is_a_name(
    autojump_clock: MockClock, session: FakeSession, said: str
) -> None:
    await session.ask(said)
    assert await session.ask("What is my name?") == "You have not told me your name yet."


async def test_memory_is_the_sessions_and_not_the_agents(
    autojump_clock: MockClock, session: FakeSession
) -> None:
    """A fork or a restarted server knows as much."""
    await session.ask("My name is Ada")
    other = FakeSession(Demo(clock=lambda: NOW))
    assert await other.ask("Who am I?") == "You have not told me your name yet."
    other.messages = session.messages
    assert await other.ask("Who am I?") == "Your name is Ada."


async def test_same_talk_gets_the_same_answers(autojump_clock: MockClock) -> None:
    talk = ["Hello", "flip a coin", "roll a die", "Blah", "Blah", "what day is it", "roll a die"]

    async def tell_all() -> list[str]:
        session = FakeSession(Demo(clock=lambda: NOW))
        return [await session.ask(text) for text in talk]

    assert await tell_all() == await tell_all()


# -- long answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("count to 5", "1, 2, 3, 4, 5. Done!"),
        ("Count down from 3!", "3, 2, 1. Done!"),
        ("count from 3 to 6", "3, 4, 5, 6. Done!"),
        ("please count backwards from 6 to 4", "6, 5, 4. Done!"),
        ("count to 100000", "I only count to 1,000."),
    ],
)
async def test_it_counts(
    autojump_clock: MockClock, session: FakeSession, said: str, answer: str
) -> None:
    assert await session.ask(said) == answer


async def test_long_answers_take_long_enough_to_be_cancelled(
    autojump_clock: MockClock, session: FakeSession
) -> None:
    await session.ask("Count to 100")
    counted = trio.current_time()
    await session.ask("Tell me a long story")
    assert counted > 15
    assert trio.current_time() - counted > 15


async def test_cancelled_answer_still_reports_its_usage(
    autojump_clock: MockClock, session: FakeSession
) -> None:
    turn = session.open_turn("count to 100")
    with trio.move_on_after(2) as scope:
        await turn.run(session.agent)
    assert scope.cancelled_caught
    assert turn.text == "1, 2, 3, 4, 5, 6,"
    assert (turn.usage.input_tokens, turn.usage.output_tokens) == (3, 6)


async def interrupt(session: FakeSession, text: str, *heard: str) -> FakeTurn:
    """Say something while a long answer is being given."""
    turn = session.open_turn(text)
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn.run, session.agent)
            for said in heard:
                await trio.sleep(1.5)
                turn.steer(said)
    session.messages = turn.messages
    assert turn.error is None
    assert not turn.waiting_steering
    return turn


async def test_it_mentions_what_is_said_in_between_and_goes_on(
    autojump_clock: MockClock, session: FakeSession
) -> None:
    turn = await interrupt(session, "count to 12", "It is raining", "I am Ada")
    before, _, after = turn.text.partition(" – You say “It is raining”. I will keep it in mind.")
    last = int(before.rstrip(",").rpartition(" ")[2])
    assert after.startswith(f" I was at {last}. {last + 1},")
    assert "– You say “I am Ada”. Nice to meet you, Ada!" in after
    assert after.endswith("11, 12. Done!")
    assert (
        await session.ask("What did I say first?") == "The first thing you said was “count to 12”."
    )
    assert await session.ask("Who am I?") == "Your name is Ada."


async def test_it_answers_a_question_in_between(
    autojump_clock: MockClock, session: FakeSession
) -> None:
    turn = await interrupt(session, "Tell me a story", "What is 2+2?", "Count to 50!")
    assert turn.tools[0].result == "4"
    assert "– You say “What is 2+2?”." in turn.text
    assert "|2 + 2 is 4. Where was I? Yes:" in turn.text
    assert "One long answer at a time, please. Where was I? Yes:" in turn.text
    assert turn.text.endswith("she is sleeping still.")


async def test_it_stops_when_told_to(autojump_clock: MockClock, session: FakeSession) -> None:
    turn = await interrupt(session, "Count to 100", "Thank you, that is enough!")
    assert turn.text.endswith(", – All right, I stop here.")
    assert turn.stop_reason == "steered"
    assert trio.current_time() < 4


async def test_it_hurries_and_slows_down_when_told_to(
    autojump_clock: MockClock, session: FakeSession
) -> None:
    async def time_of(*heard: str) -> float:
        before = trio.current_time()
        await interrupt(session, "Count to 50", *heard)
        return trio.current_time() - before

    plain = await time_of()
    assert await time_of("faster, please") < plain * 0.7
    assert await time_of("slower, please") > plain * 1.5


# -- configuration -----------------------------------------------------------------------------


async def test_system_prompt_gives_it_a_name_and_a_voice() -> None:
    session = configured(system_prompt="You are Marvin, a robot. Answer in capital letters.")
    assert await session.ask("Who are you?") == "I AM MARVIN, PLAYED BY THE DEMO OF TRIALOGUE."
    assert "YOU ARE MARVIN, A ROBOT." in await session.ask("What are your instructions?")
    assert (await configured(system_prompt="You are a poet.").ask("hi")).startswith(
        "Hello! I am the demo."
    )


async def test_model_that_is_asked_for_is_named() -> None:
    said = await configured(model="gpt-9").ask("What model are you? Who are you?")
    assert "This session asks for the model “gpt-9”, which I cannot be." in said


async def test_high_temperature_is_heard() -> None:
    plain = await configured(temperature=0.2).ask("thanks")
    assert plain == "You are welcome."
    warm = await configured(temperature=1.5).ask("thanks")
    assert warm.startswith("You are welcome. ")
    assert warm.endswith((".", "!"))


async def test_max_tokens_are_words() -> None:
    turn = await configured(max_tokens=4).tell("Tell me a story")
    assert turn.text == "Once upon a time"
    assert turn.stop_reason == "max_tokens"
    assert turn.usage.output_tokens == 4
    assert (await configured(max_tokens=0).tell("hi")).text == ""


async def test_tools_that_are_not_allowed_are_not_used() -> None:
    session = configured(tools=("calendar",))
    assert await session.ask("2+2") == "In this session I may not use the calculator."
    assert (await session.tell("what day is it")).tools
    assert "may not use the calendar" in await configured(tools=()).ask("what day is it")


async def test_usage_counts_words_as_tokens() -> None:
    session = configured(system_prompt="Be kind, please.")
    first = (await session.tell("How are you?")).usage
    assert (first.input_tokens, first.output_tokens) == (3 + 3, 7)
    second = (await session.tell("thanks")).usage
    assert (second.input_tokens, second.output_tokens) == (3 + 3 + 7 + 1, 3)


# -- anything ----------------------------------------------------------------------------------

WORDS = (
    "my name is I am what count to 3 timer for 2 seconds why should you remember that cat days "
    "until 24 december 2+2 ( ) ! ? . – “ ’ story fail"
)
phrases = st.lists(
    st.sampled_from(WORDS.split()) | st.text(max_size=8),
    max_size=12,
).map(" ".join)


@given(st.lists(phrases, min_size=1, max_size=3))
@settings(max_examples=60)
def test_anything_can_be_said_to_it(said: list[str]) -> None:
    """No input makes it crash, and every answer is the words it streamed."""

    async def talk() -> None:
        session = FakeSession(Demo(clock=lambda: NOW))
        for text in said:
            turn = await session.tell(text)
            assert turn.error is None or isinstance(turn.error, AgentError)
            assert turn.error or turn.text.strip() == turn.text != ""

    trio.run(talk, clock=MockClock(autojump_threshold=0))


async def test_long_input_and_long_history_are_read_quickly() -> None:
    """A peer chooses how much it says; patterns look at the beginning of it only."""
    session = configured()
    for text in (
        "my " * 80_000,
        "count " * 40_000,
        "(" * 200_000,
        "i like " * 40_000,
        "a" * 250_000,
    ):
        with trio.fail_after(5):
            assert await session.ask(text)
