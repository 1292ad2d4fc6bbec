"""Small nets as .tflite files: answers of ONNX Runtime, any batch, and refusals that name the node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphs
import nets
import numpy as np
import onnx
import pytest
from graphs import WIDTH, Net
from onnx import TensorProto, helper

from mlopt.errors import UnsupportedModel
from mlopt.runners.litert import LiteRtRunner
from mlopt.runners.onnxruntime import OnnxRuntimeRunner
from mlopt.tflite.write import write_tflite

pytestmark = pytest.mark.litert

NETS = [
    *(nets.conv_net, nets.gated_net, nets.mobile_net, nets.depthwise_net, nets.fire_net, nets.matmul_net),
    *(graphs.plain, graphs.residual, graphs.padded_residual),
]


def feeds(model: onnx.ModelProto, batch: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(batch)
    return {
        value.name: draw.standard_normal(
            [batch, *(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])]
        ).astype(np.float32)
        for value in model.graph.input
    }


def agree(tmp_path: Path, model: onnx.ModelProto, *, batch: int = 2) -> None:
    path, given = nets.save(model, tmp_path / "net.onnx"), feeds(model, batch)
    with OnnxRuntimeRunner(path, threads=1) as one, LiteRtRunner(path, threads=1) as other:
        assert one.outputs == other.outputs
        for expected, found in zip(one.infer(given), other.infer(given), strict=True):
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def kinds(data: bytes) -> list[str]:
    """The operators of a file, in order."""
    from ai_edge_litert import schema_py_generated as schema

    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    return [names[model.operatorCodes[one.opcodeIndex].builtinCode] for one in model.subgraphs[0].operators]


def one_conv(*, side: int = 9, kernel: int = 3, read: int = 4, made: int = 8, **attributes: Any) -> onnx.ModelProto:
    net = Net(channels=read, side=side)
    group = attributes.get("group", 1)
    net.initializers.append(nets.weights("w", made, read // group, kernel, kernel, scale=0.3))
    net.add("Conv", "image", "w", name="conv", outputs=("logits",), **attributes)
    return net.model()


def one(
    op: str, *inputs: str, rank: int = 4, given: dict[str, Any] | None = None, **attributes: Any
) -> onnx.ModelProto:
    """A net of one node behind a convolution, so that it meets a picture with channels last; or on rows."""
    net = Net(channels=3, side=9)
    h = net.conv("image", 3, WIDTH, name="stem") if rank == 4 else "image"
    for name, values in (given or {}).items():
        net.constant(name, values)
    if rank == 2:
        net.source = ("image", ["N", WIDTH])
    net.add(op, *(h if name == "h" else name for name in inputs), name="one", outputs=("logits",), **attributes)
    return net.model()


@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_answers_are_those_of_onnx_runtime(tmp_path: Path, make: Callable[[], Any], batch: int) -> None:
    agree(tmp_path, make(), batch=batch)


def test_a_runner_takes_one_batch_after_another(tmp_path: Path) -> None:
    model = nets.conv_net()
    path = nets.save(model, tmp_path / "net.onnx")
    with OnnxRuntimeRunner(path, threads=1) as one, LiteRtRunner(path, threads=2) as other:
        for batch in (1, 4, 2, 2, 1):
            given = feeds(model, batch)
            np.testing.assert_allclose(other.infer(given)[0], one.infer(given)[0], atol=1e-4)


@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 1, 1, 1]},
        {"pads": [1, 1, 1, 1], "strides": [2, 2]},
        {"pads": [0, 0, 1, 1], "strides": [2, 2]},
        {"pads": [0, 0, 0, 0], "strides": [2, 2]},
        {"pads": [2, 1, 0, 2]},
        {"pads": [2, 2, 2, 2], "dilations": [2, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"auto_pad": "VALID"},
        {"pads": [1, 1, 1, 1], "group": 4},
        {"pads": [1, 1, 1, 1], "group": 2, "strides": [2, 1]},
    ],
)
def test_windows_lie_where_onnx_puts_them(tmp_path: Path, side: int, attributes: dict[str, Any]) -> None:
    agree(tmp_path, one_conv(side=side, **attributes))


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
        ("MaxPool", {"kernel_shape": [3, 3], "pads": [2, 0, 0, 1]}),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [3, 3]}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [2, 0, 0, 1], "count_include_pad": 1}),
        ("GlobalAveragePool", {}),
        ("ReduceMean", {"axes": [1]}),
        ("ReduceMean", {"axes": [-1, -2], "keepdims": 0}),
        ("Relu", {}),
        ("Sigmoid", {}),
        ("Tanh", {}),
        ("LeakyRelu", {"alpha": 0.2}),
        ("HardSwish", {}),
        ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
        ("Softmax", {"axis": 1}),
        ("Softmax", {"axis": -1}),
        ("Flatten", {}),
        ("Transpose", {"perm": [0, 2, 3, 1]}),
        ("Transpose", {"perm": [0, 3, 2, 1]}),
        ("Identity", {}),
    ],
)
def test_an_operator_behind_a_convolution(tmp_path: Path, op: str, attributes: dict[str, Any]) -> None:
    agree(tmp_path, one(op, "h", **attributes))


F32 = np.float32
CHANNELS = np.linspace(-1, 1, WIDTH, dtype=np.float32)


@pytest.mark.parametrize(
    ("op", "given"),
    [
        ("Add", {"c": CHANNELS.reshape(WIDTH, 1, 1)}),
        ("Mul", {"c": CHANNELS.reshape(1, WIDTH, 1, 1)}),
        ("Sub", {"c": F32(0.5)}),
        ("Div", {"c": np.linspace(1, 2, 9, dtype=np.float32)}),
        ("Max", {"c": np.array([0.25], np.float32)}),
        ("Clip", {"low": F32(0), "high": F32(6)}),
        ("Clip", {"low": F32(-0.5), "high": F32(0.75)}),
        ("Clip", {"low": F32(-0.5)}),
        ("Clip", {}),
        ("Reshape", {"s": np.array([-1, WIDTH * 81])}),
        ("Reshape", {"s": np.array([0, WIDTH, 81])}),
        ("Reshape", {"s": np.array([0, 4, 4, 81])}),
        ("Pad", {"p": np.array([0, 2, 1, 0, 0, 1, 0, 3])}),
        ("Slice", {"s": np.array([0, 1]), "e": np.array([99, -1]), "a": np.array([2, 3]), "t": np.array([2, 3])}),
        ("BatchNormalization", dict(zip("sbmv", [CHANNELS + 2, CHANNELS, CHANNELS, CHANNELS + 2], strict=True))),
        ("Squeeze", None),
    ],
)
def test_an_operator_with_constants(tmp_path: Path, op: str, given: dict[str, Any] | None) -> None:
    if given is None:
        net = Net(channels=3, side=8)
        net.add("GlobalAveragePool", net.conv("image", 3, WIDTH, name="stem"), name="pool")
        net.add(op, net.h, net.constant("axes", [2, 3]), name="one", outputs=("logits",))
        agree(tmp_path, net.model())
        return
    agree(tmp_path, one(op, "h", *given, given=given))


def test_two_pictures_beside_each_other(tmp_path: Path) -> None:
    net = Net(channels=3, side=8)
    left, right = (net.conv("image", 3, WIDTH, name=name) for name in ("left", "right"))
    net.add("Concat", left, right, "image", name="join", axis=1)
    net.add("Concat", net.h, net.h, name="below", axis=2, outputs=("logits",))
    agree(tmp_path, net.model())


def test_pictures_with_channels_last_are_never_turned(tmp_path: Path) -> None:
    """Models that come from TensorFlow turn their pictures to ONNX's layout at once."""
    net = Net(channels=3, side=8)
    net.source = ("image", ["N", 8, 8, 3])
    net.add("Transpose", "image", name="turn", perm=[0, 3, 1, 2])
    h = net.conv(net.conv(net.h, 3, WIDTH, name="a", stride=2), WIDTH, WIDTH, name="b")
    net.add("Transpose", h, name="back", perm=[0, 2, 3, 1], outputs=("logits",))
    model = net.model()
    agree(tmp_path, model)
    assert "TRANSPOSE" not in kinds(write_tflite(tmp_path / "net.onnx").data)


