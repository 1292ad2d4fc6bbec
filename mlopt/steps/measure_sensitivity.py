"""How much noise each part of a model brings to its answers when it alone is quantized: measured once, used often."""

from __future__ import annotations

import dataclasses
import itertools
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.errors import UnsupportedModel
from mlopt.precision.groups import Group, groups_of
from mlopt.precision.noise import answers, noise
from mlopt.precision.search import Sensitivity
from mlopt.steps.calibrated import Calibrated
from mlopt.steps.histogram import Range
from mlopt.steps.qdq import Qdq
from mlopt.steps.quantizer import prepared, saved

_FILE: Final = "sensitivity.json"


@dataclass(frozen=True, slots=True)
class MeasureSensitivity(Calibrated):
    """Leave the model in floating point, and write beside it what `quantize-mixed` needs to choose.

    Each group of nodes (`precision/groups.py`) is quantized alone, as `quantize-static` would with the same options,
    and run on the first `samples` of `calibration`; noise is taken at the outputs. The ranges are observed on all.
    """

    name: ClassVar[str] = "measure-sensitivity"
    version: ClassVar[int] = 3
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    samples: int = 32

    def run(self, source: Artifact, into: Path) -> None:
        qdq = self.qdq
        with prepared(source, optimize=True) as model:
            import onnx

            groups = _groups(model.graph, qdq)
            if not groups:
                raise UnsupportedModel("The model has no operator with an int8 kernel.", where=str(source.main))
            ranges = qdq.observe(model, self.calibration, into, self.how)
            result = into / "model.onnx"
            onnx.save(model, str(result))
            saved(result)
            feeds = list(itertools.islice(self.calibration.feeds(batch=1), self.samples))
            measured = Measured(qdq, ranges, tuple(_each(qdq, model, ranges, groups, answers(result, feeds), feeds)))
        measured.write(into)


def _groups(graph: Any, qdq: Qdq) -> tuple[Group, ...]:
    """Those that a search may decide on: not what stays in floating point anyway."""
    floating = set(qdq.floating(graph))
    found = groups_of(graph, qdq.operators)
    rest = (dataclasses.replace(one, nodes=tuple(n for n in one.nodes if n not in floating)) for one in found)
    return tuple(group for group in rest if group.nodes)


def _each(
    qdq: Qdq, model: Any, ranges: dict[str, Range], groups: tuple[Group, ...], exact: Any, feeds: Any
) -> Iterable[Sensitivity]:
    every = {name for group in groups for name in group.nodes}
    with tempfile.TemporaryDirectory(prefix="mlopt-sensitivity-") as scratch:
        path = Path(scratch) / "model.onnx"
        for group in groups:
            qdq.write(model, ranges, path, keep=every.difference(group.nodes))
            yield Sensitivity(group, noise(exact, answers(path, feeds)).power)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the step found: how it would quantize, with which ranges, and every group's sensitivity."""

    qdq: Qdq
    ranges: dict[str, Range]
    groups: tuple[Sensitivity, ...]

    def write(self, folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True))

    @classmethod
    def read(cls, artifact: Artifact) -> Measured:
        """Raises `UnsupportedModel` for an artifact that the step did not make."""
        try:
            found = json.loads((artifact.path / _FILE).read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise UnsupportedModel(
                "Nobody measured this model's sensitivity.",
                where=str(artifact.path),
                next="put a step measure-sensitivity before quantize-mixed in the recipe",
            ) from None
        qdq = found["qdq"]
        return cls(
            qdq=Qdq(qdq["scheme"], qdq["per_channel"], tuple(qdq["op_types"]), qdq["shortest_dot"], qdq["outputs"]),
            ranges={name: Range(**ends) for name, ends in found["ranges"].items()},
            groups=tuple(
                Sensitivity(Group(**{**one["group"], "nodes": tuple(one["group"]["nodes"])}), one["power"])
                for one in found["groups"]
            ),
        )
