"""Where the time of a query goes: layers of the baseline beside those of what ships, matched by the nodes they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mlopt.insight import Layer, Layers
from mlopt.measurement import Grade
from mlopt.report import text
from mlopt.report.report import Report
from mlopt.report.sides import Side, anatomies

_CONVERSIONS: Final = {"QuantizeLinear", "DequantizeLinear"}
_TOP: Final = 10
_ADDED: Final = "added by the runtime"
_CONVERTED: Final = "between floats and int8"


@dataclass(frozen=True, slots=True)
class Amount:
    """What one side spends on a part: `share` of its layers' time, `bar` of the longest bar, both 0 to 1; the rest,
    which is many parts, has no bar."""

    side: Side
    seconds: float
    share: float
    bar: float | None
    layers: int
    detail: str


@dataclass(frozen=True, slots=True)
class Part:
    """Work that both sides do, whatever each fused with what. `amounts` holds None for a side without it."""

    name: str
    holds: str
    nodes: tuple[str, ...]
    amounts: tuple[Amount | None, ...]
    ratio: str


@dataclass(frozen=True, slots=True)
class Whole:
    """One side in full: its layers in order, and the sentences that belong with them."""

    side: Side
    layers: Layers
    rows: tuple[tuple[str, ...], ...]
    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inside:
    """The part of the page about layers; `wholes` is empty where there is nothing, and `missing` says why."""

    parts: tuple[Part, ...]
    wholes: tuple[Whole, ...]
    summary: str
    missing: tuple[str, ...]
    grade: Grade
    source: str


HEADS: Final = ("layer", "kernel", "time", "share", "operations", "bytes", "speed")


def inside_of(report: Report) -> Inside:
    found = anatomies(report)
    missing = tuple(f"{side.name}: {one.why_not}" for side, one in found if one.why_not)
    both = [(side, one.layers) for side, one in found if one.layers]
    if not both:
        return Inside((), (), "", missing, "unmeasured", "no layer was timed")
    first = both[0][1]
    threads = f"{first.threads} thread{'s' if first.threads > 1 else ''}"
    source = f"{first.grade} on {first.device}, {threads}, batch {first.batch}"
    wholes = tuple(Whole(side, layers, _rows(layers), tuple(_facts(report, side, layers))) for side, layers in both)
    return Inside(tuple(parts_of(both)), wholes, _summary(both), missing, first.grade, source)


def name_of(layer: Layer) -> str:
    """The node that the work is in, before those that only convert or follow; what the runtime calls what it added."""
    if not layer.nodes:
        return layer.kernel.partition(" ")[0]
    return layer.nodes[_leader(layer)]


def holds(layer: Layer) -> str:
    """Its operators in order, conversions left out where there is anything else."""
    shown = [kind for kind in layer.operators if kind not in _CONVERSIONS] or list(layer.operators)
    return " + ".join(shown) if shown else _ADDED


def _leader(layer: Layer) -> int:
    """Products come first, then anything that is no conversion, then whatever there is."""
    products = ("Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "MatMulInteger", "MatMulNBits")
    ranks = [0 if kind in products else 2 if kind in _CONVERSIONS else 1 for kind in layer.operators]
    return ranks.index(min(ranks))


def total(layers: Layers) -> float:
    return sum(layer.seconds for layer in layers.layers)


def parts_of(both: Sequence[tuple[Side, Layers]]) -> Iterator[Part]:
    """Those with the largest share of either side first, the rest together."""
    groups = _matched([layers for _, layers in both])
    spent = [[sum(layer.seconds for layer in group[number]) for number in range(len(both))] for group in groups]
    wholes = [total(layers) or 1.0 for _, layers in both]
    shares = [max(one / whole for one, whole in zip(times, wholes, strict=True)) for times in spent]
    order = sorted(range(len(groups)), key=lambda number: -shares[number])
    top, rest = order[:_TOP], order[_TOP:]
    longest = max((max(spent[number]) for number in top), default=0.0)
    for number in top:
        yield _part(groups[number], both, longest)
    if rest:
        merged = tuple([layer for number in rest for layer in groups[number][side]] for side in range(len(both)))
        name = f"{len(rest)} other parts" if len(rest) > 1 else "one other part"
        yield _part(merged, both, None, name=name)


Group = tuple[list[Layer], ...]


def _matched(sides: Sequence[Layers]) -> list[Group]:
    """Layers that share a node are one part, and so on; those that hold no node that computes are put together."""
    parents: dict[object, object] = {}

    def root(one: object) -> object:
        while parents.setdefault(one, one) != one:
            one = parents[one]
        return one

    keys: list[list[object]] = []
    for layers in sides:
        keys.append([])
        for number, layer in enumerate(layers.layers):
            computes = [
                node for node, kind in zip(layer.nodes, layer.operators, strict=True) if kind not in _CONVERSIONS
            ]
            own: object = (len(keys), number) if computes else _ADDED if not layer.nodes else _CONVERTED
            keys[-1].append(own)
            for node in computes:
                parents[root(("node", node))] = root(own)
    found: dict[object, Group] = {}
    for side, (layers, own) in enumerate(zip(sides, keys, strict=True)):
        for layer, key in zip(layers.layers, own, strict=True):
            found.setdefault(root(key), tuple([] for _ in sides))[side].append(layer)
    return list(found.values())


def _part(group: Group, both: Sequence[tuple[Side, Layers]], longest: float | None, *, name: str = "") -> Part:
    every = [layer for layers in group for layer in layers]
    first = max(every, key=lambda layer: (layer.operations or 0, layer.seconds))
    named = name or _called(first, every)
    kinds = _counted(holds(layer) for layer in max(group, key=len)) if name else holds(first)
    amounts = tuple(
        _amount(side, layers, own, longest) if own else None for (side, layers), own in zip(both, group, strict=True)
    )
    ratio = ""
    if len(amounts) == 2 and amounts[0] and amounts[1] and amounts[1].seconds > 0:
        ratio = text.times(amounts[0].seconds / amounts[1].seconds)
    nodes = tuple(dict.fromkeys(node for layer in every for node in layer.nodes))
    return Part(named, kinds, nodes, amounts, ratio)


def _called(first: Layer, every: Sequence[Layer]) -> str:
    if not first.nodes:
        return _counted(name_of(layer) for layer in every)
    if all(kind in _CONVERSIONS for layer in every for kind in layer.operators):
        return f"conversions {_CONVERTED}"
    leaders = list(dict.fromkeys(name_of(layer) for layer in every))
    more = len(leaders) - 1
    return f"{name_of(first)} and {more} more" if more else name_of(first)


def _counted(names: Iterable[str]) -> str:
    counts = Counter(names)
    shown = [f"{name} ×{count}" if count > 1 else name for name, count in counts.most_common(3)]
    return ", ".join(shown) + (", …" if len(counts) > len(shown) else "")


def _amount(side: Side, layers: Layers, own: Sequence[Layer], longest: float | None) -> Amount:
    seconds = sum(layer.seconds for layer in own)
    whole = total(layers)
    counted = [layer for layer in own if layer.operations]
    speed = ""
    if counted and (spent := sum(layer.seconds for layer in counted)) > 0:
        done = sum(layer.operations or 0 for layer in counted)
        kinds = " and ".join(sorted({layer.arithmetic for layer in counted if layer.arithmetic != "other"}))
        speed = f"{text.speed(done / spent)} {kinds}".strip()
    return Amount(
        side,
        seconds,
        seconds / whole if whole else 0.0,
        None if longest is None else seconds / longest if longest else 0.0,
        len(own),
        speed,
    )


def _rows(layers: Layers) -> tuple[tuple[str, ...], ...]:
    whole = total(layers)
    return tuple(
        (
            name_of(layer),
            f"{holds(layer)} as {layer.kernel}" if layer.nodes else layer.kernel,
            text.seconds(layer.seconds),
            text.percent(layer.seconds / whole if whole else None),
            text.operations(layer.operations),
            text.size(layer.bytes),
            text.speed(layer.operations / layer.seconds) if layer.operations and layer.seconds else text.ABSENT,
        )
        for layer in layers.layers
    )


def _facts(report: Report, side: Side, layers: Layers) -> Iterator[str]:
    """The whole query with and without the profiler, and what has no time of its own."""
    spent = text.seconds(total(layers))
    plain = report.candidate(side.name).measurement
    without = f"; without it the median was {text.seconds(plain.latency.p50)}" if plain else ""
    yield (
        f"{side.name} in {layers.runtime}: {len(layers.layers)} layers take {spent} of the "
        f"{text.seconds(layers.seconds)} of a query under the profiler; its own work and waiting are the rest"
        f"{without}. {layers.method}."
    )
    fused = [layer for layer in layers.layers if len(_computing(layer)) > 1]
    if fused:
        nodes = sum(len(_computing(layer)) for layer in fused)
        run = f"{len(fused)} fused layers" if len(fused) > 1 else "one fused layer"
        yield f"{nodes} nodes run as {run}: a time is the layer's, none of them has one of its own."
    if layers.silent:
        shown = text.listed(layers.silent[:3]) if len(layers.silent) <= 3 else f"{', '.join(layers.silent[:3])}, …"
        noun = "nodes have" if len(layers.silent) > 1 else "node has"
        yield f"{len(layers.silent)} {noun} no time: done when the model was loaded, or left out ({shown})."


def _computing(layer: Layer) -> Mapping[str, str]:
    pairs = zip(layer.nodes, layer.operators, strict=True)
    return {node: kind for node, kind in pairs if kind not in _CONVERSIONS}


def _summary(both: Sequence[tuple[Side, Layers]]) -> str:
    """How few layers hold half of the time."""
    said = []
    for side, layers in both:
        times = sorted((layer.seconds for layer in layers.layers), reverse=True)
        half, number = sum(times) / 2, 0
        while number < len(times) and sum(times[:number]) < half:
            number += 1
        said.append(f"{number} of the {len(times)} layers of {side.name}")
    return f"Half of the time in layers goes to {text.listed(said)}."
