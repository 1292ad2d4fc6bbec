"""What a run decided, in words: what ships, how it did against each budget, and what became of every candidate."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mlopt.measurement import BudgetVerdict, Grade, Measurement, Outcome
from mlopt.report import text
from mlopt.report.gpu import held_back
from mlopt.report.quality import Quality, quality_of
from mlopt.report.report import CandidateFacts, Report

Role = Literal["ships", "eligible", "unmeasured", "out", "failed"]

ROLE_WORDS: Final[dict[Role, str]] = {
    "ships": "ships",
    "eligible": "eligible",
    "unmeasured": "not judged",
    "out": "not eligible",
    "failed": "failed",
}
OUTCOME_MARKS: Final[dict[Outcome, str]] = {"met": "✓", "missed": "✗", "unmeasured": "?"}


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """One budget of the profile and what the model that ships reached, ready to show."""

    name: str
    limit: str
    actual: str
    outcome: Outcome
    grade: Grade
    note: str


def shipped(report: Report) -> CandidateFacts | None:
    """What ships, or None when every candidate failed."""
    return _named(report, report.winner)


def baseline(report: Report) -> CandidateFacts | None:
    return _named(report, report.baseline)


def role(report: Report, candidate: CandidateFacts) -> Role:
    """What became of a candidate. One that was not measured on its target is not judged, rather than eligible."""
    if candidate.failure:
        return "failed"
    if candidate.name == report.winner:
        return "ships"
    if candidate.eligible:
        return "eligible"
    missed = any(verdict.outcome == "missed" for verdict in candidate.verdicts)
    return "unmeasured" if candidate.measurement is None and not missed else "out"


def headline(report: Report) -> str:
    """The verdict in one sentence; only numbers that exist are in it."""
    winner = shipped(report)
    if winner is None:
        return f"Nothing ships for {machine(report)}: no candidate could be made."
    if winner.name == report.baseline:
        untimed = winner.measurement is None and not report.target.this_machine
        reason = ": latency there cannot be measured on this machine" if untimed else ""
        named = "" if winner.name == "baseline" else f" {winner.name}"
        return f"The baseline{named} ships for {machine(report)}{reason}."
    gains = _gains(report, winner)
    if winner.measurement is None:
        gains.append("speed not measured on this target")
    return f"{winner.name} ships for {machine(report)}: {', '.join(gains)}."


def why(report: Report) -> str:
    """The judge's reason as a sentence; a candidate's name at its start keeps its spelling."""
    words = report.why.strip()
    if not words:
        return ""
    named = any(words.startswith(candidate.name) for candidate in report.candidates)
    return (words if named else words[0].upper() + words[1:]) + ("" if words.endswith((".", "!", "?")) else ".")


def command(report: Report) -> str:
    """The command of this run as a POSIX shell takes it."""
    return shlex.join(report.command)


def machine(report: Report) -> str:
    """The target as a sentence names it."""
    if report.target.name == "host":
        return "this machine"
    return f"{report.target.name} (this machine)" if report.target.this_machine else report.target.name


def budgets(candidate: CandidateFacts | None) -> tuple[BudgetLine, ...]:
    return tuple(budget_line(verdict) for verdict in candidate.verdicts) if candidate else ()


def budgets_in_short(report: Report) -> str:
    """How the model that ships did against its profile, as the second half of a sentence."""
    profile = text.plain(report.profile.get("name", "")) or "this profile"
    winner = shipped(report)
    if winner is None or not winner.verdicts:
        return f"profile {profile} sets no budget" if winner else f"profile {profile}"
    by_outcome = {
        outcome: [budget_name(verdict.budget) for verdict in winner.verdicts if verdict.outcome == outcome]
        for outcome in OUTCOME_MARKS
    }
    if len(by_outcome["met"]) == len(winner.verdicts):
        number = len(winner.verdicts)
        return (
            f"Inside each of the {number} budgets of profile {profile}"
            if number > 1
            else f"Inside the one budget of profile {profile}"
        )
    parts = [f"{len(by_outcome['met'])} of {len(winner.verdicts)} budgets of profile {profile} met"]
    if by_outcome["missed"]:
        parts.append(f"missed: {text.listed(by_outcome['missed'])}")
    if by_outcome["unmeasured"]:
        parts.append(f"unmeasured: {text.listed(by_outcome['unmeasured'])}")
    return "; ".join(parts)


def warnings(report: Report) -> tuple[str, ...]:
    """What a reader must know before believing any number here, the worst first."""
    found = []
    winner = shipped(report)
    missed = [one for one in budgets(winner) if one.outcome == "missed"]
    if missed:
        said = text.listed(f"{one.name} {one.actual} (budget {one.limit})" for one in missed)
        found.append(f"What ships misses its budget: {said}.")
    if not any(candidate.measurement for candidate in report.candidates) and not report.target.this_machine:
        board = report.target.engines_on
        found.append(
            f"What ships was not timed: this machine is not {report.target.name}. {board} timed its engines alone."
            if board
            else f"Nothing was timed: this machine is not {report.target.name}. Its latencies are unmeasured."
        )
    grades = {candidate.measurement.grade for candidate in report.candidates if candidate.measurement} - {"measured"}
    found += [f"Latencies are {grade}, not measured: do not plan capacity with them." for grade in sorted(grades)]
    for candidate in report.candidates:
        if candidate.measurement and (held := held_back(candidate.measurement.gpu)):
            found.append(f"While {candidate.name} was timed {held}: it may be faster where they are not.")
    if report.samples is not None and report.samples.assumed_preprocess:
        found.append(
            "Nobody declared the preprocessing, so it was assumed and accuracy may be understated: "
            "declare it as [preprocess] in mlopt.toml."
        )
    if any(candidate.accuracy and candidate.accuracy.generated for candidate in report.candidates):
        found.append(
            "No accuracy was measured: answers were compared on generated numbers, not on data. "
            "Give --samples to know it."
        )
    return tuple(found)


def how_measured(measurement: Measurement, runtimes: Sequence[str] = ()) -> str:
    """Device and method of a candidate's clocks, in full; of several candidates' with all their `runtimes`."""
    queries = text.count(measurement.latency.queries)
    ran_in = text.listed(dict.fromkeys(runtimes or (measurement.runtime,)))
    return (
        f"{measurement.grade} on {measurement.device}, {ran_in}, {measurement.scenario}, "
        f"batch {measurement.batch}, {_threads(measurement.threads)}, {queries} queries "
        f"in {measurement.rounds} rounds interleaved with the baseline"
    )


def budget_name(budget: str) -> str:
    """A budget's name as a person says it.

    >>> budget_name("latency_p99"), budget_name("max-drop")
    ('latency p99', 'top-1 drop (upper 95 % bound)')
    """
    name = budget.replace("_", "-")
    known = {
        "max-drop": "top-1 drop (upper 95 % bound)",
        "min-agreement": "agreement (lower 95 % bound)",
        "min-cosine": "cosine",
        "min-sqnr": "SQNR",
    }
    return known.get(name, name.replace("-", " "))


def budget_number(budget: str, value: float | None) -> str:
    """A budget's limit or actual value in its own unit.

    >>> budget_number("latency-p50", 0.033), budget_number("max-drop", 0.02), budget_number("file_size", 4e6)
    ('33.0 ms', '+2.0 pt', '4.00 MB')
    """
    for word, show in (
        ("latency", text.seconds),
        ("time", text.seconds),
        ("memory", text.size),
        ("size", text.size),
        ("drop", text.points),
        ("agreement", text.percent),
        ("cosine", text.cosine),
        ("sqnr", text.decibel),
        ("throughput", text.rate),
    ):
        if word in budget:
            return show(value)
    return text.ABSENT if value is None else text.plain(float(value))


def budget_limit(budget: str, limit: float) -> str:
    """A limit with its direction.

    >>> budget_limit("min-agreement", 0.95), budget_limit("latency-p99", 0.033)
    ('≥ 95.0 %', '≤ 33.0 ms')
    """
    at_least = budget.startswith(("min", "throughput"))
    return f"{'≥' if at_least else '≤'} {budget_number(budget, limit)}"


def budget_line(verdict: BudgetVerdict) -> BudgetLine:
    return BudgetLine(
        name=budget_name(verdict.budget),
        limit=budget_limit(verdict.budget, verdict.limit),
        actual="unmeasured" if verdict.actual is None else budget_number(verdict.budget, verdict.actual),
        outcome=verdict.outcome,
        grade=verdict.grade,
        note=verdict.note,
    )


def _gains(report: Report, winner: CandidateFacts) -> list[str]:
    """What the winner gives and costs against the baseline; the intervals are in the table and in `why`."""
    gains: list[str] = []
    if winner.measurement is not None:
        gains.append(f"{text.times(winner.measurement.speedup.value)} the speed of {report.baseline}")
    first = baseline(report)
    if first is not None and first.file_size and winner.file_size:
        ratio = first.file_size / winner.file_size
        sizes = f"{text.times(ratio)} smaller" if ratio >= 1 else f"{text.times(1 / ratio)} larger"
        gains.append(sizes if text.times(ratio) != text.times(1.0) else "of the same size")
    cost = _cost(quality_of(report), winner)
    return [*gains, cost] if cost else gains


def _cost(quality: Quality, winner: CandidateFacts) -> str:
    accuracy = winner.accuracy
    if accuracy is None:
        return ""
    if quality.kind == "top1" and accuracy.drop is not None:
        lost = text.points(accuracy.drop.value)
        return f"top-1 {lost[1:]} {'lower' if lost[0] == '+' else 'higher'}" if lost[0] in "+-" else "the same top-1"
    if accuracy.generated:
        return f"SQNR {text.decibel(accuracy.sqnr)} on generated inputs"
    if quality.kind == "agreement" and accuracy.agreement is not None:
        return f"the same answer on {text.percent(accuracy.agreement.value)} of samples"
    return f"SQNR {text.decibel(accuracy.sqnr)}" if quality.kind == "sqnr" else ""


def _named(report: Report, name: str) -> CandidateFacts | None:
    return next((candidate for candidate in report.candidates if candidate.name == name), None)


def _threads(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
