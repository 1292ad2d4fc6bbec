"""ONNX Runtime's own profiler: its events as kernels, under names of the model that was loaded."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mlopt.insight import Arithmetic, Kernel, Profile

_SMALL: Final = 256 << 20
_EVENT: Final = "_kernel_time"
_QUERY: Final = "model_run"
# What optimisers append to the name of a node, or of the tensor that it makes.
_ADDED: Final = re.compile(r"(_token_\d+|_nchwc)+$")
_BYTES: Final = {"int8", "uint8"}
_TYPES: Final[Mapping[str, Arithmetic]] = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16"}
# Conversions, and products that read weights as bytes and multiply floats.
_IN_FLOAT: Final = {"QuantizeLinear", "DequantizeLinear", "MatMulNBits", "DequantizeBFP"}


def recorded(model: Path, options: Any, run: Callable[[Any], Any], *, warm_up: int) -> Profile:
    """Of what `run` does with a session of these options, without its first queries; it returns the session."""
    with tempfile.TemporaryDirectory(prefix="mlopt-profile-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "events")
        if _is_small(model):  # it is written whole
            options.optimized_model_filepath = str(optimized)
        events = json.loads(Path(run(options).end_profiling()).read_bytes())
        return read(events, _nodes(optimized), warm_up=warm_up)


def read(events: Sequence[Mapping[str, Any]], nodes: Sequence[Any], *, warm_up: int = 0) -> Profile:
    """`nodes` are those of the optimised graph: they say which tensors a kernel makes."""
    queries = [event for event in events if event["cat"] == "Session" and event["name"] == _QUERY][warm_up:]
    # Of those that something else disturbed nothing is taken, neither the whole nor the kernels.
    kept = sorted(queries, key=lambda query: query["dur"])[: -(-len(queries) // 2)]
    seen: dict[str, list[Mapping[str, Any]]] = {}
    for query in kept:
        for event in _outermost(events, query):
            seen.setdefault(event["name"].removesuffix(_EVENT), []).append(event)
    kinds = [events[0]["args"]["op_name"] for events in seen.values()]
    in_order = kinds == [node.op_type for node in nodes]
    by_name = {node.name: node for node in nodes if node.name}
    kernels = []
    for number, (name, times) in enumerate(seen.items()):
        node = nodes[number] if in_order else by_name.get(name)
        anchors = (name, _ADDED.sub("", name), *(node.output if node is not None else ()))
        kind = str(times[0]["args"]["op_name"])
        arithmetic, seconds = _arithmetic(times[0]["args"]), _mean(times, len(kept))
        kernels.append(Kernel(name, kind, tuple(dict.fromkeys(anchors)), arithmetic, seconds))
    method = f"ONNX Runtime's profiler, in whole microseconds; mean of the faster half of {len(queries)} queries"
    return Profile(tuple(kernels), _mean(kept, len(kept)), len(kept), method)


def _mean(events: Sequence[Mapping[str, Any]], queries: int) -> float:
    """Seconds of a query."""
    return float(sum(event["dur"] for event in events)) * 1e-6 / queries


def _outermost(events: Sequence[Mapping[str, Any]], query: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The kernels of one query, without those that run inside another one (a branch, the body of a loop)."""
    began, ended = query["ts"], query["ts"] + query["dur"]
    inside = [
        event
        for event in events
        if event["cat"] == "Node" and event["name"].endswith(_EVENT) and began <= event["ts"] <= ended
    ]
    until = -1
    for event in sorted(inside, key=lambda event: (event["ts"], -event["dur"])):
        if event["ts"] >= until:
            until = event["ts"] + event["dur"]
            yield event


def _arithmetic(said: Mapping[str, Any]) -> Arithmetic:
    types = [next(iter(one)) for one in said.get("input_type_shape", ()) if one]
    if not types:
        return "other"
    if said["op_name"] not in _IN_FLOAT and (_BYTES & set(types[:2])):
        return "int8"
    return _TYPES.get(types[0], "other")


def _is_small(model: Path) -> bool:
    from mlopt.onnx_file import external_tensors, load_graph

    return model.stat().st_size <= _SMALL and not any(external_tensors(load_graph(model)))


def _nodes(optimized: Path) -> Sequence[Any]:
    import onnx

    with suppress(Exception):  # then names have to do
        nodes: Sequence[Any] = onnx.load(str(optimized), load_external_data=False).graph.node
        return nodes
    return ()
