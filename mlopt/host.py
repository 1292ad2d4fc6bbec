"""This machine as a target: what its kernel says about processor, memory, board and GPU.

Everything is read below a root folder, so that a recorded `/proc` of another machine reads the same.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from mlopt.jetpack import release_of
from mlopt.step import installed
from mlopt.target import HOST, PRECISION_SINCE, Cpu, Gpu, Isa, Precision, Stack, Target
from mlopt.units import Bytes, Hertz

# Flags of /proc/cpuinfo by our name; all of a line are needed.
_X86: Final[Mapping[Isa, frozenset[str]]] = {
    "sse4.2": frozenset({"sse4_2"}),
    "avx": frozenset({"avx"}),
    "avx2": frozenset({"avx2"}),
    "fma": frozenset({"fma"}),
    "f16c": frozenset({"f16c"}),
    "avx512": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"}),
    "avx512-vnni": frozenset({"avx512_vnni"}),
    "avx512-bf16": frozenset({"avx512_bf16"}),
    "avx512-fp16": frozenset({"avx512_fp16"}),
    "avx-vnni": frozenset({"avx_vnni"}),
    "avx-vnni-int8": frozenset({"avx_vnni_int8"}),
    "amx-int8": frozenset({"amx_tile", "amx_int8"}),
    "amx-bf16": frozenset({"amx_tile", "amx_bf16"}),
}
_ARM: Final[Mapping[Isa, frozenset[str]]] = {
    "neon": frozenset({"asimd"}),
    "dotprod": frozenset({"asimddp"}),
    "fp16": frozenset({"fphp", "asimdhp"}),
    "i8mm": frozenset({"i8mm"}),
    "bf16": frozenset({"bf16"}),
    "sve": frozenset({"sve"}),
    "sve2": frozenset({"sve2"}),
}
# Arm cores by implementer and part, as the kernel prints them: Arm's own, then NVIDIA's, Ampere's, Apple's.
_PARTS: Final[Mapping[tuple[str, str], str]] = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd83"): "Neoverse-V3AE",
    ("0x4e", "0x003"): "Denver 2",
    ("0x4e", "0x004"): "Carmel",
    ("0xc0", "0xac3"): "Ampere-1",
}
_UNLIMITED: Final = 1 << 60  # cgroup v1 writes "no limit" as a number near 2**63
_SMI: Final = ("nvidia-smi", "--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits")

Ask = Callable[[tuple[str, ...]], str]


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found. `cores` and `memory` are what this process may use, not what the machine has.

    `board` is the device tree's model ("" where there is none), `l4t` the release of a Jetson's system.
    """

    cpu: str
    isa: tuple[Isa, ...]
    platform: str
    cores: int
    memory: Bytes | None = None
    frequency: Hertz | None = None
    board: str = ""
    l4t: str = ""
    gpu: Gpu | None = None


def detect(root: Path = Path("/"), *, affinity: int | None = None, ask: Ask | None = None) -> Machine:
    """Look below `root`. `affinity`: how many cores this process may run on; `ask` runs nvidia-smi and gives
    its output, empty where it is absent. Both default to this machine's own for `/`, and to nothing else."""
    if root == Path("/"):
        affinity = len(os.sched_getaffinity(0)) if affinity is None else affinity
        ask = ask or ask_here
    processors = processors_of(text_of(root / "proc/cpuinfo"))
    first = processors[0] if processors else {}
    arm = "Features" in first or "CPU implementer" in first
    flags = frozenset(first.get("Features" if arm else "flags", "").split())
    known = _ARM if arm else _X86
    return Machine(
        cpu=_cpu_name(processors, arm=arm),
        isa=tuple(name for name, needed in known.items() if needed <= flags),
        platform="linux/arm64" if arm else "linux/amd64",
        cores=max(1, min(cgroup_cores(root) or 1 << 20, affinity or len(processors) or 1)),
        memory=_least(_memory(root), cgroup_memory(root)),
        frequency=_frequency(root),
        board=text_of(root / "proc/device-tree/model").strip("\0\n "),
        l4t=_l4t(text_of(root / "etc/nv_tegra_release")),
        gpu=_gpu(ask(_SMI)) if ask else None,
    )


