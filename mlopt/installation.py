"""What this installation can do: the core, each extra with what it gives, and the tools of the machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from mlopt import registry
from mlopt.interpreter import MODELOPT, OtherPython
from mlopt.step import installed

# What an extra is for, and the runner that it is for: an extra whose runner this mlopt lacks gives nothing yet.
_GIVES: Final[Mapping[str, tuple[str, str]]] = {
    "torch": ("reads .pt2, TorchScript, .pth and .safetensors", ""),
    "tensorflow": ("reads .keras, .h5, SavedModel and .tflite", ""),
    "serve": ("`mlopt serve` in this Python; images bring their own server", ""),
    "grpc": ("gRPC beside it: `--grpc-port`; images that serve it bring their own", ""),
    "signing": ("`mlopt sign`, and `mlopt verify --key`", ""),
    "keyless": ("`mlopt sign --keyless`, and `mlopt verify --identity`: Sigstore's client", ""),
    "loadgen": ("`mlopt bench --loadgen`: MLPerf's own load generator beside our clocks", ""),
    "docker": ("the Docker SDK for Python; images are made and run without it", ""),
    "zstd": ("image layers of zstd, which are smaller; gzip needs nothing", ""),
    "tensorrt": ("builds engines for NVIDIA cards, without one: TensorRT for RTX", ""),
    "onnxruntime-cuda": ("runs models on an NVIDIA GPU with ONNX Runtime", "onnxruntime-cuda"),
    "openvino": ("runs models on Intel processors with OpenVINO", "openvino"),
    "litert": ("runs small models on x86 and Arm with LiteRT; writes .tflite", "litert"),
}
_REQUIREMENT: Final = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(?P<range>[^;]*?)\s*(?:;\s*(?P<marker>.*))?$"
)
_EXTRA: Final = re.compile(r"""extra\s*==\s*['"](?P<extra>[^'"]+)['"]""")
_MACHINE: Final = re.compile(r"""platform_machine\s*==\s*['"](?P<machine>[^'"]+)['"]""")
_OLDEST_QEMU: Final = 10  # 7.2 crashes in ONNX Runtime when /proc and /sys are both there; 10.0.2 does not

Ask = Callable[[tuple[str, ...]], str]


@dataclass(frozen=True, slots=True)
class Package:
    """A distribution that is wanted, and the installed version: None when it is absent."""

    name: str
    wanted: str
    version: str | None

    @property
    def fits(self) -> bool:
        """Whether it is installed and not older than wanted."""
        least = re.search(r">=\s*([0-9.]+)", self.wanted)
        return self.version is not None and (not least or _numbers(self.version) >= _numbers(least[1]))


@dataclass(frozen=True, slots=True)
class Extra:
    """An optional part. `possible` is False where its packages do not exist for this machine."""

    name: str
    gives: str
    packages: tuple[Package, ...]
    possible: bool

    @property
    def complete(self) -> bool:
        return self.possible and all(package.fits for package in self.packages)

    @property
    def command(self) -> str:
        """What to type to get it; empty when it is here, or cannot be had here."""
        return "" if self.complete or not self.possible else f"{_pip()} install 'mlopt[{self.name}]'"


@dataclass(frozen=True, slots=True)
class Tool:
    """A program of the machine. `state` says in a few words how it does; `next` what to do about it, if anything."""

    name: str
    gives: str
    usable: bool
    state: str
    next: str = ""


def core() -> tuple[Package, ...]:
    """What mlopt always needs, sorted by name."""
    return _packages(requirement for requirement in _requirements() if not _EXTRA.search(requirement))


def extras() -> tuple[Extra, ...]:
    """Every extra of this installation's own metadata, those that give most first."""
    found: dict[str, list[str]] = {}
    for requirement in _requirements():
        if match := _EXTRA.search(requirement):
            found.setdefault(match["extra"], []).append(requirement)
    order = [*_GIVES, *sorted(found)]
    return tuple(_extra(name, found[name]) for name in sorted(found, key=order.index))


def tools(ask: Ask | None = None, *, which: Callable[[str], str | None] = shutil.which) -> tuple[Tool, ...]:
    """Programs that mlopt uses where they are: container engines, an emulator for arm64, the NVIDIA driver, pip,
    other Pythons.

    `ask` runs a command and gives what it printed, empty when it fails.
    """
    ask = ask or _ask
    return (
        *(_engine(name, ask, which) for name in ("podman", "docker")),
        _qemu(ask, which),
        _gpu(ask, which),
        _ssh(which),
        _other(MODELOPT, "int8 by NVIDIA's quantizer: mlopt compile --recipe tensorrt-modelopt-int8"),
        _pip_tool(),
    )


