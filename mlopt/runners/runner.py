"""What every runtime offers: load an artifact, infer, let go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
