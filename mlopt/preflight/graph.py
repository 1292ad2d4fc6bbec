"""A graph held against what one version of TensorRT takes: opset, operators, types, zero-points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlopt.onnx_file import attributes_of
from mlopt.preflight.finding import Finding
from mlopt.signature import walk
from mlopt.target import PRECISION_SINCE, Target, newest_opset
from mlopt.tensorrt import facts, number

# The precision that a tensor's type asks for; int8 and uint8 count where a graph quantizes to them.
_ASKS: Final = {"float16": "fp16", "bfloat16": "bf16", "float8e4m3fn": "fp8", "int4": "int4", "float4e2m1": "fp4"}
_NEAREST: Final[Mapping[str, tuple[str, ...]]] = {
    "fp4": ("int4", "fp8", "int8", "fp16"),
    "fp8": ("int8", "fp16"),
    "int4": ("int8", "fp16"),
    "int8": ("fp16",),
    "bf16": ("fp16", "fp32"),
    "fp16": ("fp32",),
}
# What no version of its ONNX parser holds: whole numbers of other sizes, texts, complex numbers, other 8-bit floats.
_STRANGE: Final = frozenset({
    *("int16", "uint16", "uint32", "uint64", "string", "complex64", "complex128", "uint4"),
    *("float8e5m2", "float8e4m3fnuz", "float8e5m2fnuz"),
})  # fmt: skip


def precision(target: Target, version: str, wanted: str, where: str = "") -> Iterator[Finding]:
    """Why the GPU, or that version of TensorRT, has no such precision; nothing when both have it."""
    assert target.gpu
    legal = [one for one in target.gpu.precisions if facts().has(version, one)]
    nearest = next((one for one in _NEAREST.get(wanted, ()) if one in legal), "fp32")
    if wanted not in target.gpu.precisions:
        sm = next((sm for name, sm in PRECISION_SINCE.items() if name == wanted), (0, 0))
        came = f": it came with {sm[0]}.{sm[1]}" if target.gpu.sm < sm else ""
        yield Finding(
            f"Compute capability {target.gpu.compute_capability} of {target.name} has no {wanted}{came}",
            where,
            f"take {nearest}, which it has",
        )
    elif wanted not in legal:
        since = facts().precisions.get(wanted, "")
        newer = _newer(target, since) if since else ""
        yield Finding(
            f"TensorRT {version} has no {wanted}" + (f": it came with {since}" if since else ""),
            where,
            newer or f"take {nearest}, which it has",
        )


def graph(model: Any, target: Target, version: str, *, lists: bool = True) -> tuple[Finding, ...]:
    """Everything that stands in the graph; `model` is an onnx.ModelProto with shapes inferred. Without `lists` it is
    held against the GPU's precisions alone."""
    found = [*_opset(model, target, version)] if lists else []
    types = _types(model)
    asked: dict[str, str] = {}
    local = {(function.domain, function.name) for function in model.functions}
    for node in walk(model.graph):
        where = f"node {node.name or node.output[0]} ({node.op_type})"
        if (node.domain, node.op_type) in local:
            continue
        quantizes = node.op_type in ("QuantizeLinear", "DequantizeLinear")
        for kind in {types.get(name, "") for name in (*node.input, *node.output)}:
            if kind in _ASKS or (quantizes and kind == "int8"):
                asked.setdefault(_ASKS.get(kind, kind), where)
        if lists:
            found += _operator(node, model, target, version, where)
            found += _strange(node, types, where)
            found += _zero_point(node, model, types, where) if quantizes else _first_input(node, types, version, where)
    for wanted, where in sorted(asked.items()):
        found += precision(target, version, wanted, where)
    return _once(found)


def _once(found: list[Finding]) -> tuple[Finding, ...]:
    """One finding for each thing to say, with the first node that it is said of and how many more there are."""
    groups: dict[tuple[str, str, bool], list[str]] = {}
    for one in found:
        groups.setdefault((one.what, one.next, one.certain), []).append(one.where)
    return tuple(
        Finding(what, places[0] + (f" and {len(places) - 1} more" if len(places) > 1 else ""), next, certain)
        for (what, next, certain), places in groups.items()
    )


def _strange(node: Any, types: Mapping[str, str], where: str) -> Iterator[Finding]:
    for kind in sorted({types.get(name, "") for name in (*node.input, *node.output)} & _STRANGE):
        yield Finding(f"TensorRT holds no {kind}", where, "cast it to int32 or float32 in the model")


