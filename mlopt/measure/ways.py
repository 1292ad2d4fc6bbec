"""The ways in which `mlopt bench` asks every model: numbers of threads, and samples per query."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlopt.errors import Misused
from mlopt.measure.alone import Given
from mlopt.measure.limits import Limits

if TYPE_CHECKING:
    from mlopt.profile import Method
    from mlopt.signature import Signature

_FEEDS: Final = 4  # queries that are generated


def ways_of(
    signature: Signature,
    model: Path,
    method: Method,
    limits: Limits,
    threads: Sequence[int] = (),
    batches: Sequence[int] = (),
) -> list[Given]:
    """Generated queries of each of `batches` with each of `threads`; where there are none, as `method` says.

    `model` is one that takes `signature`: it settles dimensions other than the batch. Raises `Misused` where two ways
    would be the same, as when a model fixes its batch.
    """
    from mlopt.convert.batch import free_size_of
    from mlopt.samples.generated import GeneratedSamples

    free = free_size_of(model, {})
    found: dict[tuple[int, int], Given] = {}
    for count in threads or (method.threads,):
        for batch in batches or (None,):
            asked = method.asked(threads=count, batch=batch)
            size = asked.query_batch
            single = list(GeneratedSamples(signature, _FEEDS * size, 0, free=free).feeds(batch=size))
            offline = next(
                GeneratedSamples(signature, asked.offline_batch, 0, free=free).feeds(batch=asked.offline_batch)
            )
            way = Given(single, offline, asked, limits)
            if (way.batch, count) in found:
                raise Misused(
                    f"Batch {way.batch} with {_threads(count)} would be measured twice.",
                    next="name each once; a model that fixes its batch takes no other, and multi-stream makes 8 of 1",
                )
            found[way.batch, count] = way
    return list(found.values())


def labels(asked: Sequence[tuple[str, str, int, int]]) -> list[str]:
    """A name for each model, runtime, batch and number of threads: the model's, and what tells it from its others.

    >>> labels([("net", "onnxruntime", 1, 1), ("net", "onnxruntime", 8, 1)])
    ['net (batch 1)', 'net (batch 8)']
    """
    ways = [(name, (runtime, f"batch {batch}", _threads(threads))) for name, runtime, batch, threads in asked]
    by_model: dict[str, list[tuple[str, ...]]] = {}
    for name, way in ways:
        by_model.setdefault(name, []).append(way)
    differ = [any(len({one[part] for one in of}) > 1 for of in by_model.values()) for part in range(3)]
    named = []
    for name, way in ways:
        told = ", ".join(part for part, needed in zip(way, differ, strict=True) if needed)
        named.append(f"{name} ({told})" if told else name)
    return named


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
