"""Energy of queries, from counters that the machine has: the processor's (RAPL, by powercap) and a GPU's (NVML)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from mlopt.nvml import Card, NvmlError, card_of

if TYPE_CHECKING:
    from mlopt.measure.process import Worker

_IDLE: Final = 0.5  # seconds of looking at the machine alone, before and after
_BUSY: Final = 2.0  # seconds of queries: the counters step by about a millisecond
_MICRO = 1e-6


class Counter(Protocol):
    """What has been spent so far, in joules; it begins anew after `range` of them."""

    @property
    def name(self) -> str: ...

    @property
    def range(self) -> float: ...

    def read(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Energy:
    """`joules` of a query above what the machine spends while it waits; `busy` and `idle` in watts, of all that the
    `source` counts, whoever caused it."""

    source: str
    joules: float
    busy: float
    idle: float
    queries: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Rapl:
    """One package of the processor: a folder of the kernel's powercap."""

    folder: Path
    name: str
    range: float

    def read(self) -> float:
        return int((self.folder / "energy_uj").read_text()) * _MICRO


@dataclass(frozen=True, slots=True)
class Nvml:
    """A GPU's counter since its driver was loaded (Volta and later), asked through NVIDIA's library."""

    range: ClassVar[float] = math.inf

    card: Card
    name: str

    def read(self) -> float:
        return self.card.joules()


def counters(*, gpu: str, root: Path = Path("/")) -> tuple[tuple[Counter, ...], str]:
    """Those that there are and, where there is none, why; of the card `gpu` too, where queries run on one."""
    packages, why = _packages(root)
    card = _card(gpu) if gpu else ()
    found: tuple[Counter, ...] = (*packages, *card)
    return found, "" if found else why


def spent(worker: Worker, given: Sequence[Counter], *, busy: float = _BUSY, idle: float = _IDLE) -> Energy:
    """What a loaded worker's queries cost: the machine is looked at alone before them and after. Raises
    `WorkerFailed`."""
    once = worker.ask("query", count=1)["seconds"][0]
    count = max(1, int(busy / max(once, 1e-6)))
    waited = [_watts(given, lambda: time.sleep(idle))]
    began = time.perf_counter()
    working = _watts(given, lambda: worker.ask("query", count=count))
    seconds = time.perf_counter() - began
    waited.append(_watts(given, lambda: time.sleep(idle)))
    at_rest = sum(waited) / len(waited)
    joules = (working - at_rest) * seconds / count
    return Energy(" + ".join(one.name for one in given), joules, working, at_rest, count, seconds)


def since(counter: Counter, before: float) -> float:
    """Joules since an earlier reading, across a new beginning."""
    return (counter.read() - before) % counter.range


def _watts(given: Sequence[Counter], act: Callable[[], object]) -> float:
    before, began = [one.read() for one in given], time.perf_counter()
    act()
    joules = sum(since(one, was) for one, was in zip(given, before, strict=True))
    return joules / (time.perf_counter() - began)


def _packages(root: Path) -> tuple[list[Rapl], str]:
    """The packages alone: cores and memory controllers are counted in them, or not on every machine."""
    zones = root / "sys/class/powercap"
    found, refused = [], False
    for folder in sorted(zones.glob("intel-rapl:*")):  # AMD's too
        with suppress(OSError, ValueError):
            name = (folder / "name").read_text().strip()
            if not name.startswith("package"):
                continue
            refused = True
            one = Rapl(folder, f"RAPL {name}", int((folder / "max_energy_range_uj").read_text()) * _MICRO)
            one.read()
            found.append(one)
    if refused and not found:
        return [], "the processor's counter is there, and only root may read it (powercap, energy_uj)"
    return found, "this machine shows no counter of its processor's energy (powercap: RAPL; virtual machines seldom do)"


def _card(identity: str) -> tuple[Nvml, ...]:
    """None where there is no driver, or a card that does not count."""
    try:
        card = card_of(identity)
        card.joules()
        return (Nvml(card, f"NVML {card.name}"),)
    except NvmlError:
        return ()
