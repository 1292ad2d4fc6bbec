"""The lines that mlopt set out to reach, each against what was found: reached, not reached, or not measured here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

SPEED: Final[Mapping[str, float]] = {
    "resnet50-shape": 3.8,
    "mobilenet_v2-shape": 2.6,
    "mobilenet_v3_large-shape": 2.2,
    "vit_small-shape": 3.3,
    "deit_tiny-shape": 2.7,
    "bert_base-shape": 3.9,
}
_WORST, _MEDIAN, _IMBALANCED, _BEHIND, _SQNR = 1.0, 0.2, 0.3, 0.97, 25.0
_NO_SAMPLES: Final = {False: 1.6, True: 1.9}  # by whether it has attention
_NNCF_LEAST: Final = 3
_ALONE, _ALONE_SPEED = "mobilenet_v3_large-shape", 1.8
IMBALANCED: Final = "mobilenetv1_imbalanced"


@dataclass(frozen=True, slots=True)
class Goal:
    """`reached` is None when the benchmark has no figures for it."""

    line: str
    found: str
    reached: bool | None


def goals(facts: Mapping[str, Any]) -> list[Goal]:
    models = facts["models"]
    return [
        *_drops({name: model for name, model in models.items() if model["trained"] and name != IMBALANCED}),
        *_imbalanced(models.get(IMBALANCED)),
        *_speeds(models),
        _in_onnxruntime(models.get(_ALONE)),
        _not_behind(models),
        _slower(models),
        _budget(models, facts["max_drop"]),
        *_times(models),
        _evaluations(models),
        _no_samples(models),
        Goal(
            "pruned and quantised: resnet50 ≥ 11×, mobilenet_v2 ≥ 3.5×, CIFAR ResNets ≥ 3×",
            "in [pruning](pruning.md)",
            None,
        ),
    ]


def row(model: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The row of that name, if its variant was made and answered."""
    return next((one for one in model["rows"] if one["name"] == name and one["samples"]), None)


def _drops(models: Mapping[str, Any]) -> Iterator[Goal]:
    line = "int8 loses no more than the best peer on any model (paired)"
    known = {name: one for name, model in models.items() if (one := model["int8_against_best_peer"])}
    worse = [name for name, one in known.items() if one["low"] > 0]
    told = ", ".join(f"{name} {points(one)}" for name, one in known.items())
    yield Goal(line, f"behind the best peer by: {told}" if known else "no pair", not worse if known else None)
    int8 = {name: one for name, model in models.items() if model["int8"] and (one := row(model, model["int8"]))}
    drops = {name: 100 * one["drop"]["value"] for name, one in int8.items()}
    line = f"worst drop of int8 ≤ {_WORST} point, median ≤ {_MEDIAN}"
    if not drops:
        yield Goal(line, "no int8 row", None)
        return
    worst = max(drops, key=lambda name: drops[name])
    middle = statistics.median(drops.values())
    kinds = ", ".join(f"{name} {one.get('chosen') or one['variant']}" for name, one in int8.items())
    found = f"worst {drops[worst]:+.2f} ({worst}), median {middle:+.2f}; of: {kinds}"
    chances = {name: 100 * one["expected"]["value"] for name, one in int8.items() if one.get("expected")}
    if chances:
        least = max(chances, key=lambda name: chances[name])
        found += f". By chances (which luck moves less): worst {chances[least]:+.2f} ({least}), "
        found += f"median {statistics.median(chances.values()):+.2f} of {len(chances)}"
    yield Goal(line, found, drops[worst] <= _WORST and middle <= _MEDIAN)


def _imbalanced(model: Mapping[str, Any] | None) -> Iterator[Goal]:
    line = f"depthwise net with seeded channel imbalance: int8 drop ≤ {_IMBALANCED} point"
    best = row(model, model["int8"]) if model and model["int8"] else None
    if model is None or best is None:
        yield Goal(line, "no int8 row", None)
        return
    int8 = [one for one in model["rows"] if one["tool"] != "mlopt" and one["sqnr"] is not None]
    peers = [one["drop"]["value"] for one in int8]
    theirs = f"; peers {100 * min(peers):+.2f} to {100 * max(peers):+.2f}" if peers else ""
    chances = f"; by chances {100 * best['expected']['value']:+.2f}" if best.get("expected") else ""
    found = f"{best['name']} {points(best['drop'])}{chances}{theirs}"
    yield Goal(line, found, 100 * best["drop"]["value"] <= _IMBALANCED)


