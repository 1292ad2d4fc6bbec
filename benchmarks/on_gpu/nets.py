"""Whole nets: precision, eager against CUDA graph and torch.compile, and what pruned channel widths cost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from .bench import Bench, Call, graph
from .shapes import NETS, Width, full, pruned

KEEP = 0.7
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
PRECISIONS = {
    "fp32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "fp16": (torch.float16, False),
    "bf16": (torch.bfloat16, False),
}


def nets(bench: Bench) -> dict[str, Any]:
    """Each net in each precision, eager, with copies in and out, and replayed as a CUDA graph."""
    return _each(bench, _precisions)


def compiled(bench: Bench) -> dict[str, Any]:
    """fp16 by torch.compile, without and with its CUDA graphs, beside eager and a graph of eager."""
    return _each(bench, _compiled)


def widths(bench: Bench) -> dict[str, Any]:
    """fp16 nets with 70 % of the inner channels kept, rounded down to a multiple; CUDA graphs, so no launch counts."""
    return _each(bench, _widths)


def _each(bench: Bench, measure: Callable[[Bench, str, int], Any]) -> dict[str, Any]:
    """What `measure` gives for every net and batch, as long as there is time."""
    cases = {
        f"{name}, batch {batch}": (name, batch)
        for name in bench.only or NETS
        for batch in ((1, 32) if bench.cuda else (1,))
    }
    found = {case: bench.attempt(case, partial(measure, bench, *what)) for case, what in cases.items()}
    return {case: figures for case, figures in found.items() if figures}


def make(bench: Bench, name: str, width: Width = full) -> Any:
    """The net of that name; where only the program is tested, with one transformer block."""
    small = {} if bench.cuda or name not in ("vit_small", "bert_base") else {"depth": 1}
    return NETS[name][0](width, **small).eval()


@torch.inference_mode()
def _precisions(bench: Bench, name: str, batch: int) -> dict[str, Any]:
    net, given = make(bench, name), NETS[name][1](batch)
    calls: dict[str, Call] = {}
    more: dict[str, dict[str, Any]] = {}
    reference = None
    for kind, (dtype, tf32) in PRECISIONS.items():
        _allow_tf32(tf32)
        model, feed = _ready(bench, net, given, dtype)
        for way, call in _ways(bench, model, feed, given).items():
            calls[f"{kind}, {way}"] = _with_tf32(call, tf32) if dtype == torch.float32 else call
        answer = model(feed).float().cpu()
        reference = answer if reference is None else reference
        more[f"{kind}, eager"] = {"sqnr_db": sqnr(reference, answer), "peak_memory": _peak(bench, model, feed)}
    figures = bench.side_by_side(calls)
    for label, facts in more.items():
        figures[label] |= facts
    return figures


@torch.no_grad()
def _compiled(bench: Bench, name: str, batch: int) -> dict[str, Any]:
    model, feed = _ready(bench, make(bench, name), NETS[name][1](batch), torch.float16)
    ways: dict[str, Call] = {"eager": partial(model, feed)}
    seconds = None
    if bench.cuda:
        ways["eager, CUDA graph"] = graph(partial(model, feed))
        torch._dynamo.reset()
        ways["torch.compile"] = partial(torch.compile(model), feed)
        seconds = bench.timed(ways["torch.compile"])
        ways["torch.compile, CUDA graph"] = partial(torch.compile(model, mode="reduce-overhead"), feed)
        for _ in range(3):  # it compiles, warms up, then records
            ways["torch.compile, CUDA graph"]()
    figures = bench.side_by_side(ways)
    if seconds:
        figures["torch.compile"]["compile_seconds"] = seconds
    return figures


@torch.inference_mode()
def _widths(bench: Bench, name: str, batch: int) -> dict[str, Any]:
    given = NETS[name][1](batch)
    calls: dict[str, Call] = {}
    work: dict[str, int] = {}
    for multiple in (None, *MULTIPLES):
        net = make(bench, name, full if multiple is None else pruned(KEEP, multiple))
        label = "all channels" if multiple is None else "odd" if multiple == 1 else f"multiple of {multiple}"
        work[label] = _operations(net, given)
        model, feed = _ready(bench, net, given, torch.float16)
        calls[label] = graph(partial(model, feed)) if bench.cuda else partial(model, feed)
    figures = bench.side_by_side(calls)
    for label, operations in work.items():
        figures[label]["of_the_work"] = operations / work["all channels"]
    return figures


def _operations(net: Any, given: Any) -> int:
    """Multiplications and additions of one query, counted on tensors without values."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(net).to("meta")(given.to("meta"))
    return int(counter.get_total_flops())


def sqnr(reference: Any, other: Any) -> float | None:
    """10·log10 of signal over difference, in decibel; None when they are the same."""
    noise = (reference - other).double().square().sum()
    return None if not float(noise) else float(10 * (reference.double().square().sum() / noise).log10())


def _ready(bench: Bench, net: Any, given: Any, dtype: Any) -> tuple[Any, Any]:
    """A copy of the net, and its input, on the device; images in channels-last order, which tensor cores read."""
    layout = torch.channels_last if given.dim() == 4 else torch.contiguous_format
    model = copy.deepcopy(net).to(bench.device, dtype, memory_format=layout)
    return model, _to(given.to(bench.device), dtype)


def _to(moved: Any, dtype: Any) -> Any:
    layout = torch.channels_last if moved.dim() == 4 else torch.contiguous_format
    return moved.to(dtype if moved.is_floating_point() else moved.dtype, memory_format=layout)


def _ways(bench: Bench, model: Any, feed: Any, given: Any) -> dict[str, Call]:
    host = given.pin_memory() if bench.cuda else given
    dtype = next(model.parameters()).dtype

    def copies() -> object:
        return model(_to(host.to(bench.device, non_blocking=True), dtype)).cpu()

    ways: dict[str, Call] = {"eager": partial(model, feed), "eager, copies in and out": copies}
    return ways | ({"CUDA graph": graph(partial(model, feed))} if bench.cuda else {})


def _allow_tf32(on: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on


def _with_tf32(call: Call, on: bool) -> Call:
    """The switch, which costs a microsecond, and the call; a recorded graph holds what was on when it was recorded."""

    def switched() -> object:
        _allow_tf32(on)
        return call()

    return switched


def _peak(bench: Bench, model: Any, feed: Any) -> int | None:
    """Weights, and the most that PyTorch's allocator held beside them during one query, in bytes."""
    if not bench.cuda:
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    model(feed)
    torch.cuda.synchronize()
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    return torch.cuda.max_memory_allocated() - before + weights
