"""The whole walk, read forward: what was asked in, a bundle out."""

from __future__ import annotations

from mlopt.assess import assess, check_baseline
from mlopt.build import build
from mlopt.bundle import Bundle, check_place
from mlopt.choose import choose
from mlopt.prepare import Prepared, prepare
from mlopt.progress import Progress
from mlopt.publish import place, publish
from mlopt.request import Request


def compile_model(request: Request, progress: Progress) -> Bundle:
    """Export and check the model, build every legal candidate, judge them side by side, ship the winner.

    Raises a `MloptError` for everything that a person can act on; then the store and the output folder are
    as they were before.
    """
    _check_device(request)
    prepared = prepare(request, progress)
    _check_builds(prepared)
    check_place(place(prepared))
    check_baseline(prepared, progress)
    built = build(prepared, progress)
    baseline, *others = assess(prepared, built.artifacts, built.failures, progress)
    choice = choose(
        baseline,
        others,
        prepared.profile,
        ship=prepared.request.ship,
        device=prepared.target.name,
        failures=built.failures,
    )
    return publish(prepared, built, (baseline, *others), choice, progress)


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
