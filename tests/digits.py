"""A small net with depthwise convolutions, trained on scikit-learn's digits in a few seconds."""

from __future__ import annotations

import numpy as np
import onnx
from nets import depthwise_net
from onnx import numpy_helper


def trained_depthwise_net() -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """The model, all images as [N, 3, 8, 8], and the labels of the last of them, which it did not see."""
    import torch
    from sklearn.datasets import load_digits
    from torch.nn import functional

    torch.manual_seed(0)
    torch.set_num_threads(1)  # more only wait for one another on a net this small
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    images = np.repeat((pixels[order].reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32), 3, axis=1)
    model = depthwise_net(side=8)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values = {name: torch.tensor(array, requires_grad=True) for name, array in arrays.items()}

    def logits(x: torch.Tensor) -> torch.Tensor:
        first = value = functional.conv2d(x, values["w0"], values["b0"], padding=1).relu()
        for number in (1, 2, 3):
            deep = functional.conv2d(
                value, values[f"d{number}"], values[f"e{number}"], padding=1, groups=len(arrays["d1"])
            )
            value = functional.conv2d(deep.relu(), values[f"w{number}"], values[f"b{number}"]).relu()
            if number == 2:
                value = value + first
        return functional.linear(value.mean(dim=(2, 3)), values["w4"], values["b4"])

    seen = len(images) * 2 // 3
    x, y = torch.tensor(images[:seen]), torch.tensor(labels[order][:seen])
    optimizer = torch.optim.Adam(values.values(), lr=1e-2)
    for _epoch in range(40):
        for chosen in torch.randperm(seen).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(logits(x[chosen]), y[chosen]).backward()
            optimizer.step()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].detach().numpy(), tensor.name))
    return model, images, labels[order][seen:]
