"""Judge candidates against the budgets, and choose: inside every budget, proven not worse than the baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from mlopt import rounding
from mlopt.errors import UnsupportedModel
from mlopt.intervals import FEWEST, queries_needed, samples_needed
from mlopt.measurement import Accuracy, BudgetVerdict, Grade, Interval, Measurement, Outcome
from mlopt.pareto import pareto
from mlopt.units import Decibel, format_bytes, format_points, format_seconds
from mlopt.verdicts import missed

if TYPE_CHECKING:
    from mlopt.profile import Budgets, Profile

# A goal other than latency may cost this much speed, which is about what an A/A comparison shows here.
NOT_SLOWER: Final = 0.98
# Faster by less than one part in a hundred is not worth another file; identical models reach it by chance.
FASTER: Final = 1.01
# The same OpenVINO model in two processes was seen to differ by that much, and more, wherever its buffers came to lie.
SAME_SPEED: Final = 1.03
# Peak memory of the same model in two processes was seen to differ by 2.5 %.
SAME_MEMORY: Final = 1.05
_OF_ANSWERS: Final = frozenset({"max-drop", "min-agreement", "min-cosine", "min-sqnr"})
_OF_STARTS: Final = ("load_time", "peak_memory")
_TAILS: Final[Mapping[str, float]] = MappingProxyType({"latency_p90": 90, "latency_p99": 99})
NOTHING_FAILED: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate with its numbers and verdicts. `measurement` is None where the target is another machine. `work` is
    the same for those that run the same kernels in the same runtime; empty where nobody knows."""

    name: str
    file_size: int
    accuracy: Accuracy | None
    measurement: Measurement | None
    verdicts: tuple[BudgetVerdict, ...]
    work: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """`winner` by name, why it, and for each of the others one sentence why not."""

    winner: str
    why: str
    why_not: Mapping[str, str]
    pareto: tuple[str, ...]
    eligible: tuple[str, ...]


def judge(
    budgets: Budgets,
    *,
    file_size: int,
    accuracy: Accuracy | None,
    measurement: Measurement | None,
    image_size: int | None = None,
    rounds: float = 0.0,
) -> tuple[BudgetVerdict, ...]:
    """One verdict per budget that the profile sets. A bound decides, not a point estimate: the upper end of the drop's
    interval, of the latencies', of load time's and of memory's, the lower end of agreement's. Without samples what only
    rounds is judged by its noise: `rounds` is how many answers change for each part of it (`changes_by_noise` of
    `rounding.py`), 0 for all else. `image_size` is of the image unpacked, None where none is made."""
    clocks: dict[str, float] = {}
    if measurement:
        clocks = {
            "latency_p50": measurement.latency.p50_high,
            "latency_p90": measurement.latency.p90_high,
            "latency_p99": measurement.latency.p99_high,
            "load_time": measurement.starts.load_time.high,
            "peak_memory": measurement.starts.peak_memory.high,
            "throughput": measurement.throughput,
        }
    grade: Grade = measurement.grade if measurement else "unmeasured"
    verdicts: list[BudgetVerdict] = []
    for name in ("latency_p50", "latency_p90", "latency_p99", "load_time", "peak_memory"):
        limit = getattr(budgets, name)
        verdicts += _most(name.replace("_", "-"), limit, clocks.get(name), grade, _beside(name, limit, measurement))
    verdicts += _least("throughput", budgets.throughput, clocks.get("throughput"), grade)
    verdicts += _most("file-size", budgets.file_size, file_size, "measured")
    verdicts += _most("image-size", budgets.image_size, image_size, "unmeasured" if image_size is None else "measured")
    return (*verdicts, *_accuracy_verdicts(budgets, accuracy, rounds))


def _beside(name: str, limit: float | None, measurement: Measurement | None) -> str:
    """What a bound comes from, where that is not its own name's affair, or what it lacks."""
    if measurement is None or limit is None:
        return ""
    if name in _TAILS:
        least, queries = queries_needed(_TAILS[name]), measurement.latency.queries
        return "" if queries >= least else f"the slowest of {queries} queries: a bound takes {least}"
    if name not in _OF_STARTS:
        return ""
    bound: Interval = getattr(measurement.starts, name)
    count = measurement.starts.processes
    if count < FEWEST:
        told = "one fresh process" if count == 1 else f"the most of {count} fresh processes"
        return f"{told}: a bound takes {FEWEST}"
    show = format_seconds if name == "load_time" else _bytes
    told = f"bound of the median of {count} fresh processes, which is {show(bound.value)}"
    return f"inconclusive: {told}" if bound.low <= limit < bound.high else told


