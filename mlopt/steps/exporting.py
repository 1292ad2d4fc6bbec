"""What every export step shares: what it asks of its converter, and in which form the answer lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mlopt.artifact import Artifact
from mlopt.convert.process import Limits, Program, convert
from mlopt.errors import ExportFailed

# tf2onnx writes no newer one; the well-tested default of torch's exporter is the same.
TF2ONNX_OPSET: Final = 18


def export(
    program: Program,
    source: Artifact,
    into: Path,
    *,
    opset: int,
    inputs: Mapping[str, str],
    limits: Limits,
    **options: object,
) -> None:
    """Have `program` write `model.onnx` below `into`. Raises what the converter raises."""
    asked = {"model": str(source.main), "format": source.format, "into": str(into), "opset": opset, "inputs": inputs}
    convert(program, "export", limits, **asked, **options)
    if not (into / "model.onnx").is_file():
        raise ExportFailed(f"The {program} converter ended without an error and wrote no model.", where=str(into))
