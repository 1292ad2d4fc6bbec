"""What every runtime offers: load an artifact, infer, let go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

    from mlopt.insight import Profile

    Arrays = Mapping[str, np.ndarray]


WARM_UP: Final = 3  # queries of a profile in which memory is still being allocated; fewer where it has fewer


class Runner(Protocol):
    """A context manager: entering loads, leaving frees. `infer` returns after the outputs are complete.

    `name` is what recipes and reports call the runtime; `distributions` are the packages whose versions
    decide what it computes. One whose `infer` several threads may call at once, and that is faster so, says
    `concurrent = True`: then each of them computes, and `threads - 1` that the runner has help them all.
    """

    name: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]]

    def __init__(self, model: Path, *, threads: int) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in the model's order."""
        ...

    def infer(self, feeds: Arrays) -> list[np.ndarray]:
        """One query: arrays by input name, each with its batch dimension, to outputs in the model's order."""
        ...


@runtime_checkable
class OnDevice(Protocol):
    """A runner that computes elsewhere than on the CPU says where, once it has run: numbers are numbers of that."""

    @property
    def device(self) -> str: ...


@dataclass(frozen=True, slots=True)
class RanOn:
    """What really ran: on which card (`mlopt.nvml.card_of` takes it; empty where it cannot be known), `nodes` by each
    that was to run them, the operators of those that were left to the CPU, and whether a CUDA graph was replayed."""

    card: str
    nodes: Mapping[str, int]
    on_cpu: Mapping[str, int]
    cuda_graph: bool


@runtime_checkable
class OnGpu(OnDevice, Protocol):
    """A runner on an NVIDIA GPU. Its `infer` copies inputs there and outputs back."""

    @property
    def ran_on(self) -> RanOn:
        """After the first query."""
        ...

    def resident(self, feeds: Arrays) -> Callable[[], None]:
        """The same query without copies: its inputs lie on the GPU, its outputs stay there. Each call is one, and
        returns when it is complete."""
        ...


@runtime_checkable
class Profiled(Protocol):
    """A runner whose runtime can say where the time of a query goes."""

    def profile(self, feeds: Sequence[Arrays], *, count: int) -> Profile:
        """`count` queries under the runtime's profiler, after a few that do not count. It loads the model anew and
        needs no `with`.

        Raises `UnsupportedModel`.
        """
        ...


@runtime_checkable
class Accounted(Protocol):
    """A runner whose runtime counts what it allocates: the same for the same model, feeds and machine, however busy."""

    def arena_peak(self, feeds: Sequence[Arrays]) -> int | None:
        """Bytes that the runtime's own arena held at most. It loads the model anew and needs no `with`.

        None where the runtime that is installed does not tell. Raises `UnsupportedModel`.
        """
        ...
