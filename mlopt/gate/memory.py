"""Peak memory and instructions of fresh processes, as many as it takes to see that what differs is the model."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field, replace
from typing import Final

from mlopt.gate.result import Check, Verdict
from mlopt.intervals import FEWEST, of_ratio
from mlopt.measure.alone import Fresh, Given, started
from mlopt.measure.interleave import Subject
from mlopt.measurement import Interval

_LOOKS: Final = (4, 8)
"""Processes of each side after which the verdict is looked for, in vain for the last time after the second."""
_ERRORS: Final = (0.015, 0.01)
"""On each side, at those looks: 2.5 % together. Of four and four all have to be on one side (1 order of 70)."""
_QUERIES: Final = 20  # of which instructions are counted


@dataclass(slots=True)
class Processes:
    """Every fresh process that ran a side."""

    baseline: Fresh = field(default_factory=Fresh)
    candidate: Fresh = field(default_factory=Fresh)

    @property
    def memory(self) -> Interval:
        """By what share the candidate's peak is higher."""
        peaks = self.candidate.peaks, self.baseline.peaks
        found = of_ratio(*peaks, error=_ERRORS[self._fewest >= _LOOKS[1]])
        method = f"VmHWM of {len(peaks[0])} and {len(peaks[1])} fresh processes, {found.method.partition(',')[0]}, 95 %"
        return replace(found, method=method)

    def missing(self, margin: float) -> int:
        """How many more of each the verdict takes; none once it is there, or not to be had."""
        if self._fewest >= _LOOKS[0] and self._verdict(margin) != "inconclusive":
            return 0
        return next((look - self._fewest for look in _LOOKS if look > self._fewest), 0)

    def check(self, margin: float) -> Check:
        before, now = (statistics.median(side.peaks) for side in (self.baseline, self.candidate))
        verdict, change = self._verdict(margin), self.memory
        told = change.method if verdict != "inconclusive" else _FEW if self._fewest < _LOOKS[0] else _APART
        return Check("peak-memory", "regression", verdict, "bytes", before, now, change, margin, change.method, told)

    @property
    def _fewest(self) -> int:
        return min(len(self.candidate.peaks), len(self.baseline.peaks))

    def _verdict(self, margin: float) -> Verdict:
        change = self.memory
        return "fail" if change.low > margin else "pass" if change.high <= margin else "inconclusive"


_FEW: Final = "too few processes to tell: store the baseline anew with this mlopt, or give its model"
_APART: Final = "processes of one model differ too much here to tell"


def probe(
    found: Processes,
    candidate: Subject,
    baseline: Subject,
    *,
    margin: float | None,
    bounded: bool,
    given: Given,
) -> None:
    """Start fresh processes: of the candidate as many as a bound takes where it is `bounded`, and of both sides in turn
    until the verdict is there where there is a `margin`. Raises `WorkerFailed`."""
    sides = [(found.candidate, candidate), (found.baseline, baseline)]
    with given.written() as folders:
        while bounded and len(found.candidate.peaks) < FEWEST:
            found.candidate.add(candidate, folders, given)
        while margin is not None and found.missing(margin):
            for number in range(found.missing(margin)):
                for seen, subject in sides if number % 2 else sides[::-1]:
                    seen.add(subject, folders, given)


def instructions(candidate: Subject, baseline: Subject, given: Given) -> tuple[int, int] | None:
    """Of a query of each: the fewest of several, for what comes on top is not the model's. None where the processor's
    counters cannot be read. Raises `WorkerFailed`."""
    found = []
    with given.written() as folders:
        for subject in (candidate, baseline):
            with started(subject, *folders, threads=given.method.threads, counting=True) as worker:
                worker.ask("query", count=max(1, given.method.warm_up))
                counts = worker.ask("instructions", count=_QUERIES)["instructions"]
            if not counts:
                return None
            found.append(min(counts))
    return found[0], found[1]
