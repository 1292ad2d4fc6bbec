"""Mixed precision on real nets: what costs answers stays in floating point, the rest is int8, and it says which."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import conv_net, mobile_net, weights
from trials import answers, calibration, run, source, sqnr

from mlopt.errors import BudgetInfeasible, SamplesInvalid, UnsupportedModel
from mlopt.intervals import Allowed
from mlopt.onnx_file import notes_in
from mlopt.precision.borders import Border
from mlopt.precision.expected import Exact
from mlopt.precision.noise import answers as precision_answers
from mlopt.precision.search import Search
from mlopt.serve.openvino import APART, PRECISION
from mlopt.steps.quantize_mixed import QuantizeMixed
from mlopt.steps.quantize_static import QuantizeStatic
from mlopt.steps.quantizer import prepared
from mlopt.steps.sensitivity import groups_to_decide, sensitivities


def outlier_net() -> onnx.ModelProto:
    """One channel of the first layer is 500 times as large as the others, and what reads it undoes that; most weights
    are the head's."""
    model = conv_net()
    hidden = [
        onnx.helper.make_node("Gemm", ["f", "wh", "bh"], ["h"], name="hidden", transB=1),
        onnx.helper.make_node("Relu", ["h"], ["rh"], name="relu3"),
    ]
    nodes = [*model.graph.node[:-1], *hidden, model.graph.node[-1]]
    nodes[-1].input[0] = "rh"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    others = [tensor for tensor in model.graph.initializer if tensor.name != "w3"]
    del model.graph.initializer[:]
    wide = [weights("wh", 256, 16, scale=0.35), weights("bh", 256, scale=0.1), weights("w3", 10, 256, scale=0.09)]
    model.graph.initializer.extend([*others, *wide])
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
    arrays["w1"][0] *= 500
    arrays["b1"][0] *= 500
    arrays["w2"][:, 0] /= 500
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(arrays[tensor.name], tensor.name))
    return model


def picture(seed: int) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(seed).standard_normal((8, 3, 32, 32)).astype(np.float32)}


def test_what_costs_most_stays_and_the_rest_is_int8(tmp_path: Path) -> None:
    model = outlier_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    static = run(QuantizeStatic(samples), base, tmp_path / "static")
    assert sqnr(answers(base, picture(7)), answers(static, picture(7))) < 25, "all int8 is not good enough"
    made = run(QuantizeMixed(samples, allowed=Allowed(400, sqnr=30.0)), base, tmp_path / "q")
    assert sqnr(answers(base, picture(7)), answers(made, picture(7))) > 28, "new pictures, not those of the search"
    graph = onnx.load(str(made.main)).graph
    integer = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    assert {name for name in integer if name.startswith(("w1", "w2"))} == set()
    assert any(name.startswith("w3") for name in integer), "the head costs nothing, so it is int8"
    first, second = notes_in(made.main)  # nothing is repaired: that made good for errors that this mix does not have
    assert first.startswith("2 of 4 groups of nodes stay in floating point (")
    assert "conv1" in first
    assert "conv2" in first
    assert "where all int8 gives" in second


def test_where_the_budget_allows_all_int8_it_is_the_static_model(tmp_path: Path) -> None:
    model = conv_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    made = run(QuantizeMixed(samples, allowed=Allowed(400, sqnr=15.0)), base, tmp_path / "q")
    assert made.digest == run(QuantizeStatic(samples), base, tmp_path / "static").digest
    assert notes_in(made.main) == ()


@pytest.mark.parametrize(("build", "kept"), [(conv_net, 0), (outlier_net, 2)])
def test_without_labels_agreement_decides(tmp_path: Path, build: Callable[[], onnx.ModelProto], kept: int) -> None:
    model = build()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    made = run(QuantizeMixed(samples, allowed=Allowed(400, agreement=0.6), repair=False), base, tmp_path / "q")
    notes = notes_in(made.main)
    assert notes[0].startswith("2 of 4 groups") if kept else not notes


def test_repair_comes_before_keeping(tmp_path: Path) -> None:
    model = outlier_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    allowed = Allowed(400, agreement=0.6)
    kept = run(QuantizeMixed(samples, allowed=allowed, repair=False), base, tmp_path / "kept")
    made = run(QuantizeMixed(samples, allowed=allowed), base, tmp_path / "q")
    (note,) = notes_in(made.main)
    assert note.startswith("weights and biases are repaired; without that all int8 gives")
    assert note.endswith("(3 evaluations on calibration samples, the model's own among them)")
    assert made.bytes < kept.bytes, "nothing stays in floating point"
    static = run(QuantizeStatic(samples), base, tmp_path / "static")
    truth = answers(base, picture(7))
    assert sqnr(truth, answers(made, picture(7))) > sqnr(truth, answers(static, picture(7)))


