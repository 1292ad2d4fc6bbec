"""A model's answers to queries in a file, computed by whatever runs this: this Python, or an image's in an emulator.

    python program.py RUNTIME MODEL QUERIES.npz ANSWERS.npz [HIDDEN,…]

It needs NumPy, the runtime and `mlopt.serve`, which are what an image holds. Queries are arrays
in order: the names of the outputs, those of the inputs, then every input of the first query, of the second, ….
Answers: the names of the outputs, then each of them.
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
        outputs, inputs, *given = (arrays[key] for key in arrays.files)
    names, width = [str(name) for name in outputs], len(inputs)
    feeds = [dict(zip(inputs.tolist(), given[at : at + width], strict=True)) for at in range(0, len(given), width)]
    results = [run(names, feed) for feed in feeds]
    # By place: np.savez has parameters of its own, and an output may have the name of one.
    np.savez(answers, outputs, *[np.stack([each[place] for each in results]) for place in range(len(names))])


if __name__ == "__main__":
    main(*sys.argv[1:])
