"""One variant of several: the smallest, fastest or most accurate that keeps every limit; and why the others lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from mlopt.errors import BudgetInfeasible
from mlopt.report import text
from mlopt.variants.variant import Variant

if TYPE_CHECKING:
    from mlopt.target import Target

By = Literal["size", "latency", "accuracy"]
BY: Final[tuple[By, ...]] = ("size", "latency", "accuracy")
_WORST: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Limits:
    """What is asked. Sizes are of the compressed layers, latency the upper end of the median's 95 % interval, accuracy
    the lower end of top-1's."""

    target: Target | None = None
    max_size: int | None = None
    max_latency: float | None = None
    min_accuracy: float | None = None

    @property
    def platform(self) -> str:
        """`os/architecture`, as indexes name it; empty without a target."""
        return "/".join(self.target.platform.split("/")[:2]) if self.target else ""


@dataclass(frozen=True, slots=True)
class Lost:
    variant: Variant
    why: str


@dataclass(frozen=True, slots=True)
class Picked:
    variant: Variant
    why: str
    lost: tuple[Lost, ...]


def pick(variants: Sequence[Variant], limits: Limits, *, by: By = "size") -> Picked:
    """Raises `BudgetInfeasible` with every reason when none keeps the limits."""
    judged = [(variant, _misses(variant, limits)) for variant in variants]
    able = sorted((variant for variant, why in judged if not why), key=lambda one: _order(one, limits, by))
    lost = [Lost(variant, "; ".join(why)) for variant, why in judged if why]
    if not able:
        reasons = "\n".join(f"  {one.variant.name}: {one.why}" for one in lost)
        raise BudgetInfeasible(
            f"No variant keeps what was asked.\n{reasons}", next="ask for less, or compile a variant that keeps it"
        )
    winner = able[0]
    lost = [Lost(variant, _behind(variant, winner, limits, by)) for variant in able[1:]] + lost
    few = "the only one that keeps" if len(able) == 1 else f"{_SAID[by][0]} of {len(able)} that keep"
    return Picked(winner, f"{few} what was asked: {facts(winner, limits)}", tuple(lost))


_SAID: Final = {
    "size": ("the smallest", "larger"),
    "latency": ("the fastest", "slower"),
    "accuracy": ("the most accurate", "less accurate"),
}


def facts(variant: Variant, limits: Limits) -> str:
    """The three figures in a line."""
    found = variant.evidence
    words = [text.size(variant.size(limits.platform))]
    if found and found.p50 is not None and found.p50_high is not None:
        words.append(f"p50 {text.seconds(found.p50)}, at most {text.seconds(found.p50_high)} on {found.device}")
    if found and found.top1 is not None and found.top1_low is not None:
        words.append(f"top-1 {text.percent(found.top1)}, at least {text.percent(found.top1_low)}")
    return "; ".join(words)


def _misses(variant: Variant, limits: Limits) -> list[str]:
    """What is not proven to be kept."""
    found = variant.evidence
    why = []
    if limits.target and variant.target != limits.target.name:
        why.append(f"it was compiled for {variant.target or 'nobody knows what'}, not for {limits.target.name}")
    size = variant.size(limits.platform)
    if size is None:
        why.append(f"it has no image for {limits.platform}")
    elif limits.max_size is not None and size > limits.max_size:
        why.append(f"its image is {text.size(size)} compressed, the limit is {text.size(limits.max_size)}")
    if limits.max_latency is not None:
        if found is None or found.p50 is None or found.p50_high is None:
            where = limits.target.name if limits.target else variant.target or "its target"
            why.append(f"its latency was never measured on {where}")
        elif found.p50_high > limits.max_latency:
            bound = f"p50 is {text.seconds(found.p50)} and proven to be at most {text.seconds(found.p50_high)}"
            why.append(f"its {bound}, the limit is {text.seconds(limits.max_latency)}")
    if limits.min_accuracy is not None:
        if found is None or found.top1 is None or found.top1_low is None:
            why.append("its accuracy was never measured on labelled samples")
        elif found.top1_low < limits.min_accuracy:
            seen = f"{text.percent(found.top1)} of {found.samples} samples"
            bound = f"top-1 is {seen}, at least {text.percent(found.top1_low)}"
            why.append(f"its {bound}, the limit is {text.percent(limits.min_accuracy)}")
    return why


def _order(variant: Variant, limits: Limits, by: By) -> tuple[float, float, str]:
    """Smaller is better; what was not measured comes last. The digest makes the answer the same every time."""
    found, size = variant.evidence, float(variant.size(limits.platform) or 0)
    if by == "latency":
        return (found.p50 if found and found.p50 is not None else _WORST, size, variant.digest)
    if by == "accuracy":
        return (-found.top1 if found and found.top1 is not None else _WORST, size, variant.digest)
    return (size, 0.0, variant.digest)


def _behind(variant: Variant, winner: Variant, limits: Limits, by: By) -> str:
    mine, best = _order(variant, limits, by), _order(winner, limits, by)
    if mine[:2] == best[:2]:
        return "the same image under another name" if variant.digest == winner.digest else "no better in anything asked"
    if mine[0] == _WORST:
        return f"it keeps what was asked, and its {by} was never measured"
    return f"it keeps what was asked and is {_SAID[by][1] if mine[0] > best[0] else 'larger'}: {facts(variant, limits)}"