def _requirements() -> list[str]:
    return metadata.requires("mlopt") or []


def _packages(requirements: Iterable[str]) -> tuple[Package, ...]:
    found = []
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        assert match, f"{requirement!r} is a requirement of mlopt's own metadata"
        found.append(Package(match["name"], match["range"], installed(match["name"])))
    return tuple(sorted(found, key=lambda package: package.name))


def _extra(name: str, requirements: list[str]) -> Extra:
    gives, runner = _GIVES.get(name, ("an extra of this installation", ""))
    if runner and runner not in registry.names("mlopt.runners"):
        gives = f"would give nothing yet, for this mlopt has no runner for {runner}"
    machines = {match["machine"] for requirement in requirements if (match := _MACHINE.search(requirement))}
    possible = not machines or os.uname().machine in machines
    return Extra(name, gives, _packages(requirements), possible)


def _engine(name: str, ask: Ask, which: Callable[[str], str | None]) -> Tool:
    gives = f"`mlopt serve --engine {name}`; images are made without any engine"
    if which(name) is None:
        return Tool(name, gives, False, "not installed")
    version = _version(ask((name, "--version")))
    if not ask((name, "info")):
        return Tool(name, gives, False, f"{version}, does not answer", next=f"{name} info says why")
    return Tool(name, gives, True, f"{version}, answers")


def _qemu(ask: Ask, which: Callable[[str], str | None]) -> Tool:
    gives = "runs the arm64 image here, to try it; building it needs no emulator"
    other = "aarch64" if os.uname().machine != "aarch64" else "x86_64"
    gives = gives if other == "aarch64" else gives.replace("arm64", "amd64")
    names = [os.environ.get("MLOPT_QEMU_AARCH64", ""), f"qemu-{other}-static", f"qemu-{other}"]
    for path in names:
        if path and which(path):
            version = _version(ask((path, "--version")))
            if _numbers(version) >= (_OLDEST_QEMU,):
                return Tool(f"qemu-{other}", gives, True, version)
            next = f"get version {_OLDEST_QEMU} or newer: older ones crash in ONNX Runtime"
            return Tool(f"qemu-{other}", gives, False, f"{version}, too old", next=next)
    return Tool(f"qemu-{other}", gives, False, "not installed")


def _gpu(ask: Ask, which: Callable[[str], str | None]) -> Tool:
    gives = "facts about this machine's GPU for --target host"
    if which("nvidia-smi") is None:
        return Tool("nvidia-smi", gives, False, "not installed")
    listing = ask(("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"))
    if not listing.strip():
        return Tool("nvidia-smi", gives, False, "does not answer", next="nvidia-smi says why")
    return Tool("nvidia-smi", gives, True, "; ".join(line.strip() for line in listing.splitlines()))


def _ssh(which: Callable[[str], str | None]) -> Tool:
    gives = "engines built and measured on a board: mlopt compile --device USER@HOST"
    if which("ssh") is None or which("scp") is None:
        return Tool("ssh", gives, False, "not installed", next="install OpenSSH's client (Debian: openssh-client)")
    return Tool("ssh", gives, True, "with scp")


def _other(python: OtherPython, gives: str) -> Tool:
    version = python.versions()[python.tool]
    if version == "absent":
        named = os.environ.get(python.variable)
        return Tool(python.tool, gives, False, "not usable" if named else "not installed", next=python.why_not())
    return Tool(python.tool, gives, True, f"{version}, where {python.variable} says")


def _pip_tool() -> Tool:
    gives = "fetches the locked wheels that go into images"
    version = installed("pip")
    if version is None:
        return Tool("pip", gives, False, "not installed", next=f"{_python()} -m ensurepip")
    return Tool("pip", gives, True, version)


def _ask(command: tuple[str, ...]) -> str:
    """What a command printed; empty when it is not there, fails, hangs, or speaks of a daemon that is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    # The Docker command line without a daemon says so on stderr; old ones still exit with 0.
    return "" if "Cannot connect" in done.stderr else done.stdout


def _version(printed: str) -> str:
    match = re.search(r"[0-9]+\.[0-9]+(\.[0-9]+)*", printed)
    return match[0] if match else "unknown version"


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: enough to say which of two releases is older.

    >>> _numbers("2.13.0+cpu") >= _numbers("2.9")
    True
    """
    match = re.match(r"[0-9]+(\.[0-9]+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _pip() -> str:
    return f"{_python()} -m pip"


def _python() -> str:
    """How to name this Python on a command line; its full path when `python3` is another one."""
    found = shutil.which("python3")
    return (
        "python3"
        if found and Path(found).samefile(sys.executable) and sys.prefix == sys.base_prefix
        else sys.executable
    )
