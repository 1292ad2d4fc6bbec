"""Change points on seeded series whose changes are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from history.histories import entry, made, revision

from mlopt.history.changes import MOST, splits
from mlopt.history.entry import Number
from mlopt.history.series import series_of


def noise(seed: int, size: int, spread: float = 0.02) -> np.ndarray:
    return np.random.default_rng([7, seed]).normal(0, spread, size)


def test_false_alarms_are_as_rare_as_their_level() -> None:
    alarms = sum(bool(splits(noise(seed, 24), level=0.05, permutations=199)) for seed in range(200))
    assert 1 <= alarms <= 20  # 10 expected of 200; 20 and more has a chance of 0.3 %


def test_a_change_is_found_where_it_is() -> None:
    hits = 0
    for seed in range(20):
        values = noise(seed, 30)
        values[20:] += math.log(1.08)
        found = splits(values)
        hits += len(found) == 1 and abs(found[0].index - 20) <= 1
    assert hits >= 18


def test_several_changes_are_found_and_told_in_order() -> None:
    values = noise(0, 60)
    values[20:40] += 0.10
    values[40:] += 0.04
    found = splits(values)
    assert [one.index for one in found] == pytest.approx([20, 40], abs=1)
    assert found[0].before == pytest.approx(0.0, abs=0.01)
    assert (found[0].after, found[1].before) == (found[1].before, found[0].after)
    assert found[1].after == pytest.approx(0.04, abs=0.01)


def test_a_change_that_is_taken_back_is_found() -> None:
    """Without looking at ends before the last number the two would cancel."""
    values = noise(1, 45)
    values[20:30] += 0.08
    assert [one.index for one in splits(values)] == pytest.approx([20, 30], abs=1)


def test_a_single_outlier_is_no_change() -> None:
    values = noise(2, 30)
    values[12] += 5.0
    assert splits(values) == ()


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0, 1.0], [3.0] * 50])
def test_too_short_or_constant_series_have_none(values: list[float]) -> None:
    assert splits(values) == ()


def test_the_same_series_gives_the_same_answer() -> None:
    values = noise(3, 40)
    values[25:] += 0.05
    assert splits(values) == splits(list(values))


def test_a_history_finds_both_of_its_changes() -> None:
    found = {(one.entry.model, one.metric): one for one in series_of(made())}
    slower, larger = found["net.onnx", "relative-latency"], found["net.onnx", "file-size"]
    assert [change.index for change in slower.changes] == pytest.approx([28], abs=1)
    assert slower.changes[0].worse
    assert slower.changes[0].after / slower.changes[0].before == pytest.approx(1.08, abs=0.02)
    (change,) = larger.changes
    assert (change.index, change.p, change.before, change.after) == (15, 0.0, 40_000, 44_000)
    assert change.between == (revision(14), revision(15))
    assert not found["reference.onnx", "file-size"].changes


def test_only_what_is_comparable_is_one_series() -> None:
    numbers = {"latency-p50": Number(1.0), "relative-latency": Number(1.0), "file-size": Number(1.0)}
    facts = [
        {},
        {"device": "Another CPU, 4 cores"},
        {"threads": 2},
        {"verb": "gate"},
        {"runtime": "openvino"},
        {"scenario": "offline"},
    ]
    entries = [entry(day, model="m", baseline="b", numbers=numbers, **one) for day, one in enumerate(facts)]
    entries.append(entry(9, model="m", baseline="another", numbers=numbers))
    counts: dict[str, list[int]] = {}
    for one in series_of(entries):
        counts.setdefault(one.metric, []).append(len(one.points))
    assert sorted(counts["latency-p50"]) == [1, 1, 1, 1, 1, 2]
    assert sorted(counts["relative-latency"]) == [1, 1, 1, 1, 1, 2]
    assert counts["file-size"] == [7]


def test_what_else_is_new_is_named() -> None:
    numbers = [{"file-size": Number(float(size))} for size in (1, 2)]
    pair = [entry(day, model="m", baseline="", numbers=one) for day, one in zip((19, 20), numbers, strict=True)]
    assert series_of(pair)[0].changes[0].also == ("onnxruntime 1.30.0 → 1.31.1",)


def test_only_the_latest_results_count() -> None:
    entries = [entry(day, model="m", baseline="", numbers={"file-size": Number(float(day))}) for day in range(MOST + 9)]
    (one,) = series_of(entries)
    assert len(one.points) == MOST
    assert one.points[-1].number.value == MOST + 8
