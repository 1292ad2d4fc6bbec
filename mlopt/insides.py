"""After the verdict: the insides of the baseline and of what ships, and this machine's peaks, for the report alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mlopt.artifact import Artifact
from mlopt.errors import MloptError
from mlopt.insight import Insight, Peaks
from mlopt.measure import inside
from mlopt.measure.interleave import Subject
from mlopt.measure.peaks import measure_peaks
from mlopt.plan import BASELINE
from mlopt.progress import Progress

if TYPE_CHECKING:
    from mlopt.prepare import Prepared

_FEEDS = 4


def look_inside(
    prepared: Prepared, artifacts: Mapping[str, Artifact], winner: str, progress: Progress
) -> Insight | None:
    """None where nothing can be timed: this machine is not the target."""
    if not prepared.on_this_machine:
        return None
    method = prepared.profile.method
    batch = prepared.batch(method.query_batch)
    feeds = list(itertools.islice(prepared.evaluation.feeds(batch=batch), _FEEDS))
    names = list(dict.fromkeys((BASELINE, winner)))
    with progress.phase("look inside", ", ".join(names)):
        anatomies = tuple(
            inside.look_inside(
                Subject(name, artifacts[name], prepared.runtimes[name]),
                feeds,
                threads=method.threads,
                batch=batch,
                device=prepared.device,
            )
            for name in names
        )
    peaks: Peaks | None = None
    layers = [layer for one in anatomies if one.layers for layer in one.layers.layers]
    try:
        peaks = measure_peaks(prepared.store, device=prepared.device, threads=method.threads, layers=layers)
    except MloptError as error:
        progress.say(f"no roofline: {error.what}")
    return Insight(peaks, anatomies)
