"""The benchmark of budgets: what it draws and reads, and that its judges find an answer that is wrong."""

from __future__ import annotations

import random
from pathlib import Path

import nets
import numpy as np
import pytest
import walks
from budgeted.asked import Answer, Judgement, answer, drawn, judgement
from budgeted.judged import judged_refusal, judged_shipping, timed_again
from budgeted.rendered import render
from budgets import MODELS, planned

from mlopt.plan import BASELINE


def test_all_requests_are_planned_first_groups_first() -> None:
    groups = list(planned(list(MODELS), 200))
    assert sum(group.requests for group in groups) == 200
    assert [group.number for group in groups] == sorted(group.number for group in groups)
    assert {group.model for group in groups} == set(MODELS)
    assert len({group.name for group in groups}) == len(groups)
    assert sum(group.requests for group in planned(["squeezenet1_0"], 7)) == 7


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("budgets")
    model = nets.save(nets.conv_net(width=64), folder / "model.onnx")
    walks.labelled(folder / "all.npz", model, count=320)
    with np.load(folder / "all.npz") as arrays:
        np.savez(folder / "given.npz", x=arrays["x"][:256], y=arrays["y"][:256])
        np.savez(folder / "held-out.npz", image=arrays["x"][256:], y=arrays["y"][256:])
    return folder


@pytest.fixture(scope="module")
def found(home: Path) -> Judgement:
    return judgement(home, home / "store", 0.2)


@pytest.mark.slow
def test_answers_and_their_judges(home: Path, found: Judgement) -> None:
    baseline = found.candidates[0]
    tight = {"max_drop": 0.2, "max_size": baseline.file_size // 2}
    given = answer(found, tight)
    assert given.kind == "ships"
    assert given.winner != BASELINE
    again = timed_again(found, {given.winner})
    assert baseline.measurement
    was = dict.fromkeys((BASELINE, given.winner), baseline.measurement.latency.p50)
    facts = judged_shipping(found, given, tight, again, home, was=was)
    assert facts["violations"] == []
    assert facts["held_out"]["samples"] == 64
    lie = Answer("ships", BASELINE, "", {})
    assert judged_shipping(found, lie, tight, again, home, was=was)["violations"] == ["max_size"]
    wrong = {"max_drop": -0.5, "max_latency": 1e-9, "max_memory": 1.0}
    caught = judged_shipping(found, given, wrong, again, home, was=was)["violations"]
    assert set(caught) == set(wrong)


@pytest.mark.slow
def test_what_is_called_infeasible_is(found: Judgement) -> None:
    none = {"max_drop": 0.2, "max_size": 1.0}
    given = answer(found, none)
    assert given.kind == "infeasible"
    assert given.nearest["max_size"] > 1000
    after = answer(found, {**none, **given.nearest})
    assert judged_refusal(found, given, none, found.candidates, after)["violations"] == []
    large = {"max_drop": 0.2, "max_size": 1e9}
    lie = judged_refusal(found, given, large, found.candidates, None)
    assert lie["violations"] == ["feasible after all", "the nearest is infeasible too"]


@pytest.mark.slow
def test_the_table_counts_what_was_kept(home: Path, found: Judgement) -> None:
    limits = drawn(random.Random(1), found, 0.2)
    assert limits["max_drop"] == 0.2
    assert len(limits) > 1
    given = answer(found, limits)
    request = {
        "model": "net", "group": 0, "by": "its functions", "limits": limits, "kind": given.kind,
        "winner": "int8-static",
        "said": "said", "nearest": {}, "violations": ["max_size"], "excess": ["max_size"],
    }  # fmt: skip
    facts = {
        "command": "c",
        "machine": "m",
        "versions": {"mlopt": "0"},
        "seed": 1,
        "recipes": ["r"],
        "requests": [request],
    }
    table = render(facts)
    assert "| net | 1 |" in table
    assert "Violations: file size 1." in table
