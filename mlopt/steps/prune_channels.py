"""Structured pruning: fewer channels, those that stay made to do the work of those that go."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.errors import SamplesInvalid, UnsupportedModel
from mlopt.onnx_file import first_few
from mlopt.prune.importance import NotFinite
from mlopt.prune.pruner import OutOfReach, Pruned, Pruner
from mlopt.steps import watched
from mlopt.steps.quantizer import prepared, saved

if TYPE_CHECKING:
    import numpy as np

    from mlopt.samples.samples import Samples
    from mlopt.steps.histogram import Range

_HELD: Final = 1 << 28  # bytes of samples


@dataclass(frozen=True, slots=True)
class PruneChannels:
    """Cut channels of convolutions and matrix products until a `share` of the multiply-accumulates is gone.

    Which channels go is decided by what `calibration` samples show them to be worth to the layers that read them and
    to the model's answers; then every layer is fitted anew, on those samples, to what it wrote before. Widths are
    multiples of `multiple`, which the plan takes from the target where it is "auto". Raises `UnsupportedModel` when
    so much cannot go, and says how much can.
    """

    name: ClassVar[str] = "prune-channels"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    calibration: Samples
    share: float = 0.3
    multiple: int = 16

    def __post_init__(self) -> None:
        """Raises `ValueError`."""
        if isinstance(self.share, bool) or not isinstance(self.share, (int, float)) or not 0 < self.share < 1:
            raise ValueError(f"share is {self.share!r}, and must be a number above 0 and below 1")
        if isinstance(self.multiple, bool) or not isinstance(self.multiple, int) or self.multiple < 1:
            raise ValueError(f"multiple is {self.multiple!r}, and must be a whole number of at least 1")

    def run(self, source: Artifact, into: Path) -> None:
        import onnx

        result = into / "model.onnx"
        with pruner(source, self.calibration, self.multiple) as one:
            made = one.cut(self.share)
        onnx.save(made.model, str(result))
        saved(result, notes=_notes(made))


@contextmanager
def pruner(source: Artifact, calibration: Samples, multiple: int) -> Iterator[Pruner]:
    """What cuts this model, with its errors as those that a person can act on."""
    with prepared(source, optimize=True) as model:
        pass  # it holds no file open; what goes wrong from here on is not the quantizer's fault
    with tempfile.TemporaryDirectory(prefix="mlopt-prune-") as folder:
        scratch = Path(folder)
        try:
            yield Pruner(model, _feeds(calibration), len(calibration), scratch, multiple=multiple)
        except OutOfReach as error:
            raise UnsupportedModel(
                f"At most {error.most:.1%} of the model's work can be pruned.{_because(error.stays)}",
                where=str(source.main),
                next=f"ask for a share of at most {math.floor(1000 * error.most) / 1000:g}"
                if error.most >= 0.001
                else "leave pruning out for this model, or choose a smaller multiple",
            ) from error
        except NotFinite as error:
            raise broken(model, calibration, error, scratch) from error


def _feeds(calibration: Samples) -> Callable[[], Iterable[Mapping[str, np.ndarray]]]:
    """For one pass after another: from memory where they are few, else read anew each time."""
    held: list[Mapping[str, np.ndarray]] = []
    size = 0
    for feed in calibration.feeds(batch=1):
        held.append(feed)
        size += sum(value.nbytes for value in feed.values())
        if size > _HELD:
            return lambda: calibration.feeds(batch=1)
    return lambda: held


def broken(model: Any, calibration: Samples, error: NotFinite, scratch: Path) -> SamplesInvalid:
    """The sample and the node, for a person."""
    import onnx

    path = scratch / "prepared.onnx"
    onnx.save(model, str(path))
    sample = calibration.indices[error.query]
    where = f"tensor {error.tensor!r}"
    try:
        only = dataclasses.replace(calibration, indices=(sample,))
        watched.Watched(path, [error.tensor]).collect(only.feeds(batch=1), lambda name: _Nothing())
    except watched.NotFinite as origin:
        where = str(origin)
    return SamplesInvalid(
        f"Calibration sample {calibration.source.describe(sample)} leads to NaN or infinity at {where}; "
        "nothing can be fitted to that.",
        where=calibration.source.where,
        next="remove the broken samples, or look at the model with mlopt inspect",
    )


class _Nothing:
    def add(self, value: np.ndarray, extremes: Range) -> None:
        """Only whether values are finite is of interest here."""


def _because(stays: Mapping[str, str]) -> str:
    if not stays:
        return ""
    return f" What must stay whole: {first_few([f'{name} because of {why}' for name, why in stays.items()])}."


def _notes(made: Pruned) -> Iterator[str]:
    gone = 1 - made.work_after / made.work_before
    yield f"{gone:.1%} of the multiply-accumulates are gone ({made.work_before:.4g} to {made.work_after:.4g})"
    narrow = [f"{one.name} {one.before} to {one.after}" for one in made.widths if one.after < one.before]
    yield f"channels of {first_few(narrow)}"
