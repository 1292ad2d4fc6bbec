"""A model's answers on several instruction sets, beside those of this processor as it is."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from mlopt.artifact import OUTCOMES, Artifact, Digest
from mlopt.check.accuracy import compare
from mlopt.check.differences import difference
from mlopt.emulate import sets
from mlopt.emulate.sets import InstructionSet, way_for
from mlopt.errors import WorkerFailed
from mlopt.image.assemble import runtime_python
from mlopt.image.fetch import Inputs
from mlopt.image.rootfs import Command
from mlopt.measurement import Accuracy

if TYPE_CHECKING:
    import numpy as np

    from mlopt.samples.generated import GeneratedSamples
    from mlopt.samples.samples import Samples

Outcome = Literal["same", "within", "unproven", "apart"]

_PROGRAM: Final = Path(__file__).with_name("program.py")
_SAID: Final = 3  # last lines of what failed


@dataclass(frozen=True, slots=True)
class Answers:
    """How a model answers on one set against this processor: `accuracy.drop` is of its top-1, `largest` the largest
    difference of any output as a part of the largest output. `outcome`: all classes the `same`; `within` the limit;
    over it, `unproven` where so few samples may show that by chance, else `apart`. What is no classifier has no
    classes: there the limit is of `largest`."""

    instructions: str
    way: str
    accuracy: Accuracy
    largest: float
    outcome: Outcome


def on_each(
    model: Path,
    wanted: Sequence[InstructionSet],
    samples: Samples | GeneratedSamples,
    *,
    runtime: str,
    count: int,
    limit: float,
    inputs: Inputs,
    labels: np.ndarray | None = None,
    generated: bool = False,
    qemu: bool = False,
) -> Iterator[Answers]:
    """One `Answers` for each set, as they come, over the first `count` samples; `limit` is a fraction.

    Every set's way is found before anything runs. Raises `MissingDependency` for one that has none, `WorkerFailed` when
    the model does not run in it, `ImageFailed` when the files of another architecture cannot be had.
    """
    ways = [(one, way_for(one, qemu=qemu)) for one in wanted]
    with tempfile.TemporaryDirectory(prefix="mlopt-parity-") as scratch:
        folder = Path(scratch)
        taken = _write_queries(folder / "queries.npz", model, samples, count)
        truth = labels[:taken] if labels is not None else None
        here = _outcomes(folder / "here", _own(()), model, runtime)
        for one, way in ways:
            start = _own(way.emulator)
            if one.platform != sets.here():
                start = runtime_python(one.platform, runtime, inputs=inputs, emulator=way.emulator)
            there = _outcomes(folder / one.name, start, model, runtime, hidden=way.hidden)
            device = f"{one.name} ({way.said})"
            accuracy = compare(here, there, labels=truth, generated=generated, device=device, grade="emulated")
            largest = _largest(here, there)
            yield Answers(one.name, way.said, accuracy, largest, judged(accuracy, largest, limit))


def _write_queries(file: Path, model: Path, samples: Samples | GeneratedSamples, count: int) -> int:
    import numpy as np
    import onnx

    graph = onnx.load(str(model), load_external_data=False).graph
    arrays: list[np.ndarray] = []
    inputs: list[str] = []
    taken = 0
    for feeds in itertools.islice(samples.feeds(batch=1), count):
        inputs = list(feeds)
        arrays += feeds.values()
        taken += 1
    # By place: np.savez has parameters of its own, and a tensor may have the name of one.
    np.savez(file, np.array([output.name for output in graph.output]), np.array(inputs), *arrays)
    return taken


def _own(emulator: Sequence[str]) -> Command:
    """This Python, with the environment of this process."""
    return Command((*emulator, sys.executable), {**os.environ, "ORT_DISABLE_TELEMETRY": "1"})


def _outcomes(folder: Path, start: Command, model: Path, runtime: str, *, hidden: Sequence[str] = ()) -> Artifact:
    """What the program answers to the queries beside `folder`, as `compare` takes it."""
    import numpy as np

    folder.mkdir()
    file = folder / "answers.npz"
    words = (str(_PROGRAM), runtime, str(model.absolute()), str(folder.with_name("queries.npz")), str(file))
    command = [*start.arguments, *words, *([",".join(hidden)] if hidden else [])]
    ended = subprocess.run(command, env=dict(start.environment), capture_output=True, text=True, check=False)
    if ended.returncode or not file.is_file():
        said = [line for line in ended.stderr.strip().splitlines() if "warning" not in line][-_SAID:]
        raise WorkerFailed(
            f"The model does not run on {folder.name} (status {ended.returncode}): {' | '.join(said) or 'no word'}",
            where=str(model),
            next="try it with fewer samples, or without that set",
        )
    with np.load(file) as arrays:
        names, *outputs = (arrays[key] for key in arrays.files)
        for place, value in enumerate(outputs):
            # A query has one sample: its batch dimension goes, as `Evaluate` leaves it.
            rows = value[:, 0] if value.ndim > 1 and value.shape[1] == 1 else value
            np.save(folder / f"{place}.npy", rows.astype(np.float32))
        (folder / "outcomes.json").write_text(json.dumps({"outputs": names.tolist()}))
    return Artifact(OUTCOMES, Digest(""), folder)


def _largest(one: Artifact, other: Artifact) -> float:
    import numpy as np

    found = 0.0
    for file in sorted(one.path.glob("*.npy")):
        apart = difference(np.load(file), np.load(other.path / file.name))
        found = max(found, apart.max_absolute / apart.largest if apart.largest else apart.max_absolute)
    return found


def judged(accuracy: Accuracy, largest: float, limit: float) -> Outcome:
    """By top-1 where there are labels; by how many classes changed where there are none; by the largest difference
    where there are no classes."""
    if accuracy.agreement is None:
        return "same" if largest == 0 else "within" if largest <= limit else "apart"
    if accuracy.agreement.value == 1.0:
        return "same"
    if accuracy.drop is not None:
        low, high = sorted((accuracy.drop.low, accuracy.drop.high))
        apart, proven = abs(accuracy.drop.value), low > 0 or high < 0
    else:
        apart, proven = 1 - accuracy.agreement.value, 1 - accuracy.agreement.high > limit
    return "within" if apart <= limit + 1e-9 else "apart" if proven else "unproven"
