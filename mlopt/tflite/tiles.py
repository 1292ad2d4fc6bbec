"""Whether XNNPACK is to multiply a model's integers in AMX's tiles, where a processor has them, or without."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

Product = tuple[tuple[int, ...], int]
"""The shape of weights, [outputs, …, inputs], and how often they are gone over: the pixels of what is made."""

# Nanoseconds, by XNNPACK's kernels of LiteRT 2.3 on one core of a Xeon with both. Tiles hold 64 inputs and 16 outputs,
# full or not, and each pixel costs something for itself; AVX-512 VNNI takes a time for each multiplication.
_PIXEL, _PLACE, _TILE = 15.0, 2.0, 1.2
_MULTIPLICATION: Final = 0.006


def worth_tiles(products: Iterable[Product]) -> bool:
    """A net of few channels fills no tile: ResNet-8 takes twice the time in them, a ResNet-50 a third of it."""
    with_them = without = 0.0
    for shape, pixels in products:
        places, read, made = math.prod(shape[1:-1]), shape[-1], shape[0]
        tiles = places * -(-read // 64) * -(-made // 16)
        with_them += pixels * (_PIXEL + _PLACE * (places - 1) + _TILE * tiles)
        without += pixels * _MULTIPLICATION * places * read * made
    return with_them <= without
