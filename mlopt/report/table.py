"""The table of candidates as text cells, each with the grade of its evidence: HTML, Markdown and terminal share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from mlopt.measurement import Accuracy, Grade, Measurement
from mlopt.report import text, verdict
from mlopt.report.quality import Quality, quality_of
from mlopt.report.report import CandidateFacts, Report


@dataclass(frozen=True, slots=True)
class Column:
    """A number that candidates have. `key` finds it in a row; `help` says in a sentence what it is."""

    key: str
    heading: str
    help: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A number as text. `detail` is its interval; `source` the device and method that `grade` speaks of."""

    text: str
    detail: str
    grade: Grade
    source: str


@dataclass(frozen=True, slots=True)
class Row:
    candidate: CandidateFacts
    role: verdict.Role
    is_baseline: bool
    cells: Mapping[str, Cell]

    @property
    def word(self) -> str:
        """What became of it in a word; a baseline that others outdo is not thereby a loser."""
        return "baseline" if self.is_baseline and self.role in ("out", "unmeasured") else verdict.ROLE_WORDS[self.role]

    @property
    def reason(self) -> str:
        """Why it does not ship: empty for what does."""
        return self.candidate.failure or self.candidate.why_not


@dataclass(frozen=True, slots=True)
class Table:
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


_COLUMNS: Final = (
    Column("size", "size", "the model's files on disk"),
    Column("p50", "p50", "half of the single queries took no longer than this"),
    Column("p90", "p90", "90 % of the single queries took no longer than this"),
    Column("p99", "p99", "99 % of the single queries took no longer than this"),
    Column("speedup", "speed-up", "baseline latency / candidate latency, median over rounds, with 95 % interval"),
    Column("throughput", "throughput", "samples per second in batches"),
    Column("load", "load", "from opening the file to a session that can infer"),
    Column("memory", "peak memory", "the most a fresh process held that ran only this model (VmHWM)"),
    Column("gpu_memory", "GPU memory", "the most that a fresh process held of the card"),
)
_QUALITY_COLUMNS: Final = (
    Column("top1", "top-1", "share of labelled samples whose best answer is the label"),
    Column("drop", "drop", "baseline top-1 minus candidate top-1, paired by sample; above zero is worse"),
    Column("agreement", "agreement", "share of samples with the same best answer as the baseline"),
    Column("cosine", "cosine", "mean cosine of outputs against the baseline, the worst output"),
    Column("sqnr", "SQNR", "signal to quantization noise against the baseline, the worst output"),
)

_TIMES: Final[Mapping[str, Callable[[Measurement], str]]] = {
    "p50": lambda taken: text.seconds(taken.latency.p50),
    "p90": lambda taken: text.seconds(taken.latency.p90),
    "p99": lambda taken: text.seconds(taken.latency.p99),
    "speedup": lambda taken: text.times(taken.speedup.value),
    "throughput": lambda taken: text.rate(taken.throughput),
    "load": lambda taken: text.seconds(taken.load_time),
    "memory": lambda taken: text.size(taken.peak_memory),
    "gpu_memory": lambda taken: text.size(taken.gpu.memory if taken.gpu else None),
}
_ANSWERS: Final[Mapping[str, Callable[[Accuracy], str]]] = {
    "top1": lambda found: text.percent(found.top1),
    "drop": lambda found: text.points(found.drop.value) if found.drop else text.ABSENT,
    "agreement": lambda found: text.percent(found.agreement.value) if found.agreement else text.ABSENT,
    "cosine": lambda found: text.cosine(found.cosine),
    "sqnr": lambda found: text.decibel(found.sqnr),
}


def table_of(report: Report) -> Table:
    """Every candidate, what ships first, then the eligible, then the rest, each in the order of the plan.

    A column of which no candidate has a number is left out, except latency: that nothing was timed must be seen.
    """
    quality = quality_of(report)
    rows = sorted((_row(report, quality, candidate) for candidate in report.candidates), key=_rank)
    columns = [column for column in _COLUMNS if column.key == "p50" or _any(rows, column.key)]
    unneeded = {"agreement"} if quality.kind == "top1" else set()  # labels say more
    columns += [column for column in _QUALITY_COLUMNS if _any(rows, column.key) and column.key not in unneeded]
    return Table(tuple(columns), tuple(rows))


def _rank(row: Row) -> int:
    return ("ships", "eligible", "unmeasured", "out", "failed").index(row.role)


def _any(rows: list[Row], key: str) -> bool:
    return any(row.cells[key].text != text.ABSENT for row in rows)


def _row(report: Report, quality: Quality, candidate: CandidateFacts) -> Row:
    cells = {"size": _size(candidate)}
    cells |= {key: _time(report, candidate, key) for key in _TIMES}
    cells |= {key: _answer(report, quality, candidate, key) for key in _ANSWERS}
    return Row(candidate, verdict.role(report, candidate), candidate.name == report.baseline, cells)


def _size(candidate: CandidateFacts) -> Cell:
    if candidate.failure:
        return _no_number("there is no file: this candidate failed")
    return Cell(text.size(candidate.file_size), "", "measured", "bytes of the files on disk")


def _time(report: Report, candidate: CandidateFacts, key: str) -> Cell:
    taken = candidate.measurement
    if taken is None:
        here = "it was not timed" if report.target.this_machine else f"this machine is not {report.target.name}"
        return _no_number("this candidate failed" if candidate.failure else here)
    if key == "gpu_memory" and (taken.gpu is None or taken.gpu.memory is None):
        return _no_number(taken.gpu.memory_method if taken.gpu else "it ran on no GPU")
    show = _TIMES[key](taken)
    if show == text.ABSENT:
        return _no_number("the run gave no such number")
    detail, method = "", verdict.how_measured(taken)
    if key == "speedup":
        detail, method = text.times(taken.speedup).partition(" ")[2], f"{method}; {taken.speedup.method}"
    if key == "throughput":
        method = f"{method}; batches of {taken.offline_batch}"
    if key == "memory":
        before = text.size(taken.memory_after_import)
        method = f"{method}; {before} of it was there before the model was loaded"
    if key == "gpu_memory" and taken.gpu:
        method = f"{method}; {taken.gpu.memory_method}"
    return Cell(show, detail, taken.grade, method)


def _answer(report: Report, quality: Quality, candidate: CandidateFacts, key: str) -> Cell:
    found = candidate.accuracy
    if found is None:
        level = quality.levels.get(candidate.name)
        if level is not None and key == quality.kind:
            return Cell(quality.show(level.value), "", "measured", "the baseline: the others are compared with it")
        return _no_number("this candidate failed" if candidate.failure else "not evaluated")
    detail = ""
    method = f"{found.grade} on {found.device}, {text.count(found.samples)} {_kind_of_samples(found)}"
    if key == "drop" and found.drop is not None:
        detail, method = text.points(found.drop).partition(" pt ")[2], f"{method}; {found.drop.method}"
    if key == "agreement" and found.agreement is not None:
        detail, method = text.share(found.agreement).partition(" % ")[2], f"{method}; {found.agreement.method}"
    if candidate.name == report.baseline:
        detail = ""
    if (shown := _ANSWERS[key](found)) == text.ABSENT:
        return _no_number(
            "it needs labels" if key in ("top1", "drop") else f"there is none for these outputs; {method}"
        )
    return Cell(shown, detail, found.grade, method)


def _kind_of_samples(found: Accuracy) -> str:
    if found.generated:
        return "generated samples (random numbers, not data)"
    return "labelled samples" if found.labelled else "samples without labels"


def _no_number(reason: str) -> Cell:
    return Cell(text.ABSENT, "", "unmeasured", reason)
