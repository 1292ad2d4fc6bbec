"""Tiers that need an engine or an emulator. A tier that cannot run here says why."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlopt.deploy.context import write_context
from mlopt.image.assemble import Image
from mlopt.image.inputs import host_platform
from mlopt.image.layout import read_blob
from mlopt.image.load import Engine, load_image, manifest_of
from mlopt.image.rootfs import unpack_rootfs
from mlopt.image.run import engine_runs, serve_image

# No swapped-in runtime, no systemd, no raised limits: what also works in a small virtual machine or a CI runner.
_CONTAINERS = """
[containers]
default_ulimits=["nofile=4096:4096","nproc=4096:4096"]
[engine]
cgroup_manager="cgroupfs"
events_logger="file"
"""

IMAGES = ["image", pytest.param("litert_image", marks=pytest.mark.litert), "native_image"]


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mlopt-engine-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def podman(scratch: Path) -> Iterator[None]:
    if not shutil.which("podman"):
        pytest.skip("tier engine: podman is not installed")
    runtime = 'runtime="runc"\n' if shutil.which("runc") else ""
    (scratch / "containers.conf").write_text(_CONTAINERS + runtime)
    (scratch / "storage.conf").write_text(
        f'[storage]\ndriver="overlay"\ngraphroot="{scratch}/graph"\nrunroot="{scratch}/run"\n'
    )
    with environment(
        CONTAINERS_CONF=str(scratch / "containers.conf"), CONTAINERS_STORAGE_CONF=str(scratch / "storage.conf")
    ):
        if not engine_runs("podman"):
            pytest.skip("tier engine: podman info fails here")
        yield
        subprocess.run(["podman", "rmi", "--all", "--force"], capture_output=True, check=False)


@pytest.fixture(scope="module")
def docker(scratch: Path) -> Iterator[None]:
    """The Docker that runs here, else one of our own, in a folder of our own."""
    if shutil.which("docker") and engine_runs("docker"):
        yield
        return
    if not (shutil.which("docker") and shutil.which("dockerd") and os.geteuid() == 0):
        pytest.skip("tier engine: no Docker runs here, and starting one needs docker, dockerd and root")
    socket, log = f"unix://{scratch}/docker.sock", scratch / "dockerd.log"
    command = ["dockerd", "--data-root", f"{scratch}/data", "--exec-root", f"{scratch}/exec", "-H", socket]
    command += ["--pidfile", f"{scratch}/dockerd.pid", "--bridge=none", "--iptables=false", "--ip6tables=false"]
    command += ["--storage-driver", "overlay2", "--cgroup-parent", "/mlopt-docker"]
    with log.open("wb") as stream:
        daemon = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        with environment(DOCKER_HOST=socket):
            deadline = time.monotonic() + 30
            while not engine_runs("docker"):
                if daemon.poll() is not None or time.monotonic() > deadline:
                    pytest.skip(f"tier engine: dockerd does not start here: {log.read_text()[-300:]}")
                time.sleep(0.3)
            yield
    finally:
        daemon.terminate()
        daemon.wait(60)


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def infer(url: str) -> list[Any]:
    tensor = {"name": "pixels", "shape": [2, 3, 8, 8], "datatype": "FP32", "data": [0.0] * 384}
    request = urllib.request.Request(f"{url}/v2/models/colours/infer", data=json.dumps({"inputs": [tensor]}).encode())
    with urllib.request.urlopen(request, timeout=60) as reply:
        return list(json.load(reply)["outputs"][0]["data"])


def inspect(engine: str) -> dict[str, Any]:
    (name,) = subprocess.run(
        [engine, "ps", "--filter", "name=mlopt-", "--format", "{{.Names}}"], capture_output=True, text=True, check=True
    ).stdout.split()
    return dict(json.loads(subprocess.run([engine, "inspect", name], capture_output=True, check=True).stdout)[0])


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("made", IMAGES)
@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_it_answers_in_an_engine_read_only_as_nobody(made: str, engine: Any, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(engine)
    image: Image = request.getfixturevalue(made)
    with serve_image(image.path, engine=engine) as served:
        assert served.engine == engine
        assert infer(served.url) == [0.0] * 6
        facts = inspect(engine)
        assert facts["HostConfig"]["ReadonlyRootfs"] is True
        assert facts["Config"]["User"] == "65532:65532"
        pid = facts["State"]["Pid"]
        status = Path(f"/proc/{pid}/status").read_text()
        assert re.search(r"^Uid:\s+65532\s", status, re.M)
        assert re.search(r"^CapEff:\s+0+$", status, re.M)
    left = subprocess.run([engine, "ps", "-a", "--filter", "name=mlopt-", "-q"], capture_output=True, text=True)
    assert left.stdout.strip() == ""


_STACKS = """
import ctypes
from mlopt.serve import litert
libc = ctypes.CDLL(None)
def size():
    stack = litert._Stack()
    assert libc.sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.size
