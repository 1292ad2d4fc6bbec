"""A model's weights for a quantized copy of it, layer after layer, each made good for the errors before it."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.parallel import mapped
from mlopt.repair.layers import Layer, layers_of
from mlopt.repair.pairs import MOST, alone, heaviest, scales
from mlopt.repair.rounding import Grid, damped, rounded
from mlopt.repair.shelf import Shelf
from mlopt.repair.walk import Walk

if TYPE_CHECKING:
    import numpy as np

    Feeds = Iterable[Mapping[str, np.ndarray]]

_MEMORY: Final = 1 << 28  # bytes of values between layers; more goes to disk
_SAMPLES: Final = 64  # twice as many were seen to change little, and to take twice the time
# How many positions of a layer's output are looked at: enough for each of its columns, and not more than help.
_PER_COLUMN: Final = 256
_FEWEST: Final = 4096
_POSITIONS: Final = 8192
_LEAST_PER_COLUMN: Final = 4
_HOLD: Final = 10.0  # of the mean power of an input, where there are as many positions as columns
_PIECE: Final = 1 << 25  # bytes of patches that wait to be multiplied
_STRETCHES: Final = 4  # of a scale, before neighbours that do not fit get seven bits each


@dataclass(frozen=True, slots=True)
class Moments:
    """Of a layer's patches x in floating point and q in the quantized model: means [groups, columns], `wanted` the
    sum of (W x) q^T [groups, rows, columns], `gram` of q q^T, both without the means where the layer has a bias."""

    count: int
    exact: np.ndarray
    quantized: np.ndarray
    wanted: np.ndarray
    gram: np.ndarray


@dataclass(frozen=True, slots=True)
class WeightGrid:
    """The scales of one weight tensor in the quantized model: one, or one for each entry of `axis`."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None


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