def test_an_input_may_be_an_output_and_one_value_two(tmp_path: Path) -> None:
    model = nets.matmul_net()
    node = helper.make_node("Identity", ["y"], ["again"], name="again")
    model.graph.node.append(node)
    model.graph.node.append(helper.make_node("Identity", ["x"], ["given"], name="given"))
    for name, size in (("again", 10), ("given", 64)):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]))
    agree(tmp_path, model)


def test_the_same_model_is_the_same_file(tmp_path: Path) -> None:
    path = nets.save(nets.fire_net(), tmp_path / "net.onnx")
    first = write_tflite(path)
    assert first == write_tflite(path)
    assert first.data[4:8] == b"TFL3"
    assert set(first.floating) == {"stem", "squeeze", "one", "three", "last", "head"}
    assert not first.integer


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: one("Erf", "h"), r"node 'one' \(Erf\): there is no operator for it"),
        (lambda: one("HardSigmoid", "h"), r"node 'one' \(HardSigmoid\): its slope is 0.2"),
        (lambda: one("Softmax", "h", axis=2), r"node 'one' \(Softmax\): it is neither over the last axis"),
        (
            lambda: one("AveragePool", "h", kernel_shape=[3, 3], pads=[2, 0, 0, 1]),
            r"node 'one' \(AveragePool\): its mean leaves out",
        ),
        (lambda: one("MatMul", "h", "h"), r"node 'one' \(MatMul\)"),
        (lambda: nets.two_sided_net(), r"node 'index' \(input\): its type is not float32"),
        (lambda: nets.branching_net(), r"node 'sum' \(ReduceSum\): there is no operator for it"),
    ],
)
def test_a_node_that_cannot_be_written_is_named(tmp_path: Path, model: Callable[[], Any], said: str) -> None:
    path = nets.save(model(), tmp_path / "net.onnx")
    with pytest.raises(UnsupportedModel, match=said) as refused, LiteRtRunner(path, threads=1):
        pass
    assert refused.value.where == str(path)
    assert refused.value.next


@pytest.mark.parametrize(
    ("shape", "taken"), [((3,), True), ((1, 3), True), ((1,), True), ((2, 3), False), ((2, 1), False)]
)
def test_what_a_product_adds_is_the_same_for_every_sample(tmp_path: Path, shape: tuple[int, ...], taken: bool) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, size]) for name, size in (("x", 4), ("y", 3))]
    held = [nets.weights("w", 4, 3), nets.weights("c", *shape)]
    node = helper.make_node("Gemm", ["x", "w", "c"], ["y"], name="product")
    graph = helper.make_graph([node], "net", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if taken:
        agree(tmp_path, model)
        return
    with pytest.raises(UnsupportedModel, match=r"'product'.*from sample to sample"):
        write_tflite(nets.save(model, tmp_path / "model.onnx"))
