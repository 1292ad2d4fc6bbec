"""Cross-layer equalisation: channels of one tensor brought to like reach, so that one scale fits them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from mlopt.repair.chains import Pair, columns_reach, rows_reach, scale

if TYPE_CHECKING:
    import numpy as np

Balance = Literal["weights", "activations", "both", "ranges"]
_SWEEPS: Final = 40
_STILL: Final = 1e-3  # a sweep that changes no channel by more has converged
_NOTHING: Final = 1e-30
_MOST: Final = 4.0  # samples may hardly have shown a channel, and a scale for it alone would clip it in others


def equalize(
    pairs: Sequence[Pair], constants: dict[str, np.ndarray], reach: Mapping[str, np.ndarray], balance: Balance
) -> None:
    """Change `constants` (weights and biases, float64) in place; what the graph computes stays.

    `weights`: the rows that make a channel and the columns that read it end with the same largest weight (Nagel et
    al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv:1906.04721).
    `activations`: the channel and the columns that read it do, which spares a scale for rows where every row has its
    own. `both`: the geometric mean of row and channel, and the columns. `ranges`: `activations`, then every channel of
    a tensor reaches as far as the largest, or four times as far as before: a scale per channel would hold them no
    better, and the columns pay for it. `reach` is the largest magnitude of each channel of the tensor
    that is read, or of each number that a channel became where a picture was made flat.
    """
    import numpy as np

    seen = {
        pair.between[-1]: reach[pair.between[-1]].astype(np.float64).reshape(-1, pair.spread).max(axis=1)
        for pair in pairs
    }
    _balanced(pairs, constants, seen, "activations" if balance == "ranges" else balance)
    if balance == "ranges":
        for pair in pairs:
            channel = seen[pair.between[-1]]
            most = max(float(channel.max(initial=0.0)), _NOTHING)
            scale(pair, constants, np.where(channel > 0, np.maximum(channel / most, 1 / _MOST), 1.0))


def _balanced(
    pairs: Sequence[Pair], constants: dict[str, np.ndarray], seen: dict[str, np.ndarray], balance: Balance
) -> None:
    """Sweep over the pairs until nothing moves; `seen` are the reaches, and follow."""
    import numpy as np

    for _ in range(_SWEEPS):
        most = 0.0
        for pair in pairs:
            rows = rows_reach(pair.first, constants[pair.first.weight])
            columns = columns_reach(pair, constants)
            channel = seen[pair.between[-1]]
            factors = _factors(rows, channel, columns, balance)
            scale(pair, constants, factors)
            seen[pair.between[-1]] = channel / factors
            most = max(most, float(np.abs(np.log(factors)).max()))
        if most < _STILL:
            break


def _factors(rows: np.ndarray, channel: np.ndarray, columns: np.ndarray, balance: Balance) -> np.ndarray:
    """What to divide each channel by; 1 for one that nothing goes through."""
    import numpy as np

    made = {"weights": rows, "activations": channel, "both": np.sqrt(rows * channel)}[balance]
    alive = (rows > 0) & (channel > 0) & (columns > 0)
    return np.where(alive, np.sqrt(np.where(alive, made, 1) / np.where(alive, columns, 1)), 1.0)
