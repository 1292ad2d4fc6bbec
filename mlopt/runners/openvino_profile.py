"""OpenVINO's performance counts as kernels, under the names of the ONNX nodes that it merged into each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from mlopt.insight import Arithmetic, Kernel, Profile
from mlopt.runners.runner import WARM_UP

if TYPE_CHECKING:
    import numpy as np

    from mlopt.serve.openvino import Network

_DISTURBED: Final = 1.5  # times the median: a query that took longer was not alone
_NAMES: Final = "originalLayersNames"
# The end of what it calls a kernel: brgconv_avx512_1x1_f32.
_TYPES: Final[Mapping[str, Arithmetic]] = {
    "f32": "fp32",
    "f16": "fp16",
    "bf16": "bf16",
    "i8": "int8",
    "u8": "int8",
}


def recorded(network: Network, feeds: Sequence[Mapping[str, np.ndarray]], *, count: int) -> Profile:
    """Of a network that was compiled for profiling.

    What it says of a kernel is the mean of all queries so far, in whole microseconds: totals are made of it again, and
    from them go the slow first queries and those in which something else had the core.
    """
    warm_up = min(WARM_UP, count)
    request = network.request(feeds[0])
    queries: list[float] = []
    totals: list[dict[str, float]] = [{}]
    for number in range(warm_up + count):
        began = time.perf_counter()
        request.infer(dict(feeds[number % len(feeds)]), share_inputs=True)
        queries.append(time.perf_counter() - began)
        said = request.profiling_info
        totals.append({one.node_name: one.real_time.total_seconds() * (number + 1) for one in said})
    limit = _DISTURBED * statistics.median(queries[warm_up:])
    kept = [number for number in range(warm_up, len(queries)) if queries[number] <= limit]
    merged = _merged(request.get_compiled_model().get_runtime_model())
    kernels = []
    for one in said:
        if one.status != one.Status.EXECUTED:
            continue
        name = one.node_name
        spent = sum(totals[number + 1][name] - totals[number].get(name, 0.0) for number in kept)
        plain = one.exec_type in ("undef", "")
        kernels.append(
            Kernel(
                name,
                one.node_type if plain else f"{one.node_type} ({one.exec_type})",
                merged.get(name) or (name,),
                _TYPES.get(one.exec_type.rpartition("_")[2].lower(), "other"),
                max(spent / len(kept), 0.0),
            )
        )
    return Profile(
        tuple(kernels),
        statistics.fmean(queries[number] for number in kept),
        len(kept),
        f"OpenVINO's performance counts, in whole microseconds; mean of those of {count} queries "
        f"that took no longer than {_DISTURBED:g} times the median",
    )


def _merged(compiled: Any) -> dict[str, tuple[str, ...]]:
    """By the name of an executed node: the names of the nodes it was made of; layouts are of none."""
    found = {}
    for node in compiled.get_ordered_ops():
        info = node.get_rt_info()
        if _NAMES in info:
            names = info[_NAMES].astype(str)
            found[node.get_friendly_name()] = tuple(name for name in names.split(",") if name)
    return found
