"""Images: their sizes by layer, the time they take, and whether the same input gives the same digest every time.

    make bench-images        (or: python benchmarks/images.py --rebuilds 100)

Inputs (packages and wheels) come from the user's cache, fetched before the clock starts. "Both architectures" packs
every layer anew in an empty cache; "a new model" has the layers below it there. Each rebuild of the hundred is a
process of its own with another hash seed, umask, time zone, working folder and times of files; every 25th packs all
layers anew. Processor time is said beside the clock, for who measures on a busy machine.
Writes reports/published/images.json and images.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import json, os, resource, sys, time
from pathlib import Path
from mlopt.image.assemble import ImageSpec, assemble
from mlopt.image.fetch import Inputs
folder, into, root = sys.argv[1:]
model = Path(folder) / "model.onnx"
serving = json.loads((Path(folder) / "serving.json").read_bytes())
def processor():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
began, before = time.perf_counter(), processor()
image = assemble(ImageSpec("bench", model, serving), Path(into), inputs=Inputs(root=Path(root)))
taken = {"seconds": time.perf_counter() - began, "processor_seconds": processor() - before}
print(json.dumps({**taken, **image.as_json()}))
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rebuilds", type=int, default=100)
    options.add_argument("--rounds", type=int, default=3, help="of each time")
    options.add_argument("--publish", type=Path, default=ROOT / "reports" / "published")
    said = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlopt-images-") as folder:
        place = Path(folder)
        found = {
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}",
            "onnxruntime": metadata.version("onnxruntime"),
            **times(place, said.rounds),
            "runtimes": runtimes(place / "cache-0"),
            "rebuilds": rebuilds(place, said.rebuilds),
        }
    publish(found, said.publish)


def write_model(folder: Path, seed: int) -> Path:
    """A small classifier whose weights are those of the seed."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from mlopt.image.serving import describe_serving, encode_serving

    weight = np.random.default_rng(seed).normal(size=(192, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["pixels"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["scores"])],
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weight, "w")],
    )
    folder.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    (folder / "serving.json").write_bytes(encode_serving(describe_serving(folder / "model.onnx", name="bench")))
    return folder


def cache(place: Path) -> Path:
    """A cache that has the locked inputs, fetched if need be, and no layer."""
    from mlopt.image.assemble import kitchen_of
    from mlopt.image.fetch import inputs_from_environment

    inputs = inputs_from_environment()
    kitchen = kitchen_of(inputs)
    for name in kitchen.base.packages:
        inputs.debs(kitchen.base.of(name))
        inputs.wheels(kitchen.runtime.of(name), python=kitchen.wanted.python)
    place.mkdir()
    (place / "inputs").symlink_to(inputs.root / "inputs")
    return place


def assembled(folder: Path, into: Path, root: Path, **process: Any) -> dict[str, Any]:
    command = [sys.executable, "-c", PROGRAM, str(folder), str(into), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **process)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def times(place: Path, rounds: int) -> dict[str, Any]:
    """What both architectures take from inputs alone, then a new model, then nothing new; the sizes."""
    taken: dict[str, list[dict[str, float]]] = {"both_architectures": [], "new_model": [], "nothing_new": []}
    sizes: list[dict[str, Any]] = []

    def once(kind: str, model: Path, root: Path) -> None:
        found = assembled(model, place / "image", root)
        taken[kind].append({name: found[name] for name in ("seconds", "processor_seconds")})
        sizes[:] = found["platforms"]

    for number in range(rounds):
        root = cache(place / f"cache-{number}")
        once("both_architectures", write_model(place / f"model-{number}", number), root)
        for seed in range(5):
            other = write_model(place / f"model-{number}-{seed}", 1000 + 10 * number + seed)
            once("new_model", other, root)
            once("nothing_new", other, root)
        print(f"round {number + 1}: {taken['both_architectures'][-1]}", file=sys.stderr)
    return {"taken": taken, "platforms": sizes}


def runtimes(root: Path) -> dict[str, list[dict[str, Any]]]:
    """The runtime layer of the image of each runtime, for both architectures."""
    from mlopt.image.assemble import kitchen_of
    from mlopt.image.fetch import Inputs
    from mlopt.image.layers import runtime_layer

    kitchen, found = kitchen_of(Inputs(root)), dict[str, list[dict[str, Any]]]()
    for name in kitchen.wanted.runtimes:
        layers = {one: runtime_layer(kitchen, platform=one, runtime=name) for one in kitchen.runtime.packages}
        found[name] = [
            {"platform": one, "compressed_bytes": layer.size, "unpacked_bytes": layer.unpacked}
            for one, layer in layers.items()
        ]
    return found


