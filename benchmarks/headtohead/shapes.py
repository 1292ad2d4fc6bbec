"""Well-known graphs in our own words, with random weights: for speed and quantisation noise, not for accuracy.

Statistics of batch normalisation are taken again on made-up pictures (blobs, edges, a little noise), so that
activations have the scale that training would have given them. What a block adds to its input is a fifth of it, as in
trained nets, where it starts at nothing (Goyal et al. 2017, arXiv:1706.02677, 5.1): with branches as large as what they
are added to, every block makes the noise of those before it larger, and no precision holds such a net.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from headtohead.shapes_attention import Bert, Vit

if TYPE_CHECKING:
    import numpy as np

SAMPLES: Final = 64
_SEED: Final = 7
_OPSET: Final = 18
_SIDE: Final = 224
_BRANCH: Final = 0.2
_VOCABULARY, _LENGTH = 30522, 128


def export(shape: str, into: Path) -> dict[str, np.ndarray]:
    """Write the graph of that name to `into`; returns its samples by input name."""
    import onnx

    torch.manual_seed(_SEED)
    model: nn.Module = BUILDERS[shape]()
    inputs = _tokens() if shape.startswith("bert") else {"image": _pictures()}
    _normalise_statistics(model, inputs)
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        model,
        tuple(value[:2] for value in inputs.values()),
        into,
        input_names=list(inputs),
        output_names=["output"],
        dynamic_shapes=tuple({0: batch} for _ in inputs),
        opset_version=_OPSET,
        external_data=False,
        dynamo=True,
        verbose=False,
    )
    proto = onnx.load(into)
    del proto.graph.value_info[:]  # shapes of the example, which some quantisers take for the truth
    onnx.save(proto, into)
    return {name: value.numpy() for name, value in inputs.items()}


def _normalise_statistics(model: nn.Module, inputs: dict[str, Tensor]) -> None:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain average over what it sees
    if norms:
        model.train()
        with torch.no_grad():
            for start in range(0, 32, 8):
                model(*(value[start : start + 8] for value in inputs.values()))
    model.eval()


def _pictures() -> Tensor:
    draw = torch.Generator().manual_seed(_SEED)
    blobs = functional.interpolate(torch.randn(SAMPLES, 3, 7, 7, generator=draw), _SIDE, mode="bicubic")
    edges = functional.interpolate(torch.randn(SAMPLES, 1, 28, 28, generator=draw).sign(), _SIDE, mode="nearest")
    return blobs + 0.5 * edges + 0.1 * torch.randn(SAMPLES, 3, _SIDE, _SIDE, generator=draw)


def _tokens() -> dict[str, Tensor]:
    """Words as frequent as Zipf's law has them, and sentences of different lengths."""
    draw = torch.Generator().manual_seed(_SEED)
    frequency = 1.0 / torch.arange(1, _VOCABULARY + 1)
    tokens = torch.multinomial(frequency, SAMPLES * _LENGTH, replacement=True, generator=draw)
    lengths = torch.randint(_LENGTH // 2, _LENGTH + 1, (SAMPLES, 1), generator=draw)
    mask = (torch.arange(_LENGTH)[None, :] < lengths).to(torch.int64)
    return {"input_ids": tokens.view(SAMPLES, _LENGTH) * mask, "attention_mask": mask}


def _conv(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    act: type | None = nn.ReLU,
    gain: float = 1.0,
) -> Any:
    norm = nn.BatchNorm2d(outputs)
    nn.init.constant_(norm.weight, gain)
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), norm]
    return nn.Sequential(*layers, *([act()] if act else []))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(inputs, width, 1), _conv(width, width, 3, stride), _conv(width, 4 * width, 1, act=None, gain=_BRANCH)
        )
        same = stride == 1 and inputs == 4 * width
        self.shortcut = nn.Identity() if same else _conv(inputs, 4 * width, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


class Gate(nn.Module):
    """Squeeze and excite: channels weighed by their means."""

    def __init__(self, width: int, squeezed: int, act: type, gate: type) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Conv2d(width, squeezed, 1), act(), nn.Conv2d(squeezed, width, 1), gate())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weigh(x.mean((2, 3), keepdim=True))


