"""Normalisation that comes and goes: the model answers as before, and each batch is normalised between."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import GRAPHS

pytestmark = pytest.mark.torch


def weights(model: onnx.ModelProto) -> dict[str, object]:
    import torch

    return {one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in model.graph.initializer}


@pytest.mark.parametrize("name", ["residual", "depthwise", "plain"])
def test_answers_stay_when_it_comes_and_when_it_goes(name: str) -> None:
    import torch

    from mlopt.prune.cut import with_biases
    from mlopt.prune.norms import Norms
    from mlopt.prune.torch_graph import answers

    model = GRAPHS[name]()
    with_biases(model)
    values = weights(model)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    feed = {"image": torch.from_numpy(np.random.default_rng(0).standard_normal((16, *shape)).astype(np.float32))}
    norms = Norms(model, values)
    with torch.no_grad():
        before = answers(model, values, feed, norms.observe)[0]
        norms.begin()
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        assert len(norms.biases) == len(convolutions) > 1
        for node in convolutions:
            weight = values[node.input[1]]
            size = weight.flatten(1).square().mean(1)
            assert torch.allclose(size, torch.full_like(size, 2 / weight[0].numel()), rtol=1e-3)
        assert torch.allclose(answers(model, values, feed, norms.apply)[0], before, atol=1e-4)
        folded = {**values, **norms.folded()}
        assert torch.allclose(answers(model, folded, feed)[0], before, atol=1e-4)
        norms.training = True
        for weight in (values[node.input[1]] for node in convolutions):
            weight.mul_(10)  # what a batch is divided by makes up for any size
        assert torch.allclose(
            answers(model, values, feed, norms.apply)[0], before, atol=0.02 * float(before.abs().max())
        )


def test_weights_that_two_nodes_share_are_left_alone() -> None:
    import torch

    from mlopt.prune.cut import with_biases
    from mlopt.prune.norms import Norms
    from mlopt.prune.torch_graph import answers

    model = GRAPHS["plain"]()
    with_biases(model)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    model.graph.node.add(op_type="Identity", input=[first.input[1]], output=["weight"], name="reader")
    values = weights(model)
    norms = Norms(model, values)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    with torch.no_grad():
        answers(model, values, {"image": torch.ones(2, *shape)}, norms.observe)
    norms.begin()
    assert norms.biases
    assert first.input[2] not in norms.biases
