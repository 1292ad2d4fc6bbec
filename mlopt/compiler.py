"""The whole walk, read forward: what was asked in, a bundle out."""

from __future__ import annotations

from mlopt.assess import assess, check_baseline
from mlopt.build import build
from mlopt.bundle import Bundle, check_place
from mlopt.choose import choose
from mlopt.prepare import prepare
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
