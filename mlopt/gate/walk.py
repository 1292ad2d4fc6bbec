"""What one gate knows on its way, and what it has found so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mlopt.gate.result import Check, NotCompared, Stored
from mlopt.gate.subjects import Opened, fixed_batch

if TYPE_CHECKING:
    from mlopt.host import Machine
    from mlopt.profile import Profile
    from mlopt.progress import Progress
    from mlopt.request import Request
    from mlopt.samples.generated import GeneratedSamples
    from mlopt.samples.open import Split
    from mlopt.samples.samples import Samples


@dataclass(frozen=True, slots=True)
class Asked:
    """`request` says how the candidate is read and what it is evaluated on; `seed` draws the order of visits."""

    request: Request
    baseline: Path
    profile: Profile
    runtime: str | None = None
    seed: int = 0


@dataclass(slots=True)
class Walk:
    asked: Asked
    progress: Progress
    machine: Machine
    candidate: Opened
    baseline: Opened | Stored
    samples: Samples | GeneratedSamples
    split: Split | None
    offset: int
    checks: list[Check] = field(default_factory=list)
    left: list[NotCompared] = field(default_factory=list)

    @property
    def device(self) -> str:
        return f"{self.machine.cpu}, {self.machine.cores} cores"

    @property
    def same(self) -> bool:
        """Whether both are one file in one runtime."""
        if isinstance(self.baseline, Stored):
            return False
        one, other = ((opened.artifact.digest, opened.side.runtime) for opened in (self.candidate, self.baseline))
        return one == other

    def batch(self, wanted: int) -> int:
        """`wanted`, unless one of the two fixes its batch."""
        return fixed_batch(self.candidate) or fixed_batch(self.baseline) or wanted

    def note(self, found: Check | NotCompared | None) -> None:
        if isinstance(found, Check):
            self.checks.append(found)
        elif found:
            self.left.append(found)
