"""Named arrays as files, for handing inputs to converters and values back; any name will do as a key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]


def save_arrays(folder: Path, number: int, arrays: Arrays) -> None:
    """Write one set as `NNNN.npz`, the same bytes for the same arrays. Keys are numbers, names a list of their own."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    names = list(arrays)
    numbered: dict[str, Any] = {f"v{index}": _plain(arrays[name]) for index, name in enumerate(names)}
    np.savez(folder / f"{number:04}.npz", names=np.array(names, dtype=np.str_), **numbered)


def load_arrays(folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """Every set of a folder, in the order of their numbers; one is in memory at a time."""
    import numpy as np

    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as numbered:
            yield {str(name): numbered[f"v{index}"] for index, name in enumerate(numbered["names"])}


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


def _plain(value: Any) -> np.ndarray:
    import numpy as np

    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
