"""What comes over gRPC, read into what a request over REST says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from mlopt.serve.model import Serving
from mlopt.serve.protocol import InferRequest, parse_message
from mlopt.serve.tensors import Rejected

# Of each datatype the field of InferTensorContents; FP16 has none and travels as bytes.
_FIELDS: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def read(parse: Callable[[bytes], Any], body: bytes) -> Any:
    """A message. Raises `Rejected`."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return parse(body)
    except DecodeError as error:
        raise Rejected("the message is not one of this service") from error


def infer_request(message: Any, serving: Serving) -> InferRequest:
    """Read into what a request over REST says, so that both are checked by the same code. Raises `Rejected`."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise Rejected(f"there are {len(message.inputs)} inputs and {len(raw)} raw_input_contents")
    inputs = []
    for place, tensor in enumerate(message.inputs):
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": _parameters(tensor.parameters),
        }
        entry["parameters"].pop("binary_data_size", None)
        if raw:
            if tensor.HasField("contents"):
                raise Rejected(f"input {tensor.name!r} has both contents and raw_input_contents")
            entry["parameters"]["binary_data_size"] = len(raw[place])
        elif tensor.datatype in _FIELDS:
            entry["data"] = list(getattr(tensor.contents, _FIELDS[tensor.datatype]))
        inputs.append(entry)
    outputs = [{"name": one.name, "parameters": _parameters(one.parameters)} for one in message.outputs]
    told = {"inputs": inputs, "outputs": outputs, "parameters": _parameters(message.parameters)}
    rest = memoryview(raw[0] if len(raw) == 1 else b"".join(raw))
    return parse_message(told | {"id": message.id or None}, rest, inputs=serving.inputs, outputs=serving.outputs)


def _parameters(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, value.WhichOneof("parameter_choice") or "bool_param") for name, value in found.items()}
