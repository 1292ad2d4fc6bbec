"""The whole walk, read forward: what was asked in, a bundle out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mlopt.assess import assess, check_baseline, confirmed
from mlopt.build import Built, build
from mlopt.bundle import Bundle, check_place
from mlopt.choose import Choice, Judged, choose
from mlopt.errors import WorkerFailed
from mlopt.insides import look_inside
from mlopt.needless import needless, waves
from mlopt.plan import BASELINE
from mlopt.prepare import Prepared, prepare
from mlopt.progress import Progress
from mlopt.publish import place, publish
from mlopt.request import Request


def compile_model(request: Request, progress: Progress) -> Bundle:
    """Export and check the model, build every legal candidate, judge them side by side, ship the winner.

    Candidates that cannot be faster than another wait until that one has been timed, and are then made only where they
    may still ship.

    Raises a `MloptError` for everything that a person can act on; then the store and the output folder are
    as they were before.
    """
    _check_device(request)
    prepared = prepare(request, progress)
    _check_builds(prepared)
    check_place(place(prepared))
    check_baseline(prepared, progress)
    first, *later = waves(prepared.plan, prepared.profile, on_this_machine=prepared.on_this_machine)
    built = build(prepared, first, progress)
    judged, choice = _judged(prepared, built, progress)
    skipped: dict[str, str] = {}
    for wave in later:
        skipped |= needless(wave, prepared.plan, judged, choice)
        before = built.artifacts.keys()
        built = build(prepared, [one for one in wave if one.name not in skipped], progress, upon=built)
        if built.artifacts.keys() - before:
            # What may win is timed again, so that the clocks of rivals are always of the same minutes.
            beaten = [one for one in judged if one.name not in (BASELINE, *choice.eligible)]
            judged, choice = _judged(prepared, built, progress, upon=beaten)
    prepared = dataclasses.replace(prepared, plan=prepared.plan.without(skipped))
    inside = look_inside(prepared, built.artifacts, choice.winner, progress) if request.inside else None
    return publish(prepared, built, judged, choice, progress, insight=inside)


def _judged(
    prepared: Prepared, built: Built, progress: Progress, *, upon: Sequence[Judged] = ()
) -> tuple[tuple[Judged, ...], Choice]:
    """All that was built, the baseline first, and which of them ships; `upon` is judged already.

    A budget of memory or load time takes several processes, which only what would ship is started in: where it turns
    out not to keep that, or dies in one of them, the next best is.
    """
    judged = assess(prepared, built.artifacts, built.failures, progress, upon=upon)
    while True:
        baseline, *others = judged
        choice = choose(
            baseline,
            others,
            prepared.profile,
            ship=prepared.request.ship,
            device=prepared.target.name,
            failures=built.failures,
        )
        winner = next(one for one in judged if one.name == choice.winner)
        try:
            bounded = confirmed(prepared, built.artifacts, winner, progress)
        except WorkerFailed as error:
            if winner is baseline:
                raise
            built.failures[winner.name] = error.what
            judged = tuple(one for one in judged if one is not winner)
            continue
        if bounded is winner:
            return judged, choice
        judged = tuple(bounded if one is winner else one for one in judged)


def _check_device(request: Request) -> None:
    """That --device is an address, that somebody answers there, and that there is something to build: before any work.

    Raises `Misused`, `DeviceUnreachable`.
    """
    if request.device is None:
        return
    from mlopt.device.ssh import Device
    from mlopt.engines import why_no_device_build
    from mlopt.errors import Misused
    from mlopt.target import find_target

    device = Device.parse(request.device)
    if reason := why_no_device_build(find_target(request.target)):
        raise Misused(f"There is nothing to build on {device}: {reason}.", next="leave --device out")
    device.ask("true")


def _check_builds(prepared: Prepared) -> None:
    """That the plan holds something for the device of --device to build. Raises `Misused`."""
    if prepared.request.device is None or prepared.plan.device_builds:
        return
    from mlopt.engines import built_on_device
    from mlopt.errors import Misused
    from mlopt.recipe import all_recipes

    names = [recipe.name for recipe in all_recipes() if recipe.engine and built_on_device(recipe.engine.name)]
    why = {left.reason for left in prepared.plan.left_out if left.recipe in names}
    raise Misused(
        f"There is nothing to build on {prepared.request.device}: {'; '.join(sorted(why)) or 'no recipe asks for it'}.",
        next=f"leave --device out, or try one of {', '.join(names)}",
    )
