"""device/ of a bundle: typed models, samples with the answers they must give, and the program that builds there."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.artifact import Artifact
from mlopt.runners.onnxruntime import OnnxRuntimeRunner

if TYPE_CHECKING:
    import numpy as np

    from mlopt.samples.generated import GeneratedSamples
    from mlopt.samples.samples import Samples
    from mlopt.signature import Signature
    from mlopt.target import Target

    Feed = dict[str, np.ndarray]

_SAMPLES: Final = 4  # each starts trtexec once, which takes a Jetson seconds
_TIMING: Final = re.compile(r"timing-[0-9a-f]{16}\.cache")
_README: Final = """\
Copy this folder to the device, and type there: python3 build.py
Engines, their answers beside those of the ONNX models, and their times come to engines/NAME/.
"""


@dataclass(frozen=True, slots=True)
class Packed:
    """What was packed: the folder, and the names that builds have in it by candidate."""

    folder: Path
    names: Mapping[str, str]


def pack(
    builds: Mapping[str, Artifact],
    into: Path,
    *,
    model: str,
    target: Target,
    signature: Signature,
    samples: Samples | GeneratedSamples,
    batch: int,
    threads: int,
    engines: Path | None = None,
) -> Packed:
    """Write the folder `into`. `samples` are those that candidates are judged by, and the first few are taken.
    `engines` is the folder of those that a device built before: what it timed then, it need not time again."""
    into.mkdir()
    if engines:
        _copy_timing(engines, into / "timing")
    feeds: list[Feed] = list(itertools.islice(samples.feeds(batch=batch), _SAMPLES))
    outputs = [tensor.name for tensor in signature.outputs]
    names = {name: folder_name(name) for name in sorted(builds)}
    entries = [_entry(builds[name], names[name], into, feeds, outputs, threads) for name in names]
    inputs = [tensor.name for tensor in signature.inputs]
    for number, feed in enumerate(feeds):
        for position, name in enumerate(inputs):
            _write(into / "samples" / f"{number}-{position}.bin", feed[name])
    plan = {
        "schema": 1,
        "model": model,
        "target": target.name,
        "expect": expected_of(target),
        "builds": entries,
        "samples": {
            "inputs": [
                {"name": name, "dtype": str(feeds[0][name].dtype), "shape": list(feeds[0][name].shape)}
                for name in inputs
            ],
            "outputs": outputs,
            "feeds": [
                [f"samples/{number}-{position}.bin" for position in range(len(inputs))] for number in range(len(feeds))
            ],
        },
    }
    (into / "build.json").write_text(json.dumps(plan, indent=1, sort_keys=True) + "\n")
    (into / "README.txt").write_text(_README)
    shutil.copyfile(Path(__file__).with_name("builder.py"), into / "build.py")
    return Packed(into, names)


def folder_name(name: str) -> str:
    """A candidate's name as a folder that every shell and copying program takes as it is."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".-") or "engine"


def expected_of(target: Target) -> dict[str, Any]:
    """What the device must say of itself to be the target."""
    return {
        "board": target.detect.device_tree if target.detect else None,
        "l4t": [stack.l4t for stack in target.stacks if stack.l4t],
        "memory": target.memory if target.detect else None,
        "compute-capability": target.gpu.compute_capability if target.gpu else None,
        "gpu": target.gpu.driver_name if target.gpu else None,
    }


def _entry(
    build: Artifact, name: str, into: Path, feeds: Sequence[Feed], outputs: Sequence[str], threads: int
) -> dict[str, Any]:
    """One build of the plan, its model copied, and what ONNX Runtime answers for it written beside."""
    entry: dict[str, Any] = json.loads(build.main.read_bytes())
    shutil.copytree(build.path / "model", into / name / "model")
    expected = []
    with OnnxRuntimeRunner(into / name / entry["model"], threads=threads) as runner:
        for number, feed in enumerate(feeds):
            answers = dict(zip(runner.outputs, runner.infer(feed), strict=True))
            expected.append([f"{name}/expected/{number}-{position}.bin" for position in range(len(outputs))])
            for file, output in zip(expected[-1], outputs, strict=True):
                _write(into / file, answers[output].astype("float32"))
    return {
        **entry,
        "name": name,
        "model": f"{name}/{entry['model']}",
        "files": {f"{name}/{file}": sha256 for file, sha256 in entry["files"].items()},
        "expected": expected,
    }


def _copy_timing(engines: Path, into: Path) -> None:
    """Timing caches by what they hold for; of several that do for the same, the one that knows most."""
    for folder in sorted(engines.iterdir()):
        try:
            name = str(json.loads((folder / "engine.json").read_bytes())["timing-cache"])
            known = (folder / "timing.cache").read_bytes()
        except (OSError, ValueError, KeyError):
            continue  # an engine that was built here
        place = into / name
        if _TIMING.fullmatch(name) and not (place.exists() and place.stat().st_size >= len(known)):
            into.mkdir(exist_ok=True)
            place.write_bytes(known)


def _write(path: Path, values: np.ndarray) -> None:
    """Bare values, as trtexec reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(values.tobytes())
