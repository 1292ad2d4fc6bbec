"""Candidates to artifacts: every candidate's steps, through the store; shared beginnings run once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlopt.artifact import DEVICE_BUILD, ENGINE, Artifact, Format
from mlopt.errors import MloptError, NoSpaceLeft, StoreUnusable
from mlopt.onnx_file import load_graph, notes_in
from mlopt.plan import BASELINE
from mlopt.progress import Progress
from mlopt.repair.pairs import overflowing

if TYPE_CHECKING:
    from mlopt.plan import Candidate
    from mlopt.prepare import Prepared


@dataclass(frozen=True, slots=True)
class Built:
    """Models, engines and what is to be built on the device by candidate's name, the baseline first, and for each
    that failed the reason."""

    artifacts: dict[str, Artifact]
    engines: dict[str, Artifact]
    device_builds: dict[str, Artifact]
    failures: dict[str, str]
    device_failures: dict[str, str] = field(default_factory=dict)
    """Why the device made no engine of a model that is there."""
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What the steps of a candidate decided, in their words: a step writes a model anew, without those before it."""


def build(
    prepared: Prepared, candidates: Sequence[Candidate], progress: Progress, *, upon: Built | None = None
) -> Built:
    """Run the steps of these, and make an engine, or what a device needs to build one, of those that have one. What
    comes back holds `upon`, made before, as well.

    One candidate's failure is a finding, not the run's end, unless it is the one that was asked to ship; a full disk or
    a store that cannot be written is.
    """
    upon = upon or Built({}, {}, {}, {})
    artifacts, failures, notes = dict(upon.artifacts), dict(upon.failures), dict(upon.notes)
    made: dict[Format, dict[str, Artifact]] = {ENGINE: dict(upon.engines), DEVICE_BUILD: dict(upon.device_builds)}
    for candidate in candidates:
        artifact = prepared.exported
        said = [] if candidate.steps else list(notes_in(artifact.main))
        progress.about = candidate.name
        try:
            for step in candidate.steps:
                artifact = prepared.store.run(step, artifact)
                said += notes_in(artifact.main)
            if candidate.engine:
                made[candidate.engine.produces][candidate.name] = prepared.store.run(candidate.engine, artifact)
        except (NoSpaceLeft, StoreUnusable):
            raise
        except MloptError as error:
            if candidate.name == prepared.request.ship:
                if error.where == str(artifact.main):  # in the store, where nobody looks
                    error.where = str(prepared.request.model)
                raise
            failures[candidate.name] = error.what
        else:
            artifacts[candidate.name] = artifact
            notes[candidate.name] = tuple(dict.fromkeys(said))
    for name, reason in _unlike(prepared, artifacts).items():
        del artifacts[name]
        failures[name] = reason
    for name, first in _doubles(prepared, artifacts).items():
        del artifacts[name]
        failures[name] = f"it comes out as {first}, byte for byte"
    progress.about = ""
    return Built(artifacts, made[ENGINE], made[DEVICE_BUILD], failures, notes=notes)


def _unlike(prepared: Prepared, artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    """Candidates that may answer differently on another x86 processor than here, and why; not what must ship,
    nor what an engine for a GPU is made of.

    Nothing is run for that: it follows from the weights, whatever the inputs are (`repair/pairs.py`).
    """
    if not prepared.target.platform.startswith("linux/amd64"):
        return {}
    found = {}
    exempt = {BASELINE, prepared.request.ship, *(one.name for one in prepared.plan.candidates if one.engine)}
    for name, artifact in artifacts.items():
        if name in exempt:
            continue
        if nodes := overflowing(load_graph(artifact.main).graph, artifact.path):
            more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
            found[name] = (
                f"it answers differently on processors without VNNI, which add two products in 16 bits: those of "
                f'{nodes[0]}{more} need not fit (scheme = "auto" keeps them inside)'
            )
    return found


def _doubles(prepared: Prepared, artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    """Candidates that are another one once more (the same bytes in the same runtime), and which; not what must ship.

    Of several the one that searched for nothing stays, with the fewest steps: the others came to the same end by a
    longer way.
    """
    first: dict[tuple[str, str, str], str] = {}
    doubles: dict[str, str] = {}
    for candidate in sorted(prepared.plan.candidates, key=_length):
        engine = candidate.engine.name if candidate.engine else ""
        if artifact := artifacts.get(candidate.name):
            same = first.setdefault((artifact.digest, candidate.runtime, engine), candidate.name)
            if same != candidate.name != prepared.request.ship:
                doubles[candidate.name] = same
    return doubles


def _length(candidate: Candidate) -> tuple[bool, int]:
    return candidate.searches, len(candidate.steps)
