"""Candidates to artifacts: every candidate's steps, through the store; shared beginnings run once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlopt.artifact import Artifact
from mlopt.errors import MloptError, NoSpaceLeft, StoreUnusable
from mlopt.progress import Progress

if TYPE_CHECKING:
    from mlopt.prepare import Prepared


def build(prepared: Prepared, progress: Progress) -> tuple[dict[str, Artifact], dict[str, str]]:
    """Artifacts by candidate's name, the baseline first, and for each that failed the reason.

    One candidate's failure is a finding, not the run's end; a full disk or a store that cannot be written is.
    """
    artifacts: dict[str, Artifact] = {}
    failures: dict[str, str] = {}
    for candidate in prepared.plan.candidates:
        artifact = prepared.exported
        progress.about = candidate.name
        try:
            for step in candidate.steps:
                artifact = prepared.store.run(step, artifact)
        except (NoSpaceLeft, StoreUnusable):
            raise
        except MloptError as error:
            failures[candidate.name] = error.what
        else:
            artifacts[candidate.name] = artifact
    progress.about = ""
    return artifacts, failures
