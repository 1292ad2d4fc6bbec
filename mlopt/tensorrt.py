"""What each version of TensorRT takes: precisions, operators and their types (`targets/nvidia/tensorrt.toml`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Final

from mlopt import paths
from mlopt.schema import Key, read_toml

OLDEST_SERVED: Final = "8.5"  # the first whose Python module has what mlopt/serve/tensorrt_program.py calls


@dataclass(frozen=True, slots=True)
class Group:
    """Operators that came with one version and take the same `types` as their first input; empty: own rules."""

    since: str
    types: tuple[str, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DlaLimit:
    """The largest of each that a DLA takes of these operators; None: nothing is documented. `windows` are all sizes
    that there are, `axis` the only one."""

    operators: tuple[str, ...]
    kernel: int | None = None
    stride: int | None = None
    dilation: int | None = None
    padding: int | None = None
    padding_below_kernel: bool = False
    groups: bool = True
    axis: int | None = None
    windows: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """`newest` is the newest version whose list of operators was read; `never` are those that it refuses by name; `dla`
    are those that a DLA computes, within `dla_limits`."""

    newest: str
    never: tuple[str, ...]
    dla: tuple[str, ...]
    precisions: Mapping[str, str]
    groups: Annotated[tuple[Group, ...], Key("group")]
    dla_limits: Annotated[tuple[DlaLimit, ...], Key("dla-limit")]
    sources: tuple[str, ...]

    def group(self, operator: str) -> Group | None:
        """Where the lists have that operator; None when none has."""
        return next((group for group in self.groups if operator in group.operators), None)

    def has(self, version: str, precision: str) -> bool:
        """Whether that version knows the precision at all, whatever the GPU."""
        since = self.precisions.get(precision)
        return since is not None and number(since) <= number(version)


@cache
def facts() -> Facts:
    """The table."""
    return read_toml(paths.folder("targets") / "nvidia" / "tensorrt.toml", Facts)


def number(version: str) -> tuple[int, ...]:
    """A version that compares.

    >>> number("8.5.2") < number("10.3.0")
    True
    """
    return tuple(int(part) for part in re.findall(r"[0-9]+", version))
