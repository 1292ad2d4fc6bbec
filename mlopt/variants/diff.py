"""What is different between two variants: layers, packages, what they are, and their figures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mlopt.report import text
from mlopt.variants.variant import Platform, Variant

_PACKAGE: Final = re.compile(r"([A-Za-z0-9][\w.+-]*) (\S+?)(?:,|$)")


@dataclass(frozen=True, slots=True)
class Change:
    """`kind` groups what belongs together; an empty side has no such thing."""

    kind: str
    name: str
    before: str
    after: str
    note: str = ""


def diff(before: Variant, after: Variant) -> tuple[Change, ...]:
    """Nothing when they are the same image with the same figures."""
    changes = [*_facts(before, after)]
    ours, theirs = ({one.name: one for one in side.platforms} for side in (before, after))
    for name in sorted(ours.keys() | theirs.keys()):
        if name in ours and name in theirs:
            changes += _layers(ours[name], theirs[name])
        else:
            one, other = (text.size(side[name].size) if name in side else "" for side in (ours, theirs))
            changes.append(Change("platform", name, one, other))
    packages = _packages(ours, theirs)
    return (*changes, *packages, *_figures(before, after))


def _facts(before: Variant, after: Variant) -> list[Change]:
    rows = [("digest", text.digest(before.digest), text.digest(after.digest))]
    keys = sorted(before.annotations.keys() | after.annotations.keys())
    rows += [(key, _shown(key, before), _shown(key, after)) for key in keys]
    return [Change("image", name, one, other) for name, one, other in rows if one != other]


def _shown(key: str, variant: Variant) -> str:
    value = variant.annotations.get(key, "")
    return text.digest(value) if key.endswith("-digest") else value


def _layers(before: Platform, after: Platform) -> list[Change]:
    """A layer is what its digest says; those of the same name are the same part of an image."""
    found = []
    ours, theirs = ({one.name or one.digest: one for one in side.layers} for side in (before, after))
    for name in dict.fromkeys((*ours, *theirs)):
        one, other = ours.get(name), theirs.get(name)
        if one and other and one.digest == other.digest:
            continue
        old, new = (text.size(layer.size) if layer else "" for layer in (one, other))
        note = _more(one.size, other.size) if one and other else ""
        found.append(Change(f"layer, {before.name}", name, old, new, note))
    return found


def _packages(before: dict[str, Platform], after: dict[str, Platform]) -> list[Change]:
    """By name, with the platforms that they differ on."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for platform in sorted(before.keys() & after.keys()):
        ours, theirs = packages(before[platform]), packages(after[platform])
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                found.setdefault((name, ours.get(name, ""), theirs.get(name, "")), []).append(platform)
    everywhere = sorted(before.keys() & after.keys())
    return [
        Change("package", *names, "" if platforms == everywhere else f"on {', '.join(platforms)}")
        for names, platforms in sorted(found.items())
    ]


def packages(platform: Platform) -> dict[str, str]:
    """Name and version of all that the layers say they are made of."""
    said = (layer.made_by.partition(": ")[2] for layer in platform.layers)
    return {name: version for made_by in said for name, version in _PACKAGE.findall(made_by)}


def _figures(before: Variant, after: Variant) -> list[Change]:
    one, other = before.evidence, after.evidence
    shown = (
        ("model file", "file_size", text.size),
        ("p50", "p50", text.seconds),
        ("peak memory", "peak_memory", text.size),
        ("top-1", "top1", text.percent),
    )
    found = []
    for name, key, show in shown:
        old, new = (getattr(side, key) if side else None for side in (one, other))
        if show(old) != show(new):
            found.append(Change("figure", name, show(old), show(new), _ratio(key, old, new)))
    if one and other and one.device != other.device:
        found.append(Change("figure", "measured on", one.device, other.device))
    verdicts = [side.verdict for side in (before, after)]
    return found + ([Change("figure", "gate", *verdicts)] if verdicts[0] != verdicts[1] else [])


def _ratio(key: str, old: float | None, new: float | None) -> str:
    if old is None or new is None:
        return ""
    if key == "top1":
        return text.points(new - old)
    ratio = text.times(new / old) if old else ""
    return f"{ratio}, by clocks of two runs" if key == "p50" else ratio


def _more(old: int, new: int) -> str:
    return "" if old == new else f"{'+' if new > old else '-'}{text.size(abs(new - old))}"
