"""What the demo can do: each skill is a pattern of a sentence and what is then done."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import trio

from ..core.abc import ToolCall
from ..core.errors import AgentError
from ._arithmetic import SumError, evaluate, find_sum, format_number
from ._dates import DateError, find_question, look_up, phrase
from ._demo_memory import split_sentences, to_second_person
from ._demo_recall import quote, recall
from ._demo_talk import Talk
from ._demo_texts import ABILITIES, EXCLAMATIONS, PUZZLED, STORY

__all__ = ["answer"]

#: Sentences of one input that are answered.
_MAX_SENTENCES: Final = 6
_MAX_COUNT: Final = 1_000
_MAX_TIMER_SECONDS: Final = 600
#: Between two numbers, when counting.
_BEAT_SECONDS: Final = 0.2


async def answer(talk: Talk, text: str) -> None:
    """Answer what was said, sentence by sentence."""
    answered = False
    for sentence in split_sentences(text)[:_MAX_SENTENCES]:
        answered = await _answer_sentence(talk, sentence, aside=False) or answered
    if not answered:
        await _be_puzzled(talk, text)
    if talk.persona.warm:
        await talk.say(talk.pick(EXCLAMATIONS))


async def _answer_sentence(talk: Talk, sentence: str, *, aside: bool) -> bool:
    """Answer one sentence. An aside gets no answer that would be long. False if there is none."""
    for skill in _SKILLS:
        if match := skill.pattern.search(sentence):
            if aside and skill.is_long:
                await talk.say("One long answer at a time, please.")
            else:
                await skill.do(talk, match)
            return True
    if said := recall(sentence, talk.memory):
        await talk.say(said)
        return True
    if await _answer_date(talk, sentence) or await _answer_sum(talk, sentence):
        return True
    if acknowledged := talk.memory.learn(sentence):
        await talk.say(acknowledged)
        return True
    for pattern, said in _COURTESIES:
        if pattern.search(sentence):
            named = f", {talk.memory.name}" if talk.memory.name else ""
            await talk.say(said.format(name=named, self=talk.persona.name or "the demo"))
            return True
    return False


async def _be_puzzled(talk: Talk, text: str) -> None:
    names = [attachment.name for attachment in talk.turn.input.attachments or ()]
    if names:
        await talk.say(f"Thank you for {', '.join(names)}, but I cannot open files.")
    if not text.strip():
        if not names:
            await talk.say("You say nothing, and I have nothing to add.")
        return
    said = talk.pick(PUZZLED, "puzzled")
    await talk.say(
        said.format(
            quote=quote(text),
            reflected=quote(to_second_person(text)),
            name=f", {talk.memory.name}" if talk.memory.name else "",
        )
    )


# -- tools -----------------------------------------------------------------------------------


async def _answer_sum(talk: Talk, sentence: str) -> bool:
    expression = find_sum(sentence)
    if expression is None:
        return False
    if not talk.may_use("calculator"):
        await talk.say("In this session I may not use the calculator.")
        return True
    arguments = {"expression": expression}
    try:
        result = await talk.use_pure("calculator", arguments, lambda: _calculate(expression))
    except AgentError as exc:
        await talk.say(exc.message)
    else:
        spelt = re.sub(r"(?<=\() | (?=[)%!])", "", expression)
        await talk.say(f"{spelt} is {result}.")
    return True


def _calculate(expression: str) -> str:
    try:
        return format_number(evaluate(expression))
    except SumError as exc:
        raise AgentError(str(exc)) from exc


async def _answer_date(talk: Talk, sentence: str) -> bool:
    now = talk.clock()
    try:
        question = find_question(sentence, now.date())
    except DateError as exc:
        await talk.say(str(exc))
        return True
    if question is None:
        return False
    if not talk.may_use("calendar"):
        await talk.say("In this session I may not use the calendar.")
        return True
    arguments: dict[str, Any] = {"question": question.kind}
    if question.kind not in {"now", "today"}:
        arguments["date"] = question.day.isoformat()
    result = await talk.use_pure("calendar", arguments, lambda: look_up(question, now))
    await talk.say(phrase(question, result))
    return True


async def _set_timer(talk: Talk, match: re.Match[str]) -> None:
    seconds = int(match[1]) * (60 if match[2].lower().startswith("m") else 1)
    if not 1 <= seconds <= _MAX_TIMER_SECONDS:
        await talk.say(f"My timer takes 1 to {_MAX_TIMER_SECONDS} seconds.")
        return

    async def run(call: ToolCall) -> Any:
        for passed in range(seconds):
            call.report_progress(text=f"{seconds - passed} s left", progress=passed, total=seconds)
            await trio.sleep(1)
        return {"seconds": seconds}

    await talk.say(f"A timer for {seconds} seconds, from now.")
    await talk.use("timer", {"seconds": seconds}, run)
    await talk.say("Ding! The time is up.")


# -- long answers ----------------------------------------------------------------------------


async def _count(talk: Talk, match: re.Match[str]) -> None:
    down, begin, end = match[1], match[2], int(match[3])
    start = int(begin) if begin else end if down else 1
    stop = (1 if begin is None else end) if down else end
    if max(start, stop) > _MAX_COUNT:
        await talk.say(f"I only count to {_MAX_COUNT:,}.")
        return
    step = 1 if stop >= start else -1
    for number in range(start, stop + step, step):
        await _listen(talk, f"I was at {number - step}." if number != start else "")
        await talk.say(f"{number}{'.' if number == stop else ','}")
        await talk.pause(_BEAT_SECONDS)
    await talk.say("Done!")


async def _tell_story(talk: Talk, _: re.Match[str]) -> None:
    name = f", {talk.memory.name}," if talk.memory.name else ""
    for place, sentence in enumerate(STORY):
        await _listen(talk, "Where was I? Yes:" if place else "")
        await talk.say(sentence.replace("{name}", name).replace(",,", ","))


async def _listen(talk: Talk, resuming: str) -> None:
    """In a long answer, heed what somebody says in between, then go on."""
    while (heard := await talk.hear()) is not None:
        if _STOP.search(heard):
            await talk.say("– All right, I stop here.")
            talk.stop("steered")
        if _FASTER.search(heard):
            talk.hurry(0.4)
            await talk.say("(Faster, as you wish.)")
        elif _SLOWER.search(heard):
            talk.hurry(2.0)
            await talk.say("(Slower, as you wish.)")
        else:
            await talk.say(f"– You say {quote(heard)}.")
            known = [
                await _answer_sentence(talk, sentence, aside=True)
                for sentence in split_sentences(heard)[:_MAX_SENTENCES]
            ]
            if not any(known):
                await talk.say("I will keep it in mind.")
            if resuming:
                await talk.say(resuming)


_STOP: Final = re.compile(
    r"^\W*(?:please )?(?:stop|enough|halt|quiet|thank you|thanks|that(?:'s| is) enough|no more)\b",
    re.IGNORECASE,
)
_FASTER: Final = re.compile(r"\b(?:faster|hurry|quicker|quickly|speed up)\b", re.IGNORECASE)
_SLOWER: Final = re.compile(r"\b(?:slower|slow down|not so fast|slowly)\b", re.IGNORECASE)


# -- the others ------------------------------------------------------------------------------


async def _help(talk: Talk, _: re.Match[str]) -> None:
    await talk.say(ABILITIES.rstrip())


async def _introduce(talk: Talk, _: re.Match[str]) -> None:
    name = talk.persona.name
    await talk.say(
        f"I am {name}, played by the demo of Trialogue."
        if name
        else "I am the demo of Trialogue: a small program that talks, with no model behind it."
    )
    model = talk.turn.config.model
    if model is not None:
        await talk.say(f"This session asks for the model {quote(model)}, which I cannot be.")


async def _tell_instructions(talk: Talk, _: re.Match[str]) -> None:
    prompt = talk.persona.prompt
    if prompt is None:
        await talk.say("I have no instructions; a session's system prompt would give me some.")
    else:
        await talk.say(f"My instructions are {quote(prompt)}.")


async def _ponder(talk: Talk, match: re.Match[str]) -> None:
    """Think first: one kind of question shows what reasoning looks like."""
    question = match[0].strip().rstrip("?!. ")
    words = re.findall(r"[\w'-]+", question)[1:]  # the first is what made it a question
    subject = max(words, key=len, default=question)
    before = sum(subject.lower() in text.lower() for text in talk.memory.heard)
    await talk.think(
        f"The question is {quote(question)}. It seems to be about “{subject}”, of which we have "
        f"{f'spoken {before} times' if before > 1 else 'spoken once' if before else 'not spoken'} "
        f"before. "
    )
    letters = sum(character.isalpha() for character in question)
    if re.match(r"should", question, re.IGNORECASE):
        even = letters % 2 == 0
        await talk.think(
            f"There is something to be said for either. The question has {letters} letters, which "
            f"is {'an even' if even else 'an odd'} number, and that decides it."
        )
        await talk.say(
            f"{'Yes, you should' if even else 'No, better not'}: the letters of your question "
            f"are {'even' if even else 'odd'}. I have no better reason, being a demo."
        )
    else:
        await talk.think(
            "I know nothing of the world, only of this talk, and nothing in it answers this. It "
            "is better to say so than to make something up."
        )
        await talk.say(
            f"I thought about it, but {quote(question)} is more than I know. "
            f"An agent with a model behind it could tell you."
        )


async def _say_after(talk: Talk, match: re.Match[str]) -> None:
    await talk.say(match[1].strip(" \"“”'"))


async def _toss(talk: Talk, match: re.Match[str]) -> None:
    if match[0].lower().endswith("coin"):
        await talk.say(f"{talk.pick(('Heads', 'Tails'), 'coin')}.")
    else:
        await talk.say(f"{talk.pick('123456', 'die')}.")


async def _fail(_: Talk, __: re.Match[str]) -> None:
    raise AgentError("You asked me to fail, and so I did.")


async def _crash(talk: Talk, _: re.Match[str]) -> None:
    await talk.say("Here it")  # and no further, so that one sees a message that was cut
    raise RuntimeError("the demo was asked to crash")


@attrs.frozen
class _Skill:
    pattern: re.Pattern[str]
    do: Callable[[Talk, re.Match[str]], Awaitable[None]]
    is_long: bool


def _skill(
    pattern: str, do: Callable[[Talk, re.Match[str]], Awaitable[None]], *, is_long: bool = False
) -> _Skill:
    return _Skill(re.compile(pattern, re.IGNORECASE), do, is_long)


#: The first that fits is taken; before the questions about the talk, days and sums.
_SKILLS: Final = (
    _skill(
        r"^\W*/?help\W*$|^\W*\?\W*$|\bwhat (?:can|do|else can) you do\b|\bhelp me\b|\bcommands\b",
        _help,
    ),
    _skill(r"\b(?:who|what) are you\b|\bwhat(?:'s| is) your name\b|\byour model\b", _introduce),
    _skill(r"\byour (?:instructions|system prompt|prompt|orders)\b", _tell_instructions),
    _skill(
        r"\bcount (?:(down|backwards?) )?(?:from (\d{1,6}) )?"
        r"(?:(?:down )?(?:up )?to |from )(\d{1,6})",
        _count,
        is_long=True,
    ),
    _skill(r"\bstory\b", _tell_story, is_long=True),
    _skill(
        r"\b(?:timer|wait|sleep|alarm)\b\D{0,20}(\d{1,6})[ -]?"
        r"(s|secs?|seconds?|m|mins?|minutes?)\b",
        _set_timer,
        is_long=True,
    ),
    _skill(r"^(?:please )?(?:just )?fail\b", _fail),
    _skill(r"^(?:please )?(?:just )?crash\b", _crash),
    _skill(r"^(?:repeat after me|say)\b[:,]? (.+)$", _say_after),
    _skill(r"\b(?:flip|toss) (?:a|the) coin|\b(?:roll|throw) (?:a|the) di(?:e|ce)", _toss),
    _skill(r"\b(?:why|should (?:i|we))\b .*", _ponder),
)

_COURTESIES: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), said)
    for pattern, said in (
        (
            r"^(?:hi|hello|hey|good (?:morning|day|evening|afternoon)|greetings|howdy)\b",
            "Hello{name}! I am {self}. Ask me “What can you do?”, or tell me your name.",
        ),
        (r"\bhow are you\b|\bhow do you do\b", "All my tasks are running, thank you."),
        (r"\b(?:thank you|thanks|thx|cheers)\b", "You are welcome{name}."),
        (r"^(?:bye|goodbye|good night|see you|farewell)\b", "Goodbye{name}!"),
        (r"^(?:yes|ok|okay|sure|fine|great|good|nice|cool|wow)\b", "Good."),
        (r"^(?:no|nope|never)\b", "As you like."),
        (r"^(?:stop|enough|cancel)\b", "I am not doing anything just now."),
    )
)
