"""The first query of a model runs in a process of its own: a runtime that crashes ends that process, not the run.

`python -m mlopt.runners.trial RUNTIME MODEL FEEDS` loads the model, infers once, and says nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlopt import registry
from mlopt.array_files import load_arrays, save_arrays
from mlopt.errors import UnsupportedModel, WorkerFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from mlopt.runners.runner import Runner

_LIMIT: Final = 600.0
_REFUSED: Final = 4
_ANSWERED: Final[set[tuple[str, Path]]] = set()


def answered(runtime: str, model: Path) -> None:
    """`model` has answered in this very process, in that runtime: `survive` need not try it elsewhere."""
    _ANSWERED.add((runtime, model))


def survive(runtime: str, model: Path, feeds: Mapping[str, np.ndarray]) -> None:
    """Load `model` and run one query elsewhere, unless it is known that this can be done.

    Raises `UnsupportedModel` when the runtime refuses it, `WorkerFailed` when the runtime dies of it or hangs.
    """
    if (runtime, model) in _ANSWERED:
        return
    with tempfile.TemporaryDirectory(prefix="mlopt-trial-") as scratch:
        save_arrays(Path(scratch), 0, feeds)
        command = [sys.executable, "-m", "mlopt.runners.trial", runtime, str(model), scratch]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
        except subprocess.TimeoutExpired:
            raise WorkerFailed(f"{runtime} did not answer one query within {_LIMIT:.0f} s.", where=str(model)) from None
    if ended.returncode == _REFUSED:
        raise UnsupportedModel(ended.stderr.strip(), where=str(model))
    if ended.returncode:
        code = ended.returncode
        how = f"died with signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        last = ended.stderr.strip().splitlines()[-1:] or ["it printed nothing"]
        raise WorkerFailed(f"{runtime} {how} on its first query: {last[0][:300]}", where=str(model))
    answered(runtime, model)


def main(runtime: str, model: str, feeds: str) -> int:
    """Exit code 0 when it answered, `_REFUSED` with the reason on stderr when the runtime said no."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    kind: type[Runner] = registry.load("mlopt.runners", runtime)
    (given,) = load_arrays(Path(feeds))
    try:
        with kind(Path(model), threads=1) as runner:
            runner.infer(given)
    except UnsupportedModel as error:
        print(error.what, file=sys.stderr)
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
