"""What this machine can do at most: products of matrices in fp32 and int8, bytes from memory and from a cache.

Measured once for a machine, a number of threads and versions of the runtimes, and kept in the store. A product runs in
every runtime that is installed, for none alone shows what the processor can do. `python -m mlopt.measure.peaks FOLDER
THREADS` measures, in a process of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from mlopt import registry
from mlopt.artifact import PEAKS, Artifact, Format
from mlopt.errors import WorkerFailed
from mlopt.insight import Layer, Peak, Peaks
from mlopt.step import installed

if TYPE_CHECKING:
    from mlopt.store import Store

Kind = Literal["fp32", "int8", "memory", "cache"]

PRODUCTS: Final = Format("matrix-products")
RUNTIMES: Final = ("onnxruntime", "openvino")
SIDE: Final = 768  # of the matrices
_SECONDS, _PASSES = 0.06, 2  # for each figure, about, in each pass; what disturbs one may leave the other alone
_FEWEST: Final = 3
_LARGE, _SMALL = 256 << 20, 128 << 10  # bytes that are copied: from memory, and inside a second-level cache
_LIMIT: Final = 120.0


def measure_peaks(store: Store, *, device: str, threads: int, layers: Sequence[Layer] = ()) -> Peaks:
    """From the store, or measured now; a second time where one of these layers was faster, for then the machine was
    busy the first time. Raises `WorkerFailed`."""
    with tempfile.TemporaryDirectory(prefix="mlopt-products-") as folder:
        _write_products(Path(folder) / "products")
        source = store.adopt(Path(folder) / "products", PRODUCTS)
    found = _read(store.run(MeasurePeaks(device, threads), source))
    if not any(_beats(layer, found) for layer in layers):
        return found
    again = _read(store.run(MeasurePeaks(device, threads, attempt=2), source))
    better = (max(pair, key=lambda one: one.rate) for pair in zip(found.peaks, again.peaks, strict=True))
    return dataclasses.replace(found, taken=again.taken, peaks=tuple(better))


def _read(made: Artifact) -> Peaks:
    found = json.loads(made.main.read_bytes())
    return Peaks(**{**found, "peaks": tuple(Peak(**one) for one in found["peaks"])})


def _beats(layer: Layer, peaks: Peaks) -> bool:
    peak = peaks.rate(layer.arithmetic)
    return bool(peak and layer.operations and layer.operations > peak * layer.seconds)


@dataclass(frozen=True, slots=True)
class MeasurePeaks:
    """A step like others, so that the store keeps what it finds; no recipe asks for it."""

    name: ClassVar[str] = "measure-peaks"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({PRODUCTS})
    produces: ClassVar[Format] = PEAKS
    requires: ClassVar[tuple[str, ...]] = ("numpy", *RUNTIMES)

    device: str
    threads: int
    attempt: int = 1

    def run(self, source: Artifact, into: Path) -> None:
        try:
            said = subprocess.run(
                [sys.executable, "-m", "mlopt.measure.peaks", str(source.path), str(self.threads)],
                capture_output=True,
                text=True,
                timeout=_LIMIT,
                check=True,
                env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
            ).stdout
        except subprocess.TimeoutExpired as error:
            raise WorkerFailed(f"The peaks of this machine were not measured within {_LIMIT:.0f} s.") from error
        except subprocess.CalledProcessError as error:
            tail = error.stderr.strip()[-400:]
            raise WorkerFailed("The peaks of this machine could not be measured.", where=tail) from error
        taken = datetime.now(UTC).isoformat(timespec="seconds")
        peaks = [Peak(**one) for one in json.loads(said.splitlines()[-1])]
        whole = Peaks(self.device, "measured", self.threads, taken, tuple(peaks))
        (into / "peaks.json").write_text(json.dumps(dataclasses.asdict(whole), indent=1) + "\n")


def main(arguments: Sequence[str]) -> None:
    folder, threads = Path(arguments[0]), int(arguments[1])
    best: dict[str, Peak] = {}
    with ExitStack() as stack:
        tries = [*_products(folder, threads, stack), _copies("memory", _large(), threads)]
        tries.append(_copies("cache", _SMALL, threads))
        for _ in range(_PASSES):
            for one in tries:
                rate = one.work / _fastest(one.call)
                if one.kind not in best or rate > best[one.kind].rate:
                    best[one.kind] = Peak(one.kind, rate, one.by, one.method)
    print(json.dumps([dataclasses.asdict(peak) for peak in best.values()]))


@dataclass(frozen=True, slots=True)
class _Try:
    """`work` operations or bytes, done by one `call`."""

    kind: Kind
    work: float
    call: Callable[[], Any]
    by: str
    method: str


def _products(folder: Path, threads: int, stack: ExitStack) -> Iterator[_Try]:
    """Each kind in each runtime that is installed: the fastest counts."""
    import numpy as np

    kinds: tuple[tuple[Literal["fp32", "int8"], type], ...] = (("fp32", np.float32), ("int8", np.uint8))
    for kind, type in kinds:
        feeds: dict[str, np.ndarray] = {"a": np.random.default_rng(0).integers(0, 255, (SIDE, SIDE)).astype(type)}
        method = f"product of {kind} matrices, {SIDE}×{SIDE}×{SIDE}, the fastest run"
        for runtime in RUNTIMES:
            if (version := installed(runtime)) is not None:
                runner = registry.load("mlopt.runners", runtime)(folder / f"{kind}.onnx", threads=threads)
                run = functools.partial(stack.enter_context(runner).infer, feeds)
                yield _Try(kind, 2 * SIDE**3, run, f"{runtime} {version}", method)


def _copies(kind: Literal["memory", "cache"], size: int, threads: int) -> _Try:
    """Every thread copies its own part; bytes are counted twice, read and written."""
    import numpy as np

    repeats = max(1, _LARGE // 4 // size)  # so that threads have something to do before the next one has started
    part = size // threads if kind == "memory" else size
    pairs = [(np.zeros(part, np.uint8), np.ones(part, np.uint8)) for _ in range(threads)]

    def copies(target: np.ndarray, source: np.ndarray) -> None:
        for _ in range(repeats):
            np.copyto(target, source)

    def copy() -> None:
        others = [threading.Thread(target=copies, args=pair) for pair in pairs[1:]]
        for other in others:
            other.start()
        copies(*pairs[0])
        for other in others:
            other.join()

    shown = f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
    each = " in each thread" if kind == "cache" and threads > 1 else ""
    method = f"copy of {shown}{each}, read and written, the fastest run"
    return _Try(kind, 2 * part * threads * repeats, copy, f"numpy {installed('numpy')}", method)


def _large() -> int:
    """A board with little memory gets less of it filled."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(min(_LARGE, whole // 32))


