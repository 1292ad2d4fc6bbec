"""What a verb found of one model, as CI systems think of it: cases that pass, fail or stay open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["pass", "fail", "inconclusive", "not compared"]


@dataclass(frozen=True, slots=True)
class Case:
    """One number that was judged. `rule` is the same for the same question of every model: `budget/file-size`."""

    metric: str
    kind: Literal["regression", "budget", "measured"]
    outcome: Outcome
    told: str
    method: str = ""
    note: str = ""

    @property
    def rule(self) -> str:
        return f"{self.kind}/{self.metric}"

    @property
    def name(self) -> str:
        return f"budget {self.metric}" if self.kind == "budget" else self.metric


@dataclass(frozen=True, slots=True)
class Suite:
    """All cases of one model. `group` is what CI systems sort them by, `properties` say what it was judged by."""

    verb: str
    mlopt: str
    model: str
    digest: str
    group: str
    seconds: float
    properties: Mapping[str, str]
    cases: tuple[Case, ...]

    @property
    def tool(self) -> str:
        return f"mlopt {self.verb}"
