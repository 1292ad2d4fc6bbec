"""The head-to-head benchmark without any peer: programs parse, the table comes from JSON alone, figures add up."""

from __future__ import annotations

import ast
import copy
import json
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from headtohead.collected import best_peer, collect, our_int8
from headtohead.goals import goals
from headtohead.imbalanced import imbalance
from headtohead.judging import expected_drop
from headtohead.rendered import render
from headtohead.tools import TOOLS
from onnx import numpy_helper

from mlopt.precision.expected import Exact
from mlopt.runners.onnxruntime import OnnxRuntimeRunner

ROOT = Path(__file__).resolve().parents[1]
PEERS = sorted(path for path in (ROOT / "benchmarks" / "peers").glob("*.py") if path.stem != "given")


def interval(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "method": "made up"}


def row(tool: str, variant: str, *, drop: float, speedup: float | None, **more: Any) -> dict[str, Any]:
    return {
        "name": f"{tool}.{variant}", "tool": tool, "variant": variant, "runtime": "onnxruntime", "samples": 828,
        "seconds": 10.0, "peak_memory": 5e8, "bytes": 500_000, "sqnr": 26.0, "agreement": interval(0.9, 0.88, 0.92),
        "drop": interval(drop, drop - 0.01, drop + 0.01), "precision": "int8",
        "speedup": interval(speedup, speedup - 0.1, speedup + 0.1) if speedup else None, **more,
    }  # fmt: skip


@pytest.fixture
def facts() -> dict[str, Any]:
    model = {
        "taken": "2026-11-26", "machine": "a machine", "trained": True, "attention": False, "flatters": "",
        "calibration": 128, "evaluation": 828, "best_peer": "ort.min-max",
        "int8": "mlopt.ships", "int8_against_best_peer": interval(0.002, -0.01, 0.014),
        "openvino": {"original": interval(1.1, 1.0, 1.2)},
        "beside_ships": {"ort.min-max": interval(1.01, 0.98, 1.04), "openvino: original": interval(0.5, 0.4, 0.6)},
        "latency": {"rounds": 15, "threads": 1, "load": [0.2, 1.1], "failures": {}, "again": interval(1, 0.99, 1.01)},
        "rows": [
            row("mlopt", "ships", drop=0.001, speedup=2.0, chosen="int8-static", measuring=20.0),
            row("mlopt", "budget", drop=0.004, speedup=2.0, chosen="int8-mixed", measuring=20.0),
            row("ort", "min-max", drop=-0.001, speedup=2.01),
            row("nncf_onnx", "accuracy-control", drop=0.02, speedup=None, evaluations=12, seconds=60.0),
            {"name": "modelopt_onnx.max", "tool": "modelopt_onnx", "variant": "max", "failure": "a | b\nc",
             "samples": None, "drop": None, "agreement": None, "sqnr": None, "speedup": None},
        ],
    }  # fmt: skip
    return {
        "schema": 1, "command": "python benchmarks/head_to_head.py", "machine": "a machine", "max_drop": 0.01,
        "versions": {"ort": {"onnxruntime": "1.31.1"}}, "skipped": {"Olive": "it does not install"},
        "models": {"net": model},
    }  # fmt: skip


@pytest.mark.parametrize("program", PEERS, ids=lambda path: path.stem)
def test_each_peer_is_a_program_that_parses_with_a_requirements_file(program: Path) -> None:
    tree = ast.parse(program.read_text())
    assert any(isinstance(node, ast.FunctionDef) and node.name == "quantise" for node in tree.body)
    pinned = [line for line in program.with_suffix(".txt").read_text().splitlines() if "==" in line]
    assert pinned, "a peer's version is part of its result"
    assert program.stem in TOOLS


def test_plain_torch_is_nowhere_required() -> None:
    for requirements in (ROOT / "benchmarks" / "peers").glob("*.txt"):
        asked = [line for line in requirements.read_text().splitlines() if line.startswith("torch")]
        assert all("==" in line for line in asked), requirements


