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
        + f". Widths in multiples of {facts['multiple']}. Latency at batch 1, one thread: the median of "
        f"{facts['rounds']} interleaved rounds' ratios to the whole model in float32 in ONNX Runtime, with the second "
        "lowest and second highest.",
        "",
        "## Trained models: layers fitted on calibration samples",
        "",
        "| model (calibration, evaluation samples) | work gone | top-1 before | top-1 lost, points (95 %) | speed-up |",
        "|---|---|---|---|---|",
        *(
            f"| {name} ({one['calibration']}, {one['evaluation']}) | {at['gone']:.1%} "
            f"| {one['top1']:.1%} | {_points(at['drop'])} | {_ratio(at['speedup'])} |"
            for name, one in facts["real"].items()
            for at in one["shares"].values()
        ),
        "",
        "## Trained models, fine-tuned and quantized",
        "",
        "| model (training, evaluation samples; passes; what is learnt) | variant "
        "| work gone | top-1 lost, points (95 %) | speed-up |",
        "|---|---|---|---|---|",
        *(
            f"| {name.partition('-')[0]} ({one['training']}, {one['evaluation']}; {one['epochs']}; "
            f"{'answers and labels' if one['labels'] else 'answers'}) | {_variant(label)} "
            f"| {0.0 if label.startswith('whole') else one['gone']:.1%} | {_points(at['drop'])} "
            f"| {_ratio(at['speedup'])} |"
            for name, one in facts.get("tuned", {}).items()
            for label, at in one["variants"].items()
        ),
        "",
        "## Shapes with random weights: latency, and what int8 changes of the answers",
        "",
        "| shape | variant | work gone | speed-up | SQNR to the same in float32 |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {_variant(label)} | {at['gone']:.1%} | {_ratio(at['speedup'])} | {_decibel(at)} |"
            for name, one in facts["shapes"].items()
            for label, at in one["variants"].items()
        ),
        "",
    ]
    into.with_suffix(".md").write_text("\n".join(rows))


LABELS = {
    "whole": "whole",
    "fine-tuned": "pruned and fine-tuned",
    "aligned": "widths in multiples",
    "unaligned": "any width",
    "zeros": "75 % of the weights zero, no channel gone",
}


def _points(drop: list[float]) -> str:
    value, low, high = (100 * one for one in drop)
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _variant(label: str) -> str:
    """`aligned, openvino-int8`: what it is, and by which recipe."""
    what, _, recipe = label.partition(", ")
    return f"{LABELS[what]}, {recipe}" if recipe else LABELS[what]


def _decibel(at: Mapping[str, Any]) -> str:
    return f"{at['sqnr']:.1f} dB" if "sqnr" in at else ""


def _ratio(seen: Mapping[str, float]) -> str:
    return f"{seen['median']:.2f} ({seen['low']:.2f} to {seen['high']:.2f})"
