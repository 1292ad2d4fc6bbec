"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from mlopt.errors import UnsupportedModel
from mlopt.runners.runner import WARM_UP
from mlopt.serve.session import opened

if TYPE_CHECKING:
    import numpy as np

    from mlopt.insight import Profile


@dataclass(slots=True)
class OnnxRuntimeRunner:
    """Loads with all graph optimisations, or the graph `as_written` with none; `threads` is the intra-operator pool,
    operators run in sequence. `lent` are weights by name that the file has no values of (`precision/lent.py`).

    Raises `UnsupportedModel` when the runtime has no kernel for a node or the graph is invalid.
    """

    name: ClassVar[str] = "onnxruntime"
    distributions: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    concurrent: ClassVar[bool] = True

    model: Path
    threads: int = field(kw_only=True)
    as_written: bool = field(default=False, kw_only=True)
    lent: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    _session: Any = field(default=None, init=False, repr=False)

    def __enter__(self) -> Self:
        self._session = self._loaded(self._options())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None

    def profile(self, feeds: Sequence[Mapping[str, np.ndarray]], *, count: int) -> Profile:
        from mlopt.runners.onnxruntime_profile import recorded

        warm_up = min(WARM_UP, count)

        def run(options: Any) -> Any:
            self._session = self._loaded(options)
            for number in range(warm_up + count):
                self.infer(feeds[number % len(feeds)])
            session, self._session = self._session, None
            return session

        return recorded(self.model, self._options(), run, warm_up=warm_up)

    def arena_peak(self, feeds: Sequence[Mapping[str, np.ndarray]]) -> int | None:
        from mlopt.runners.onnxruntime_arena import arena_peak

        return arena_peak(self.model, feeds, threads=self.threads)

    def _options(self) -> Any:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if self.as_written:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self.lent:
            options.add_external_initializers(list(self.lent), list(self.lent.values()))
        # A pool that spins between queries steals the core from whoever is measured next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _loaded(self, options: Any) -> Any:
        import onnxruntime as ort

        try:
            return self._opened(options)
        except Exception as error:  # onnxruntime's own exception types share no public base
            raise UnsupportedModel(
                f"ONNX Runtime {ort.__version__} cannot load the model: {first_line(error)}", where=str(self.model)
            ) from error

    def _opened(self, options: Any) -> Any:
        return opened(self.model, options)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(output.name for output in self._session.get_outputs())

    def infer(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            outputs: list[np.ndarray] = self._session.run(None, dict(feeds))
        except Exception as error:
            raise UnsupportedModel(
                f"ONNX Runtime failed while running the model: {first_line(error)}", where=str(self.model)
            ) from error
        return outputs


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
