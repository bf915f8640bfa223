"""The longer things that the demo has to say."""

from __future__ import annotations

from typing import Final

__all__ = ["ABILITIES", "EXCLAMATIONS", "PUZZLED", "STORY"]

#: Each with what to type.
ABILITIES: Final = """\
I am a small program without a model behind it, so that you can see what this server does. Try:
- “My name is Ada”, later “What is my name?”, “What did I say first?” or “Summarise our talk”: \
I remember what was said in this session
- “What is 12 * (3 + 4)?” or “7% of 250”: a tool at work
- “What day is it?” or “How many days until 24 December?”: another one
- “Set a timer for 10 seconds”: a tool that reports how far it is
- “Count to 100” or “Tell me a long story”: slow answers, worth cancelling, \
or say something in between
- “Why is the sky blue?” or “Should I have tea?”: I think before I answer
- “Please fail” or “Please crash”: what an error looks like
"""

EXCLAMATIONS: Final = ("How exciting!", "What a thing to ask!", "I do enjoy this.")

PUZZLED: Final = (
    "I am only a demo, and cannot follow {quote}. “What can you do?” tells what I understand.",
    "You say {reflected}. I can only nod: ask me “What can you do?”.",
    "I heard you{name}, but have no answer to {quote}. A sum, perhaps, or a story?",
    "That is beyond a program of my size. “What can you do?” tells what is not.",
)

_STORY: Final = """
Once upon a time there was a lighthouse at the end of the world{name}, and in it lived a keeper
called Trio.

Every evening she lit the lamp, and every morning she put it out, and between the two she talked
with the ships.

She had one rule, and it was painted over the door: nobody leaves before everybody is home.

So when a ship went out she wrote its name into a book, and when it came back she crossed it
out.

One autumn night, three ships were out at once.

The first was a fishing boat, and it sang as it went.

The second was a merchantman, so heavy with pepper that the gulls sneezed above it.

The third was a small paper boat, which somebody's child had sent off without asking.

Then the fog came, as thick as wool, and the singing stopped.

“Trio,” called the fishing boat, “I have lost my way, and I have forgotten what I was saying.”

“You were in the middle of the second verse,” said Trio, and looked into her book. “From there,
please.”

So the boat sang on from there, left out nothing, and sang nothing twice, and she steered it
home by its voice.

The merchantman came next, and it was in a hurry.

“I will not wait for the others,” it boomed. “Put out the lamp when I am in.”

But Trio pointed at the words over the door, and the merchantman grumbled, and dropped its
anchor, and waited.

Of the paper boat there was nothing to be heard, for a paper boat has no voice.

An hour went by, and then another.

“It has sunk,” said the merchantman.

“It may have,” said Trio. “But I do not know it, and what I do not know I do not write.”

So she took the small boat with the big lantern, told the fishing boat to ring the bell every
minute, and rowed out herself.

She rowed until the bell was as thin as a thread.

And there, between two waves, stood the paper boat, quite dry, in the one calm spot of the whole
sea.

“I was told to stop,” it seemed to say, “and so I stopped, and waited to be fetched.”

She set it on her knee and rowed back along the thread.

At the first light all three lay in the harbour, and Trio crossed the last name out of her book.

Then she put out the lamp, for everybody was home, and only then she went to bed.

And if nobody has interrupted her, she is sleeping still.
"""
#: Piece by piece, so that there is a place to listen between two of them.
STORY: Final = tuple(" ".join(piece.split()) for piece in _STORY.split("\n\n"))
