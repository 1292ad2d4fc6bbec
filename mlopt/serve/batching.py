"""Several requests computed as one: which fit together, how they are joined, and whether the model may be asked so."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from mlopt.serve.call import Call
from mlopt.serve.tensors import NUMPY_OF, Rejected, Tensor

if TYPE_CHECKING:
    from mlopt.serve.model import Model

_T = TypeVar("_T")
_FREE: Final = (1, 16, 64, 224)  # sizes to try for dimensions that the request chooses
_TOLERANCE: Final = 2e-3  # of the largest answer: kernels for two rows add up in another order than those for one


@dataclass(frozen=True, slots=True)
class Batching:
    """At most `largest` rows at once; the first of them waits at most `delay` seconds for the others."""

    largest: int
    delay: float


def why_not(model: Model) -> str | None:
    """Why requests to this model may not be computed together; None where they may.

    Tried, not believed: two requests together must get the answers that each gets alone. They do not where the first
    dimension is no batch, or where a node looks at the whole tensor (dynamic quantization finds its scale so).
    """
    serving = model.serving
    for tensor in (*serving.inputs, *serving.outputs):
        if not tensor.shape or tensor.shape[0] != -1:
            return f"the model fixes the first dimension of {tensor.name!r}: {list(tensor.shape)}"
        if tensor.datatype == "BYTES":
            return f"{tensor.name!r} holds texts"
    for size in _FREE:
        try:
            small, large = (_made_up(serving.inputs, size, seed=seed) for seed in (0, 1))
            alone = [model.infer(feeds) for feeds in (small, large)]
            together = parted(model.infer(joined([small, large])), [1, 1])
        except Rejected:
            continue
        if all(_same(one, other) for one, other in zip(alone, together, strict=True)):
            return None
        return "a request gets other answers when it is computed beside another one"
    return "it could not be tried: the model refuses made-up inputs"


def grouped(ready: Sequence[_T], *, call_of: Callable[[_T], Call], most: int) -> list[list[_T]]:
    """Requests that can be joined, in the order of arrival, `most` rows at a time; one with more rows stays alone."""
    groups: list[list[_T]] = []
    growing: dict[Hashable, tuple[list[_T], int]] = {}
    for one in ready:
        call = call_of(one)
        kind, rows = _kind(call), call.rows
        group, held = growing.get(kind, ([], 0))
        if not group or held + rows > most:
            group, held = [], 0
            groups.append(group)
        group.append(one)
        growing[kind] = group, held + rows
    return groups


def joined(feeds: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One batch of several requests' arrays."""
    return {name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]}


def parted(arrays: Mapping[str, np.ndarray], rows: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Each request's own part of a batch's answer. Raises `Rejected` where an output has not a row for each."""
    if any(array.ndim == 0 or array.shape[0] != sum(rows) for array in arrays.values()):
        raise Rejected("the model does not answer row by row")
    ends = np.cumsum(rows)
    return [
        {name: array[end - count : end] for name, array in arrays.items()}
        for end, count in zip(ends.tolist(), rows, strict=True)
    ]


def _kind(call: Call) -> Hashable:
    """Equal for calls that can be joined: the same inputs but for the rows, and the same outputs."""
    if any(array.shape[0] != call.rows for array in call.feeds.values()):
        return id(call)
    return tuple(sorted((name, array.shape[1:]) for name, array in call.feeds.items())), call.outputs


def _made_up(inputs: Sequence[Tensor], free: int, *, seed: int) -> dict[str, np.ndarray]:
    """One row for each input. Seed 1's is a hundred times as large: what looks at both cannot miss it."""
    chance = random.Random(seed)  # noqa: S311 - numpy's own generators are not in the image
    feeds = {}
    for tensor in inputs:
        shape = (1, *(free if size < 0 else size for size in tensor.shape[1:]))
        dtype = np.dtype(NUMPY_OF[tensor.datatype])
        noise = np.frombuffer(chance.randbytes(math.prod(shape)), np.uint8).reshape(shape)
        if dtype.kind == "f":
            feeds[tensor.name] = ((noise / 128.0 - 1.0) * 100.0**seed / 10).astype(dtype)
        else:
            feeds[tensor.name] = (noise & 1).astype(dtype)  # places of tables that exist
    return feeds


def _same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    for name, array in one.items():
        if array.shape != other[name].shape or array.dtype != other[name].dtype:
            return False
        if array.dtype.kind not in "fiu":
            if not np.array_equal(array, other[name]):
                return False
            continue
        wanted, found = np.nan_to_num(array.astype(np.float64)), np.nan_to_num(other[name].astype(np.float64))
        if array.size and np.abs(wanted - found).max() > _TOLERANCE * max(np.abs(wanted).max(), 1e-12):
            return False
    return True
