"""What is compared without running both side by side: files, a stored result, the profile's budgets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from mlopt.gate.memory import Peaks
from mlopt.gate.result import Check, NotCompared, Side, Stored, Unit, Verdict
from mlopt.gate.timed import clock_margins
from mlopt.measurement import Accuracy, Measurement, Outcome
from mlopt.units import format_bytes

if TYPE_CHECKING:
    from mlopt.profile import Budgets, Margins

_VERDICTS: Final[dict[Outcome, Verdict]] = {"met": "pass", "missed": "fail", "unmeasured": "inconclusive"}


def files(margins: Margins, candidate: Side, baseline: Side) -> Iterator[Check]:
    """What is counted and leaves no doubt: bytes and operators."""
    if margins.file_size is not None:
        more = candidate.file_size - baseline.file_size
        note = f"{format_bytes(abs(more))} {'more' if more > 0 else 'less'}" if more else "not one byte more"
        yield _counted("file-size", "bytes", candidate.file_size, baseline.file_size, margins.file_size, note)
    if margins.operators is not None:
        counts = sum(candidate.operators.values()), sum(baseline.operators.values())
        yield _counted("operators", "count", *counts, margins.operators, other_operators(candidate, baseline))


def other_operators(candidate: Side, baseline: Side, *, most: int = 4) -> str:
    """Which operators came and went, the largest changes first.

    >>> one, other = (Side("", "", "", 0, {"Conv": count, "Relu": 2}) for count in (3, 5))
    >>> other_operators(one, other)
    'Conv 5 → 3'
    """
    kinds = candidate.operators.keys() | baseline.operators.keys()
    changes = [(kind, baseline.operators.get(kind, 0), candidate.operators.get(kind, 0)) for kind in kinds]
    changed = sorted((one for one in changes if one[1] != one[2]), key=lambda one: (-abs(one[1] - one[2]), one[0]))
    shown = [f"{kind} {before} → {now}" for kind, before, now in changed[:most]]
    return ", ".join(shown) + (f" and {len(changed) - most} more" if len(changed) > most else "")


def same(margins: Margins) -> Iterator[Check]:
    """The clocks and the memory of one file against itself: there is nothing to measure."""
    for metric, margin in clock_margins(margins).items():
        yield _same(metric, "seconds", margin)
    if margins.peak_memory is not None:
        yield _same("peak-memory", "bytes", margins.peak_memory)


def stored_memory(
    margins: Margins, stored: Stored, measurement: Measurement, *, cpu: str
) -> Check | NotCompared | None:
    """Peak memory against a stored one, if both are of one runtime on one kind of machine."""
    if margins.peak_memory is None:
        return None
    before, now = stored.values.get("peak-memory"), versions(measurement.runtime)
    if before is None:
        return NotCompared("peak-memory", "the stored baseline holds none")
    if any(stored.machine.get(name) != version for name, version in now.items()):
        ran = f"the stored baseline ran in {_spelled(stored.machine, now)}, this is {_spelled(now, now)}"
        return NotCompared("peak-memory", ran)
    if stored.machine.get("cpu") != cpu:
        return NotCompared("peak-memory", f"the stored baseline ran on {stored.machine.get('cpu')}")
    if (stored.threads, stored.batch) != (measurement.threads, measurement.batch):
        return NotCompared("peak-memory", "the stored baseline ran with other threads or another batch")
    return Peaks([int(before)], [measurement.peak_memory]).check(margins.peak_memory)


def versions(runtime: str) -> dict[str, str]:
    """The packages that decide what a runtime computes."""
    from importlib.metadata import version

    from mlopt import registry

    return {name: version(name) for name in registry.load("mlopt.runners", runtime).distributions}


def budgets(given: Budgets, candidate: Side, accuracy: Accuracy | None, measurement: Measurement) -> Iterator[Check]:
    """The profile's limits, as `mlopt compile` judges them; the gate's baseline is what answers are compared to."""
    from mlopt.choose import judge

    for one in judge(given, file_size=candidate.file_size, accuracy=accuracy, measurement=measurement):
        yield Check(
            one.budget,
            "budget",
            _VERDICTS[one.outcome],
            _unit(one.budget),
            None,
            one.actual,
            None,
            one.limit,
            f"{one.grade}, against the profile",
            one.note,
        )


def _counted(metric: str, unit: Unit, candidate: int, baseline: int, margin: float, note: str) -> Check:
    verdict: Verdict = "fail" if candidate > baseline * (1 + margin) else "pass"
    return Check(metric, "regression", verdict, unit, baseline, candidate, None, margin, "counted", note)


def _same(metric: str, unit: Unit, margin: float) -> Check:
    why = "the same bytes in the same runtime"
    return Check(metric, "regression", "pass", unit, None, None, None, margin, "digest", why)


def _spelled(machine: Mapping[str, str], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {machine.get(name, '(unknown)')}" for name in names)


def _unit(budget: str) -> Unit:
    if budget in ("peak-memory", "file-size"):
        return "bytes"
    if budget.startswith("latency") or budget == "load-time":
        return "seconds"
    return "count" if budget in ("throughput", "min-sqnr") else "share"
