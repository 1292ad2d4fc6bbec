"""The trained models of the benchmark of pruning, and their samples."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def model_and_samples(name: str, folder: Path) -> tuple[Path, int]:
    """`model.onnx` into the folder, its samples, and how many of them to calibrate on."""
    if not DATA.is_dir():
        sys.exit(f"skipped: {DATA} is not there")
    if name.startswith("resnet"):
        import torch

        sys.path.insert(0, str(ROOT / "tests" / "real"))
        import factories

        model, example = getattr(factories, f"{name}_cifar")()
        model.load_state_dict(torch.load(DATA / "models" / "torch" / f"{name}_cifar10.pth", weights_only=True))
        path = str(folder / "model.onnx")
        torch.onnx.export(model.eval(), example, path, dynamo=False, opset_version=17, dynamic_axes={"image": {0: "N"}},
                          input_names=["image"], output_names=["logits"])  # fmt: skip
        return cifar("test_2000.npz", folder.parent / f"{name}.npz"), 500
    (folder / "model.onnx").write_bytes((DATA / "models" / "onnx" / f"{name}.onnx").read_bytes())
    return DATA / "nips17_imagenet", 128


def cifar(file: str, into: Path, *, labels: bool = True) -> Path:
    held = np.load(DATA / "cifar10" / file)
    x = (held["x"].astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    np.savez(into, x=np.ascontiguousarray(x.transpose(0, 3, 1, 2)), **({"y": held["y"]} if labels else {}))
    return into
