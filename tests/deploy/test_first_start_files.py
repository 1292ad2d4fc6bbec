"""deploy/first-start/ of a real bundle: its Dockerfile, followed line by line without any container engine, makes files
that serve, build an engine by the TensorRT of the "base" (which stands in for the vendor's), and then serve through it.

What this cannot show: that Docker and a base of NVIDIA's do the same, and that the GPU can be reached in there.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jetsons
import nets
import pytest
import walks
import yaml
from deploy.deployments import compose_spec

from mlopt.engines import why_no_first_start
from mlopt.image.fetch import Inputs
from mlopt.image.run import free_port
from mlopt.target import find_target

TARGET = """\
schema = 1
summary = "a card that builds its own engines"
platform = "linux/amd64"
build-on = "device"

[cpu]
model = "any"
isa = ["avx2"]

[gpu]
name = "a card"
compute-capability = "8.7"
memory = "8GiB"
precisions = ["fp32", "fp16"]

[[stack]]
cuda = "12.6"
tensorrt = "10.3.0"
"""


def dockerfile(path: Path) -> list[tuple[str, str]]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def followed(bundle: Path, root: Path) -> tuple[dict[str, str], list[str]]:
    """Environment and command of the image that the Dockerfile makes, its files below `root`."""
    environment: dict[str, str] = {}
    command: list[str] = []
    for word, rest in dockerfile(bundle / "deploy/first-start/Dockerfile"):
        if word == "ADD":
            source, target = json.loads(rest)
            with gzip.open(bundle / source) as stream, tarfile.open(fileobj=stream) as tar:
                tar.extractall(root / target.strip("/"), filter="tar")
        elif word == "COPY":
            source, target = rest.split()
            shutil.copytree(bundle / source, root / target.strip("/"))
        elif word == "ENV":
            environment |= dict(pair.split("=", 1) for pair in rest.split())
        elif word in ("ENTRYPOINT", "CMD"):
            command += json.loads(rest)
    return environment, command


def placed(text: str, root: Path) -> str:
    """The paths of the image as they are here."""
    return text.replace("/opt/mlopt", f"{root}/opt/mlopt").replace("/engines", f"{root}/engines")


@contextmanager
def started(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stream, subprocess.Popen(command, env=environment, stdout=stream, stderr=stream) as running:
        try:
            yield running
        finally:
            running.terminate()
            running.wait(30)


def engine_of(port: int) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/net", timeout=10) as answer:
            found: dict[str, Any] = json.loads(answer.read())["engine"]
            return found
    except OSError:
        return {"status": "not there"}


@pytest.mark.slow
def test_what_the_dockerfile_makes_builds_its_engine_and_serves_it(tmp_path: Path, image_inputs: Inputs) -> None:
    nets.save(nets.conv_net(), tmp_path / "net.onnx")
    (tmp_path / "card.toml").write_text(TARGET)
    walks.profile(tmp_path)
    walks.borrow_inputs(image_inputs, tmp_path / "store")
    asked = ("compile", "net.onnx", "-p", "./fast.toml", "--target", "./card.toml", "-r", "tensorrt-fp32", "-q")
    ended = walks.mlopt(*asked, cwd=tmp_path, env={"MLOPT_CACHE_DIR": str(tmp_path / "store")}, limit=400)
    assert ended.returncode == 0, ended.stderr
    bundle = tmp_path / "out/net/card"
    assert compose_spec(bundle / "deploy/first-start/compose.yaml").returncode == 0
    server = yaml.safe_load((bundle / "deploy/first-start/compose.yaml").read_text())["services"]["server"]
    assert server["build"]["args"]["BASE"] == "${BASE:?it is to name an image with TensorRT 10.3.0 and Python}"

    root = tmp_path / "root"
    environment, command = followed(bundle, root)
    board = jetsons.jetson(tmp_path / "device")
    python, port = jetsons.with_module(board), free_port()
    words = [
        placed(word, root).replace("/usr/bin/python3", str(python))
        if word == "/usr/bin/python3"
        else placed(word, root)
        for word in command
    ]
    words[words.index("8080")] = str(port)
    whole = {**board.env, **{name: placed(value, root) for name, value in environment.items()}}
    with started(words, whole, tmp_path / "log"):
        deadline = time.monotonic() + 60
        while (told := engine_of(port))["status"] != "engine":
            assert told["status"] != "fallback", told
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        assert told["engine"] == "tensorrt-fp32"
        health = next(
            rest for word, rest in dockerfile(bundle / "deploy/first-start/Dockerfile") if word == "HEALTHCHECK"
        )
        check = json.loads(health.partition(" CMD ")[2])
        check = [placed(word, root) for word in check[:-1]] + [str(port)]
        assert subprocess.run(check, env={"PATH": os.environ["PATH"]}, check=False).returncode == 0
    sizes = {path.name: path.stat().st_size for path in (bundle / "image/blobs/sha256").iterdir()}
    layers = [
        json.loads(rest)[0].rpartition("/")[2]
        for word, rest in dockerfile(bundle / "deploy/first-start/Dockerfile")
        if word == "ADD"
    ]
    assert sum(sizes[name] for name in layers) < 45e6


def test_a_jetson_gets_the_base_that_its_jetpack_names() -> None:
    assert find_target("jetson").stacks[0].container == "nvidia/l4t-tensorrt:r10.3.0-devel"
    assert not why_no_first_start(find_target("jetson"), ["tensorrt-fp16"], "python")


@pytest.mark.parametrize(
    ("target", "builds", "server", "why"),
    [
        ("jetson-nano", ["tensorrt-fp16"], "python", "cannot run an engine as the server does"),
        ("rpi5", ["tensorrt-fp16"], "python", "not built on it"),
        ("jetson", [], "python", "budgets"),
        ("jetson", ["tensorrt-fp16"], "native", "--server python does"),
    ],
)
def test_where_there_is_no_first_start_it_is_said_why(target: str, builds: list[str], server: str, why: str) -> None:
    assert why in why_no_first_start(find_target(target), builds, server)