before = size()
with litert._without_tiles():
    inside = size()
print(before, inside, size(), libc.syscall(158, 0x1022, ctypes.byref(ctypes.c_ulong())))
"""


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.litert
@pytest.mark.skipif(host_platform() != "linux/amd64", reason="tiles are of amd64's processors")
@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_an_engine_lets_the_server_keep_tiles_from_litert(
    engine: Engine, litert_image: Image, request: pytest.FixtureRequest
) -> None:
    """Its filter of system calls hinders neither the small signal stack nor a question for the registers."""
    request.getfixturevalue(engine)
    name = load_image(litert_image.path, engine=engine, platform=host_platform())
    kept = ["--network", "host", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    limits = ["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"]
    start = [engine, "run", "--rm", *kept, *limits, "--entrypoint", "/usr/bin/python3.11", name, "-c", _STACKS]
    here = subprocess.run([sys.executable, "-c", _STACKS], capture_output=True, text=True, check=True)
    there = subprocess.run(start, capture_output=True, text=True, check=False)
    assert there.stdout == here.stdout, there.stderr
    assert here.stdout.startswith("0 2048 0 ")


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_the_dockerfile_builds_the_same_files(
    image: Image, engine: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Without BuildKit too: what differs are times and digests, never a file."""
    request.getfixturevalue(engine)
    context = write_context(image.path, tmp_path / "context")
    name = f"localhost/mlopt/built-{os.urandom(4).hex()}:1"
    build = [engine, "build", "--build-arg", f"TARGETPLATFORM={host_platform()}", "--tag", name, str(context)]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    config = json.loads(subprocess.run([engine, "inspect", name], capture_output=True, check=True).stdout)[0]["Config"]
    wanted = json.loads(read_blob(image.path, manifest_of(image.path, host_platform())["config"]))["config"]
    for key in ("User", "Entrypoint", "Cmd", "WorkingDir", "Labels", "StopSignal"):
        assert config[key] == wanted[key] or key == "Labels", key
    assert set(wanted["Labels"].items()) <= set(config["Labels"].items())
    made = subprocess.run([engine, "create", name], capture_output=True, text=True, check=True).stdout.strip()
    exported = subprocess.run([engine, "export", made], capture_output=True, check=True).stdout
    subprocess.run([engine, "rm", made], capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
        files = {member.name: member.size for member in tar if member.isfile()}
    ours = unpack_rootfs(image.path, platform=host_platform(), root=tmp_path / "cache")
    expected = {
        path.relative_to(ours).as_posix(): path.stat().st_size
        for path in ours.rglob("*")
        if path.is_file() and not path.is_symlink() and ours.resolve() in path.resolve().parents
    }
    linked = {name for name in expected if name.split("/")[0] in ("bin", "lib", "lib64", "sbin")}
    assert {name: files.get(name) for name in expected if name not in linked} == {
        name: size for name, size in expected.items() if name not in linked
    }


def emulator() -> str:
    """A qemu-user for arm64 of version 10 or newer: `$MLOPT_QEMU_AARCH64`, or one on the path. Older ones crash."""
    for name in (os.environ.get("MLOPT_QEMU_AARCH64"), "qemu-aarch64-static", "qemu-aarch64"):
        path = shutil.which(name) if name else None
        if not path:
            continue
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"version (\d+)", said)
        if version and int(version[1]) >= 10:
            return path
    pytest.skip("tier emulation: no qemu-aarch64 of version 10 or newer (PATH or $MLOPT_QEMU_AARCH64)")


@pytest.mark.emulation
@pytest.mark.slow
@pytest.mark.skipif(host_platform() != "linux/amd64", reason="tier emulation: this machine is not amd64")
@pytest.mark.parametrize("made", IMAGES)
def test_the_arm64_image_starts_and_answers(made: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    image: Image = request.getfixturevalue(made)
    with serve_image(
        image.path,
        engine="none",
        platform="linux/arm64",
        emulator=[emulator()],
        root=tmp_path,
        ready_seconds=180,
    ) as served:
        assert infer(served.url) == [0.0] * 6
