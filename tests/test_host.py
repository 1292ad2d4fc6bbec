"""Detection, fed with what the kernels of other machines say: boards, clouds, containers, and nothing at all."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from mlopt.host import detect, host_target
from mlopt.surroundings import describe
from mlopt.target import find_target, is_this_machine

RPI4 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

{rest}Hardware\t: BCM2835
Revision\t: c03114
Serial\t\t: 10000000aaaaaaaa
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""
ORIN = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp uscat ilrcpc"
GRAVITON3 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 "
    "sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs paca pacg dcpodp svei8mm svebf16 i8mm bf16 dgh rng"
)
N100 = (
    "fpu vme de pse sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand fma avx2 bmi2 erms avx_vnni gfni vaes "
    "serialize"
)
CASCADE = "sse4_2 avx f16c fma avx2 avx512f avx512dq avx512cd avx512bw avx512vl avx512_vnni"


def arm(part: str, features: str, count: int, implementer: str = "0x41") -> str:
    return "".join(
        f"processor\t: {n}\nFeatures\t: {features}\nCPU implementer\t: {implementer}\nCPU part\t: {part}\n\n"
        for n in range(count)
    )


def x86(name: str, flags: str, count: int) -> str:
    return "".join(
        f"processor\t: {n}\nvendor_id\t: GenuineIntel\nmodel name\t: {name}\nflags\t\t: {flags}\n\n"
        for n in range(count)
    )


def machine_at(root: Path, **files: str) -> Path:
    """Write a tree; `proc_cpuinfo` is proc/cpuinfo, two underscores stay one."""
    for name, text in files.items():
        path = root / name.replace("__", "\0").replace("_", "/").replace("\0", "_")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def meminfo(gib: float) -> str:
    return f"MemTotal:       {int(gib * 2**20)} kB\nMemFree:  1 kB\n"


def test_a_raspberry_pi_4(tmp_path: Path) -> None:
    rest = arm("0xd08", "fp asimd evtstrm crc32 cpuid", 4).replace("processor\t: 0", "processor\t: 9")
    cpuinfo = RPI4.format(rest="\n\n".join(rest.split("\n\n")[1:4]) + "\n\n")
    root = machine_at(tmp_path, proc_cpuinfo=cpuinfo, proc_meminfo=meminfo(3.7))
    (tmp_path / "proc/device-tree").mkdir()
    (tmp_path / "proc/device-tree/model").write_bytes(b"Raspberry Pi 4 Model B Rev 1.4\0")
    found = detect(root)
    assert (found.cpu, found.isa, found.platform, found.cores) == ("Cortex-A72", ("neon",), "linux/arm64", 4)
    assert found.board == "Raspberry Pi 4 Model B Rev 1.4"
    assert is_this_machine(find_target("rpi4"), found)
    assert not is_this_machine(find_target("rpi5"), found)
    assert host_target(found).int8_scheme == "s8s8"


def test_a_jetson_orin_nano(tmp_path: Path) -> None:
    root = machine_at(tmp_path, proc_cpuinfo=arm("0xd42", ORIN, 6), proc_meminfo=meminfo(7.4))
    (root / "etc").mkdir()
    (root / "etc/nv_tegra_release").write_text(
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37\n"
    )
    (root / "proc/device-tree").mkdir()
    (root / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    found = detect(root)
    assert found.isa == ("neon", "dotprod", "fp16")
    assert (found.cpu, found.cores, found.l4t) == ("Cortex-A78AE", 6, "36.4.3")
    assert is_this_machine(find_target("jetson"), found)
    assert host_target(found).stacks[0].l4t == "36.4.3"
    assert host_target(found).stacks[0].jetpack == "6.2"
    said = describe(root, ask=lambda command: "NV Power Mode: 15W\n0\n" if command[0] == "nvpmodel" else "")
    assert said["jetson linux"] == "36.4.3 (JetPack 6.2)"
    assert said["power mode"] == "15W"


def test_other_processors(tmp_path: Path) -> None:
    graviton = detect(machine_at(tmp_path / "g", proc_cpuinfo=arm("0xd40", GRAVITON3, 2)))
    assert graviton.cpu == "Neoverse-V1"
    assert graviton.isa == ("neon", "dotprod", "fp16", "i8mm", "bf16", "sve")
    n100 = detect(machine_at(tmp_path / "n", proc_cpuinfo=x86("Intel(R) N100", N100, 4)))
    assert n100.isa == ("sse4.2", "avx", "avx2", "fma", "f16c", "avx-vnni")
    assert host_target(n100).int8_scheme == "u8s8-paired"
    cascade = detect(machine_at(tmp_path / "c", proc_cpuinfo=x86("Intel(R)  Xeon(R)   Gold", CASCADE, 8)))
    assert cascade.cpu == "Intel(R) Xeon(R) Gold"
    assert {"avx512", "avx512-vnni"} <= set(cascade.isa)
    # AVX-512 foundation alone (Knights Landing) lacks what the kernels use.
    assert "avx512" not in detect(machine_at(tmp_path / "k", proc_cpuinfo=x86("Phi", "avx512f avx512cd", 1))).isa
    mixed = arm("0x003", "fp asimd", 2, implementer="0x4e") + arm("0xd07", "fp asimd", 4)
    assert detect(machine_at(tmp_path / "t", proc_cpuinfo=mixed)).cpu == "Denver 2 + Cortex-A57"


CGROUPS_V2 = {"proc_self_cgroup": "0::/pod/box\n", "sys_fs_cgroup_pod_box_cpu.max": "150000 100000\n"}
CGROUPS_PARENT = {"proc_self_cgroup": "0::/pod/box\n", "sys_fs_cgroup_pod_cpu.max": "100000 100000\n"}
CGROUPS_INSIDE = {"proc_self_cgroup": "0::/\n", "sys_fs_cgroup_cpu.max": "200000 100000\n"}
CGROUPS_FREE = {"proc_self_cgroup": "0::/\n", "sys_fs_cgroup_cpu.max": "max 100000\n"}
CGROUPS_V1 = {
    "proc_self_cgroup": "4:cpu,cpuacct:/docker/abc\n",
    "sys_fs_cgroup_cpu_docker_abc_cpu.cfs__quota__us": "50000\n",
    "sys_fs_cgroup_cpu_docker_abc_cpu.cfs__period__us": "100000\n",
}
CGROUPS_V1_FREE = {
    "proc_self_cgroup": "4:cpu,cpuacct:/\n",
    "sys_fs_cgroup_cpu_cpu.cfs__quota__us": "-1\n",
    "sys_fs_cgroup_cpu_cpu.cfs__period__us": "100000\n",
}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        (CGROUPS_V2, 2),  # 1.5 cores: two threads can run
        (CGROUPS_PARENT, 1),
        (CGROUPS_INSIDE, 2),
        (CGROUPS_FREE, 8),
        (CGROUPS_V1, 1),
        (CGROUPS_V1_FREE, 8),
        ({}, 8),
    ],
)
def test_cores_are_those_that_a_container_may_use(files: dict[str, str], cores: int, tmp_path: Path) -> None:
    root = machine_at(tmp_path, proc_cpuinfo=x86("x", CASCADE, 8), **files)
    assert detect(root).cores == cores
    assert detect(root, affinity=1).cores == 1


@pytest.mark.parametrize(
    ("name", "text", "gib"),
    [
        ("sys_fs_cgroup_memory.max", str(2**30), 1),
        ("sys_fs_cgroup_memory.max", "max", 8),
        ("sys_fs_cgroup_memory_memory.limit__in__bytes", str(2 * 2**30), 2),
        ("sys_fs_cgroup_memory_memory.limit__in__bytes", "9223372036854771712", 8),
    ],
)
def test_memory_is_what_a_container_may_use(name: str, text: str, gib: int, tmp_path: Path) -> None:
    root = machine_at(tmp_path, proc_cpuinfo=x86("x", CASCADE, 1), proc_meminfo=meminfo(8), **{name: text + "\n"})
    assert detect(root).memory == gib * 2**30


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        ("NVIDIA H200, 9.0, 143771\n", ("9.0", 143771 << 20, True)),
        ("Tesla T4, 7.5, 15360\nTesla T4, 7.5, 15360\n", ("7.5", 15360 << 20, False)),
        ("Orin (nvgpu), 8.7, [N/A]\n", ("8.7", None, True)),
        ("", None),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", None),
        ("Some, GPU, with, commas\n", None),
    ],
)
def test_a_gpu_is_what_nvidia_smi_lists(listing: str, expected: object, tmp_path: Path) -> None:
    root = machine_at(tmp_path, proc_cpuinfo=x86("x", CASCADE, 1))
    gpu = detect(root, ask=lambda command: listing).gpu
    found = (gpu.compute_capability, gpu.memory, gpu.sparsity) if gpu else None
    assert found == expected
    if gpu:
        assert ("fp8" in gpu.precisions) == (gpu.sm >= (8, 9))
        assert ("bf16" in gpu.precisions) == (gpu.sm >= (8, 0))


def test_a_tree_that_says_nothing_still_gives_a_target(tmp_path: Path) -> None:
    found = detect(tmp_path)
    assert (found.cpu, found.cores, found.memory, found.gpu, found.board) == ("unknown", 1, None, None, "")
    assert host_target(found).name == "host"
    assert describe(tmp_path)["cpu"] == "unknown"


def test_this_machine() -> None:
    """The kernel's own words, read another way."""
    found = detect()
    assert 1 <= found.cores <= len(os.sched_getaffinity(0))
    assert found.memory
    total = int(re.findall(r"MemTotal:\s+([0-9]+)", Path("/proc/meminfo").read_text())[0]) * 1024
    assert found.memory <= total
    words = set(Path("/proc/cpuinfo").read_text().split())
    assert ("avx2" in found.isa) == ("avx2" in words)
    assert ("dotprod" in found.isa) == ("asimddp" in words)
    assert find_target("host").cpu.isa == found.isa
