"""The declared arithmetic, against an independent statement of it in numpy and against odd pictures."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mlopt.serve.preprocess import Preprocess, preprocess_from_json

IMAGENET = Preprocess(resize=256, crop=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def picture(width: int, height: int, *, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_imagenet_preprocessing_is_torchvisions() -> None:
    image = picture(300, 256)
    pixels = np.asarray(image, np.float64)[16:240, 38:262]
    wanted = ((pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
    made = IMAGENET.apply(image)
    assert made.shape == (3, 224, 224)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, wanted, atol=1e-5)


def test_odd_margins_are_cut_as_torchvision_cuts_them() -> None:
    made = Preprocess(crop=(2, 2), scale=1.0, layout="NHWC").apply(picture(5, 3))
    np.testing.assert_array_equal(made, np.asarray(picture(5, 3), np.float32)[0:2, 2:4])


@pytest.mark.parametrize(("turn", "flipped"), [(180, (slice(None, None, -1), slice(None, None, -1)))])
def test_rotation_turns_after_normalising(turn: int, flipped: tuple[slice, slice]) -> None:
    image = picture(8, 6)
    plain = Preprocess(scale=1.0, layout="NHWC", mean=(1.0, 2.0, 3.0)).apply(image)
    turned = preprocess_from_json({"scale": 1.0, "layout": "NHWC", "mean": [1.0, 2.0, 3.0], "rotate": turn})
    np.testing.assert_array_equal(turned.apply(image), plain[flipped])


def test_channel_order_layout_and_type() -> None:
    image = picture(6, 4)
    raw = np.asarray(image)
    np.testing.assert_array_equal(Preprocess(scale=1, layout="NHWC", channels="BGR").apply(image), raw[:, :, ::-1])
    grey = Preprocess(scale=1, channels="L").apply(image)
    assert grey.shape == (1, 4, 6)
    shifted = Preprocess(scale=1, mean=(128.0,), dtype="int8", layout="NHWC").apply(image)
    assert shifted.dtype == np.int8
    np.testing.assert_array_equal(shifted, (raw.astype(int) - 128).astype(np.int8))
    clipped = Preprocess(scale=2, dtype="uint8", layout="NHWC").apply(image)
    np.testing.assert_array_equal(clipped, np.clip(raw.astype(int) * 2, 0, 255).astype(np.uint8))


def test_size_of_the_model_counts_only_without_crop() -> None:
    assert Preprocess().apply(picture(50, 40), size=(32, 16)).shape == (3, 32, 16)
    assert IMAGENET.apply(picture(50, 40), size=(32, 16)).shape == (3, 224, 224)
    assert Preprocess(resize=20).apply(picture(50, 40)).shape == (3, 20, 25)


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3), (223, 225), (10, 300)])
def test_any_shape_of_picture_covers_the_crop(size: tuple[int, int]) -> None:
    assert Preprocess(crop=(224, 200)).apply(picture(*size)).shape == (3, 224, 200)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16", "LA"])
def test_any_mode_of_picture_is_converted(mode: str) -> None:
    image = Image.new(mode, (30, 20))
    assert Preprocess().apply(image).shape == (3, 20, 30)


def test_camera_orientation_is_honoured() -> None:
    image = picture(30, 20)
    image.getexif()[0x0112] = 6
    assert Preprocess().apply(image).shape == (3, 30, 20)


def test_a_thin_picture_does_not_fill_the_memory() -> None:
    with pytest.raises(ValueError, match="would grow"):
        IMAGENET.apply(Image.new("RGB", (1, 60000)))


def test_json_goes_round() -> None:
    assert preprocess_from_json(IMAGENET.as_json()) == IMAGENET
    assert preprocess_from_json({}) == Preprocess()


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"colour": "RGB"}, "colour"),
        ({"layout": "CHW"}, "layout"),
        ({"channels": "YUV"}, "channels"),
        ({"dtype": "float16"}, "dtype"),
        ({"rotate": 45}, "rotate"),
        ({"resize": 0}, "resize"),
        ({"resize": True}, "resize"),
        ({"crop": [224]}, "crop"),
        ({"crop": [224, "224"]}, "crop"),
        ({"mean": [1, 2]}, "mean"),
        ({"std": [1, 0, 1]}, "std"),
        ({"mean": 3}, "wrong type"),
    ],
)
def test_a_wrong_field_is_named(spec: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        preprocess_from_json(spec)


def test_importing_it_is_cheap() -> None:
    program = "import sys, mlopt.serve.preprocess; sys.exit('numpy' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
