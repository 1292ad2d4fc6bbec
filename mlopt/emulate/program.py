"""A model's answers to queries in a file, computed by whatever runs this: this Python, or an image's in an emulator.

    python program.py RUNTIME MODEL QUERIES.npz ANSWERS.npz [HIDDEN,…]

It needs NumPy, the runtime and `mlopt.serve`, which are what an image holds. Queries are arrays named `number/input`.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(runtime: str, model: str, queries: str, answers: str, hidden: str = "") -> None:
    """Write every output of the model, stacked over the queries, one array for each output."""
    import numpy as np

    if hidden:
        from mlopt.emulate.hiding import hide

        hide(hidden.split(","))
    from mlopt.serve.runtimes import RUNTIMES

    run = RUNTIMES[runtime](Path(model), threads=1)
    with np.load(queries) as arrays:
        names = [str(name) for name in arrays["outputs"]]
        feeds: dict[int, dict[str, np.ndarray]] = {}
        for key in arrays.files:
            number, _, name = key.partition("/")
            if name:
                feeds.setdefault(int(number), {})[name] = arrays[key]
        results = [run(names, feeds[number]) for number in sorted(feeds)]
    stacked = {name: np.stack([each[place] for each in results]) for place, name in enumerate(names)}
    np.savez(answers, allow_pickle=False, **stacked)


if __name__ == "__main__":
    main(*sys.argv[1:])
