"""Variants as people read them: rows of a list, facts of one, rows of a difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mlopt.report import text
from mlopt.variants.diff import Change
from mlopt.variants.variant import Variant

HEAD: Final = ("image", "digest", "size", "target", "p50", "top-1", "gate", "aliases")


def row(variant: Variant) -> tuple[str, ...]:
    found = variant.evidence
    cells = (
        variant.name,
        text.digest(variant.digest),
        text.size(variant.size()),
        variant.target or text.ABSENT,
        text.seconds(found.p50 if found else None),
        text.percent(found.top1 if found else None),
        variant.verdict or text.ABSENT,
        ", ".join(variant.aliases),
    )
    return text.cleaned(cells)


def facts(variant: Variant) -> list[tuple[str, str]]:
    found = variant.evidence
    rows = [("image", variant.where), ("digest", variant.digest)]
    rows += [("target", variant.target or text.ABSENT), ("precision", variant.precision or text.ABSENT)]
    rows += [("runtime", variant.runtime or text.ABSENT)]
    for platform in variant.platforms:
        layers = ", ".join(
            f"{layer.name or text.digest(layer.digest)} {text.size(layer.size)}" for layer in platform.layers
        )
        rows.append((platform.name or "platform", f"{text.size(platform.size)} compressed: {layers}"))
    if found:
        rows.append(("compiled", f"{found.started}, {found.recipe}, {found.status}"))
        rows.append(("model file", text.size(found.file_size)))
        if found.p50 is not None:
            rows.append(("p50", f"{text.seconds(found.p50)}, at most {text.seconds(found.p50_high)} on {found.device}"))
            rows.append(("peak memory", text.size(found.peak_memory)))
        if found.top1 is not None:
            rows.append(
                (
                    "top-1",
                    f"{text.percent(found.top1)} of {found.samples} samples, at least {text.percent(found.top1_low)}",
                )
            )
    for gate in variant.gates:
        rows.append(("gate", f"{gate.verdict}, profile {gate.profile}, against sha256:{text.digest(gate.baseline)}…"))
    rows += [("before", f"{one.digest}  {one.tag}".rstrip()) for one in variant.before]
    rows += [(key, value) for key, value in sorted(variant.annotations.items())]
    return list(text.cleaned(tuple(rows)))


def changes(found: Sequence[Change]) -> list[tuple[str, ...]]:
    """Names of groups stand once."""
    rows, last = [], ""
    for change in found:
        kind = "" if change.kind == last else change.kind
        rows.append((kind, change.name, change.before or text.ABSENT, change.after or text.ABSENT, change.note))
        last = change.kind
    return [text.cleaned(one) for one in rows]
