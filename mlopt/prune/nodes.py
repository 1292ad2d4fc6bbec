"""What the rules for operators share: how a node is read, and how its outputs get their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from mlopt.prune.channels import Axes, Channels


def attribute(node: Any, name: str, default: Any) -> Any:
    """The value of a node's attribute, or the default."""
    import onnx

    found = next((entry for entry in node.attribute if entry.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def groups_of(node: Any) -> int:
    """Of a convolution."""
    return int(attribute(node, "group", 1))


def constant(channels: Channels, name: str) -> np.ndarray | None:
    """The values of an initializer, None for anything else."""
    import onnx

    tensor = channels.constants.get(name)
    return None if tensor is None else onnx.numpy_helper.to_array(tensor)


def why(node: Any) -> str:
    """The reason for what the node freezes, as a person reads it."""
    return f"node {node.name} ({node.op_type})"


def put(channels: Channels, node: Any, axes: Axes) -> bool:
    """Label the outputs; true, for a rule to end with."""
    channels.axes[node.output[0]] = axes
    for name in node.output[1:]:  # masks and indices: as large as the first, and read by nobody that is known here
        if name:
            channels.axes[name] = axes
            for axis in axes:
                channels.freeze(axis, why(node))
    return True
