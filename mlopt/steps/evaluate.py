"""Evaluation: every output of a model for every evaluation sample, kept so that models are compared pairwise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mlopt import registry
from mlopt.artifact import ONNX, OUTCOMES, Artifact, Format
from mlopt.parallel import mapped, workers
from mlopt.runners.trial import survive

if TYPE_CHECKING:
    import numpy as np

    from mlopt.runners.runner import Runner
    from mlopt.samples.generated import GeneratedSamples
    from mlopt.samples.samples import Samples


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Run `samples` through `runtime` and write one float32 .npy of shape [samples, …] per output.

    `device` is part of the key: integer kernels differ between CPUs, so outcomes of one are not
    those of another. A runtime that takes several queries at once is given some, on `threads` threads in all: that is
    faster than all of them in one query. Outputs go to disk as they come; memory does not grow with their number.
    Raises `WorkerFailed` when the runtime crashes on the model, which it does in another process first.
    """

    name: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 3
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = OUTCOMES
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnxruntime", "pillow")

    samples: Samples | GeneratedSamples
    runtime: str
    device: str
    threads: int = 1
    batch: int = 1

    def run(self, source: Artifact, into: Path) -> None:
        import numpy as np

        runner: type[Runner] = registry.load("mlopt.runners", self.runtime)
        files: dict[str, np.memmap[Any, np.dtype[np.float32]]] = {}
        done = 0
        survive(self.runtime, source.main, next(iter(self.samples.feeds(batch=self.batch))))
        at_once = min(self.threads, workers()) if getattr(runner, "concurrent", False) else 1
        # Queries that run at once share one pool, which counts whoever asks as one of its threads.
        with runner(source.main, threads=self.threads - at_once + 1) as model:

            def answered(feeds: Mapping[str, np.ndarray]) -> tuple[int, list[np.ndarray]]:
                return len(feeds[next(iter(feeds))]), model.infer(feeds)

            for count, outputs in mapped(answered, self.samples.feeds(batch=self.batch), at_once):
                for name, value in zip(model.outputs, outputs, strict=True):
                    rows = _per_sample(np.asarray(value), count)
                    if name not in files:
                        path = into / f"{len(files)}.npy"
                        shape = (len(self.samples), *rows.shape[1:])
                        files[name] = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
                    files[name][done : done + count] = rows
                done += count
        for array in files.values():
            array.flush()
        (into / "outcomes.json").write_text(json.dumps({"outputs": list(files), "samples": done}, indent=1))


def _per_sample(value: np.ndarray, count: int) -> np.ndarray:
    """[count, …] float32. An output without a batch dimension counts once for each sample."""
    import numpy as np

    if value.ndim and value.shape[0] == count:
        return value.astype(np.float32, copy=False)
    return np.broadcast_to(value.astype(np.float32), (count, *value.shape))
