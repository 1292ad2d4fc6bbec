"""The first start on a device: the engine is built in the background while the fallback answers, then takes over.

What builds is the program in the folder that `mlopt compile` packed (`build.py` there): it keeps engines by all that
decides them, locks where it keeps them, and publishes in one move. Here it is started, listened to, and believed only
after the engine has answered the samples of that folder as the model does.
"""

from __future__ import annotations

import json
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from mlopt.serve.engine import Engine, EngineFailed, system_environment
from mlopt.serve.model import Model, NotServable
from mlopt.serve.switch import Switch
from mlopt.serve.tensors import Rejected

Stage = Literal["building", "engine", "fallback"]
STAGES: Final[tuple[Stage, ...]] = ("building", "engine", "fallback")
_LEAST_COSINE: Final = 0.98  # to the model's own answers: what is below is broken, not imprecise
_STOPPING: Final = 15.0  # seconds: the program there ends what it started
_LOG: Final = logging.getLogger("mlopt.serve")


@dataclass(frozen=True, slots=True)
class Builds:
    """What is to be built: the packed folder, where engines are kept, which of its builds may serve (none: any), and
    the Python of the system, which has a `tensorrt`."""

    folder: Path
    engines: Path
    names: tuple[str, ...]
    python: str


@dataclass(frozen=True, slots=True)
class Status:
    """Who answers, and why; `facts` are of the engine that does."""

    stage: Stage
    why: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For the model's metadata."""
        return {"status": self.stage, **({"why": self.why} if self.why else {}), **self.facts}


