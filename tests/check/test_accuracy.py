"""Accuracy: paired, with intervals that really cover."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mlopt.artifact import OUTCOMES, Artifact, Digest
from mlopt.check.accuracy import compare


def outcomes(folder: Path, *outputs: np.ndarray) -> Artifact:
    folder.mkdir()
    for position, array in enumerate(outputs):
        np.save(folder / f"{position}.npy", array.astype(np.float32))
    names = [f"out{position}" for position in range(len(outputs))]
    (folder / "outcomes.json").write_text(json.dumps({"outputs": names, "samples": len(outputs[0])}))
    return Artifact(OUTCOMES, Digest("0"), folder)


def one_hot(answers: list[int], classes: int = 4) -> np.ndarray:
    return np.eye(classes)[answers]


def test_counts_are_paired_per_sample(tmp_path: Path) -> None:
    truth = np.array([0, 1, 2, 3, 0, 1])
    baseline = outcomes(tmp_path / "b", one_hot([0, 1, 2, 3, 1, 1]))  # 5 right
    candidate = outcomes(tmp_path / "c", one_hot([0, 1, 3, 0, 0, 1]))  # 4 right: lost two, won one
    found = compare(baseline, candidate, labels=truth, generated=False, device="d", grade="measured")
    assert found.baseline_top1 == 5 / 6
    assert found.top1 == 4 / 6
    assert found.drop is not None
    assert found.drop.value == pytest.approx(1 / 6)
    assert found.drop.low < found.drop.value < found.drop.high
    assert found.agreement is not None
    assert found.agreement.value == 3 / 6


def test_same_answers_are_not_proof_of_no_drop(tmp_path: Path) -> None:
    answers = one_hot([0, 1, 2, 3] * 25)
    truth = np.array([0, 1, 2, 3] * 25)
    same = compare(
        outcomes(tmp_path / "b", answers), outcomes(tmp_path / "c", answers),
        labels=truth, generated=False, device="d", grade="measured",
    )  # fmt: skip
    assert same.drop is not None
    assert same.drop.value == 0
    assert 0.01 < same.drop.high < 0.04, "100 equal samples cannot prove less than about 3 points"
    assert same.sqnr == math.inf
    assert same.cosine == pytest.approx(1.0)


def test_sqnr_is_the_definition(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    clean = generator.standard_normal((700, 5, 3))
    noisy = clean + 0.1 * generator.standard_normal(clean.shape)
    found = compare(
        outcomes(tmp_path / "b", clean), outcomes(tmp_path / "c", noisy),
        labels=None, generated=False, device="d", grade="measured",
    )  # fmt: skip
    expected = 10 * np.log10((clean**2).sum() / ((clean - noisy) ** 2).sum())
    assert found.sqnr == pytest.approx(expected, abs=1e-3)
    assert found.agreement is None, "not a classifier"
    assert found.drop is None


def test_worst_output_counts(tmp_path: Path) -> None:
    good = np.ones((10, 3))
    bad = np.tile([1.0, 0, 0], (10, 1))
    found = compare(
        outcomes(tmp_path / "b", good, good), outcomes(tmp_path / "c", good, bad),
        labels=None, generated=False, device="d", grade="measured",
    )  # fmt: skip
    assert found.cosine == pytest.approx(1 / math.sqrt(3))


def test_nan_in_a_candidate_is_no_agreement(tmp_path: Path) -> None:
    good = np.ones((4, 3))
    broken = good.copy()
    broken[2, 1] = np.nan
    found = compare(
        outcomes(tmp_path / "b", good), outcomes(tmp_path / "c", broken),
        labels=None, generated=False, device="d", grade="measured",
    )  # fmt: skip
    assert found.sqnr == -math.inf
    assert not found.cosine >= 0.99
