"""The file of a history: SQLite in write-ahead mode, so that a kill at any moment loses nothing that was recorded.

entry   one row for each model measured once; `versions` is JSON, `key` the digest of the whole entry
number  its numbers: metric, value, and the ends of a 95 % interval where there is one
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Final, Self

from mlopt.errors import ConfigInvalid, MloptError, NoSpaceLeft, StoreUnusable
from mlopt.history.entry import Entry, Number, entry_from

SCHEMA: Final = 1
_APPLICATION: Final = 0x6D6C6F70  # "mlop", in the header of the file
_PAGE: Final = 4096  # bytes
_WAIT: Final = 30.0  # seconds, for another run that is writing
_COLUMNS: Final = tuple(one.name for one in fields(Entry) if one.name != "numbers")
_INSERT: Final = f"INSERT OR IGNORE INTO entry (key, {', '.join(_COLUMNS)}) VALUES (?{', ?' * len(_COLUMNS)})"  # noqa: S608
_SELECT: Final = f"SELECT id, {', '.join(_COLUMNS)} FROM entry ORDER BY time, id"  # noqa: S608 - our own column names
_TABLES: Final = """
CREATE TABLE entry (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, time TEXT NOT NULL, verb TEXT NOT NULL, model TEXT NOT NULL,
    variant TEXT NOT NULL, digest TEXT NOT NULL, baseline TEXT NOT NULL, runtime TEXT NOT NULL, scenario TEXT NOT NULL,
    threads INTEGER NOT NULL, batch INTEGER NOT NULL, device TEXT NOT NULL, versions TEXT NOT NULL,
    samples TEXT NOT NULL, revision TEXT NOT NULL, dirty INTEGER NOT NULL
) STRICT;
CREATE TABLE number (
    entry INTEGER NOT NULL REFERENCES entry (id), metric TEXT NOT NULL, value REAL NOT NULL, low REAL, high REAL,
    PRIMARY KEY (entry, metric)
) STRICT, WITHOUT ROWID;
"""


_RECORD: Final = "record one: mlopt bench MODEL --history FILE"


class History:
    """An open file of results. Everything below raises `NoSpaceLeft`, `StoreUnusable` and `ConfigInvalid`."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """`create` makes the file where there is none; without it, that there is none is an error."""
        self.path = path
        with _refused(path):
            if not create and not path.is_file():
                raise StoreUnusable("There is no history at this path.", where=str(path), next=_RECORD)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open = sqlite3.connect(path, timeout=_WAIT, isolation_level=None)
            try:
                self._prepare(create)
            except BaseException:
                self._open.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        with suppress(sqlite3.Error):  # folding the log into the file: it is done again at the next opening
            self._open.close()

    def add(self, entries: Iterable[Entry]) -> int:
        """Keep all or none of them, on the disk when this returns. Gives how many were not there yet."""
        added = 0
        with _refused(self.path), self._transaction():
            for entry in entries:
                row = [_cell(getattr(entry, name)) for name in _COLUMNS]
                found = self._open.execute(_INSERT, (entry.key, *row))
                if not found.rowcount:
                    continue
                added += 1
                numbers = [(found.lastrowid, name, n.value, n.low, n.high) for name, n in entry.numbers.items()]
                self._open.executemany("INSERT INTO number VALUES (?, ?, ?, ?, ?)", numbers)
        return added

    def entries(self) -> list[Entry]:
        """All of them by time, then in the order in which they came."""
        with _refused(self.path):
            numbers: dict[int, dict[str, Number]] = {}
            for entry, metric, value, low, high in self._open.execute("SELECT * FROM number ORDER BY entry, metric"):
                numbers.setdefault(entry, {})[metric] = Number(value, low, high)
            return [self._entry(row, numbers.get(row[0], {})) for row in self._open.execute(_SELECT)]

    def _entry(self, row: tuple[object, ...], numbers: dict[str, Number]) -> Entry:
        found = dict(zip(_COLUMNS, row[1:], strict=True))
        found |= {"versions": json.loads(str(found["versions"])), "dirty": bool(found["dirty"]), "numbers": {}}
        entry = entry_from(found, where=f"{self.path}: entry {row[0]}")
        return Entry(**{name: getattr(entry, name) for name in _COLUMNS}, numbers=numbers)

    def _prepare(self, create: bool) -> None:
        (version,) = self._open.execute("PRAGMA user_version").fetchone()
        (empty,) = self._open.execute("SELECT count(*) = 0 FROM sqlite_master").fetchone()
        (application,) = self._open.execute("PRAGMA application_id").fetchone()
        if not empty and application != _APPLICATION:
            raise _foreign(self.path)
        if not empty and version != SCHEMA:
            raise ConfigInvalid(
                f"The history has schema {version}; this mlopt reads and writes schema {SCHEMA}.",
                where=str(self.path),
                next="give another file, or carry it over: mlopt history export with the mlopt that wrote it",
            )
        self._open.execute("PRAGMA journal_mode = WAL")
        self._open.execute("PRAGMA synchronous = FULL")  # what was recorded survives a power cut as well
        if empty and create:
            with self._transaction():
                # Another run may have made them between the question above and this lock.
                if not self._open.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    for statement in _TABLES.split(";"):
                        self._open.execute(statement)
                    self._open.execute(f"PRAGMA application_id = {_APPLICATION}")
                    self._open.execute(f"PRAGMA user_version = {SCHEMA}")
        elif empty:
            raise _foreign(self.path)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._open.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._open.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk has rolled back already
                self._open.execute("ROLLBACK")
            raise


def _cell(value: object) -> object:
    return json.dumps(dict(value), sort_keys=True) if hasattr(value, "keys") else value  # type: ignore[call-overload]


def _foreign(path: Path) -> ConfigInvalid:
    return ConfigInvalid("This file is no history of mlopt.", where=str(path), next="give --history another file")


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """What SQLite or the disk refuses, as an error that a person can act on."""
    try:
        yield
    except sqlite3.Error as error:
        raise _said(error, path) from error
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error


def _said(error: sqlite3.Error, path: Path) -> MloptError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _full(path)):
        return NoSpaceLeft(
            "The disk of the history is full; what was recorded before is untouched.",
            where=str(path),
            next="free some space and run again, or give --history a file on another disk",
        )
    if code == sqlite3.SQLITE_NOTADB:
        return _foreign(path)
    if code == sqlite3.SQLITE_CORRUPT:
        return ConfigInvalid("The history is damaged.", where=str(path), next="restore it, or begin another file")
    return _unusable(path, str(error))


def _full(path: Path) -> bool:
    """Whether no page fits beside the file any more: SQLite calls it an I/O error where its shared memory did not."""
    try:
        return shutil.disk_usage(path.parent).free < _PAGE
    except OSError:
        return False


def _unusable(path: Path, why: str) -> StoreUnusable:
    return StoreUnusable(f"The history cannot be used: {why}.", where=str(path), next="give --history another file")
