"""Batches: made only of what fits, of a model that may be asked so, with the answers that each would get alone."""

from __future__ import annotations

import json
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))

from conftest import write_model
from test_serve_app import INFER, started, tensor

from mlopt.image.serving import describe_serving, encode_serving
from mlopt.serve.batching import grouped, why_not
from mlopt.serve.call import Answer, Call
from mlopt.serve.model import Model, NotServable, read_serving
from mlopt.serve.settings import Limits

TOGETHER = Limits(concurrency=1, batch=4, delay=0.2)


def folder_of(
    tmp_path: Path, nodes: list[Any], *, shape: list[Any], out: list[Any], weights: dict[str, np.ndarray]
) -> Path:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx"
    )
    spec = describe_serving(tmp_path / "model.onnx", name="net")
    (tmp_path / "serving.json").write_bytes(encode_serving(spec))
    return tmp_path


def loaded(folder: Path) -> Model:
    return Model(folder, read_serving(folder))


def test_requests_that_come_together_are_computed_together_and_answered_as_alone(model_folder: Path) -> None:
    client, barrier = started(model_folder, TOGETHER), threading.Barrier(4)
    data = np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32)

    def ask(place: int) -> list[float]:
        barrier.wait(10)
        body = {"inputs": [tensor(data=data[place].ravel().tolist())]}
        reply = client.post(INFER, json=body)
        assert reply.status_code == 200, reply.text
        assert reply.json()["outputs"][0]["shape"] == [1, 3]
        return list(reply.json()["outputs"][0]["data"])

    try:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(ask, range(4)))
        np.testing.assert_allclose(answers, 4 * data.mean(axis=(2, 3)), rtol=1e-5)
        text = client.get("/metrics").text
        rows, count = (float(re.search(rf"mlopt_batch_rows_{what}\{{.*}} (\S+)", text)[1]) for what in ("sum", "count"))  # type: ignore[index]
        assert rows == 4
        assert count < 4, "they were computed one by one"
        assert 'mlopt_stage_seconds_count{model="colours",stage="queue",version="3"} 4.0' in text
    finally:
        client.__exit__(None, None, None)


def test_a_wrong_request_in_a_batch_hurts_nobody_else(model_folder: Path) -> None:
    client, barrier = started(model_folder, TOGETHER), threading.Barrier(3)
    bodies = [
        {"inputs": [tensor()]},
        {"inputs": [tensor(data=[1.0])]},
        {"inputs": [tensor(shape=[2, 3, 8, 8], data=[1.0] * 384)]},
    ]

    def ask(body: dict[str, Any]) -> tuple[int, Any]:
        barrier.wait(10)
        reply = client.post(INFER, json=body)
        return reply.status_code, reply.json().get("outputs", [{}])[0].get("shape")

    try:
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(ask, bodies)) == [(200, [1, 3]), (400, None), (200, [2, 3])]
    finally:
        client.__exit__(None, None, None)


def test_a_lonely_request_waits_no_longer_than_the_delay(model_folder: Path) -> None:
    client = started(model_folder, Limits(batch=64, delay=0.3))
    try:
        reply = client.post(INFER, json={"inputs": [tensor()]})
        assert reply.status_code == 200
        queue = float(re.search(r'seconds_sum\{[^}]*stage="queue"[^}]*\} (\S+)', client.get("/metrics").text)[1])  # type: ignore[index]
        assert 0.29 < queue < 5
    finally:
        client.__exit__(None, None, None)


def test_the_first_dimension_must_be_free(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    model = loaded(folder_of(tmp_path, nodes, shape=[1, 4], out=[1, 4], weights={}))
    assert "fixes the first dimension of 'x'" in str(why_not(model))
    client = started(tmp_path, TOGETHER)
    try:
        one = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, -1.0, 2.0, 0.0]}
        reply = client.post("/v2/models/net/infer", json={"inputs": [one]})
        assert reply.json()["outputs"][0]["data"] == [1.0, 0.0, 2.0, 0.0]
    finally:
        client.__exit__(None, None, None)


def test_rows_that_see_each_other_are_found_out(tmp_path: Path) -> None:
    """Dynamic quantization finds one scale for the whole tensor: the neighbour's size changes the answer."""
    weight = np.random.default_rng(1).integers(-100, 100, (8, 3)).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "scale"], ["y"]),
    ]
    model = loaded(folder_of(tmp_path, nodes, shape=["N", 8], out=["N", 3], weights={"w": weight}))
    assert "other answers" in str(why_not(model))


def test_a_first_dimension_that_is_no_batch_is_found_out(tmp_path: Path) -> None:
    nodes = [helper.make_node("CumSum", ["x", "axis"], ["y"])]
    model = loaded(folder_of(tmp_path, nodes, shape=["T", 4], out=["T", 4], weights={"axis": np.array(0, np.int64)}))
    assert "other answers" in str(why_not(model))


def test_other_free_dimensions_are_tried(tmp_path: Path) -> None:
    weight = np.random.default_rng(1).standard_normal((2, 3, 5, 5)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("GlobalAveragePool", ["c"], ["y"])]
    out = ["N", 2, 1, 1]
    model = loaded(folder_of(tmp_path, nodes, shape=["N", 3, "H", "W"], out=out, weights={"w": weight}))
    assert why_not(model) is None


def test_groups_keep_the_order_and_the_largest_batch() -> None:
    def call(rows: int, width: int = 2, outputs: tuple[str, ...] = ("y",)) -> Call:
        return Call({"x": np.zeros((rows, width))}, outputs, lambda arrays, spent: Answer(b""))

    calls = [call(1), call(1, 3), call(2), call(1), call(9), call(1), call(1, outputs=("z",))]
    assert grouped(range(7), call_of=lambda place: calls[place], most=4) == [[0, 2, 3], [1], [4], [5], [6]]


def test_serving_json_turns_it_on_and_the_options_decide(tmp_path: Path) -> None:
    write_model(tmp_path)
    spec = describe_serving(tmp_path / "model.onnx", name="colours") | {"batching": {"largest": 8, "delay_us": 1500}}
    (tmp_path / "serving.json").write_text(json.dumps(spec))
    told = read_serving(tmp_path).batching
    assert told is not None
    assert (told.largest, told.delay) == (8, 0.0015)
    for wrong in (
        {"largest": 0, "delay_us": 1},
        {"largest": 4},
        {"largest": 4, "delay_us": -1},
        [4],
        {"largest": "4", "delay_us": 0},
    ):
        (tmp_path / "serving.json").write_text(json.dumps(spec | {"batching": wrong}))
        with pytest.raises(NotServable, match=r"serving\.json"):
            read_serving(tmp_path)
