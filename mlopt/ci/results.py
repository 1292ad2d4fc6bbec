"""What `compile` and `bench` found, as CI systems think of it: a case for each budget, a gauge for each number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.ci.files import put_all
from mlopt.ci.junit import to_junit
from mlopt.ci.openmetrics import Gauge, to_openmetrics
from mlopt.ci.sarif import to_sarif
from mlopt.ci.suite import Case, Outcome, Suite
from mlopt.errors import MloptError
from mlopt.history.recorded import entries_of, origin
from mlopt.measurement import BudgetVerdict, Measurement
from mlopt.report import text, verdict

if TYPE_CHECKING:
    from mlopt.history.entry import Entry
    from mlopt.measure.bench import Benched, BenchResult
    from mlopt.profile import Profile
    from mlopt.report.report import CandidateFacts, Report

_OUTCOMES: Final[Mapping[str, Outcome]] = {"met": "pass", "missed": "fail", "unmeasured": "inconclusive"}


def write(
    files: Mapping[str, Path | None], suites: Sequence[Suite], found: Sequence[Mapping[str, Any]]
) -> list[MloptError]:
    """`junit`, `sarif` and `openmetrics` into the files that were asked for; gives what could not be written.

    `found` is the JSON of what the suites are of.
    """
    makers = {
        "junit": lambda: to_junit(suites),
        "sarif": lambda: to_sarif(suites),
        "openmetrics": lambda: to_openmetrics(gauges_of(found)),
    }
    return put_all((path, makers[name]()) for name, path in files.items() if path is not None)


def suite_of_report(report: Report) -> Suite:
    """The budgets of what ships, and one case for every other candidate, which says why it does not."""
    shipped = verdict.shipped(report)
    profile = str(report.profile.get("name", ""))
    cases = [_candidate(report, one) for one in report.candidates]
    return Suite(
        verb="compile",
        mlopt=report.mlopt,
        model=report.model.name,
        digest=report.model.digest,
        group=f"mlopt.compile.{report.target.name}.{profile}".rstrip("."),
        seconds=report.seconds,
        properties={"target": report.target.name, "profile": profile, "ships": report.winner},
        cases=(*cases, *(_budget(one) for one in (shipped.verdicts if shipped else ()))),
    )


def suites_of_bench(result: BenchResult, profile: Profile, seconds: float) -> list[Suite]:
    """One for each model: its clocks, and the budgets of the profile that need no samples."""
    each = seconds / len(result.models)
    return [
        _benched(result, name, one, profile, each) for name, one in zip(result.labelled, result.models, strict=True)
    ]


def gauges_of(found: Iterable[Mapping[str, Any]]) -> Iterator[Gauge]:
    """Of the JSON of results: one value for each model and number, and the ends of its interval."""
    at = origin()
    entries = [entry for one in found for entry in entries_of(one, at)]
    for end, help in _ENDS.items():
        values = [
            (_labels(entry, metric), getattr(number, end))
            for entry in entries
            for metric, number in entry.numbers.items()
        ]
        if entries:
            yield Gauge(f"mlopt_{entries[0].verb}_{end}", help, tuple(values))


_ENDS: Final = {
    "value": "What was measured, in seconds, bytes, samples per second or shares.",
    "low": "The lower end of its 95 % interval.",
    "high": "The upper end of its 95 % interval.",
}


def _labels(entry: Entry, metric: str) -> dict[str, str]:
    return {
        "model": entry.model,
        "variant": entry.variant,
        "runtime": entry.runtime,
        "batch": str(entry.batch),
        "threads": str(entry.threads),
        "device": entry.device,
        "metric": metric,
    }


def _candidate(report: Report, one: CandidateFacts) -> Case:
    if one.failure:
        return Case(one.name, "measured", "not compared", one.failure)
    said = [text.size(one.file_size)]
    if one.measurement:
        said = [_clocks(one.measurement), text.times(one.measurement.speedup), *said]
    role = "ships" if one.name == report.winner else one.why_not
    return Case(one.name, "measured", "pass", "; ".join(filter(None, (", ".join(said), role))))


def _benched(result: BenchResult, name: str, one: Benched, profile: Profile, seconds: float) -> Suite:
    from mlopt.choose import judge

    taken = one.measurement
    told = f"{_clocks(taken)}, {text.times(taken.speedup)}, {text.size(one.file_size)}"
    budgets = judge(profile.budgets, file_size=one.file_size, accuracy=None, measurement=taken)
    return Suite(
        verb="bench",
        mlopt=result.mlopt,
        model=name,
        digest=one.digest,
        group=f"mlopt.bench.{profile.name}",
        seconds=seconds,
        properties={"profile": profile.name, "runtime": taken.runtime, "device": taken.device},
        cases=(
            Case("clocks", "measured", "pass", told),
            *(_budget(one) for one in budgets if one.budget != "image-size"),
        ),
    )


def _clocks(taken: Measurement) -> str:
    return f"p50 {text.seconds(taken.latency.p50)}, p99 {text.seconds(taken.latency.p99)}"


def _budget(one: BudgetVerdict) -> Case:
    line = verdict.budget_line(one)
    told = f"{line.actual}, allowed {line.limit}"
    return Case(one.budget, "budget", _OUTCOMES[one.outcome], told, one.grade, one.note)
