"""What around a measurement explains its clocks: the machine, how it is set, and who else is on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from mlopt.host import (
    Ask,
    ask_here,
    cgroup_cores,
    cgroup_memory,
    detect,
    jetpack_of,
    processors_of,
    text_of,
)
from mlopt.units import format_bytes

_NVPMODEL: Final = ("nvpmodel", "-q")
_CPU: Final = "sys/devices/system/cpu"


def describe(root: Path = Path("/"), *, ask: Ask | None = None) -> dict[str, str]:
    """Facts of this machine that explain clocks taken on it, for the report; what cannot be read is left out.

    `load` is the 1-minute average at the time of the call: above the number of cores, clocks mean little.
    """
    ask = ask or (ask_here if root == Path("/") else None)
    machine = detect(root, ask=ask)
    jetpack = jetpack_of(machine.l4t)
    release = text_of(root / "proc/sys/kernel/osrelease").strip()
    load = text_of(root / "proc/loadavg").split()[:1]
    governor = text_of(root / _CPU / "cpu0/cpufreq/scaling_governor").strip()
    hypervisor = "hypervisor" in text_of(root / "proc/cpuinfo")
    quota, memory = cgroup_cores(root), cgroup_memory(root)
    limits = [f"{quota} cores"] if quota else []
    limits += [format_bytes(memory)] if memory else []
    facts = {
        "board": machine.board,
        "cpu": machine.cpu,
        "cores": f"{machine.cores} of {len(processors_of(text_of(root / 'proc/cpuinfo'))) or machine.cores}",
        "instruction sets": " ".join(machine.isa),
        "memory": format_bytes(machine.memory) if machine.memory else "",
        "gpu": f"{machine.gpu.name}, compute capability {machine.gpu.compute_capability}" if machine.gpu else "",
        "jetson linux": machine.l4t + (f" (JetPack {jetpack})" if jetpack else ""),
        "power mode": _power_mode(ask(_NVPMODEL)) if ask and machine.l4t else "",
        "kernel": f"Linux {release}" if release else "",
        "platform": machine.platform,
        "virtual machine": "yes: other guests may disturb the clocks" if hypervisor else "",
        "frequency governor": governor,
        "turbo": _turbo(root),
        "threads of a core": {"1": "2 (SMT on)", "0": "1 (SMT off)"}.get(
            text_of(root / _CPU / "smt/active").strip(), ""
        ),
        "temperature": _temperature(root),
        "stolen time": _stolen(text_of(root / "proc/stat")),
        "load": f"{load[0]} over the last minute" if load else "",
        "container limits": ", ".join(limits),
    }
    return {name: value for name, value in facts.items() if value}


def _turbo(root: Path) -> str:
    """Intel's driver says whether it is off, the others' whether it is on."""
    off, boost = (text_of(root / _CPU / name).strip() for name in ("intel_pstate/no_turbo", "cpufreq/boost"))
    return {"0": "on", "1": "off"}.get(off) or {"1": "on", "0": "off"}.get(boost, "")


def _temperature(root: Path) -> str:
    """The hottest zone, in degrees."""
    texts = [text_of(zone / "temp").strip() for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"))]
    zones = [int(text) for text in texts if text.lstrip("-").isdigit()]
    return f"{max(zones) / 1000:.0f} °C" if zones else ""


def _stolen(stat: str) -> str:
    """The share of its time that a virtual machine was ready to run, and its host did not let it."""
    ticks = [int(tick) for tick in (stat.splitlines() or [""])[0].split()[1:9]]
    share = ticks[7] / max(1, sum(ticks)) if len(ticks) == 8 else 0.0
    return f"{share:.1%} of the time since it was started" if share else ""


def _power_mode(said: str) -> str:
    """`NV Power Mode: 15W` and its number on a line of its own."""
    match = re.search(r"NV Power Mode:\s*(\S+)", said)
    return match[1] if match else ""
