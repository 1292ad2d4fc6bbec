"""Named arrays as files, to hand them from one process to another; any name will do as a key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]


def save_arrays(folder: Path, number: int, arrays: Arrays) -> None:
    """Write one set as `NNNN.npz`, the same bytes for the same arrays. Keys are numbers, names a list of their own:
    np.savez has parameters, and a tensor may have the name of one.
    """
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


def _plain(value: Any) -> np.ndarray:
    import numpy as np

    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
