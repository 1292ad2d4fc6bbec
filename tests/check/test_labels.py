"""Labels that have nothing to do with the answers judge nothing, and are refused before anything is built."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mlopt.artifact import OUTCOMES, Artifact, Digest
from mlopt.check.labels import check_labels
from mlopt.errors import LabelsMismatch

CLASSES = 20
TRUTH = np.random.default_rng(1).integers(0, CLASSES, 300)


def outcomes(tmp_path_factory: pytest.TempPathFactory, best: np.ndarray, classes: int = CLASSES) -> Artifact:
    folder = tmp_path_factory.mktemp("outcomes")
    np.save(folder / "0.npy", np.eye(classes, dtype=np.float32)[best])
    (folder / "outcomes.json").write_text(f'{{"outputs": ["scores"], "samples": {len(best)}}}')
    return Artifact(OUTCOMES, Digest("0"), folder)


def guesses(right: float, seed: int = 2) -> np.ndarray:
    """The truth on a share of the samples, any class on the others."""
    generator = np.random.default_rng(seed)
    return np.where(generator.random(len(TRUTH)) < right, TRUTH, generator.integers(0, CLASSES, len(TRUTH)))


@pytest.mark.parametrize("right", [0.3, 0.6, 1.0])
def test_a_model_that_knows_something_is_judged(tmp_path_factory: pytest.TempPathFactory, right: float) -> None:
    check_labels(outcomes(tmp_path_factory, guesses(right)), TRUTH, offset=0, where="x")


def test_guesses_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(LabelsMismatch, match="right by chance") as caught:
        check_labels(outcomes(tmp_path_factory, guesses(0.0)), TRUTH, offset=0, where="x")
    assert "labels = false" in caught.value.next


@pytest.mark.parametrize(("shift", "offset", "said"), [(1, 0, 1), (-1, 0, -1), (-1, 1, 0)])
def test_an_offset_that_fits_is_named(
    tmp_path_factory: pytest.TempPathFactory, shift: int, offset: int, said: int
) -> None:
    answered = outcomes(tmp_path_factory, guesses(0.7) + max(0, shift), CLASSES + 1)
    labels = TRUTH + max(0, -shift)
    with pytest.raises(LabelsMismatch, match=re.escape(f"with every label {shift:+d} it is right on 7")) as caught:
        check_labels(answered, labels, offset=offset, where="x")
    assert caught.value.next == f"say label-offset = {said} under [samples] in mlopt.toml"


def test_a_few_wrong_answers_prove_no_mismatch(tmp_path_factory: pytest.TempPathFactory) -> None:
    few = slice(0, 8)
    check_labels(outcomes(tmp_path_factory, (TRUTH[few] + 3) % CLASSES), TRUTH[few], offset=0, where="x")


def test_one_class_only_proves_no_mismatch(tmp_path_factory: pytest.TempPathFactory) -> None:
    ones = np.ones(300, dtype=np.int64)
    check_labels(outcomes(tmp_path_factory, ones), ones, offset=0, where="x")
