"""The native server beside the Python one: the same answers to the same requests, the same refusals."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))

from natives import LENGTH, PATH, QUIET, TENSOR, asked, both, infer, write_typed
from serving_process import process, status, wait_ready

from mlopt.image.run import free_port
from mlopt.image.serving import describe_serving, encode_serving
from mlopt.runners.onnxruntime import OnnxRuntimeRunner

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def test_every_type_comes_back_as_the_python_server_has_it(native: Sequence[str], tmp_path: Path) -> None:
    values: dict[str, list[Any]] = {
        "BOOL": [True, False, False, True],
        **{f"INT{bits}": [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0, -1] for bits in (8, 16, 32, 64)},
        **{f"UINT{bits}": [0, 2 ** min(bits, 63) - 1, 1, 7] for bits in (8, 16, 32, 64)},
        "FP16": [0.1, -65504.0, 6e-8, 1.0],
        "FP32": [0.1, 3.4028234663852886e38, 1e-45, -0.0],
        "FP64": [0.1, 1.7976931348623157e308, 5e-324, 2**53 + 1],
        "BYTES": ["", 'ä"\\\n', "a\0b", "\U0001f600"],
    }
    inputs = [
        {"name": f"{name}_in", "shape": [2, 2], "datatype": name, "data": [list[:2], list[2:]]}
        for name, list in values.items()
    ]
    with both(native, write_typed(tmp_path)) as ports:
        ours, theirs = infer(ports, inputs, "typed", id="é")
        assert ours == theirs
        raw = infer(ports, inputs, "typed", outputs=[{"name": "UINT64_out"}, {"name": "BYTES_out"}])
        assert raw[0] == raw[1]
        assert [one["name"] for one in raw[0]["outputs"]] == ["UINT64_out", "BYTES_out"]
        body = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        first, second = (asked(port, "/v2/models/typed/infer", body) for port in ports)
        assert first == second
        assert first[0] == 200
        tail = first[1][int(first[2] or 0) :]
        assert tail[:4] == b"\x01\x00\x00\x01"
        assert tail.endswith("\U0001f600".encode())


def test_half_precision_is_rounded_as_by_numpy(native: Sequence[str], tmp_path: Path) -> None:
    """Every number of it, what lies between two of them, and the neighbours of that."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    between = (halves[1:] + halves[:-1]) / 2
    values = np.concatenate(
        [halves, between, np.nextafter(between, np.inf), -np.nextafter(between, 0), [65520, -1e300]]
    )
    info = helper.make_tensor_value_info
    ends = [info(name, TensorProto.FLOAT16, ["N"]) for name in ("in", "out")]
    graph = helper.make_graph([helper.make_node("Identity", ["in"], ["out"])], "half", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    serving = describe_serving(tmp_path / "model.onnx", name="half")
    (tmp_path / "serving.json").write_bytes(encode_serving(serving))
    tensor = {"name": "in", "shape": [len(values)], "datatype": "FP16", "data": values.tolist()}
    body = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    port = free_port()
    with process(tmp_path, port=port, options=QUIET, command=native) as running:
        wait_ready(port, running)
        code, answer, length = asked(port, "/v2/models/half/infer", body)
    assert code == 200
    with np.errstate(over="ignore"):
        assert answer[int(length or 0) :] == values.astype(np.float16).tobytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"data": [True] * 192},
        {"data": ["0.5"] * 192},
        {"data": [0.5] * 191},
        {"data": [[0.5] * 192]},
        {"data": [[[[0.5] * 8] * 8] * 2 + [[0.5] * 8] * 8]},
        {"data": None},
        {"data": 0.5},
        {"data": [None] * 192},
        {"shape": [0, 3, 8, 8]},
        {"shape": [1, 3, 8]},
        {"shape": [1, 3, 8, 9]},
        {"shape": [2**31, 3, 8, 8]},
        {"shape": [2**62, 3, 8, 8]},
        {"shape": [1.0, 3, 8, 8]},
        {"shape": "x"},
        {"datatype": "FP64"},
        {"name": "other"},
        {"name": 1},
        {"parameters": []},
        {"parameters": {"classification": 3}},
        {"parameters": {"shared_memory_region": "x"}},
        {"parameters": {"binary_data_size": 768}},
        {"parameters": {"binary_data_size": -1}, "data": None},
    ],
)
def test_wrong_tensors_are_refused_as_by_the_python_server(shared: tuple[int, int], changes: dict[str, Any]) -> None:
    body = json.dumps({"inputs": [TENSOR | changes]}).encode()
    codes = {asked(port, PATH, body)[0] for port in shared}
    assert codes == {400}


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"", None),
        (b"[]", None),
        (b"{", None),
        (b'{"inputs": {}}', None),
        (b'{"inputs": [1]}', None),
        (b'{"inputs": []}', None),
        (json.dumps({"inputs": [TENSOR, TENSOR]}).encode(), None),
        (json.dumps({"inputs": [TENSOR], "id": 3}).encode(), None),
        (json.dumps({"inputs": [TENSOR], "outputs": [{"name": "other"}]}).encode(), None),
        (json.dumps({"inputs": [TENSOR], "outputs": [{"name": "scores"}] * 2}).encode(), None),
        (json.dumps({"inputs": [TENSOR], "outputs": {}}).encode(), None),
        (b'{"inputs": NaN}', None),
        (b'{"inputs": "\xff"}', None),
        (b"[" * 100_000, None),
        (b"\0" * 767, "0"),
        (b"{}", "3"),
        (b"{}", "-1"),
        (b"{}", "1e1"),
        (json.dumps({"inputs": [TENSOR]}).encode() + b"\0", str(len(json.dumps({"inputs": [TENSOR]})))),
    ],
)
def test_wrong_bodies_are_refused_as_by_the_python_server(
    shared: tuple[int, int], body: bytes, length: str | None
) -> None:
    headers = {LENGTH: length} if length else {}
    codes = {asked(port, PATH, body, **headers)[0] for port in shared}
    assert codes == {400}


