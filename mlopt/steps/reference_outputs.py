"""What the source itself answers, in its own framework: the truth that an export is held against."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from mlopt.array_files import save_arrays
from mlopt.artifact import ONNX, Artifact, Digest, Format
from mlopt.convert.process import Limits, Program, convert
from mlopt.factory import Factory
from mlopt.sniff import (
    KERAS,
    SAFETENSORS,
    SAVED_MODEL,
    TFLITE,
    TORCH_EXPORTED,
    TORCH_PICKLED,
    TORCH_WEIGHTS,
    TORCHSCRIPT,
)
from mlopt.steps.onnx_from_torch import factory_request

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]

REFERENCE: Final = Format("reference")
PROGRAMS: Final[Mapping[Format, Program]] = {
    ONNX: "onnx",
    TORCH_EXPORTED: "torch",
    TORCH_PICKLED: "torch",
    TORCH_WEIGHTS: "torch",
    SAFETENSORS: "torch",
    TORCHSCRIPT: "torchscript",
    KERAS: "keras",
    SAVED_MODEL: "tensorflow",
    TFLITE: "tflite",
}


@dataclass(frozen=True, slots=True)
class FeedSets:
    """Inputs by name, set after set, known by their content."""

    sets: Sequence[Arrays]

    @property
    def digest(self) -> Digest:
        sha = hashlib.sha256()
        for feeds in self.sets:
            for name in sorted(feeds):
                value = feeds[name]
                sha.update(f"{name} {value.dtype} {value.shape}\n".encode() + value.tobytes())
        return Digest(sha.hexdigest())


@dataclass(frozen=True, slots=True)
class ReferenceOutputs:
    """Run the source on `feeds`, in its framework (ONNX: ONNX Runtime without optimisation), one .npz per set.

    `outputs` are the export's names, in the order in which the source gives them; `input_axes` and `output_axes`
    say where the batch is, for sources that take their rows one by one. `watch` asks for inner values instead,
    by the names that they have in the export. `opset`, `inputs` and `factory` are those of the export.
    """

    name: ClassVar[str] = "reference-outputs"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset(PROGRAMS)
    produces: ClassVar[Format] = REFERENCE
    requires: ClassVar[tuple[str, ...]] = ("keras", "onnxruntime", "tensorflow", "torch")

    feeds: FeedSets
    outputs: tuple[str, ...]
    input_axes: Mapping[str, int] = field(default_factory=dict)
    output_axes: Mapping[str, int] = field(default_factory=dict)
    watch: tuple[str, ...] = ()
    opset: int = 18
    inputs: Mapping[str, str] = field(default_factory=dict)
    factory: Factory | None = None
    limits: Limits = field(default_factory=Limits)

    def run(self, source: Artifact, into: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="mlopt-feeds-") as scratch:
            for number, feeds in enumerate(self.feeds.sets):
                save_arrays(Path(scratch), number, feeds)
            convert(
                PROGRAMS[source.format],
                "reference",
                self.limits,
                model=str(source.main),
                format=source.format,
                feeds=scratch,
                into=str(into),
                outputs=self.outputs,
                input_axes=self.input_axes,
                output_axes=self.output_axes,
                watch=self.watch,
                opset=self.opset,
                inputs=self.inputs,
                **factory_request(self.factory),
            )
