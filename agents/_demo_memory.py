"""What the demo knows of a conversation: who said what, and what it means. Pure.

It is worked out anew in each turn from the session's messages, so that nothing has to be kept:
it is the same after a restart, in a fork, and at another node.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from ..core.models import Message

__all__ = ["Memory", "is_question", "split_sentences", "to_second_person"]

#: A peer chooses how long a message is; so much of it is looked at.
_MAX_TEXT: Final = 2_000
_MAX_SENTENCE: Final = 400

_YOUR_WORDS: Final = {
    "i": "you",
    "me": "you",
    "my": "your",
    "mine": "yours",
    "myself": "yourself",
    "am": "are",
    "i'm": "you're",
    "i've": "you've",
    "i'll": "you'll",
    "i'd": "you'd",
    "you": "I",
    "your": "my",
    "yours": "mine",
    "yourself": "myself",
    "you're": "I'm",
}
_NAME: Final = r"([^\W\d_][\w'-]*(?: [A-Z][\w'-]*){0,2})"
_NAMINGS: Final = (
    re.compile(rf"(?i:\bmy name is|\bmy name's|\bcall me|\bi am called|\bi'm called) {_NAME}"),
    # Only with a capital, and nothing after it: "I'm Ada.", but not "I'm tired of this".
    re.compile(r"^(?i:(?:hi|hello|hey)?,? ?(?:i'm|i am|this is)) ([A-Z][\w'-]+)\W*$"),
)
_NO_NAMES: Final = frozenset(
    {"a", "again", "an", "back", "by", "if", "in", "it", "later", "maybe", "not", "please", "soon"}
    | {"the", "today", "tomorrow", "unknown", "when"}
)
#: Up to the next clause.
_WHAT: Final = r"([^.!?;]{1,120}?)(?=,? (?:and|but|while) (?:i|my)\b|[.!?;]|$)"
_QUESTION: Final = re.compile(
    r"^(?:what|who|where|when|why|how|which|do|does|did|is|are|was|can|could|will|would|should"
    r"|tell|say|repeat)\b|\?\s*$",
    re.IGNORECASE,
)
#: my cat is …
_BELONGING: Final = re.compile(
    rf"\bmy ([\w'-]+(?: [\w'-]+){{0,3}}?) (is|are|was|were) {_WHAT}", re.IGNORECASE
)
#: I live in …
_DOING: Final = re.compile(
    r"\bi (?:also |really )?(live in|come from|work as|work at|work for|like|love|hate|prefer|"
    rf"have|own|study|play|speak|am from|am(?= \d)) {_WHAT}",
    re.IGNORECASE,
)
#: Of these a new one takes the place of the old.
_ONE_OF_EACH: Final = frozenset({"live in", "come from", "am from", "am", "work as", "work at"})
_NOTING: Final = re.compile(
    r"^(?:please )?(?:remember|note|don't forget|do not forget)(?: that|:)? (.{2,200}?)[.!]*$",
    re.IGNORECASE,
)


def split_sentences(text: str) -> list[str]:
    """Split at full stops, question marks, exclamation marks and line ends."""
    parts = re.split(r"(?<=[.!?])\s+|\n+", text[:_MAX_TEXT].replace("’", "'"))
    return [" ".join(part.split())[:_MAX_SENTENCE] for part in parts if part.strip()]


def is_question(sentence: str) -> bool:
    """Whether it asks, or tells to say something."""
    return _QUESTION.search(sentence) is not None


def to_second_person(text: str) -> str:
    """Turn the speaker's words round: ``I like my cat`` → ``you like your cat``."""
    return re.sub(r"[\w']+", lambda match: _YOUR_WORDS.get(match[0].lower(), match[0]), text)


@attrs.define
class Memory:
    """What was said before, and what is known from it.

    Attributes:
        heard: The user's messages, oldest first.
        said: The agent's own.
        name: Of the user.
        facts: A sentence for each thing, in the second person: ``your cat is called Tom`` for
            ``cat``, ``you live in Vienna`` for ``live in``.
        notes: What was to be remembered.
    """

    heard: list[str] = attrs.field(factory=list)
    said: list[str] = attrs.field(factory=list)
    name: str | None = None
    facts: dict[str, str] = attrs.field(factory=dict)
    notes: list[str] = attrs.field(factory=list)

    def add(self, message: Message) -> None:
        """Take in a message of the conversation."""
        if message.role == "user":
            self.heard.append(message.content)
            for sentence in split_sentences(message.content):
                self.learn(sentence)
        elif message.role == "assistant" and message.kind == "text":
            self.said.append(message.content)

    def learn(self, sentence: str) -> str | None:
        """Take in what a sentence tells. Says how to acknowledge it; None if it tells nothing."""
        if is_question(sentence):
            return None
        if match := _NOTING.search(sentence):
            note = to_second_person(match[1])
            self.notes.append(note)
            self._learn_name(match[1])
            self._learn_facts(match[1])
            return f"I will remember: {note}."
        named = self._learn_name(sentence)
        learnt = self._learn_facts(sentence)
        known = f"Good to know: {' and '.join(learnt)}." if learnt else None
        return " ".join(part for part in (named, known) if part) or None

    def _learn_name(self, sentence: str) -> str | None:
        for pattern in _NAMINGS:
            match = pattern.search(sentence)
            if match is None or match[1].lower() in _NO_NAMES:
                continue
            before, self.name = self.name, match[1][:1].upper() + match[1][1:]
            if before is None:
                return f"Nice to meet you, {self.name}!"
            if before == self.name:
                return f"I know, {self.name}."
            return f"Then I will call you {self.name}, and not {before} any more."
        return None

    def _learn_facts(self, sentence: str) -> list[str]:
        """Take in the facts of a sentence, and list them."""
        learnt: dict[str, str] = {}
        sentence = re.sub(r"\bi'm\b", "I am", sentence, flags=re.IGNORECASE)
        for match in _BELONGING.finditer(sentence):
            thing, verb, what = match[1].lower(), match[2].lower(), match[3].strip()
            if thing != "name":
                learnt[thing] = f"your {thing} {verb} {to_second_person(what)}"
        for match in _DOING.finditer(sentence):
            verb, what = match[1].lower(), match[2].strip()
            key = verb if verb in _ONE_OF_EACH else f"{verb} {what}"
            spoken = verb.replace("am", "are", 1) if verb.startswith("am") else verb
            learnt[key] = f"you {spoken} {to_second_person(what)}"
        self.facts.update(learnt)
        return list(learnt.values())
