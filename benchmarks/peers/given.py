"""What a peer's program is given and gives back. It runs in the peer's own environment: with numpy alone.

    python <peer>.py REQUEST.json     model, calibration, variant, max_drop, attention, out

It leaves `out/model.onnx`, and `out/said.json` with versions and whatever else it can tell (how often it evaluated).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Given:
    model: Path
    calibration: Path
    variant: str
    max_drop: float
    attention: bool
    keras: str
    evaluation: Path
    out: Path

    @property
    def result(self) -> Path:
        return self.out / "model.onnx"

    def arrays(self) -> dict[str, np.ndarray]:
        """All calibration samples by input name."""
        return self._load(self.calibration)[0]

    def labels(self) -> np.ndarray | None:
        return self._load(self.calibration)[1]

    def feeds(self) -> Iterator[dict[str, np.ndarray]]:
        """Calibration samples one by one, each with a batch dimension of 1."""
        yield from _rows(self.arrays())

    def evaluated(self) -> Iterator[dict[str, np.ndarray]]:
        yield from _rows(self._load(self.evaluation)[0])

    @staticmethod
    def _load(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        with np.load(path) as found:
            arrays = {name: found[name] for name in found.files}
        return arrays, arrays.pop("y", None)


def run(quantise: Callable[[Given], Mapping[str, Any] | None], *distributions: str) -> None:
    """Call `quantise` with the request named on the command line, and write down what it said."""
    said = json.loads(Path(sys.argv[1]).read_text())
    paths = ("model", "calibration", "evaluation", "out")
    given = Given(**{key: Path(value) if key in paths else value for key, value in said.items()})
    began = time.monotonic()
    told = quantise(given) or {}
    facts = {
        "seconds_inside": time.monotonic() - began,
        "versions": {name: metadata.version(name) for name in distributions},
    }
    (given.out / "said.json").write_text(json.dumps(facts | dict(told), indent=1))


def _rows(arrays: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    for row in range(len(next(iter(arrays.values())))):
        yield {name: array[row : row + 1] for name, array in arrays.items()}
