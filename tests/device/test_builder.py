"""The program that builds on the device, run as it is run there: with a trtexec that stands in for the vendor's.

What this cannot show: that the real trtexec takes these options and writes these files, that its engines are right or
fast, and how much memory a real build takes. mlopt was run on no Jetson.
"""

from __future__ import annotations

import ast
import errno
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jetsons
import nets
import numpy as np
import pytest
from jetsons import Jetson, alive, packed, waiting

from mlopt.artifact import digest_of
from mlopt.device import builder
from mlopt.device.pack import expected_of
from mlopt.step import installed
from mlopt.target import find_target

SOURCE = Path(builder.__file__)
# Of the standard library, but newer than Python 3.6.
TOO_NEW = (
    "capture_output",
    "text=True",
    "removeprefix",
    "removesuffix",
    "shlex.join",
    "nullcontext",
    "dataclass",
    ":=",
)


@pytest.fixture
def board(tmp_path: Path) -> Jetson:
    return jetsons.jetson(tmp_path / "jetson")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return packed(tmp_path).folder


def built(
    folder: Path, board: Jetson, *flags: str, code: int = 0, more: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "build.py"), *flags]
    env = {**board.env, **more}
    ended = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended


def engine(folder: Path, name: str = "tensorrt-fp32") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "engines" / name / "engine.json").read_text())
    return found


