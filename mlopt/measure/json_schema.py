"""The JSON Schema of what `mlopt bench --json` prints, generated from the dataclasses that it is written from.

`python -m mlopt.measure.json_schema` writes it anew after a change of those; a test fails when it is stale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mlopt.measure.bench import BenchResult
from mlopt.report.json_schema import schema_text

FILE: Final = Path(__file__).parent / "schemas" / "bench.schema.json"


def text() -> str:
    """The schema as its file holds it."""
    return schema_text(BenchResult)


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text(), encoding="utf-8")
