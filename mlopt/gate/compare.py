"""What is compared without running both side by side: files, a stored result, the profile's budgets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from mlopt.gate.memory import Processes
from mlopt.gate.result import METHOD, Check, NotCompared, Side, Stored, Unit, Verdict
from mlopt.gate.timed import clock_margins
from mlopt.intervals import FEWEST
from mlopt.measure.alone import Fresh
from mlopt.measure.gpu import OWN
from mlopt.measure.subjects import versions_of
from mlopt.measurement import Accuracy, BudgetVerdict, Gpu, Measurement, Outcome
from mlopt.report import text
from mlopt.units import format_bytes

if TYPE_CHECKING:
    from mlopt.profile import Budgets, Margins

_VERDICTS: Final[dict[Outcome, Verdict]] = {"met": "pass", "missed": "fail", "unmeasured": "inconclusive"}
_OF_ANSWERS: Final = ("max-drop", "min-agreement", "min-cosine", "min-sqnr")
_NOT_COUNTED: Final = (
    "the processor's counters cannot be read here (virtual machines seldom let them; perf_event_paranoid)"
)
_NOT_TOLD: Final = "the runtime does not tell what its arena held (ONNX Runtime 1.23 and newer do, on a CPU)"
_SHARED_CARD: Final = "NVML tells what the whole card holds here, and not whose it is"
_UNPROVEN: Final = "the value itself keeps it, the end of its 95 % interval does not"


def files(margins: Margins, candidate: Side, baseline: Side) -> Iterator[Check]:
    """What is counted and leaves no doubt: bytes and operators."""
    if margins.file_size is not None:
        more = candidate.file_size - baseline.file_size
        note = f"{format_bytes(abs(more))} {'more' if more > 0 else 'less'}" if more else "not one byte more"
        yield _counted("file-size", "bytes", candidate.file_size, baseline.file_size, margins.file_size, note)
    if margins.operators is not None:
        counts = sum(candidate.operators.values()), sum(baseline.operators.values())
        yield _counted("operators", "count", *counts, margins.operators, other_operators(candidate, baseline))


def instructions(margin: float, counted: tuple[int, int] | None) -> Check | NotCompared:
    """Candidate's and baseline's of a query."""
    if counted is None:
        return NotCompared("instructions", _NOT_COUNTED)
    return _counted("instructions", "count", *counted, margin, "of a query, the fewest of several")


def arena(margin: float, candidate: int | None, baseline: int | None) -> Check | NotCompared:
    """What each side's runtime counted in its arena."""
    if candidate is None or baseline is None:
        return NotCompared("arena-peak", _NOT_TOLD)
    return _counted("arena-peak", "bytes", candidate, baseline, margin, "")


def gpu_memory(
    margin: float, candidate: tuple[int | None, str], baseline: tuple[int | None, str]
) -> Check | NotCompared:
    """What a fresh process of each held of the card at most, and how that is known."""
    if unread := [how for held, how in (candidate, baseline) if held is None]:
        return NotCompared("gpu-memory", unread[0])
    if {candidate[1], baseline[1]} != {OWN}:
        return NotCompared("gpu-memory", _SHARED_CARD)
    return _counted("gpu-memory", "bytes", candidate[0] or 0, baseline[0] or 0, margin, OWN)


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


def same(margins: Margins, *, on_gpu: bool) -> Iterator[Check]:
    """The clocks and the memory of one file against itself: there is nothing to measure."""
    for metric, margin in clock_margins(margins).items():
        yield _same(metric, "seconds", margin)
    if margins.peak_memory is not None:
        yield _same("peak-memory", "bytes", margins.peak_memory)
    if margins.arena_peak is not None:
        yield _same("arena-peak", "bytes", margins.arena_peak)
    if margins.gpu_memory is not None and on_gpu:
        yield _same("gpu-memory", "bytes", margins.gpu_memory)
    if margins.instructions is not None:
        yield _same("instructions", "count", margins.instructions)


def stored_memory(
    margins: Margins, stored: Stored, measurement: Measurement, arena_peak: int | None, *, cpu: str
) -> Iterator[Check | NotCompared]:
    """Peak memory and the arena's against stored ones, if both ran alike, in one runtime on one kind of machine."""
    why_not = _ran_apart(stored, measurement, cpu)
    if margins.peak_memory is not None:
        if stored.peaks and not why_not:
            starts = measurement.starts
            now = Fresh(list(starts.load_times), list(starts.peaks))
            yield Processes(Fresh(peaks=list(stored.peaks)), now).check(margins.peak_memory)
        else:
            yield NotCompared("peak-memory", why_not or "the stored baseline holds none")
    if margins.arena_peak is not None:
        before = stored.values.get("arena-peak")
        if before is None or why_not:
            yield NotCompared("arena-peak", why_not or "the stored baseline holds none")
        else:
            yield arena(margins.arena_peak, arena_peak, int(before))
    if margins.gpu_memory is not None and (gpu := measurement.gpu):
        if why_not := why_not or _on_another_card(stored, gpu):
            yield NotCompared("gpu-memory", why_not)
        else:
            before = int(stored.values["gpu-memory"])
            yield gpu_memory(margins.gpu_memory, (gpu.memory, gpu.memory_method), (before, OWN))


def card_of(gpu: Gpu) -> str:
    return f"{gpu.name}, driver {gpu.driver}"


