"""Budgets of memory and load time in a compile: what ships keeps them in six fresh processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import walks
from nets import conv_net, save

from mlopt import assess
from mlopt.compiler import compile_model
from mlopt.errors import UnsupportedModel, WorkerFailed
from mlopt.measure.alone import Given, started_again
from mlopt.measure.interleave import Subject
from mlopt.measurement import Measurement
from mlopt.plan import BASELINE
from mlopt.progress import Progress
from mlopt.request import Request


def compiled(folder: Path, budgets: str) -> dict[str, Any]:
    model = save(conv_net(), folder / "net.onnx")
    profile = walks.profile(folder, budgets)
    done = walks.mlopt(
        *("compile", model, "--profile", profile, "--recipe", "fp32", "--recipe", "int8-dynamic"),
        *("--no-image", "-o", folder / "out"),
        cwd=folder,
    )
    assert done.returncode in (0, 5), done.stderr
    found: dict[str, Any] = json.loads(next((folder / "out").rglob("report.json")).read_bytes())
    return found


def judged(report: dict[str, Any], budget: str) -> tuple[dict[str, Any], int]:
    """The verdict on what ships, and the processes that it comes from."""
    ships = next(one for one in report["candidates"] if one["name"] == report["winner"])
    verdict = next(one for one in ships["verdicts"] if one["budget"] == budget)
    return verdict, len(ships["measurement"]["starts"]["peaks"])


@pytest.mark.slow
def test_what_ships_is_started_six_times_and_the_rest_once(tmp_path: Path) -> None:
    report = compiled(tmp_path, 'peak-memory = "2GB"\nload-time = "20s"')
    for budget, what in (("peak-memory", "peak_memory"), ("load-time", "load_time")):
        verdict, processes = judged(report, budget)
        ships = next(one for one in report["candidates"] if one["name"] == report["winner"])
        assert processes == 6
        assert verdict["outcome"] == "met"
        assert verdict["actual"] == ships["measurement"]["starts"][what]["high"]
        assert "bound of the median of 6 fresh processes" in verdict["note"]
    assert any("95 % bounds of the medians of 6 fresh processes" in note for note in report["notes"])
    others = [one for one in report["candidates"] if one["name"] != report["winner"] and one["measurement"]]
    assert {len(one["measurement"]["starts"]["peaks"]) for one in others} == {1}


@pytest.mark.slow
def test_without_such_a_budget_nothing_is_started_for_it(tmp_path: Path) -> None:
    report = compiled(tmp_path, "min-cosine = 0.9")
    assert {len(one["measurement"]["starts"]["peaks"]) for one in report["candidates"] if one["measurement"]} == {1}


@pytest.mark.slow
def test_what_dies_in_a_later_start_is_a_candidate_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever is the fastest is chance; so it is asked for by name, and the judge has none of that name left."""

    def again(taken: Measurement, subject: Subject, given: Given) -> Measurement:
        if subject.name != BASELINE:
            raise WorkerFailed(f"{subject.name} was ended by signal SIGKILL.")
        return started_again(taken, subject, given)

    monkeypatch.setattr(assess, "started_again", again)
    monkeypatch.chdir(tmp_path)
    profile = walks.profile(tmp_path, 'peak-memory = "2GB"')
    asked = Request(
        save(conv_net(), tmp_path / "net.onnx"),
        profile=str(profile),
        recipes=("fp16",),
        ship="fp16",
        image=False,
        inside=False,
        store=tmp_path / "store",
    )
    with pytest.raises(UnsupportedModel, match=r"fp16 was asked for by name.*SIGKILL") as caught:
        compile_model(asked, Progress(quiet=True))
    assert "leave --ship out" in caught.value.next
    assert not list((tmp_path / "out").rglob("bundle.json"))
    bundle = compile_model(replace(asked, ship=BASELINE), Progress(quiet=True))
    assert judged(json.loads((bundle.path / "report.json").read_bytes()), "peak-memory")[1] == 6