def rebuilds(place: Path, count: int) -> dict[str, Any]:
    """How many of `count` builds of one model have the digest of the first."""
    model = write_model(place / "model-same", 42)
    chance = random.Random(1)
    root = cache(place / "cache-same")
    digests: list[str] = []
    for number in range(count):
        if number % 25 == 0 and number:
            shutil.rmtree(root)
            root = cache(place / f"cache-same-{number}")
        away = place / f"away-{number}" / "deeper"
        shutil.copytree(model, away / f"model-{chance.randrange(10**6)}")
        (copy,) = away.iterdir()
        for path in copy.iterdir():
            os.utime(path, (chance.randrange(10**9), chance.randrange(10**9)))
        environment = {
            **os.environ,
            "TZ": chance.choice(["UTC", "Asia/Kathmandu", "America/St_Johns", "Pacific/Chatham"]),
            "PYTHONHASHSEED": str(chance.randrange(2**32)),
            "LC_ALL": chance.choice(["C", "C.UTF-8"]),
        }
        umask = chance.choice([0o022, 0o077, 0o002])
        found = assembled(copy, away / "image", root, env=environment, cwd=away, umask=umask)
        digests.append(found["digest"])
        shutil.rmtree(away.parent)
        if number % 10 == 9:
            print(f"{number + 1} rebuilds, {len(set(digests))} digest", file=sys.stderr)
    return {"count": count, "same": digests.count(digests[0]), "digest": digests[0]}


def publish(found: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found = {"command": "python benchmarks/images.py", "date": time.strftime("%Y-%m"), **found}
    (folder / "images.json").write_text(json.dumps(found, indent=1) + "\n")
    names = [layer["name"] for layer in found["platforms"][0]["layers"]]
    lines = [
        "# Images: sizes, times, digests",
        "",
        f"ONNX Runtime {found['onnxruntime']}; {found['machine']}; {found['date']}; by `make bench-images`.",
        "MB are 10^6 bytes: compressed as a registry stores it / unpacked. The model is a tiny one, and not counted.",
        "",
        "| | " + " | ".join(names[:-1]) + " | without the model |",
        "| --- |" + " --- |" * len(names),
    ]
    for image in found["platforms"]:
        below = image["layers"][:-1]
        cells = [f"{one['compressed_bytes'] / 1e6:.2f} / {one['unpacked_bytes'] / 1e6:.2f}" for one in below]
        sums = [sum(one[f"{kind}_bytes"] for one in below) / 1e6 for kind in ("compressed", "unpacked")]
        lines.append(f"| {image['platform']} | {' | '.join(cells)} | **{sums[0]:.1f} / {sums[1]:.1f}** |")
    lines += ["", "| the runtime layer of | " + " | ".join(one["platform"] for one in found["platforms"]) + " |"]
    lines.append("| --- |" + " --- |" * len(found["platforms"]))
    for name, layers in found["runtimes"].items():
        cells = [f"{one['compressed_bytes'] / 1e6:.2f} / {one['unpacked_bytes'] / 1e6:.2f}" for one in layers]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    rows = {
        "both architectures, every layer packed anew": "both_architectures",
        "a new model": "new_model",
        "nothing new": "nothing_new",
    }
    lines += ["", "| | median | most | processor time, median | runs |", "| --- | --- | --- | --- | --- |"]
    for title, key in rows.items():
        clock, processor = ([one[name] for one in found["taken"][key]] for name in ("seconds", "processor_seconds"))
        cells = [f"{value:.2f} s" for value in (statistics.median(clock), max(clock), statistics.median(processor))]
        lines.append(f"| {title} | {' | '.join(cells)} | {len(clock)} |")
    same = found["rebuilds"]
    lines += [
        "",
        f"{same['same']} of {same['count']} rebuilds have the digest of the first: in other folders, time zones,",
    ]
    lines += ["umasks and hash seeds, files of other times; every 25th packs all layers anew."]
    (folder / "images.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
