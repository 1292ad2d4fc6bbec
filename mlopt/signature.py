"""What a model takes and gives, read from its ONNX graph; and generated inputs that fit it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from mlopt.artifact import Artifact
from mlopt.errors import ConfigInvalid, ModelUnreadable, UnsupportedModel

if TYPE_CHECKING:
    import numpy as np

Shape = tuple[int | str, ...]
FREE_SIZE: Final = 16
_NUMBER: Final = r"-?[0-9.]+(?:e-?[0-9]+)?"
_TEXT: Final = re.compile(
    r"(?P<dtype>[a-z]+[0-9]*)?(?:\[(?P<dims>[^\]]*)\])?"
    rf"(?:=(?P<value>{_NUMBER}))?(?:~(?P<low>{_NUMBER}):(?P<high>{_NUMBER}))?"
)
_SAMPLING_RATES: Final = frozenset({"sr", "sample_rate", "sampling_rate"})
_TOKEN_LIMIT: Final = 16


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output. `dtype` is numpy's name; a `str` in `shape` is a dimension the caller chooses."""

    name: str
    dtype: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Signature:
    """`op_types` are sorted, unique, without their domain, and include those of sub-graphs.

    `parameters` counts the elements of weights (initializers and constants that are not int64 or bool).
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opset: int
    op_types: tuple[str, ...]
    parameters: int

    def input(self, name: str) -> Tensor:
        """Raises `KeyError` when the model has no such input."""
        for tensor in self.inputs:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    @property
    def batch(self) -> str | None:
        """The name of the batch dimension: the commonest name that leads an input; None when all are fixed."""
        leading = [tensor.shape[0] for tensor in self.inputs if tensor.shape and isinstance(tensor.shape[0], str)]
        return str(Counter(leading).most_common(1)[0][0]) if leading else None


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a person says about an input that its file does not: `[inputs.NAME]` of mlopt.toml.

    `value` fills it with one number; `range` bounds generated values, both ends included. `least`, `usual` and `most`
    are shapes: an engine takes what lies between `least` and `most`, and is tuned for `usual`.
    """

    shape: Shape | None = None
    dtype: str | None = None
    value: float | None = None
    range: tuple[float, float] | None = None
    least: tuple[int, ...] | None = None
    usual: tuple[int, ...] | None = None
    most: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.least is None and self.usual is None and self.most is None:
            return
        if self.least is None or self.most is None:
            raise ValueError("least and most belong together, and one of them is missing")
        shapes = (self.least, self.usual or self.least, self.most)
        if len({len(shape) for shape in shapes}) > 1 or any(
            not low <= middle <= high for low, middle, high in zip(*shapes, strict=True)
        ):
            raise ValueError("least, usual and most are shapes of one rank, each at least as large as the one before")

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `dtype[dim,dim,…]`, with `=value` or `~low:high`; a name is a dynamic dimension. Raises `ConfigInvalid`.

        >>> InputSpec.parse("float32[N,3,224,224]").shape
        ('N', 3, 224, 224)
        >>> InputSpec.parse("int64[]=16000").value
        16000.0
        """
        if not (text and (match := _TEXT.fullmatch(text.replace(" ", "")))):
            raise ConfigInvalid(f"{text!r} does not describe an input.", next="write it like float32[N,3,224,224]")
        dims = None if match["dims"] is None else [dim for dim in match["dims"].split(",") if dim]
        return cls(
            shape=None if dims is None else tuple(int(dim) if dim.isdigit() else dim for dim in dims),
            dtype=match["dtype"],
            value=None if match["value"] is None else float(match["value"]),
            range=None if match["low"] is None else (float(match["low"]), float(match["high"])),
        )

    @property
    def text(self) -> str:
        """What `parse` reads."""
        shape = "" if self.shape is None else f"[{','.join(map(str, self.shape))}]"
        value = "" if self.value is None else f"={self.value:.17g}"
        bounds = "" if self.range is None else f"~{self.range[0]:.17g}:{self.range[1]:.17g}"
        return f"{self.dtype or ''}{shape}{value}{bounds}"


def signature(model: Artifact) -> Signature:
    """The signature of an artifact of format `onnx`. Raises `ModelUnreadable`."""
    return signature_of(model.main)


def signature_of(model: Any) -> Signature:
    """The signature of a `.onnx` file or of an `onnx.ModelProto`; external weights are not read.

    Raises `ModelUnreadable` for a file that is no ONNX model, `UnsupportedModel` for an input that is no tensor.
    """
    import onnx

    proto = _load(model) if isinstance(model, Path) else model
    weights = {tensor.name for tensor in proto.graph.initializer}
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    sizes = (_elements(tensor) for tensor in _tensors(proto.graph) if tensor.data_type not in _not_weights(onnx))
    return Signature(
        inputs=tuple(_tensor(value) for value in proto.graph.input if value.name not in weights),
        outputs=tuple(_tensor(value) for value in proto.graph.output),
        opset=opset,
        op_types=tuple(sorted({node.op_type for node in walk(proto.graph)})),
        parameters=sum(sizes),
    )


def random_feeds(
    signature: Signature,
    *,
    batch: int,
    seed: int,
    given: Mapping[str, InputSpec] | None = None,
    free: int = FREE_SIZE,
) -> dict[str, np.ndarray]:
    """Generated inputs: the same for the same arguments, on every machine.

    Floats are standard normal; 8-bit integers use their whole range; other integers are small and not negative
    (token ids), a sampling rate is 16000, a mask is all ones. `given` says otherwise, input by input. `free` is
    the size of dynamic dimensions other than the batch.
    """
    return {
        tensor.name: _generated(
            tensor, (given or {}).get(tensor.name, InputSpec()), {signature.batch: batch}, free, seed
        )
        for tensor in signature.inputs
    }


def _generated(tensor: Tensor, spec: InputSpec, sizes: Mapping[Any, int], free: int, seed: int) -> np.ndarray:
    import numpy as np

    # Each input draws from its own stream, so that adding one does not change the others.
    stream = int.from_bytes(hashlib.sha256(f"{seed} {tensor.name}".encode()).digest()[:8], "little")
    random = np.random.default_rng(stream)
    shape = concrete(tensor, spec, sizes, free)
    dtype = np.dtype(_NUMPY.get(tensor.dtype, tensor.dtype))
    if spec.value is not None:
        return np.full(shape, spec.value, dtype=dtype)
    if spec.range is not None:
        low, high = spec.range
        if dtype.kind in "iu":
            return random.integers(int(low), int(high), size=shape, endpoint=True).astype(dtype)
        return random.uniform(low, high, size=shape).astype(dtype)
    if dtype.kind == "b" or "mask" in tensor.name.lower():
        return np.ones(shape, dtype=dtype)
    if dtype.kind in "iu":
        return _integers(tensor, dtype, shape, random)
    return random.standard_normal(shape).astype(dtype)


def _integers(tensor: Tensor, dtype: np.dtype[Any], shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    import numpy as np

    if tensor.name.lower() in _SAMPLING_RATES:
        return np.full(shape, 16000, dtype=dtype)
    if dtype.itemsize == 1:
        limits = np.iinfo(dtype)
        return random.integers(limits.min, limits.max, size=shape, endpoint=True).astype(dtype)
    return random.integers(0, _TOKEN_LIMIT, size=shape).astype(dtype)


def concrete(tensor: Tensor, spec: InputSpec, sizes: Mapping[Any, int], free: int) -> tuple[int, ...]:
    """The tensor's shape in numbers. A fixed size in `spec` fills what the model leaves open."""
    asked = spec.shape if spec.shape is not None and len(spec.shape) == len(tensor.shape) else tensor.shape
    shape = []
    for dim, said in zip(tensor.shape, asked, strict=True):
        if isinstance(dim, int):
            shape.append(dim)
        elif dim in sizes:
            shape.append(sizes[dim])
        else:
            shape.append(said if isinstance(said, int) else free)
    return tuple(shape)


