"""Parts of quantization as steps of their own: what several recipes begin with is made once, and changes no byte."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from nets import conv_net
from trials import calibration, run, source

from mlopt.artifact import Artifact
from mlopt.intervals import Allowed
from mlopt.step import Make, Step, StepState
from mlopt.steps.quantize_mixed import QuantizeMixed
from mlopt.steps.quantize_static import QuantizeStatic
from mlopt.steps.repair_weights import RepairWeights
from mlopt.store import Store


@pytest.fixture
def told() -> list[tuple[str, StepState, float]]:
    return []


@pytest.fixture
def store(tmp_path: Path, told: list[tuple[str, StepState, float]]) -> Store:
    def hear(step: Step, state: StepState, seconds: float) -> None:
        told.append((step.name, state, seconds))

    return Store(tmp_path / "store", hear)


def test_one_repair_for_static_and_mixed(
    tmp_path: Path, store: Store, told: list[tuple[str, StepState, float]]
) -> None:
    model = conv_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    static = QuantizeStatic(samples, calibrator="mse", repair=True)
    mixed = QuantizeMixed(samples, calibrator="mse", allowed=Allowed(400, sqnr=43.0))
    made = [store.run(step, base) for step in (static, mixed, QuantizeStatic(samples, calibrator="mse"))]
    ran = [name for name, state, _ in told if state == "done"]
    assert ran == ["observe-ranges", "repair-weights", "quantize-static", "quantize-mixed", "quantize-static"]
    found = [name for name, state, _ in told if state == "cached"]
    assert found == ["observe-ranges", "observe-ranges", "repair-weights", "observe-ranges"]
    alone = [run(static, base, tmp_path / "static"), run(mixed, base, tmp_path / "mixed")]
    assert [one.digest for one in made[:2]] == [one.digest for one in alone]
    assert [link.step for link in made[0].lineage] == ["quantize-static"]


def test_a_step_is_not_charged_for_its_parts(
    tmp_path: Path, store: Store, told: list[tuple[str, StepState, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = conv_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    now, repair = 0.0, RepairWeights.compose

    def in_an_hour(step: RepairWeights, source: Artifact, into: Path, make: Make) -> None:
        nonlocal now
        now += 3600
        repair(step, source, into, make)

    monkeypatch.setattr(RepairWeights, "compose", in_an_hour)
    monkeypatch.setattr("mlopt.store.time", SimpleNamespace(monotonic=lambda: now))
    store.run(QuantizeStatic(samples, repair=True), base)
    took = {name: seconds for name, state, seconds in told if state == "done"}
    assert took == {"observe-ranges": 0, "repair-weights": 3600, "quantize-static": 0}


def test_other_options_share_nothing(tmp_path: Path, store: Store, told: list[tuple[str, StepState, float]]) -> None:
    model = conv_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    for calibrator in ("min-max", "mse"):
        store.run(QuantizeStatic(samples, calibrator=calibrator), base)  # type: ignore[arg-type]
    assert not [name for name, state, _ in told if state == "cached"]
