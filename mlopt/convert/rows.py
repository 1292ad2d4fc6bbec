"""A batch as its rows, and rows as a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]


def split_rows(feeds: Arrays, axes: Mapping[str, int]) -> list[dict[str, np.ndarray]]:
    """A batch as its single rows; inputs without a batch axis go along with every row.

    >>> import numpy as np
    >>> [row["x"].shape for row in split_rows({"x": np.zeros((2, 3)), "sr": np.zeros(())}, {"x": 0})]
    [(1, 3), (1, 3)]
    """
    import numpy as np

    count = next((feeds[name].shape[axis] for name, axis in axes.items()), 1)
    return [
        {
            name: np.take(value, [row], axis=axes[name]) if name in axes else np.asarray(value)
            for name, value in feeds.items()
        }
        for row in range(count)
    ]


def join_rows(rows: Sequence[Arrays], axes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The inverse of `split_rows`; a value without a batch axis is taken from the first row."""
    import numpy as np

    return {
        name: np.concatenate([row[name] for row in rows], axis=axes[name]) if name in axes else rows[0][name]
        for name in rows[0]
    }
