"""What a report says of the machine that its clocks were taken on, read from recorded trees of other machines."""

from __future__ import annotations

from pathlib import Path

from mlopt.surroundings import describe

PI = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

"""
GUEST = "processor\t: 0\nmodel name\t: A   CPU\nflags\t\t: fpu sse4_2 avx avx2 hypervisor\n\n"


def told(root: Path, files: dict[str, str]) -> dict[str, str]:
    """What is said of a machine whose kernel shows these files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return describe(root)


def test_a_raspberry_pi(tmp_path: Path) -> None:
    facts = told(
        tmp_path,
        {
            "proc/cpuinfo": PI * 4,
            "proc/meminfo": "MemTotal:        8053744 kB\n",
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/sys/kernel/osrelease": "6.12.25+rpt-rpi-2712\n",
            "proc/loadavg": "0.15 0.09 0.02 1/180 2214\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        },
    )
    assert facts == {
        "board": "Raspberry Pi 5 Model B Rev 1.0",
        "cpu": "Cortex-A76",
        "cores": "4 of 4",
        "instruction sets": "neon dotprod fp16",
        "memory": "8.25 GB",
        "kernel": "Linux 6.12.25+rpt-rpi-2712",
        "platform": "linux/arm64",
        "frequency governor": "ondemand",
        "load": "0.15 over the last minute",
    }


def test_a_limited_container_in_a_virtual_machine(tmp_path: Path) -> None:
    facts = told(
        tmp_path,
        {
            "proc/cpuinfo": GUEST + GUEST.replace(": 0", ": 1") + GUEST.replace(": 0", ": 2"),
            "proc/meminfo": "MemTotal:       16000000 kB\n",
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/memory.max": "2147483648\n",
        },
    )
    assert facts["cores"] == "2 of 3"
    assert facts["memory"] == "2 GiB"
    assert facts["container limits"] == "2 cores, 2 GiB"
    assert "virtual machine" in facts
    assert facts["cpu"] == "A CPU"


def test_nothing_readable_is_nothing_claimed(tmp_path: Path) -> None:
    facts = describe(tmp_path)
    assert facts["cpu"] == "unknown"
    assert not {"memory", "board", "gpu", "frequency governor", "load", "container limits"} & facts.keys()


def test_this_machine_has_the_facts_that_a_report_needs() -> None:
    facts = describe()
    assert {"cpu", "cores", "memory", "kernel", "platform", "load"} <= facts.keys()
    assert all(isinstance(fact, str) and fact for fact in facts.values())


def test_turbo_smt_steal_and_heat(tmp_path: Path) -> None:
    facts = told(
        tmp_path,
        {
            "proc/cpuinfo": GUEST,
            "proc/stat": "cpu  600 0 200 150 0 0 0 50 0 0\ncpu0 600 0 200 150 0 0 0 50 0 0\n",
            "sys/devices/system/cpu/intel_pstate/no_turbo": "1\n",
            "sys/devices/system/cpu/smt/active": "1\n",
            "sys/class/thermal/thermal_zone0/temp": "41000\n",
            "sys/class/thermal/thermal_zone1/temp": "67500\n",
        },
    )
    assert facts["turbo"] == "off"
    assert facts["threads of a core"] == "2 (SMT on)"
    assert facts["stolen time"] == "5.0% of the time since it was started"
    assert facts["temperature"] == "68 °C"
    other = told(tmp_path / "other", {"sys/devices/system/cpu/cpufreq/boost": "1\n"})
    assert other["turbo"] == "on"
    assert "temperature" not in other
