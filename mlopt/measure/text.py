"""What `mlopt bench` prints: clocks side by side, percentiles with their bounds, and the rates of a server."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from mlopt.measure.bench import BenchResult
from mlopt.measure.energy import Energy
from mlopt.measure.loadgen import LoadGenResult
from mlopt.measure.percentiles import CONFIDENCE, SHOWN
from mlopt.measure.server import ServerRate
from mlopt.report import gpu, text
from mlopt.report.layers_text import inside_text

_COLUMN: Final = 9


def to_terminal(found: BenchResult, *, width: int) -> str:
    """Clocks, percentiles and, of servers, what they hold; sentences wrapped to the width."""
    lines = [*_clocks(found, width), *textwrap.wrap(_method(found), width)]
    lines += [line for told in _notes(found) for line in textwrap.wrap(told, width, subsequent_indent="  ")]
    lines += ["", *_percentiles(found, width)]
    for name, model in zip(found.labelled, found.models, strict=True):
        if model.server:
            lines += ["", *textwrap.wrap(f"{name} as a server: {said(model.server)}", width)]
    for name, model in zip(found.labelled, found.models, strict=True):
        if model.inside:
            lines += ["", *inside_text(name, model.inside, width=width)]
        if model.loadgen:
            lines += ["", *textwrap.wrap(f"{name} under LoadGen {_by_loadgen(model.loadgen)}", width)]
    return "\n".join(lines)


def _clocks(found: BenchResult, width: int) -> Iterator[str]:
    head = "".join(f"  {name:>{_COLUMN}}" for name in ("p50", "load", "first", "cold start", "peak", "throughput"))
    rows = [("model", f"{head}  speed-up")]
    for (name, one), model in zip(found.labelled.items(), found.models, strict=True):
        starts = (one.latency.p50, one.load_time, one.first_inference)
        times = "".join(f"  {text.seconds(value):>{_COLUMN}}" for value in starts)
        rest = f"{text.seconds(model.cold_start):>10}  {text.size(one.peak_memory):>9}  {text.rate(one.throughput):>10}"
        rows.append((name, f"{times}  {rest}  {text.times(one.speedup)}"))
    yield from _beside_names(rows, width)


def _beside_names(rows: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    """Rows of a table behind their names; below them where both do not fit into the width."""
    first = max(len(name) for name, _ in rows)
    if first + max(len(row) for _, row in rows) <= width:
        yield from (f"{name:<{first}}{row}" for name, row in rows)
        return
    (heading, head), *others = rows
    indent = max(len(heading), *(len(name) for name, _ in others if name.startswith(" ")), 0)
    yield f"{heading:<{indent}}{head}"
    for name, row in others:
        if name.startswith(" "):
            yield f"{name:<{indent}}{row}"
        else:
            yield from (name, f"{'':<{indent}}{row}")


def _notes(found: BenchResult) -> Iterator[str]:
    """What the clocks can tell, what they were limited to, and which models did not have enough memory."""
    yield (
        f"noise: a copy of the first model beside it is at {text.times(found.noise.speedup)}: a difference in speed of "
        f"less than {text.percent(found.noise.tells)} cannot be told here in that time"
    )
    for limit in found.limits:
        yield f"{limit.limit} {'' if limit.applied else 'not '}limited to {limit.asked}: {limit.how}"
    for name, one in found.labelled.items():
        if one.gpu:
            yield f"{name} on {gpu.said(one.gpu)}"
        if held := gpu.held_back(one.gpu):
            yield f"{name}: {held}: it may be faster where they are not"
    for name, why in found.left_out.items():
        yield f"{name} was not measured: {why}"
    for name, model in zip(found.labelled, found.models, strict=True):
        arena = f"; its runtime counted {text.size(model.arena_peak)} in the arena" if model.arena_peak else ""
        yield f"{name} {text.starts(model.measurement.starts)}{arena}"
        if several := model.shared:
            yield (
                f"{several.workers} processes of {name} take {text.size(several.together)} together (PSS), each "
                f"{text.size(several.own)} that no other process has"
            )
        if model.energy:
            yield f"energy of {name}: {_energy(model.energy)}"
    if found.no_energy:
        yield f"energy: not measured: {found.no_energy}"
    for name, one in found.labelled.items():
        if one.thrashes:
            each = one.major_faults / one.latency.queries
            yield f"{name} thrashes: it reads {each:.3g} pages from disk in each query, for want of memory"


def _energy(found: Energy) -> str:
    return (
        f"{1e3 * found.joules:.3g} mJ a query above rest ({found.source}: {found.busy:.3g} W busy, {found.idle:.3g} W "
        f"at rest, {found.queries} queries in {found.seconds:.3g} s)"
    )


def _method(found: BenchResult) -> str:
    first = found.models[0].measurement
    batches, threads = ({getattr(one.measurement, name): None for one in found.models} for name in ("batch", "threads"))
    several = "; speed-ups are per sample" if len(batches) > 1 else ""
    return (
        f"{first.grade} on {first.device}, {first.scenario}, batch {_listed(batches)}, {_listed(threads)} "
        f"thread{'' if list(threads) == [1] else 's'}, {first.latency.queries} queries in {first.rounds} rounds; "
        f"generated inputs{several}"
    )


def _listed(values: Iterable[int]) -> str:
    *others, last = map(str, values)
    return f"{', '.join(others)} and {last}" if others else last


def _percentiles(found: BenchResult, width: int) -> Iterator[str]:
    rows = [("latency", "".join(f"  {f'p{one:g}':>{_COLUMN}}" for one in SHOWN))]
    for name, model in zip(found.labelled, found.models, strict=True):
        rows.append((name, "".join(f"  {text.seconds(one.value):>{_COLUMN}}" for one in model.percentiles)))
        ends = (f"≤ {text.seconds(one.high)}" if one.high is not None else "–" for one in model.percentiles)
        rows.append(("  at most", "".join(f"  {end:>{_COLUMN}}" for end in ends)))
    yield from _beside_names(rows, width)
    yield f"at most: MLPerf's early stopping, {CONFIDENCE * 100:g} % confidence; –: too few queries"


def _by_loadgen(found: LoadGenResult) -> str:
    """LoadGen's result as MLPerf reports it, and the same by our clock on the same queries."""
    if found.scenario == "server":
        assert found.scheduled is not None
        told = f"p99 {text.seconds(found.p99)} at {text.rate(found.scheduled)}"
    elif found.scenario == "offline":
        told = f"{text.rate(found.samples_per_second)} (by our clock {text.rate(found.ours['samples_per_second'])})"
    else:
        name, value = ("p90", found.p90) if found.scenario == "single-stream" else ("p99", found.p99)
        bound = f", ≤ {text.seconds(found.bound)}" if found.bound else ""
        told = f"{name} {text.seconds(value)}{bound} (by our clock {text.seconds(found.ours[name])})"
    verdict = "valid" if found.valid else f"invalid: {found.why_not or 'the bound does not hold'}"
    return f"{found.version}: {told}, {found.queries} queries, {verdict}"


def said(server: ServerRate) -> str:
    """The rate that a server holds, and how it is known."""
    bound = f"p{server.percent:g} within {text.seconds(server.bound)}"
    if not server.trials:
        return f"no rate keeps {bound}: {server.single_late} of {server.single} single queries alone took longer"
    tried = f"{len(server.trials)} trials of Poisson arrivals, seed {server.seed}"
    if server.rate is None:
        return f"no rate that was tried keeps {bound} ({tried})"
    held = max((one for one in server.trials if one.rate == server.rate), key=lambda one: one.queries)
    above = f", not at {text.rate(server.not_held)}" if server.not_held else ""
    late = f"{held.late} of {held.queries} late"
    return f"{text.rate(server.rate)} with {bound} at {CONFIDENCE * 100:g} % confidence ({late}){above}; {tried}"
