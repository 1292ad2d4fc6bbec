"""Profiles: what ships is useful and measurable, and an impossible wish is refused before anything is built."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from mlopt import paths
from mlopt.errors import ConfigInvalid, MloptError, UnknownName
from mlopt.profile import DEFAULT, Budgets, Method, find_profile

SHIPPED = sorted(path.stem for path in paths.folder("profiles").glob("*.toml"))


@pytest.fixture(autouse=True)
def _no_own_declarations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_there_are_enough_of_them() -> None:
    assert len(SHIPPED) >= 6
    assert DEFAULT in SHIPPED
    assert {find_profile(name).minimize for name in SHIPPED} == {"latency", "memory", "size"}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_bounds_accuracy_with_and_without_labels(name: str) -> None:
    profile = find_profile(name)
    assert profile.summary
    assert profile.budgets.max_drop is not None
    assert profile.budgets.min_agreement is not None
    assert profile.method.seconds <= 60, "nobody waits for longer"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_says_why(name: str) -> None:
    text = (paths.folder("profiles") / f"{name}.toml").read_text()
    assert text.startswith("# ")


def test_no_two_profiles_are_the_same() -> None:
    profiles = [find_profile(name) for name in SHIPPED]
    assert len({(one.minimize, one.budgets, one.method) for one in profiles}) == len(profiles)


def test_the_default_has_no_clock_to_miss() -> None:
    """A first run on any model on any machine ends with a verdict on accuracy, not with a missed latency."""
    budgets = find_profile().budgets
    assert {one.name for one in fields(budgets) if getattr(budgets, one.name) is not None} == {
        "max_drop",
        "min_agreement",
        "min_cosine",
    }


def test_units_arrive_in_base_units() -> None:
    assert find_profile("realtime-30fps").budgets.latency_p99 == 0.02
    assert find_profile("edge-memory").budgets.peak_memory == 256 * 2**20


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('[budgets]\nlatency-p50 = "0ms"', "latency-p50"),
        ('[budgets]\nlatency-p50 = "9ms"\nlatency-p99 = "5ms"', "latency"),
        ("[budgets]\nmin-cosine = 1.5", "min-cosine"),
        ('[budgets]\npeak-memory = "0MB"', "peak-memory"),
        ("[budgets]\nlatency = 3", "Did you mean 'latency-p"),
        ("[budgets]\nthroughput = '100/s'", "is a text"),
        ("[method]\nrounds = 0", "rounds is not more than 0"),
        ("[method]\nwarm-up = -1", "warm-up is less than 0"),
        ('[method]\nscenario = "single"', "Did you mean 'single-stream'?"),
        ("[method]\nseconds = 20", "has no unit"),
        ('minimise = "size"', "Did you mean 'minimize'?"),
    ],
)
def test_an_impossible_or_misspelt_profile_is_refused(text: str, what: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'summary = "mine"\n{text}\n')
    with pytest.raises(MloptError) as caught:
        find_profile(str(file))
    assert what in caught.value.what
    assert str(file) in caught.value.where
    assert caught.value.next


def test_no_drop_at_all_is_a_fair_wish(tmp_path: Path) -> None:
    file = tmp_path / "strict.toml"
    file.write_text('summary = "strict"\n[budgets]\nmax-drop = "0%"\nmin-agreement = 1\n')
    assert find_profile(str(file)).budgets == Budgets(max_drop=0.0, min_agreement=1.0)  # type: ignore[arg-type]


def test_defaults_are_those_of_the_method() -> None:
    assert find_profile().method == Method()


def test_an_unknown_profile_gets_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="Did you mean balanced"):
        find_profile("balnced")
    with pytest.raises(ConfigInvalid):
        find_profile(str(paths.folder("targets") / "rpi5.toml"))
