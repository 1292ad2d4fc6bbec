"""Reports as real runs give them, made from fixed seeds: the cases that a rendering must hold."""

from __future__ import annotations

from dataclasses import replace

from report.made_candidates import made_candidates
from report.made_insight import made_insight

from mlopt.measurement import Interval, OutputParity
from mlopt.report.report import (
    SCHEMA,
    ImageFacts,
    LeftOut,
    ModelFacts,
    Report,
    SamplesFacts,
    StepRun,
    TargetFacts,
    TensorFacts,
)

NASTY = '<script>alert("x")</script>|`*_[a](b)\x1b[31m\u202e & "quoted" \'single\''
LONG = "int8-static-per-channel-entropy-calibrated-with-first-and-last-layers-in-fp32-and-a-very-long-name"


def labelled() -> Report:
    """This machine, with labels: int8-static wins, the others lose in the usual ways."""
    return Report(
        schema=SCHEMA,
        mlopt="0.1.0",
        started="2026-03-14T09:26:53Z",
        seconds=71.4,
        peak_memory=812_000_000,
        command=("mlopt", "compile", "squeezenet1_0.onnx", "--target", "host", "--samples", "photos with spaces"),
        tools={"numpy": "2.3.1", "onnx": "1.20.0", "onnxruntime": "1.31.1", "python": "3.11.9"},
        machine={
            "cpu": "Intel Xeon Processor @ 2.60GHz",
            "cores": "2",
            "memory": "7.8 GB",
            "os": "Linux 6.8",
            "isa": "avx2, avx512f, avx512vnni",
        },
        model=ModelFacts(
            name="squeezenet1_0",
            format="onnx",
            digest="3f" * 32,
            bytes=4_952_222,
            parameters=1_248_424,
            opset=17,
            inputs=(TensorFacts("input", "float32", ("batch", 3, 224, 224)),),
            outputs=(TensorFacts("logits", "float32", ("batch", 1000)),),
            operators={
                "Conv": 26,
                "Relu": 26,
                "Concat": 8,
                "MaxPool": 3,
                "GlobalAveragePool": 1,
                "Flatten": 1,
                "Dropout": 1,
            },
        ),
        target=TargetFacts("host", "this machine: Intel Xeon Processor @ 2.60GHz", "linux/amd64", True, ()),
        profile={
            "name": "balanced",
            "summary": "Faster, and hardly worse",
            "minimize": "latency",
            "budgets": {
                "latency_p50": None,
                "latency_p99": 0.033,
                "max_drop": 0.02,
                "min_agreement": 0.95,
                "peak_memory": 512 * 2**20,
            },
            "method": {"scenario": "single-stream", "batch": 1, "threads": 2, "rounds": 20},
        },
        samples=SamplesFacts(
            source="nips17_imagenet",
            total=456,
            calibration=100,
            evaluation=356,
            seed=0,
            labelled=True,
            preprocess={
                "resize": None,
                "crop": [224, 224],
                "layout": "NCHW",
                "channels": "RGB",
                "scale": 0.00392157,
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
            },
            assumed_preprocess=False,
        ),
        parity=(
            OutputParity("logits", 1, 2.1e-5, 3.4e-6, 0.9999999999, 1e-3, "onnxruntime, not optimised"),
            OutputParity("logits", 2, 2.3e-5, 3.9e-6, 0.9999999998, 1e-3, "onnxruntime, not optimised"),
        ),
        candidates=made_candidates(),
        left_out=(
            LeftOut("int8-trt", "the target has no NVIDIA GPU"),
            LeftOut("bf16", "the runtime onnxruntime has no bf16 kernels for x86-64 without amx-bf16"),
        ),
        baseline="fp32",
        winner="int8-static",
        why="int8-static is inside every budget: 2.74× the baseline's speed [2.70, 2.79], 26% of its size",
        image=ImageFacts(
            "sha256:" + "c4" * 32,
            "squeezenet1_0:int8-static",
            {
                "linux/amd64": (
                    ("python", 18_200_000, 52_100_000),
                    ("onnxruntime", 21_900_000, 71_300_000),
                    ("server", 88_000, 310_000),
                    ("model", 1_101_000, 1_289_440),
                ),
                "linux/arm64": (
                    ("python", 17_600_000, 50_900_000),
                    ("onnxruntime", 17_300_000, 58_000_000),
                    ("server", 88_000, 310_000),
                    ("model", 1_101_000, 1_289_440),
                ),
            },
        ),
        image_left_out="",
        steps=(
            StepRun("optimize-graph", False, 1.93),
            StepRun("convert-fp16", False, 0.71),
            StepRun("quantize-static", False, 9.84),
            StepRun("outcomes", True, 0.0),
        ),
        notes=("2 cores were shared with other processes: p99 is wider than on a quiet machine.",),
        insight=made_insight("fp32", "int8-static"),
    )


