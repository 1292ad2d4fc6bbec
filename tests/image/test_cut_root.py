"""What was cut out of images is missed by nobody: the server's own tests in an image's own files, sizes, libraries."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from struct import unpack_from

import pytest

from mlopt.image.assemble import Image, runtime_python
from mlopt.image.fetch import Inputs
from mlopt.image.inputs import PLATFORMS, docker_folder, host_platform, read_wanted
from mlopt.image.layout import blob_path
from mlopt.image.load import manifest_of

pytestmark = pytest.mark.skipif(
    host_platform() not in PLATFORMS, reason=f"images are not made for this machine ({host_platform()})"
)
SERVE = Path(__file__).parents[1] / "serve"


@pytest.fixture
def python(inputs: Inputs) -> list[str]:
    """An image's Python with nothing of this machine's: `env -i` would take the tests' own settings of the server."""
    command = runtime_python(host_platform(), "onnxruntime", inputs=inputs)
    settings = [f"{name}={value}" for name, value in command.environment.items()]
    return ["env", "-u", "PYTHONPATH", "-u", "LD_LIBRARY_PATH", *settings, *command.arguments]


def test_the_image_is_small(image: Image) -> None:
    """Weights are not counted: 33 MB as a registry stores it, 101 MB on disk."""
    for one in image.platforms:
        below = [layer for layer in one.layers if layer.name != "model"]
        assert sum(layer.size for layer in below) <= 31.5e6
        assert sum(layer.unpacked for layer in below) <= 90e6


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", ["test_serve_process.py", "test_guarded.py", "test_hostile.py", "test_triton_client.py"]
)
def test_the_servers_own_tests_pass_in_the_image(python: list[str], file: str) -> None:
    environment = {**os.environ, "MLOPT_TEST_PYTHON": shlex.join(python)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(SERVE / file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


_PICTURES = """
import io
from PIL import Image
from mlopt.serve.classify import _FORMATS
for kind in _FORMATS:
    for mode in ("RGB", "L", "P", "1", "RGBA"):
        if (kind, mode) in (("JPEG", "P"), ("JPEG", "RGBA"), ("JPEG", "1")):
            continue
        stream = io.BytesIO()
        Image.new(mode, (9, 7)).save(stream, kind)
        found = Image.open(stream, formats=_FORMATS)
        found.getexif()
        assert found.convert("RGB").resize((4, 4), Image.Resampling.BILINEAR).size == (4, 4)
print(len(_FORMATS))
"""


def test_every_kind_of_picture_is_read(python: list[str]) -> None:
    assert int(run([*python, "-c", _PICTURES])) == 5


def test_engines_are_compared_without_lapack(python: list[str]) -> None:
    """What in the server comes nearest to linear algebra: `numpy.linalg.norm` of a vector, a product of two."""
    program = "import numpy as np; from mlopt.serve.first_start import nearness as near; one = np.arange(9.0); "
    assert run([*python, "-c", program + "print(round(near(one, 2 * one), 9))"]).strip() == "1.0"


_PRODUCTS = """
import numpy as np
rows = np.arange(12, dtype=KIND).reshape(3, 4) + (1j if KIND in ("complex64", "complex128") else 0)
slow = [[sum(a * b for a, b in zip(left, right)) for right in rows.tolist()] for left in rows.tolist()]
assert np.allclose(rows @ rows.T, slow) and np.allclose(rows @ rows[0], np.asarray(slow)[:, 0])
assert np.allclose(np.dot(rows[::2, ::-2], rows[::2, ::-2].T), rows[::2, ::-2] @ rows[::2, ::-2].T.copy())
assert np.allclose(rows.T @ rows, np.einsum("ki,kj->ij", rows, rows)) and np.allclose(np.inner(rows, rows), slow)
print(np.dot(rows[0], rows[1]).dtype)
"""


@pytest.mark.parametrize("kind", ["float32", "float64", "complex64", "complex128"])
def test_products_of_matrices_come_from_the_library_in_the_image(python: list[str], kind: str) -> None:
    assert run([*python, "-c", f"KIND = {kind!r}" + _PRODUCTS]).strip() == kind
    maps = "import numpy as np; np.ones((2, 2)) @ np.ones((2, 2)); print(open('/proc/self/maps').read())"
    libraries = run([*python, "-c", maps])
    assert "/numpy.libs/libblas64.so" in libraries
    assert "openblas" not in libraries


def test_there_is_no_lapack_and_who_calls_it_aborts(python: list[str]) -> None:
    done = subprocess.run([*python, "-c", "import numpy as np; np.linalg.inv(np.eye(2))"], capture_output=True)
    assert done.returncode == -6


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_function_that_numpy_looks_for_is_in_the_image(image: Image, platform: str) -> None:
    """Without running it, so for both architectures: Python binds everything when it loads a library."""
    exported, wanted = set[str](), dict[str, str]()
    for name, elf in libraries(image.path, platform):
        for symbol, defined, weak in symbols(elf):
            if defined:
                exported.add(symbol)
            elif not weak and "/numpy" in name:
                wanted[symbol] = name
    assert "cblas_sgemm" in wanted
    assert {symbol: name for symbol, name in wanted.items() if symbol not in exported} == {}


def test_the_licence_of_the_library_is_there(image: Image) -> None:
    (runtime,) = (
        one
        for one in manifest_of(image.path, "linux/arm64")["layers"]
        if one["annotations"]["io.mlopt.layer"] == "runtime"
    )
    with tarfile.open(blob_path(image.path, runtime)) as tar:
        names = set(tar.getnames())
    (package,) = read_wanted(docker_folder()).runtime.libraries
    assert f"usr/share/doc/{package}/copyright" in names


def libraries(layout: Path, platform: str) -> Iterator[tuple[str, bytes]]:
    for layer in manifest_of(layout, platform)["layers"]:
        with tarfile.open(blob_path(layout, layer)) as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.isfile() and member.size > 64 else None
                if stream and (data := stream.read()).startswith(b"\x7fELF"):
                    yield member.name, data


def symbols(elf: bytes) -> Iterator[tuple[str, bool, bool]]:
    """Name, whether it is defined, whether it is weak; of the dynamic symbols."""
    offset, size, count = unpack_from("<Q", elf, 40)[0], *unpack_from("<HH", elf, 58)
    sections = [unpack_from("<IIQQQQII", elf, offset + number * size) for number in range(count)]
    for table in (section for section in sections if section[1] == 11):
        strings = sections[table[6]][4]
        for at in range(table[4] + 24, table[4] + table[5], 24):
            name, info, _, section = unpack_from("<IBBH", elf, at)
            start = strings + name
            yield elf[start : elf.index(0, start)].decode(), section != 0, info >> 4 == 2


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
