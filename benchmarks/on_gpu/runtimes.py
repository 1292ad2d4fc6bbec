"""Other runtimes on this GPU: whether TensorRT for RTX builds and loads here, how fast ONNX Runtime for CUDA is."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import os
import tempfile
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .bench import Bench, Call, graph
from .nets import make, sqnr
from .shapes import NETS

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def tensorrt_rtx(bench: Bench) -> dict[str, Any]:
    """Build for this GPU and for none in particular, ask whether each is valid here, load it, run it."""
    trt = _rtx()
    with tempfile.TemporaryDirectory(prefix="mlopt-gpu-") as scratch:
        net, given = _small_net()
        file = _export(net, given, Path(scratch) / "net.onnx")
        wanted = {"current": ["CURRENT"], "none set": [], "sm 8.9": ["SM89"], "sm 9.0 as a number": [90]}
        return {"version": trt.__version__, "outcomes": {k: _probe(trt, file, v, bench) for k, v in wanted.items()}}


def _rtx() -> Any:
    try:
        return importlib.import_module("tensorrt_rtx")
    except ImportError:  # the package of that name only passes on what the bindings hold
        importlib.import_module("tensorrt_rtx_libs")  # loads the libraries that the bindings are linked with
        return importlib.import_module("tensorrt_rtx_bindings")


def _small_net() -> tuple[Any, Any]:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(32, 64, 3, 2, 1), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 10),
    ).eval()  # fmt: skip
    return net, torch.randn(1, 3, 64, 64)


def _probe(trt: Any, file: Path, capabilities: list[Any], bench: Bench) -> dict[str, Any]:
    heard: list[str] = []

    class Listener(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.WARNING:
                heard.append(f"{severity.name}: {message}"[:300])

    found: dict[str, Any] = {"said": heard}
    try:
        listener = Listener()
        builder = trt.Builder(listener)
        network = builder.create_network()
        parser = trt.OnnxParser(network, listener)
        found["parsed"] = parser.parse_from_file(str(file))
        config = builder.create_builder_config()
        if capabilities:
            config.num_compute_capabilities = len(capabilities)
            for number, name in enumerate(capabilities):
                wanted = getattr(trt.ComputeCapability, name) if isinstance(name, str) else trt.ComputeCapability(name)
                found["accepted"] = config.set_compute_capability(wanted, number)
        plan = builder.build_serialized_network(network, config)
        found["built_bytes"] = None if plan is None else plan.nbytes
        if plan is not None:
            runtime = trt.Runtime(listener)
            validity, diagnostics = runtime.get_engine_validity(plan)
            found["validity"] = [validity.name, int(diagnostics)]
            engine = runtime.deserialize_cuda_engine(plan)  # built above, in this process: no file is trusted
            found["loads"] = engine is not None
            if engine is not None:
                found |= _execute(trt, engine, bench)
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"[:500]
    return found


def _execute(trt: Any, engine: Any, bench: Bench) -> dict[str, Any]:
    context = engine.create_execution_context()
    tensors = {}
    for number in range(engine.num_io_tensors):
        name = engine.get_tensor_name(number)
        tensors[name] = torch.randn(tuple(engine.get_tensor_shape(name)), device=bench.device)
        context.set_tensor_address(name, tensors[name].data_ptr())
    done = context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    return {"runs": bool(done), "finite": all(bool(tensor.isfinite().all()) for tensor in tensors.values())}


def onnxruntime_cuda(bench: Bench) -> dict[str, Any]:
    """Nets on the CUDA provider, fp32, TF32 and fp16, with copies (session.run) and without (bound buffers)."""
    import onnxruntime as ort

    if bench.cuda and "CUDAExecutionProvider" not in ort.get_available_providers():
        raise RuntimeError(f"ONNX Runtime {ort.__version__} has only {', '.join(ort.get_available_providers())}")
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds the CUDA libraries that PyTorch's packages brought
    cases = (("resnet50", 1), ("bert_base", 1), ("mobilenet_v2", 1), ("vit_small", 1), ("resnet50", 32))
    found: dict[str, Any] = {}
    for name, batch in cases if bench.cuda else cases[:2]:
        case = f"{name}, batch {batch}"
        if figures := bench.attempt(case, partial(_on_onnxruntime, bench, name, batch)):
            found[case] = figures
    return found


@torch.no_grad()
def _on_onnxruntime(bench: Bench, name: str, batch: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="mlopt-gpu-") as scratch:
        return _side_by_side(bench, make(bench, name), NETS[name][1](batch), Path(scratch))


def _side_by_side(bench: Bench, net: Any, given: Any, scratch: Path) -> dict[str, Any]:
    calls: dict[str, Call] = {}
    placed: dict[str, dict[str, int]] = {}
    answers: dict[str, Any] = {}
    if bench.cuda:
        half = copy.deepcopy(net).half().to(bench.device)
        calls["PyTorch fp16 (NCHW), CUDA graph"] = graph(partial(half, _half(given).to(bench.device)))
    _export(net, given, scratch / "fp32.onnx")
    _export(copy.deepcopy(net).half(), _half(given), scratch / "fp16.onnx")
    for kind, tf32 in (("fp32", False), ("tf32", True), ("fp16", True)):
        file = scratch / ("fp16.onnx" if kind == "fp16" else "fp32.onnx")
        session = session_for(file, bench, tf32=tf32, profile=scratch / "profile")
        feeds = {session.get_inputs()[0].name: (_half(given) if kind == "fp16" else given).numpy()}
        answers[kind] = torch.from_numpy(session.run(None, feeds)[0]).float()
        placed[kind] = _placed(session)
        session = session_for(file, bench, tf32=tf32)
        calls[f"{kind}, session.run, copies in and out"] = partial(session.run, None, feeds)
        calls[f"{kind}, bound buffers"] = _bound(session, bench, feeds)
    figures: dict[str, Any] = bench.side_by_side(calls)
    for kind, answer in answers.items():
        of = figures[f"{kind}, session.run, copies in and out"]
        of |= {"nodes_by_provider": placed[kind], "sqnr_db": sqnr(answers["fp32"], answer)}
    return figures


def _half(given: Any) -> Any:
    return given.half() if given.is_floating_point() else given


def session_for(file: Path, bench: Bench, *, tf32: bool, profile: Path | None = None) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    cuda = [("CUDAExecutionProvider", {"use_tf32": str(int(tf32))})] if bench.cuda else []
    session = ort.InferenceSession(str(file), options, providers=[*cuda, "CPUExecutionProvider"])
    if bench.cuda and session.get_providers()[0] != "CUDAExecutionProvider":
        raise RuntimeError("ONNX Runtime could not load its CUDA provider and fell back to the CPU")
    return session


def _placed(session: Any) -> dict[str, int]:
    """How many nodes ran on which provider, from the profile of what ran: a fallback to the CPU shows here."""
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = {event["name"]: event["args"].get("provider", "") for event in events if event.get("cat") == "Node"}
    return dict(Counter(provider for provider in ran.values() if provider))


def _bound(session: Any, bench: Bench, feeds: dict[str, Any]) -> Call:
    import onnxruntime as ort

    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value, bench.device, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, bench.device, 0)

    def run() -> object:
        session.run_with_iobinding(binding)
        return binding.synchronize_outputs()

    return run


def _export(net: Any, given: Any, file: Path) -> Path:
    torch.onnx.export(net, (given,), str(file), dynamo=True, verbose=False)
    return file


def mlopt_runner(bench: Bench) -> dict[str, Any]:
    """The project's own runners and clock: a net on the CPU, on the CUDA provider, and there as a CUDA graph, each in a
    process of its own."""
    from mlopt.artifact import ONNX, Artifact, digest_of
    from mlopt.measure.interleave import Subject, measure_together
    from mlopt.profile import DEFAULT, find_profile
    from mlopt.report.gpu import said

    inputs = NETS["resnet50"][1]
    with tempfile.TemporaryDirectory(prefix="mlopt-gpu-") as scratch, torch.no_grad():
        file = _export(make(bench, "resnet50"), inputs(1), Path(scratch) / "fp32.onnx")
        artifact = Artifact(ONNX, digest_of(file), file)
        feed = {session_for(file, bench, tf32=False).get_inputs()[0].name: inputs(1).numpy()}
        measured, failures = measure_together(
            Subject("fp32, onnxruntime", artifact, "onnxruntime"),
            [Subject(f"fp32, {name}", artifact, name) for name in ("onnxruntime-cuda", "onnxruntime-cuda-graph")],
            single=[feed],
            offline=feed,
            method=replace(find_profile(DEFAULT).method, seconds=12.0, offline_batch=1, threads=8),
            device="CPU, 8 threads",
        )
    for name, why in failures.items():
        bench.skip(name, why.what)
    rows = {
        f"{name}, {one.device}": {
            "p50": one.latency.p50,
            "p95": one.latency.p99,
            "queries": one.latency.queries,
            "gpu": dataclasses.asdict(one.gpu) if one.gpu else None,
            "on_the_gpu": said(one.gpu) if one.gpu else "",
            "times_faster": {"least": one.speedup.low, "median": one.speedup.value, "most": one.speedup.high},
        }
        for name, one in measured.items()
    }
    return {"resnet50, batch 1 (its p95 is p99 here)": rows}
