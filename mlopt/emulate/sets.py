"""Instruction sets that a model can be run on here, and how: hidden parts of this processor, or qemu-user."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlopt.errors import MissingDependency
from mlopt.registry import unknown

_OLDEST_QEMU: Final = 10  # 7.2 crashes in ONNX Runtime when /proc and /sys are both there; 10.0.2 does not
# Words of target files that make a processor one of a set, the newest first.
_LIKE: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "linux/amd64": (("avx512-vnni", "avx512-vnni"), ("avx-vnni", "avx-vnni"), ("avx512", "avx512"), ("avx2", "avx2")),
    "linux/arm64": (("i8mm", "armv8.4-i8mm"), ("dotprod", "armv8.2-dotprod"), ("armv8.0", "armv8.0")),
}
_HERE: Final = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}
_CPUINFO: Final = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """`cpu` is qemu's name of a processor with these instructions and none that matter beyond; "" where qemu computes
    none of them. `needs` are flags of /proc/cpuinfo, `hides` what else such a processor does not have."""

    name: str
    summary: str
    platform: str
    cpu: str = ""
    needs: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Way:
    """How a set is run here: `hidden` instruction sets of this processor, or in an `emulator` command."""

    said: str
    hidden: tuple[str, ...] = ()
    emulator: tuple[str, ...] = ()


_SETS: Final = (
    InstructionSet("avx2", "AVX2 alone: products of bytes are added in 16 bits", "linux/amd64", "Haswell-noTSX",
                   ("avx2",), ("avx512", "avx512-vnni", "avx-vnni", "amx")),
    InstructionSet("avx512", "AVX-512 without VNNI: the same, wider", "linux/amd64", "",
                   ("avx512bw",), ("avx512-vnni", "avx-vnni", "amx")),
    InstructionSet("avx-vnni", "AVX2 with VNNI, no AVX-512", "linux/amd64", "", ("avx_vnni",), ("avx512", "amx")),
    InstructionSet("avx512-vnni", "AVX-512 with VNNI, no AMX", "linux/amd64", "",
                   ("avx512_vnni",), ("avx-vnni", "amx")),
    InstructionSet("armv8.0", "Arm without dot product", "linux/arm64", "cortex-a72"),
    InstructionSet("armv8.2-dotprod", "Arm with dot product", "linux/arm64", "neoverse-n1"),
    InstructionSet("armv8.4-i8mm", "Arm with dot product, matrix product and SVE", "linux/arm64", "neoverse-v1"),
)  # fmt: skip
SETS: Final[Mapping[str, InstructionSet]] = {one.name: one for one in _SETS}


def possible_sets(*, qemu: bool = False) -> tuple[InstructionSet, ...]:
    """Those that have a way here."""
    found = []
    for one in SETS.values():
        with suppress(MissingDependency):
            way_for(one, qemu=qemu)
            found.append(one)
    return tuple(found)


def find_sets(names: Iterable[str]) -> tuple[InstructionSet, ...]:
    """The sets of these names. Raises `UnknownName` with near names."""
    found = []
    for name in names:
        if name not in SETS:
            raise unknown("instruction set", name, tuple(SETS))
        found.append(SETS[name])
    return tuple(found)


def set_like(platform: str, isa: Iterable[str]) -> InstructionSet:
    """The set that a processor with these instructions (the words of target files) is nearest to, from below."""
    has = {"avx2", "armv8.0", *isa}
    ways = _LIKE[platform.removesuffix("/v8")]
    return SETS[next(name for word, name in ways if word in has)]


def way_for(wanted: InstructionSet, *, qemu: bool = False) -> Way:
    """How to run it here; `qemu`: in qemu-user even where this processor has it.

    Raises `MissingDependency` with what to install, or that nothing computes it here.
    """
    if not qemu and wanted.needs and can_hide(wanted):
        return Way("this processor, the rest hidden", hidden=wanted.hides)
    if not wanted.cpu:
        raise MissingDependency(
            f"{wanted.name} cannot be run here: qemu-user computes no {wanted.name}, and this processor lacks "
            f"{', '.join(wanted.needs)}, or its kernel cannot hide instruction sets (no cpuid_fault).",
            where=wanted.name,
            next=f"leave it out of --on, or run this on a machine with {wanted.name}",
        )
    path, version = _qemu({"linux/amd64": "x86_64", "linux/arm64": "aarch64"}[wanted.platform], wanted.name)
    return Way(f"qemu-user {version}, -cpu {wanted.cpu}", emulator=(path, "-cpu", wanted.cpu))


def can_hide(wanted: InstructionSet) -> bool:
    """Whether this processor has what the set needs, and the kernel can hide what it has beyond."""
    if os.uname().machine != "x86_64" or wanted.platform != "linux/amd64":
        return False
    line = re.search(r"^flags\s*:(.*)$", _CPUINFO.read_text(), re.MULTILINE)
    return {*wanted.needs, "cpuid_fault"} <= set(line[1].split() if line else ())


def here() -> str:
    """This machine's platform."""
    return _HERE.get(os.uname().machine, "")


def _qemu(machine: str, wanted: str) -> tuple[str, str]:
    """The program and its version: `$MLOPT_QEMU_AARCH64` or `$MLOPT_QEMU_X86_64`, else what is on the path."""
    variable = f"MLOPT_QEMU_{machine.upper()}"
    seen = ""
    for name in (os.environ.get(variable, ""), f"qemu-{machine}-static", f"qemu-{machine}"):
        path = shutil.which(name) if name else None
        if path is None:
            continue
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"version ([0-9]+)[0-9.]*", said)
        if version and int(version[1]) >= _OLDEST_QEMU:
            return path, version[0].removeprefix("version ")
        seen = f", and {path} is older"
    raise MissingDependency(
        f"{wanted} is run in qemu-user {_OLDEST_QEMU} or newer, and there is no qemu-{machine} on the path{seen}.",
        where=wanted,
        next=f"apt install qemu-user (Debian 13 or newer), or say where it is: {variable}=/path/to/qemu-{machine}",
    )
