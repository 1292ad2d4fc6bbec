"""The server on a device that has no engine yet: fallback, build, engine; with a trtexec, a TensorRT and a driver that
stand in for the vendor's.

What this cannot show: that the real ones take these calls, load what was built, and are faster; that CUDA copies what
the stand-in's memcpy does; and what memory a board has left for a fallback while it builds.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jetsons
import numpy as np
import pytest
from jetsons import Jetson, alive, packed, waiting

sys.path.insert(0, str(Path(__file__).parent))

from serving_process import process, status

from mlopt.image.run import free_port
from mlopt.image.serving import describe_serving, encode_serving
from mlopt.serve import engine as engines
from mlopt.serve.engine import Engine, EngineFailed
from mlopt.serve.model import Model, read_serving
from mlopt.serve.switch import Switch
from mlopt.serve.tensors import Rejected, Tensor


@dataclass(frozen=True, slots=True)
class Board:
    """A Jetson with TensorRT's module and a driver; `device` is the packed folder, `model` what serves meanwhile."""

    jetson: Jetson
    device: Path
    model: Path
    engines: Path

    @property
    def python(self) -> str:
        return str(self.jetson.folder / "bin" / "python3")

    @contextmanager
    def serving(self, *options: str, do: str = "", log: Path | None = None) -> Iterator[tuple[int, Any]]:
        port = free_port()
        options = ("--device-dir", str(self.device), "--engines", str(self.engines), *options)
        environment = {**self.jetson.env, "STAND_IN": do}
        with (
            (log or self.engines.with_name("log")).open("w") as stream,
            process(self.model, port=port, options=options, environment=environment, log=stream) as running,
        ):
            yield port, running

    def said(self, name: str = "log") -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.engines.with_name(name).read_text().splitlines()]

    def builds(self) -> int:
        return len([call for call in self.jetson.calls() if call[0].startswith("--onnx")])


@pytest.fixture
def board(tmp_path: Path) -> Board:
    made = jetsons.jetson(tmp_path / "jetson")
    jetsons.with_module(made)
    device = packed(tmp_path / "packed").folder
    model = tmp_path / "model"
    model.mkdir()
    shutil.copy(device / "tensorrt-fp32/model/model.onnx", model / "model.onnx")
    (model / "serving.json").write_bytes(encode_serving(describe_serving(model / "model.onnx", name="net")))
    return Board(made, device, model, tmp_path / "engines")


def get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        body = answer.read()
    return json.loads(body) if path != "/metrics" else body.decode()


def asked(port: int, batch: int = 1) -> tuple[int, Any]:
    """An inference on ones: its status and its body."""
    shape = [batch, 3, 32, 32]
    tensor = {"name": "image", "datatype": "FP32", "shape": shape, "data": [1.0] * int(np.prod(shape))}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/models/net/infer", json.dumps({"inputs": [tensor]}).encode()
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return 200, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def until(port: int, stage: str) -> dict[str, Any]:
    """The engine's part of the metadata, once it says that."""
    deadline = time.monotonic() + 60
    while True:
        if status(port, "/v2/models/net"):
            told: dict[str, Any] = get(port, "/v2/models/net")
            if told["engine"]["status"] == stage:
                return told
            assert stage == "fallback" or told["engine"]["status"] != "fallback", told
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_answers_while_it_builds_and_is_ready_when_the_engine_is_there(board: Board) -> None:
    board.jetson.behave(build="wait")
    with board.serving() as (port, running):
        until(port, "building")
        while (reply := asked(port))[0] == 503:  # not loaded yet
            time.sleep(0.05)
        code, by_fallback = reply
        assert code == 200
        assert status(port, "/v2/health/live") == 200
        assert [status(port, path) for path in ("/v2/health/ready", "/v2/models/net/ready", "/ping")] == [503] * 3
        assert 'mlopt_engine_status{model="net",status="building",version="1"} 1.0' in get(port, "/metrics")
        assert 'mlopt_ready{model="net",version="1"} 0.0' in get(port, "/metrics")
        (board.jetson.folder / "bin" / "go").touch()
        told = until(port, "engine")
        assert told["platform"] == "tensorrt_plan"
        kept = json.loads((board.engines / "tensorrt-fp32" / "engine.json").read_text())
        assert told["engine"]["sha256"] == kept["sha256"]
        assert told["engine"]["made_by"] == "TensorRT 10.3.0"
        assert told["engine"]["made_on"] == jetsons.ORIN_NANO
        assert told["engine"]["cosine"] > 0.999
        assert status(port, "/v2/health/ready") == 200
        assert 'mlopt_engine_status{model="net",status="engine",version="1"} 1.0' in get(port, "/metrics")
        assert 'mlopt_ready{model="net",version="1"} 1.0' in get(port, "/metrics")
        code, by_engine = asked(port)
        assert code == 200
        np.testing.assert_allclose(by_engine["outputs"][0]["data"], by_fallback["outputs"][0]["data"], rtol=1e-5)
        assert asked(port, batch=8)[0] == 200
        code, refused = asked(port, batch=9)
        assert code == 400
        assert "takes image in shapes from [1, 3, 32, 32] to [8, 3, 32, 32], and not [9, 3, 32, 32]" in refused["error"]
        running.terminate()
        assert running.wait(20) == 0
    messages = [line["event"] for line in board.said()]
    assert messages.index("fallback ready") < messages.index("ready") < messages.index("stopped")
    assert {name: kept["key"][name] for name in ("cuda", "driver-cuda", "compute-capability", "board")} == {
        "cuda": "12.6.68",
        "driver-cuda": "12.6",
        "compute-capability": "8.7",
        "board": jetsons.ORIN_NANO,
    }


