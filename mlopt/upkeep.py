"""The store from outside: what it holds, whether it is whole, and what may go. `mlopt cache` is its face.

Besides the results of steps (see mlopt/store.py) a store holds what images are made from: inputs by sha256,
packed layers, unpacked root file systems, layers of bases, native servers. All of it can be made or fetched again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mlopt.artifact import digest_of, files
from mlopt.errors import StoreUnusable
from mlopt.store import sweep
from mlopt.units import Bytes, Seconds

Room = Literal["results", "unfinished", "inputs", "layers", "rootfs", "bases", "servers"]

ROOMS: Final[tuple[Room, ...]] = ("results", "unfinished", "inputs", "layers", "rootfs", "bases", "servers")
# Of those that do not say it themselves.
_MADE_BY: Final[Mapping[Room, str]] = {
    "unfinished": "a step that was stopped",
    "rootfs": "unpacked image",
    "bases": "layer of a base",
    "servers": "native server",
}
_LOCKED: Final = ("results", "unfinished")  # made under the lock of their key
# A run looks its results up once and then reads their files without a lock; no run is longer than this.
RECENT: Final = Seconds(3600.0)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a store. `made_by` is the step that made a result, or what it is.

    `used` in seconds since 1970: of a result, when a run last took it; of the rest, when it was made.
    """

    room: Room
    key: str
    path: Path
    made_by: str
    bytes: Bytes
    used: float


@dataclass(frozen=True, slots=True)
class Damage:
    """An entry that is not what it was when it was made, and how that shows."""

    entry: Entry
    reason: str


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry that was to go and stayed, with the reason."""

    entry: Entry
    reason: str


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What `clean` removed, and what it had to leave."""

    removed: tuple[Entry, ...]
    kept: tuple[Kept, ...]

    @property
    def bytes(self) -> Bytes:
        return Bytes(sum(entry.bytes for entry in self.removed))


def entries(root: Path) -> tuple[Entry, ...]:
    """Everything in the store, longest unused first. An absent store is an empty one."""
    found = []
    for room in ROOMS:
        for home in _homes(root / room):
            try:
                found.append(_entry(room, home))
            except FileNotFoundError:
                continue  # another process removed it while we looked
    return tuple(sorted(found, key=lambda entry: (entry.used, entry.room, entry.key)))


def verify(root: Path, *, on_entry: Callable[[Entry], None] | None = None) -> tuple[Damage, ...]:
    """Hash every result, input and layer again, and remove those that are damaged: they are made anew when needed.

    An unpacked root file system has no digest of its own, so it is left alone. `on_entry` hears of every entry
    before it is read. Raises `StoreUnusable` when a damaged one cannot be removed.
    """
    found = []
    for entry in entries(root):
        if on_entry:
            on_entry(entry)
        reason = _damage(entry)
        if reason and not _remove(root, entry):
            reason = ""  # being made anew at this moment: what was read is no longer there
        if reason:
            found.append(Damage(entry, reason))
    return tuple(found)


def clean(
    root: Path,
    *,
    older_than: Seconds | None = None,
    keep: Bytes | None = None,
    idle: Seconds = RECENT,
    dry_run: bool = False,
) -> Cleaned:
    """Remove what was not used for `older_than`, then the longest unused until at most `keep` bytes are left.

    Never removed: what is being made (its lock is held), what a process has open, and what was used within
    `idle`. Leftovers of dead processes in the scratch folder go in any case. Raises `StoreUnusable`.
    """
    everything = entries(root)
    total, now = int(sum(entry.bytes for entry in everything)), time.time()
    if not dry_run and (root / "scratch").is_dir():
        with _plain_errors(root):
            sweep(root / "scratch")
    opened = opened_below(root)
    removed, kept = [], []
    for entry in everything:
        old = older_than is not None and now - entry.used > older_than
        if not old and (keep is None or total <= keep):
            continue
        if reason := _needed(entry, now=now, idle=idle, opened=opened):
            kept.append(Kept(entry, reason))
        elif _is_locked(root, entry) if dry_run else not _remove(root, entry, unused_since=entry.used):
            kept.append(Kept(entry, "it is being made or was just used"))
        else:
            total = total - entry.bytes
            removed.append(entry)
    return Cleaned(tuple(removed), tuple(kept))


def opened_below(root: Path) -> frozenset[Path]:
    """Files and folders below `root` that a process of this user has open, mapped, or as its working folder."""
    base, found = root.resolve(), set()
    for process in Path("/proc").glob("[0-9]*"):
        for path in _opened(process):
            if path.is_relative_to(base):
                found.add(path)
    return frozenset(found)


