"""The graphs that the real weights were trained with, in our own words, each with its example inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE = (torch.zeros(1, 3, 224, 224),)
SMALL_IMAGE = (torch.zeros(1, 3, 32, 32),)
Built = tuple[nn.Module, tuple[Tensor, ...]]


def squeezenet1_0() -> Built:
    """SqueezeNet 1.0 under torchvision's keys."""
    features = nn.Sequential(
        nn.Conv2d(3, 96, 7, stride=2),
        nn.ReLU(),
        _pool(),
        Fire(96, 16, 64),
        Fire(128, 16, 64),
        Fire(128, 32, 128),
        _pool(),
        Fire(256, 32, 128),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        _pool(),
        Fire(512, 64, 256),
    )
    classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return Classifier(features, classifier, flatten_first=False), IMAGE


def mobilenet_v2() -> Built:
    """MobileNetV2 1.0 under torchvision's keys."""
    layers: list[nn.Module] = [_conv_bn(3, 32, 3, stride=2)]
    width = 32
    for expand, out, count, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for number in range(count):
            layers.append(InvertedResidual(width, out, stride if number == 0 else 1, expand))
            width = out
    layers.append(_conv_bn(width, 1280, 1))
    classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))
    return Classifier(nn.Sequential(*layers), classifier, flatten_first=True), IMAGE


def mobilenet_v1_025() -> Built:
    """The MobileNet 0.25 that face detectors start from, with ReLU."""
    return MobileNetV1(), IMAGE


def resnet20_cifar() -> Built:
    return ResNetCifar(3), SMALL_IMAGE


def resnet32_cifar() -> Built:
    return ResNetCifar(5), SMALL_IMAGE


def stories260k() -> Built:
    """A llama of 260 thousand parameters; batch and sequence length are free."""
    return Llama(), (torch.ones(2, 16, dtype=torch.int64),)


class Classifier(nn.Module):
    def __init__(self, features: nn.Module, classifier: nn.Module, *, flatten_first: bool) -> None:
        super().__init__()
        self.features, self.classifier, self.flatten_first = features, classifier, flatten_first

    def forward(self, image: Tensor) -> Tensor:
        x = self.features(image)
        if self.flatten_first:
            return self.classifier(x.mean((2, 3)))
        return torch.flatten(self.classifier(x), 1)


class Fire(nn.Module):
    """Squeeze to few channels, then expand by 1x1 and 3x3 side by side."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.squeeze(x))
        return torch.cat([functional.relu(self.expand1x1(x)), functional.relu(self.expand3x3(x))], 1)


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        layers: list[nn.Module] = [_conv_bn(inputs, hidden, 1)] if expand != 1 else []
        layers += [
            _conv_bn(hidden, hidden, 3, stride, hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV1(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            _first(3, 8), *_separable([(8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)])
        )
        self.stage2 = nn.Sequential(*_separable([(64, 128, 2), *[(128, 128, 1)] * 5]))
        self.stage3 = nn.Sequential(*_separable([(128, 256, 2), (256, 256, 1)]))
        self.fc = nn.Linear(256, 1000)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.stage3(self.stage2(self.stage1(image))).mean((2, 3)))


def _first(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def _separable(sizes: Iterable[tuple[int, int, int]]) -> list[nn.Module]:
    return [
        nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )
        for inputs, outputs, stride in sizes
    ]


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.pads = outputs // 4 if inputs != outputs else 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.pads:  # no weights in the shortcut: every second pixel, and zeros for the new channels
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pads, self.pads))
        return functional.relu(y + x)


class ResNetCifar(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _layer(16, 16, 1, blocks)
        self.layer2 = _layer(16, 32, 2, blocks)
        self.layer3 = _layer(32, 64, 2, blocks)
        self.linear = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(image)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def _layer(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    rest = [BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)


class Norm(nn.Module):
    """Root mean square normalisation."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


class Attention(nn.Module):
    HEADS, GROUPS, SIZE = 8, 4, 8

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wq = nn.Linear(width, self.HEADS * self.SIZE, bias=False)
        self.wk = nn.Linear(width, self.GROUPS * self.SIZE, bias=False)
        self.wv = nn.Linear(width, self.GROUPS * self.SIZE, bias=False)
        self.wo = nn.Linear(self.HEADS * self.SIZE, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = _rotated(self.wq(x).view(batch, length, self.HEADS, self.SIZE))
        k = _rotated(self.wk(x).view(batch, length, self.GROUPS, self.SIZE))
        v = self.wv(x).view(batch, length, self.GROUPS, self.SIZE)
        repeats = self.HEADS // self.GROUPS
        k, v = (each.repeat_interleave(repeats, dim=2).transpose(1, 2) for each in (k, v))
        scores = q.transpose(1, 2) @ k.transpose(2, 3) / self.SIZE**0.5
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(later, float("-inf")).softmax(-1) @ v
        return self.wo(mixed.transpose(1, 2).reshape(batch, length, self.HEADS * self.SIZE))


def _rotated(x: Tensor) -> Tensor:
    """Rotary positions on neighbouring pairs of channels (interleaved)."""
    length, size = x.shape[1], x.shape[-1]
    rates = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * rates
    cos, sin = angles.cos()[:, None, :], angles.sin()[:, None, :]
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(functional.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(width), FeedForward(width, hidden)
        self.attention_norm, self.ffn_norm = Norm(width), Norm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class Llama(nn.Module):
    dynamic_axes: ClassVar = {"tokens": {0: "batch", 1: "sequence"}}

    def __init__(self) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(512, 64)
        self.layers = nn.ModuleList(Block(64, 172) for _ in range(5))
        self.norm = Norm(64)
        self.output = nn.Linear(64, 512, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok_embeddings(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.output(self.norm(x))
