"""The files of a report in a bundle: report.html, report.md, report.json and variants.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from mlopt.report.html import to_html
from mlopt.report.markdown import to_markdown
from mlopt.report.report import SCHEMA, CandidateFacts, LeftOut, Report, to_json


@dataclass(frozen=True, slots=True)
class Variants:
    """What variants.json holds: every candidate with its numbers and why not, without the single latencies."""

    schema: int
    mlopt: str
    model: str
    model_digest: str
    target: str
    baseline: str
    winner: str
    candidates: tuple[CandidateFacts, ...]
    left_out: tuple[LeftOut, ...]


def write_report(report: Report, into: Path) -> tuple[Path, ...]:
    """Write all four files into the folder `into`, which exists, and name them.

    The schemas of the JSON files ship beside this module, in schemas/.
    """
    texts = {
        "report.html": to_html(report),
        "report.md": to_markdown(report),
        "report.json": json_text(report),
        "variants.json": json_text(variants_of(report)),
    }
    for name, content in texts.items():
        # A name from a broken file can hold half a surrogate pair, which UTF-8 cannot.
        (into / name).write_text(content, encoding="utf-8", errors="backslashreplace")
    return tuple(into / name for name in texts)


def variants_of(report: Report) -> Variants:
    return Variants(
        schema=SCHEMA,
        mlopt=report.mlopt,
        model=report.model.name,
        model_digest=report.model.digest,
        target=report.target.name,
        baseline=report.baseline,
        winner=report.winner,
        candidates=tuple(_without_samples(candidate) for candidate in report.candidates),
        left_out=report.left_out,
    )


def json_text(value: object) -> str:
    """Any of the values of a report as JSON that every parser reads: NaN and infinity are null."""
    return json.dumps(to_json(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _without_samples(candidate: CandidateFacts) -> CandidateFacts:
    taken = candidate.measurement
    if taken is None:
        return candidate
    return replace(candidate, measurement=replace(taken, latency=replace(taken.latency, samples=())))
