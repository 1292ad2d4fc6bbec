"""Run a source on given feeds and keep what it answers: the part that is the same for every framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlopt.array_files import load_arrays, save_arrays
from mlopt.convert.program import Request
from mlopt.convert.rows import join_rows, split_rows

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]
    Run = Callable[[Arrays], Arrays]


def write_reference(request: Request, run: Run, *, by_row: bool) -> None:
    """Answer every set of `request["feeds"]` into `request["into"]`.

    `by_row` feeds a source that takes a fixed batch of one its rows one by one, and joins the answers. With
    `request["watch"]` the inner values of those names are kept too, for the rows of the first set only.
    """
    axes_in, axes_out = request["input_axes"], request["output_axes"]
    for number, feeds in enumerate(load_arrays(Path(request["feeds"]))):
        if by_row and axes_in:
            rows = [dict(run(row)) for row in split_rows(feeds, axes_in)]
            leading = {name: 0 for name, value in rows[0].items() if name in request["watch"] and value.ndim}
            answer = join_rows(rows, {**leading, **axes_out})
        else:
            answer = dict(run(feeds))
        save_arrays(Path(request["into"]), number, answer)
