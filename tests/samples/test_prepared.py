"""Samples are decoded once, come back as they were, and never fill a disk or the memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from nets import conv_net
from PIL import Image

from mlopt.samples.open import Asked, open_samples
from mlopt.samples.prepared import PreparedOnce
from mlopt.samples.sources import ImageFiles
from mlopt.signature import signature_of

BYTES = 4 * 3 * 32 * 32


@pytest.fixture
def images(tmp_path: Path) -> ImageFiles:
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    opened = open_samples(Asked(str(tmp_path)), signature_of(conv_net())).source
    assert isinstance(opened, PreparedOnce)
    assert isinstance(opened.source, ImageFiles)
    return opened.source


def test_each_is_decoded_once_and_stays_what_it_was(images: ImageFiles) -> None:
    truth = [images.load(index)["image"] for index in range(6)]
    kept = PreparedOnce(images)
    first = [kept.load(index)["image"] for index in range(6)]
    contents = [kept.content(index) for index in range(6)]
    for file in images.files:
        file.unlink()  # nobody reads them again
    again = [kept.load(index)["image"] for index in (5, 4, 3, 2, 1, 0)][::-1]
    assert np.array_equal(truth, first)
    assert np.array_equal(truth, again)
    assert [kept.content(index) for index in range(6)] == contents


def test_past_the_bound_they_are_prepared_anew(images: ImageFiles) -> None:
    kept = PreparedOnce(images, 2 * BYTES)
    truth = [kept.load(index)["image"] for index in range(6)]
    assert os.fstat(kept._file.fileno()).st_size == 2 * BYTES
    assert np.array_equal(truth, [kept.load(index)["image"] for index in range(6)])
    for file in images.files[:2]:
        file.unlink()
    assert np.array_equal(truth, [kept.load(index)["image"] for index in range(6)])


def test_a_full_disk_ends_the_keeping_and_nothing_else(images: ImageFiles) -> None:
    kept = PreparedOnce(images)
    kept._file = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115 - as the file it stands in for
    truth = [images.load(index)["image"] for index in range(6)]
    assert np.array_equal(truth, [kept.load(index)["image"] for index in range(6)])
    assert np.array_equal(truth, [kept.load(index)["image"] for index in range(6)])


def test_arrays_that_lie_ready_are_not_copied(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).standard_normal((8, 3, 32, 32)).astype(np.float32))
    split = open_samples(Asked(str(tmp_path / "x.npz")), signature_of(conv_net()))
    list(split.evaluation.feeds(batch=2))
    assert isinstance(split.source, PreparedOnce)
    assert os.fstat(split.source._file.fileno()).st_size == 0
