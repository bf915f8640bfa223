"""What the demo answers to questions about the conversation itself. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from ._demo_memory import Memory, is_question

__all__ = ["recall"]

#: Of what is quoted; the rest is an ellipsis.
_MAX_QUOTE: Final = 60
_MAX_QUOTES: Final = 4


def recall(sentence: str, memory: Memory) -> str | None:
    """Answer a question about what was said and what is known; None if it is about neither."""
    for pattern, answer in _QUESTIONS:
        if match := pattern.search(sentence):
            return answer(match, memory)
    return None


def quote(text: str) -> str:
    """Put a text into quotation marks, shortened."""
    text = " ".join(text.split())
    return f"“{text if len(text) <= _MAX_QUOTE else text[: _MAX_QUOTE - 1].rstrip() + '…'}”"


def join(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _name(_: re.Match[str], memory: Memory) -> str:
    if memory.name is None:
        return "You have not told me your name yet."
    return f"Your name is {memory.name}."


def _first(_: re.Match[str], memory: Memory) -> str:
    if not memory.heard:
        return "This is the first thing you say."
    return f"The first thing you said was {quote(memory.heard[0])}."


def _last(_: re.Match[str], memory: Memory) -> str:
    if not memory.heard:
        return "You have said nothing before this."
    return f"Just before this you said {quote(memory.heard[-1])}."


def _own_last(_: re.Match[str], memory: Memory) -> str:
    if not memory.said:
        return "I have said nothing yet."
    return f"The last thing I said was {quote(memory.said[-1])}."


def _count(_: re.Match[str], memory: Memory) -> str:
    count = len(memory.heard) + 1
    return f"With this one, you have sent {count} message{'s' if count > 1 else ''}."


def _known(_: re.Match[str], memory: Memory) -> str:
    known = _list_known(memory)
    if not known:
        return "I know nothing about you yet. Tell me your name, or that your cat is called Tom."
    return f"I know that {join(known)}."


def _noted(_: re.Match[str], memory: Memory) -> str:
    if not memory.notes:
        return "You have not told me to remember anything."
    return f"You told me to remember: {join(memory.notes)}."


def _mine(match: re.Match[str], memory: Memory) -> str | None:
    thing = re.sub(r"(?: called| named| like|'s name)$", "", match[1].lower().strip())
    if thing == "name":
        return _name(match, memory)
    for key, fact in memory.facts.items():
        if key == thing or thing.removesuffix("s") == key.removesuffix("s"):
            return f"{fact[0].upper()}{fact[1:]}."
    return f"You have not told me about your {thing}." if len(thing.split()) < 4 else None


def _doing(match: re.Match[str], memory: Memory) -> str:
    verb = next(word for word in match.groups() if word).lower()
    facts = [
        fact for key, fact in memory.facts.items() if re.match(rf"(?:am |come )?{verb}\b", key)
    ]
    if not facts:
        return "You have not told me."
    told = join(facts)
    return f"{told[0].upper()}{told[1:]}."


def _age(_: re.Match[str], memory: Memory) -> str:
    fact = memory.facts.get("am")
    return f"You told me that {fact}." if fact else "You have not told me."


def _summary(_: re.Match[str], memory: Memory) -> str:
    if not memory.heard:
        return "We have only just begun."
    parts = [
        f"You have sent {len(memory.heard) + 1} messages, and I have answered {len(memory.said)}."
    ]
    known = _list_known(memory)
    if known:
        parts.append(f"You told me that {join(known)}.")
    parts.append(f"You began with {quote(memory.heard[0])}.")
    asked = [text for text in memory.heard[1:] if is_question(text)]
    if asked:
        more = f", and {len(asked) - _MAX_QUOTES} more" if len(asked) > _MAX_QUOTES else ""
        parts.append(f"You asked {', '.join(quote(text) for text in asked[:_MAX_QUOTES])}{more}.")
    return " ".join(parts)


def _list_known(memory: Memory) -> list[str]:
    name = [f"your name is {memory.name}"] if memory.name else []
    return [*name, *memory.facts.values()]


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


#: The first that fits answers.
_QUESTIONS: Final[
    tuple[tuple[re.Pattern[str], Callable[[re.Match[str], Memory], str | None]], ...]
] = (
    (
        _compile(r"\bsumm?(?:ary|ari[sz]e)\b|\bwhat have we (?:talked|spoken)|\bsum .*\bup\b"),
        _summary,
    ),
    (_compile(r"\bwho am i\b|\bwhat(?:'s| is) my name\b|\bknow my name\b"), _name),
    (
        _compile(r"\bfirst (?:thing|message|question)\b|\bi (?:say|said|ask|tell you) first\b"),
        _first,
    ),
    (_compile(r"\bhow many (?:messages|things|questions)\b"), _count),
    (
        _compile(r"\bwhat did you (?:just )?(?:say|answer|mean)|\bsay that again\b|^repeat that"),
        _own_last,
    ),
    (
        _compile(
            r"\b(?:told|asked|tell|ask) you to (?:remember|note)|\byour notes\b|\bwhat did you note"
        ),
        _noted,
    ),
    (
        _compile(
            r"\bwhat did i (?:just )?(?:say|ask|tell)|\bmy (?:last|previous) (?:message|question)"
            r"|\bi (?:say|said) (?:last|before)\b"
        ),
        _last,
    ),
    (
        _compile(
            r"\b(?:know|remember) (?:\w+ )?(?:about|of) me\b|\bwhat do you (?:know|remember)\b"
        ),
        _known,
    ),
    (_compile(r"\bhow old am i\b"), _age),
    (
        _compile(
            r"\bwhere do i (live|come from|work|study)\b|\bwhere am i (from)\b"
            r"|\bwhat do i (like|love|hate|prefer|have|own|study|play|speak)\b"
        ),
        _doing,
    ),
    (
        _compile(r"\b(?:what|who|when|where|which)(?:'s|'re| is| are| was| were) my ([\w' -]+)"),
        _mine,
    ),
    (_compile(r"\bwhat (?:colou?r|kind|sort|name) \w* ?(?:is|are|has) my ([\w' -]+)"), _mine),
    (_compile(r"\bdo you (?:know|remember) my ([\w' -]+)"), _mine),
)
