"""What a run found out about the image it made: the report's own words, small enough to be kept beside the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlopt.errors import ConfigInvalid
from mlopt.image.statements import Statement
from mlopt.intervals import proportion

if TYPE_CHECKING:
    from mlopt.bundle import Bundle

KIND: Final = "application/vnd.mlopt.evidence.v1+json"
SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Evidence:
    """Figures of one run. Seconds, bytes, shares; None where nothing was measured. `p50_high` and `top1_low` are the
    ends of the 95 % intervals by which limits are judged; `device` is where the clocks were read."""

    target: str
    status: str
    recipe: str
    source: str
    started: str
    file_size: int
    device: str
    p50: float | None
    p50_high: float | None
    peak_memory: int | None
    top1: float | None
    top1_low: float | None
    drop_high: float | None
    samples: int


def evidence_of(bundle: Bundle) -> Statement:
    """What is attached to the image of a bundle. Raises `ConfigInvalid` when its report cannot be read."""
    try:
        report = bundle.report
        shipped = next(one for one in report["candidates"] if one["name"] == report["winner"])
        if shipped["measurement"]:
            shipped["measurement"]["latency"].pop("samples", None)
        content = {
            "schema": SCHEMA,
            "kind": "mlopt-evidence",
            "mlopt": report["mlopt"],
            "started": report["started"],
            "status": bundle.manifest["status"],
            "target": bundle.manifest["target"],
            "source": bundle.manifest["model"]["digest"],
            "candidate": shipped,
        }
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise ConfigInvalid(
            f"The bundle's report cannot be read: {error!r}", where=str(bundle.path), next="mlopt compile makes it anew"
        ) from error
    return Statement(KIND, content, {"org.opencontainers.image.created": report["started"]})


def read_evidence(content: Mapping[str, Any], *, where: str) -> Evidence:
    """Raises `ConfigInvalid` for what is no evidence, or of another version."""
    try:
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r}, and this mlopt reads {SCHEMA}")
        shipped = content["candidate"]
        clocks, answers = shipped["measurement"], shipped["accuracy"]
        labelled = answers and answers["top1"] is not None
        right = round(answers["top1"] * answers["samples"]) if labelled else 0
        return Evidence(
            target=content["target"],
            status=content["status"],
            recipe=shipped["name"],
            source=content["source"],
            started=content["started"],
            file_size=shipped["file_size"],
            device=clocks["device"] if clocks else "",
            p50=clocks["latency"]["p50"] if clocks else None,
            p50_high=clocks["latency"]["p50_high"] if clocks else None,
            peak_memory=clocks["peak_memory"] if clocks else None,
            top1=answers["top1"] if labelled else None,
            top1_low=proportion(right, answers["samples"]).low if labelled else None,
            drop_high=answers["drop"]["high"] if answers and answers["drop"] else None,
            samples=answers["samples"] if answers else 0,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigInvalid(
            f"The evidence about the image cannot be read: {error!r}", where=where, next="compile and push again"
        ) from error


def newest(found: list[Statement], *, where: str) -> Evidence | None:
    """Of several runs that made this image, the one that began last."""
    read = [read_evidence(one.content, where=where) for one in found]
    return max(read, key=lambda one: one.started, default=None)
