"""Which engines can be made here for which GPU, and with which shapes: decided before any compiler is started."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlopt import registry
from mlopt.artifact import DEVICE_BUILD
from mlopt.tensorrt import OLDEST_SERVED, number

if TYPE_CHECKING:
    from mlopt.signature import InputSpec, Signature, Tensor
    from mlopt.target import Target

# What TensorRT for RTX 1.7 compiles for, by its own list; it refuses Orin (8.7), Hopper (9.0), Blackwell servers
# (10.0) and Thor (11.0). A test asks the installed compiler.
RTX_CAPABILITIES: Final = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
_LEAST, _MOST = 32, 512  # of a free dimension, in an example that somebody corrects


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """An input with free dimensions: the shapes that an engine must take, and the one it is tuned for."""

    name: str
    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]


class NoShapes(ValueError):
    """Nobody said how large a free dimension may get; `next` says what to write."""

    def __init__(self, what: str, next: str) -> None:
        super().__init__(f"{what}: {next}")
        self.what, self.next = what, next


def shape_ranges(signature: Signature, inputs: Mapping[str, InputSpec], max_batch: int) -> tuple[ShapeRange, ...]:
    """A range for every input with free dimensions: as mlopt.toml says, or batch 1 to `max_batch`, tuned for 1.

    Raises `NoShapes` for a free dimension other than the batch that nobody bounded.
    """
    return tuple(
        _range(tensor, inputs.get(tensor.name), signature.batch, max_batch)
        for tensor in signature.inputs
        if any(not isinstance(dim, int) for dim in tensor.shape)
    )


def _range(tensor: Tensor, said: InputSpec | None, batch: str | None, max_batch: int) -> ShapeRange:
    if said and said.least and said.most:
        return ShapeRange(tensor.name, said.least, said.usual or said.least, said.most)
    free = [dim for dim in tensor.shape if not isinstance(dim, int)]
    if set(free) != {batch}:
        raise NoShapes(
            f"input {tensor.name} has the free dimension {next(dim for dim in free if dim != batch)!r}",
            f"say least and most under [inputs.{tensor.name}] in mlopt.toml, like {_bounds(tensor, max_batch, batch)}",
        )
    one, many = (tuple(dim if isinstance(dim, int) else size for dim in tensor.shape) for size in (1, max_batch))
    return ShapeRange(tensor.name, one, one, many)


def _bounds(tensor: Tensor, max_batch: int, batch: str | None) -> str:
    """Shapes that could be meant, to be corrected by who knows."""
    shapes = {"least": (1, _LEAST), "most": (max(max_batch, 8), _MOST)}
    said = (
        f"{key} = {[dim if isinstance(dim, int) else lead if dim == batch else size for dim in tensor.shape]}"
        for key, (lead, size) in shapes.items()
    )
    return ", ".join(said)


def why_no_engine(step: str, target: Target, precision: str, *, sparse: bool = False) -> str:
    """Why the step that makes a recipe's engine, or what a device needs to build one, cannot for the target; or "".
    `sparse`: with kernels that skip two of four weights."""
    reason = (why_no_device_build if built_on_device(step) else why_no_rtx)(target, precision)
    if not reason and sparse and target.gpu and not target.gpu.sparsity:
        return f"compute capability {target.gpu.compute_capability} has no 2:4 sparsity"
    return reason


def built_on_device(step: str) -> bool:
    """Whether that step makes no engine, but what a device needs to build one."""
    return bool(registry.load("mlopt.steps", step).produces == DEVICE_BUILD)


def why_no_rtx(target: Target, precision: str = "") -> str:
    """Why TensorRT for RTX makes no engine (of that precision) for the target; empty when it does."""
    if target.gpu is None:
        return f"{target.name} has no NVIDIA GPU"
    capability = target.gpu.compute_capability
    if capability not in RTX_CAPABILITIES:
        return f"TensorRT for RTX does not compile for compute capability {capability}"
    if precision and precision not in target.gpu.precisions:
        return f"compute capability {capability} has no {precision}"
    return ""


def why_no_device_build(target: Target, precision: str = "") -> str:
    """Why no engine (of that precision) is built on the target itself, by the TensorRT that it has; empty when one
    is."""
    if target.gpu is None:
        return f"{target.name} has no NVIDIA GPU"
    if target.build_on == "host":
        return "engines are built for a board or a card by its name (mlopt targets list)"
    if target.build_on != "device":
        return f"engines for {target.name} are built without it, by TensorRT for RTX"
    if precision not in ("", *target.gpu.precisions):
        return f"compute capability {target.gpu.compute_capability} has no {precision}"
    return ""


def why_no_first_start(target: Target, builds: Collection[str], server: str, *, plain: bool = True) -> str:
    """Why there is no image that builds its engine at its first start; empty where there is one."""
    version = target.stacks[0].tensorrt if target.stacks else None
    if target.build_on != "device" or version is None:
        return f"engines for {target.name} are not built on it"
    if number(version) < number(OLDEST_SERVED):
        return (
            f"the Python module of TensorRT {version} cannot run an engine as the server does, from {OLDEST_SERVED} on"
        )
    if server != "python":
        return f"the server {server} builds no engine: --server python does"
    if not plain:
        return "its image stands on layers that every docker build unpacks: without --base, and in gzip"
    return "" if builds else "no engine for it keeps the budgets"


def is_experimental(target: Target) -> bool:
    """The compiler takes the GPU's compute capability, but its vendor names RTX cards alone as supported."""
    return target.build_on != "anywhere"