def _bytes(value: float) -> str:
    return format_bytes(int(value))


def _accuracy_verdicts(budgets: Budgets, accuracy: Accuracy | None, rounds: float) -> list[BudgetVerdict]:
    if accuracy is None:
        return []
    grade = accuracy.grade
    sqnr = budgets.min_sqnr
    rounds = rounds if rounding.judges(accuracy) else 0.0
    if rounds and budgets.min_agreement is not None:
        sqnr = Decibel(max(sqnr or -math.inf, rounding.least_sqnr(budgets.min_agreement, rounds)))
    verdicts = []
    if accuracy.drop is not None:
        note = ""
        if budgets.max_drop is not None and accuracy.drop.value <= budgets.max_drop < accuracy.drop.high:
            needed = samples_needed(budgets.max_drop, accuracy.drop, accuracy.samples)
            note = f"about {needed} samples would prove it" if needed else ""
        verdicts += _most("max-drop", budgets.max_drop, accuracy.drop.high, grade, note)
    elif accuracy.agreement is not None and not rounds:
        verdicts += _least("min-agreement", budgets.min_agreement, accuracy.agreement.low, grade)
    if accuracy.drop is None:
        verdicts += _least("min-cosine", budgets.min_cosine, accuracy.cosine, grade)
    verdicts += _least("min-sqnr", sqnr, accuracy.sqnr, grade, rounding.why(budgets.min_agreement) if rounds else "")
    return verdicts


def _most(budget: str, limit: float | None, actual: float | None, grade: Grade, note: str = "") -> list[BudgetVerdict]:
    if limit is None:
        return []
    outcome: Outcome = "unmeasured" if actual is None else "met" if actual <= limit else "missed"
    return [BudgetVerdict(budget, limit, actual, outcome, grade, note)]


def _least(budget: str, limit: float | None, actual: float | None, grade: Grade, note: str = "") -> list[BudgetVerdict]:
    if limit is None:
        return []
    outcome: Outcome = "unmeasured" if actual is None else "met" if actual >= limit else "missed"
    return [BudgetVerdict(budget, limit, actual, outcome, grade, note)]


def choose(
    baseline: Judged,
    others: Sequence[Judged],
    profile: Profile,
    *,
    ship: str | None,
    device: str,
    failures: Mapping[str, str] = NOTHING_FAILED,
) -> Choice:
    """The winner of all, or the baseline when no candidate is proven better on the profile's goal.

    `ship` names the candidate that the person wants whatever the judge says; the verdicts stay as they are.
    Raises `UnsupportedModel` when that one is not among the judged, with its reason from `failures`.
    """
    why_not = {other.name: _disqualified(other, baseline, profile, device) for other in others}
    eligible = [other for other in others if not why_not[other.name]]
    equals = _as_fast(eligible, profile)
    best = _of_equals(equals) or baseline
    for other in eligible:
        if other is not best:
            tie = other in equals and (_same_work(other, best) or _as_good(other, best, profile))
            why_not[other.name] = _tied(other, best) if tie else f"{best.name} is better on {profile.minimize}"
    chosen = next((judged for judged in (baseline, *others) if judged.name == (ship or best.name)), None)
    if chosen is None:
        reason = failures.get(str(ship), "no such candidate").rstrip(".")
        raise UnsupportedModel(
            f"{ship} was asked for by name, and it cannot be built or run: {reason}.",
            next="leave --ship out, and the best of the others ships",
        )
    if ship:
        why = f"{chosen.name} ships because it was asked for by name"
        if reason := why_not.pop(chosen.name, ""):
            why += f"; left to the judge it would not: {reason}"
    elif chosen is baseline:
        why = "no candidate is proven better than the baseline and inside every budget"
    else:
        why = _praise(chosen, baseline)
    why_not.pop(chosen.name, None)
    return Choice(
        winner=chosen.name,
        why=why,
        why_not=why_not if chosen is baseline else {baseline.name: f"{chosen.name} ships instead", **why_not},
        pareto=pareto((baseline, *others)),
        eligible=tuple(judged.name for judged in eligible),
    )


def _disqualified(candidate: Judged, baseline: Judged, profile: Profile, device: str) -> str:
    if verdict := first_missed(candidate):
        return missed(verdict)
    judged_by = {verdict.budget for verdict in candidate.verdicts}
    if candidate.accuracy and candidate.accuracy.sqnr < math.inf and not judged_by & _OF_ANSWERS:
        return f"no budget of the profile judges its answers: set one of {', '.join(sorted(_OF_ANSWERS))}"
    if candidate.measurement is None:
        return f"its latency on {device} is unmeasured: nothing shows that it is not slower there"
    # To be better than what is no answer at all to what was asked is not asked.
    if not first_missed(baseline) and (reason := _no_better(candidate, baseline, profile)):
        return reason
    for verdict in candidate.verdicts:
        # An image that nobody wants, or that cannot be made here, says nothing against the model in it.
        if verdict.outcome == "unmeasured" and verdict.budget != "image-size":
            return f"its {verdict.budget} is unmeasured"
    return ""