def _on_another_card(stored: Stored, gpu: Gpu) -> str:
    if "gpu-memory" not in stored.values:
        return "the stored baseline holds none"
    before = stored.machine.get("gpu", "")
    return "" if before == card_of(gpu) else f"the stored baseline ran on {before or 'a GPU that it does not name'}"


def _ran_apart(stored: Stored, measurement: Measurement, cpu: str) -> str:
    """Why memory says nothing here; empty if it does."""
    now = versions_of(measurement.runtime)
    if any(stored.machine.get(name) != version for name, version in now.items()):
        return f"the stored baseline ran in {_spelled(stored.machine, now)}, this is {_spelled(now, now)}"
    if stored.machine.get("cpu") != cpu:
        return f"the stored baseline ran on {stored.machine.get('cpu')}"
    if others := [name for name in METHOD if stored.method[name] != getattr(measurement, name)]:
        told = ", ".join(f"{name.replace('_', '-')} {stored.method[name] or '(unknown)'}" for name in others)
        return f"the stored baseline ran with {told}"
    return ""


def budgets(
    given: Budgets, candidate: Side, accuracy: Accuracy | None, measurement: Measurement
) -> Iterator[Check | NotCompared]:
    """The profile's limits, as `mlopt compile` judges them; the gate's baseline is what answers are compared to.

    A limit that only the end of an interval misses is neither kept nor broken: `inconclusive`. Every limit of the
    answers that nothing judges is named. `accuracy` is None where the baseline's outputs are not there.
    """
    from mlopt.choose import judge

    judged = set()
    for one in judge(given, file_size=candidate.file_size, accuracy=accuracy, measurement=measurement):
        judged.add(one.budget)
        if one.budget == "image-size":
            yield NotCompared(one.budget, "a gate makes no image")
            continue
        open_ = _open(one, accuracy, measurement)
        yield Check(
            one.budget,
            "budget",
            "inconclusive" if open_ else _VERDICTS[one.outcome],
            _unit(one.budget),
            None,
            one.actual,
            None,
            one.limit,
            f"{one.grade}, against the profile",
            "; ".join(filter(None, (one.note, _UNPROVEN if open_ and not one.note else "", _interval(one, accuracy)))),
        )
    for budget in _OF_ANSWERS:
        if budget not in judged and getattr(given, budget.replace("-", "_")) is not None:
            yield NotCompared(budget, _why_not(budget, accuracy))


def _interval(one: BudgetVerdict, accuracy: Accuracy | None) -> str:
    """What of the samples the judged end of an interval comes from."""
    of = f"{'generated inputs' if accuracy.generated else 'samples'}, the worse end is judged" if accuracy else ""
    if one.budget == "max-drop" and accuracy and accuracy.drop:
        return f"{text.points(accuracy.drop)} lost on {accuracy.samples} {of}"
    if one.budget == "min-agreement" and accuracy and accuracy.agreement:
        return f"{text.share(accuracy.agreement)} of {accuracy.samples} {of}"
    return ""


def _open(one: BudgetVerdict, accuracy: Accuracy | None, measurement: Measurement) -> bool:
    """Whether nobody can tell: the end of an interval misses what the rest of it keeps."""
    bounds = {"load-time": measurement.starts.load_time, "peak-memory": measurement.starts.peak_memory}
    if bound := bounds.get(one.budget):
        few = measurement.starts.processes < FEWEST  # as many as are all that there is are no proof either way
        return few or bound.low <= one.limit < bound.high
    return one.outcome == "missed" and _within(one, accuracy, measurement)


def _within(one: BudgetVerdict, accuracy: Accuracy | None, measurement: Measurement) -> bool:
    """Whether the value itself keeps the limit that the end of its interval misses."""
    if one.budget == "max-drop" and accuracy and accuracy.drop:
        return accuracy.drop.value <= one.limit
    if one.budget == "min-agreement" and accuracy and accuracy.agreement:
        return accuracy.agreement.value >= one.limit
    latency = {
        "latency-p50": measurement.latency.p50,
        "latency-p90": measurement.latency.p90,
        "latency-p99": measurement.latency.p99,
    }
    return one.budget in latency and latency[one.budget] <= one.limit


def _why_not(budget: str, accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "a stored baseline holds no outputs: give the baseline's model"
    if budget == "max-drop":
        return "there are no labels, or the model is no classifier"
    if accuracy.drop is not None:
        return "the samples have labels: what is lost of the right answers is judged instead"
    return "the model is no classifier"


def _counted(metric: str, unit: Unit, candidate: int, baseline: int, margin: float, note: str) -> Check:
    verdict: Verdict = "fail" if candidate > baseline * (1 + margin) else "pass"
    return Check(metric, "regression", verdict, unit, baseline, candidate, None, margin, "counted", note)


def _same(metric: str, unit: Unit, margin: float) -> Check:
    why = "the same bytes in the same runtime"
    return Check(metric, "regression", "pass", unit, None, None, None, margin, "digest", why)


def _spelled(machine: Mapping[str, str], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {machine.get(name, '(unknown)')}" for name in names)


def _unit(budget: str) -> Unit:
    if budget in ("peak-memory", "file-size", "image-size"):
        return "bytes"
    if budget.startswith("latency") or budget == "load-time":
        return "seconds"
    return "count" if budget in ("throughput", "min-sqnr") else "share"
