"""All targets, by name."""

from typing import Final

from . import _frames, _logs, _texts
from ._target import Target

__all__ = ["TARGETS"]

TARGETS: Final[dict[str, Target]] = {
    target.name: target for target in (*_frames.TARGETS, *_texts.TARGETS, *_logs.TARGETS)
}
