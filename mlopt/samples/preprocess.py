"""How a picture becomes this model's tensor: as mlopt.toml declares, or assumed from the input's shape and said so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlopt.errors import ConfigInvalid, SamplesInvalid

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from mlopt.project import PreprocessSpec
    from mlopt.serve.preprocess import Preprocess
    from mlopt.signature import Tensor

# What the usual training scripts do to a picture's 0..255 values.
PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "torchvision": {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "keras-tf": {"scale": 1 / 127.5, "mean": (1.0,), "std": (1.0,)},
    "unit": {"scale": 1 / 255},
    "raw": {"scale": 1.0},
}
_FIELDS: Final = ("resize", "crop", "layout", "channels", "scale", "mean", "std", "dtype", "rotate")
# Classifiers are evaluated on the middle 87.5 % of a picture; icons and digits are used whole.
_CROPPED_FROM: Final = 128
_MIDDLE: Final = 0.875


@dataclass(frozen=True, slots=True)
class Preparation:
    """The server's own preprocessing, bound to the size that the model's input has (None: any size)."""

    spec: Preprocess
    size: tuple[int, int] | None

    def apply(self, image: Image) -> np.ndarray:
        return self.spec.apply(image, size=self.size)

    def as_json(self) -> dict[str, Any]:
        return self.spec.as_json()


def settle(said: PreprocessSpec | None, tensor: Tensor) -> Preparation:
    """What was declared, completed from the input's shape and dtype, so that nothing is left to guess.

    Without a declaration: float [N,3,H,W] is prepared as torchvision's classifiers are, float [N,H,W,3] as
    Keras' (-1..1), one channel to 0..1, integers stay raw; inputs of 128 pixels and more see the middle of
    a picture, smaller ones all of it. Raises `ConfigInvalid` for a declaration that contradicts itself.
    """
    from mlopt.serve.preprocess import preprocess_from_json

    layout, size, channels = _geometry(tensor)
    values: dict[str, Any] = {
        "layout": layout,
        "channels": "L" if channels == 1 else "RGB",
        "dtype": tensor.dtype,
        **PRESETS[(said.preset if said else None) or _usual(layout, channels, tensor.dtype)],
    }
    declared = {key: getattr(said, key) for key in _FIELDS if said and getattr(said, key) not in (None, ())}
    if size and min(size) >= _CROPPED_FROM and not {"resize", "crop"} & declared.keys():
        values |= {"resize": round(min(size) / _MIDDLE), "crop": size}
    try:
        return Preparation(preprocess_from_json(values | declared), size)
    except ValueError as error:
        raise ConfigInvalid(f"[preprocess] cannot be used: {error}.", where="mlopt.toml", next="correct it") from error


def _geometry(tensor: Tensor) -> tuple[str, tuple[int, int] | None, int]:
    shape = tensor.shape
    if len(shape) == 4 and shape[1] in (1, 3):
        layout, (height, width), channels = "NCHW", shape[2:], shape[1]
    elif len(shape) == 4 and shape[3] in (1, 3):
        layout, (height, width), channels = "NHWC", shape[1:3], shape[3]
    else:
        raise SamplesInvalid(
            f"Input {tensor.name!r} of shape {list(shape)} does not look like an image with 1 or 3 channels.",
            next="give an .npz with arrays of that shape, or a pkg.mod:callable",
        )
    fixed = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return layout, fixed, int(channels)


def _usual(layout: str, channels: int, dtype: str) -> str:
    if not dtype.startswith("float"):
        return "raw"
    if channels == 1:
        return "unit"
    return "torchvision" if layout == "NCHW" else "keras-tf"
