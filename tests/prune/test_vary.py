"""Pictures varied for training: the same picture seen otherwise, and nothing else touched."""

from __future__ import annotations

import numpy as np
import pytest

from mlopt.prune.vary import varied


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pictures(*shape: int) -> np.ndarray:
    return seeded(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(8, 3, 32, 24), (8, 32, 24, 3), (8, 1, 28, 28)])
def test_pictures_keep_their_shape_and_type_and_change(shape: tuple[int, ...]) -> None:
    before = pictures(*shape)
    for seed in range(4):
        after = varied({"image": before}, seeded(seed)).feed["image"]
        assert after.shape == before.shape
        assert after.dtype == np.float32
        assert not np.array_equal(after, before)


def test_both_layouts_are_varied_alike() -> None:
    channels_first = pictures(6, 3, 32, 32)
    for seed in range(4):
        first = varied({"image": channels_first}, seeded(seed)).feed["image"]
        last = varied({"image": channels_first.transpose(0, 2, 3, 1)}, seeded(seed)).feed["image"]
        assert np.array_equal(first, last.transpose(0, 3, 1, 2))


def test_each_picture_is_a_piece_of_its_own_turned_over_or_not_and_half_of_the_batches_are_mixed() -> None:
    # Pictures of one colour: moving and turning leaves them, mixing gives a colour in between.
    plain = np.arange(8, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 32, 32), np.float32)
    mixed = 0
    for seed in range(200):
        after = varied({"image": plain}, seeded(seed)).feed["image"]
        assert (after == after[:, :1, :1, :1]).all()
        mixed += not np.array_equal(after, plain)
        assert after.min() >= 0
        assert after.max() <= 7
    assert 70 <= mixed <= 130
    # A ramp from left to right: it falls instead where the picture was turned over, and starts elsewhere.
    ramp = np.broadcast_to(np.arange(64, dtype=np.float32), (32, 1, 64, 64))
    unmixed = [after for seed in range(10) if is_ramp(after := varied({"x": ramp}, seeded(seed)).feed["x"])]
    assert unmixed
    inner = unmixed[0][:, 0, 32, 20:44]
    assert {float(np.sign(row[-1] - row[0])) for row in inner} == {-1.0, 1.0}
    assert len({float(row[0]) for row in inner}) > 8


def is_ramp(values: np.ndarray) -> bool:
    return bool((np.abs(np.diff(values[:, 0, 32, 20:44], axis=1)) == 1).all())


@pytest.mark.parametrize(
    "feed",
    [
        {"tokens": np.zeros((4, 3, 32, 32), np.int64)},
        {"row": np.ones((4, 12), np.float32)},
        {"features": np.ones((4, 7, 32, 32), np.float32)},
        {"small": np.ones((4, 3, 8, 8), np.float32)},
        {"image": pictures(4, 3, 32, 32), "mask": np.ones((4, 10), np.float32)},
    ],
)
def test_what_is_no_picture_stays(feed: dict[str, np.ndarray]) -> None:
    after = varied(feed, seeded()).feed
    assert after.keys() == feed.keys()
    assert all(np.array_equal(after[name], feed[name]) for name in feed)


def test_pictures_that_belong_together_are_varied_alike() -> None:
    one = pictures(5, 3, 32, 32)
    after = varied({"left": one, "right": 2 * one}, seeded(3)).feed
    assert np.allclose(2 * after["left"], after["right"])


def test_what_was_mixed_with_what_is_told() -> None:
    colours = np.arange(8, dtype=np.float32)
    plain = colours[:, None, None, None] * np.ones((1, 3, 32, 32), np.float32)
    for seed in range(40):
        found = varied({"image": plain}, seeded(seed))
        assert (found.partner is None) == (found.kept == 1)
        other = colours if found.partner is None else colours[found.partner]
        assert np.allclose(found.feed["image"][:, 0, 0, 0], found.kept * colours + (1 - found.kept) * other, atol=1e-5)