def test_an_impossible_budget_is_one_clear_error(tmp_path: Path) -> None:
    model = outlier_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    with pytest.raises(
        BudgetInfeasible, match="No mix of int8 and floating point is likely to keep the budget"
    ) as caught:
        run(QuantizeMixed(samples, allowed=Allowed(400, sqnr=150.0)), base, tmp_path / "q")
    nearest = float(caught.value.next.partition("min-sqnr = ")[2].split()[0])
    made = run(QuantizeMixed(samples, allowed=Allowed(400, sqnr=nearest)), base, tmp_path / "near")
    assert sqnr(answers(base, picture(7)), answers(made, picture(7))) > nearest - 4, "what it says is feasible is"


def test_the_same_bytes(tmp_path: Path) -> None:
    model = outlier_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    step = QuantizeMixed(samples, allowed=Allowed(400, sqnr=30.0))
    assert run(step, base, tmp_path / "q1").digest == run(step, base, tmp_path / "q2").digest


def test_sensitivity_ranks_the_groups(tmp_path: Path) -> None:
    model = outlier_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    qdq = QuantizeMixed(samples, allowed=Allowed(400)).qdq
    with prepared(base, optimize=True) as ready:
        groups = groups_to_decide(ready.graph, qdq)
        ranges = qdq.observe(ready, samples, tmp_path, QuantizeMixed(samples, allowed=Allowed(400)).how)
        feeds = list(samples.feeds(batch=1))
        exact = precision_answers(base.main, feeds)
        found = tuple(sensitivities(qdq, ready, ranges, groups, exact, feeds, tmp_path / "trial.onnx"))
    assert [entry.group.name for entry in found] == ["conv1", "conv2", "hidden", "head"]
    assert max(found[2].power, found[3].power) < min(found[0].power, found[1].power)


def test_sensitivity_is_measured_only_where_all_int8_is_too_much(tmp_path: Path) -> None:
    """Measuring it takes the first few samples; a number of them that is none shows whether they were taken."""
    model = conv_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    broken = QuantizeMixed(samples, allowed=Allowed(400, sqnr=15.0), probes=-1)
    run(broken, base, tmp_path / "enough")
    with pytest.raises(UnsupportedModel, match="islice"):
        run(dataclasses.replace(broken, allowed=Allowed(400, sqnr=60.0)), base, tmp_path / "more")


def test_broken_samples_are_named(tmp_path: Path) -> None:
    model = conv_net()
    base = source(tmp_path / "m", model)
    with pytest.raises(SamplesInvalid, match="NaN or infinity at"):
        run(QuantizeMixed(calibration(tmp_path, model, broken=True), allowed=Allowed(400)), base, tmp_path / "q")


def test_what_stays_may_be_in_bf16_where_that_is_inside_the_budget_too(tmp_path: Path) -> None:
    model = outlier_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    narrow = run(QuantizeMixed(samples, allowed=Allowed(400, sqnr=30.0), rest="bf16"), base, tmp_path / "narrow")
    props = {entry.key: entry.value for entry in onnx.load(str(narrow.main)).metadata_props}
    assert props[PRECISION] == "bf16"
    assert APART in props, "between bf16 and int8 a fused program would round otherwise"
    model.graph.node.append(onnx.helper.make_node("Softmax", [model.graph.output[0].name], ["share"], name="share"))
    model.graph.output[0].name = "share"
    allowed = Allowed(400, sqnr=20.0)
    ending = run(QuantizeMixed(samples, allowed=allowed, rest="bf16"), source(tmp_path / "s", model), tmp_path / "e")
    assert APART in {entry.key for entry in onnx.load(str(ending.main)).metadata_props}, "that is no attention"
    assert notes_in(narrow.main)[-1].startswith("what is not int8 computes in bfloat16")
    model = mobile_net()
    base, samples = source(tmp_path / "deep", model), calibration(tmp_path, model)
    step = QuantizeMixed(samples, allowed=Allowed(400, sqnr=42.0), rest="bf16", repair=False)
    exact = run(step, base, tmp_path / "exact")
    assert PRECISION not in {entry.key for entry in onnx.load(str(exact.main)).metadata_props}, "bf16 alone is too much"
    assert any("stay in floating point" in said for said in notes_in(exact.main))
    with pytest.raises(ValueError, match="there are 'f32' and 'bf16'"):
        QuantizeMixed(samples, allowed=Allowed(400), rest="fp16")  # type: ignore[arg-type]


