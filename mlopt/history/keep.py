"""What a verb found, kept in the history that the person named, if any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlopt.errors import MloptError
from mlopt.history.recorded import entries_of, origin
from mlopt.history.shelf import History
from mlopt.project import find_project


def keep(found: Mapping[str, Any], *, given: Path | None, model: Path, project: Path | None = None) -> list[MloptError]:
    """Record the JSON of a result in `given`, else where mlopt.toml beside the model says, else nowhere.

    What went wrong is given back, not raised: the result is there, and what the verb says of it comes first.
    """
    try:
        if path := given or find_project(model, project).history:
            with History(path, create=True) as opened:
                opened.add(entries_of(found, origin()))
    except MloptError as error:
        return [error]
    return []
