"""Outliers of normalised activations moved into the products that read them (SmoothQuant)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlopt.onnx_file import readers_of
from mlopt.repair.layers import Layer, layers_of

if TYPE_CHECKING:
    import numpy as np


_RESTORED: Final = ".restored"


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalisation of the last axis whose `scale` and `bias` ("" for none) are its own, and whose `output` is read
    by products with constant weights, and multiplied by vectors of their own (`restoring`), alone."""

    scale: str
    bias: str
    output: str
    readers: tuple[Layer, ...]
    restoring: tuple[str, ...] = ()


def separate(graph: Any) -> None:
    """Give every LayerNormalization a scale and a bias of its own, in place: exporters store equal ones once (the ones
    and zeros of a fresh net), and what several norms share can follow none of them."""
    vectors = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 1}
    taken: set[str] = set()
    for node in graph.node:
        for place, name in enumerate(node.input if node.op_type == "LayerNormalization" else ()):
            if name not in vectors:
                continue
            if name in taken:
                own = graph.initializer.add()
                own.CopyFrom(vectors[name])
                node.input[place] = own.name = f"{name}.{node.output[0]}"
            taken.add(name)


def fork(graph: Any) -> None:
    """Let what reads a LayerNormalization beside products read it through a multiplication by ones, in place: there
    can be undone what moves into the products (the sums of nets that normalise after them, as BERT does)."""
    import numpy as np
    from onnx import helper, numpy_helper

    layers = {layer.name for layer in layers_of(graph)}
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    readers = readers_of(graph)
    known = {value.name: value for value in graph.value_info}
    for place, node in reversed(list(enumerate(graph.node))):
        reading = readers.get(node.output[0], [])
        beside = [reader for reader in reading if reader is None or reader.name not in layers]
        if node.op_type != "LayerNormalization" or not beside or None in beside or len(beside) == len(reading):
            continue
        name, ones = f"{node.output[0]}{_RESTORED}", f"{node.output[0]}{_RESTORED}.factors"
        graph.initializer.append(numpy_helper.from_array(np.ones(sizes.get(node.input[1], ()), np.float32), ones))
        graph.node.insert(place + 1, helper.make_node("Mul", [node.output[0], ones], [name], name=name))
        if node.output[0] in known:
            graph.value_info.add().CopyFrom(known[node.output[0]])
            graph.value_info[-1].name = name
        for reader in beside:
            for position, read in enumerate(reader.input):
                if read == node.output[0]:
                    reader.input[position] = name


def join(graph: Any) -> None:
    """Take the multiplications of `fork` out again, in place, that are still by ones."""
    import numpy as np
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    plain = {
        node.output[0]: node
        for node in graph.node
        if node.name.endswith(_RESTORED) and (numpy_helper.to_array(constants[node.input[1]]) == np.float32(1)).all()
    }
    for node in graph.node:
        for position, read in enumerate(node.input):
            if read in plain:
                node.input[position] = plain[read].input[0]
    for node in plain.values():
        graph.initializer.remove(constants[node.input[1]])
        graph.node.remove(node)


def norms_of(graph: Any) -> tuple[Norm, ...]:
    """LayerNormalization as one node, or the multiplication and addition that it ends with, in the graph's order."""
    return tuple(_found(graph))


def migrate(norms: tuple[Norm, ...], constants: dict[str, np.ndarray], reach: Mapping[str, np.ndarray]) -> None:
    """Change `constants` in place; what the graph computes stays.

    Each channel ends with the same largest value as the weights that it meets: half of an outlier is carried by
    either (Xiao et al. 2022, "SmoothQuant", arXiv:2211.10438, with a migration strength of one half). `reach` is the
    largest magnitude of each channel of a norm's output.
    """
    import numpy as np

    for norm in norms:
        channel = reach[norm.output].astype(np.float64)
        columns = np.max([np.abs(layer.matrix(constants[layer.weight])).max(axis=(0, 1)) for layer in norm.readers], 0)
        alive = (channel > 0) & (columns > 0)
        factors = np.where(alive, np.sqrt(np.where(alive, channel, 1) / np.where(alive, columns, 1)), 1.0)
        for name in filter(None, (norm.scale, norm.bias)):
            constants[name] = constants[name] / factors
        for name in norm.restoring:
            constants[name] = constants[name] * factors
        for layer in norm.readers:
            constants[layer.weight] = layer.tensor(layer.matrix(constants[layer.weight]) * factors)


def _found(graph: Any) -> Iterator[Norm]:
    layers = {layer.name: layer for layer in layers_of(graph) if layer.operator != "Conv"}
    readers = readers_of(graph)
    makers = {name: node for node in graph.node for name in node.output}
    own = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer if len(readers.get(tensor.name, ())) == 1}
    for output, reading in readers.items():
        products = [layers[node.name] for node in reading if node is not None and node.name in layers]
        factors = [_factors(node, output, own) for node in reading if node is None or node.name not in layers]
        if not products or not all(factors) or any(layer.input != output for layer in products):
            continue
        names = _parameters(makers.get(output), makers, readers, own)
        widths = {layer.channels_in for layer in products} | {own[name][0] for name in factors}
        if names and widths == {own[names[0]][0]}:
            yield Norm(names[0], names[1], output, tuple(products), tuple(factors))


def _factors(node: Any, read: str, own: Mapping[str, tuple[int, ...]]) -> str:
    """The vector of its own by which a node multiplies what it reads; "" where it does something else."""
    if node is None or node.op_type != "Mul":
        return ""
    return next((name for name in node.input if name != read and len(own.get(name, ())) == 1), "")


def _parameters(
    node: Any, makers: Mapping[str, Any], readers: Mapping[str, Any], own: Mapping[str, tuple[int, ...]]
) -> tuple[str, str] | None:
    """The names of scale and bias, vectors that no other node reads; None where `node` ends no normalisation."""
    if node is None:
        return None
    if node.op_type == "LayerNormalization":
        names = (node.input[1], node.input[2] if len(node.input) > 2 else "")
        if any(node.output[1:]):  # its mean is read too
            return None
    elif node.op_type == "Add":
        bias = next((name for name in node.input if name in own), "")
        product = next((makers[name] for name in node.input if name in makers), None)
        if not bias or product is None or product.op_type != "Mul" or len(readers[product.output[0]]) != 1:
            return None
        names = (next((name for name in product.input if name in own), ""), bias)
    else:
        return None
    return names if all(len(own.get(name, ())) == 1 for name in names if name or name == names[0]) else None
