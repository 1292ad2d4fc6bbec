"""Convolutions and poolings: windows that go over a picture, and what lies around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from mlopt.tflite.graph import Graph, Node, Value

if TYPE_CHECKING:
    import numpy as np

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """Height and width of a kernel and its steps, and the lines around the picture: before and after, of both."""

    kernel: Pair
    steps: Pair
    holes: Pair
    before: Pair
    after: Pair
    same: bool
    """Whether that is what LiteRT calls SAME."""

    @classmethod
    def of(cls, graph: Graph, node: Node, kernel: tuple[int, ...]) -> Self:
        read, written = graph.shape(node, node.inputs[0]), graph.shape(node, node.output)
        if len(read) != 4 or len(kernel) != 2:
            node.refuse("it is not over pictures (two dimensions)")
        said = node.attributes
        steps, holes = (_pair(said.get(name)) for name in ("strides", "dilations"))
        reach = [(size - 1) * hole + 1 for size, hole in zip(kernel, holes, strict=True)]
        # How many lines the windows of that many outputs touch, beyond those of the picture.
        needed = [
            max(0, (out - 1) * step + long - size)
            for out, step, long, size in zip(written[2:], steps, reach, read[2:], strict=True)
        ]
        before = _before(node, needed)
        after = tuple(max(0, whole - one) for whole, one in zip(needed, before, strict=True))
        same = [-(-size // step) for size, step in zip(read[2:], steps, strict=True)] == list(written[2:]) and all(
            one == whole // 2 for one, whole in zip(before, needed, strict=True)
        )
        return cls((kernel[0], kernel[1]), steps, holes, before, (after[0], after[1]), same)

    @property
    def around(self) -> bool:
        """Whether there is anything around the picture."""
        return any((*self.before, *self.after))

    def padding(self) -> int:
        """As the schema says it, once `surrounded` did what SAME cannot say."""
        return 0 if self.same and self.around else 1

    def pads(self) -> np.ndarray:
        import numpy as np

        middle = zip(self.before, self.after, strict=True)
        return np.array([(0, 0), *middle, (0, 0)], np.int32)

    def steps_said(self) -> dict[str, int]:
        return {"strideH": self.steps[0], "strideW": self.steps[1]}

    def holes_said(self) -> dict[str, int]:
        return {"dilationHFactor": self.holes[0], "dilationWFactor": self.holes[1]}


def convolution(graph: Graph, node: Node) -> None:
    """CONV_2D, or DEPTHWISE_CONV_2D where every channel has filters of its own."""
    picture = graph.value(node, node.inputs[0])
    weights = graph.shape(node, node.inputs[1])
    window = Window.of(graph, node, weights[2:])
    groups = int(node.attributes.get("group", 1))
    source = surrounded(graph, node, picture, window)
    own = groups > 1 and groups == picture.shape[1]
    filters = _filters(graph, node, (1, 2, 3, 0) if own else (0, 2, 3, 1), axis=3 if own else 0)
    bias = bias_of(graph, node, picture, weights[0])
    made = graph.make(graph.add(node), last=True)
    said: dict[str, Any] = {"padding": window.padding(), **window.steps_said(), **window.holes_said()}
    said["fusedActivationFunction"] = activation(node)
    if own:
        said["depthMultiplier"] = weights[0] // groups
        graph.file.operator("DEPTHWISE_CONV_2D", [source, filters, bias], [made], "DepthwiseConv2DOptions", **said)
    else:
        graph.file.operator("CONV_2D", [source, filters, bias], [made], "Conv2DOptions", **said)


def pooling(graph: Graph, node: Node) -> None:
    """MAX_POOL_2D and AVERAGE_POOL_2D, of integers on the grid that they are on."""
    if _pair(node.attributes.get("dilations")) != (1, 1):
        node.refuse("its windows have holes")
    window = Window.of(graph, node, tuple(node.attributes["kernel_shape"]))
    picture = graph.value(node, node.inputs[0])
    mean = node.kind == "AveragePool"
    if mean and window.around and not node.attributes.get("count_include_pad") and not window.same:
        node.refuse("its mean leaves out what lies around the picture, and more lies on one side than LiteRT takes")
    counted = bool(mean and node.attributes.get("count_include_pad"))
    source = surrounded(graph, node, picture, window, lowest=not mean, always=counted)
    padding = 1 if counted else window.padding()
    made = graph.make(graph.add(node, grid=picture.grid), last=True)
    kind = "AVERAGE_POOL_2D" if mean else "MAX_POOL_2D"
    sizes = {"filterHeight": window.kernel[0], "filterWidth": window.kernel[1]}
    graph.file.operator(kind, [source], [made], "Pool2DOptions", padding=padding, **window.steps_said(), **sizes)


def thinned(graph: Graph, node: Node, picture: Value, steps: Pair) -> None:
    """Some lines of a picture, as a depthwise convolution with a single weight, which is 1: XNNPACK has a kernel for
    that, and none for slices with steps. Each value stays what it was, also as an integer."""
    import numpy as np

    channels = picture.shape[1]
    source = graph.read(picture, integer=node.integer, last=True)
    made = graph.make(graph.add(node, grid=picture.grid), last=True)
    ones, zeros = np.ones((1, 1, 1, channels)), np.zeros(channels)
    if node.integer and picture.grid:
        plain, scale = [0] * channels, [picture.grid.scale] * channels
        weights = graph.file.constant(
            f"{node.output}/ones", ones.astype(np.int8), scale=[1.0] * channels, zero=plain, axis=3
        )
        bias = graph.file.constant(f"{node.output}/bias", zeros.astype(np.int32), scale=scale, zero=plain)
    else:
        weights = graph.file.constant(f"{node.output}/ones", ones.astype(np.float32))
        bias = graph.file.constant(f"{node.output}/bias", zeros.astype(np.float32))
    said = {"padding": 1, "strideH": steps[0], "strideW": steps[1], "depthMultiplier": 1}
    graph.file.operator("DEPTHWISE_CONV_2D", [source, weights, bias], [made], "DepthwiseConv2DOptions", **said)


def surrounded(
    graph: Graph, node: Node, picture: Value, window: Window, *, lowest: bool = False, always: bool = False
) -> int:
    """The picture, channels last; with zeros around it, or the `lowest` numbers, where LiteRT cannot say it otherwise,
    or `always`."""
    import numpy as np

    source = graph.read(picture, integer=node.integer, last=True)
    if not window.around or (window.same and not always):
        return source
    shape, free = picture.shaped(last=True)
    wider = tuple(size + int(sum(pads)) for size, pads in zip(shape, window.pads(), strict=True))
    kind = "INT8" if node.integer else "FLOAT32"
    made = graph.file.tensor(
        f"{node.output}/around", wider, kind, free=free, grid=picture.grid if node.integer else None
    )
    pads = graph.numbers(f"{node.output}/pads", window.pads())
    if not lowest or (node.integer and picture.grid and picture.grid.zero == -128):  # zero is the lowest there is
        graph.file.operator("PAD", [source, pads], [made], "PadOptions")
        return made
    fill = np.array([-128], np.int8) if node.integer else np.array([np.finfo(np.float32).min], np.float32)
    grid = picture.grid if node.integer else None
    filling = graph.file.constant(
        f"{node.output}/lowest", fill, scale=[grid.scale] if grid else (), zero=[grid.zero] if grid else ()
    )
    graph.file.operator("PADV2", [source, pads, filling], [made], "PadV2Options")
    return made


def activation(node: Node) -> int:
    """What is done to the result at once, as the schema says it."""
    return {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}[node.activation]


def bias_of(graph: Graph, node: Node, read: Value, count: int, *, times: float = 1.0) -> int:
    """What is added to each of `count` channels: float32, or integers of the scale of the products; zeros where
    there is none."""
    import numpy as np

    named = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] else ""
    if named and any(size != 1 for size in graph.shape(node, named)[:-1]):
        node.refuse("what it adds differs from sample to sample")
    values = graph.floats(node, named).reshape(-1) * np.float32(times) if named else np.zeros(count, np.float32)
    values = np.broadcast_to(values, (count,)).astype(np.float32)
    if not node.integer:
        return graph.file.constant(f"{node.output}/bias", values)
    assert read.grid is not None
    scale = np.float64(np.float32(read.grid.scale)) * np.array(graph.scales(node, node.inputs[1]), np.float64)
    limit = np.iinfo(np.int32)
    whole = np.clip(np.rint(values.astype(np.float64) / scale), limit.min, limit.max).astype(np.int32)
    return graph.file.constant(
        f"{node.output}/bias", whole, scale=scale.astype(np.float32).tolist(), zero=[0] * scale.size
    )


def _filters(graph: Graph, node: Node, order: tuple[int, ...], *, axis: int) -> int:
    name = node.inputs[1]
    if not (node.integer or node.hybrid):
        return graph.file.constant(name, graph.floats(node, name).transpose(order))
    scale, array = graph.scales(node, name), graph.constants[name].array
    return graph.file.constant(name, array.transpose(order), scale=scale, zero=[0] * len(scale), axis=axis)


def _pair(said: Any) -> Pair:
    return (int(said[0]), int(said[1])) if said is not None else (1, 1)


def _before(node: Node, needed: list[int]) -> Pair:
    """Lines above and left of the picture."""
    asked = node.attributes.get("auto_pad", b"NOTSET")
    if asked in (b"NOTSET", b""):
        pads = node.attributes.get("pads", (0, 0, 0, 0))
        return int(pads[0]), int(pads[1])
    if asked == b"VALID":
        return 0, 0
    rows, columns = (whole // 2 if asked == b"SAME_UPPER" else -(-whole // 2) for whole in needed)
    return rows, columns
