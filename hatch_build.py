"""Packs the wheel as tightly as zlib can, which hatchling has no setting for: every CI job downloads it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Tightly(BuildHookInterface):  # type: ignore[misc,type-arg]
    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Write the wheel anew: the same files in the same order, with the same times and permissions."""
        loose, tight = Path(artifact_path), Path(f"{artifact_path}.tight")
        with zipfile.ZipFile(loose) as read, zipfile.ZipFile(tight, "w") as written:
            for entry in read.infolist():
                written.writestr(entry, read.read(entry), zipfile.ZIP_DEFLATED, compresslevel=9)
        tight.replace(loose)
