"""Machines that can be built for: facts, no wishes. One file of `targets/` each; `host` is detected."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from mlopt import jetpack, paths, registry
from mlopt.schema import GIVEN, Key, load, read_toml
from mlopt.units import Bytes, BytesPerSecond, Hertz, OpsPerSecond, Watts

if TYPE_CHECKING:
    from mlopt.host import Machine
    from mlopt.steps.qdq import Scheme

HOST: Final = "host"

# fmt: off
Isa = Literal[
    "sse4.2", "avx", "avx2", "fma", "f16c", "avx512", "avx512-vnni", "avx512-bf16", "avx512-fp16",
    "avx-vnni", "avx-vnni-int8", "amx-int8", "amx-bf16",
    "neon", "dotprod", "fp16", "i8mm", "bf16", "sve", "sve2",
]
# fmt: on
Precision = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "fp4", "int8", "int4"]

NEWEST_OPSET: Final = 20  # beyond it operators come that no quantizer knows (docs/decisions/10-opset.md)
# Newest ONNX opset of each runtime from a version on, ascending. onnxruntime: its documented version matrix; 1.31
# was asked: it loads opset 26 and refuses 27. TensorRT: the parser's operators.md up to 10.15, the opset guide for 11.
_OPSETS: Final[Mapping[str, tuple[tuple[tuple[int, ...], int], ...]]] = {
    "onnxruntime": (
        *(((1, 8), 14), ((1, 9), 15), ((1, 12), 16), ((1, 13), 17), ((1, 14), 18), ((1, 15), 19), ((1, 17), 20)),
        *(((1, 18), 21), ((1, 21), 22), ((1, 23), 23), ((1, 31), 26)),
    ),
    "tensorrt": (((7, 2), 13), ((8, 4), 17), ((9, 0), 19), ((10, 0), 20), ((10, 15), 24), ((11, 0), 25)),
}
# What the images hold (docker/runtime.lock.json), where a stack does not say otherwise.
_OUR_ONNXRUNTIME: Final = "1.31"
# FP8 and FP4 units by compute capability, as NVIDIA's compiler enforces them; int8 dot products came with 6.1.
PRECISION_SINCE: Final[Mapping[Precision, tuple[int, int]]] = {
    "fp16": (5, 3),
    "int8": (6, 1),
    "int4": (8, 0),
    "bf16": (8, 0),
    "tf32": (8, 0),
    "fp8": (8, 9),
    "fp4": (10, 0),
}


@dataclass(frozen=True, slots=True)
class Cpu:
    """`isa` holds the instruction sets that decide which kernels run. None: machines of this name differ in it."""

    model: str
    isa: tuple[Isa, ...]
    cores: int | None = None
    frequency: Hertz | None = None

    def __post_init__(self) -> None:
        if self.cores is not None and self.cores < 1:
            raise ValueError("cores is less than 1")


@dataclass(frozen=True, slots=True)
class Gpu:
    """`memory` None: shared with the CPU. `dense` and `sparse` are peak rates by precision, as the vendor says.
    `driver_name` is a regular expression for all of the name that its driver gives it."""

    name: str
    compute_capability: str
    precisions: tuple[Precision, ...]
    memory: Bytes | None = None
    bandwidth: BytesPerSecond | None = None
    sparsity: bool = False
    dla: int = 0
    driver_name: str | None = None
    dense: Mapping[str, OpsPerSecond] = field(default_factory=dict)
    sparse: Mapping[str, OpsPerSecond] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9]{1,2}\.[0-9]", self.compute_capability):
            raise ValueError(f"compute-capability {self.compute_capability!r} is not like '8.7'")
        if self.driver_name is not None:
            _check_expression("driver-name", self.driver_name)
        for precision in self.precisions:
            if self.sm < PRECISION_SINCE.get(precision, (0, 0)):
                least = ".".join(map(str, PRECISION_SINCE[precision]))
                raise ValueError(
                    f"compute capability {self.compute_capability} has no {precision}: it came with {least}"
                )

    @property
    def sm(self) -> tuple[int, int]:
        """The compute capability as numbers that compare."""
        major, minor = self.compute_capability.split(".")
        return int(major), int(minor)


@dataclass(frozen=True, slots=True)
class Stack:
    """What a vendor image or an operating system ships together. `opset` overrides what the runtimes imply.
    `container` is an image with all of it, without its registry."""

    jetpack: str | None = None
    l4t: str | None = None
    ubuntu: str | None = None
    python: str | None = None
    cuda: str | None = None
    tensorrt: str | None = None
    onnxruntime: str | None = None
    opset: int | None = None
    container: str | None = None


@dataclass(frozen=True, slots=True)
class Power:
    """The settings that the vendor names, in rising order; a server card has one."""

    modes: tuple[Watts, ...]


@dataclass(frozen=True, slots=True)
class Detect:
    """How to know that this machine is such a board: a regular expression found in /proc/device-tree/model."""

    device_tree: str

    def __post_init__(self) -> None:
        _check_expression("device-tree", self.device_tree)


@dataclass(frozen=True, slots=True)
class Target:
    """`stacks` begins with the one to build for; `jetpacks` are releases of NVIDIA's JetPack, each of which is a stack
    (`mlopt/jetpack.py`). `channel_block` is how many channels the fast kernels take at a time,
    where that does not follow from the instruction sets. `unverified` lists key paths of facts that nobody checked; a
    table's path covers all below it. `sources` says where facts come from."""

    name: Annotated[str, GIVEN]
    summary: str
    platform: str
    cpu: Cpu
    build_on: Literal["host", "device", "anywhere"] = "anywhere"
    aliases: tuple[str, ...] = ()
    memory: Bytes | None = None
    channel_block: int | None = None
    gpu: Gpu | None = None
    stacks: Annotated[tuple[Stack, ...], Key("stack")] = ()
    jetpacks: tuple[str, ...] = ()
    power: Power | None = None
    detect: Detect | None = None
    unverified: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"linux/(amd64|arm64)(/v[0-9])?", self.platform):
            raise ValueError(f"platform {self.platform!r} is not linux/amd64 or linux/arm64")
        if self.channel_block is not None and self.channel_block < 1:
            raise ValueError("channel-block is less than 1")

    @property
    def opset(self) -> int:
        """The newest ONNX opset that every runtime of the target's first stack reads."""
        stack = self.stacks[0] if self.stacks else Stack()
        if stack.opset is not None:
            return stack.opset
        versions = {"onnxruntime": stack.onnxruntime or _OUR_ONNXRUNTIME, "tensorrt": stack.tensorrt}
        return min(newest_opset(runtime, version) for runtime, version in versions.items() if version)

    @property
    def int8_dot(self) -> bool:
        """Whether the CPU multiplies int8 into int32 in one instruction, so that int8 can be faster than fp32."""
        return bool({"avx512-vnni", "avx-vnni", "amx-int8", "dotprod", "i8mm"} & set(self.cpu.isa))

    @property
    def int8_scheme(self) -> Scheme:
        """Activation and weight types that are computed exactly on every CPU of this architecture.

        x86 multiplies u8 by s8: exact with VNNI; without, vpmaddubsw saturates at 16 bits, which neighbouring weights
        are kept from. Also for machines with VNNI: what is made for one is carried to others (decision 21). Arm's
        kernels are exact with any pair, and have more of them for s8 by s8.
        """
        if self.platform.startswith("linux/arm64"):
            return "s8s8"
        return "u8s8-paired"

    @property
    def channel_multiple(self) -> int:
        """What widths of layers must be multiples of to be as fast as their work lets them be.

        ONNX Runtime's convolutions on x86 compute a vector register of channels at a time, 16 with AVX-512, else 8,
        and leave that path where a width does not fit. Its wheels for Arm have no such layout; their products take 8
        at a time. Tensor cores read 16 bytes: 8 channels of fp16, 16 of int8.
        """
        if self.channel_block is not None:
            return self.channel_block
        return 16 if "avx512" in self.cpu.isa or (self.gpu and self.gpu.sm >= (7, 0)) else 8


