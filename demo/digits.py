"""The demo's model: a small convolutional net, trained here on scikit-learn's handwritten digits.

    python demo/digits.py FOLDER     writes FOLDER/model.pt, samples.npz, seven.png

`mlopt.toml` beside this file names `net` as the factory that builds the graph for the weights in model.pt.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

SIDE = 32
EPOCHS = 7


def net() -> nn.Module:
    """An untrained net: [batch, 1, 32, 32] in 0..1 to [batch, 10] logits."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    model = nn.Sequential(
        *block(1, 32, 1),
        *block(32, 64, 2),
        *block(64, 64, 1),
        *block(64, 128, 2),
        *block(128, 128, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    model.example_inputs = (torch.zeros(1, 1, SIDE, SIDE),)  # type: ignore[assignment]
    return model


def digits() -> tuple[np.ndarray, np.ndarray]:
    """All 1797 digits as uint8 pictures [N, 32, 32, 1], shuffled once, with their labels."""
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    pictures = [
        np.asarray(
            Image.fromarray((picture * 255 / 16).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        )
        for picture in data.images
    ]
    order = np.random.default_rng(0).permutation(len(pictures))
    return np.stack(pictures)[order][..., None], data.target[order].astype(np.int64)


def train(x: np.ndarray, y: np.ndarray) -> nn.Module:
    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = net()
    images = torch.from_numpy(x.astype(np.float32) / 255).permute(0, 3, 1, 2)
    labels = torch.from_numpy(y)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, EPOCHS * (len(x) // 64 + 1))
    for epoch in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(x)).split(64):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        print(f"  epoch {epoch + 1:2}/{EPOCHS}  loss {total / len(x):.4f}", flush=True)
    return model.eval()


def main(folder: Path) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    x, y = digits()
    cut = 997  # 800 are kept back: never trained on
    model = train(x[:cut], y[:cut])
    with torch.no_grad():
        held_out = torch.from_numpy(x[cut:].astype(np.float32) / 255).permute(0, 3, 1, 2)
        right = int((model(held_out).argmax(1).numpy() == y[cut:]).sum())
    print(f"  {right} of {len(y) - cut} held-out digits right")
    torch.save(model.state_dict(), folder / "model.pt")
    np.savez(folder / "samples.npz", x=x[cut:], y=y[cut:])
    seven = cut + int(np.flatnonzero(y[cut:] == 7)[0])
    Image.fromarray(x[seven, :, :, 0]).save(folder / "seven.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