def repair(model: Any, quantized: Any, feeds: Feeds, *, paired: bool = False) -> dict[str, WeightGrid]:
    """Change the weights and biases of `model` to values that its quantized copy represents exactly.

    `quantized` is the copy as an onnx.ModelProto with QuantizeLinear/DequantizeLinear pairs, nodes named as in
    `model`; `paired`, that sums of two of its products must fit into 16 bits (`pairs.py`). Returns the grids by the
    names of the weights.
    """
    from onnx import numpy_helper

    layers = layers_of(model.graph)
    grids: dict[str, WeightGrid] = {}
    changed: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory(prefix="mlopt-repair-") as scratch:
        exact, copy = _walks(model, quantized, feeds, Path(scratch))
        copied = {node.name: node for node in quantized.graph.node}
        dequantizers = {node.output[0]: node for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
        for layer in layers:
            node = copied.get(layer.name)
            stored = dequantizers.get(node.input[1]) if node is not None else None
            if node is None or stored is None or stored.input[0] not in copy.constants:
                continue
            weights = layer.matrix(exact.constants[layer.weight].astype("float64"))
            pairs = zip(exact.reach(layer.input), copy.reach(node.input[0]), strict=True)
            moments = _moments(layer, weights, pairs, exact.samples)
            if not moments.count:  # nothing ever came here
                continue
            grid = _grid(layer, copy.constants, stored)
            bias = exact.constants.get(layer.bias)
            values, grid, bias = _repaired(layer, weights, bias, moments, grid, paired=paired)
            grids[layer.weight] = _as_stored(layer, grid, copy.constants[stored.input[1]].ndim)
            changed[layer.weight] = layer.tensor(values).astype("float32")
            copy.constants[node.input[1]] = changed[layer.weight]
            if bias is not None:
                changed[layer.bias] = copy.constants[node.input[2]] = bias.astype("float32")
    for tensor in model.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
    return grids


def _walks(model: Any, quantized: Any, feeds: Feeds, scratch: Path) -> tuple[Walk, Walk]:
    walks = []
    for number, proto in enumerate((model, quantized)):
        folder = scratch / str(number)
        folder.mkdir()
        walks.append(Walk(proto, Shelf(folder, _MEMORY // 2), 0))
    for sample, feed in enumerate(itertools.islice(feeds, _SAMPLES)):
        for walk in walks:
            walk.start(sample, feed)
            walk.samples = sample + 1
    return walks[0], walks[1]


def _moments(
    layer: Layer, weights: np.ndarray, pairs: Iterator[tuple[np.ndarray, np.ndarray]], samples: int
) -> Moments:
    import numpy as np

    columns = weights.shape[-1]
    enough = min(_POSITIONS, max(_FEWEST, _PER_COLUMN * columns))
    each = -(-max(enough, _LEAST_PER_COLUMN * columns) // samples)
    random = np.random.default_rng([0, *layer.name.encode()])
    sums = _Sums(weights)

    def chosen() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for x, q in pairs:
            every = layer.positions(x.shape)
            yield x, q, np.sort(random.choice(every, each, replace=False)) if every > each else np.arange(every)

    for exact, quantized in mapped(lambda of: (layer.patches(of[0], of[2]), layer.patches(of[1], of[2])), chosen()):
        sums.add(exact, quantized)
    return sums.moments(centred=bool(layer.bias))


class _Sums:
    """Moments of patches [groups, positions, columns] that come in small pieces: products of matrices are taken of many
    at once."""

    def __init__(self, weights: np.ndarray) -> None:
        import numpy as np

        groups, rows, columns = weights.shape
        self.weights, self.count, self.waiting = weights.astype(np.float32), 0, 0
        self.exact, self.quantized = np.zeros((groups, columns)), np.zeros((groups, columns))
        self.wanted, self.gram = np.zeros((groups, rows, columns)), np.zeros((groups, columns, columns))
        self.pieces: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, exact: np.ndarray, quantized: np.ndarray) -> None:
        self.pieces.append((exact, quantized))
        self.waiting += exact.nbytes
        if self.waiting > _PIECE:
            self._take()

    def _take(self) -> None:
        import numpy as np

        one, other = (_joined(pieces) for pieces in zip(*self.pieces, strict=True))
        self.pieces, self.waiting = [], 0
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
        if self.pieces:
            self._take()
        exact, quantized = (total / max(1, self.count) for total in (self.exact, self.quantized))
        gram, wanted = self.gram, self.wanted
        if centred:
            gram = gram - self.count * quantized[:, :, None] * quantized[:, None, :]
            wanted = wanted - self.count * (self.weights @ exact[:, :, None]) * quantized[:, None, :]
        return Moments(self.count, exact, quantized, wanted, gram)


def _joined(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Patches one after the other, in C's order whatever theirs is: products round by how arrays lie."""
    import numpy as np

    groups, _, columns = pieces[0].shape
    joined = np.empty((groups, sum(piece.shape[1] for piece in pieces), columns), pieces[0].dtype)
    return np.concatenate(pieces, axis=1, out=joined)


def _repaired(
    layer: Layer, weights: np.ndarray, bias: np.ndarray | None, moments: Moments, grid: Grid, *, paired: bool
) -> tuple[np.ndarray, Grid, np.ndarray | None]:
    """Values on a grid, the grid, and the bias."""
    import numpy as np

    gram = damped(moments.gram)
    # Least squares, held to the weights that were trained the more the fewer samples there are for each of them.
    size = gram.shape[-1]
    ridge = _HOLD * np.einsum("gcc->gc", gram).mean(axis=1) * min(1.0, size / moments.count)
    held = gram + ridge[:, None, None] * np.eye(size)
    told = moments.wanted + weights @ (held - moments.gram)
    wanted = np.swapaxes(np.linalg.solve(held, np.swapaxes(told, 1, 2)), 1, 2)
    paired = paired and not alone(layer.operator, layer.shape, layer.groups)
    codes, grid = _in_pairs(layer, wanted, gram, grid) if paired else rounded(wanted, gram, grid)
    values = grid.values(codes)
    if bias is None:
        return values, grid, None
    apart = weights @ moments.exact[:, :, None] - values @ moments.quantized[:, :, None]
    return values, grid, bias + apart.ravel()


def _in_pairs(layer: Layer, wanted: np.ndarray, gram: np.ndarray, grid: Grid) -> tuple[np.ndarray, Grid]:
    """`rounded`, on a grid that is as wide as neighbours need to fit into 16 bits together."""
    import numpy as np

    for _ in range(_STRETCHES):
        codes, made = rounded(wanted, gram, grid, shrink=False)
        over = heaviest(layer, layer.tensor(codes))
        if over.max() <= MOST:
            return codes, made
        wider = np.where(over > MOST, over / (MOST - 2), 1.0)
        grid = replace(grid, scale=grid.scale * (wider.max() if grid.shared else wider[..., None]))
    return rounded(wanted, gram, replace(grid, low=-MOST // 2, high=MOST // 2))


def _grid(layer: Layer, constants: Mapping[str, np.ndarray], stored: Any) -> Grid:
    import numpy as np

    codes, scale = constants[stored.input[0]], constants[stored.input[1]].astype(np.float64)
    zero = constants[stored.input[2]].astype(np.float64)
    shape = (layer.groups, layer.channels_out // layer.groups, 1)
    scale, zero = (np.full(shape, each) if each.size == 1 else each.reshape(shape) for each in (scale, zero))
    low, high = (-127, 127) if codes.dtype == np.int8 else (0, 255)
    return Grid(scale, zero, low, high, constants[stored.input[1]].ndim == 0)


def _as_stored(layer: Layer, grid: Grid, rank: int) -> WeightGrid:
    scale, zero = grid.scale.ravel(), grid.zero.ravel()
    if rank == 0:
        return WeightGrid((float(scale[0]),), (int(zero[0]),), None)
    return WeightGrid(tuple(float(each) for each in scale), tuple(int(each) for each in zero), 1 if layer.turned else 0)


def paired_grids(graph: Any, *, per_channel: bool, but: Collection[str] = ()) -> dict[str, WeightGrid]:
    """Grids for the weights of a graph's layers, `but` these, on which no sum of two products passes 16 bits
    (`pairs.py`)."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = {}
    for layer in layers_of(graph):
        if layer.name in but:
            continue
        scale = scales(layer, numpy_helper.to_array(constants[layer.weight]), shared=not per_channel)
        axis = (1 if layer.turned else 0) if per_channel else None
        each = tuple(float(value) for value in (scale.ravel() if per_channel else scale.ravel()[:1]))
        found[layer.weight] = WeightGrid(each, (0,) * len(each), axis)
    return found