def _speeds(models: Mapping[str, Any]) -> Iterator[Goal]:
    for name, wanted in SPEED.items():
        line = f"{name} ≥ {wanted}× and SQNR ≥ {_SQNR:.0f} dB"
        ships = row(models[name], "mlopt.ships") if name in models else None
        if ships is None or ships["speedup"] is None:
            yield Goal(line, "not timed", None)
            continue
        speedup, sqnr = ships["speedup"]["value"], ships["sqnr"]
        found = f"{speedup:.2f}× {noise(sqnr)} ({ships.get('chosen')} in {ships['runtime']})"
        yield Goal(line, found, speedup >= wanted and (sqnr is None or sqnr >= _SQNR))


def _in_onnxruntime(model: Mapping[str, Any] | None) -> Goal:
    line = f"{_ALONE} ≥ {_ALONE_SPEED}× in ONNX Runtime alone and SQNR ≥ {_SQNR:.0f} dB"
    there = [one for one in model["rows"] if one["runtime"] == "onnxruntime" and one["speedup"]] if model else []
    int8 = [one for one in there if one["samples"] and (one["tool"] != "mlopt" or one.get("precision") == "int8")]
    ours, theirs = ([one for one in int8 if (one["tool"] == "mlopt") == mine] for mine in (True, False))
    if not ours:
        return Goal(line, "not timed", None)
    best = max(ours, key=lambda one: one["speedup"]["value"])
    found = f"{best['variant']} {best['speedup']['value']:.2f}× {noise(best['sqnr'])}"
    if theirs:
        rival = max(theirs, key=lambda one: one["speedup"]["value"])
        found += f"; best peer {rival['name']} {rival['speedup']['value']:.2f}× {noise(rival['sqnr'])}"
    near = best["sqnr"] is None or best["sqnr"] >= _SQNR
    return Goal(line, found, best["speedup"]["value"] >= _ALONE_SPEED and near)


def _not_behind(models: Mapping[str, Any]) -> Goal:
    behind, found = [], []
    for name, model in models.items():
        rivals = {
            other: speedup
            for other, speedup in model.get("beside_ships", {}).items()
            if other == "openvino: original" or _rival(row(model, other.removeprefix("openvino: ")))
        }
        if rivals:
            best = max(rivals, key=lambda rival: rivals[rival]["value"])
            share, low, high = (1 / rivals[best][key] for key in ("value", "high", "low"))
            shown = f"{best.removeprefix('openvino: ')} in OpenVINO" if best.startswith("openvino: ") else best
            found.append(f"{name} {share:.2f} [{low:.2f}, {high:.2f}] of {shown}")
            behind += [name] if share < _BEHIND else []
    line = "never behind the fastest peer that keeps accuracy (1 point, or 25 dB) by more than 3 %"
    told = f"in a run of those alone: {', '.join(found)}" if found else "nothing timed"
    return Goal(line, told, not behind if found else None)


def _rival(one: Mapping[str, Any] | None) -> bool:
    """Whether a peer's variant was timed and answers well enough to be compared with."""
    if one is None or one["tool"] == "mlopt" or one["speedup"] is None or not one["samples"]:
        return False
    return enough(one)


def enough(accuracy: Mapping[str, Any]) -> bool:
    """Whether answers are near enough to the original's for a speed to count: within a point, or 25 dB."""
    drop, sqnr = accuracy["drop"], accuracy["sqnr"]
    return bool(100 * drop["value"] <= _WORST if drop else sqnr is None or sqnr >= _SQNR)


def _slower(models: Mapping[str, Any]) -> Goal:
    ships = {name: one for name, model in models.items() if (one := row(model, "mlopt.ships")) and one["speedup"]}
    slower = [name for name, one in ships.items() if one.get("chosen") != "baseline" and one["speedup"]["high"] < 1]
    found = f"{len(slower)} of {len(ships)}{': ' + ', '.join(slower) if slower else ''}"
    return Goal("variants chosen that are slower than their baseline: 0", found, not slower if ships else None)