def test_the_second_start_builds_nothing_and_another_system_builds_again(board: Board) -> None:
    for builds in (1, 1):
        with board.serving() as (port, _):
            until(port, "engine")
        assert board.builds() == builds
    board.jetson.say("usr/local/cuda/version.json", '{"cuda": {"version": "12.8.0"}}')
    with board.serving() as (port, _):
        until(port, "engine")
    assert board.builds() == 2


def test_two_on_one_volume_build_once(board: Board) -> None:
    board.jetson.behave(build="wait")
    with board.serving() as (one, _), board.serving(log=board.engines.with_name("log-2")) as (other, _):
        until(one, "building")
        until(other, "building")
        deadline = time.monotonic() + 30
        while "another build is running" not in str(board.said()) + str(board.said("log-2")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (board.jetson.folder / "bin" / "go").touch()
        assert until(one, "engine")["engine"]["sha256"] == until(other, "engine")["engine"]["sha256"]
    assert board.builds() == 1


@pytest.mark.parametrize(
    ("do", "why"),
    [
        ("load nothing", "TensorRT 10.3.0 does not load it"),
        ("crash", "the process that runs it was ended by signal 6: [TRT] something is wrong"),
        ("answer wrongly", "its answers are not those of the model: cosine -1.0000 on the packed samples"),
    ],
)
def test_an_engine_that_cannot_serve_leaves_the_fallback(board: Board, do: str, why: str) -> None:
    with board.serving(do=do) as (port, _):
        told = until(port, "fallback")
        assert told["engine"]["why"] == f"tensorrt-fp32: {why}"
        assert told["platform"] == "onnxruntime_onnx"
        assert asked(port)[0] == 200
        assert status(port, "/v2/health/live") == 200
        assert status(port, "/v2/health/ready") == 503
        assert 'mlopt_engine_status{model="net",status="fallback",version="1"} 1.0' in get(port, "/metrics")


def test_an_engine_that_dies_later_gives_its_query_to_the_fallback(board: Board) -> None:
    with board.serving(do="die at a query") as (port, _):
        until(port, "engine")
        assert asked(port)[0] == 200
        assert (
            "the engine died: the process that runs it was ended by signal 6"
            in until(port, "fallback")["engine"]["why"]
        )
        assert status(port, "/v2/health/ready") == 503
        assert asked(port)[0] == 200


def test_a_build_that_fails_is_told_in_the_words_of_the_program(board: Board) -> None:
    board.jetson.behave(build="node-10")
    with board.serving() as (port, _):
        why = until(port, "fallback")["engine"]["why"]
        assert why.startswith("tensorrt-fp32: TensorRT 10.3.0 does not take node 'relu1' (Relu)")
        assert asked(port)[0] == 200


def test_another_board_gets_no_engine(board: Board) -> None:
    board.jetson.say("proc/device-tree/model", "NVIDIA Jetson AGX Orin\0")
    with board.serving() as (port, _):
        assert "This device is not jetson-orin-nano-8gb" in until(port, "fallback")["engine"]["why"]


def test_a_stop_while_it_builds_ends_the_build_and_leaves_nothing(board: Board) -> None:
    board.jetson.behave(build="sleep")
    with board.serving() as (port, running):
        until(port, "building")
        builder = waiting(board.jetson.folder / "bin" / "pid")
        running.terminate()
        assert running.wait(20) == 0
    assert not alive(builder)
    assert not [one for one in board.engines.iterdir() if one.is_dir()]


def test_a_server_that_is_killed_takes_the_engine_with_it(board: Board) -> None:
    def running_engines() -> list[str]:
        lines = (one.read_bytes() for one in Path("/proc").glob("[0-9]*/cmdline") if one.exists())
        return [line.decode() for line in lines if b"tensorrt_program.py" in line and bytes(board.engines) in line]

    with board.serving() as (port, running):
        until(port, "engine")
        assert len(running_engines()) == 1
        running.kill()
        running.wait()
        deadline = time.monotonic() + 20
        while running_engines():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_an_engine_whose_bytes_were_changed_is_not_loaded(board: Board) -> None:
    with board.serving() as (port, _):
        sha256 = until(port, "engine")["engine"]["sha256"]
    path = board.engines / "tensorrt-fp32" / "model.engine"
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(EngineFailed, match="its sha256 is another"):
        Engine(path, sha256=sha256, python=board.python, inputs=(), outputs=())
    with board.serving() as (port, _):
        assert until(port, "engine")["engine"]["sha256"] == sha256  # built anew
    assert board.builds() == 2


def test_a_folder_that_nobody_packed_is_refused_at_once(board: Board) -> None:
    (board.device / "build.json").write_text("{}")
    with board.serving() as (_, running):
        assert running.wait(20) == 1
    assert "build.json cannot be used" in str(board.said())
    assert not board.builds()


def test_an_engine_of_another_model_is_refused(board: Board) -> None:
    with board.serving() as (port, _):
        sha256 = until(port, "engine")["engine"]["sha256"]
    path = board.engines / "tensorrt-fp32" / "model.engine"
    with pytest.raises(EngineFailed, match="it takes image and gives"):
        Engine(path, sha256=sha256, python=board.python, inputs=(Tensor("ids", "INT64", (1, 4)),), outputs=())


def test_a_query_to_an_engine_that_was_closed_meanwhile_is_the_fallbacks(board: Board) -> None:
    """As that of another thread, which waited while the engine died: no fault of the inputs."""
    with board.serving() as (port, _):
        sha256 = until(port, "engine")["engine"]["sha256"]
    path = board.engines / "tensorrt-fp32" / "model.engine"
    serving = read_serving(board.model)
    ones = {"image": np.ones((1, 3, 32, 32), np.float32)}
    told: list[str] = []
    inputs, outputs = serving.inputs, serving.outputs
    engine = Engine(path, sha256=sha256, python=board.python, inputs=inputs, outputs=outputs)
    model = Model(board.model, serving)
    expected = model.infer(ones)
    model.run = switch = Switch(model.run, model.opened, told.append)
    switch.to(engine)
    engine.close()
    for name, found in model.infer(ones).items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-5)
    assert told == ["the engine died: the process that runs it ended with exit code 0: it said nothing"]