def _opset(model: Any, target: Target, version: str) -> Iterator[Finding]:
    have = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    most = newest_opset("tensorrt", version)
    if have > most:
        yield Finding(
            f"TensorRT {version} reads opset {most} at most, and the model has {have}",
            next=f"mlopt export MODEL --target {target.name} converts it down to what its first TensorRT reads",
        )


def _operator(node: Any, model: Any, target: Target, version: str, where: str) -> Iterator[Finding]:
    if node.domain not in ("", "ai.onnx"):
        yield Finding(
            f"{node.op_type} is an operator of {node.domain}, for which TensorRT needs a plug-in of that name",
            where,
            "replace it by standard operators in the model, or start from the model before that tool changed it",
        )
        return
    group = facts().group(node.op_type)
    if group is None:
        refused = node.op_type in facts().never
        said = "refuse it" if refused else f"do not have it, up to {facts().newest}"
        yield Finding(
            f"TensorRT {version} does not know {node.op_type}: its lists of operators {said}",
            where,
            _instead(node, model),
            certain=refused or number(version) <= number(facts().newest),
        )
    elif number(group.since) > number(version):
        newer = _newer(target, group.since)
        yield Finding(
            f"TensorRT {version} does not know {node.op_type}: it came with {group.since}",
            where,
            " or ".join(found for found in (newer, _instead(node, model)) if found),
        )


def _newer(target: Target, since: str) -> str:
    """The JetPack of that board that brings such a TensorRT."""
    for stack in target.stacks:
        if stack.jetpack and stack.tensorrt and number(stack.tensorrt) >= number(since):
            return f"JetPack {stack.jetpack} runs on {target.name} and brings TensorRT {stack.tensorrt}"
    return ""


def _instead(node: Any, model: Any) -> str:
    """An operator that ONNX defines by others was written out in the opsets before it came."""
    import onnx

    have = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if not onnx.defs.has(node.op_type, have, ""):
        return "replace it by standard operators in the model"
    first = min(one.since_version for one in onnx.defs.get_all_schemas_with_history() if one.name == node.op_type)
    schema: Any = onnx.defs.get_schema(node.op_type, have, "")
    if first > 1 and (schema.has_function or schema.has_context_dependent_function):
        return f"export the model with opset {first - 1}, where it is written out in simpler operators"
    return "replace it by other operators in the model"


def _zero_point(node: Any, model: Any, types: Mapping[str, str], where: str) -> Iterator[Finding]:
    """TensorRT's int8 is symmetric."""
    from onnx import numpy_helper

    kind = types.get(node.input[2], "") if len(node.input) > 2 and node.input[2] else ""
    quantized = kind or types.get((node.output if node.op_type == "QuantizeLinear" else node.input)[0], "")
    advice = "quantize it for TensorRT: symmetric int8, zero-point 0, as the recipes rtx-int8 and rtx-int8-fp16 do"
    if quantized == "uint8":
        yield Finding("TensorRT quantizes to int8, and this is uint8", where, advice)
        return
    constant = next((one for one in model.graph.initializer if kind and one.name == node.input[2]), None)
    if constant is not None and kind == "int8" and numpy_helper.to_array(constant).any():
        yield Finding("TensorRT's int8 has zero-point 0, and this has another", where, advice)
    said = attributes_of(node)
    if (
        said.get("block_size")
        and types.get(node.input[0]) in ("int4", "float4e2m1")
        and said.get("axis", 1) not in (0, -2)
    ):
        yield Finding(
            "TensorRT takes blocks of a weight along the dimension that is summed over, and these lie along another",
            where,
            "write the weight as MatMul reads it, K by N, with blocks along axis 0",
        )


def _first_input(node: Any, types: Mapping[str, str], version: str, where: str) -> Iterator[Finding]:
    """By the lists since 9.0, which tell int32 and int64 apart; another type may still be cast on the way."""
    group = facts().group(node.op_type)
    kind = types.get(node.input[0], "") if node.input else ""
    if group is None or not group.types or not kind or number(version) < (9,) or kind in _STRANGE:
        return
    if kind not in group.types and kind not in ("float64", "uint8"):
        yield Finding(
            f"TensorRT's lists have {node.op_type} for {', '.join(group.types)}, and here it reads {kind}",
            where,
            f"cast it to {group.types[0]} before this node, should the device refuse it",
            certain=False,
        )


def _types(model: Any) -> dict[str, str]:
    """Types by the name of a value, as ONNX calls them in lower case."""
    from onnx import TensorProto

    inner = model.graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*inner.input, *inner.value_info, *inner.output)}
    kinds |= {tensor.name: tensor.data_type for tensor in inner.initializer}
    names = {TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64"}
    return {name: names.get(kind) or TensorProto.DataType.Name(kind).lower() for name, kind in kinds.items() if kind}