def _fastest(call: Callable[[], Any]) -> float:
    call()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < _FEWEST or time.perf_counter() - began < _SECONDS:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _write_products(folder: Path) -> None:
    """fp32.onnx and int8.onnx: one product each with weights that the file holds, as layers have them."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir()
    weights = np.random.default_rng(0).integers(-60, 60, (SIDE, SIDE))
    fp32 = [helper.make_node("MatMul", ["a", "w"], ["y"], name="product")]
    held = [numpy_helper.from_array(weights.astype(np.float32), "w")]
    int8 = [
        helper.make_node("DequantizeLinear", ["a", "scale", "zero"], ["a_float"], name="a_float"),
        helper.make_node("DequantizeLinear", ["w", "scale", "none"], ["w_float"], name="w_float"),
        helper.make_node("MatMul", ["a_float", "w_float"], ["product"], name="product"),
        helper.make_node("QuantizeLinear", ["product", "wide", "zero"], ["y"], name="y"),
    ]
    constants = {"scale": np.float32(0.01), "wide": np.float32(10), "zero": np.uint8(128), "none": np.int8(0)}
    rest = [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    for name, nodes, kept, type in (
        ("fp32", fp32, held, TensorProto.FLOAT),
        ("int8", int8, [numpy_helper.from_array(weights.astype(np.int8), "w"), *rest], TensorProto.UINT8),
    ):
        ends = [helper.make_tensor_value_info(end, type, [SIDE, SIDE]) for end in ("a", "y")]
        graph = helper.make_graph(nodes, name, ends[:1], ends[1:], kept)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main(sys.argv[1:])
