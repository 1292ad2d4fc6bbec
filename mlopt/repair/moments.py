"""What samples say of a layer: second moments of its inputs, and the weights that they ask for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.parallel import mapped
from mlopt.repair.layers import Layer, layers_of
from mlopt.repair.rounding import damped
from mlopt.repair.shelf import Shelf
from mlopt.repair.walk import Walk

if TYPE_CHECKING:
    import numpy as np

    Feeds = Iterable[Mapping[str, np.ndarray]]

_MEMORY: Final = 1 << 28  # bytes of values between layers; more goes to disk
# How many positions of a layer's output are looked at: enough for each of its columns, and not more than help.
_PER_COLUMN: Final = 256
_FEWEST: Final = 4096
_POSITIONS: Final = 8192
_LEAST_PER_COLUMN: Final = 4
_SINGLE: Final = 1e-5  # of what is summed up
_PIECE: Final = 1 << 25  # bytes of patches that are multiplied at a time
_PIECES: Final = 4  # at least: products are summed up in single precision, pieces of them in double


@dataclass(frozen=True, slots=True)
class Moments:
    """Of a layer's patches x in floating point and q in the quantized model: means [groups, columns], `wanted` the
    sum of (W x) q^T [groups, rows, columns], `gram` of q q^T, both without the means where the layer has a bias. `off`
    [groups] is by how much the sums of gram may be off: they are taken in single precision, with the means."""

    count: int
    exact: np.ndarray
    quantized: np.ndarray
    wanted: np.ndarray
    gram: np.ndarray
    off: np.ndarray


def with_biases(model: Any) -> None:
    """Give every convolution and product that takes one a bias of zeros, so that it can be corrected."""
    import numpy as np
    from onnx import numpy_helper

    layers = {layer.name: layer for layer in layers_of(model.graph)}
    for node in model.graph.node:
        layer = layers.get(node.name)
        if layer is None or layer.operator == "MatMul" or any(node.input[2:]):
            continue
        name = f"{layer.weight}__bias"
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(layer.channels_out, np.float32), name))
        del node.input[2:]
        node.input.append(name)


def walks(model: Any, other: Any, feeds: Feeds, scratch: Path, *, samples: int) -> tuple[Walk, Walk]:
    """Of a model and a changed copy of it, over the first `samples`."""
    made = []
    for number, proto in enumerate((model, other)):
        folder = scratch / str(number)
        folder.mkdir()
        made.append(Walk(proto, Shelf(folder, _MEMORY // 2), 0))
    for sample, feed in enumerate(itertools.islice(feeds, samples)):
        for walk in made:
            walk.start(sample, feed)
            walk.samples = sample + 1
    return made[0], made[1]


def moments_of(
    layer: Layer, weights: np.ndarray, pairs: Iterator[tuple[np.ndarray, np.ndarray]], samples: int
) -> Moments:
    """From what the layer reads, in the model and in the copy, for each of so many samples."""
    import numpy as np

    columns = weights.shape[-1]
    enough = min(_POSITIONS, max(_FEWEST, _PER_COLUMN * columns))
    each = -(-max(enough, _LEAST_PER_COLUMN * columns) // samples)
    random = np.random.default_rng([0, *layer.name.encode()])
    sums = Sums(weights)

    def chosen() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for x, q in pairs:
            every = layer.positions(x.shape)
            yield x, q, np.sort(random.choice(every, each, replace=False)) if every > each else np.arange(every)

    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for pair in mapped(lambda of: (layer.patches(of[0], of[2]), layer.patches(of[1], of[2])), chosen()):
        waiting.append(pair)
        if len(waiting) >= _together(pair[0].nbytes, weights, samples):
            sums.add(*waiting)
            waiting.clear()
    if waiting:
        sums.add(*waiting)
    return sums.moments(centred=bool(layer.bias))


def _together(size: int, weights: np.ndarray, samples: int) -> int:
    """Of how many samples, of `size` bytes of patches each, products are taken at a time."""
    groups, _, columns = weights.shape
    fit = max(1, _PIECE // max(1, size))
    wide = 4 * groups * columns**2 > _PIECE  # where a product is larger than what is multiplied, the fewest of them
    return fit if wide else min(-(-samples // _PIECES), fit)


def aim(weights: np.ndarray, moments: Moments, *, hold: float) -> tuple[np.ndarray, np.ndarray]:
    """The weights that make what a layer writes nearest to what it wrote before, and the damped Gram matrix by which
    others are judged: `e G e^T` for a row that is e away from them.

    Least squares, held to the weights that were trained the more the fewer samples there are for each of them: by
    `hold` times the mean power of an input where there are as many positions as columns.
    """
    import numpy as np

    gram = damped(moments.gram, moments.off)
    size = gram.shape[-1]
    ridge = hold * np.einsum("gcc->gc", gram).mean(axis=1) * min(1.0, size / moments.count)
    held = gram + ridge[:, None, None] * np.eye(size)
    told = moments.wanted + weights @ (held - moments.gram)
    return np.swapaxes(np.linalg.solve(held, np.swapaxes(told, 1, 2)), 1, 2), gram


def corrected(bias: np.ndarray, weights: np.ndarray, values: np.ndarray, moments: Moments) -> np.ndarray:
    """The bias with which the mean of what is written stays, once `weights` are `values`."""
    apart = weights @ moments.exact[:, :, None] - values @ moments.quantized[:, :, None]
    result: np.ndarray = bias + apart.ravel()
    return result


class Sums:
    """Moments of patches [groups, positions, columns] that come in pieces, for weights [groups, rows, columns]."""

    def __init__(self, weights: np.ndarray) -> None:
        import numpy as np

        groups, rows, columns = weights.shape
        self.weights, self.count = weights.astype(np.float32), 0
        self.exact, self.quantized = np.zeros((groups, columns)), np.zeros((groups, columns))
        self.wanted, self.gram = np.zeros((groups, rows, columns)), np.zeros((groups, columns, columns))

    def add(self, *pairs: tuple[np.ndarray, np.ndarray]) -> None:
        """A piece: what a layer reads in the model and in the copy, for each of some samples."""
        import numpy as np

        one, other = (_joined(side) for side in zip(*pairs, strict=True))
        self.count += one.shape[1]
        ones = np.ones((1, one.shape[1]), np.float32)  # by a product: a sum along the middle is slow
        self.exact += (ones @ one)[:, 0]
        self.quantized += (ones @ other)[:, 0]
        self.gram += np.swapaxes(other, 1, 2) @ other
        # The order that multiplies less; of depthwise layers the other one is also slow in OpenBLAS (small, turned).
        rows, columns = self.weights.shape[1:]
        if rows < columns:
            self.wanted += np.swapaxes(one @ np.swapaxes(self.weights, 1, 2), 1, 2) @ other
        else:
            self.wanted += self.weights @ (np.swapaxes(one, 1, 2) @ other)

    def moments(self, *, centred: bool) -> Moments:
        import numpy as np

        exact, quantized = (total / max(1, self.count) for total in (self.exact, self.quantized))
        gram, wanted = self.gram, self.wanted
        off = _SINGLE * np.trace(gram, axis1=1, axis2=2) / gram.shape[-1]
        if centred:
            gram = gram - self.count * quantized[:, :, None] * quantized[:, None, :]
            wanted = wanted - self.count * (self.weights @ exact[:, :, None]) * quantized[:, None, :]
        return Moments(self.count, exact, quantized, wanted, gram, off)


def _joined(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Patches one after the other, in C's order whatever theirs is: products round by how arrays lie."""
    import numpy as np

    groups, _, columns = pieces[0].shape
    together = np.empty((groups, sum(piece.shape[1] for piece in pieces), columns), pieces[0].dtype)
    return np.concatenate(pieces, axis=1, out=together)
