"""A baseline that git holds: `git:REVISION` is the candidate's own path at that revision, `git:REVISION:PATH` another.

Read with the system's git, filters included, so that Git LFS works where it is set up. Nothing is checked out.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from mlopt.errors import MissingDependency, ModelNotFound, ModelUnreadable

PREFIX: Final = "git:"
_FILES: Final = ("100644", "100755")
_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_NO_REPOSITORY: Final = b"not a git repository"
_MANIFEST: Final = "bundle.json"
_HOW: Final = "--baseline git:REVISION, or git:REVISION:PATH with a path from the root of the repository"


@dataclass(frozen=True, slots=True)
class Given:
    """A baseline as a path that can be opened, and what to call it."""

    path: Path
    name: str


@contextmanager
def given(baseline: Path, candidate: Path) -> Iterator[Given]:
    """The baseline itself, or for the block a copy of what git holds.

    Raises `ModelNotFound` for a revision or path that is not there and where there is no repository, `ModelUnreadable`
    for what was committed without its contents, `MissingDependency` without git.
    """
    said = os.fspath(baseline)
    if not said.startswith(PREFIX) or baseline.exists():
        yield Given(baseline, said)
        return
    revision, _, path = said.removeprefix(PREFIX).partition(":")
    repository = _Repository.around(candidate, said)
    commit = repository.commit(revision)
    inside = path.strip("/") or repository.path_of(candidate)
    with tempfile.TemporaryDirectory(prefix="mlopt-baseline-") as scratch:
        copied = repository.copy(commit, inside, Path(scratch))
        yield Given(copied, f"{inside} at {revision} ({commit[:12]})")


@dataclass(frozen=True, slots=True)
class _Repository:
    root: Path
    said: str

    @classmethod
    def around(cls, candidate: Path, said: str) -> _Repository:
        """The one that the candidate lies in, else the current folder."""
        for folder in (candidate.absolute() if candidate.is_dir() else candidate.absolute().parent, Path.cwd()):
            found = _asked(folder, "rev-parse", "--show-toplevel") if folder.is_dir() else None
            if found and found.returncode == 0:
                return cls(Path(os.fsdecode(found.stdout).rstrip("\n")), said)
            if found and _NO_REPOSITORY not in found.stderr:  # there is one, and git does not read it
                why = found.stderr.decode(errors="replace").strip().splitlines()
                raise ModelNotFound(
                    f"git does not read the repository around {folder}.",
                    where=f"{said}: {why[0] if why else 'it does not say why'}",
                    next=why[-1].strip() if len(why) > 1 else _HOW,
                )
        raise ModelNotFound(
            "There is no git repository around the candidate or the current folder.", where=said, next=_HOW
        )

    def commit(self, revision: str) -> str:
        found = _git(self.root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        if not revision or not found:
            shallow = _git(self.root, "rev-parse", "--is-shallow-repository") == b"true\n"
            more = " (of a shallow clone: git fetch --unshallow, or fetch-depth: 0 in CI)" if shallow else ""
            raise ModelNotFound(
                f"git knows no revision {revision!r} here.",
                where=self.said,
                next=f"git log shows those that there are{more}; {_HOW}",
            )
        return found.decode().strip()

    def path_of(self, candidate: Path) -> str:
        """The candidate's place in the repository."""
        try:
            return candidate.resolve().relative_to(self.root.resolve()).as_posix()
        except ValueError as error:
            raise ModelNotFound(
                f"The candidate does not lie in the repository {self.root}, so git holds nothing at its path.",
                where=self.said,
                next=_HOW,
            ) from error

    def copy(self, commit: str, path: str, into: Path) -> Path:
        """A file with the weights beside it that it names, or a folder with all that is in it."""
        kind = _git(self.root, "cat-file", "-t", f"{commit}:{path}")
        if kind is None:
            raise ModelNotFound(
                f"At {commit[:12]} git holds nothing at {path}.",
                where=self.said,
                next=f"git ls-tree -r --name-only {commit[:12]} shows what it holds; {_HOW}",
            )
        name = PurePosixPath(path).name or "root"
        if kind.strip() == b"blob":
            file = self._write(commit, path, into / name)
            self._weights(commit, path, file)
            return file
        for mode, inside in self._listed(commit, path):
            if mode not in _FILES or ".." in PurePosixPath(inside).parts:  # git stores such names, and checks none out
                raise ModelUnreadable(
                    f"{inside} is a link, a submodule or no name inside its folder, and only files are read.",
                    where=self.said,
                    next=_HOW,
                )
            self._write(commit, inside, into / name / PurePosixPath(inside).relative_to(path or "."))
        return into / name

    def _listed(self, commit: str, path: str) -> Iterator[tuple[str, str]]:
        """Mode and path of all below a folder; of a bundle what its model needs, for an image may be large."""
        told = _git(self.root, "ls-tree", "-r", "-z", "--full-tree", commit, "--", f"{path}/" if path else ".") or b""
        entries = [os.fsdecode(entry).partition("\t") for entry in told.split(b"\0") if entry]
        paths = {inside for _, _, inside in entries}
        bundle = f"{path}/{_MANIFEST}" in paths
        for facts, _, inside in entries:
            if not bundle or inside == f"{path}/{_MANIFEST}" or inside.startswith(f"{path}/model/"):
                yield facts.split()[0], inside

    def _weights(self, commit: str, path: str, file: Path) -> None:
        from mlopt.artifact import ONNX
        from mlopt.onnx_file import external_tensors, load_graph
        from mlopt.sniff import sniff

        try:
            if sniff(file).format != ONNX:
                return
        except ModelUnreadable:
            return  # a stored result, or what opening it will name
        for location in sorted({one.location for one in external_tensors(load_graph(file))}):
            beside = (PurePosixPath(path).parent / location).as_posix()
            if (
                ".." not in PurePosixPath(location).parts
                and _git(self.root, "cat-file", "-e", f"{commit}:{beside}") is not None
            ):
                self._write(commit, beside, file.parent / location)

    def _write(self, commit: str, path: str, file: Path) -> Path:
        contents = _git(self.root, "cat-file", "--filters", f"{commit}:{path}")
        if contents is None:
            raise ModelUnreadable(
                f"git cannot give {path} of {commit[:12]}.", where=self.said, next="git fsck, or git lfs fetch --all"
            )
        if contents.startswith(_POINTER):
            raise ModelUnreadable(
                f"git holds a pointer of Git LFS at {path}, not the file.",
                where=self.said,
                next="git lfs install, then git lfs fetch --all",
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(contents)
        return file


def _git(folder: Path, *arguments: str) -> bytes | None:
    """What git says; None where it refuses."""
    found = _asked(folder, *arguments)
    return found.stdout if found.returncode == 0 else None


def _asked(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    words = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(words, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError as error:
        raise MissingDependency(
            "A baseline in git needs git, which is not installed.", next="apt install git"
        ) from error
