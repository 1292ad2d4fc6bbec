"""Pruning as a step: answers, widths, notes, and what a person reads where it cannot be done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import GRAPHS
from nets import save
from onnx import numpy_helper
from trials import answers, calibration, run, source, sqnr

from mlopt.artifact import Artifact
from mlopt.errors import SamplesInvalid, UnsupportedModel
from mlopt.onnx_file import notes_in
from mlopt.prune.cells import products_of
from mlopt.prune.channels import follow
from mlopt.samples.open import Asked, open_samples
from mlopt.samples.samples import Samples
from mlopt.signature import signature_of
from mlopt.steps.prune_channels import PruneChannels
from mlopt.steps.quantize_static import QuantizeStatic


def shape_of(model: onnx.ModelProto) -> list[int]:
    return [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]


def samples(folder: Path, model: onnx.ModelProto, count: int = 64) -> Samples:
    x = np.random.default_rng(0).standard_normal((count + 1, *shape_of(model))).astype(np.float32)
    np.savez(folder / "many.npz", x=x)
    return open_samples(
        Asked(str(folder / "many.npz"), calibration=count), signature_of(save(model, folder / "s.onnx"))
    ).calibration


def feed(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(7).standard_normal((16, *shape_of(model))).astype(np.float32)}


def work(artifact: Artifact) -> int:
    model = onnx.shape_inference.infer_shapes(onnx.load(str(artifact.main)))
    return sum(one.work(()) for one in products_of(follow(model)))


def emptied(model: onnx.ModelProto, names: tuple[str, ...], channels: list[int]) -> onnx.ModelProto:
    """The model with those outputs of those layers zero whatever the input."""
    for tensor in model.graph.initializer:
        if tensor.name in names:
            values = numpy_helper.to_array(tensor).copy()
            values[channels] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


def test_channels_that_are_always_zero_go_first_and_change_nothing(tmp_path: Path) -> None:
    model = emptied(GRAPHS["plain"](), ("a_w", "a_b"), [0, 3, 5, 6, 9, 11, 12, 15])
    base = source(tmp_path / "m", model)
    made = run(PruneChannels(samples(tmp_path, model), share=0.3, multiple=8), base, tmp_path / "p")
    assert sqnr(answers(base, feed(model)), answers(made, feed(model))) > 60
    assert "a 16 to 8" in notes_in(made.main)[1]


@pytest.mark.parametrize("name", sorted(set(GRAPHS) - {"grouped"}))
def test_every_kind_of_graph_is_pruned_to_what_was_asked(name: str, tmp_path: Path) -> None:
    model = GRAPHS[name]()
    base = source(tmp_path / "m", model)
    made = run(PruneChannels(samples(tmp_path, model), share=0.2, multiple=4), base, tmp_path / "p")
    assert work(made) <= 0.8 * work(base)
    whole = answers(base, feed(model))
    assert whole.shape == answers(made, feed(model)).shape
    assert sqnr(whole - whole.mean(axis=0), answers(made, feed(model)) - whole.mean(axis=0)) > 3


def test_fitting_anew_gets_more_back_than_dropping(tmp_path: Path) -> None:
    model = GRAPHS["residual"]()
    base, some = source(tmp_path / "m", model), samples(tmp_path, model)
    made = run(PruneChannels(some, share=0.4, multiple=4), base, tmp_path / "p")
    channels = follow(onnx.shape_inference.infer_shapes(onnx.load(str(base.main))))
    assert channels.frozen(int(channels.roots(channels.axes["logits"][1])[0])) is not None  # type: ignore[index, arg-type]
    narrow = {tensor.name: tuple(tensor.dims) for tensor in onnx.load(str(made.main)).graph.initializer}
    dropped = onnx.load(str(base.main))
    for tensor in dropped.graph.initializer:  # as many channels as were kept, by the size of their weights
        values = numpy_helper.to_array(tensor)
        if tensor.name == "wide_w":
            norms = np.abs(values).sum(axis=(1, 2, 3))
            least = np.argsort(norms)[: len(values) - narrow["wide_w"][0]]
    arrays = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in dropped.graph.initializer}
    arrays["narrow_w"][:, least] = 0
    for tensor in dropped.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    plainly = source(tmp_path / "d", dropped)
    exact = answers(base, feed(model))
    assert sqnr(exact, answers(made, feed(model))) > sqnr(exact, answers(plainly, feed(model))) + 3


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    model = GRAPHS["depthwise"]()
    base, some = source(tmp_path / "m", model), samples(tmp_path, model)
    step = PruneChannels(some, share=0.3, multiple=8)
    assert run(step, base, tmp_path / "1").digest == run(step, base, tmp_path / "2").digest


def test_what_is_pruned_can_be_quantized(tmp_path: Path) -> None:
    model = GRAPHS["residual"]()
    base, some = source(tmp_path / "m", model), samples(tmp_path, model)
    made = run(PruneChannels(some, share=0.2, multiple=4), base, tmp_path / "p")
    small = run(QuantizeStatic(some), made, tmp_path / "q")
    assert sqnr(answers(made, feed(model)), answers(small, feed(model))) > 20
    assert small.bytes < made.bytes


def test_a_share_out_of_reach_says_how_much_is_not(tmp_path: Path) -> None:
    model = GRAPHS["unknown"]()
    base, some = source(tmp_path / "m", model), samples(tmp_path, model)
    with pytest.raises(UnsupportedModel, match=r"At most (\d\d\.\d)% of the model's work can be pruned") as caught:
        run(PruneChannels(some, share=0.95, multiple=4), base, tmp_path / "p")
    assert "a because of node sums (CumSum)" in caught.value.what
    most = float(caught.value.next.rsplit(" ", 1)[1])
    made = run(PruneChannels(some, share=most, multiple=4), base, tmp_path / "q")
    assert work(made) <= (1 - most) * work(base)


def test_a_model_without_a_choice_says_so(tmp_path: Path) -> None:
    model = GRAPHS["plain"]()
    base, some = source(tmp_path / "m", model), samples(tmp_path, model)
    with pytest.raises(UnsupportedModel, match=r"At most 0\.0%") as caught:
        run(PruneChannels(some, multiple=16), base, tmp_path / "p")
    assert "smaller multiple" in caught.value.next


def test_broken_samples_are_named(tmp_path: Path) -> None:
    model = GRAPHS["plain"]()
    base = source(tmp_path / "m", model)
    with pytest.raises(SamplesInvalid, match="leads to NaN or infinity at input 'image'"):
        run(PruneChannels(calibration(tmp_path, model, broken=True), multiple=4), base, tmp_path / "p")


def test_the_node_that_makes_nan_is_named(tmp_path: Path) -> None:
    model = GRAPHS["plain"]()
    node = next(node for node in model.graph.node if node.name == "ra")
    node.op_type = "Log"
    base = source(tmp_path / "m", model)
    with pytest.raises(SamplesInvalid, match=r"NaN or infinity at node 'ra' \(Log\)"):
        run(PruneChannels(samples(tmp_path, model), multiple=4), base, tmp_path / "p")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"share": 0.0}, "share is 0.0, and must be a number above 0 and below 1"),
        ({"share": 1}, "share is 1"),
        ({"share": True}, "share is True"),
        ({"multiple": 0}, "multiple is 0, and must be a whole number of at least 1"),
        ({"multiple": "auto"}, "multiple is 'auto'"),
    ],
)
def test_values_that_make_no_sense(options: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        PruneChannels(samples(tmp_path, GRAPHS["plain"]()), **options)  # type: ignore[arg-type]
