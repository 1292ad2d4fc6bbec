"""The nets of the GPU benchmark: shaped like ResNet-50, MobileNetV2, ViT-small and BERT-base, with random weights.

Latency depends on shapes, not on values, so no weights are downloaded. `width` scales the channels that structured
pruning would remove and rounds them down to a multiple: what a pruned net costs at that alignment.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Width = Callable[[int], int]


def full(channels: int) -> int:
    return channels


def pruned(keep: float, multiple: int) -> Width:
    """`keep` of the channels, rounded down to a multiple; multiple 1 makes the number odd, the worst case."""

    def width(channels: int) -> int:
        kept = int(channels * keep)
        return kept - 1 + kept % 2 if multiple == 1 else max(multiple, kept // multiple * multiple)

    return width


def _conv(inside: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
    ]
    return nn.Sequential(*layers, nn.ReLU()) if act else nn.Sequential(*layers)


class Bottleneck(nn.Module):
    """The two inner convolutions are what pruning narrows; the sum keeps its width."""

    def __init__(self, inside: int, middle: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(inside, middle, 1), _conv(middle, middle, 3, stride=stride), _conv(middle, out, 1, act=False)
        )
        fits = inside == out and stride == 1
        self.skip = nn.Identity() if fits else _conv(inside, out, 1, stride=stride, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def resnet50(width: Width = full) -> nn.Module:
    layers: list[nn.Module] = [_conv(3, 64, 7, stride=2), nn.MaxPool2d(3, 2, 1)]
    inside = 64
    for stage, (blocks, middle) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(Bottleneck(inside, width(middle), middle * 4, stride))
            inside = middle * 4
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 1000))


class Inverted(nn.Module):
    def __init__(self, inside: int, middle: int, out: int, stride: int) -> None:
        super().__init__()
        self.sums = inside == out and stride == 1
        first = [] if middle == inside else [_conv(inside, middle, 1)]
        self.body = nn.Sequential(
            *first, _conv(middle, middle, 3, stride=stride, groups=middle), _conv(middle, out, 1, act=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.sums else self.body(x)


def mobilenet_v2(width: Width = full) -> nn.Module:
    layers: list[nn.Module] = [_conv(3, 32, 3, stride=2), Inverted(32, 32, 16, 1)]
    inside = 16
    for out, blocks, stride in ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1)):
        for block in range(blocks):
            layers.append(Inverted(inside, width(inside * 6), out, 1 if block else stride))
            inside = out
    return nn.Sequential(*layers, _conv(inside, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))


class Block(nn.Module):
    """A transformer block, normalised before (ViT) or after (BERT); pruning narrows the feed-forward part."""

    def __init__(self, size: int, heads: int, inner: int, *, before: bool) -> None:
        super().__init__()
        self.heads, self.before = heads, before
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.feed = nn.Sequential(nn.Linear(size, inner), nn.GELU(), nn.Linear(inner, size))
        self.first, self.second = nn.LayerNorm(size), nn.LayerNorm(size)

    def attend(self, x: Tensor) -> Tensor:
        batch, length, size = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, size // self.heads).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, size))

    def forward(self, x: Tensor) -> Tensor:
        if self.before:
            x = x + self.attend(self.first(x))
            return x + self.feed(self.second(x))
        x = self.first(x + self.attend(x))
        return self.second(x + self.feed(x))


class ViT(nn.Module):
    def __init__(self, width: Width = full, *, size: int = 384, heads: int = 6, depth: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, size, 16, 16)
        self.first = nn.Parameter(torch.zeros(1, 1, size))
        self.positions = nn.Parameter(torch.randn(1, 197, size) * 0.02)
        self.blocks = nn.Sequential(*(Block(size, heads, width(size * 4), before=True) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, 1000)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.first.expand(len(patches), -1, -1), patches), 1) + self.positions
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class Bert(nn.Module):
    def __init__(self, width: Width = full, *, size: int = 768, heads: int = 12, depth: int = 12) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(30522, size), nn.Parameter(torch.randn(1, 128, size) * 0.02)
        self.norm = nn.LayerNorm(size)
        self.blocks = nn.Sequential(*(Block(size, heads, width(size * 4), before=False) for _ in range(depth)))
        self.head = nn.Linear(size, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.norm(self.words(tokens) + self.positions))[:, 0])


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 224, 224)


def words(batch: int) -> Tensor:
    return torch.randint(0, 30522, (batch, 128))


# By name: how to make it, and what goes in.
NETS: dict[str, tuple[Callable[..., nn.Module], Callable[[int], Tensor]]] = {
    "resnet50": (resnet50, images),
    "mobilenet_v2": (mobilenet_v2, images),
    "vit_small": (ViT, images),
    "bert_base": (Bert, words),
}
