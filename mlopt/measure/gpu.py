"""A GPU while a model is measured on it, read through NVML: its clocks and power after each round, and its memory."""

from __future__ import annotations

import statistics
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from mlopt.errors import WorkerFailed
from mlopt.measure.alone import load
from mlopt.measure.limits import Limits
from mlopt.measure.process import Worker
from mlopt.measurement import Gpu, GpuClocks
from mlopt.nvml import Card, NvmlError, card_of

if TYPE_CHECKING:
    from mlopt.measure.interleave import Subject

_EVERY: Final = 0.005  # seconds between two readings of memory
_TWICE: Final = 2  # queries and batches, after which an arena has all that it will have
_RESIDENT: Final = 0.5  # seconds of queries without copies, about
_FEWEST, _MOST = 5, 200
OWN: Final = "of a fresh process, as NVML tells it"
_WHOLE: Final = (
    "of the whole card above what it held before a fresh process began: NVML does not tell that of the process"
)


@dataclass(slots=True)
class Watch:
    """The card on which one loaded model runs; `ran` is what its runner says. Nothing here raises for a card that does
    not tell."""

    ran: Mapping[str, Any]
    card: Card | None
    unread: dict[str, str] = field(default_factory=dict)
    read: dict[str, list[float]] = field(default_factory=dict)
    held_back: Counter[str] = field(default_factory=Counter)
    rounds: int = 0

    @classmethod
    def of(cls, ran: Mapping[str, Any]) -> Self:
        try:
            if not ran["card"]:
                raise NvmlError("CUDA does not say which card it is")
            return cls(ran, card_of(ran["card"]))
        except NvmlError as error:
            return cls(ran, None, {"clocks and memory": str(error)})

    @contextmanager
    def round(self) -> Iterator[None]:
        """Around the queries of one round."""
        if (card := self.card) is None:
            yield
            return
        before = card.held_back()
        yield
        self.rounds += 1
        for what, ask in (("power", card.power), ("temperature", card.temperature)):
            self._keep(what, ask)
        if clocks := self._told("clocks", card.clocks):
            for what, value in zip(("sm", "memory"), clocks, strict=True):
                self.read.setdefault(what, []).append(value)
        grown = {name for name, counted in card.held_back().items() if counted > before.get(name, counted)}
        self.held_back.update(grown | (self._told("what keeps clocks down", card.reasons) or frozenset()))

    def found(self, *, without_copies: float | None, memory: tuple[int | None, str]) -> Gpu:
        card = self.card
        return Gpu(
            card=self.ran["card"],
            name=(card and self._told("name", lambda: card.name)) or "an NVIDIA GPU",
            driver=(card and self._told("driver", lambda: card.driver)) or "",
            cuda_graph=self.ran["cuda_graph"],
            nodes=self.ran["nodes"],
            on_cpu=self.ran["on_cpu"],
            without_copies=without_copies,
            memory=memory[0],
            memory_method=memory[1],
            clocks=self._clocks(card) if card and self.rounds else None,
            unread=tuple(f"{what}: {why}" for what, why in self.unread.items()),
        )

    def _clocks(self, card: Card) -> GpuClocks:
        sm, memory = self._told("highest clocks", card.highest_clocks) or (None, None)
        return GpuClocks(
            readings=self.rounds,
            sm=self._of("sm", statistics.median_low),
            sm_lowest=self._of("sm", min),
            sm_highest=sm,
            memory=self._of("memory", statistics.median_low),
            memory_highest=memory,
            power=self._of("power", statistics.median),
            power_limit=self._told("limit of power", card.power_limit),
            temperature=self._of("temperature", max),
            held_back=dict(sorted(self.held_back.items())),
        )

    def _of(self, what: str, choose: Callable[[list[Any]], Any]) -> Any:
        return choose(self.read[what]) if what in self.read else None

    def _keep(self, what: str, ask: Callable[[], float]) -> None:
        if (value := self._told(what, ask)) is not None:
            self.read.setdefault(what, []).append(value)

    def _told(self, what: str, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except NvmlError as error:
            self.unread.setdefault(what, str(error))
            return None


def without_copies(watch: Watch, worker: Worker, once: float) -> float | None:
    """The median query of a loaded model whose inputs and outputs lie on the GPU; one with copies takes `once`. None
    where it cannot be asked so; raises `WorkerFailed` where it died of that."""
    count = max(_FEWEST, min(_MOST, int(_RESIDENT / max(once, 1e-6))))
    try:
        return float(statistics.median(worker.ask("resident", count=count)["seconds"]))
    except WorkerFailed as error:
        if worker.process.poll() is not None:
            raise
        watch.unread["the time without copies"] = error.what.splitlines()[0]
        return None


def memory_peak(
    watch: Watch, subject: Subject, folders: tuple[str, str], *, threads: int, limits: Limits
) -> tuple[int | None, str]:
    """The most that a fresh process of this model holds of the card, looked at while it loads, and answers single
    queries and batches; and whose memory that is, or why nobody knows, as where the card has no room for one more."""
    if watch.card is None:
        return None, watch.unread["clocks and memory"]
    readings = _Memory(watch.card)
    worker = Worker.start(subject.name, limits)
    try:
        with readings.sampled(worker.process.pid):
            load(worker, subject, *folders, threads=threads)
            worker.ask("query", count=_TWICE)
            worker.ask("batch", count=_TWICE)
    except WorkerFailed as error:
        return None, error.what.splitlines()[0]
    finally:
        worker.stop()
    return readings.peak()


@dataclass(slots=True)
class _Memory:
    """Readings of a card, in a thread of this process, while another one works. NVML may give processes the numbers
    that they have outside of a container: one that was listed before it began to compute is a stranger of that number.
    """

    card: Card
    whole: list[int] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    why: str = ""

    @contextmanager
    def sampled(self, pid: int) -> Iterator[None]:
        stranger = self._read(pid, stranger=True)
        stop = threading.Event()

        def read() -> None:
            while not stop.wait(_EVERY):
                self._read(pid, stranger=stranger)

        thread = threading.Thread(target=read, name="mlopt-gpu-memory", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self._read(pid, stranger=stranger)

    def _read(self, pid: int, *, stranger: bool) -> bool:
        """Whether that process is listed."""
        listed = False
        try:
            self.whole.append(self.card.used())
            held = self.card.processes()
            listed = pid in held
            if not stranger and (own := held.get(pid)) is not None:
                self.own.append(own)
        except NvmlError as error:
            self.why = str(error)
        return listed

    def peak(self) -> tuple[int | None, str]:
        if self.own:
            return max(self.own), OWN
        if self.whole:
            return max(self.whole) - self.whole[0], _WHOLE
        return None, self.why
