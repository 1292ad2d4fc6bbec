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


def waves(plan: Plan, profile: Profile, *, on_this_machine: bool) -> tuple[tuple[Candidate, ...], ...]:
    """The candidates in the order in which they are made: those that wait for none, then those that wait for these, and
    so on. All at once where speed is not the goal or cannot be measured: only speed can rule out those that wait."""
    if profile.minimize != "latency" or not on_this_machine:
        return (plan.candidates,)
    by_depth: dict[int, list[Candidate]] = {}
    for candidate in plan.candidates:
        by_depth.setdefault(len(_references(candidate, plan)), []).append(candidate)
    return tuple(tuple(by_depth[depth]) for depth in sorted(by_depth))


def needless(
    candidates: Sequence[Candidate], plan: Plan, judged: Sequence[Judged], choice: Choice
) -> Mapping[str, str]:
    """Those of `candidates`, which wait, that cannot ship, and why: what they cannot outrun is too slow, or keeps every
    budget itself and leaves nothing to search for. `judged` has the baseline first."""
    by_name = {one.name: one for one in judged}
    best = max((by_name[name] for name in choice.eligible), key=_low, default=None)
    if best is None and not first_missed(judged[0]):
        best = judged[0]
    found = {}
    for candidate in candidates:
        references = [by_name[name] for name in _references(candidate, plan) if name in by_name]
        keeps = next((one.name for one in references if one.name in choice.eligible), "")
        if keeps and candidate.searches:
            found[candidate.name] = f"there is nothing to search for: {keeps} keeps every budget"
        elif references and references[0].measurement and best and best.measurement:
            speedup = references[0].measurement.speedup
            if speedup.high * _DOUBT < _low(best):
                found[candidate.name] = (
                    f"it is no faster than {references[0].name}, which is slower ({times(speedup)}) than {best.name} "
                    f"({times(best.measurement.speedup)})"
                )
    return found


def _references(candidate: Candidate, plan: Plan) -> list[str]:
    """What it waits for, and what that waits for, nearest first."""
    by_name = {one.name: one for one in plan.candidates}
    found: list[str] = []
    while (name := candidate.no_faster_than) in by_name and name not in found:
        found.append(name)
        candidate = by_name[name]
    return found


def _low(judged: Judged) -> float:
    return judged.measurement.speedup.low if judged.measurement else 0.0
