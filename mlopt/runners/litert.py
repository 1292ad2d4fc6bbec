"""LiteRT on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Self

from mlopt.errors import UnsupportedModel
from mlopt.tflite.wrapper import wrapped
from mlopt.tflite.write import write_tflite

if TYPE_CHECKING:
    import numpy as np

    from mlopt.serve.litert import TfliteModel


@dataclass(slots=True)
class LiteRtRunner:
    """Runs what `to-tflite` made, on `threads` threads; any other ONNX file is written as a .tflite first, in memory,
    each time that it is loaded.

    Raises `UnsupportedModel` for a node that a .tflite file cannot hold, and for what LiteRT refuses.
    """

    name: ClassVar[str] = "litert"
    distributions: ClassVar[tuple[str, ...]] = ("ai-edge-litert",)

    model: Path
    threads: int = field(kw_only=True)
    _loaded: TfliteModel | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> Self:
        from mlopt.serve.litert import TfliteModel

        file = wrapped(self.model)
        try:
            self._loaded = TfliteModel(file or write_tflite(self.model).data, threads=self.threads)
        except (RuntimeError, ValueError) as error:
            raise self._refused("cannot load the model", error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loaded = None

    @property
    def outputs(self) -> tuple[str, ...]:
        assert self._loaded is not None
        return self._loaded.outputs

    def infer(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        assert self._loaded is not None
        try:
            return list(self._loaded.infer(feeds))
        except (KeyError, RuntimeError, ValueError) as error:
            raise self._refused("failed while running the model", error) from error

    def _refused(self, what: str, error: Exception) -> UnsupportedModel:
        from importlib.metadata import version

        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = said[-1][:300] if said else type(error).__name__
        return UnsupportedModel(
            f"LiteRT {version('ai-edge-litert')} {what}: {why}",
            where=str(self.model),
            next="use a recipe that runs in ONNX Runtime: mlopt recipes list",
        )
