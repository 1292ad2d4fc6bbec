"""From a picture to a model's input: the one piece of code for calibration, evaluation and serving.

Importing this file loads neither numpy nor Pillow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Layout = Literal["NCHW", "NHWC"]
Channels = Literal["RGB", "BGR", "L"]
PixelType = Literal["float32", "uint8", "int8"]

_LAYOUTS: Final = ("NCHW", "NHWC")
_CHANNELS: Final = ("RGB", "BGR", "L")
_TYPES: Final = ("float32", "uint8", "int8")
_TURNS: Final = (0, 90, 180, 270)
_LARGEST: Final = 64_000_000


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a picture becomes one sample of a model's input. Built by `preprocess_from_json` or by field.

    In this order: convert to `channels`; scale the short side to `resize` pixels (bilinear); cut `crop`
    = (height, width) from the middle; multiply raw 0..255 values by `scale`; subtract `mean`, divide by
    `std` (per channel, in the order of `channels`; empty means neither); turn the picture by `rotate`
    degrees counter-clockwise; lay out; cast to `dtype` (integers are rounded and clipped).
    """

    resize: int | None = None
    crop: tuple[int, int] | None = None
    layout: Layout = "NCHW"
    channels: Channels = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    dtype: PixelType = "float32"
    rotate: Literal[0, 90, 180, 270] = 0

    def __post_init__(self) -> None:
        _check(self)

    def apply(self, image: Image.Image, *, size: tuple[int, int] | None = None) -> np.ndarray:
        """One sample without batch dimension: [C, H, W] or [H, W, C].

        `size` = (height, width) is what a model of fixed shape takes; it counts only where `crop` is not
        given: the picture is then stretched to it. A picture smaller than `crop` is enlarged to cover it.
        Orientation noted by a camera (EXIF) is honoured. Raises `ValueError` for a picture that would
        grow beyond 64 million pixels.
        """
        return _array(_fitted(_converted(image, self.channels), self, size), self)

    def as_json(self) -> dict[str, Any]:
        """The form in `serving.json`: every field, tuples as lists."""
        plain = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


def preprocess_from_json(spec: Mapping[str, Any]) -> Preprocess:
    """The reverse of `as_json`. Fields may be absent. Raises `ValueError` that names the wrong field."""
    known = {field.name for field in dataclasses.fields(Preprocess)}
    if strange := sorted(set(spec) - known):
        raise ValueError(f"preprocess has no field {strange[0]!r}; it has {', '.join(sorted(known))}")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in spec.items()}
    try:
        return Preprocess(**values)
    except TypeError as error:
        raise ValueError(f"preprocess holds a value of the wrong type: {error}") from error


def _check(spec: Preprocess) -> None:
    if spec.layout not in _LAYOUTS:
        raise ValueError(f"layout is {spec.layout!r}; it must be one of {', '.join(_LAYOUTS)}")
    if spec.channels not in _CHANNELS:
        raise ValueError(f"channels is {spec.channels!r}; it must be one of {', '.join(_CHANNELS)}")
    if spec.dtype not in _TYPES:
        raise ValueError(f"dtype is {spec.dtype!r}; it must be one of {', '.join(_TYPES)}")
    if spec.rotate not in _TURNS:
        raise ValueError(f"rotate is {spec.rotate!r}; it must be one of 0, 90, 180, 270")
    if spec.resize is not None and not _is_length(spec.resize):
        raise ValueError(f"resize is {spec.resize!r}; it must be a number of pixels from 1 to 16384, or absent")
    if spec.crop is not None and not (len(spec.crop) == 2 and all(map(_is_length, spec.crop))):
        raise ValueError(f"crop is {spec.crop!r}; it must be [height, width], each from 1 to 16384, or absent")
    count = 1 if spec.channels == "L" else 3
    for name, values in (("mean", spec.mean), ("std", spec.std)):
        if len(values) not in (0, 1, count):
            raise ValueError(f"{name} has {len(values)} values; {spec.channels} needs {count}, 1 or none")
    if any(not value for value in spec.std):
        raise ValueError("std holds a zero; the picture is divided by it")


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 16384


def _converted(image: Image.Image, channels: Channels) -> Image.Image:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    mode = "L" if channels == "L" else "RGB"
    return upright if upright.mode == mode else upright.convert(mode)


def _fitted(image: Image.Image, spec: Preprocess, size: tuple[int, int] | None) -> Image.Image:
    """Scaled and cut. The long side is truncated, the crop centred by rounding: what torchvision does."""
    from PIL import Image

    if spec.crop is None and size is not None:
        return image if image.size == size[::-1] else image.resize(size[::-1], Image.Resampling.BILINEAR)
    short = spec.resize or min(image.size)
    scaled = _scaled_size(image.size, short)
    if spec.crop is not None and (scaled[1] < spec.crop[0] or scaled[0] < spec.crop[1]):
        cover = max(spec.crop[0] / image.height, spec.crop[1] / image.width)
        scaled = (
            max(spec.crop[1], round(image.width * cover)),
            max(spec.crop[0], round(image.height * cover)),
        )
    if scaled != image.size:
        if scaled[0] * scaled[1] > _LARGEST:
            raise ValueError(f"a picture of {image.width} x {image.height} would grow to {scaled[0]} x {scaled[1]}")
        image = image.resize(scaled, Image.Resampling.BILINEAR)
    if spec.crop is None:
        return image
    height, width = spec.crop
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


def _scaled_size(size: tuple[int, int], short: int) -> tuple[int, int]:
    width, height = size
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short


def _array(image: Image.Image, spec: Preprocess) -> np.ndarray:
    import numpy as np

    pixels: np.ndarray = np.asarray(image, dtype=np.float32)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if spec.channels == "BGR":
        pixels = pixels[:, :, ::-1]
    pixels = pixels * np.float32(spec.scale)
    if spec.mean:
        pixels = pixels - np.asarray(spec.mean, dtype=np.float32)
    if spec.std:
        pixels = pixels / np.asarray(spec.std, dtype=np.float32)
    pixels = np.rot90(pixels, spec.rotate // 90)
    if spec.layout == "NCHW":
        pixels = pixels.transpose(2, 0, 1)
    if spec.dtype != "float32":
        limits = np.iinfo(spec.dtype)
        pixels = np.clip(np.rint(pixels), limits.min, limits.max)
    return np.ascontiguousarray(pixels, dtype=spec.dtype)
