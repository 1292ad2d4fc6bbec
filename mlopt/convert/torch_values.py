"""Between numpy arrays by name and what a torch module takes and gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from mlopt.errors import UnsupportedModel


def to_tensors(feeds: Mapping[str, Any], example: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Arrays as tensors of the dtypes that the example has (numpy has no bfloat16)."""
    return {
        name: torch.from_numpy(feeds[name].copy() if feeds[name].ndim else feeds[name].reshape(())).to(tensor.dtype)
        for name, tensor in example.items()
        if name in feeds
    }


def flat(answer: Any) -> Iterator[torch.Tensor]:
    """The tensors of an answer in the order that exporters give them: tuples, lists, dicts, one inside another."""
    if isinstance(answer, torch.Tensor):
        yield answer.detach().float() if answer.dtype == torch.bfloat16 else answer.detach()
    elif isinstance(answer, Mapping):
        for value in answer.values():
            yield from flat(value)
    elif isinstance(answer, (tuple, list)):
        for value in answer:
            yield from flat(value)
    elif answer is not None:
        raise UnsupportedModel(f"The model returns a {type(answer).__name__}; mlopt handles tensors only.")


def output_names(answer: Any) -> list[str]:
    """A name per tensor of an answer: the keys of a dict, `output` alone, `output_0` and on."""
    if isinstance(answer, Mapping) and all(isinstance(value, torch.Tensor) for value in answer.values()):
        return [str(key) for key in answer]
    count = len(list(flat(answer)))
    return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]
