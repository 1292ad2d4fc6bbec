"""A Python besides this one, for a tool that cannot be installed beside mlopt: by a variable, and asked what it has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlopt.errors import MissingDependency

_SECONDS: Final = 20.0
_ASK: Final = """
import json, sys
from importlib import metadata
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class OtherPython:
    """The Python that the environment names in `variable`, to run `tool`, which `install` brings. `besides` are
    distributions of that Python whose versions decide what the tool makes, too."""

    variable: str
    tool: str
    install: str
    besides: tuple[str, ...] = ()

    def find(self) -> Path:
        """Where it is. Raises `MissingDependency` when it is not named, is no Python, or lacks the tool."""
        self._ask()
        return Path(self._named())

    def why_not(self) -> str:
        """Why it cannot be used, with what to type; empty when it can."""
        try:
            self._ask()
        except MissingDependency as error:
            return f"{error.what.removesuffix('.')}: {error.next}"
        return ""

    def versions(self) -> dict[str, str]:
        """What it has of the tool and of what is besides; the tool is `absent` where it cannot be used."""
        try:
            found = self._ask()
        except MissingDependency:
            return {self.tool: "absent"}
        return {name if name == self.tool else f"{name} for {self.tool}": found[name] for name in sorted(found)}

    def _named(self) -> str:
        path = shutil.which(os.environ.get(self.variable, ""))
        return os.path.abspath(path) if path else ""  # links stay: the Python of a virtual environment is one

    def _ask(self) -> dict[str, str]:
        said, python = os.environ.get(self.variable, ""), self._named()
        if not said:
            raise MissingDependency(
                f"{self.tool} is run by a Python of its own, and none is named.",
                next=f"python3 -m venv {self.tool} && {self.tool}/bin/pip install '{self.install}' && "
                f"export {self.variable}=$PWD/{self.tool}/bin/python",
            )
        if not python:
            raise MissingDependency(
                f"{said}, which {self.variable} names, is no program.", next=f"export {self.variable}=…/bin/python"
            )
        try:
            # Isolated: what lies in the folder where somebody stands is no package of that Python.
            done = subprocess.run(
                [python, "-I", "-c", _ASK, self.tool, *self.besides],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=True,
            )
            found: dict[str, str] = dict(json.loads(done.stdout))
        except (OSError, subprocess.SubprocessError, ValueError, TypeError):
            raise MissingDependency(
                f"{said}, which {self.variable} names, does not answer as a Python does.",
                next=f"export {self.variable}=…/bin/python",
            ) from None
        if self.tool not in found:
            raise MissingDependency(
                f"{said}, which {self.variable} names, has no {self.tool}.",
                next=f"{said} -m pip install '{self.install}'",
            )
        return found


def alone(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """An environment in which another Python sees its own packages and those in `folder`, and none of this one's."""
    kept = {key: value for key, value in environment.items() if key not in ("PYTHONHOME", "PYTHONSTARTUP")}
    return kept | {"PYTHONPATH": str(folder), "PYTHONNOUSERSITE": "1", "TMPDIR": str(folder)}


MODELOPT: Final = OtherPython(
    "MLOPT_MODELOPT_PYTHON",
    "nvidia-modelopt",
    "nvidia-modelopt[onnx]",
    besides=("numpy", "onnx", "onnxruntime", "onnxruntime-gpu"),
)