def first_missed(judged: Judged) -> BudgetVerdict | None:
    return next((verdict for verdict in judged.verdicts if verdict.outcome == "missed"), None)


def _no_better(candidate: Judged, baseline: Judged, profile: Profile) -> str:
    assert candidate.measurement
    speedup = candidate.measurement.speedup
    if profile.minimize == "latency":
        return f"it is not proven faster than the baseline: {times(speedup)}" if speedup.low <= FASTER else ""
    if speedup.low < NOT_SLOWER:
        return f"it is slower than the baseline: {times(speedup)}"
    if _goal(candidate, profile) >= _goal(baseline, profile):
        return f"it is no better than the baseline on {profile.minimize}"
    return ""


def times(speedup: Interval) -> str:
    return f"{speedup.value:.2f}× [{speedup.low:.2f}, {speedup.high:.2f}]"


def _goal(judged: Judged, profile: Profile) -> float:
    if profile.minimize == "size":
        return judged.file_size
    if judged.measurement is None:
        return float("inf")
    if profile.minimize == "memory":
        return _memory(judged)
    return 1 / judged.measurement.speedup.value


def _as_fast(eligible: Sequence[Judged], profile: Profile) -> list[Judged]:
    """The best on the goal, and on latency all that are as fast but for what chance makes of it."""
    first = min(eligible, key=lambda judged: _goal(judged, profile), default=None)
    if first is None:
        return []
    by_chance = profile.minimize == "latency"
    return [one for one in eligible if _as_good(one, first, profile) or (by_chance and _same_work(one, first))]


def _as_good(one: Judged, best: Judged, profile: Profile) -> bool:
    """On the goal; of latencies within three parts in a hundred, unless they are proven apart."""
    if profile.minimize == "latency":
        return _goal(one, profile) <= _goal(best, profile) * SAME_SPEED and not _slower(one, best)
    return _goal(one, profile) <= _goal(best, profile)


def _same_work(one: Judged, other: Judged) -> bool:
    """The same kernels, and no proof that it is another speed: then only chance is between the two."""
    return bool(one.work) and one.work == other.work and not _slower(one, other)


def _slower(one: Judged, other: Judged) -> bool:
    """Whether that is proven, or nobody knows."""
    if one.measurement is None or other.measurement is None:
        return True
    return one.measurement.speedup.high < other.measurement.speedup.low


def _of_equals(equals: Sequence[Judged]) -> Judged | None:
    """The one that takes least memory; of those that take as much, the one that answers most like the original."""
    least = min(map(_memory, equals), default=0.0)
    lean = [judged for judged in equals if _memory(judged) <= least * SAME_MEMORY]
    return max(lean, key=lambda judged: judged.accuracy.sqnr if judged.accuracy else -math.inf, default=None)


def _tied(other: Judged, best: Judged) -> str:
    heavier = _memory(other) > _memory(best) * SAME_MEMORY
    merit = "takes less memory" if heavier else "answers more like the original"
    if _same_work(other, best):
        return f"{best.name} runs the same kernels, and {merit}"
    return f"{best.name} is as good on what is asked for, within three parts in a hundred, and {merit}"


def _memory(judged: Judged) -> float:
    return judged.measurement.peak_memory if judged.measurement else math.inf


def _praise(chosen: Judged, baseline: Judged) -> str:
    assert chosen.measurement
    speedup = chosen.measurement.speedup
    parts = [f"{times(speedup)} the baseline's speed"]
    parts.append(f"{chosen.file_size / baseline.file_size:.0%} of its size")
    if chosen.accuracy and chosen.accuracy.drop:
        parts.append(f"top-1 drop at most {format_points(chosen.accuracy.drop.high)} at 95 % confidence")
    elif chosen.accuracy and chosen.accuracy.generated:
        parts.append(f"SQNR {chosen.accuracy.sqnr:.1f} dB on generated inputs, which show no accuracy")
    elif chosen.accuracy and chosen.accuracy.agreement:
        parts.append(f"agrees on {chosen.accuracy.agreement.value:.1%} of the samples")
    alone = f", which the baseline is not ({missed(verdict)})" if (verdict := first_missed(baseline)) else ""
    return f"{chosen.name} is inside every budget{alone}: {', '.join(parts)}"