def gated_net() -> onnx.ModelProto:
    """The deep net with a gate behind the depthwise convolutions 3 and 5."""
    model = mobile_net()
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        if node.name in ("relu3", "relu5"):
            (result,) = node.output
            node.output[0] = f"{result}_before"
            nodes.append(
                onnx.helper.make_node("Sigmoid", [node.output[0]], [f"{result}_gate"], name=f"{node.name}_gate")
            )
            nodes.append(
                onnx.helper.make_node("Mul", [node.output[0], f"{result}_gate"], [result], name=f"{result}_mul")
            )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def test_beside_bf16_depthwise_convolutions_before_gates_are_kept_first(tmp_path: Path) -> None:
    model = gated_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    allowed = Allowed(400, sqnr=36.0)
    step = QuantizeMixed(samples, op_types=("Conv", "Gemm"), outputs=False, repair=False, allowed=allowed)
    kept = {}
    for rest, tried in (("f32", step), ("bf16", dataclasses.replace(step, rest="bf16"))):
        made = onnx.load(str(run(tried, base, tmp_path / rest).main))
        integers = {node.output[0] for node in made.graph.node if node.op_type == "DequantizeLinear"}
        kept[rest] = {node.name for node in made.graph.node if node.op_type == "Conv" and node.input[1] not in integers}
    assert kept["bf16"] >= {"conv3", "conv5"}
    assert not kept["f32"] >= {"conv3", "conv5"}


def narrow_net() -> onnx.ModelProto:
    """Behind two convolutions that stay in floating point one of few terms, and a product at the end."""
    nodes = [
        onnx.helper.make_node("Conv", ["image", "w0"], ["a"], name="head", pads=[1] * 4),
        onnx.helper.make_node("Conv", ["a", "wd"], ["b"], name="wise", pads=[1] * 4, group=32),
        onnx.helper.make_node("Relu", ["b"], ["rb"], name="relu"),
        onnx.helper.make_node("Conv", ["rb", "wp"], ["c"], name="narrow"),
        onnx.helper.make_node("Relu", ["c"], ["rc"], name="relu2"),
        onnx.helper.make_node("GlobalAveragePool", ["rc"], ["p"], name="pool"),
        onnx.helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        onnx.helper.make_node("Gemm", ["f", "w3"], ["logits"], name="last", transB=1),
    ]
    shapes = {"w0": (32, 3, 3, 3), "wd": (32, 1, 3, 3), "wp": (16, 32, 1, 1), "w3": (10, 16)}
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", *shape])
        for name, shape in {"image": [3, 32, 32], "logits": [10]}.items()
    ]
    constants = [weights(name, *shape, scale=0.3) for name, shape in shapes.items()]
    graph = onnx.helper.make_graph(nodes, "net", ends[:1], ends[1:], constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_the_search_knows_what_stays_in_floating_point_anyhow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tensor that the first product in int8 reads each number costs more than int8 saves of that product."""
    searched: list[Search] = []
    monkeypatch.setattr(Search, "run", lambda self, _: searched.append(self))
    base, samples = source(tmp_path / "m", narrow_net()), calibration(tmp_path, narrow_net())
    with pytest.raises(BudgetInfeasible):
        run(QuantizeMixed(samples, allowed=Allowed(400, sqnr=70.0), shortest_dot=32), base, tmp_path / "q")
    first, second = searched[0].borders
    assert first == Border(32 * 32 * 32, "", frozenset({"narrow"}), 32, 32)
    assert (second.writer, second.readers) == ("narrow", {"last"})


def test_what_is_bold_says_its_chance_and_a_fallback_is_not(tmp_path: Path) -> None:
    model = conv_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    static = run(QuantizeStatic(samples), base, tmp_path / "static")
    exact, found = (precision_answers(one.main, samples.feeds(batch=1))[0] for one in (base, static))
    known = Exact.of(exact)
    assert known
    expected = known.changes(found)
    limits = np.linspace(0.5, 1, 2001)
    limit = next(float(one) for one in limits if Allowed(400, agreement=one).chance(expected) < 0.74)
    step = QuantizeMixed(samples, allowed=Allowed(400, agreement=limit), repair=False)
    bold = run(step, base, tmp_path / "bold")
    assert any("its chance to keep the budget was 7" in said for said in notes_in(bold.main)), notes_in(bold.main)
    assert answers(bold, picture(7))[0] == pytest.approx(answers(static, picture(7))[0]), "all int8"
    tight = dataclasses.replace(step, allowed=Allowed(400, agreement=float(limits[list(limits).index(limit) + 40])))
    surer = run(dataclasses.replace(tight, fallback=True), base, tmp_path / "surer")
    assert any("groups of nodes stay" in said for said in notes_in(surer.main)), notes_in(surer.main)
