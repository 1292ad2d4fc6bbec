"""What `mlopt targets show` says of engines for an NVIDIA GPU: which compiler, where, in which precisions, and why."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlopt.target import Gpu, Stack, Target


def engine_facts(target: Target) -> list[tuple[str, str]]:
    """Name and sentence of each; nothing for a target without a GPU."""
    if target.gpu is None:
        return []
    from mlopt.engines import why_no_device_build

    facts = [("TensorRT for RTX", _rtx(target))]
    if versions := [stack for stack in target.stacks if stack.tensorrt]:
        where = (
            "built on such a machine alone: an engine holds what was timed on the GPU that built it, and opens in that "
            "version of TensorRT only"
        )
        if not why_no_device_build(target):
            where += (
                "; mlopt compile --device USER@HOST does it over ssh, and python3 build.py in device/ of the bundle"
            )
        facts.append(("TensorRT", "\n".join([where, *_versions(target, target.gpu, versions)])))
    if target.gpu.dla:
        facts.append(("DLA", _dla(target, target.gpu)))
    elif target.jetpacks:
        facts.append(("DLA", "none on this board"))
    if target.gpu.sparsity:
        facts.append(("2:4 sparsity", _sparsity(target)))
    return facts


def released(stacks: tuple[Stack, ...]) -> Iterator[str]:
    """One line for every system, with the JetPack releases that differ in nothing else."""
    for _, same in itertools.groupby(stacks, key=lambda one: (one.ubuntu, one.python, one.cuda, one.tensorrt)):
        group = list(same)
        first = group[0]
        named = [f"{one.jetpack} (L4T {one.l4t})" if one.l4t else str(one.jetpack) for one in group if one.jetpack]
        known = {"Ubuntu": first.ubuntu, "Python": first.python, "CUDA": first.cuda, "TensorRT": first.tensorrt}
        known["ONNX Runtime"] = first.onnxruntime
        parts = [f"JetPack {', '.join(named)}"] if named else [f"L4T {first.l4t}"] if first.l4t else []
        yield ", ".join([*parts, *(f"{label} {version}" for label, version in known.items() if version)])


def _rtx(target: Target) -> str:
    assert target.gpu
    from mlopt.engines import is_experimental, why_no_rtx
    from mlopt.step import installed

    if reason := why_no_rtx(target):
        return f"no engine: {reason}"
    version = installed("tensorrt-rtx")
    here = f"version {version} is here" if version else "not installed here: pip install 'mlopt[tensorrt]'"
    unsure = "; experimental: NVIDIA names RTX cards alone as supported" if is_experimental(target) else ""
    return (
        f"an engine for compute capability {target.gpu.compute_capability}, on any x86-64 machine, without the GPU "
        f"({here}){unsure}. It ends its compiling on the GPU; mlopt has run none yet"
    )


def _sparsity(target: Target) -> str:
    from mlopt.engines import why_no_device_build

    if why_no_device_build(target):
        return (
            "its tensor cores have it. TensorRT for RTX made the same bytes of such weights whether asked for it or "
            "not, so mlopt claims nothing of it"
        )
    return (
        "its tensor cores have it: recipes tensorrt-sparse-fp16 and tensorrt-sparse-int8, asked for by name. TensorRT "
        "takes a sparse kernel where it is the faster one, which it is in large layers at best; mlopt has seen none run"
    )


def _versions(target: Target, gpu: Gpu, stacks: list[Stack]) -> Iterator[str]:
    """One line for every version of TensorRT: what it and the GPU both have."""
    from mlopt.target import newest_opset
    from mlopt.tensorrt import facts, number

    for version, same in itertools.groupby(stacks, key=lambda stack: stack.tensorrt or ""):
        names = [stack.jetpack for stack in same if stack.jetpack]
        precisions = [one for one in gpu.precisions if facts().has(version, one)]
        absent = [one for one in gpu.precisions if one not in precisions]
        types = "typed by the model" if number(version) >= (10,) else "typed by flags"
        lacks = f" (no {', '.join(absent)} in this version)" if absent else ""
        jetpacks = f" of JetPack {', '.join(names)}" if names else ""
        yield f"{version}{jetpacks}: {' '.join(precisions)}{lacks}, opset {newest_opset('tensorrt', version)}, {types}"


def _dla(target: Target, gpu: Gpu) -> str:
    from mlopt.jetpack import releases

    known = releases()
    with_it = [name for name in target.jetpacks if known[name].dla]
    without = [name for name in target.jetpacks if not known[name].dla]
    lacks = f"; that of JetPack {', '.join(without)} has no DLA" if without else ""
    return f"{gpu.dla} of them, with the TensorRT of JetPack {', '.join(with_it)}{lacks}"