def test_a_body_of_nothing_but_the_tensor(shared: tuple[int, int]) -> None:
    raw = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32).tobytes()
    answers = [asked(port, PATH, raw, **{LENGTH: "0"}) for port in shared]
    assert answers[0] == answers[1]
    code, body, length = answers[0]
    assert code == 200
    assert len(body) == int(length or 0) + 3 * 3 * 4


def test_metadata_and_health_are_the_same(shared: tuple[int, int]) -> None:
    for path in ("/v2", "/v2/models/colours", "/v2/models/colours/versions/3", "/v2/health/live", "/ping"):
        bodies = []
        for port in shared:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", path)
            bodies.append(json.loads(connection.getresponse().read()))
            connection.close()
        assert bodies[0] == bodies[1], path
    for path in ("/v2/models/other", "/v2/models/colours/versions/4", "/nothing", "/v2/models/colours/x"):
        assert {status(port, path) for port in shared} == {404}, path
    assert {status(port, "/v2/models/colours", "{}") for port in shared} == {405}
    assert {status(port, PATH) for port in shared} == {405}
    for port in shared:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", PATH)
        reply = connection.getresponse()
        assert reply.getheader("Allow") == "POST"
        assert reply.getheader("Date")
        connection.close()


@pytest.fixture(scope="module")
def shared(native: Sequence[str], model_folder: Path) -> Iterator[tuple[int, int]]:
    with both(native, model_folder) as ports:
        yield ports


@pytest.mark.real
@pytest.mark.skipif(not DATA.is_dir(), reason="the real models are not beside the checkout (../shared/data)")
def test_a_real_model_answers_to_the_bit(native: Sequence[str], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").symlink_to((DATA / "models" / "onnx" / "squeezenet1_0.onnx").resolve())
    serving = describe_serving(tmp_path / "model.onnx", name="real", threads=1)
    (tmp_path / "serving.json").write_bytes(encode_serving(serving))
    (tensor,) = serving["inputs"]
    shape = [max(1, size) for size in tensor["shape"]]
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32).ravel().tolist()
    with both(native, tmp_path) as ports:
        ours, theirs = infer(ports, [{**tensor, "shape": shape, "data": values}], "real")
    assert ours == theirs
    assert np.ptp(ours["outputs"][0]["data"]) > 0


def test_a_graph_that_must_not_be_changed_is_run_as_it_is_written(native: Sequence[str], tmp_path: Path) -> None:
    """Integers between halves, with biases that ONNX Runtime's optimisations would round to infinity."""
    onnx.save(nets.halves_between_integers(), tmp_path / "model.onnx")
    feed = np.random.default_rng(1).standard_normal((1, 3, 32, 32)).astype(np.float32)
    with OnnxRuntimeRunner(tmp_path / "model.onnx", threads=1) as runner:
        (wanted,) = runner.infer({"image": feed})
    assert wanted.mean(axis=(0, 2, 3)) == pytest.approx([0.25, 0.5, -0.5, 0.75], abs=0.01)
    (tmp_path / "serving.json").write_bytes(encode_serving(describe_serving(tmp_path / "model.onnx", name="halves")))
    tensor = {"name": "image", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": feed.ravel().tolist()}
    with both(native, tmp_path) as ports:
        for answer in infer(ports, [tensor], "halves"):
            np.testing.assert_allclose(answer["outputs"][0]["data"], wanted.ravel(), rtol=1e-5)
