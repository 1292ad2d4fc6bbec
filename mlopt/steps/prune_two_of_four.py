"""2:4 sparsity: two of each four weights go, those that stay are fitted anew; for sparse tensor cores."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.errors import UnsupportedModel
from mlopt.onnx_file import first_few
from mlopt.prune.importance import NotFinite
from mlopt.prune.two_of_four import Sparse, sparsify
from mlopt.steps.prune_channels import broken
from mlopt.steps.quantizer import prepared, saved

if TYPE_CHECKING:
    from mlopt.samples.samples import Samples


@dataclass(frozen=True, slots=True)
class PruneTwoOfFour:
    """Of each four weights along the inputs of a convolution or matrix product, two become zero: the pattern that
    tensor cores from compute capability 8.0 on skip (`prune/two_of_four.py`). Which ones, and what the others become,
    is decided on the first `samples` of `calibration`.

    A layer whose inputs are no multiple of `multiple`, or with less than `fewest_weights` weights, stays whole and is
    named in the notes. Raises `UnsupportedModel` where all of them do. What comes after must leave zeros zero:
    symmetric int8 does, `repair` of a quantization does not.
    """

    name: ClassVar[str] = "prune-two-of-four"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    calibration: Samples
    multiple: int = 16
    fewest_weights: int = 0
    samples: int = 256

    def __post_init__(self) -> None:
        """Raises `ValueError`."""
        if self.multiple < 4 or self.multiple % 4:
            raise ValueError(f"multiple is {self.multiple}, and must be a multiple of 4")
        if self.fewest_weights < 0:
            raise ValueError(f"fewest-weights is {self.fewest_weights}, and must not be less than 0")
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}, and must be at least 1")

    def run(self, source: Artifact, into: Path) -> None:
        import onnx

        result = into / "model.onnx"
        with prepared(source, optimize=True) as model:
            try:
                made = sparsify(
                    model,
                    self.calibration.feeds(batch=1),
                    multiple=self.multiple,
                    fewest_weights=self.fewest_weights,
                    samples=self.samples,
                )
            except NotFinite as error:
                with tempfile.TemporaryDirectory(prefix="mlopt-sparse-") as scratch:
                    raise broken(model, self.calibration, error, Path(scratch)) from error
            if not made.layers:
                raise UnsupportedModel(
                    f"No layer can have two of each four weights zero{_because(made)}.",
                    where=str(source.main),
                    next="leave 2:4 sparsity out for this model",
                )
            onnx.save(model, str(result))
        saved(result, notes=_notes(made))


def _because(made: Sparse) -> str:
    return f": {first_few([f'{name}, {why}' for name, why in made.whole.items()])}" if made.whole else ""


def _notes(made: Sparse) -> Iterator[str]:
    count = len(made.layers)
    yield f"two of each four weights are zero in {count} of {count + len(made.whole)} layers"
    if made.whole:
        yield f"left whole: {first_few([f'{name} ({why})' for name, why in made.whole.items()])}"
