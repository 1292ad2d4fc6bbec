"""`mlopt inspect MODEL`: what a file, a folder or a bundle holds, without running any of it."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

import click

from mlopt.commands.options import model_argument


@click.command(name="inspect")
@model_argument
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(model: Path, as_json: bool) -> None:
    """Show the format of MODEL; for ONNX its inputs, outputs and operators; for a bundle what ships and why."""
    facts = _bundle(model) if (model / "bundle.json").is_file() else _model(model)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    width = max(len(key) for key in facts)
    columns = shutil.get_terminal_size((100, 24)).columns
    for key, value in facts.items():
        rows = value if isinstance(value, list) else [value]
        for number, row in enumerate(rows):
            head = f"{key if number == 0 else '':<{width}}  "
            told = textwrap.wrap(str(row), max(20, columns - width - 2), break_long_words=False, break_on_hyphens=False)
            click.echo(head + f"\n{' ' * (width + 2)}".join(told))


def _bundle(path: Path) -> dict[str, Any]:
    from mlopt.bundle import Bundle

    manifest = Bundle.load(path).manifest
    winner = manifest["winner"]
    source = manifest["model"]
    return {
        "bundle": str(path),
        "model": f"{source['name']} ({source['format']}, sha256:{source['digest'][:12]})",
        "target": manifest["target"],
        "profile": manifest["profile"],
        "status": manifest["status"],
        "ships": f"{winner['recipe']} ({winner['precision']}, {winner['runtime']}, sha256:{winner['digest'][:12]})",
        "why": winner["why"],
        "engines": [_engine(name, one) for name, one in manifest.get("engines", {}).items()] or "none",
        "for the device": [f"device/ builds {name}" for name in manifest.get("device-builds", [])] or "nothing",
        "image": manifest["image"]["reference"] + " " + manifest["image"]["digest"] if manifest["image"] else "none",
        "files": sorted(manifest["files"]),
    }


def _engine(name: str, facts: dict[str, Any]) -> str:
    from mlopt.report.text import seconds, size

    time = f", p50 {seconds(facts['latency']['p50'])}" if "latency" in facts else ""
    return f"{name}: {size(facts['bytes'])}, sha256:{facts['sha256'][:12]}, {facts['state']}{time}"


def _model(path: Path) -> dict[str, Any]:
    from collections import Counter

    from mlopt.artifact import ONNX, digest_of
    from mlopt.errors import ModelNotFound
    from mlopt.sniff import sniff
    from mlopt.units import format_bytes

    if not path.exists():
        raise ModelNotFound(
            "There is no model at this path.", where=str(path), next="give a file or a SavedModel folder"
        )
    if bundles := sorted(str(found.parent) for found in [*path.glob("*/bundle.json"), *path.glob("*/*/bundle.json")]):
        raise ModelNotFound(
            "This folder holds bundles, and is none itself.", where=str(path), next=f"mlopt inspect {bundles[0]}"
        )
    sniffed = sniff(path)
    size = (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )
    facts: dict[str, Any] = {"file": str(path), "format": sniffed.format, "size": format_bytes(size)}
    facts["sha256"] = digest_of(path)
    if sniffed.code:
        facts["runs code"] = f"when loaded: {', '.join(sniffed.code[:3])}; needs --trust"
    if sniffed.format != ONNX:
        return facts
    import onnx

    from mlopt.prune.sparsity import WORTH_SAYING, sparsity_of, used_by
    from mlopt.signature import signature_of, walk

    found = signature_of(path)
    model = onnx.load(str(path), load_external_data=False)
    operators = Counter(node.op_type for node in walk(model.graph))
    if (sparsity := sparsity_of(model)).share >= WORTH_SAYING:
        facts["zeros"] = f"{sparsity}; {used_by(tensor_cores=False, engine=False)}"
    return facts | {
        "opset": found.opset,
        "parameters": f"{found.parameters:,}",
        "inputs": [_tensor(tensor.name, tensor.dtype, tensor.shape) for tensor in found.inputs],
        "outputs": [_tensor(tensor.name, tensor.dtype, tensor.shape) for tensor in found.outputs],
        "operators": ", ".join(f"{name} {count}" for name, count in operators.most_common()),
    }


def _tensor(name: str, dtype: str, shape: tuple[int | str, ...]) -> str:
    return f"{name}: {dtype}[{', '.join(map(str, shape))}]"
