"""Whether integers are multiplied in AMX's tiles: by what a net is made of; told in the file, and no answer changes."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from pathlib import Path

import nets
import numpy as np
import pytest
from trials import calibration, run, source

from mlopt.emulate.sets import SETS, can_hide
from mlopt.serve import litert
from mlopt.serve.litert import NO_TILES, TfliteModel
from mlopt.steps.quantize_static import QuantizeStatic
from mlopt.tflite.tiles import worth_tiles
from mlopt.tflite.write import write_tflite

pytestmark = pytest.mark.litert

ASK = """
import sys
from pathlib import Path
import numpy as np
from mlopt.serve.litert import TfliteModel
feed = {"image": np.load(sys.argv[2])}
np.save(sys.argv[3], TfliteModel(Path(sys.argv[1]), threads=1).infer(feed)[0])
"""


def file_of(tmp_path: Path) -> bytes:
    model = nets.conv_net()
    step = QuantizeStatic(calibration(tmp_path, model))
    return write_tflite(run(step, source(tmp_path / "m", model), tmp_path / "q").main).data


def test_wide_nets_are_worth_tiles_and_narrow_ones_are_not() -> None:
    """The sizes of ResNet-8's convolutions, and of some of a ResNet-50's."""
    narrow = [((16, 3, 3, 3), 1024), ((16, 3, 3, 16), 1024), ((32, 3, 3, 16), 256), ((64, 3, 3, 32), 64)]
    wide = [((64, 1, 1, 64), 3136), ((128, 3, 3, 128), 784), ((512, 1, 1, 128), 784), ((512, 3, 3, 512), 49)]
    assert not worth_tiles(narrow)
    assert worth_tiles(wide)
    assert worth_tiles([]), "nothing to decide where nothing is of integers"


def test_a_file_says_so_and_is_read_without_its_schema(tmp_path: Path) -> None:
    data = file_of(tmp_path)
    assert litert._description(data).endswith(NO_TILES)
    (tmp_path / "model.tflite").write_bytes(data)
    assert litert._description(tmp_path / "model.tflite") == litert._description(data)
    path = nets.save(nets.conv_net(), tmp_path / "float.onnx")
    assert litert._description(write_tflite(path).data).startswith("written by mlopt")
    assert not litert._description(write_tflite(path).data).endswith(NO_TILES)


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\xff" * 64, b"\x08\0\0\0TFL3" + b"\xff" * 8])
def test_a_damaged_file_says_nothing(data: bytes) -> None:
    assert litert._description(data) == ""
    with pytest.raises((ValueError, RuntimeError)):
        TfliteModel(data, threads=1)


def test_the_answers_are_the_same_in_tiles_and_without(tmp_path: Path) -> None:
    data = file_of(tmp_path)
    np.save(tmp_path / "given.npy", np.random.default_rng(2).standard_normal((4, 3, 32, 32)).astype(np.float32))
    found = []
    for name, content in (("without", data), ("with", data.replace(NO_TILES.encode(), b" " * len(NO_TILES)))):
        (tmp_path / f"{name}.tflite").write_bytes(content)
        files = [str(tmp_path / file) for file in (f"{name}.tflite", "given.npy", f"{name}.npy")]
        subprocess.run([sys.executable, "-c", ASK, *files], check=True)
        found.append(np.load(tmp_path / f"{name}.npy"))
    np.testing.assert_array_equal(*found)


def test_signals_and_their_stack_are_as_they_were(tmp_path: Path) -> None:
    data, libc, before, after = file_of(tmp_path), ctypes.CDLL(None), litert._Stack(), litert._Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    TfliteModel(data, threads=1)
    libc.sigaltstack(None, ctypes.byref(after))
    assert (after.start, after.flags, after.size) == (before.start, before.flags, before.size)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked


@pytest.mark.skipif(not can_hide(SETS["avx512-vnni"]), reason="this processor cannot hide instruction sets")
def test_a_process_that_is_kept_from_instructions_opens_the_file_too(tmp_path: Path) -> None:
    """There CPUID is answered by a handler of the signal that ends processes, which may not wait."""
    (tmp_path / "model.tflite").write_bytes(file_of(tmp_path))
    np.save(tmp_path / "given.npy", np.zeros((1, 3, 32, 32), np.float32))
    asked = [str(tmp_path / file) for file in ("model.tflite", "given.npy", "made.npy")]
    hidden = "from mlopt.emulate.hiding import hide\nhide(['amx', 'avx512-vnni'])\n"
    subprocess.run([sys.executable, "-c", hidden + ASK, *asked], check=True)
    assert np.load(tmp_path / "made.npy").shape == (1, 10)
