"""The native server beside the Python one: the same answers to the same requests, the same refusals, the same end."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))

from hostile import hostile_requests
from serving_process import process, status, wait_ready
from test_hostile import COUNT, send_all

from mlopt.image.run import free_port
from mlopt.image.serving import describe_serving, encode_serving

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
QUIET = ("--log-level", "error")
_LENGTH = "Inference-Header-Content-Length"
_PATH = "/v2/models/colours/infer"
_TENSOR: dict[str, Any] = {"name": "pixels", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [0.5] * 192}
_NUMBERS = {
    "BOOL": TensorProto.BOOL,
    **{f"INT{bits}": getattr(TensorProto, f"INT{bits}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": getattr(TensorProto, f"UINT{bits}") for bits in (8, 16, 32, 64)},
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def write_typed(folder: Path) -> Path:
    """Every type that the protocol carries goes through as it is."""
    values = [
        [helper.make_tensor_value_info(f"{name}_{way}", kind, ["N", 2]) for name, kind in _NUMBERS.items()]
        for way in ("in", "out")
    ]
    nodes = [helper.make_node("Identity", [f"{name}_in"], [f"{name}_out"]) for name in _NUMBERS]
    graph = helper.make_graph(nodes, "typed", *values)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    serving = describe_serving(folder / "model.onnx", name="typed")
    (folder / "serving.json").write_bytes(encode_serving(serving))
    return folder


@contextmanager
def both(native: Sequence[str], folder: Path, *options: str) -> Iterator[tuple[int, int]]:
    """The ports of the native server and the Python one."""
    ports = free_port(), free_port()
    with (
        process(folder, port=ports[0], options=(*QUIET, *options), command=native) as first,
        process(folder, port=ports[1], options=(*QUIET, *options)) as second,
    ):
        wait_ready(ports[0], first)
        wait_ready(ports[1], second)
        yield ports


def asked(port: int, path: str, body: bytes, **headers: str) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    reply = connection.getresponse()
    found = reply.status, reply.read(), reply.getheader(_LENGTH)
    connection.close()
    return found


def infer(ports: tuple[int, int], inputs: list[dict[str, Any]], name: str, **more: Any) -> list[dict[str, Any]]:
    """The answers of both; each was a 200."""
    answers = []
    for port in ports:
        code, body, _ = asked(port, f"/v2/models/{name}/infer", json.dumps({"inputs": inputs, **more}).encode())
        assert code == 200, body
        answers.append(json.loads(body))
    return answers


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
    body = json.dumps({"inputs": [_TENSOR | changes]}).encode()
    codes = {asked(port, _PATH, body)[0] for port in shared}
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
        (json.dumps({"inputs": [_TENSOR, _TENSOR]}).encode(), None),
        (json.dumps({"inputs": [_TENSOR], "id": 3}).encode(), None),
        (json.dumps({"inputs": [_TENSOR], "outputs": [{"name": "other"}]}).encode(), None),
        (json.dumps({"inputs": [_TENSOR], "outputs": [{"name": "scores"}] * 2}).encode(), None),
        (json.dumps({"inputs": [_TENSOR], "outputs": {}}).encode(), None),
        (b'{"inputs": NaN}', None),
        (b'{"inputs": "\xff"}', None),
        (b"[" * 100_000, None),
        (b"\0" * 767, "0"),
        (b"{}", "3"),
        (b"{}", "-1"),
        (b"{}", "1e1"),
        (json.dumps({"inputs": [_TENSOR]}).encode() + b"\0", str(len(json.dumps({"inputs": [_TENSOR]})))),
    ],
)
def test_wrong_bodies_are_refused_as_by_the_python_server(
    shared: tuple[int, int], body: bytes, length: str | None
) -> None:
    headers = {_LENGTH: length} if length else {}
    codes = {asked(port, _PATH, body, **headers)[0] for port in shared}
    assert codes == {400}


def test_a_body_of_nothing_but_the_tensor(shared: tuple[int, int]) -> None:
    raw = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32).tobytes()
    answers = [asked(port, _PATH, raw, **{_LENGTH: "0"}) for port in shared]
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
    assert {status(port, _PATH) for port in shared} == {405}


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


def test_hostile_requests_get_a_4xx_and_it_lives(native: Sequence[str], model_folder: Path, tmp_path: Path) -> None:
    elsewhere = rb"(/v1/models/colours(/versions/3)?:predict|/predictions/colours(/3)?|/v1/classify(\?top=3)?)(?= )"
    requests = [re.sub(elsewhere, _PATH.encode(), raw) for raw in hostile_requests(COUNT // 2, seed=7)]
    port = free_port()
    strict = (*QUIET, "--max-body", "1", "--max-held", "8", "--max-arrival", "2")
    with (
        (tmp_path / "log").open("w") as log,
        process(model_folder, port=port, options=strict, command=native, log=log) as running,
    ):
        wait_ready(port, running)
        asyncio.run(send_all(port, requests[:200]))
        before = _memory(running.pid)
        seen = asyncio.run(send_all(port, requests))
        assert all(code in (0, 503) or 200 <= code < 500 for code in seen), seen
        assert seen[400] > len(requests) / 4, seen
        assert seen[200] > len(requests) / 50, seen
        assert _memory(running.pid) - before < 16 << 20
        assert status(port, "/v2/health/ready") == 200
        running.terminate()
        assert running.wait(30) == 0
    assert (tmp_path / "log").read_text() == ""


def _memory(pid: int) -> int:
    return int(re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) << 10  # type: ignore[index]


def test_it_logs_lines_keeps_ids_and_ends_with_0(native: Sequence[str], model_folder: Path) -> None:
    port = free_port()
    with process(model_folder, port=port, command=native) as running:
        wait_ready(port, running)
        code, _, _ = asked(port, _PATH, json.dumps({"inputs": [_TENSOR]}).encode(), X_Request_Id="a.b:c-1")
        assert code == 200
        asked(port, '/x"\\?', b"")
        running.send_signal(signal.SIGTERM)
        said, _ = running.communicate(timeout=20)
        assert running.returncode == 0
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["event"] for line in lines] == ["ready", "request", "request", "stopped"]
    assert (lines[1]["request_id"], lines[1]["code"], lines[2]["code"]) == ("a.b:c-1", 200, 404)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", lines[0]["time"])


def test_what_has_begun_is_answered_before_it_stops(native: Sequence[str], model_folder: Path) -> None:
    port, body = free_port(), json.dumps({"inputs": [_TENSOR]}).encode()
    head = f"POST {_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with process(model_folder, port=port, options=QUIET, command=native) as running:
        wait_ready(port, running)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(head + body[:10])
            time.sleep(0.2)
            running.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            assert status_refused(port)
            client.sendall(body[10:])
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert running.wait(20) == 0
    with process(model_folder, port=port, options=(*QUIET, "--grace", "1"), command=native) as running:
        wait_ready(port, running)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(head + body[:10])
            time.sleep(0.2)
            began = time.monotonic()
            running.send_signal(signal.SIGTERM)
            assert running.wait(20) == 0
        assert 0.5 < time.monotonic() - began < 10


def status_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_limits_of_size_time_and_number(native: Sequence[str], model_folder: Path) -> None:
    port = free_port()
    limits = ("--max-body", "1", "--max-held", "1", "--max-arrival", "0.5", "--max-connections", "3")
    with process(model_folder, port=port, options=(*QUIET, *limits), command=native) as running:
        wait_ready(port, running)
        assert asked(port, _PATH, b" " * (1 << 20) + b"{}")[0] == 413
        slow = socket.create_connection(("127.0.0.1", port))
        slow.sendall(b"POST /x HTTP/1.1\r\nHo")
        assert slow.recv(100).startswith(b"HTTP/1.1 408"), "a head that never ends"
        slow.close()
        slow = socket.create_connection(("127.0.0.1", port))
        slow.sendall(f"POST {_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode())
        assert slow.recv(100).startswith(b"HTTP/1.1 408"), "a body that never ends"
        slow.close()
        time.sleep(0.3)
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        time.sleep(0.1)
        assert status(port, "/v2/health/live") in (0, 503), "one connection too many"
        for one in held:
            one.close()
        time.sleep(0.1)
        assert status(port, "/v2/health/live") == 200


def test_keys_guard_all_but_the_probes(native: Sequence[str], model_folder: Path) -> None:
    port, key = free_port(), "k" * 20
    guard = {"MLOPT_SERVE_API_KEYS": f"{'x' * 16},{key}"}
    body = json.dumps({"inputs": [_TENSOR]}).encode()
    with process(model_folder, port=port, options=QUIET, command=native, environment=guard) as running:
        wait_ready(port, running)
        assert status(port, "/metrics") == 401
        assert asked(port, _PATH, body)[0] == 401
        assert asked(port, _PATH, body, X_Api_Key=key + "k")[0] == 401
        assert asked(port, _PATH, body, X_Api_Key=key)[0] == 200
        assert asked(port, _PATH, body, Authorization=f"Bearer {key}")[0] == 200


@pytest.mark.parametrize(
    ("environment", "options", "says"),
    [
        ({"MLOPT_SERVE_TLS_CERT": "/x"}, (), "the native server has no such setting"),
        ({"MLOPT_SERVE_MAX_BATCH": "8"}, (), "the native server has no such setting"),
        ({"MLOPT_SERVE_API_KEYS": "short"}, (), "16 or more"),
        ({"MLOPT_SERVE_MAX_BODY": "x"}, (), "max-body"),
        ({}, ("--nonsense", "1"), "--nonsense"),
        ({}, ("--max-held", "1"), "at least max-body"),
    ],
)
def test_a_setting_that_it_lacks_is_never_passed_over(
    native: Sequence[str], model_folder: Path, environment: dict[str, str], options: tuple[str, ...], says: str
) -> None:
    with process(model_folder, port=free_port(), options=options, environment=environment, command=native) as running:
        said, _ = running.communicate(timeout=20)
    assert running.returncode == 2
    assert says in said


def test_what_cannot_be_served_is_said(native: Sequence[str], broken_folder: Path, tmp_path: Path) -> None:
    with process(broken_folder, port=free_port(), command=native) as running:
        said, _ = running.communicate(timeout=30)
    assert running.returncode == 1
    assert "model.onnx cannot be loaded" in json.loads(said.splitlines()[-1])["reason"]
    (tmp_path / "serving.json").write_text('{"schema": 1, "name": "x", "runtime": "openvino"}')
    with process(tmp_path, port=free_port(), command=native) as running:
        said, _ = running.communicate(timeout=30)
    assert running.returncode == 1
    assert "onnxruntime alone" in json.loads(said.splitlines()[-1])["reason"]
