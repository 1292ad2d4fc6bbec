"""Start a converter in a process of its own, kept within limits; whatever happens to it becomes one plain error."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from mlopt import errors
from mlopt.artifact import Digest
from mlopt.errors import ExportFailed, MissingDependency, Misused
from mlopt.interpreter import MODELOPT, OtherPython, alone
from mlopt.step import installed

Program = Literal["onnx", "torch", "torchscript", "keras", "tensorflow", "tflite", "tensorrt_rtx", "modelopt"]

# What each program imports that is not part of the core, and the extra that brings it.
_NEEDS: Final[Mapping[Program, tuple[str, tuple[str, ...]]]] = {
    "onnx": ("", ()),
    "torch": ("torch", ("torch", "onnxscript", "safetensors")),
    "torchscript": ("torch", ("torch",)),
    "keras": ("tensorflow", ("tensorflow", "tf2onnx")),
    "tensorflow": ("tensorflow", ("tensorflow", "tf2onnx")),
    "tflite": ("tensorflow", ("tensorflow", "tf2onnx")),
    "tensorrt_rtx": ("tensorrt", ("tensorrt-rtx",)),
}
# Programs of a Python that has no mlopt, and the files of mlopt that each takes along: they import nothing beyond.
_ELSEWHERE: Final[Mapping[Program, OtherPython]] = {"modelopt": MODELOPT}
_TAKEN_ALONG: Final = ("array_files.py", "errors.py", "convert/program.py")
_LAST_LINES: Final = 6


def _asked(variable: str, default: float) -> float:
    try:
        return float(os.environ[variable])
    except KeyError:
        return default
    except ValueError:
        raise Misused(f"{variable}={os.environ[variable]!r} is not a number.", where="environment") from None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a converter may take: `memory` in bytes of private writable memory, `seconds` of wall clock.

    Defaults come from MLOPT_CONVERT_GIB and MLOPT_CONVERT_SECONDS.
    """

    memory: int = field(default_factory=lambda: int(_asked("MLOPT_CONVERT_GIB", 32) * 2**30))
    seconds: float = field(default_factory=lambda: _asked("MLOPT_CONVERT_SECONDS", 1800))

    @property
    def digest(self) -> Digest:
        """Always the same: limits decide whether there is a result, never which, so they are not part of a key."""
        return Digest("any")


def convert(program: Program, do: str, limits: Limits, **request: object) -> dict[str, Any]:
    """Run one command of a converter and return its answer.

    Raises the `MloptError` that the program raised; `MissingDependency` before starting one that cannot run;
    `ExportFailed` when it died, ran too long, or took too much memory.
    """
    python = _python(program)
    with tempfile.TemporaryDirectory(prefix="mlopt-convert-") as scratch:
        folder = Path(scratch)
        asked = {"do": do, "memory": limits.memory, "parent": os.getpid(), **request}
        (folder / "request.json").write_text(json.dumps(asked))
        code = _run(python, program, folder, limits)
        try:
            answer: dict[str, Any] = json.loads((folder / "answer.json").read_bytes())
        except (OSError, ValueError):
            raise _died(program, do, code, folder, limits) from None
    if error := answer.get("error"):
        kind = getattr(errors, error["kind"])
        raise kind(error["what"], where=error["where"], next=error["next"])
    return answer


def _python(program: Program) -> Path:
    """Which Python has what the program needs."""
    if program in _ELSEWHERE:
        return _ELSEWHERE[program].find()
    extra, needed = _NEEDS[program]
    absent = [name for name in needed if installed(name) is None]
    if absent:
        raise MissingDependency(
            f"This needs {' and '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} not installed.",
            next=f"pip install 'mlopt[{extra}]'",
        )
    return Path(sys.executable)


def _take_along(program: Program, folder: Path) -> None:
    """Copy the program, and what it imports of mlopt, to where a Python without mlopt finds it."""
    home = Path(__file__).parents[1]
    for name in (*_TAKEN_ALONG, f"convert/{program}.py"):
        copy = folder / "mlopt" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        (copy.parent / "__init__.py").touch()
        shutil.copyfile(home / name, copy)


def _run(python: Path, program: Program, folder: Path, limits: Limits) -> int:
    """The exit code of the program; its whole process group is gone when this returns."""
    environment = {**os.environ, **_QUIET, **_alike(program)}
    if program in _ELSEWHERE:
        _take_along(program, folder)
        environment = alone(environment, folder)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(python), "-m", f"mlopt.convert.{program}", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Some tools leave files where they are started.
            cwd=folder if program in _ELSEWHERE else None,
            env=environment,
            start_new_session=True,
        )
        try:
            return process.wait(limits.seconds)
        except subprocess.TimeoutExpired:
            return -signal.SIGALRM
        finally:
            _end(process)


_QUIET: Final = {
    "ORT_DISABLE_TELEMETRY": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",  # oneDNN reorders sums, and a reference should not depend on it
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONHASHSEED": "0",
    "PYTHONWARNINGS": "ignore",
}
# What makes a program's answer the same bytes every time. TensorRT for RTX numbers what it makes up in the order of
# addresses. That is the program's own order where the C library keeps every small block that was freed for the thread
# that freed it, and where no second thread takes part: docs/decisions/49-same-engine-twice.md.
_ALIKE: Final[Mapping[Program, Mapping[str, str]]] = {
    "tensorrt_rtx": {
        "GLIBC_TUNABLES": "glibc.malloc.tcache_count=65535",
        "__LUNOWUD": "-thread_pool_size=1 -thread_pool_serialize=on",
    },
}


def _alike(program: Program) -> Mapping[str, str]:
    """A C library before 2.30 counts blocks in a byte, which more of them would overflow."""
    name, version = platform.libc_ver()
    known = name == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 30)
    return {key: value for key, value in _ALIKE.get(program, {}).items() if known or key != "GLIBC_TUNABLES"}


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _died(program: Program, do: str, code: int, folder: Path, limits: Limits) -> ExportFailed:
    log = (folder / "log").read_text(errors="replace").strip().splitlines()
    last = "\n         ".join(line.strip() for line in log[-_LAST_LINES:]) or "it printed nothing"
    if code == -signal.SIGALRM:
        return ExportFailed(
            f"The {program} converter was stopped after {limits.seconds:.0f} s.",
            where=last,
            next=f"allow it more time: MLOPT_CONVERT_SECONDS={2 * limits.seconds:.0f}",
        )
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    memory = code in (-signal.SIGKILL, -signal.SIGABRT) or any("alloc" in line.lower() for line in log[-_LAST_LINES:])
    return ExportFailed(
        f"The {program} converter {how} while it was to {do} the model.",
        where=last,
        next=f"it may take {limits.memory / 2**30:.1f} GiB; if that is too little, set MLOPT_CONVERT_GIB"
        if memory
        else "",
    )
