"""The model behind the server: read serving.json, load, warm up, infer."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from mlopt.serve.batching import Batching
from mlopt.serve.preprocess import Preprocess, preprocess_from_json
from mlopt.serve.runtimes import RUNTIMES, Run
from mlopt.serve.settings import OF_MODEL, OF_PROCESS
from mlopt.serve.tensors import NUMPY_OF, Rejected, Tensor

SCHEMA: Final = 1


class NotServable(Exception):
    """The model folder cannot be served; the message says which file and why."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What `serving.json` says. `classes` and `preprocess` are None where nobody declared them.

    `told` are options of the server, by their names.
    """

    name: str
    version: str
    file: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    preprocess: Preprocess | None
    classes: tuple[str, ...] | None
    task: str | None
    threads: int | None
    runtime: str
    batching: Batching | None
    told: Mapping[str, str] = field(default_factory=dict)

    @property
    def classifies_pictures(self) -> bool:
        """Whether the page and /v1/classify can work: one input with declared preprocessing, class scores out."""
        return self.preprocess is not None and len(self.inputs) == 1 and self.task in (None, "classify")

    def metadata(self) -> dict[str, Any]:
        """The body of GET /v2/models/{m}."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": f"{self.runtime}_onnx",
            "inputs": [tensor.as_json() for tensor in self.inputs],
            "outputs": [tensor.as_json() for tensor in self.outputs],
        }


def read_serving(folder: Path) -> Serving:
    """Read and check `serving.json`. Raises `NotServable`."""
    path = folder / "serving.json"
    try:
        spec = orjson.loads(path.read_bytes())
        if spec.get("schema") != SCHEMA:
            raise ValueError(f"its schema is {spec.get('schema')!r}; this server reads {SCHEMA}")
        return _serving(spec)
    except OSError as error:
        raise NotServable(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise NotServable(f"{path} cannot be used: {error!r}") from error


class Model:
    """A loaded model. `infer` may be called from several threads at once. `run` is what computes: an engine may take
    the place of what was loaded."""

    def __init__(self, folder: Path, serving: Serving) -> None:
        """Load the model. Raises `NotServable` when its runtime refuses the file, or is not here."""
        self._folder, self.serving = folder, serving
        self.threads = serving.threads or available_cores()
        self.run = self.opened()

    def opened(self) -> Run:
        """The file, loaded anew. Raises `NotServable`."""
        path, runtime = self._folder / self.serving.file, self.serving.runtime
        try:
            return RUNTIMES[runtime](path, threads=self.threads)
        except ImportError as error:
            raise NotServable(f"{runtime} is not installed here: {error}") from error
        except Exception as error:
            raise NotServable(f"{path} cannot be loaded: {error}") from error

    def warm_up(self) -> None:
        """One inference on zeros (every free dimension 1), so that no client pays for first-time work.

        A model with free dimensions may refuse that made-up shape; that says nothing about real requests.
        """
        feeds = {
            tensor.name: np.zeros([max(1, size) for size in tensor.shape], dtype=NUMPY_OF[tensor.datatype])
            for tensor in self.serving.inputs
        }
        try:
            self.infer(feeds)
        except Rejected as error:
            if all(size > 0 for tensor in self.serving.inputs for size in tensor.shape[1:]):
                raise NotServable(f"the first inference failed: {error.message}") from error

    def infer(self, feeds: Mapping[str, np.ndarray], *, outputs: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        """Arrays by output name. Raises `Rejected` when the model refuses these inputs."""
        names = list(outputs or (tensor.name for tensor in self.serving.outputs))
        try:
            results = self.run(names, dict(feeds))
        except (Rejected, NotServable):
            raise
        except Exception as error:
            # Names, types and declared shapes were checked: what is left is a shape that some node cannot take.
            raise Rejected(f"the model refuses these inputs: {_first_line(error)}") from error
        return dict(zip(names, results, strict=True))


def give_back_memory() -> None:
    """Return to the system what loading left free in the heap (tens of MB); does nothing where libc cannot."""
    import ctypes

    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def available_cores() -> int:
    """Cores that this process may use: its affinity, cut by the container's CPU quota (cgroup v2 or v1)."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota()
    return max(1, min(cores, int(quota + 0.999))) if quota else cores


def _quota() -> float | None:
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text()
        period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text()
        return int(limit) / int(period) if int(limit) > 0 else None
    except (OSError, ValueError):
        return None


def _serving(spec: Mapping[str, Any]) -> Serving:
    classes, preprocess, threads = spec.get("classes"), spec.get("preprocess"), spec.get("threads")
    file = spec.get("file", "model.onnx")
    if "/" in file or file.startswith("."):
        raise ValueError(f"file is {file!r}; it must lie in the folder itself")
    runtime = spec.get("runtime", "onnxruntime")
    if runtime not in RUNTIMES:
        raise ValueError(f"its runtime is {runtime!r}; this server has {', '.join(RUNTIMES)}")
    if threads is not None and not (type(threads) is int and threads > 0):
        raise ValueError(f"threads is {threads!r}; it must be a number above 0, or absent")
    return Serving(
        name=str(spec["name"]),
        version=str(spec.get("version", "1")),
        file=file,
        inputs=tuple(_tensor(entry) for entry in spec["inputs"]),
        outputs=tuple(_tensor(entry) for entry in spec["outputs"]),
        preprocess=preprocess_from_json(preprocess) if preprocess is not None else None,
        classes=tuple(str(name) for name in classes) if classes else None,
        task=spec.get("task"),
        threads=threads,
        runtime=runtime,
        batching=_batching(spec.get("batching")),
        told=_told(spec.get("server", {})),
    )


def _batching(spec: Mapping[str, Any] | None) -> Batching | None:
    if spec is None:
        return None
    largest, delay = spec["largest"], spec["delay_us"]
    if not (type(largest) is int and largest > 0 and type(delay) is int and delay >= 0):
        raise ValueError(f"batching is {spec!r}; largest must be a number above 0, delay_us one of microseconds")
    return Batching(largest, delay / 1e6)


def _told(spec: Mapping[str, Any]) -> dict[str, str]:
    known = (*OF_MODEL, *OF_PROCESS)
    if unknown := [name for name in spec if name not in known]:
        raise ValueError(f"server has {unknown[0]!r}; it may have {', '.join(known)}")
    told = {name: str(value) for name, value in spec.items()}
    for name in ("cache", "max-body", "max-held"):
        if name in told and not re.fullmatch("[0-9]{1,15}B?", told[name]):
            raise ValueError(f"{name} is {told[name]!r}; it must be a number of MiB, or of bytes with a B behind it")
    return told


def _tensor(entry: Mapping[str, Any]) -> Tensor:
    if entry["datatype"] not in NUMPY_OF:
        raise ValueError(f"datatype {entry['datatype']!r} is not one of {', '.join(NUMPY_OF)}")
    return Tensor(str(entry["name"]), str(entry["datatype"]), tuple(int(size) for size in entry["shape"]))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:500]
