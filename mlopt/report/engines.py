"""What a report says of engines: built here and not run, built and measured on the device, or still to be built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from mlopt.engines import why_no_first_start
from mlopt.report.text import cosine, count, seconds
from mlopt.units import format_bytes

if TYPE_CHECKING:
    from mlopt.artifact import Artifact
    from mlopt.build import Built
    from mlopt.prepare import Prepared

# Below that cosine an engine and the ONNX model it was made from do not answer the same: fp16 and int8 are far above.
_SAME_ANSWERS: Final = 0.99


def engine_note(name: str, engine: Artifact) -> str:
    """What there is of an engine, and what nobody knows of it yet."""
    facts = json.loads((engine.path / "engine.json").read_bytes())
    if "board" in facts:
        return _from_device(name, facts)
    size, capabilities = format_bytes(engine.main.stat().st_size), ", ".join(facts["compute-capabilities"])
    return (
        f"engines/{name}/model.engine, {size}, was built by {facts['compiler']} for compute capability {capabilities} "
        "and not run: the answers here are those of the ONNX model it was made from, in ONNX Runtime, and its speed is "
        "unmeasured."
    )


def sparse_note(build: Artifact) -> str:
    """What nobody knows of kernels that skip zeros before the device built them; empty of a dense build."""
    if not json.loads(build.main.read_bytes())["sparse"]:
        return ""
    return (
        "Nothing was measured of its sparse kernels: TensorRT takes the faster of sparse and dense for each layer, and "
        "which that is only the device shows."
    )


def licence(built: Built) -> str:
    """Whose licence applies; empty where nothing here is made by TensorRT, or to be."""
    if not built.engines and not built.device_builds:
        return ""
    first_start = " (that of deploy/first-start does)" if built.device_builds else ""
    return (
        "NVIDIA's licence of TensorRT applies to its engines, and to every image that holds one or TensorRT itself"
        f"{first_start}: read it before you pass one on. mlopt's own image holds neither."
    )


def engines_on(built: Built) -> str:
    """The board that measured its own engines; empty when none did."""
    return next(iter(_timed(built)), ("", "", 0.0))[0]


def to_build(prepared: Prepared, built: Built) -> str:
    """What is still to be done where engines can only be built on the target."""
    name, server = prepared.target.name, "an image that runs it with ONNX Runtime on the CPU"
    image = "The image runs the ONNX model with ONNX Runtime on the CPU"
    if built.device_builds.keys() & built.engines.keys():
        return f"{_fastest(built)}{image}, and no engine."
    if built.device_builds:
        reason = why_no_first_start(
            prepared.target,
            built.device_builds,
            prepared.server,
            plain=prepared.base is None and prepared.compression == "gzip",
        )
        itself = prepared.request.image and not reason
        start = (
            ", or start the image of deploy/first-start there, which builds them and serves meanwhile" if itself else ""
        )
        return (
            f"TensorRT's engines for {name} can only be built on it: copy device/ there and type python3 build.py, or "
            f"compile with --device USER@HOST{start}. Until then there are the ONNX model and {server}."
        )
    return f"Engines for {name} can only be built on it. This bundle holds the ONNX model and {server} until then."


def _from_device(name: str, facts: Mapping[str, Any]) -> str:
    """What the device said of an engine that it built: its own answers and clocks."""
    said = f"engines/{name}/model.engine, {format_bytes(facts['bytes'])}, was built by {facts['compiler']} and "
    if "latency" not in facts:
        said += f"not run on {facts['board']}: {facts['why-not-run']}. Its answers and its speed are unmeasured."
        return f"{said}{_sparse_kernels(facts)}"
    times, parity = facts["latency"], facts["parity"]
    said += (
        f"measured on {facts['board']}: p50 {seconds(times['p50'])}, p99 {seconds(times['p99'])} over "
        f"{count(times['queries'])} queries ({times['method']})"
    )
    if power := facts["device"].get("power-mode"):
        said += f", power mode {power}"
    if not parity["complete"]:
        return f"{said}. Its answers are not finite or not complete: do not use it."
    if parity["cosine"] < _SAME_ANSWERS:
        said += ". ITS ANSWERS ARE OTHER ONES: do not use it before you know why"
    return (
        f"{said}. Against its ONNX model its answers have a cosine of at least {cosine(parity['cosine'])} on "
        f"{parity['samples']} samples, where the largest answer is the same on {parity['same-largest-answer']}."
        f"{_sparse_kernels(facts)}"
    )


def _sparse_kernels(facts: Mapping[str, Any]) -> str:
    """In how many layers TensorRT took them, by its own log; empty of a dense engine."""
    if not (layers := facts.get("sparse-layers")):
        return ""
    able, chosen = layers["able"], layers["chosen"]
    if able is None or chosen is None:
        return " Its log does not say whether it skips zeros."
    return f" It skips zeros in {chosen} of the {able} layers in which TensorRT saw two of four."


def _fastest(built: Built) -> str:
    """Engines that the device measured, the fastest first."""
    timed = _timed(built)
    if not timed:
        return ""
    return f"Measured on {timed[0][0]}, p50: {', '.join(f'{name} {seconds(p50)}' for _, name, p50 in timed)}. "


def _timed(built: Built) -> list[tuple[str, str, float]]:
    """Board, candidate and p50 of the engines that a device measured, the fastest first."""
    found = {
        name: json.loads((built.engines[name].path / "engine.json").read_bytes())
        for name in built.device_builds
        if name in built.engines
    }
    timed = [(facts["board"], name, facts["latency"]["p50"]) for name, facts in found.items() if "latency" in facts]
    return sorted(timed, key=lambda one: one[2])