def unlabelled() -> Report:
    """This machine, no labels: agreement and SQNR stand in, and the preprocessing was assumed."""
    report = labelled()
    assert report.samples is not None
    candidates = tuple(
        replace(
            candidate,
            accuracy=replace(
                candidate.accuracy,
                labelled=False,
                top1=None,
                baseline_top1=None,
                drop=None,
                agreement=Interval(share, share - 0.021, min(share + 0.015, 1.0), "Wilson, 95 %"),
            ),
        )
        for candidate, share in zip(report.candidates, (1.0, 0.997, 0.944, 0.958, 0.792), strict=True)
        if candidate.accuracy
    )
    candidates = tuple(replace(one, verdicts=one.verdicts[:2]) for one in candidates)  # a drop needs labels
    samples = replace(report.samples, labelled=False, preprocess=None, assumed_preprocess=True, source="photos")
    return replace(report, candidates=candidates, samples=samples)


def regression() -> Report:
    """A model that is no classifier, on generated numbers: only cosine and SQNR can be compared."""
    report = unlabelled()
    candidates = tuple(
        replace(one, accuracy=replace(one.accuracy, agreement=None, generated=True))
        for one in report.candidates
        if one.accuracy
    )
    profile = {**report.profile, "budgets": {"min_sqnr": 20.0, "latency_p50": 0.0065}}
    return replace(report, candidates=candidates, samples=None, profile=profile)


def elsewhere() -> Report:
    """A board that this machine is not: nothing was timed, and nothing may look as if it was."""
    report = labelled()
    reason = "its latency on jetson-orin-nano-8gb is unmeasured: nothing shows that it is not slower there"
    candidates = tuple(
        replace(
            candidate,
            measurement=None,
            eligible=False,
            why_not="" if candidate.name == "fp32" else candidate.why_not if "pt" in candidate.why_not else reason,
            pareto=candidate.name in ("fp32", "int8-static", "int4-weights"),
            verdicts=tuple(
                replace(one, actual=None, outcome="unmeasured", grade="unmeasured")
                if "latency" in one.budget or "memory" in one.budget
                else one
                for one in candidate.verdicts
            ),
        )
        for candidate in report.candidates
    )
    return replace(
        report,
        candidates=candidates,
        target=TargetFacts(
            "jetson-orin-nano-8gb", "NVIDIA Jetson Orin Nano 8 GB", "linux/arm64", False, ("stack.tensorrt", "memory")
        ),
        winner="fp32",
        why="no candidate is proven better than the baseline and inside every budget, so the baseline ships",
        image=None,
        image_left_out="the folder of wheels for linux/arm64 is not there",
        insight=None,
        notes=("TensorRT engines for this GPU can only be built on it.",),
    )


def with_failure() -> Report:
    """One candidate that its runtime refused: it has no numbers at all."""
    report = labelled()
    bare = replace(
        report.candidates[4], accuracy=None, measurement=None, verdicts=(), file_size=0, digest="", lineage=()
    )
    refused = "onnxruntime refused the model: NOT_IMPLEMENTED: no implementation for MatMulNBits(1) node"
    failed = replace(bare, why_not="", pareto=False, failure=refused)
    return replace(report, candidates=(*report.candidates[:4], failed))


def all_failed() -> Report:
    """Nothing could be made, so nothing ships."""
    failed = tuple(
        replace(
            one, failure="the step crashed", measurement=None, accuracy=None, file_size=0, verdicts=(), pareto=False
        )
        for one in labelled().candidates
    )
    return replace(labelled(), candidates=failed, winner="", why="", image=None, image_left_out="nothing ships")


def baseline_ships() -> Report:
    """Everything was measured and nothing beats the baseline."""
    report = labelled()
    candidates = tuple(
        replace(
            one,
            eligible=False,
            why_not="" if one.name == "fp32" else "it is not proven faster than the baseline: 0.98× [0.95, 1.01]",
        )
        for one in report.candidates
    )
    why = "no candidate is proven better than the baseline and inside every budget, so the baseline ships"
    return replace(report, candidates=candidates, winner="fp32", why=why)


def nasty() -> Report:
    """Names from a stranger's file: mark-up, escape sequences, reversed text, and a very long one."""
    report = labelled()
    names = {"int8-static": NASTY, "fp16": LONG, "int8-dynamic": "模型-量化-整数八位-动态-逐通道"}
    return replace(
        report,
        candidates=tuple(
            replace(
                one,
                name=names.get(one.name, one.name),
                notes=(NASTY,),
                why_not=one.why_not + (" " + NASTY if one.why_not else ""),
            )
            for one in report.candidates
        ),
        winner=NASTY,
        model=replace(report.model, name=NASTY),
        left_out=(LeftOut(NASTY, NASTY), LeftOut(LONG, "because")),
        notes=(NASTY,),
        command=("mlopt", "compile", "it's a $(model).onnx"),
        machine={**report.machine, "cpu": NASTY},
        insight=made_insight("fp32", NASTY, node=NASTY),
    )


def alone() -> Report:
    """Only the baseline, no samples: one point, no comparison."""
    report = labelled()
    only = replace(report.candidates[0], accuracy=None, why_not="", eligible=False)
    return replace(
        report,
        candidates=(only,),
        winner="fp32",
        samples=None,
        parity=(),
        left_out=(),
        steps=(),
        notes=(),
        why="it is the only candidate",
    )


ALL = {
    "labelled": labelled,
    "unlabelled": unlabelled,
    "regression": regression,
    "elsewhere": elsewhere,
    "failure": with_failure,
    "all-failed": all_failed,
    "baseline": baseline_ships,
    "nasty": nasty,
    "alone": alone,
}
