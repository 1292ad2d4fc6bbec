"""The folder that a run leaves: model, report, image, evidence; published whole, in place of the one before.

bundle.json          manifest: every file with its digest, what was chosen, the verdict
report.html|md|json  the same findings for people, for pull requests, for machines
variants.json        every candidate with its numbers and why not
model/               the winner, and serving.json, which the server reads
engines/             for NVIDIA cards, by candidate: built here and not run, or on the device
device/              what a device needs to build its engines itself
image/               OCI layout, linux/amd64 + linux/arm64
deploy/              compose.yaml and k8s/, when there is an image
repro.sh             the command that makes this again
bundle.sigstore.json the signature of bundle.json, once somebody signed; model.sig then is the model's
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.artifact import digest_of, files
from mlopt.errors import ImageFailed, ModelNotFound, NoSpaceLeft, StoreUnusable

if TYPE_CHECKING:
    from mlopt.report.report import Report

SCHEMA: Final = 1
SIGNATURE: Final = "bundle.sigstore.json"
_UNUSABLE: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk. `manifest` is bundle.json; `findings` is there in the run that made it."""

    path: Path
    manifest: Mapping[str, Any]
    findings: Report | None = None

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Read a bundle's manifest. Raises `ModelNotFound` when the folder is not a bundle."""
        if not path.is_dir():
            raise ModelNotFound(
                "This is a file, and a bundle is a folder." if path.exists() else "There is no bundle at this path.",
                where=str(path),
                next="give the folder that mlopt compile printed, OUT/<model>/<target>",
            )
        try:
            return cls(path, json.loads((path / "bundle.json").read_bytes()))
        except (OSError, ValueError) as error:
            raise ModelNotFound(
                "This folder is not a bundle: it has no readable bundle.json.",
                where=str(path),
                next="give the folder that mlopt compile printed, OUT/<model>/<target>",
            ) from error

    @property
    def model(self) -> Path:
        """The winner's model file."""
        return self.path / "model" / "model.onnx"

    @property
    def runtime(self) -> str:
        """The runtime that the winner was measured in."""
        return str(self.manifest["winner"]["runtime"])

    @property
    def image(self) -> Path | None:
        """The OCI layout, if an image was assembled."""
        layout = self.path / "image"
        return layout if layout.is_dir() else None

    @property
    def missed(self) -> tuple[str, ...]:
        """The budgets that what ships does not keep."""
        return tuple(verdict["budget"] for verdict in self.manifest["verdicts"] if verdict["outcome"] == "missed")

    @property
    def report(self) -> Mapping[str, Any]:
        """report.json."""
        found: Mapping[str, Any] = json.loads((self.path / "report.json").read_bytes())
        return found


def layout_in(path: Path) -> Path:
    """The OCI layout that this is, or the one in this bundle. Raises `ModelNotFound`, or `ImageFailed` without one."""
    if (path / "oci-layout").is_file():
        return path
    image = Bundle.load(path).image
    if image is None:
        raise ImageFailed("The bundle holds no image.", where=str(path), next="compile again, without --no-image")
    return image


@contextmanager
def publishing(home: Path, *, mark: str = "bundle.json", said: str = "--out DIR") -> Iterator[Path]:
    """A scratch folder that becomes `home` if the block ends well; otherwise what was at `home` stays.

    Only an empty folder or one that holds `mark` is replaced: a bundle, unless `mark` is the file of something else.
    One run at a time: a second one for the same folder waits. `said` is how its place is named.
    Raises `NoSpaceLeft`, `StoreUnusable`.
    """
    home = home.resolve()
    scratch = home.with_name(f".{home.name}.new")
    previous = home.with_name(f".{home.name}.previous")
    with writing(home, said=said):
        home.parent.mkdir(parents=True, exist_ok=True)
        with home.with_name(f".{home.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if previous.exists() and not home.exists():  # killed between the two renames below
                os.replace(previous, home)
            check_place(home, mark=mark, said=said)
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.rmtree(previous, ignore_errors=True)
            scratch.mkdir()
            try:
                yield scratch
                if home.exists():
                    os.replace(home, previous)
                os.replace(scratch, home)
                shutil.rmtree(previous, ignore_errors=True)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def writing(home: Path, *, said: str = "--out DIR") -> Iterator[None]:
    """What the disk refuses while a result is written, as `NoSpaceLeft` or `StoreUnusable`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceLeft(
                "The disk of the output folder is full; what was there before is untouched.",
                where=str(home),
                next=f"free some space, or give {said} on another disk",
            ) from error
        if error.errno in _UNUSABLE:
            raise StoreUnusable(
                f"The output folder cannot be written: {error.strerror}.",
                where=str(error.filename or home),
                next=f"give {said} in a folder that you can write",
            ) from error
        raise


def check_place(home: Path, *, mark: str = "bundle.json", said: str = "--out DIR") -> None:
    """A person's own files are never moved away to make room. Raises `StoreUnusable`, before any work is done."""
    for above in home.parents:
        if above.exists() and not above.is_dir():
            raise StoreUnusable(
                "The output folder cannot be made: this is a file.", where=str(above), next=f"give another {said}"
            )
    if not home.exists() or (home / mark).is_file():
        return
    if home.is_dir() and not any(home.iterdir()):
        return
    holds = "it is a file" if home.is_file() else f"it is a folder with other files and no {mark}"
    raise StoreUnusable(
        f"What is at the place of the result was not written by mlopt ({holds}), and is left alone.",
        where=str(home),
        next=f"give another {said}, or remove it yourself",
    )


def listed(folder: Path) -> list[Path]:
    """The files that bundle.json names: all but itself, its signature and the image's blobs."""
    unnamed = {folder / "bundle.json", folder / SIGNATURE}
    blobs = folder / "image" / "blobs"
    return [path for path in files(folder) if path not in unnamed and not path.is_relative_to(blobs)]


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """bundle.json over everything that is in `folder`; the image's blobs are named by their digests, from its index."""
    digests = {
        path.relative_to(folder).as_posix(): {"sha256": digest_of(path), "bytes": path.stat().st_size}
        for path in listed(folder)
    }
    manifest = {**facts, "schema": SCHEMA, "files": digests}
    (folder / "bundle.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return manifest


def write_repro(folder: Path, command: tuple[str, ...], tools: Mapping[str, str]) -> None:
    """repro.sh: the command with the chosen candidate pinned, so that noise cannot choose another."""
    versions = "\n".join(f"#   {name} {version}" for name, version in sorted(tools.items()))
    script = folder / "repro.sh"
    script.write_text(
        "#!/bin/sh\n"
        "# Makes the same model and image again, with the same digests (see bundle.json).\n"
        f"# Made with:\n{versions}\n"
        "set -eu\n"
        f'exec {shlex.join(command)} "$@"\n'
    )
    script.chmod(0o755)
