"""Samples varied while a model is trained on them: pictures are moved, turned over and mixed; all else stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

_SMALLEST: Final = 16  # sides of a picture, at least
_COLOURS: Final = (1, 3, 4)
_MOVED: Final = 8  # by at most one part in eight of a side
_MIXED: Final = 0.5  # of the batches


@dataclass(frozen=True, slots=True)
class Varied:
    """`feed` has of each sample the part `kept`, and the rest from the sample at its place in `partner`."""

    feed: Mapping[str, np.ndarray]
    kept: float = 1.0
    partner: np.ndarray | None = None


def varied(feed: Mapping[str, np.ndarray], random: np.random.Generator) -> Varied:
    """The batch with each picture moved a little and turned over or not, and in half of all cases mixed with another.

    What the whole model answers to that is asked anew (Beyer et al. 2022, "Knowledge distillation: A good teacher is
    patient and consistent", arXiv:2106.05237). Inputs that are no pictures stay as they are, and so do pictures beside
    them, because the two may belong together.
    """
    if not feed or not all(_channel_axis(value) is not None for value in feed.values()):
        return Varied(feed)
    count = len(next(iter(feed.values())))
    where, over = random.random((2, count)), random.random(count) < 0.5
    part = _share(random)
    partner = random.permutation(count)
    found = {}
    for name, value in feed.items():
        moved = _moved(value, where, over)
        found[name] = moved if part is None else part * moved + (1 - part) * moved[partner]
    return Varied(found) if part is None else Varied(found, float(part), partner)


def _share(random: np.random.Generator) -> np.float32 | None:
    """How much of a picture stays when it is mixed; None where it is not."""
    import numpy as np

    mix, part = random.random(2)
    return np.float32(part) if mix < _MIXED else None


def _channel_axis(value: np.ndarray) -> int | None:
    """Where a batch of pictures has its colours; None for what is no such batch."""
    if value.ndim != 4 or value.dtype.kind != "f":
        return None
    for axis, sides in ((1, value.shape[2:]), (3, value.shape[1:3])):
        if value.shape[axis] in _COLOURS and min(sides) >= _SMALLEST:
            return axis
    return None


def _moved(value: np.ndarray, where: np.ndarray, over: np.ndarray) -> np.ndarray:
    """Cut out of pictures that are continued beyond their edges, `where` in parts of what there is to choose."""
    import numpy as np

    last = _channel_axis(value) == 3
    pictures = value.transpose(0, 3, 1, 2) if last else value
    height, width = pictures.shape[2:]
    down, right = (max(1, side // _MOVED) for side in (height, width))
    wide = np.pad(pictures, ((0, 0), (0, 0), (down, down), (right, right)), mode="reflect")
    found = np.empty_like(pictures)
    for number, picture in enumerate(wide):
        top, left = int(where[0, number] * (2 * down + 1)), int(where[1, number] * (2 * right + 1))
        piece = picture[:, top : top + height, left : left + width]
        found[number] = piece[:, :, ::-1] if over[number] else piece
    return np.ascontiguousarray(found.transpose(0, 2, 3, 1)) if last else found