def test_the_program_is_one_file_that_python_3_6_reads_and_needs_nothing_else() -> None:
    text = SOURCE.read_text()
    tree = ast.parse(text, feature_version=(3, 6))
    imports = {
        name.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    imports |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imports <= set(sys.stdlib_module_names) | {"tensorrt"}
    assert not [name for name in TOO_NEW if name in text]


def test_it_builds_compares_answers_and_measures(folder: Path, board: Jetson) -> None:
    said = built(folder, board).stdout
    made = engine(folder)
    model = folder / "engines" / "tensorrt-fp32" / "model.engine"
    assert made["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert made["state"] == f"measured on {jetsons.ORIN_NANO}"
    assert made["compiler"] == "TensorRT 10.3.0"
    assert made["device"]["l4t"] == "36.4.3"
    assert made["device"]["power-mode"] == "15W"
    assert made["device"]["cuda"] == "12.6.68"
    assert made["parity"]["samples"] == made["parity"]["same-largest-answer"] == 4
    assert made["parity"]["cosine"] > 0.999999
    # 151 queries of which 50 began within the warm-up of 500 ms, the k-th lasting 2 ms and k hundredths
    assert made["latency"]["queries"] == 101
    assert made["latency"]["p50"] == pytest.approx(3.0e-3)
    assert made["latency"]["p99"] == pytest.approx(3.49e-3)
    assert "p50 3.000 ms" in said
    assert json.loads((model.parent / "layers.json").read_text())["Layers"][0]["Name"] == "conv1"


def test_what_trtexec_is_called_with(folder: Path, board: Jetson) -> None:
    built(folder, board)
    first, *runs = board.calls()
    assert f"--onnx={folder / 'tensorrt-fp32/model/model.onnx'}" in first
    assert "--stronglyTyped" in first
    assert "--memPoolSize=workspace:1953" in first  # a quarter of 8 GB
    assert "--minShapes=image:1x3x32x32" in first
    assert "--maxShapes=image:8x3x32x32" in first
    assert "--skipInference" in first
    assert len(runs) == 5  # four samples, and the clocks
    assert all("--shapes=image:1x3x32x32" in call for call in runs)


@pytest.mark.parametrize(
    ("version", "types", "typed"),
    [
        ("8201", ["--fp16"], "--workspace=1953"),
        ("8502", ["--fp16"], "--memPoolSize=workspace:1953"),
        ("100300", ["--stronglyTyped"], "--memPoolSize=workspace:1953"),
        ("110400", [], "--memPoolSize=workspace:1953"),
    ],
)
def test_strong_typing_where_it_exists_and_flags_where_it_does_not(
    tmp_path: Path, board: Jetson, version: str, types: list[str], typed: str
) -> None:
    folder = packed(tmp_path, names=("tensorrt-fp16",)).folder
    board.behave(version=version)
    built(folder, board)
    first = board.calls()[0]
    assert [flag for flag in first if flag in ("--fp16", "--int8", "--stronglyTyped")] == types
    assert typed in first


@pytest.mark.parametrize(
    ("version", "able", "wanted"),
    [("8201", None, False), ("8502", 3, True), ("100300", 3, True), ("110400", 3, True)],
)
def test_sparse_kernels_are_allowed_where_asked_and_what_became_of_it_is_read(
    tmp_path: Path, board: Jetson, version: str, able: int | None, wanted: bool
) -> None:
    folder = packed(tmp_path, sparse=True).folder
    board.behave(version=version)
    built(folder, board)
    assert ("--sparsity=enable" in board.calls()[0]) == wanted
    made = engine(folder)
    assert made["key"]["sparse"] is True
    assert made["sparse-layers"] == {"able": able, "chosen": 1 if wanted else None}


def test_a_dense_engine_is_not_asked_to_be_sparse_and_has_another_key(tmp_path: Path, board: Jetson) -> None:
    folder = packed(tmp_path, sparse=True).folder
    built(folder, board)
    before = engine(folder)
    told = json.loads((folder / "build.json").read_text())
    told["builds"][0]["sparse"] = False
    (folder / "build.json").write_text(json.dumps(told))
    assert "kept" not in built(folder, board).stdout
    dense = engine(folder)
    assert "sparse-layers" not in dense
    assert not [word for word in board.calls()[6] if "spars" in word or word == "--verbose"]
    assert {name for name in before["key"] if before["key"][name] != dense["key"][name]} == {"sparse"}


def test_a_model_of_fixed_shapes_gets_no_profile(tmp_path: Path, board: Jetson) -> None:
    built(packed(tmp_path, batch=1).folder, board)
    assert not [word for call in board.calls() for word in call if "hapes=" in word]


def test_a_second_run_builds_nothing_and_a_changed_device_builds_again(folder: Path, board: Jetson) -> None:
    built(folder, board)
    before = (folder / "engines" / "tensorrt-fp32").resolve()
    assert "kept" in built(folder, board).stdout
    assert len(board.calls()) == 6
    board.say("usr/local/cuda/version.json", '{"cuda": {"version": "12.8.0"}}')
    built(folder, board)
    assert len(board.calls()) == 12
    assert (folder / "engines" / "tensorrt-fp32").resolve() != before
    assert not before.exists()
    assert engine(folder)["key"]["cuda"] == "12.8.0"


@pytest.mark.parametrize("change", ["--workspace=100", "version"])
def test_what_else_decides_an_engine_is_in_its_key(folder: Path, board: Jetson, change: str) -> None:
    built(folder, board)
    if change == "version":
        board.behave(version="110400")
        built(folder, board)
    else:
        built(folder, board, change)
    assert len([call for call in board.calls() if call[0].startswith("--onnx")]) == 2


@pytest.mark.parametrize("change", ["power", "sample", "expected"])
def test_what_decides_times_and_parity_is_in_the_key(folder: Path, board: Jetson, change: str) -> None:
    built(folder, board)
    if change == "power":
        jetsons.program(board.folder / "bin" / "nvpmodel", "print('NV Power Mode: 7W')\n")
    else:
        found = folder / ("samples/0-0.bin" if change == "sample" else "tensorrt-fp32/expected/0-0.bin")
        found.write_bytes((np.fromfile(found, dtype=np.float32) * 2).tobytes())
    assert "kept" not in built(folder, board).stdout
    assert engine(folder)["device"]["power-mode"] == ("7W" if change == "power" else "15W")


def test_a_sample_that_is_missing_is_told_as_a_model_is(folder: Path, board: Jetson) -> None:
    (folder / "samples" / "0-0.bin").unlink()
    assert "missing or was changed" in built(folder, board, code=builder.DAMAGED).stdout
    assert not board.calls()


def test_a_folder_that_lies_where_the_link_goes_is_replaced(folder: Path, board: Jetson) -> None:
    built(folder, board)
    link = folder / "engines" / "tensorrt-fp32"
    kept = link.resolve()
    link.unlink()
    shutil.copytree(kept, link)  # as scp -r does
    assert "kept" in built(folder, board).stdout
    assert link.is_symlink()
    assert link.resolve() == kept


def refusing_links(place: Path, number: int) -> dict[str, str]:
    """What a disk refuses, put into every Python that is started with these variables."""
    place.mkdir()
    source = f"import os\ndef refuse(*paths, **more):\n    raise OSError({number}, os.strerror({number}))\n"
    (place / "sitecustomize.py").write_text(source + "os.symlink = refuse\n")
    return {"PYTHONPATH": str(place)}


def test_a_disk_without_links_is_told_before_anything_is_built(folder: Path, board: Jetson, tmp_path: Path) -> None:
    more = refusing_links(tmp_path / "vfat", errno.EPERM)
    said = built(folder, board, code=builder.NO_LINKS, more=more).stdout
    assert "copy the folder to a disk with links, or --cache DIR" in said
    assert not board.calls()


def test_a_quota_that_is_used_up_is_a_full_disk(folder: Path, board: Jetson, tmp_path: Path) -> None:
    more = refusing_links(tmp_path / "quota", errno.EDQUOT)
    assert "The disk of this device is full" in built(folder, board, code=builder.DISK_FULL, more=more).stdout


def test_other_accounts_may_read_an_engine(folder: Path, board: Jetson) -> None:
    built(folder, board)
    assert (folder / "engines" / "tensorrt-fp32").stat().st_mode & 0o777 == 0o755


def test_an_engine_that_was_changed_is_not_used_again(folder: Path, board: Jetson) -> None:
    built(folder, board)
    (folder / "engines" / "tensorrt-fp32" / "model.engine").write_bytes(b"ENGINE of somebody else")
    built(folder, board)
    assert engine(folder)["sha256"] == digest_of(folder / "engines" / "tensorrt-fp32" / "model.engine")


def test_the_timing_cache_of_one_build_serves_the_next(tmp_path: Path, board: Jetson) -> None:
    folder = packed(tmp_path, names=("tensorrt-fp16", "tensorrt-fp32")).folder
    built(folder, board)
    assert (folder / "engines" / "tensorrt-fp16" / "timing.cache").read_bytes() == b"timed;"
    assert (folder / "engines" / "tensorrt-fp32" / "timing.cache").read_bytes() == b"timed;timed;"


def test_another_board_another_jetpack_and_no_tensorrt_are_each_one_error(folder: Path, tmp_path: Path) -> None:
    xavier = jetsons.jetson(tmp_path / "xavier", board="NVIDIA Jetson AGX Xavier")
    said = built(folder, xavier, code=builder.WRONG_DEVICE).stdout
    assert "not jetson-orin-nano-8gb: it says that it is 'NVIDIA Jetson AGX Xavier'" in said
    half = jetsons.jetson(tmp_path / "half", memory=4_000_000)
    assert "has 4.1 GB of memory" in built(folder, half, code=builder.WRONG_DEVICE).stdout
    old = jetsons.jetson(tmp_path / "old", release="# R32 (release), REVISION: 7.1, GCID: 1\n")
    assert "runs Jetson Linux 32.7.1" in built(folder, old, code=builder.WRONG_DEVICE).stdout
    bare = jetsons.jetson(tmp_path / "bare")
    jetsons.without_trtexec(bare)
    said = built(folder, bare, code=builder.NO_TENSORRT).stdout
    assert "There is no TensorRT" in said
    assert "sudo apt install" in said


@pytest.mark.parametrize(
    ("target", "gpu", "fits"),
    [
        *(("h100", "NVIDIA H100 80GB HBM3", True), ("h100", "NVIDIA H200", False), ("h200", "NVIDIA H200", True)),
        *(("h100", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", False), ("l4", "NVIDIA L40S", False)),
        *(("a10", "NVIDIA A100-SXM4-80GB", False), ("rtx4090", "NVIDIA GeForce RTX 4090 Laptop GPU", False)),
        ("h100", "", True),  # no driver says anything
    ],
)
def test_a_card_is_told_from_others_of_its_compute_capability(target: str, gpu: str, fits: bool) -> None:
    wanted = find_target(target)
    assert wanted.gpu
    facts = {"board": "", "l4t": "", "memory": 0, "compute-capability": wanted.gpu.compute_capability, "gpu": gpu}
    expect = expected_of(wanted)
    if fits:
        builder.check_device(expect, facts, target)
        return
    with pytest.raises(builder.Failure, match="its driver calls it") as caught:
        builder.check_device(expect, facts, target)
    assert caught.value.code == builder.WRONG_DEVICE


def test_trtexec_is_found_where_jetpack_puts_it(folder: Path, board: Jetson) -> None:
    jetsons.installed_at_the_vendors_place(board)
    built(folder, board)
    assert engine(folder)["tool"] == "trtexec"


def test_too_little_memory_or_disk_ends_it_before_it_begins(folder: Path, board: Jetson) -> None:
    said = built(folder, board, "--disk-quota", "1000000", code=builder.DISK_FULL).stdout
    assert "67 MB of disk, and 1 MB is free" in said
    board.say("proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 200000 kB\nSwapFree: 100000 kB\n")
    assert "at least 419 MB of memory" in built(folder, board, code=builder.OUT_OF_MEMORY).stdout
    assert not board.calls()


def test_what_is_kept_needs_no_room(tmp_path: Path, board: Jetson) -> None:
    folder = packed(tmp_path).folder
    built(folder, board)
    assert "kept" in built(folder, board, "--disk-quota", "1000000").stdout


def test_what_a_killed_build_left_is_swept_before_room_is_looked_for(folder: Path, board: Jetson) -> None:
    (folder / "engines" / ".new-left").mkdir(parents=True)
    built(folder, board, "--disk-quota", "1000000", code=builder.DISK_FULL)
    assert not (folder / "engines" / ".new-left").exists()


@pytest.mark.parametrize(
    ("build", "code", "said"),
    [
        ("killed", builder.OUT_OF_MEMORY, "the system killed it"),
        ("full", builder.DISK_FULL, "became full"),
        ("quota", builder.DISK_FULL, "became full"),
        ("node-8", builder.UNSUPPORTED, "does not take node 'r1' (Relu)"),
        ("node-10", builder.UNSUPPORTED, "does not take node 'relu1' (Relu)"),
        ("no-memory", builder.OUT_OF_MEMORY, "Cuda failure: out of memory"),
        ("other", builder.REFUSED, "ended with exit code 1: something else"),
    ],
)
def test_what_a_build_dies_of_is_said_and_the_old_engine_stays(
    folder: Path, board: Jetson, build: str, code: int, said: str
) -> None:
    built(folder, board)
    before = engine(folder)
    board.behave(build=build)
    ended = built(folder, board, "--workspace=64", code=code)
    assert said in ended.stdout
    assert engine(folder) == before
    assert not list((folder / "engines").glob(".new-*"))


def test_a_build_that_takes_the_last_memory_is_stopped(folder: Path, board: Jetson) -> None:
    board.behave(build="eat", meminfo=str(board.root / "proc/meminfo"))
    said = built(folder, board, code=builder.OUT_OF_MEMORY).stdout
    assert "stopped when memory and swap together had less than 134 MB left" in said


def test_one_model_that_fails_leaves_the_others(tmp_path: Path, board: Jetson) -> None:
    folder = packed(tmp_path, names=("tensorrt-fp16", "tensorrt-fp32")).folder
    board.behave(build={"tensorrt-fp16": "killed"})
    ended = built(folder, board, "--json", code=builder.OUT_OF_MEMORY)
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [one["failed"]["build"] for one in told if "failed" in one] == ["tensorrt-fp16"]
    assert engine(folder, "tensorrt-fp32")["state"].startswith("measured on")
    assert not (folder / "engines" / "tensorrt-fp16").exists()


def test_answers_that_part_and_answers_that_are_no_numbers_are_told(
    folder: Path, board: Jetson, tmp_path: Path
) -> None:
    board.behave(skew=-1)  # answers in the wrong order
    built(folder, board)
    assert engine(folder)["parity"]["cosine"] < 0.9
    board.behave(nan=True)
    said = built(folder, board, "--workspace=64").stdout
    assert "answers are not finite or not complete" in said
    assert engine(folder)["parity"]["complete"] is False


@pytest.mark.parametrize(
    "writes", ["", "no JSON", '[{"name": "logits"}]', '[{"name": "logits", "values": [1, 2', '[{"values": [1, x]}]']
)
def test_an_engine_is_kept_when_what_trtexec_wrote_of_it_cannot_be_read(
    folder: Path, board: Jetson, writes: str
) -> None:
    board.behave(writes=writes)
    assert "could not be read" in built(folder, board).stdout
    made = engine(folder)
    assert made["state"] == "built, not run"
    assert made["bytes"] > 10_000
    assert "latency" not in made


def test_a_changed_model_is_not_built(folder: Path, board: Jetson) -> None:
    nets.save(nets.conv_net(width=8), folder / "tensorrt-fp32" / "model" / "model.onnx")
    assert "missing or was changed" in built(folder, board, code=builder.DAMAGED).stdout


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, None])
def test_a_build_that_is_killed_ends_trtexec_and_leaves_the_old_engine(
    folder: Path, board: Jetson, how: signal.Signals | None
) -> None:
    built(folder, board)
    before = engine(folder)
    board.behave(build="sleep")
    command = [sys.executable, str(folder / "build.py"), "--workspace=64", "--watch-input"]
    process = subprocess.Popen(command, env=board.env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    child = waiting(board.folder / "bin" / "pid")
    if how is None:  # the connection is gone
        assert process.stdin
        process.stdin.close()
    else:
        process.send_signal(how)
    code = process.wait(20)
    assert code == (143 if how is None else -how if how is signal.SIGKILL else 128 + how)
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child)
    assert engine(folder) == before
    board.behave()
    built(folder, board, "--workspace=64")
    assert not list((folder / "engines").glob(".new-*"))


def test_two_builds_at_once_take_turns(folder: Path, board: Jetson) -> None:
    command = [sys.executable, str(folder / "build.py")]
    both = [subprocess.Popen(command, env=board.env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("kept" in text for text in said) == 1
    assert len(board.calls()) == 6


@pytest.mark.skipif(installed("tensorrt-rtx") is None, reason="needs the extra [tensorrt] (x86-64)")
def test_without_trtexec_the_python_module_builds(folder: Path, board: Jetson, tmp_path: Path) -> None:
    """The module is TensorRT for RTX under the name of TensorRT: NVIDIA's compiler, of the same interface."""
    jetsons.without_trtexec(board)
    (tmp_path / "module").mkdir()
    (tmp_path / "module" / "tensorrt.py").write_text("from tensorrt_rtx import *\n__version__ = '11.4.0'\n")
    command = [sys.executable, str(folder / "build.py")]
    env = {**board.env, "PYTHONPATH": str(tmp_path / "module")}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    made = engine(folder)
    assert made["tool"] == "tensorrt"
    assert made["state"] == "built, not run"
    assert made["bytes"] > 10_000
    assert "latency" not in made


def test_a_python_module_that_is_too_old_is_not_begun_with(folder: Path, board: Jetson, tmp_path: Path) -> None:
    jetsons.without_trtexec(board)
    (tmp_path / "tensorrt.py").write_text("__version__ = '8.2.1.8'\n")
    command = [sys.executable, str(folder / "build.py")]
    env = {**board.env, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == builder.NO_TENSORRT
    assert "libnvinfer-bin" in ended.stdout


@pytest.mark.parametrize("version", ["8502", "100300"])
def test_several_inputs_of_several_types_and_a_name_with_a_colon(tmp_path: Path, board: Jetson, version: str) -> None:
    folder = jetsons.packed_words(tmp_path).folder
    board.behave(version=version)
    built(folder, board)
    first, second, *_ = board.calls()
    assert "--optShapes=ids:1x4,'x:0':1x8" in first
    assert any(word.startswith("--loadInputs=ids:") and ",'x:0':" in word for word in second)
    assert engine(folder)["parity"]["cosine"] > 0.999999


def test_inputs_of_64_bits_are_narrowed_for_tensorrt_8_alone(tmp_path: Path) -> None:
    np.array([5, -7, 11], dtype=np.int64).tofile(tmp_path / "ids.bin")
    tensors = [{"name": "ids", "dtype": "int64"}]
    old = builder.inputs_of(str(tmp_path), tensors, ["ids.bin"], "8.5.2", str(tmp_path))
    assert np.fromfile(old["ids"], dtype=np.int32).tolist() == [5, -7, 11]
    new = builder.inputs_of(str(tmp_path), tensors, ["ids.bin"], "10.3.0", str(tmp_path))
    assert np.fromfile(new["ids"], dtype=np.int64).tolist() == [5, -7, 11]


def test_numbers_of_more_than_32_bits_leave_the_engine(tmp_path: Path, board: Jetson) -> None:
    folder = jetsons.packed_words(tmp_path).folder
    plan = json.loads((folder / "build.json").read_text())
    position = [tensor["dtype"] for tensor in plan["samples"]["inputs"]].index("int64")
    ids = folder / plan["samples"]["feeds"][0][position]
    np.full(ids.stat().st_size // 8, 1 << 40, dtype=np.int64).tofile(ids)
    board.behave(version="8502")
    assert "numbers of more than 32 bits" in built(folder, board).stdout
    made = engine(folder)
    assert made["state"] == "built, not run"
    assert "parity" not in made


def test_answers_are_read_in_pieces_and_packed(tmp_path: Path) -> None:
    """As Python's numbers in a list they take 32 bytes each, and the text as much again."""
    values = np.random.default_rng(0).standard_normal(500_000).astype(np.float32)
    values[[0, 70_000, 499_999]] = [np.nan, np.inf, -np.inf]
    text = " , ".join(map(str, values)).replace("nan", "-nan(0x1)")
    text = f'[\n  {{ "name" : "a:0"\n  , "dimensions" : "1x5"\n  , "values" : [ {text} ]\n  }}\n, {{ "name" : "none"'
    (tmp_path / "answers.json").write_text(text + ' , "values" : [  ]\n  }\n]')
    tracemalloc.start()
    found = builder.answers_in(str(tmp_path / "answers.json"))
    compared = builder.compared(found["a:0"][1:1000], found["a:0"][1:1000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(np.asarray(found["a:0"]), values)
    assert list(found["none"]) == []
    assert compared
    assert compared[0] == pytest.approx(1)
    assert compared[1:] == (0.0, True)
    assert peak < 5 * len(values)


def test_versions_as_trtexec_prints_them() -> None:
    assert [builder.version_of(number) for number in (8201, 8502, 100300, 101602)] == [
        *("8.2.1", "8.5.2", "10.3.0", "10.16.2")
    ]


def test_a_process_that_cannot_be_asked_is_not_waited_for() -> None:
    assert builder.output_of(["no-such-program"]) == ""
