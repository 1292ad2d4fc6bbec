"""What passes through the line: a request once it has been read, and what goes back to its client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the client."""

    body: bytes
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds that a request took by stage; `infer` is that of its whole batch."""

    parse: float
    infer: float


@dataclass(frozen=True, slots=True)
class Call:
    """A request that has been read: what to compute, and how to write the answer."""

    feeds: Mapping[str, np.ndarray]
    outputs: tuple[str, ...]
    encode: Callable[[Mapping[str, np.ndarray], Spent], Answer]

    @property
    def rows(self) -> int:
        """How many samples it holds: the first dimension of its first input."""
        first = next(iter(self.feeds.values()), None)
        return first.shape[0] if first is not None and first.ndim else 1
