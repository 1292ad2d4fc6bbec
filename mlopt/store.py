"""A step runs once: results are addressed by what made them, published whole, or not at all.

<root>/results/<key>/data/…        what the step wrote
<root>/results/<key>/result.json   format, digest, sizes, lineage
<root>/locks/<key>                 held while a key is being made; two processes may share a store
<root>/unfinished/<key>/…          what a step that can go on has done so far; gone once its result is there (or by gc)
<root>/scratch/…                   work in progress; swept when its process is gone
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from mlopt.artifact import Artifact, Digest, Format, Origin, digest_of, files
from mlopt.errors import NoSpaceLeft, StoreUnusable
from mlopt.step import Attempt, Composed, Going, Resumable, Step, StepState, options_of, tool_versions

_SCHEMA: Final = 1
_UNUSABLE: Final = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)

Observer = Callable[[Step, StepState, float], None]
Listener = Callable[[Step, Going], None]


def default_root() -> Path:
    """`$MLOPT_CACHE_DIR`, else `$XDG_CACHE_HOME/mlopt`, else `~/.cache/mlopt`."""
    if own := os.environ.get("MLOPT_CACHE_DIR"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlopt"


def _unobserved(step: Step, state: StepState, seconds: float) -> None:
    pass


def _unheard(step: Step, going: Going) -> None:
    pass


@dataclass(frozen=True)
class Store:
    """Content-addressed results below `root`. `observer` hears of every step that starts, ends or is reused,
    `listener` of how far those are that tell."""

    root: Path
    observer: Observer = _unobserved
    listener: Listener = _unheard

    def __post_init__(self) -> None:
        # Paths of results are used from other folders (links, other processes), so they hold wherever one stands.
        object.__setattr__(self, "root", self.root.absolute())

    def run(self, step: Step, source: Artifact) -> Artifact:
        """The result of `step` on `source`: from the store if it was ever made there, else made now.

        Raises whatever the step raises, and then nothing is kept; `NoSpaceLeft` when the disk is full.
        """
        origin = Origin(step.name, step.version, options_of(step), source.digest, tool_versions(step))
        key = _key(origin)
        if found := self._find(key):
            if (self.root / "unfinished" / key).exists():  # a kill came just after the result
                with suppress(StoreUnusable), self._locked(key):  # a store that is shared read-only still answers
                    self._forget(key)
            self.observer(step, "cached", 0.0)
            return found
        with self._locked(key):
            if found := self._find(key):
                self._forget(key)
                self.observer(step, "cached", 0.0)
                return found
            began, elsewhere = time.monotonic(), 0.0

            def make(part: Step, of: Artifact) -> Artifact:
                nonlocal elsewhere
                since = time.monotonic()
                made = self.run(part, of)
                elsewhere += time.monotonic() - since
                return made

            self.observer(step, "started", 0.0)
            with self._scratch() as scratch:
                (scratch / "data").mkdir()
                if isinstance(step, Resumable):
                    with self._unfinished(key) as folder:
                        step.resume(source, scratch / "data", Attempt(folder, functools.partial(self.listener, step)))
                elif isinstance(step, Composed):
                    step.compose(source, scratch / "data", make)
                else:
                    step.run(source, scratch / "data")
                made = self._publish(scratch, key, step.produces, (*source.lineage, origin))
            self._forget(key)
            self.observer(step, "done", time.monotonic() - began - elsewhere)
            return made

    def adopt(self, path: Path, format: Format) -> Artifact:
        """A copy of the user's file or folder, so that later edits of the original cannot change a result."""
        key = "adopted-" + digest_of(path)
        if found := self._find(key):
            return found
        with self._locked(key), self._scratch() as scratch:
            if found := self._find(key):  # another run adopted it while this one waited
                return found
            data = scratch / "data"
            if path.is_dir():
                shutil.copytree(path, data)
            else:
                data.mkdir()
                shutil.copy2(path, data / path.name)
            return self._publish(scratch, key, format, ())

    def _find(self, key: str) -> Artifact | None:
        home = self.root / "results" / key
        try:
            result = json.loads((home / "result.json").read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            _discard(home)
            return None
        data = home / "data"
        sizes = {file.relative_to(data).as_posix(): file.stat().st_size for file in files(data)}
        if result.get("schema") != _SCHEMA or sizes != result["sizes"]:
            _discard(home)
            return None
        lineage = tuple(Origin(**link) for link in result["lineage"])
        with suppress(OSError):  # a store that is shared read-only still answers
            os.utime(home)
        return Artifact(Format(result["format"]), Digest(result["digest"]), data, lineage)

    def _publish(self, scratch: Path, key: str, format: Format, lineage: tuple[Origin, ...]) -> Artifact:
        data = scratch / "data"
        sizes = {file.relative_to(data).as_posix(): file.stat().st_size for file in files(data)}
        digest = digest_of(data)
        result = {
            "schema": _SCHEMA,
            "format": format,
            "digest": digest,
            "sizes": sizes,
            "lineage": [asdict(link) for link in lineage],
        }
        with (scratch / "result.json").open("w") as stream:
            json.dump(result, stream, indent=1, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        home = self.root / "results" / key
        home.parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch, home)
        return Artifact(format, digest, home / "data", lineage)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """An empty folder on the store's own file system; gone afterwards unless it was published."""
        parent = self.root / "scratch"
        with self._plain_errors():
            parent.mkdir(parents=True, exist_ok=True)
            sweep(parent)
        scratch = parent / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:  # named before it is made: an interruption between the two leaves nothing
            with self._plain_errors():
                scratch.mkdir(mode=0o700)
                yield scratch
        finally:
            _remove(scratch)

    @contextmanager
    def _unfinished(self, key: str) -> Iterator[Path]:
        """The folder where a step keeps what it has done; not there afterwards if it kept nothing."""
        folder = self.root / "unfinished" / key
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
        finally:
            with suppress(OSError):  # there is something in it
                folder.rmdir()

    def _forget(self, key: str) -> None:
        """What was kept on the way to a result that is there now; under its lock."""
        shutil.rmtree(self.root / "unfinished" / key, ignore_errors=True)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        with self._plain_errors():
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            stream = (self.root / "locks" / key).open("w")
        with stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                temporary = Path(tempfile.gettempdir())
                if _free(temporary) < _free(self.root):  # a write that fails does not say where
                    raise NoSpaceLeft(
                        "The disk for temporary files is full. Nothing was half-written.",
                        where=str(temporary),
                        next="free some space there, or set TMPDIR to a folder on another disk",
                    ) from error
                raise NoSpaceLeft(
                    "The disk that holds the store is full. Nothing was half-written.",
                    where=str(self.root),
                    next="mlopt cache gc, or --cache-dir on another disk",
                ) from error
            if error.errno in _UNUSABLE and _below(error.filename, self.root):
                raise StoreUnusable(
                    f"The store cannot be written: {error.strerror}.",
                    where=str(self.root),
                    next="--cache-dir DIR, or set MLOPT_CACHE_DIR to a folder that you can write",
                ) from error
            raise


def _discard(home: Path) -> None:
    """A result that power loss or a person damaged is no result: remove it, so that it is made again."""
    shutil.rmtree(home, ignore_errors=True)


def _remove(scratch: Path) -> None:
    try:
        shutil.rmtree(scratch, ignore_errors=True)
    except KeyboardInterrupt:  # Ctrl-C while this runs: what was begun is finished, then the run ends
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def sweep(scratch: Path) -> None:
    """Remove what dead processes left in a scratch folder (names start with the process id)."""
    for leftover in scratch.iterdir():
        owner = leftover.name.split("-", 1)[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(leftover, ignore_errors=True)


def _key(origin: Origin) -> str:
    return hashlib.sha256(json.dumps(asdict(origin), sort_keys=True).encode()).hexdigest()


def _free(folder: Path) -> int:
    """Bytes that are free where the folder is, or would be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _below(filename: object, root: Path) -> bool:
    """Whether the file is the store's, or a parent of it that should have held it."""
    return isinstance(filename, (str, os.PathLike)) and (
        Path(filename).is_relative_to(root) or root.is_relative_to(filename)
    )