def test_the_table_is_made_from_json_alone(facts: dict[str, Any]) -> None:
    text = render(json.loads(json.dumps(facts)))
    assert "| **mlopt** | ships (int8-static) | +0.10 [-0.9, +1.1] | 26.0 dB | 0.50 MB | 2.00× [1.90, 2.10] |" in text
    assert "failed: a / b c" in text
    assert "12 evaluations" in text
    assert "* Olive: it does not install" in text
    assert "| OpenVINO runs | original |" in text
    columns = {line.count("|") for line in text.partition("## net")[2].splitlines() if line.startswith("|")}
    assert columns == {9}


def test_a_model_that_this_machine_has_nothing_of_stays_as_it_was_published(
    facts: dict[str, Any], tmp_path: Path
) -> None:
    before = facts | {"models": {"resnet8": facts["models"]["net"]}}
    both = collect(tmp_path, before)
    assert both["models"] == before["models"]
    assert both["versions"] == before["versions"]
    assert "resnet8" not in both["skipped"]
    assert both["skipped"]["resnet20"] == "not run yet"


def test_a_goal_is_reached_only_by_its_figures(facts: dict[str, Any]) -> None:
    found = {goal.line: goal.reached for goal in goals(facts)}
    assert found["int8 loses no more than the best peer on any model (paired)"] is True
    assert found["worst drop of int8 ≤ 1.0 point, median ≤ 0.2"] is True
    assert found["wall time to a budget ≤ 2/3 of NNCF's accuracy control"] is True
    assert found["resnet50-shape ≥ 3.8× and SQNR ≥ 25 dB"] is None
    behind = "never behind the fastest peer that keeps accuracy (1 point, or 25 dB) by more than 3 %"
    assert found[behind] is True
    unsampled = "no calibration data: ≥ 1.6× CNN, ≥ 1.9× transformer"
    assert found[unsampled] is None
    worse = copy.deepcopy(facts)
    model = worse["models"]["net"]
    model["rows"].append(row("mlopt", "no-samples", drop=0.0, speedup=1.7, chosen="fp16"))
    assert {goal.line: goal.reached for goal in goals(worse)}[unsampled] is None, "there is no transformer"
    transformer = worse["models"]["transformer"] = copy.deepcopy(model) | {"attention": True}
    assert {goal.line: goal.reached for goal in goals(worse)}[unsampled] is False
    transformer["rows"][-1]["speedup"] = interval(2.0, 1.9, 2.1)
    assert {goal.line: goal.reached for goal in goals(worse)}[unsampled] is True
    del worse["models"]["transformer"]
    model["int8_against_best_peer"] = interval(0.03, 0.01, 0.05)
    model["rows"][0] |= {"drop": interval(0.02, 0.0, 0.04), "speedup": interval(0.9, 0.85, 0.95)}
    model["rows"][3]["seconds"] = 12.0
    model["beside_ships"]["openvino: ort.min-max"] = interval(1.2, 1.1, 1.3)
    found = {goal.line: goal.reached for goal in goals(worse)}
    assert found["int8 loses no more than the best peer on any model (paired)"] is False
    assert found["worst drop of int8 ≤ 1.0 point, median ≤ 0.2"] is False
    assert found["wall time to a budget ≤ 2/3 of NNCF's accuracy control"] is False
    assert found["variants chosen that are slower than their baseline: 0"] is False
    assert found[behind] is False
    told = next(goal.found for goal in goals(worse) if goal.line == behind)
    assert told == "in a run of those alone: net 0.83 [0.77, 0.91] of ort.min-max in OpenVINO"
    model["rows"][2]["drop"] = interval(0.03, 0.01, 0.05)
    assert {goal.line: goal.reached for goal in goals(worse)}[behind] is True, "a peer that loses answers is no rival"


