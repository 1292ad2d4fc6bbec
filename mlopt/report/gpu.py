"""What a GPU did while a model was measured on it, in sentences: what really ran there, and how the card ran."""

from __future__ import annotations

from mlopt.measurement import Gpu, GpuClocks
from mlopt.report import text
from mlopt.report.report import Report
from mlopt.runners.onnxruntime_cuda import Placement


def of_candidates(report: Report) -> list[tuple[str, str]]:
    """By name, what is said of each that ran on one."""
    taken = ((one.name, one.measurement) for one in report.candidates)
    return [(name, said(one.gpu)) for name, one in taken if one and one.gpu]


def said(gpu: Gpu) -> str:
    """What ran where, copies, memory, clocks, and what NVML did not tell."""
    nodes = Placement(gpu.nodes, gpu.on_cpu).text(tuple(gpu.nodes))
    parts = [f"{nodes}{', as one CUDA graph' if gpu.cuda_graph else ''}"]
    without = f", without which p50 is {text.seconds(gpu.without_copies)}" if gpu.without_copies else ""
    parts.append(f"latencies include the copies in and out{without}")
    if gpu.memory is not None:
        parts.append(f"at most {text.size(gpu.memory)} of GPU memory ({gpu.memory_method})")
    else:
        parts.append(f"its GPU memory is not known ({gpu.memory_method})")
    if gpu.clocks:
        parts.append(_clocks(gpu.clocks))
    parts += [f"not read: {one}" for one in gpu.unread]
    return f"{where(gpu)}: {'; '.join(parts)}"


def where(gpu: Gpu) -> str:
    return f"{gpu.name}, driver {gpu.driver}" if gpu.driver else gpu.name


def held_back(gpu: Gpu | None) -> str:
    """What kept the card's clocks down while it was measured; empty where nothing did, or nobody knows."""
    if gpu is None or gpu.clocks is None or not gpu.clocks.held_back:
        return ""
    reasons = (f"{reason} in {count}" for reason, count in gpu.clocks.held_back.items())
    return f"the GPU's clocks were held back ({', '.join(reasons)} of {gpu.clocks.readings} rounds)"


def _clocks(clocks: GpuClocks) -> str:
    told = []
    if clocks.sm is not None:
        below = f", {clocks.sm_lowest} at the lowest" if clocks.sm_lowest != clocks.sm else ""
        told.append(f"SM at {_of(clocks.sm, clocks.sm_highest)} MHz{below}")
    if clocks.memory is not None:
        told.append(f"memory at {_of(clocks.memory, clocks.memory_highest)} MHz")
    if clocks.power is not None:
        limit = None if clocks.power_limit is None else round(clocks.power_limit)
        told.append(f"{_of(round(clocks.power), limit)} W")
    if clocks.temperature is not None:
        told.append(f"up to {clocks.temperature} °C")
    return f"{', '.join(told)}, read after each of {clocks.readings} rounds" if told else "no clock was read"


def _of(value: int, highest: int | None) -> str:
    return f"{value} of {highest}" if highest else str(value)
