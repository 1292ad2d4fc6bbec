"""Stands in for trtexec in tests: it takes what that version lists and nothing else, and answers by ONNX Runtime.

What it is to do beside that stands in behaviour.json beside it; every call is added to calls.jsonl.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMON = (
    *("onnx", "saveEngine", "loadEngine", "minShapes", "optShapes", "maxShapes", "shapes", "loadInputs"),
    *("iterations", "duration", "warmUp", "exportTimes", "exportOutput", "verbose", "timingCacheFile"),
)
OPTIONS = {
    "8201": ("workspace", "fp16", "int8", "best", "buildOnly"),
    "8502": ("memPoolSize", "fp16", "int8", "best", "buildOnly", "exportLayerInfo", "profilingVerbosity", "sparsity"),
    "100300": (
        "sparsity",
        *("memPoolSize", "fp16", "int8", "best", "skipInference", "exportLayerInfo", "profilingVerbosity"),
        "stronglyTyped",
    ),
    "110400": ("memPoolSize", "skipInference", "exportLayerInfo", "profilingVerbosity", "sparsity"),
}


def main() -> int:
    wanted = json.loads((HERE / "behaviour.json").read_text())
    version = wanted.get("version", "100300")
    print(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{version}] # {' '.join(sys.argv)}")
    known = (*COMMON, *OPTIONS[version])
    if sys.argv[1:] == ["--help"]:
        print("=== Options ===")
        for name in known:
            print(f"  --{name}                 {name} (default = disabled)")
        return 0
    with (HERE / "calls.jsonl").open("a") as stream:
        stream.write(json.dumps(sys.argv[1:]) + "\n")
    asked = {name: value for name, _, value in (word.lstrip("-").partition("=") for word in sys.argv[1:])}
    if strange := sorted(set(asked) - set(known)):
        return refuse(f"Unknown option: --{strange[0]}")
    return build(asked, wanted, version) if "onnx" in asked else run(asked, wanted, version)


def refuse(said: str) -> int:
    print(f"[11/26/2026-10:00:00] [E] {said}")
    print("&&&& FAILED TensorRT.trtexec")
    return 1


def build(asked: dict[str, str], wanted: dict[str, object], version: str) -> int:
    import onnx

    do = wanted.get("build")
    if isinstance(do, dict):
        do = next((what for part, what in do.items() if part in asked["onnx"]), None)
    if do == "killed":
        return 137
    if do == "sleep":
        (HERE / "pid").write_text(str(os.getpid()))
        time.sleep(600)
    while do == "wait" and not (HERE / "go").exists():
        time.sleep(0.02)
    if do == "eat":
        Path(str(wanted["meminfo"])).write_text("MemTotal: 8000000 kB\nMemAvailable: 50000 kB\n")
        time.sleep(600)
    if do == "orphan":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    if do == "full":
        return refuse("Saving engine to file failed: No space left on device")
    if do == "quota":
        return refuse("Saving engine to file failed: Disk quota exceeded")
    print("[11/26/2026-10:00:00] [W] [TRT] Skipping tactic 0 due to insufficient memory on requested size of 9 bytes")
    if do == "no-memory":
        return refuse("Cuda failure: out of memory")
    if do == "other":
        return refuse("something else")
    if do == "node-8":
        print('[E] [TRT] ModelImporter.cpp:771: While parsing node number 1 [Relu -> "r1"]:')
        return refuse("[TRT] ModelImporter.cpp:775: --- Begin node ---")
    if do == "node-10":
        said = (
            "In node 1 with name: relu1 and operator: Relu (checkFallbackPluginImporter): UNSUPPORTED_NODE: no plugin"
        )
        return refuse(f"[TRT] ModelImporter.cpp:948: {said}")
    model = onnx.load(asked["onnx"])
    types = {tensor.data_type for tensor in model.graph.initializer}
    half, quantized = onnx.TensorProto.FLOAT16 in types, any("Quant" in node.op_type for node in model.graph.node)
    if version.startswith("8") and (half, quantized) != ("fp16" in asked, "int8" in asked):
        return refuse("the flags are not the types of the model")
    if version == "100300" and ("stronglyTyped" not in asked or {"fp16", "int8", "best"} & set(asked)):
        return refuse("not strongly typed")
    free = any(dim.dim_param for tensor in model.graph.input for dim in tensor.type.tensor_type.shape.dim)
    if free != ("minShapes" in asked) or free != ("maxShapes" in asked):
        return refuse("Network has dynamic or shape inputs, but no optimization profile has been defined")
    if asked.get("sparsity") == "enable" and "verbose" in asked:
        say_of_sparsity(version)
    Path(asked["saveEngine"]).write_bytes(b"ENGINE" + Path(asked["onnx"]).read_bytes())
    if "exportLayerInfo" in asked:
        layers = [{"Name": node.name, "LayerType": node.op_type} for node in model.graph.node]
        Path(asked["exportLayerInfo"]).write_text(json.dumps({"Layers": layers}))
    with Path(asked["timingCacheFile"]).open("ab") as stream:
        stream.write(b"timed;")
    return 0


def say_of_sparsity(version: str) -> None:
    """As the versions say it: two passes, of which the second counts."""
    for layers in (["c1", "c2"], ["c1", "c2", "c3"]):
        if version.startswith("8"):
            print(f"[I] [TRT] (Sparsity) Layers eligible for sparse math: {', '.join(layers)}")
            print("[I] [TRT] (Sparsity) TRT inference plan picked sparse implementation for layers: c1")
        else:
            print(f"[V] [TRT] (Sparsity) Found {len(layers)} layer(s) eligible to use sparse tactics: {layers}")
            print("[V] [TRT] (Sparsity) Chose 1 layer(s) using sparse tactics: c1")
    print("[V] [TRT] Skipping tactic 0x1 due to out of memory in the workspace")


def run(asked: dict[str, str], wanted: dict[str, object], version: str) -> int:
    import numpy as np
    import onnxruntime as ort

    engine = Path(asked["loadEngine"]).read_bytes()
    if not engine.startswith(b"ENGINE"):
        return refuse("Engine deserialization failed")
    session = ort.InferenceSession(engine[6:], providers=["CPUExecutionProvider"])
    pairs = (pair.rsplit(":", 1) for pair in asked.get("shapes", "").split(",") if pair)
    shapes = {name.strip("'"): [int(dim) for dim in shape.split("x")] for name, shape in pairs}
    files = dict(pair.rsplit(":", 1) for pair in asked["loadInputs"].split(","))
    feed = {}
    for tensor in session.get_inputs():
        whole = {"tensor(int64)": np.int32 if version.startswith("8") else np.int64}.get(tensor.type)
        values = np.fromfile(files.get(tensor.name) or files[f"'{tensor.name}'"], dtype=whole or np.float32)
        values = values.astype(np.int64) if whole else values
        feed[tensor.name] = values.reshape(shapes.get(tensor.name, tensor.shape))
    answers = session.run(None, feed)
    if "exportOutput" in asked:
        assert asked["iterations"] == "1"
        skew = float(str(wanted.get("skew", 1.0)))
        told = [
            {
                "name": tensor.name,
                "dimensions": "x".join(map(str, value.shape)),
                "values": [
                    float(one) for one in np.asarray(value, dtype=np.float64).reshape(-1)[:: -1 if skew < 0 else 1]
                ],
            }
            for tensor, value in zip(session.get_outputs(), answers, strict=True)
        ]
        text = json.dumps(told)
        if wanted.get("nan"):
            text = text.replace('"values": [', '"values": [nan, -inf, ')
        Path(asked["exportOutput"]).write_text(str(wanted.get("writes", text)))
    if "exportTimes" in asked:
        rows = [{"startComputeMs": 10.0 * n, "latencyMs": 2.0 + n / 100, "computeMs": 1.5} for n in range(151)]
        Path(asked["exportTimes"]).write_text(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
