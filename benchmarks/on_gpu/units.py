"""The GPU's units: matrix products by precision, and 2:4 sparse against dense."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from .bench import Bench, Call, graph

# What a transformer's feed-forward layer is at few and many tokens, and sizes that fill the chip: tokens, in, out.
LINEAR = ((128, 768, 3072), (4096, 768, 3072), (4096, 4096, 4096), (8192, 8192, 8192))


def products(bench: Bench) -> dict[str, Any]:
    """TOPS of square matrix products, random values, time by synchronised host clock over many in a row."""
    size, many = (8192, 20) if bench.cuda else (64, 1)
    wide = [torch.randn(size, size, device=bench.device) for _ in range(2)]
    calls: dict[str, Call] = {}

    def product(kind: str, make: Call) -> None:
        try:
            make()
            bench.sync()
        except Exception as error:
            bench.skip(kind, str(error).splitlines()[0])
        else:
            calls[kind] = lambda: [make() for _ in range(many)]

    def float32(tf32: bool) -> object:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        return wide[0] @ wide[1]

    product("fp32", partial(float32, False))
    product("tf32", partial(float32, True))
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        product(name, partial(torch.matmul, wide[0].to(dtype), wide[1].to(dtype)))
    left, right = (torch.randint(-127, 128, (size, size), device=bench.device, dtype=torch.int8) for _ in range(2))
    product("int8", partial(torch._int_mm, left, right.t().contiguous().t()))
    one = torch.tensor(1.0, device=bench.device)
    low = [value.clamp(-3, 3).to(torch.float8_e4m3fn) for value in wide]
    product(
        "fp8",
        partial(
            torch._scaled_mm, low[0], low[1].t().contiguous().t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16
        ),
    )
    figures = bench.side_by_side(calls)
    for found in figures.values():
        found["p50"], found["p95"] = found["p50"] / many, found["p95"] / many
        found["tera_operations_per_second"] = 2 * size**3 / found["p50"] / 1e12
    return {f"{size}×{size}×{size}": figures}


def sparsity(bench: Bench) -> dict[str, Any]:
    """A linear layer with dense weights, and with the same weights of which two in four are zero, by sparse kernels."""
    found: dict[str, Any] = {}
    for tokens, inside, out in LINEAR if bench.cuda else LINEAR[:1]:
        for kind, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
            name = f"{kind}, {tokens} tokens, {inside} to {out}"
            given = torch.randn(tokens, inside, device=bench.device, dtype=dtype)
            dense = two_in_four(torch.randn(out, inside, device=bench.device, dtype=dtype))
            linear = torch.nn.functional.linear
            try:
                weights = torch.sparse.to_sparse_semi_structured(dense)
                answer, want = linear(given, weights).float(), linear(given, dense).float()
            except Exception as error:
                bench.skip(name, str(error).splitlines()[0])
                continue
            ways: dict[str, Call] = {
                "dense": partial(linear, given, dense),
                "2:4 sparse": partial(linear, given, weights),
            }
            for way, call in list(ways.items()):  # what it costs the host to launch a kernel is left out in a graph
                if bench.cuda and (recorded := bench.attempt(f"{name}, {way}, CUDA graph", partial(graph, call))):
                    ways[f"{way}, CUDA graph"] = recorded
            found[name] = bench.side_by_side(ways)
            found[name]["2:4 sparse"]["relative_difference"] = float((answer - want).norm() / want.norm())
    return found


def two_in_four(weights: Any) -> Any:
    """The two of every four neighbours in a row that are smaller in magnitude become zero."""
    four = weights.view(-1, 4)
    least = four.abs().argsort(dim=1)[:, :2]
    return four.scatter(1, least, 0).view_as(weights)
