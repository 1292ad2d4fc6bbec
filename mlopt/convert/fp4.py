"""Blocks of whole numbers that stand for fp4 (E2M1), written as what they stand for."""

from __future__ import annotations

from typing import Any, Final

from mlopt.convert.finish import converted
from mlopt.errors import UnsupportedModel
from mlopt.onnx_file import attributes_of

# int8 with E2M1's magnitudes times two, as `steps/quantize_weight_blocks.py` writes them, and the code of each.
_CODES: Final = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 6: 5, 8: 6, 12: 7}
_SIGN: Final = 8
_OPSET: Final = 23  # the first in which DequantizeLinear reads E2M1
_IR: Final = 11


def with_fp4(model: Any) -> Any:
    """A copy in which the blocked int8 weights are E2M1 with twice the scale: the same numbers, half the bytes.

    Raises `UnsupportedModel` when a blocked weight holds another number, or there is none.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    raised = converted(model, _OPSET)
    raised.ir_version = max(raised.ir_version, _IR)
    constants = {tensor.name: tensor for tensor in raised.graph.initializer}
    done: set[str] = set()
    for node in raised.graph.node:
        tensor = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if tensor is None or not attributes_of(node).get("block_size") or node.input[0] in done:
            continue
        if tensor.data_type != TensorProto.INT8:
            continue
        codes = numpy_helper.to_array(tensor)
        strange = sorted(set(np.unique(np.abs(codes.astype(np.int16))).tolist()) - set(_CODES))
        if strange:
            raise UnsupportedModel(
                f"Weight {tensor.name!r} holds {strange[0]}, which is twice no number of fp4.",
                next="make it with the step quantize-weight-blocks, precision = 'fp4'",
            )
        table = np.zeros(_SIGN + 8, np.uint8)
        table[list(_CODES)[:8]] = list(_CODES.values())
        nibbles = (table[np.abs(codes)] | np.where(codes < 0, _SIGN, 0).astype(np.uint8)).ravel()
        if nibbles.size % 2:
            nibbles = np.append(nibbles, np.uint8(0))
        packed = (nibbles[::2] | (nibbles[1::2] << 4)).astype(np.uint8).tobytes()
        scale = constants[node.input[1]]
        wide = numpy_helper.to_array(scale)
        scale.CopyFrom(numpy_helper.from_array(wide * wide.dtype.type(2), scale.name))
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.FLOAT4E2M1, list(tensor.dims), packed, raw=True))
        done.add(node.input[0])
    if not done:
        raise UnsupportedModel("The model has no weight in blocks, so there is nothing to make fp4 of.")
    return raised