@pytest.mark.torch
@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ("resnet50", 25_557_032),
        ("mobilenet_v2", 3_504_872),
        ("mobilenet_v3_large", 5_483_032),
        ("efficientnet_b0", 5_288_548),
        ("vit_small", 22_050_664),
        ("deit_tiny", 5_717_416),
    ],
)
def test_a_shape_has_the_published_number_of_parameters(shape: str, parameters: int) -> None:
    from headtohead.shapes import BUILDERS

    assert sum(one.numel() for one in BUILDERS[shape]().parameters()) == parameters


def test_imbalance_changes_channels_and_not_the_function(tmp_path: Path) -> None:
    source = nets.save(nets.conv_net(), tmp_path / "model.onnx")
    assert imbalance(source, tmp_path / "imbalanced.onnx") == 1
    feeds = {"image": np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)}
    answers, weights = [], []
    for path in (source, tmp_path / "imbalanced.onnx"):
        with OnnxRuntimeRunner(path, threads=1) as runner:
            answers.append(runner.infer(feeds)[0])
        model = onnx.load(path)
        first = next(numpy_helper.to_array(one) for one in model.graph.initializer if one.name == "w1")
        weights.append(np.abs(first).max(axis=(1, 2, 3)))
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-4, atol=1e-4)
    assert np.ptp(np.log2(weights[1])) > np.ptp(np.log2(weights[0])) + 2


def test_the_best_peer_loses_least_and_our_int8_is_int8(facts: dict[str, Any]) -> None:
    rows = facts["models"]["net"]["rows"]
    best = best_peer(rows)
    assert best is not None
    assert best["name"] == "ort.min-max"
    rows[2] |= {"sqnr": None}  # back to floating point everywhere: no int8 to compare with
    best = best_peer(rows)
    assert best is not None
    assert best["name"] == "nncf_onnx.accuracy-control"
    rows[0] |= {"precision": "fp32"}  # the original ships: then the small candidate counts, not the one of a few nodes
    rows += [row("mlopt", "int8-static", drop=0.01, speedup=1.0), row("mlopt", "few", drop=0, speedup=1, bytes=900_000)]
    rows.remove(rows[1])
    int8 = our_int8(rows, 1_100_000)
    assert int8 is not None
    assert int8["name"] == "mlopt.int8-static"


def test_what_is_published_is_what_its_json_says() -> None:
    published = ROOT / "reports" / "published" / "head-to-head.json"
    if not published.is_file():
        pytest.skip("nothing is published yet")
    assert published.with_suffix(".md").read_text() == render(json.loads(published.read_text()))


def test_a_drop_by_chances_is_the_one_that_many_samples_count_and_much_surer() -> None:
    generator = np.random.default_rng(2)

    def drawn(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scores = 1.5 * generator.standard_normal((count, 20))
        powers = np.cumsum(np.exp(scores), axis=1)
        labels = (powers < generator.uniform(size=(count, 1)) * powers[:, -1:]).sum(axis=1)
        return scores, scores + 0.5 * generator.standard_normal(scores.shape), labels

    scores, noisy, labels = drawn(200_000)
    truth = float(((scores.argmax(axis=1) == labels).mean()) - (noisy.argmax(axis=1) == labels).mean())
    seen, said, counted = [], [], []
    for _ in range(100):
        scores, noisy, labels = drawn(500)
        exact = Exact.of(scores, labels, most=500)
        assert exact
        found = expected_drop(exact, noisy)
        seen.append(found["value"])
        said.append(found["error"])
        counted.append((scores.argmax(axis=1) == labels).mean() - (noisy.argmax(axis=1) == labels).mean())
    assert np.mean(seen) == pytest.approx(truth, abs=0.003)
    assert np.std(seen) < 0.5 * np.std(counted)
    assert np.mean(said) == pytest.approx(np.std(seen), rel=0.35)