def _homes(room: Path) -> list[Path]:
    try:
        return sorted(home for home in room.iterdir() if home.is_dir() and not home.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreUnusable(f"The store cannot be read: {error.strerror}.", where=str(room)) from error


def _entry(room: Room, home: Path) -> Entry:
    size = sum(path.lstat().st_size for path in home.rglob("*") if path.is_symlink() or path.is_file())
    return Entry(room, home.name, home, _made_by(room, home), Bytes(size), home.stat().st_mtime)


def _made_by(room: Room, home: Path) -> str:
    if room == "inputs":
        return next((path.name for path in sorted(home.iterdir())), "empty")
    if room in _MADE_BY:
        return _MADE_BY[room]
    if home.name.startswith("adopted-"):
        return next((path.name for path in sorted((home / "data").glob("*"))), "empty")
    try:
        if room == "layers":
            return f"layer {json.loads((home / 'layer.json').read_bytes())['name']}"
        lineage = json.loads((home / "result.json").read_bytes())["lineage"]
        return str(lineage[-1]["step"])
    except (OSError, ValueError, LookupError, TypeError):
        return "unreadable"


def _damage(entry: Entry) -> str:
    """Why the entry is not what was made; empty when it is, or when nothing is known to compare it with."""
    try:
        if entry.room == "inputs":
            names = sorted(entry.path.iterdir())
            whole = len(names) == 1 and digest_of(names[0]) == entry.key
            return "" if whole else "its sha256 is not its name"
        if entry.room == "bases":  # those of a layout on disk lie there, and only their names here
            blob = entry.path / "blob"
            return "its sha256 is not its name" if blob.exists() and digest_of(blob) != entry.key else ""
        if entry.room == "layers":
            return _layer_damage(entry.path)
        if entry.room == "results":
            return _result_damage(entry.path)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return ""


def _result_damage(home: Path) -> str:
    try:
        result = json.loads((home / "result.json").read_bytes())
        sizes, digest = result["sizes"], result["digest"]
    except (ValueError, LookupError, TypeError):
        return "its result.json cannot be read"
    data = home / "data"
    found = {file.relative_to(data).as_posix(): file.stat().st_size for file in files(data)}
    if changed := sorted(name for name in {*found, *sizes} if found.get(name) != sizes.get(name)):
        return f"{changed[0]} has another size than when it was made"
    return "" if digest_of(data) == digest else "its content is not what was made"


def _layer_damage(home: Path) -> str:
    try:
        wanted = json.loads((home / "layer.json").read_bytes())["digest"]
    except (ValueError, LookupError, TypeError):
        return "its layer.json cannot be read"
    return "" if f"sha256:{digest_of(home / 'blob')}" == wanted else "its content is not what was packed"


def _needed(entry: Entry, *, now: float, idle: float, opened: frozenset[Path]) -> str:
    if any(path.is_relative_to(entry.path.resolve()) for path in opened):
        return "a process has it open"
    return "it was used a short while ago" if now - entry.used < idle else ""


def _opened(process: Path) -> Iterator[Path]:
    try:
        links = [process / "cwd", *(process / "fd").iterdir()]
    except OSError:
        return  # gone, or another user's
    for link in links:
        try:
            yield Path(os.readlink(link))
        except OSError:
            continue
    try:
        for line in (process / "maps").read_text(errors="replace").splitlines():
            if len(cells := line.split(maxsplit=5)) == 6 and cells[5].startswith("/"):
                yield Path(cells[5])
    except OSError:
        return


def _remove(root: Path, entry: Entry, *, unused_since: float | None = None) -> bool:
    """Whether the entry is gone. False: it is being made, or was used after `unused_since`."""
    with _plain_errors(root), _lock(root, entry) as held:
        if not held:
            return False
        try:
            if unused_since is not None and entry.path.stat().st_mtime > unused_since:
                return False
            (root / "scratch").mkdir(parents=True, exist_ok=True)
            grave = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=root / "scratch"))
            # Moved out of sight in one go, so that no reader finds half of it.
            os.replace(entry.path, grave / "gone")
        except FileNotFoundError:
            return True
    shutil.rmtree(grave, onerror=_make_writable)
    return True


@contextmanager
def _lock(root: Path, entry: Entry) -> Iterator[bool]:
    """Whether the lock under which a result is made could be had at once; other rooms have no locks."""
    if entry.room not in _LOCKED:
        yield True
        return
    (root / "locks").mkdir(parents=True, exist_ok=True)
    with (root / "locks" / entry.key).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _is_locked(root: Path, entry: Entry) -> bool:
    with _plain_errors(root), _lock(root, entry) as held:
        return not held


def _make_writable(remove: object, path: str, error: object) -> None:
    """Unpacked images hold folders that nobody may write, which keeps their files from being removed."""
    os.chmod(Path(path).parent, 0o700)
    if Path(path).is_dir() and not Path(path).is_symlink():
        os.chmod(path, 0o700)
        shutil.rmtree(path)
    else:
        os.unlink(path)


@contextmanager
def _plain_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise StoreUnusable(
            f"The store cannot be written: {error.strerror}.",
            where=str(error.filename or root),
            next="run this as the user who owns the store, or name another one: --cache-dir DIR",
        ) from error
