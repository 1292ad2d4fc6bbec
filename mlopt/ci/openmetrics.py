"""OpenMetrics text: gauges that a Prometheus text-file collector or a push gateway takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlopt.report.text import cleaned


@dataclass(frozen=True, slots=True)
class Gauge:
    """One kind of number, and its values by their labels; what is not finite is left out."""

    name: str
    help: str
    values: tuple[tuple[Mapping[str, str], float | None], ...]


def to_openmetrics(gauges: Iterable[Gauge]) -> str:
    lines = []
    for gauge in gauges:
        lines += [f"# TYPE {gauge.name} gauge", f"# HELP {gauge.name} {gauge.help}"]
        for labels, value in gauge.values:
            if value is not None and math.isfinite(value):
                lines.append(f"{gauge.name}{{{_spelled(labels)}}} {float(value)!r}")
    return "\n".join([*lines, "# EOF"]) + "\n"


def _spelled(labels: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(cleaned(value))}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
