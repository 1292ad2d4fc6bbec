"""Inputs made up from the model's signature, for when nobody gave samples: they prove little, and reports say so."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlopt.artifact import Digest
from mlopt.signature import FREE_SIZE

if TYPE_CHECKING:
    from mlopt.signature import InputSpec, Signature


@dataclass(frozen=True, slots=True)
class GeneratedSamples:
    """`count` seeded random inputs, in the shape of `Samples`: evaluation reads both alike. `free` is the size of
    dynamic dimensions other than the batch."""

    signature: Signature
    count: int
    seed: int
    given: Mapping[str, InputSpec] = field(default_factory=dict)
    free: int = FREE_SIZE

    def __len__(self) -> int:
        return self.count

    @property
    def labels(self) -> None:
        return None

    @property
    def digest(self) -> Digest:
        said = f"generated {self.signature.inputs} {self.count} {self.seed} {self.free}"
        given = [f"{name} {spec}" for name, spec in sorted(self.given.items())]
        return Digest(hashlib.sha256("\n".join([said, *given]).encode()).hexdigest())

    def feeds(self, *, batch: int) -> Iterator[dict[str, Any]]:
        from mlopt.signature import random_feeds

        for start in range(0, self.count, batch):
            size = min(batch, self.count - start)
            yield random_feeds(self.signature, batch=size, seed=self.seed + start, given=self.given, free=self.free)