def test_what_the_fallback_answered_is_not_the_engines(board: Board) -> None:
    """Kept answers are of who answers: neither of the two gets those of the other."""
    board.jetson.behave(build="wait")
    with board.serving("--cache", "1", do="die at a query") as (port, _):
        until(port, "building")
        while asked(port)[0] == 503:  # not loaded yet
            time.sleep(0.05)
        assert kept(port) == (0, 1)
        assert asked(port)[0] == 200
        assert kept(port) == (1, 1)
        (board.jetson.folder / "bin" / "go").touch()
        until(port, "engine")
        assert 'mlopt_cache_bytes{model="net",version="1"} 0.0' in get(port, "/metrics")
        for count in ((1, 2), (1, 3)):  # the engine dies at the first of them, and the fallback answers
            assert asked(port)[0] == 200
            assert kept(port) == count
        until(port, "fallback")


def kept(port: int) -> tuple[int, int]:
    """Hits and misses."""
    text = get(port, "/metrics")
    found = [
        re.search(f'mlopt_cache_requests_total{{model="net",result="{name}",version="1"}} ([0-9.]+)', text)
        for name in ("hit", "miss")
    ]
    assert all(found), text
    first, second = (int(float(one[1])) for one in found if one)
    return first, second


def test_integers_that_an_engine_cannot_hold_are_refused() -> None:
    held = engines._narrowed("ids", np.array([[1, 2]], dtype=np.int64), np.dtype(np.int32))
    assert held.dtype == np.int32
    with pytest.raises(Rejected, match="do not fit int32"):
        engines._narrowed("ids", np.array([1 << 40]), np.dtype(np.int32))


def test_the_program_is_one_file_that_python_3_6_reads() -> None:
    tree = ast.parse(engines._PROGRAM.read_text(), feature_version=(3, 6))
    imports = {
        name.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    imports |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imports <= set(sys.stdlib_module_names) | {"tensorrt"}
