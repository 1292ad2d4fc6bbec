"""The figures of benchmarks/pruning.py as JSON, and as the tables that are made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def publish(facts: dict[str, Any], into: Path) -> None:
    into.write_text(json.dumps(facts, indent=1, default=float) + "\n")
    rows = [
        "# Pruning",
        "",
        f"`{facts['command']}`",
        "",
        f"Machine: {facts['machine']}. "
        + ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        + f". Widths in multiples of {facts['multiple']}. Latency at batch 1, one thread, ONNX Runtime: the median of "
        f"{facts['rounds']} interleaved rounds' ratios to the whole model, with the second lowest and second highest.",
        "",
        "## Trained models: layers fitted on calibration samples, then fine-tuned where it says so",
        "",
        "| model (calibration, evaluation samples) | work gone | top-1 before | top-1 lost, points (95 %) | speed-up |",
        "|---|---|---|---|---|",
        *(
            f"| {name} ({one['calibration']}, {one['evaluation']}) | {at['gone']:.1%}{_trained(share)} "
            f"| {one['top1']:.1%} | {_points(at['drop'])} | {_ratio(at['speedup'])} |"
            for name, one in facts["real"].items()
            for share, at in one["shares"].items()
            if "speedup" in at
        ),
        "",
        "## Shapes with random weights: latency alone",
        "",
        "| shape | variant | work gone | speed-up |",
        "|---|---|---|---|",
        *(
            f"| {name} | {LABELS[label]} | {at['gone']:.1%} | {_ratio(at['speedup'])} |"
            for name, one in facts["shapes"].items()
            for label, at in one["variants"].items()
        ),
        "",
    ]
    into.with_suffix(".md").write_text("\n".join(rows))


LABELS = {
    "aligned": "widths in multiples",
    "unaligned": "any width",
    "zeros": "75 % of the weights zero, no channel gone",
}


def _points(drop: list[float]) -> str:
    value, low, high = (100 * one for one in drop)
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _trained(share: str) -> str:
    return f", fine-tuned{share.partition(',')[2]}" if "," in share else ""


def _ratio(seen: Mapping[str, float]) -> str:
    return f"{seen['median']:.2f} ({seen['low']:.2f} to {seen['high']:.2f})"
