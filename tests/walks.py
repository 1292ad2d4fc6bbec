"""What the tests of the whole walk share: a quick profile, labelled samples, and the command line in a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from mlopt.image.fetch import Inputs

FAST = """\
schema = 1
summary = "quick, for tests"
{minimize}
[budgets]
{budgets}
[method]
warm-up = 1
rounds = 4
seconds = "200ms"
offline-batch = 4
"""


def profile(folder: Path, budgets: str = 'max-drop = "20%"', *, name: str = "fast", minimize: str = "latency") -> Path:
    """A profile file whose method takes a fraction of a second."""
    path = folder / f"{name}.toml"
    path.write_text(FAST.format(budgets=budgets, minimize=f'minimize = "{minimize}"'))
    return path


def labelled(path: Path, model: Path, *, count: int = 48, shape: tuple[int, ...] = (3, 32, 32)) -> Path:
    """An .npz with what the model itself answers as labels, so that its top-1 is 100 %."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    x = np.random.default_rng(1).standard_normal((count, *shape)).astype(np.float32)
    y = session.run(None, {name: x})[0].argmax(axis=1)
    np.savez(path, x=x, y=y)
    return path


def mlopt(
    *arguments: str | Path, cwd: Path, env: dict[str, str] | None = None, limit: float = 120
) -> subprocess.CompletedProcess[str]:
    """`mlopt …` in a process of its own, at 80 columns and without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "mlopt", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80", **(env or {})},
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )


def borrow_inputs(inputs: Inputs, store: Path) -> None:
    """Let a store of a test's own use the parts of images that are there already."""
    store.mkdir(parents=True, exist_ok=True)
    for part in ("inputs", "interpreters"):
        if (inputs.root / part).is_dir():
            (store / part).symlink_to(inputs.root / part)
