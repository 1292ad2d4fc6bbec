"""Batch normalisation put back behind convolutions while they are trained, and folded into their weights again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

_EPS: Final = 1e-5
_MOMENTUM: Final = 0.1


@dataclass(slots=True)
class _Norm:
    """Of one convolution: what its channels are scaled to and moved to, and how they are before that."""

    weight: str
    bias: str
    scale: torch.Tensor
    shift: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor


class Norms:
    """Without it a step that is small for one layer is large for the next, and training leads away first.

    `values` are the model's initializers. After `begin` the weights of each convolution have the size that nets are
    begun with and no bias; the answers are as before. `training` is whether a batch is normalised by itself.
    """

    def __init__(self, model: Any, values: Mapping[str, torch.Tensor]) -> None:
        self.training = False
        self._values, self._of = values, dict[str, _Norm]()
        used = Counter(name for node in model.graph.node for name in node.input)
        self._named = {
            node.name: (node.input[1], node.input[2])
            for node in model.graph.node
            if node.op_type == "Conv"
            and len(node.input) == 3
            and all(used[name] == 1 and name in values for name in node.input[1:])
        }
        self._sums: dict[str, list[Any]] = {}

    def observe(self, node: Any, written: Any) -> Any:
        """While it looks at what convolutions write."""
        if node.name in self._named:
            axes = [0, *range(2, written.ndim)]
            sums = self._sums.setdefault(node.name, [0, 0, 0])
            sums[0] += written.numel() // written.shape[1]
            sums[1] = sums[1] + written.double().sum(axes)
            sums[2] = sums[2] + written.double().square().sum(axes)
        return written

    def begin(self) -> None:
        """From what was observed."""
        import torch

        with torch.no_grad():
            for name, (count, total, squares) in self._sums.items():
                weight, bias = (self._values[one] for one in self._named[name])
                mean = (total / count).float()
                variance = (squares / count - (total / count).square()).clamp_min(0).float()
                spatial = [1] * (weight.ndim - 1)
                wanted = math.sqrt(2 / weight[0].numel())
                ratio = wanted / weight.flatten(1).square().mean(1).sqrt().clamp_min(1e-12)
                weight.mul_(ratio.view(-1, *spatial))
                before = (mean - bias) * ratio
                bias.zero_()
                self._of[name] = _Norm(
                    *self._named[name],
                    scale=(variance + _EPS / ratio.square()).sqrt().requires_grad_(),
                    shift=mean.clone().requires_grad_(),
                    mean=before,
                    variance=variance * ratio.square(),
                )
        self._sums.clear()

    def apply(self, node: Any, written: Any) -> Any:
        from torch.nn import functional

        norm = self._of.get(node.name)
        if norm is None:
            return written
        return functional.batch_norm(
            written, norm.mean, norm.variance, norm.scale, norm.shift, self.training, _MOMENTUM, _EPS
        )

    @property
    def biases(self) -> frozenset[str]:
        """Those that stay nothing while it goes on."""
        return frozenset(norm.bias for norm in self._of.values())

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All there is to keep, by name."""
        for name, norm in self._of.items():
            for field in ("scale", "shift", "mean", "variance"):
                yield f"{name}.{field}", getattr(norm, field)

    def trained(self) -> Iterator[torch.Tensor]:
        for norm in self._of.values():
            yield from (norm.scale, norm.shift)

    def folded(self) -> dict[str, torch.Tensor]:
        """Weights and biases that do the same without it."""
        found = {}
        for norm in self._of.values():
            weight = self._values[norm.weight].detach()
            by = (norm.scale / (norm.variance + _EPS).sqrt()).detach()
            found[norm.weight] = weight * by.view(-1, *[1] * (weight.ndim - 1))
            found[norm.bias] = norm.shift.detach() - norm.mean * by
        return found