class Inverted(nn.Module):
    """Expand, depthwise, gate if there is one, project; added to its input where sizes allow."""

    def __init__(
        self, inputs: int, hidden: int, outputs: int, kernel: int, stride: int, act: type, gate: nn.Module | None = None
    ) -> None:
        super().__init__()
        layers = [_conv(inputs, hidden, 1, act=act)] if hidden != inputs else []
        layers.append(_conv(hidden, hidden, kernel, stride, hidden, act))
        layers += [gate] if gate else []
        self.adds = stride == 1 and inputs == outputs
        self.body = nn.Sequential(*layers, _conv(hidden, outputs, 1, act=None, gain=_BRANCH if self.adds else 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


class Headed(nn.Module):
    """Features, their mean over the picture, and layers that classify it."""

    def __init__(self, *features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features, self.head = nn.Sequential(*features), head

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image).mean((2, 3)))


def resnet50() -> nn.Module:
    layers: list[nn.Module] = [_conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(count):
            layers.append(Bottleneck(inputs, width, stride if number == 0 else 1))
            inputs = 4 * width
    return Headed(*layers, head=nn.Linear(inputs, 1000))


def mobilenet_v2() -> nn.Module:
    layers: list[nn.Module] = [_conv(3, 32, 3, 2, act=nn.ReLU6)]
    inputs = 32
    for expand, width, count, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    ):  # fmt: skip
        for number in range(count):
            layers.append(Inverted(inputs, expand * inputs, width, 3, stride if number == 0 else 1, nn.ReLU6))
            inputs = width
    return Headed(*layers, _conv(inputs, 1280, 1, act=nn.ReLU6), head=nn.Linear(1280, 1000))


def mobilenet_v3_large() -> nn.Module:
    relu, hard = nn.ReLU, nn.Hardswish
    layers: list[nn.Module] = [_conv(3, 16, 3, 2, act=hard)]
    inputs = 16
    for kernel, hidden, width, gated, act, stride in (
        (3, 16, 16, 0, relu, 1), (3, 64, 24, 0, relu, 2), (3, 72, 24, 0, relu, 1), (5, 72, 40, 1, relu, 2),
        (5, 120, 40, 1, relu, 1), (5, 120, 40, 1, relu, 1), (3, 240, 80, 0, hard, 2), (3, 200, 80, 0, hard, 1),
        (3, 184, 80, 0, hard, 1), (3, 184, 80, 0, hard, 1), (3, 480, 112, 1, hard, 1), (3, 672, 112, 1, hard, 1),
        (5, 672, 160, 1, hard, 2), (5, 960, 160, 1, hard, 1), (5, 960, 160, 1, hard, 1),
    ):  # fmt: skip
        gate = Gate(hidden, _eighths(hidden / 4), nn.ReLU, nn.Hardsigmoid) if gated else None
        layers.append(Inverted(inputs, hidden, width, kernel, stride, act, gate))
        inputs = width
    head = nn.Sequential(nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, 1000))
    return Headed(*layers, _conv(inputs, 960, 1, act=hard), head=head)


def efficientnet_b0() -> nn.Module:
    layers: list[nn.Module] = [_conv(3, 32, 3, 2, act=nn.SiLU)]
    inputs = 32
    for expand, kernel, width, count, stride in (
        (1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2), (6, 5, 112, 3, 1), (6, 5, 192, 4, 2),
        (6, 3, 320, 1, 1),
    ):  # fmt: skip
        for number in range(count):
            gate = Gate(expand * inputs, inputs // 4, nn.SiLU, nn.Sigmoid)
            step = stride if number == 0 else 1
            layers.append(Inverted(inputs, expand * inputs, width, kernel, step, nn.SiLU, gate))
            inputs = width
    return Headed(*layers, _conv(inputs, 1280, 1, act=nn.SiLU), head=nn.Linear(1280, 1000))


def _eighths(width: float) -> int:
    """The nearest multiple of 8, at least nine tenths of `width`."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


BUILDERS: Final = {
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_large": mobilenet_v3_large,
    "efficientnet_b0": efficientnet_b0,
    "vit_small": lambda: Vit(384, heads=6),
    "deit_tiny": lambda: Vit(192, heads=3),
    "bert_base": lambda: Bert(_VOCABULARY, _LENGTH),
}
