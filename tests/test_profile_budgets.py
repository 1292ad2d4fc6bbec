"""Budgets that no model can keep, or that exclude each other, are refused before any work, with their own exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlopt.errors import BudgetInfeasible, ConfigInvalid
from mlopt.profile import find_profile, profile_names


def written(tmp_path: Path, budgets: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(f'schema = 1\nsummary = "mine"\n[budgets]\n{budgets}\n')
    return str(path)


@pytest.mark.parametrize(
    ("budgets", "said"),
    [
        ('latency-p99 = "0ms"', "latency-p99 is not more than 0"),
        ('file-size = "0B"', "file-size is not more than 0"),
        ("throughput = 0.0", "throughput is not more than 0"),
        ("throughput = -1.0", "throughput is not more than 0"),
        ("min-cosine = 1.5", "min-cosine is more than 1"),
        ('latency-p50 = "30ms"\nlatency-p99 = "20ms"', "lower percentile"),
        ('latency-p90 = "30ms"\nlatency-p99 = "20ms"', "lower percentile"),
    ],
)
def test_an_impossible_budget_is_named(tmp_path: Path, budgets: str, said: str) -> None:
    with pytest.raises(BudgetInfeasible) as caught:
        find_profile(written(tmp_path, budgets))
    assert said in caught.value.what
    assert "mine.toml" in caught.value.where
    assert caught.value.next
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    "budgets",
    ['max-drop = "0%"', 'min-agreement = "100%"', "min-cosine = 1.0", 'latency-p50 = "20ms"\nlatency-p99 = "20ms"'],
)
def test_a_strict_budget_is_still_a_budget(tmp_path: Path, budgets: str) -> None:
    find_profile(written(tmp_path, budgets))


@pytest.mark.parametrize("budgets", ["max-drop = 3", 'max-drop = "200%"', "latency-p99 = 20", 'latency-p9 = "1ms"'])
def test_what_is_no_budget_at_all_breaks_the_schema(tmp_path: Path, budgets: str) -> None:
    with pytest.raises(ConfigInvalid):
        find_profile(written(tmp_path, budgets))


def test_the_default_profile_asks_for_what_it_says() -> None:
    balanced = find_profile()
    assert balanced.name == "balanced"
    assert (balanced.minimize, balanced.budgets.max_drop) == ("latency", 0.03)
    assert (balanced.budgets.min_agreement, balanced.budgets.min_cosine) == (0.95, 0.99)


def test_every_shipped_profile_can_be_read_and_bounds_the_accuracy() -> None:
    assert len(profile_names()) >= 6
    for name in profile_names():
        budgets = find_profile(name).budgets
        assert budgets.max_drop is not None, name
        assert budgets.min_agreement is not None, name  # the same wish, where there are no labels