class FirstStart:
    """Builds, and switches a model over. `changed` is called when `status` is another, from any thread."""

    def __init__(self, builds: Builds, changed: Callable[[], None]) -> None:
        """Raises `NotServable` for a folder that nobody packed."""
        self._builds, self._changed = builds, changed
        self.status = Status("building", "the engine is being built")
        self._packed = _packed(builds)
        self._process: subprocess.Popen[str] | None = None
        self._stopped, self._starting = False, threading.Lock()
        self._switch: Switch | None = None

    def begin(self, model: Model) -> None:
        """In the background, until `stop`."""
        self._tell(self.status)
        switch = Switch(model.run, model.opened, lambda why: self._tell(Status("fallback", why)))
        model.run = self._switch = switch
        self._thread = threading.Thread(target=self._walk, args=(model, switch), name="first-start", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """A build ends, and what it made stays; so does the engine's process."""
        with self._starting:
            self._stopped = True
        if self._process is not None:
            _end(self._process)
        if self._switch is not None:
            self._thread.join()
            self._switch.close()

    def _tell(self, status: Status) -> None:
        self.status = status
        _LOG.info("ready" if status.stage == "engine" else status.stage, extra=status.as_json())
        self._changed()

    def _walk(self, model: Model, switch: Switch) -> None:
        try:
            self._tell(self._switched(model, switch))
        except EngineFailed as error:
            if not self._stopped:
                _LOG.error("no engine", extra={"reason": str(error)})
                self._tell(Status("fallback", str(error)))
        except Exception as error:
            _LOG.error("fault", exc_info=error)
            self._tell(Status("fallback", f"{type(error).__name__}; the log has its traceback"))

    def _switched(self, model: Model, switch: Switch) -> Status:
        """Try what was built, the fastest first. Raises `EngineFailed` with every reason when none can serve."""
        made, reasons = self._built()
        for name, told in sorted(made.items(), key=lambda item: item[1].order):
            if self._stopped:
                break
            try:
                engine, cosine = self._opened(model, name, told)
            except (EngineFailed, Rejected) as error:
                reasons.append(f"{name}: {error}")
                _LOG.warning("engine refused", extra={"engine": name, "reason": str(error)})
                continue
            switch.to(engine)
            return Status("engine", facts={"engine": name, **told.facts, "cosine": cosine})
        raise EngineFailed("; ".join(reasons) or "nothing was built")

    def _opened(self, model: Model, name: str, told: _Made) -> tuple[Engine, float]:
        """The engine, if it answers the packed samples as the model does, and how near its answers are."""
        serving = model.serving
        engine = Engine(
            told.place / "model.engine",
            sha256=told.sha256,
            python=self._builds.python,
            inputs=serving.inputs,
            outputs=serving.outputs,
        )
        try:
            cosine = min(
                nearness(wanted, found)
                for feeds, expected in _samples(self._builds.folder, self._packed, name)
                for wanted, found in zip(expected, engine(self._packed["samples"]["outputs"], feeds), strict=True)
            )
            if cosine < _LEAST_COSINE:
                raise EngineFailed(f"its answers are not those of the model: cosine {cosine:.4f} on the packed samples")
        except BaseException:
            engine.close()
            raise
        return engine, round(cosine, 6)

    def _built(self) -> tuple[dict[str, _Made], list[str]]:
        """What the program made, by name, and what it says of what failed. Raises `EngineFailed` when it cannot run."""
        names = self._builds.names or tuple(build["name"] for build in self._packed["builds"])
        command = [self._builds.python, str(self._builds.folder / "build.py"), "--json", "--watch-input"]
        command += ["--cache", str(self._builds.engines), *(f"--only={name}" for name in names)]
        began = time.perf_counter()
        process = self._process = self._started(command)
        made: dict[str, _Made] = {}
        reasons = []
        plain = ""
        assert process.stdout
        for line in process.stdout:
            plain = line.strip()
            told = _told(plain)
            if "made" in told:
                made[told["made"]] = _Made.read(Path(told["place"]), told["sha256"], names.index(told["made"]))
            elif failed := told.get("failed"):
                reasons.append(": ".join(filter(None, (failed["build"], failed["what"]))))
            _LOG.info("build", extra={"said": told.get("say") or reasons[-1]})
        code = process.wait()
        if self._stopped:
            raise EngineFailed("the server stops")
        if code and not reasons:
            reasons.append(f"the program that builds ended with exit code {code}: {plain[:300]}")
        _LOG.info("built", extra={"engines": sorted(made), "seconds": round(time.perf_counter() - began, 1)})
        return made, reasons

    def _started(self, command: Sequence[str]) -> subprocess.Popen[str]:
        with self._starting:
            if self._stopped:
                raise EngineFailed("the server stops")
            try:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    env=system_environment(),
                    start_new_session=True,
                )
            except OSError as error:
                raise EngineFailed(f"{self._builds.python} cannot be started: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class _Made:
    place: Path
    sha256: str
    order: tuple[float, int]
    facts: Mapping[str, Any]

    @classmethod
    def read(cls, place: Path, sha256: str, position: int) -> _Made:
        """Beside the digest, which the program said: what it noted of an engine, for people and for the order."""
        try:
            noted = json.loads((place / "engine.json").read_bytes())
        except (OSError, ValueError):
            noted = {}
        p50 = noted.get("latency", {}).get("p50")
        facts = {"sha256": sha256, "made_by": noted.get("compiler"), "made_on": noted.get("board"), "p50_s": p50}
        order = (p50 if p50 is not None else float("inf"), position)
        return cls(place, sha256, order, {name: value for name, value in facts.items() if value})


def nearness(wanted: np.ndarray, found: np.ndarray) -> float:
    """The cosine of two answers; -1 for what cannot be compared.

    >>> nearness(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
    1.0
    """
    one, other = wanted.ravel().astype(np.float64), found.ravel().astype(np.float64)
    if one.size != other.size or not np.isfinite(other).all():
        return -1.0
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return min(1.0, float(one @ other) / norm) if norm else float(not one.any() and not other.any())


def _packed(builds: Builds) -> dict[str, Any]:
    path = builds.folder / "build.json"
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        known = [build["name"] for build in found["builds"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotServable(f"{path} cannot be used: {error}") from error
    if unknown := [name for name in builds.names if name not in known]:
        raise NotServable(f"{path} has no {unknown[0]}; it has {', '.join(known)}")
    return found


def _samples(
    folder: Path, packed: Mapping[str, Any], name: str
) -> Iterator[tuple[dict[str, np.ndarray], list[np.ndarray]]]:
    """Each packed sample, with what ONNX Runtime answered for it."""
    build = next(build for build in packed["builds"] if build["name"] == name)
    inputs = packed["samples"]["inputs"]
    for files, expected in zip(packed["samples"]["feeds"], build["expected"], strict=True):
        feeds = {
            tensor["name"]: np.fromfile(folder / file, dtype=tensor["dtype"]).reshape(tensor["shape"])
            for tensor, file in zip(inputs, files, strict=True)
        }
        yield feeds, [np.fromfile(folder / file, dtype=np.float32) for file in expected]


def _told(line: str) -> dict[str, Any]:
    """What one of the program's lines says; of another the text."""
    try:
        told: Any = json.loads(line)
    except ValueError:
        return {"say": line[:300]}
    return told if isinstance(told, dict) and told else {"say": line[:300]}


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.close()
    try:
        process.wait(_STOPPING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
