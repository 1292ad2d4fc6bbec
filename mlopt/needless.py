"""Which candidates need not be made, because the clocks of others say already that they cannot ship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from mlopt.choose import Choice, Judged, first_missed, times

if TYPE_CHECKING:
    from mlopt.plan import Candidate, Plan
    from mlopt.profile import Profile

# What runs the same kernels is not quite as fast: ranges move, a layer more or less has a pair around it.
_DOUBT: Final = 1.1


def waiting(plan: Plan, profile: Profile, *, on_this_machine: bool) -> frozenset[str]:
    """Candidates that are made last, if at all: only speed can rule them out, and only where it is the goal and can be
    measured."""
    if profile.minimize != "latency" or not on_this_machine:
        return frozenset()
    names = {one.name for one in plan.candidates}
    return frozenset(one.name for one in plan.candidates if one.no_faster_than in names)


def needless(candidates: Sequence[Candidate], judged: Sequence[Judged], choice: Choice) -> Mapping[str, str]:
    """Those of `candidates`, which wait, that cannot ship, and why: what they cannot outrun is too slow, or keeps every
    budget itself and leaves nothing to search for. `judged` has the baseline first."""
    by_name = {one.name: one for one in judged}
    best = max((by_name[name] for name in choice.eligible), key=_low, default=None)
    if best is None and not first_missed(judged[0]):
        best = judged[0]
    found = {}
    for candidate in candidates:
        reference = by_name.get(candidate.no_faster_than)
        if reference is None or reference.measurement is None:
            continue
        speedup = reference.measurement.speedup
        if candidate.searches and reference.name in choice.eligible:
            found[candidate.name] = f"there is nothing to search for: {reference.name} keeps every budget"
        elif best and best.measurement and speedup.high * _DOUBT < _low(best):
            found[candidate.name] = (
                f"it is no faster than {reference.name}, which is slower ({times(speedup)}) than {best.name} "
                f"({times(best.measurement.speedup)})"
            )
    return found


def _low(judged: Judged) -> float:
    return judged.measurement.speedup.low if judged.measurement else 0.0
