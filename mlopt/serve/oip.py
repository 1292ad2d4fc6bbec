"""The messages of the Open Inference Protocol's gRPC service, made from this table when they are first needed.

Names, numbers and types are those of the protocol's own definition (package `inference`), with the two kinds of
parameters and the repository index that Triton added. No compiler of `.proto` files runs, and no generated code ties
the server to one version of protobuf.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

PACKAGE: Final = "inference"
SERVICE: Final = "inference.GRPCInferenceService"

# One message a block; `*` is repeated, `map` from text to InferParameter, `^` one of several. Behind `/`: inside it.
_MESSAGES: Final = """
ServerLiveRequest
ServerLiveResponse
 bool live 1
ServerReadyRequest
ServerReadyResponse
 bool ready 1
ModelReadyRequest
 string name 1
 string version 2
ModelReadyResponse
 bool ready 1
ServerMetadataRequest
ServerMetadataResponse
 string name 1
 string version 2
 *string extensions 3
ModelMetadataRequest
 string name 1
 string version 2
ModelMetadataResponse
 string name 1
 *string versions 2
 string platform 3
 *.ModelMetadataResponse.TensorMetadata inputs 4
 *.ModelMetadataResponse.TensorMetadata outputs 5
ModelMetadataResponse/TensorMetadata
 string name 1
 string datatype 2
 *int64 shape 3
InferParameter
 ^bool bool_param 1
 ^int64 int64_param 2
 ^string string_param 3
 ^double double_param 4
 ^uint64 uint64_param 5
InferTensorContents
 *bool bool_contents 1
 *int32 int_contents 2
 *int64 int64_contents 3
 *uint32 uint_contents 4
 *uint64 uint64_contents 5
 *float fp32_contents 6
 *double fp64_contents 7
 *bytes bytes_contents 8
ModelInferRequest
 string model_name 1
 string model_version 2
 string id 3
 map parameters 4
 *.ModelInferRequest.InferInputTensor inputs 5
 *.ModelInferRequest.InferRequestedOutputTensor outputs 6
 *bytes raw_input_contents 7
ModelInferRequest/InferInputTensor
 string name 1
 string datatype 2
 *int64 shape 3
 map parameters 4
 .InferTensorContents contents 5
ModelInferRequest/InferRequestedOutputTensor
 string name 1
 map parameters 2
ModelInferResponse
 string model_name 1
 string model_version 2
 string id 3
 map parameters 4
 *.ModelInferResponse.InferOutputTensor outputs 5
 *bytes raw_output_contents 6
ModelInferResponse/InferOutputTensor
 string name 1
 string datatype 2
 *int64 shape 3
 map parameters 4
 .InferTensorContents contents 5
RepositoryIndexRequest
 string repository_name 1
 bool ready 2
RepositoryIndexResponse
 *.RepositoryIndexResponse.ModelIndex models 1
RepositoryIndexResponse/ModelIndex
 string name 1
 string version 2
 string state 3
 string reason 4
"""


@cache
def messages() -> dict[str, Any]:
    """The classes of the messages, by name. Needs protobuf."""
    from google.protobuf import descriptor_pool, message_factory  # type: ignore[import-untyped]
    from google.protobuf.descriptor_pb2 import FileDescriptorProto  # type: ignore[import-untyped]

    file = FileDescriptorProto(name="mlopt/oip.proto", package=PACKAGE, syntax="proto3")
    message: Any = None
    for line in _MESSAGES.strip().splitlines():
        if not line.startswith(" "):
            outer, _, inner = line.partition("/")
            within = next((found for found in file.message_type if found.name == outer), None) if inner else None
            message = within.nested_type.add(name=inner) if within else file.message_type.add(name=outer)
        elif line == " map parameters 4" or line == " map parameters 2":
            _add_parameters(message, int(line.rpartition(" ")[2]), _path(file, message))
        else:
            _add_field(message, *line.split())
    # A pool of its own: the process may hold a client's messages of the same names.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = [found.name for found in file.message_type]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in names}


def _add_field(message: Any, kind: str, name: str, number: str) -> None:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

    mark, kind = (kind[0], kind[1:]) if kind[0] in "*^" else ("", kind)
    field = message.field.add(name=name, number=int(number))
    field.label = Field.LABEL_REPEATED if mark == "*" else Field.LABEL_OPTIONAL
    if kind.startswith("."):
        field.type, field.type_name = Field.TYPE_MESSAGE, f".{PACKAGE}{kind}"
    else:
        field.type = Field.Type.Value(f"TYPE_{kind.upper()}")
    if mark == "^":
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0


def _add_parameters(message: Any, number: int, path: str) -> None:
    """A map is a repeated message of keys and values that says it is one."""
    entry = message.nested_type.add(name="ParametersEntry")
    entry.options.map_entry = True
    _add_field(entry, "string", "key", "1")
    _add_field(entry, ".InferParameter", "value", "2")
    _add_field(message, f"*.{path}.ParametersEntry", "parameters", str(number))


def _path(file: Any, message: Any) -> str:
    for outer in file.message_type:
        if any(inner is message for inner in outer.nested_type):
            return f"{outer.name}.{message.name}"
    return str(message.name)
