"""What a model runs by where an engine is built at the first start: the fallback, then the engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mlopt.serve.engine import Engine, EngineFailed
from mlopt.serve.runtimes import Run


class Switch:
    """What a model runs by: the fallback, from `to` on the engine, and the fallback again when that one dies.

    The fallback is let go while the engine runs: on a board the GPU shares its memory.
    """

    def __init__(self, fallback: Run, reopen: Callable[[], Run], failed: Callable[[str], None]) -> None:
        self._fallback: Run | None = fallback
        self._reopen, self._failed = reopen, failed
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def __call__(self, names: Sequence[str], feeds: Mapping[str, np.ndarray], /) -> list[np.ndarray]:
        engine = self._engine
        if engine is not None:
            try:
                return engine(names, feeds)
            except EngineFailed as error:
                self._back(engine, str(error))
        return self._held()(names, feeds)

    def to(self, engine: Engine) -> None:
        """From the next query on."""
        self._engine = engine
        with self._lock:
            self._fallback = None

    def close(self) -> None:
        """End the engine, if there is one."""
        if self._engine is not None:
            self._engine.close()

    def _back(self, engine: Engine, why: str) -> None:
        with self._lock:
            if self._engine is not engine:
                return
            self._engine = None
        engine.close()
        self._failed(f"the engine died: {why}")

    def _held(self) -> Run:
        with self._lock:
            if self._fallback is None:
                self._fallback = self._reopen()
            return self._fallback
