"""The native server as a process: hostile requests, limits, keys, settings, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))

from hostile import hostile_requests
from natives import PATH, QUIET, TENSOR, asked
from serving_process import process, status, wait_ready
from test_hostile import COUNT, send_all

from mlopt.image.inputs import docker_folder
from mlopt.image.run import free_port
from mlopt.image.serving import describe_serving, encode_serving


def test_hostile_requests_get_a_4xx_and_it_lives(native: Sequence[str], model_folder: Path, tmp_path: Path) -> None:
    assert _beset(native, model_folder, tmp_path) < 16 << 20


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not here: nothing to build the sanitizers' server with")
def test_sanitizers_find_nothing_in_what_hostile_requests_do(
    native: Sequence[str], model_folder: Path, tmp_path: Path
) -> None:
    """The same sources with the host's compiler, AddressSanitizer and UBSan: what they find goes to the log."""
    (tmp_path / "library").mkdir()
    shutil.copy(next(Path(native[0]).parent.glob("libonnxruntime.so.1")), tmp_path / "library")
    sources = docker_folder() / "native"
    command = ["gcc", "-std=gnu11", "-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    command += [*map(str, [*sources.glob("*.c"), *sources.glob("vendor/*.c")]), "-lpthread", "-ldl", "-lm"]
    built = subprocess.run([*command, "-o", tmp_path / "server"], capture_output=True, text=True, check=False)
    if "cannot find" in built.stderr:
        pytest.skip(f"no sanitizers here: {built.stderr[-200:]}")
    assert built.returncode == 0, built.stderr
    guarded = {"LD_LIBRARY_PATH": str(tmp_path / "library"), "ASAN_OPTIONS": "detect_leaks=1:exitcode=77"}
    _beset([str(tmp_path / "server")], model_folder, tmp_path, guarded)


def _beset(command: Sequence[str], folder: Path, place: Path, environment: dict[str, str] | None = None) -> int:
    """Bytes by which it grew."""
    elsewhere = rb"(/v1/models/colours(/versions/3)?:predict|/predictions/colours(/3)?|/v1/classify(\?top=3)?)(?= )"
    requests = [re.sub(elsewhere, PATH.encode(), raw) for raw in hostile_requests(COUNT // 2, seed=7)]
    port = free_port()
    strict = (*QUIET, "--max-body", "1", "--max-held", "8", "--max-arrival", "2")
    with (
        (place / "log").open("w") as log,
        process(folder, port=port, options=strict, command=command, log=log, environment=environment) as running,
    ):
        wait_ready(port, running)
        asyncio.run(send_all(port, requests[:200]))
        before = _memory(running.pid)
        seen = asyncio.run(send_all(port, requests))
        assert all(code in (0, 503) or 200 <= code < 500 for code in seen), seen
        assert seen[400] > len(requests) / 4, seen
        assert seen[200] > len(requests) / 50, seen
        grown = _memory(running.pid) - before
        assert status(port, "/v2/health/ready") == 200
        running.terminate()
        assert running.wait(30) == 0
    assert (place / "log").read_text() == ""
    return grown


def test_texts_that_are_declared_and_not_there_take_no_memory(native: Sequence[str], tmp_path: Path) -> None:
    """Lists whose first one alone is as long as the shape says: a text has 32 bytes before it has a letter."""
    ends = [helper.make_tensor_value_info(name, TensorProto.STRING, ["N", "M"]) for name in ("in", "out")]
    graph = helper.make_graph([helper.make_node("Identity", ["in"], ["out"])], "words", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    serving = describe_serving(tmp_path / "model.onnx", name="words")
    (tmp_path / "serving.json").write_bytes(encode_serving(serving))
    port, side = free_port(), 4000
    tensor = {"name": "in", "shape": [side, side], "datatype": "BYTES", "data": [["a"] * side, *[["a"]] * (side - 1)]}
    with process(tmp_path, port=port, options=QUIET, command=native) as running:
        wait_ready(port, running)
        before = _memory(running.pid, "VmHWM")
        code, said, _ = asked(port, "/v2/models/words/infer", json.dumps({"inputs": [tensor]}).encode())
        assert (code, b"not nested as its shape is" in said) == (400, True)
        assert _memory(running.pid, "VmHWM") - before < 16 << 20


def test_a_body_in_chunks_takes_no_more_than_it_holds(native: Sequence[str], model_folder: Path) -> None:
    """What is no body, the extensions of chunks, is not counted as one, and must not stay."""
    port = free_port()
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;".encode()
    with process(model_folder, port=port, options=QUIET, command=native) as running, contextlib.ExitStack() as stack:
        wait_ready(port, running)
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(200)]
        before = _memory(running.pid)
        for client in clients:
            client.sendall(head)
        for client in clients:
            client.sendall(b"x" * (256 << 10))
        assert status(port, "/v2/health/live") == 200
        assert _memory(running.pid) - before < 16 << 20


def _memory(pid: int, name: str = "RssAnon") -> int:
    return int(re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) << 10  # type: ignore[index]


def test_it_logs_lines_keeps_ids_and_ends_with_0(native: Sequence[str], model_folder: Path) -> None:
    port = free_port()
    with process(model_folder, port=port, command=native) as running:
        wait_ready(port, running)
        code, _, _ = asked(port, PATH, json.dumps({"inputs": [TENSOR]}).encode(), X_Request_Id="a.b:c-1")
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
    port, body = free_port(), json.dumps({"inputs": [TENSOR]}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
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
        assert asked(port, PATH, b" " * (1 << 20) + b"{}")[0] == 413
        slow = socket.create_connection(("127.0.0.1", port))
        slow.sendall(b"POST /x HTTP/1.1\r\nHo")
        assert slow.recv(100).startswith(b"HTTP/1.1 408"), "a head that never ends"
        slow.close()
        slow = socket.create_connection(("127.0.0.1", port))
        slow.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode())
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
    body = json.dumps({"inputs": [TENSOR]}).encode()
    with process(model_folder, port=port, options=QUIET, command=native, environment=guard) as running:
        wait_ready(port, running)
        assert status(port, "/metrics") == 401
        assert asked(port, PATH, body)[0] == 401
        assert asked(port, PATH, body, X_Api_Key=key + "k")[0] == 401
        assert asked(port, PATH, body, X_Api_Key=key)[0] == 200
        assert asked(port, PATH, body, Authorization=f"Bearer {key}")[0] == 200


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
