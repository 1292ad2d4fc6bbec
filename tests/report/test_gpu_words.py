"""What a report says of candidates that ran on a GPU: in every rendering, and loud where the card was held back."""

from __future__ import annotations

import json
from dataclasses import replace

from report import made_reports

from mlopt.measurement import Gpu, GpuClocks
from mlopt.report.html import to_html
from mlopt.report.markdown import to_markdown
from mlopt.report.report import Report, to_json
from mlopt.report.terminal import to_terminal

CLOCKS = GpuClocks(20, 1980, 1410, 1980, 3201, 3201, 391.7, 700.0, 61, {})
GPU = Gpu(
    card="00010203-0405-0607-0809-0a0b0c0d0e0f",
    name="NVIDIA H200",
    driver="580.159.04",
    cuda_graph=True,
    nodes={"TensorrtExecutionProvider": 0, "CUDAExecutionProvider": 40, "CPUExecutionProvider": 2},
    on_cpu={"NonZero": 2},
    without_copies=0.0021,
    memory=612_000_000,
    memory_method="of a fresh process, as NVML tells it",
    clocks=CLOCKS,
    unread=(),
)


def report(gpu: Gpu) -> Report:
    """The made report, whose third candidate ran on a GPU."""
    made = made_reports.labelled()
    candidates = list(made.candidates)
    measurement = candidates[2].measurement
    assert measurement
    candidates[2] = replace(candidates[2], measurement=replace(measurement, gpu=gpu))
    return replace(made, candidates=tuple(candidates))


def test_nodes_copies_memory_and_clocks_stand_in_every_rendering() -> None:
    made = report(GPU)
    terminal = " ".join(to_terminal(made, width=100, color=False).split())
    html, markdown = to_html(made), to_markdown(made)
    for shown in (terminal, html, markdown):
        assert "0 of 42 nodes by TensorRT, 40 by CUDA, 2 by the CPU (NonZero × 2), as one CUDA graph" in shown
        assert "without which p50 is 2.10 ms" in shown
        assert "SM at 1980 of 1980 MHz, 1410 at the lowest" in shown
        assert "held back" not in shown
    assert "On the GPU" in html
    assert 'title="the most that a fresh process held of the card"' in html
    assert "of a fresh process, as NVML tells it" in html
    written = next(one for one in to_json(made)["candidates"] if one["measurement"]["gpu"])
    assert json.loads(json.dumps(written))["measurement"]["gpu"]["memory"] == 612_000_000


def test_without_a_gpu_there_is_no_word_of_one() -> None:
    made = made_reports.labelled()
    assert "On the GPU" not in to_html(made)
    assert "GPU memory" not in to_html(made)
    assert "on the GPU" not in to_terminal(made, width=200, color=False)


def test_a_card_that_was_held_back_is_a_warning() -> None:
    made = report(replace(GPU, clocks=replace(CLOCKS, held_back={"power cap": 3})))
    for shown in (to_terminal(made, width=300, color=False), to_html(made), to_markdown(made)):
        assert "the GPU" in shown
        assert "clocks were held back (power cap in 3 of 20 rounds): it may be faster where they are not." in shown