def _budget(models: Mapping[str, Any], limit: float) -> Goal:
    ours = {name: one for name, model in models.items() if (one := row(model, "mlopt.budget")) and one["drop"]}
    theirs = {name: one for name, model in models.items() if (one := row(model, "nncf_onnx.accuracy-control"))}
    missed = [name for name, one in ours.items() if one["drop"]["value"] > limit]
    unproven = [name for name, one in ours.items() if one["drop"]["high"] > limit and one.get("chosen") != "baseline"]
    kept_by_baseline = [name for name, one in ours.items() if one.get("chosen") == "baseline"]
    found = f"{len(missed)} of {len(ours)} missed on held-out samples, {len(unproven)} shipped without the bound"
    if kept_by_baseline:
        found += f"; the original ships for {', '.join(kept_by_baseline)}"
    if theirs:
        over = [name for name, one in theirs.items() if one["drop"]["value"] > limit]
        found += f". NNCF's accuracy control missed {len(over)} of {len(theirs)}"
    return Goal(f"a budget of {limit:.0%} kept, proven at 95 %", found, not missed and not unproven if ours else None)


def _times(models: Mapping[str, Any]) -> Iterator[Goal]:
    for line, peer, share in (
        ("wall time to a budget ≤ 2/3 of NNCF's accuracy control", "nncf_onnx.accuracy-control", 2 / 3),
        ("wall time to a budget ≤ 1/3 of Olive's", "olive_onnx.static", 1 / 3),
    ):
        ratios = {}
        for name, model in models.items():
            ours, theirs = row(model, "mlopt.budget"), row(model, peer)
            if ours and theirs:
                ratios[name] = (ours, theirs["seconds"])
        told = ", ".join(
            f"{name} {ours['seconds']:.0f} s ({ours['measuring']:.0f} of it timing; {ours['chosen']}) "
            f"against {theirs:.0f} s"
            for name, (ours, theirs) in ratios.items()
        )
        reached = all(ours["seconds"] <= share * theirs for ours, theirs in ratios.values()) if ratios else None
        yield Goal(line, told or "no pair", reached)


def _no_samples(models: Mapping[str, Any]) -> Goal:
    line = f"no calibration data: ≥ {_NO_SAMPLES[False]}× CNN, ≥ {_NO_SAMPLES[True]}× transformer"
    ships = {name: one for name, model in models.items() if (one := row(model, "mlopt.no-samples")) and one["speedup"]}
    told = ", ".join(f"{name} {one['speedup']['value']:.2f}× ({one['chosen']})" for name, one in ships.items())
    kept = [one["speedup"]["value"] >= _NO_SAMPLES[models[name]["attention"]] for name, one in ships.items()]
    kinds = {models[name]["attention"] for name in ships}
    return Goal(line, told or "not timed", all(kept) if kinds == set(_NO_SAMPLES) else None)


def _evaluations(models: Mapping[str, Any]) -> Goal:
    """Where NNCF searched: with its least, three, it compared the model with all int8 and was content."""
    line = "evaluations to a budget ≤ 1/4 of NNCF's accuracy control, where that searched"
    pairs = {}
    for name, model in models.items():
        ours, theirs = row(model, "mlopt.budget"), row(model, "nncf_onnx.accuracy-control")
        if ours and theirs and ours.get("evaluations") and (theirs.get("evaluations") or 0) > _NNCF_LEAST:
            pairs[name] = (ours["evaluations"], theirs["evaluations"])
    told = ", ".join(f"{name} {ours} against {theirs}" for name, (ours, theirs) in pairs.items())
    # A part of a pass counts as one: theirs are whole ones too.
    few = all(4 * math.ceil(ours) <= theirs for ours, theirs in pairs.values())
    return Goal(line, told or "no pair", few if pairs else None)


def points(interval: Mapping[str, float]) -> str:
    """A difference of accuracy in points, with its interval."""
    return f"{100 * interval['value']:+.2f} [{100 * interval['low']:+.1f}, {100 * interval['high']:+.1f}]"


def noise(sqnr: float | None) -> str:
    """None in JSON is infinity: the same answers, bit by bit."""
    return "identical" if sqnr is None else f"{sqnr:.1f} dB"
