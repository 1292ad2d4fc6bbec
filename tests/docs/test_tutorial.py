"""The tutorial, done as it says: its files written, its commands run in order, its server asked and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PORT = "8080"
SAVED = re.compile(r"this as `([\w.]+)`")
BLOCK = re.compile(r"^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block; `name` is the file that the words before it say to save it as."""

    kind: str
    text: str
    name: str | None


def blocks(page: str) -> list[Block]:
    found = []
    end = 0
    for match in BLOCK.finditer(page):
        before = SAVED.findall(page[end : match.start()])
        name = before[-1] if before else None
        found.append(Block(match["kind"], match["text"], name if match["kind"] != "sh" else None))
        end = match.end()
    return found


@pytest.fixture(scope="module")
def tutorial(root: Path) -> list[Block]:
    return blocks((root / "docs" / "tutorial.md").read_text())


def test_every_block_is_a_file_or_commands(tutorial: list[Block]) -> None:
    assert {block.name for block in tutorial if block.kind != "sh"} == {"nets.py", "train.py", "mlopt.toml"}
    assert sum(block.kind == "sh" for block in tutorial) >= 8
    said = "\n".join(block.text for block in tutorial)
    for verb in ("inspect", "compile", "export", "serve", "targets"):
        assert f"mlopt {verb}" in said


@pytest.mark.slow
@pytest.mark.torch
def test_the_tutorial_works(tutorial: list[Block], tmp_path: Path) -> None:
    for tool in ("bash", "curl"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed, and the tutorial uses it")
    port = free_port()
    folder = tmp_path / "tutorial"
    folder.mkdir()
    said: list[str] = []
    with contextlib.ExitStack() as running:
        for block in tutorial:
            if block.name:
                (folder / block.name).write_text(block.text)
                continue
            script = without_network(block.text.replace(PORT, port))
            if script.startswith("mlopt serve"):
                running.enter_context(in_another_terminal(script, folder))
            else:
                said.append(run(script, folder))
    whole = "\n".join(said)
    assert "that it never saw" in whole
    assert "nothing was built" in whole
    assert json.loads((folder / "out/shapes/host/bundle.json").read_text())["status"] == "measured"
    rpi = json.loads((folder / "out/shapes/rpi5/bundle.json").read_text())
    assert (rpi["status"], rpi["winner"]["recipe"]) == ("unmeasured", "int8-static")
    assert '"name":"triangle"' in whole.replace(" ", "").partition('"classes":[')[2].partition("}")[0]
    assert '"datatype":"FP32","shape":[1,3]' in whole.replace(" ", "")
    assert "# HELP" in whole


def without_network(script: str) -> str:
    """An image is assembled from packages that a machine may not be able to fetch; that is tested in tests/image."""
    return re.sub(r"^(mlopt compile shapes.pt --target host)$", r"\1 --no-image", script, flags=re.MULTILINE)


def run(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}"
    return done.stdout


@contextlib.contextmanager
def in_another_terminal(script: str, folder: Path) -> Iterator[None]:
    """The command in a session of its own; at the end Ctrl-C, which reaches all that it started."""
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield
        assert process.poll() is None, process.communicate()[0]
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": ""}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
