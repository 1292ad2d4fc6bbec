"""One model measured once: what a history keeps, whichever verb measured it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, get_args

from mlopt.errors import ConfigInvalid
from mlopt.report.report import to_json

Verb = Literal["bench", "compile", "gate"]
_NEXT: Final = "give a file that mlopt history export wrote"


@dataclass(frozen=True, slots=True)
class Number:
    """A value, with its 95 % interval where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """`time` is when it was recorded, in UTC. `variant` is a candidate of `compile`, else empty.

    `baseline` is the digest of what was measured side by side with it, empty where nothing was; `relative-latency`
    is to that. `samples` name what answers were counted on. `revision` is the git commit it was measured at, empty
    where there was none; `dirty`: with changes that are not in it. Numbers by metric: seconds, bytes, shares.
    """

    time: str
    verb: Verb
    model: str
    variant: str
    digest: str
    baseline: str
    runtime: str
    scenario: str
    threads: int
    batch: int
    device: str
    versions: Mapping[str, str]
    samples: str
    revision: str
    dirty: bool
    numbers: Mapping[str, Number]

    @property
    def name(self) -> str:
        return f"{self.model} {self.variant}".strip()

    @property
    def key(self) -> str:
        """What this entry is known by in every history: the same one, imported twice, is there once."""
        return hashlib.sha256(line_of(self).encode()).hexdigest()


def line_of(entry: Entry) -> str:
    """The entry as one line of JSON, the same bytes for the same entry."""
    return json.dumps(to_json(entry), sort_keys=True, ensure_ascii=False, allow_nan=False)


def read_line(line: str, *, where: str) -> Entry:
    """What `line_of` wrote. Raises `ConfigInvalid` with `where` for everything else."""
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ConfigInvalid("This line is no JSON.", where=where, next=_NEXT) from error
    return entry_from(found, where=where)


def entry_from(found: Any, *, where: str) -> Entry:
    """An entry from its JSON value. Raises `ConfigInvalid`."""
    wanted = {one.name for one in fields(Entry)}
    if not isinstance(found, dict) or found.keys() != wanted:
        raise ConfigInvalid("This is no entry of a history.", where=where, next=_NEXT)
    texts = wanted - {"threads", "batch", "versions", "dirty", "numbers"}
    wrong = [name for name in sorted(texts) if not isinstance(found[name], str)]
    wrong += [name for name in ("threads", "batch") if type(found[name]) is not int]
    wrong += ["dirty"] if not isinstance(found["dirty"], bool) else []
    wrong += ["verb"] if found["verb"] not in get_args(Verb) else []
    wrong += ["versions"] if not _texts(found["versions"]) else []
    if wrong:
        raise ConfigInvalid(f"An entry of a history has a wrong {wrong[0]!r}.", where=where, next=_NEXT)
    return Entry(**{**found, "numbers": _numbers(found["numbers"], where)})


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _numbers(found: Any, where: str) -> dict[str, Number]:
    try:
        numbers = {str(metric): Number(**one) for metric, one in found.items()}
    except (AttributeError, TypeError) as error:
        raise ConfigInvalid("An entry of a history has no numbers.", where=where, next=_NEXT) from error
    for metric, one in numbers.items():
        ends = [end for end in (one.low, one.high) if end is not None]
        if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in (one.value, *ends)):
            raise ConfigInvalid(f"The number {metric!r} of an entry is none.", where=where, next=_NEXT)
    return numbers
