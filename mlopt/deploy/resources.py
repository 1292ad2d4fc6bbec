"""How much memory and processor a deployment asks for: from what was measured, else a default that says it is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlopt.measurement import Grade
from mlopt.units import format_bytes

if TYPE_CHECKING:
    from mlopt.measurement import Measurement
    from mlopt.target import Target

MIB: Final = 1 << 20
# A measured process holds the model alone. The server beside it took 30 MB more with eight clients (SqueezeNet);
# docs/deploying.md has the figures behind these three.
_SERVER: Final = 64 * MIB
_HEADROOM: Final = 2
_STEP: Final = 16 * MIB  # Peaks differ by a few pages from run to run; what is deployed should not.
_DEFAULT: Final = 256 * MIB
_PER_MODEL_BYTE: Final = 3
# What a node's own services need is never promised to a pod: a request for all there is would never be scheduled.
_PROMISED: Final = 0.75
# The server's own default of inferences at once: mlopt/serve/settings.py, Limits.
_AT_ONCE: Final = 2


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a container is promised (`request`) and what it may not exceed (`limit`); `why` is one line for people.

    Memory in bytes, whole MiB; processor in thousandths of a core. `grade` is that of the number behind it.
    """

    request: int
    limit: int
    grade: Grade
    why: str


def memory_of(taken: Measurement | None, *, file_size: int, target: Target) -> Allowance:
    """Request: measured peak + 64 MiB for the server; limit: twice that, for two inferences and larger batches.

    Without a measurement a default that grows with the model's file. Never more than the target has, and three
    quarters of that are promised at most.
    """
    if taken is not None:
        request, grade = _rounded(taken.peak_memory + _SERVER), taken.grade
        why = (
            f"peak of the model's process {format_bytes(taken.peak_memory)}, {grade} on {taken.device}, + "
            f"{format_bytes(_SERVER)} for the server; the limit is {_HEADROOM} times that"
        )
    else:
        request, grade = _rounded(_DEFAULT + _PER_MODEL_BYTE * file_size), "unmeasured"
        why = (
            f"DEFAULT, nothing was measured on {target.name}: {format_bytes(_DEFAULT)} + {_PER_MODEL_BYTE} times the "
            f"model's file; the limit is {_HEADROOM} times that. Measure there and change it"
        )
    limit = _HEADROOM * request
    if target.memory is not None and limit > target.memory:
        limit = max(target.memory // _STEP * _STEP, _STEP)
        request = min(request, max(int(target.memory * _PROMISED) // _STEP * _STEP, _STEP))
        why += f", but not more than the target has ({format_bytes(target.memory)}{_unverified('memory', target)})"
    return Allowance(request, limit, grade, why)


def cpu_of(threads: int, *, target: Target) -> Allowance:
    """Request: the threads of one inference, which is what latencies were measured with; limit: two at once.

    Never more than the target has, and three quarters of that are promised at most.
    """
    cores = target.cpu.cores
    request, limit = 1000 * threads, 1000 * _AT_ONCE * threads
    if cores is not None:
        request, limit = min(request, int(1000 * cores * _PROMISED)), min(limit, 1000 * cores)
    why = f"{threads} {'thread' if threads == 1 else 'threads'} per inference (profile), {_AT_ONCE} inferences at once"
    if cores is None:
        why += f"; how many cores {target.name} has is not known"
    else:
        why += f"; {target.name} has {cores} {'core' if cores == 1 else 'cores'}{_unverified('cpu', target)}"
    return Allowance(request, limit, "declared", why)


def _rounded(size: int) -> int:
    return -(-size // _STEP) * _STEP


def _unverified(fact: str, target: Target) -> str:
    """Nobody checked that fact of the target's: say so beside it."""
    paths = {fact, f"{fact}.cores"}
    return ", unverified" if paths & set(target.unverified) else ""
