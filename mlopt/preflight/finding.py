"""What stands between a model and an engine, in words for a person."""

from __future__ import annotations

from dataclasses import dataclass

from mlopt.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class Finding:
    """`certain`: the vendor's lists or the GPU's generation refuse it. Otherwise it is an estimate, or what another
    compiler said, and only the device knows."""

    what: str
    where: str = ""
    next: str = ""
    certain: bool = True

    @property
    def error(self) -> UnsupportedModel:
        return UnsupportedModel(self.what, where=self.where, next=self.next)

    @property
    def sentence(self) -> str:
        """All of it in one line, as a report's note."""
        where = f" ({self.where})" if self.where else ""
        return f"{self.what.rstrip('.')}{where}." + (f" Next: {self.next}." if self.next else "")
