"""How much noise each part of a model brings to its answers when it alone is quantized; for `quantize-mixed`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlopt.precision.groups import Group, groups_of
from mlopt.precision.lent import Lent
from mlopt.precision.noise import answers, power
from mlopt.precision.order import Sensitivity
from mlopt.steps.histogram import Range
from mlopt.steps.qdq import Qdq

if TYPE_CHECKING:
    import numpy as np

    Feeds = Sequence[Mapping[str, np.ndarray]]


def groups_to_decide(graph: Any, qdq: Qdq) -> tuple[Group, ...]:
    """Those that a search may decide on: not what stays in floating point anyway."""
    floating = set(qdq.floating(graph))
    found = groups_of(graph, qdq.operators)
    rest = (dataclasses.replace(one, nodes=tuple(n for n in one.nodes if n not in floating)) for one in found)
    return tuple(group for group in rest if group.nodes)


def sensitivities(
    qdq: Qdq,
    model: Any,
    ranges: Mapping[str, Range],
    groups: Sequence[Group],
    exact: Sequence[np.ndarray],
    feeds: Feeds,
    trial: Path,
) -> Iterator[Sensitivity]:
    """Each group quantized alone, as `qdq` would, written to `trial` and run on `feeds`, to which the model itself
    answers `exact`; noise is taken at the outputs."""
    every, light = {name for group in groups for name in group.nodes}, Lent(model)
    for group in groups:
        copy, lent = light.holding(group.nodes)
        qdq.write(copy, ranges, trial, keep=every.difference(group.nodes))
        yield Sensitivity(group, power(exact, answers(trial, feeds, lent=lent)))
