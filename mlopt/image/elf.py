"""What a shared library asks the loader for, changed: another library in the place of one, under other names.

By the ELF specification, for 64-bit little-endian files: both architectures of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch, fnmatchcase
from struct import error as struct_error
from struct import pack_into, unpack_from
from typing import Final

_MAGIC: Final = b"\x7fELF\x02\x01"
_DYNAMIC: Final = 6
_DYNSYM: Final = 11
_VERNEED: Final = 0x6FFFFFFE
_NEEDED: Final = 1
_ABORT: Final = "abort"  # of libc, which every library here asks for


@dataclass(frozen=True, slots=True)
class Rebinding:
    """`needed` is a glob over the libraries that are asked for, `by` the one that is asked for instead.

    Names that begin with `prefix` and end with `suffix` lose both. Those that then match a glob of `absent` are not in
    `by`: who calls one aborts.
    """

    needed: str
    by: str
    prefix: str = ""
    suffix: str = ""
    absent: tuple[str, ...] = ()


def rebind(data: bytes, rules: Sequence[Rebinding]) -> bytes:
    """The library after those rules that are about it. Raises `ValueError` where that cannot be done."""
    if not data.startswith(_MAGIC):
        return data
    elf = _Elf(bytearray(data))
    for rule in rules:
        for place, name in elf.needed():
            if fnmatch(name, rule.needed):
                elf.write(place, rule.by)
                elf.rename(rule)
    return bytes(elf.data)


def strip(data: bytes) -> bytes:
    """The library up to the last byte that a loader reads. Behind it lie symbols for debuggers, and the table of
    sections, which only tools read. Raises `ValueError` for what no loader takes."""
    if not data.startswith(_MAGIC):
        return data
    try:
        return _cut(data)
    except struct_error as error:
        raise ValueError(f"it ends early: {error}") from error


def _cut(data: bytes) -> bytes:
    offset, size, count = unpack_from("<Q", data, 32)[0], *unpack_from("<HH", data, 54)
    segments = (unpack_from("<IIQQQQ", data, offset + number * size) for number in range(count))
    ends = (place + length for _, _, place, _, _, length in segments)
    kept = bytearray(data[: max(offset + size * count, *ends)])
    pack_into("<Q", kept, 40, 0)  # no table of sections,
    pack_into("<HHH", kept, 58, 0, 0, 0)  # nothing in it, and no names of its own
    return bytes(kept)


@dataclass(frozen=True, slots=True)
class _Section:
    kind: int
    offset: int
    size: int
    link: int


class _Elf:
    """A library that is changed in place: nothing moves, so no address in it does."""

    def __init__(self, data: bytearray) -> None:
        self.data = data
        offset, size, count = unpack_from("<Q", data, 40)[0], *unpack_from("<HH", data, 58)
        headers = [unpack_from("<IIQQQQI", data, offset + number * size) for number in range(count)]
        self._sections = [_Section(kind, place, length, link) for _, kind, _, _, place, length, link in headers]

    def needed(self) -> list[tuple[int, str]]:
        """The libraries that it asks for, each with the place of its name."""
        table = next((one for one in self._sections if one.kind == _DYNAMIC), None)
        places = [value for tag, value in self._pairs(table) if tag == _NEEDED] if table else []
        return [(place, self._text(place)) for place in places]

    def rename(self, rule: Rebinding) -> None:
        """Give every function that is looked for elsewhere, and has the affixes, the name that it has in `by`."""
        if any(one.kind == _VERNEED and self._asks_version(one, rule.by) for one in self._sections):
            raise ValueError(f"it asks for versions of what {rule.by} stands in for")
        symbols = self._symbols
        starts = {unpack_from("<I", self.data, at)[0] for at in symbols}
        for at in symbols:
            place, _, _, section = unpack_from("<IBBH", self.data, at)
            name = self._text(place)
            if section or not (name.startswith(rule.prefix) and name.endswith(rule.suffix)):
                continue
            if any(place < other <= place + len(name) for other in starts):
                raise ValueError(f"the end of {name} is a name of its own")
            plain = name.removeprefix(rule.prefix).removesuffix(rule.suffix)
            absent = any(fnmatchcase(plain, pattern) for pattern in rule.absent)
            self.write(place, _ABORT if absent else plain)

    def write(self, place: int, text: str) -> None:
        """Over a name that is no shorter; what is left of that becomes zeros."""
        old, start = self._text(place), self._strings + place
        if len(text) > len(old):
            raise ValueError(f"{text} is longer than {old}, in whose place it goes")
        self.data[start : start + len(old)] = text.encode("ascii").ljust(len(old), b"\0")

    def _asks_version(self, section: _Section, library: str) -> bool:
        at = section.offset
        while True:
            _, _, file, _, after = unpack_from("<HHIII", self.data, at)
            if self._text(file) == library:
                return True
            if not after:
                return False
            at += after

    def _pairs(self, table: _Section) -> Iterator[tuple[int, int]]:
        for at in range(table.offset, table.offset + table.size, 16):
            yield unpack_from("<qQ", self.data, at)

    def _text(self, place: int) -> str:
        start = self._strings + place
        return self.data[start : self.data.index(0, start)].decode("ascii")

    @property
    def _symbols(self) -> range:
        """Where the entries of the table of dynamic symbols are."""
        table = next(one for one in self._sections if one.kind == _DYNSYM)
        return range(table.offset, table.offset + table.size, 24)

    @property
    def _strings(self) -> int:
        table = next(one for one in self._sections if one.kind == _DYNSYM)
        return self._sections[table.link].offset
