"""Two of each four weights along the inputs made zero, as sparse tensor cores take them, and the rest fitted anew."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.prune.importance import NotFinite
from mlopt.repair.layers import Layer, layers_of
from mlopt.repair.moments import aim, corrected, moments_of, walks, with_biases
from mlopt.repair.rounding import inverse_root

if TYPE_CHECKING:
    import numpy as np

    from mlopt.repair.moments import Feeds

_PAIRS: Final = tuple(itertools.combinations(range(4), 2))
_HOLD: Final = 10.0  # half of the weights are gone, and the others have to move
_BLOCK: Final = 128  # columns after which what is still to come is told of the errors
_STEPS: Final = 64  # of conjugate gradients, at most
_NEAR: Final = 1e-4  # of the residual, where they end


@dataclass(frozen=True, slots=True)
class Sparse:
    """The names of layers that hold the pattern now, and of those left whole, each with the reason."""

    layers: tuple[str, ...]
    whole: dict[str, str]


def sparsify(
    model: Any,
    feeds: Feeds,
    *,
    multiple: int,
    fewest_weights: int,
    samples: int,
    done: Callable[[str], None] = lambda name: None,
) -> Sparse:
    """Change the weights and biases of `model`, layer after layer in the order of the graph, each on what the layers
    before it write by then, so that it makes good for their errors too.

    Channels of the input of a layer must be a multiple of `multiple`, and its weights `fewest_weights` at least.
    Raises `NotFinite`.
    """
    import onnx
    from onnx import numpy_helper

    with_biases(model)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    layers, whole = [], {}
    changed: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory(prefix="mlopt-sparse-") as scratch:
        exact, copy = walks(model, made, feeds, Path(scratch), samples=samples)
        for layer in layers_of(model.graph):
            if reason := why_whole(layer, multiple, fewest_weights):
                whole[layer.name] = reason
                continue
            weights = layer.matrix(exact.constants[layer.weight].astype("float64"))
            pairs = zip(_finite(layer, exact.reach(layer.input)), copy.reach(layer.input), strict=True)
            moments = moments_of(layer, weights, pairs, exact.samples)
            if not moments.count:
                whole[layer.name] = "no sample came to it"
                continue
            order = along_inputs(layer)
            wanted, gram = aim(weights, moments, hold=_HOLD)
            values = weights.copy()
            values[:, :, order] = pruned(wanted[:, :, order], gram[:, order][:, :, order])
            changed[layer.weight] = copy.constants[layer.weight] = layer.tensor(values).astype("float32")
            if layer.bias:
                bias = corrected(exact.constants[layer.bias], weights, values, moments).astype("float32")
                changed[layer.bias] = copy.constants[layer.bias] = bias
            layers.append(layer.name)
            done(layer.name)
    for tensor in model.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
    return Sparse(tuple(layers), whole)


def _finite(layer: Layer, values: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    import numpy as np

    for query, value in enumerate(values):
        if not np.isfinite(value).all():
            raise NotFinite(layer.input, query)
        yield value


def why_whole(layer: Layer, multiple: int, fewest_weights: int) -> str:
    """Why a layer cannot have the pattern, or nothing is to be had by it; empty where it can."""
    channels = layer.channels_in // layer.groups
    if channels % multiple:
        each = " in each group" if layer.groups > 1 else ""
        return f"{channels} inputs{each} are no multiple of {multiple}"
    if math.prod(layer.shape) < fewest_weights:
        return f"it has less than {fewest_weights} weights"
    return ""


def along_inputs(layer: Layer) -> np.ndarray:
    """The columns of a layer's matrix so that each four in a row are inputs at one place of the kernel."""
    import numpy as np

    columns = math.prod(layer.shape[1:]) if layer.operator == "Conv" else layer.channels_in
    return np.arange(columns).reshape(layer.channels_in // layer.groups, -1).T.ravel()


def pruned(wanted: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Values with two zeros in each four columns, so that sum over groups and rows of e G e^T is small, for e =
    values - wanted; `wanted` is [groups, rows, columns], `gram` the damped G.

    Fours are gone through one after the other, those with the most power first. Of each the pair goes that costs least
    once all columns still to come make up for it (Frantar and Alistarh 2023, "SparseGPT", arXiv:2301.00774, where each
    weight is judged alone: of two that do the same work both would go). Then the weights that stay are fitted to
    `wanted` by least squares, all of a row at once.
    """
    import numpy as np

    power = np.einsum("gcc->gc", gram).sum(axis=0).reshape(-1, 4)
    fours = np.argsort(-power.sum(axis=1), kind="stable")
    order = (4 * fours[:, None] + np.arange(4)).ravel()
    turned = gram[:, order][:, :, order]
    chosen = np.empty_like(wanted)
    chosen[:, :, order] = _chosen(np.ascontiguousarray(wanted[:, :, order]), inverse_root(turned))
    return _fitted(chosen, wanted, gram)


def _chosen(left: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The weights as they are when their four is done; `upper` is U, with U^T U the inverse of G."""
    import numpy as np

    columns = left.shape[-1]
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = np.empty_like(left[:, :, start:stop])
        for first in range(start, stop, 4):
            four = slice(first, first + 4)
            values, error = _without_two(left[:, :, four], upper[:, four, four])
            errors[:, :, first - start : first - start + 4] = error
            left[:, :, first + 4 : stop] -= error @ upper[:, four, first + 4 : stop]
            left[:, :, four] = values
        left[:, :, stop:] -= errors @ upper[:, start:stop, stop:]
    return left


def _without_two(weights: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Four weights of each row without the pair that costs least, and the error by which later columns are to move,
    once it is multiplied with their part of U."""
    import numpy as np

    # What is left of the inverse of G, as long as these four and all after them may still change.
    inverse = np.swapaxes(upper, 1, 2) @ upper
    costs, errors = [], []
    for pair in map(list, _PAIRS):
        both = weights[:, :, pair]
        push = both @ np.linalg.inv(inverse[:, pair][:, :, pair])
        costs.append(np.einsum("grp,grp->gr", push, both))
        errors.append(push @ np.swapaxes(upper[:, :, pair], 1, 2))
    best = np.argmin(np.stack(costs), axis=0)
    error = np.take_along_axis(np.stack(errors), best[None, :, :, None], axis=0)[0]
    values = weights - error @ upper
    gone = np.asarray([[place in pair for place in range(4)] for pair in _PAIRS])
    values[gone[best]] = 0
    return values, error


def _fitted(values: np.ndarray, wanted: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """What of `values` is not zero, moved by conjugate gradients to where e G e^T is least."""
    import numpy as np

    stay = values != 0
    power = np.einsum("gcc->gc", gram)[:, None]
    slope = ((wanted - values) @ gram) * stay
    least = _NEAR**2 * np.einsum("grc,grc->gr", slope / power, slope)
    step, along = slope / power, np.einsum("grc,grc->gr", slope / power, slope)
    for _ in range(_STEPS):
        seen = (step @ gram) * stay
        curved = np.einsum("grc,grc->gr", step, seen)
        far = np.where(curved > 0, along / np.where(curved > 0, curved, 1), 0)[..., None]
        values = values + far * step
        slope = slope - far * seen
        now = np.einsum("grc,grc->gr", slope / power, slope)
        if (now <= least).all():
            break
        step = slope / power + np.where(along > 0, now / np.where(along > 0, along, 1), 0)[..., None] * step
        along = now
    return values
