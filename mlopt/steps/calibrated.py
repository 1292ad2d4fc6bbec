"""The options that every step with observed ranges takes, so that two of them never differ in one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlopt.steps.qdq import Qdq, Scheme
from mlopt.steps.ranges import Calibration, Calibrator

if TYPE_CHECKING:
    from mlopt.samples.samples import Samples


@dataclass(frozen=True, slots=True)
class Calibrated:
    """`scheme` to `beside_bf16` as in `Qdq`; `calibrator` and the options below it as in `Calibration`."""

    calibration: Samples
    scheme: Scheme = "u8s8"
    per_channel: bool = True
    op_types: tuple[str, ...] = ()
    shortest_dot: int = 0
    outputs: bool = True
    signed: bool = False
    beside_bf16: bool = False
    calibrator: Calibrator = "min-max"
    percentile: float = 99.999
    averaging_constant: float = 0.01
    bins: int = 2048
    quantized_bins: int = 128

    def __post_init__(self) -> None:
        """Raises `ValueError` for a value that no calibrator takes."""
        _ = self.how

    @property
    def qdq(self) -> Qdq:
        """How to quantize."""
        return Qdq(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Qdq)})

    @property
    def how(self) -> Calibration:
        """How what is observed becomes a range."""
        return Calibration(self.calibrator, self.percentile, self.averaging_constant, self.bins, self.quantized_bins)


def common(options: Calibrated) -> dict[str, Any]:
    """Those of a step that all such steps take, by name."""
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(Calibrated)}
