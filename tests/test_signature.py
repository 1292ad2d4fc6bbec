"""The signature of a model, and generated inputs that fit it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mlopt.errors import ConfigInvalid, ModelUnreadable
from mlopt.signature import InputSpec, Tensor, random_feeds, signature_of


def model() -> onnx.ModelProto:
    """Two inputs that share a batch dimension (not leading in the second), a sampling rate, an If with a sub-graph."""
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["two"], value=helper.make_tensor("two", TensorProto.FLOAT, [2], [1, 2]))],
        "then",
        [],
        [helper.make_tensor_value_info("two", TensorProto.FLOAT, [2])],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=branch),
        helper.make_node("Identity", ["state"], ["next"]),
        helper.make_node("Identity", ["sr"], ["rate"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "time", 4]),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, "batch", 8]),
            helper.make_tensor_value_info("sr", TensorProto.INT64, []),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "time", 3]),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [2, "batch", 8]),
            helper.make_tensor_value_info("rate", TensorProto.INT64, []),
        ],
        [helper.make_tensor("w", TensorProto.FLOAT, [4, 3], list(range(12)))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_reads_inputs_outputs_opset_and_parameters() -> None:
    found = signature_of(model())
    assert found.inputs[0] == Tensor("x", "float32", ("batch", "time", 4))
    assert found.input("state").shape == (2, "batch", 8)
    assert [output.name for output in found.outputs] == ["y", "next", "rate"]
    assert found.opset == 17
    assert found.op_types == ("Constant", "Identity", "If", "MatMul")
    assert found.parameters == 12 + 2 + 2  # the weight, and one constant in each branch
    assert found.batch == "batch"


def test_feeds_follow_the_batch_wherever_it_is() -> None:
    feeds = random_feeds(signature_of(model()), batch=3, seed=0)
    assert feeds["x"].shape == (3, 16, 4)
    assert feeds["state"].shape == (2, 3, 8)
    assert feeds["sr"].shape == ()
    assert int(feeds["sr"]) == 16000
    assert feeds["x"].dtype == np.float32


def test_feeds_are_seeded_and_independent_of_the_other_inputs() -> None:
    whole = signature_of(model())
    first, again, other = (random_feeds(whole, batch=2, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first["x"], again["x"])
    assert not np.array_equal(first["x"], other["x"])


def test_what_a_person_says_wins() -> None:
    given = {"x": InputSpec(shape=("batch", 5, 4), range=(2, 3)), "sr": InputSpec(value=8000)}
    feeds = random_feeds(signature_of(model()), batch=1, seed=0, given=given)
    assert feeds["x"].shape == (1, 5, 4)
    assert feeds["x"].min() >= 2
    assert feeds["x"].max() <= 3
    assert int(feeds["sr"]) == 8000


def test_text_form_round_trips_and_refuses_nonsense() -> None:
    spec = InputSpec.parse("int64[N, 128]")
    assert spec == InputSpec(shape=("N", 128), dtype="int64")
    for each in (spec, InputSpec(value=16000), InputSpec(range=(0, 255.5)), InputSpec((), "int64", value=1e-7)):
        assert InputSpec.parse(each.text) == each
    with pytest.raises(ConfigInvalid, match="does not describe"):
        InputSpec.parse("3x224x224")


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(model().SerializeToString()[:-7])
    with pytest.raises(ModelUnreadable, match="not an ONNX model"):
        signature_of(broken)
