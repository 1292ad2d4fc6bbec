"""Files of TensorFlow's converter as a runtime of mlopt's, by the door of plug-ins: the folder beside this file is what
an installation leaves.

It is here and not in mlopt, whose own `litert` runs what mlopt wrote, with the names of the ONNX file. The benchmark
puts this folder on PYTHONPATH, so that the same workers time it in the same rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    import numpy as np


@dataclass(slots=True)
class TensorflowLiteRunner:
    """Models of one input; a batch of another size resizes it."""

    name: ClassVar[str] = "tensorflow-lite"
    distributions: ClassVar[tuple[str, ...]] = ("tensorflow",)

    model: Path
    threads: int = field(kw_only=True)
    _interpreter: Any = field(default=None, init=False, repr=False)
    _shape: tuple[int, ...] = field(default=(), init=False, repr=False)

    def __enter__(self) -> Self:
        import tensorflow

        self._interpreter = tensorflow.lite.Interpreter(str(self.model), num_threads=self.threads)
        self._interpreter.allocate_tensors()
        self._shape = tuple(self._interpreter.get_input_details()[0]["shape"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._interpreter = None

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(output["name"] for output in self._interpreter.get_output_details())

    def infer(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        (value,) = feeds.values()
        where = self._interpreter.get_input_details()[0]["index"]
        if value.shape != self._shape:
            self._interpreter.resize_tensor_input(where, value.shape)
            self._interpreter.allocate_tensors()
            self._shape = value.shape
        self._interpreter.set_tensor(where, value)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(output["index"]) for output in self._interpreter.get_output_details()]