_NUMPY: Final[Mapping[str, str]] = {"bfloat16": "float32"}  # numpy has no bfloat16; runtimes take it as float32


def _load(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise ModelUnreadable("The file is not an ONNX model, or it is damaged.", where=str(path)) from error


def _tensor(value: Any) -> Tensor:
    import onnx

    if not value.type.HasField("tensor_type"):
        raise UnsupportedModel(
            f"{value.name!r} is a {value.type.WhichOneof('value')}; mlopt handles tensors only.", where=value.name
        )
    kind = value.type.tensor_type
    dtype = "str" if kind.elem_type == onnx.TensorProto.STRING else _dtype_name(kind.elem_type)
    return Tensor(value.name, dtype, tuple(_dim(dim, axis, value.name) for axis, dim in enumerate(kind.shape.dim)))


def _dtype_name(elem_type: int) -> str:
    import onnx

    if elem_type == onnx.TensorProto.BFLOAT16:
        return "bfloat16"
    return str(onnx.helper.tensor_dtype_to_np_dtype(elem_type).name)


def _dim(dim: Any, axis: int, name: str) -> int | str:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return dim.dim_param or ("batch" if axis == 0 else f"{name}_dim_{axis}")


def walk(graph: Any) -> Iterator[Any]:
    """Every node of a graph and of its sub-graphs, in the file's order."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                yield from walk(inner)


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in walk(graph):
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                yield attribute.t
            for inner in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                yield from inner.initializer


def _not_weights(onnx: Any) -> frozenset[int]:
    kinds = onnx.TensorProto
    return frozenset({kinds.INT64, kinds.BOOL, kinds.STRING})


def _elements(tensor: Any) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count
