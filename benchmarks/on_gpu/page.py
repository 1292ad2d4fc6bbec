"""gpu-DEVICE.json as a page: tables of times and ratios, what was skipped and why."""

from __future__ import annotations

from typing import Any

TITLES = {
    "nets": "Nets by precision",
    "widths": "Pruned channel widths, fp16, CUDA graph, 70 % of the inner channels",
    "products": "Matrix products",
    "sparsity": "2:4 sparse weights",
    "tensorrt-rtx": "TensorRT for RTX",
    "onnxruntime-cuda": "ONNX Runtime on its CUDA provider",
    "mlopt": "mlopt's own runner on the CUDA provider, beside the CPU of this machine",
    "compiled": "torch.compile, fp16",
}


def markdown(found: dict[str, Any]) -> str:
    """The whole page; every figure in it is in the JSON too."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    about = [
        f"compute capability {machine['compute_capability']}, driver {machine['driver']}, CUDA {machine['cuda']}, "
        f"cuDNN {machine['cudnn']}"
        if "driver" in machine
        else "no GPU",
        f"{machine['system']}, Python {machine['python']}",
        versions,
    ]
    lines = [
        "# On an NVIDIA GPU",
        "",
        f"Device: {machine['device']}; {'; '.join(about)}.",
        "",
        "Random weights: times and memory, no accuracy. A time runs from the call until the GPU is idle again "
        "(synchronised host clock). Variants are visited in turned order every round; times faster is the median of "
        "the per-round ratios to the first row (least to most). Clocks and power were read, never set.",
    ]
    for name, part in found["parts"].items():
        lines += ["", f"## {TITLES[name]}", "", f"`{part['command']}`, {part['seconds']:.0f} s{_clocks(part)}", ""]
        lines += [f"* skipped {what}" for what in part["skipped"]]
        if name == "tensorrt-rtx" and "found" in part:
            lines += _outcomes(part["found"])
        else:
            lines += [line for case, rows in part.get("found", {}).items() for line in _table(case, rows)]
    return "\n".join(lines) + "\n"


def _clocks(part: dict[str, Any]) -> str:
    after = part.get("after") or {}
    if "sm_clock_mhz" not in after:
        return ""
    return f"; after it {after['sm_clock_mhz']} MHz, {after['power_w']} W of {after['power_limit_w']} W"


def _table(case: str, rows: Any) -> list[str]:
    if not isinstance(rows, dict):
        return [f"{case}: {rows}", ""]
    more = {
        "of_the_work": ("arithmetic left", lambda value: f"{value:.0%}"),
        "compile_seconds": ("compiled in", lambda value: f"{value:.0f} s"),
        "peak_memory": ("memory", lambda value: f"{value / 1e6:.0f} MB"),
        "sqnr_db": ("SQNR", lambda value: f"{value:.1f} dB"),
        "tera_operations_per_second": ("10¹² operations/s", lambda value: f"{value:.1f}"),
        "relative_difference": ("relative difference", lambda value: f"{value:.1e}"),
        "on_the_gpu": ("on the GPU", str),
        "nodes_by_provider": ("nodes", lambda value: ", ".join(f"{count} {name}" for name, count in value.items())),
    }
    used = {key: how for key, how in more.items() if any(row.get(key) for row in rows.values())}
    head = ["", "p50", "p95", "times faster", *(title for title, _ in used.values())]
    lines = [f"**{case}**", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        faster = row["times_faster"]
        cells = [
            name,
            f"{row['p50'] * 1e3:.3f} ms",
            f"{row['p95'] * 1e3:.3f} ms",
            f"{faster['median']:.2f}× ({faster['least']:.2f} to {faster['most']:.2f})",
            *(how(row[key]) if row.get(key) else "" for key, (_, how) in used.items()),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _outcomes(found: dict[str, Any]) -> list[str]:
    lines = [f"Version {found['version']}, a small convolutional net, fp32.", ""]
    lines += ["| asked for | engine | valid here | loads | runs | it said |", "|---|---|---|---|---|---|"]
    for name, one in found["outcomes"].items():
        built = f"{one['built_bytes']} bytes" if one.get("built_bytes") else "none"
        said = one.get("error") or next(iter(one["said"]), "")
        cells = [name, built, str(one.get("validity", "")), str(one.get("loads", "")), str(one.get("runs", "")), said]
        lines.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
    return lines