def newest_opset(runtime: str, version: str) -> int:
    """The newest opset that a version of `onnxruntime` or `tensorrt` reads.

    >>> newest_opset("tensorrt", "8.5.2"), newest_opset("onnxruntime", "1.31.1")
    (17, 26)
    """
    table = _OPSETS[runtime]
    asked = tuple(int(part) for part in re.findall(r"[0-9]+", version))
    return max((opset for since, opset in table if since <= asked), default=table[0][1])


def target_names() -> tuple[str, ...]:
    """`host` first, then every declared target."""
    return (HOST, *(name for name in paths.declarations("targets") if name != HOST))


def find_target(name: str) -> Target:
    """The target of that name, alias or `.toml` path; `host` is this machine, detected now.

    Raises `UnknownName` with near names, `ConfigInvalid` for a file that does not follow the schema.
    """
    if paths.is_path(name):
        return _read(paths.given_file(name, "target"))
    if name == HOST:
        from mlopt.host import detect, host_target

        return host_target(detect())
    declared = paths.declarations("targets")
    if name in declared:
        return _read(declared[name])
    aliases = {alias: path for path in declared.values() for alias in _aliases(path)}
    if name in aliases:
        return _read(aliases[name])
    raise registry.unknown(
        "target",
        name,
        (HOST, *declared, *aliases),
        next="mlopt targets list shows them; a new board is one .toml file: --target ./board.toml",
    )


def is_this_machine(target: Target, machine: Machine | None = None) -> bool:
    """Whether a clock here times that target: `host`, or a board whose `[detect]` finds itself here.

    Boards of one name differ in memory, so that has to fit too (the kernel keeps some of it to itself).
    """
    if target.name == HOST:
        return True
    if target.detect is None:
        return False
    if machine is None:
        from mlopt.host import detect

        machine = detect()
    if not machine.board or not re.search(target.detect.device_tree, machine.board):
        return False
    if target.memory is None or machine.memory is None:
        return True
    return target.memory * 0.6 < machine.memory <= target.memory


def namesakes(name: str) -> tuple[str, ...]:
    """The targets that somebody may mean who gives this alias: those whose names begin with it, when there are several.

    >>> namesakes("jetson-agx-orin")
    ('jetson-agx-orin-32gb', 'jetson-agx-orin-64gb')
    """
    found = tuple(one for one in paths.declarations("targets") if one.startswith(f"{name}-"))
    return found if len(found) > 1 and name not in paths.declarations("targets") else ()


def _read(path: Path) -> Target:
    """The file's target, each of its JetPack releases a stack, before those that the file writes out."""
    target = read_toml(path, Target, name=path.stem)
    if not target.jetpacks:
        return target
    released = [jetpack.release(name, where=f"{path}: jetpacks") for name in target.jetpacks]
    stacks = (_stack(one) for one in released)
    return dataclasses.replace(target, stacks=(*stacks, *target.stacks))


def _stack(one: jetpack.JetPack) -> Stack:
    shared = (fact.name for fact in dataclasses.fields(Stack) if hasattr(one, fact.name))
    return Stack(**{name: getattr(one, name) for name in shared})


def _aliases(path: Path) -> tuple[str, ...]:
    found: Any = load(path).get("aliases", ())
    return tuple(alias for alias in found if isinstance(alias, str)) if isinstance(found, list) else ()


def _check_expression(key: str, value: str) -> None:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{key} is not a regular expression: {error}") from error
