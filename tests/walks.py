"""What the tests of the whole walk share: a quick profile, labelled samples, and the command line in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nets
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


def small_place(folder: Path) -> Path:
    """The folder with a net, samples that it labels itself and quick profiles; its store serves all that `run` does."""
    model = nets.save(nets.conv_net(width=64), folder / "net.onnx")
    labelled(folder / "samples.npz", model)
    profile(folder)
    profile(folder, 'max-drop = "20%"', name="small", minimize="size")
    return folder


def run(place: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`mlopt …` in a place."""
    return mlopt(*arguments, cwd=place, env={"MLOPT_CACHE_DIR": str(place / "store")})


def compiled(place: Path, *arguments: str | Path, out: Path) -> tuple[dict[str, Any], Path]:
    """The report that --json gives, and the bundle's folder, of a compile without image that ends well."""
    ended = run(place, "compile", "net.onnx", "-p", "./fast.toml", "--no-image", "--json", "-o", out, *arguments)
    assert ended.returncode == 0, ended.stderr
    report: dict[str, Any] = json.loads(ended.stdout)
    return report, out / "net" / report["target"]["name"]