def host_target(machine: Machine) -> Target:
    """This machine as a `Target` named `host`: nothing in it is from a data sheet, so nothing is unverified."""
    where = f"{machine.board}, " if machine.board else ""
    return Target(
        name=HOST,
        summary=f"this machine: {where}{machine.cpu}, {machine.cores} {'core' if machine.cores == 1 else 'cores'}",
        platform=machine.platform,
        build_on="host",
        cpu=Cpu(model=machine.cpu, isa=machine.isa, cores=machine.cores, frequency=machine.frequency),
        memory=machine.memory,
        gpu=machine.gpu,
        stacks=(Stack(jetpack=jetpack_of(machine.l4t), l4t=machine.l4t or None, onnxruntime=installed("onnxruntime")),),
        sources=("detected on this machine",),
    )


def ask_here(command: tuple[str, ...]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""  # no driver, or one that hangs: then there is no GPU to build for


def text_of(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def processors_of(cpuinfo: str) -> list[dict[str, str]]:
    """One mapping per logical processor; blocks without a number (a board's own) are left out."""
    found = []
    for block in re.split(r"\n\s*\n", cpuinfo):
        pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
        one = {key.strip(): value.strip() for key, _, value in pairs}
        if "processor" in one:
            found.append(one)
    return found


def _cpu_name(processors: list[dict[str, str]], *, arm: bool) -> str:
    if not processors:
        return "unknown"
    if not arm:
        return " ".join(processors[0].get("model name", "unknown").split())
    names = [_PARTS.get((one.get("CPU implementer", ""), one.get("CPU part", "")), "Arm core") for one in processors]
    return " + ".join(dict.fromkeys(names))


def _frequency(root: Path) -> Hertz | None:
    text = text_of(root / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").strip()
    return Hertz(int(text) * 1e3) if text.isdigit() else None


def _memory(root: Path) -> int | None:
    match = re.search(r"^MemTotal:\s+([0-9]+) kB", text_of(root / "proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _least(*limits: int | None) -> Bytes | None:
    known = [limit for limit in limits if limit is not None]
    return Bytes(min(known)) if known else None


def cgroups(root: Path, controller: str) -> list[Path]:
    """The folders of this process' control group and of its parents, for v2 and v1, also as seen in a container."""
    mount = root / "sys/fs/cgroup"
    found = []
    for line in [*text_of(root / "proc/self/cgroup").splitlines(), "0::/", f"1:{controller}:/"]:
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0":
            bases = [mount, mount / "unified"]
        elif controller in controllers.split(","):
            bases = [mount / controller, mount / controllers]
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        found += [base.joinpath(*parts[:depth]) for base in bases for depth in range(len(parts) + 1)]
    return list(dict.fromkeys(found))


def cgroup_cores(root: Path) -> int | None:
    """The least CPU quota in force, in whole cores, rounded up."""
    quotas = []
    for group in cgroups(root, "cpu"):
        quota, period = (*text_of(group / "cpu.max").split(), "", "")[:2]
        if not quota:
            quota, period = text_of(group / "cpu.cfs_quota_us").strip(), text_of(group / "cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(-(-int(quota) // int(period)))
    return min(quotas, default=None)


def cgroup_memory(root: Path) -> int | None:
    groups = cgroups(root, "memory")
    texts = [text_of(group / name).strip() for group in groups for name in ("memory.max", "memory.limit_in_bytes")]
    return min((int(text) for text in texts if text.isdigit() and int(text) < _UNLIMITED), default=None)


def _l4t(release: str) -> str:
    """`# R36 (release), REVISION: 4.3, …` is 36.4.3."""
    match = re.search(r"# R([0-9]+) \(release\), REVISION: ([0-9.]+)", release)
    return f"{match[1]}.{match[2]}" if match else ""


def jetpack_of(l4t: str) -> str | None:
    found = release_of(l4t) if l4t else None
    return found.jetpack if found else None


def _gpu(listing: str) -> Gpu | None:
    """The first GPU that nvidia-smi lists, with the precisions that its compute capability has."""
    cells = [cell.strip() for cell in (listing.splitlines() or [""])[0].split(",")]
    if len(cells) != 3 or not re.fullmatch(r"[0-9]{1,2}\.[0-9]", cells[1]):
        return None
    major, minor = (int(part) for part in cells[1].split("."))
    memory = Bytes(int(cells[2]) << 20) if cells[2].isdigit() else None  # "[N/A]" where it is shared
    return Gpu(
        name=cells[0],
        compute_capability=cells[1],
        precisions=precisions_of((major, minor)),
        memory=memory,
        sparsity=(major, minor) >= (8, 0),
    )


def precisions_of(compute_capability: tuple[int, int]) -> tuple[Precision, ...]:
    """What a compute capability has units for: the rule that `Gpu` checks target files against."""
    later = (precision for precision, since in PRECISION_SINCE.items() if compute_capability >= since)
    return cast("tuple[Precision, ...]", ("fp32", *later))
