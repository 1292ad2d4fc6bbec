"""deploy/ of real bundles: there with an image and true to it, absent without one; an engine runs what it says."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import nets
import pytest
import walks
import yaml
from deploy.deployments import MIB, amount, compose_spec

from mlopt.deploy.write import FILES as DEPLOYED
from mlopt.image.fetch import Inputs
from mlopt.image.layout import read_blob
from mlopt.image.load import load_image, manifest_of
from mlopt.image.run import engine_runs

FILES = {f"deploy/{name}" for name in DEPLOYED}
# As tests/image/test_engines.py has it: no systemd, no raised limits, a store of our own.
CONTAINERS = """
[containers]
default_ulimits=["nofile=4096:4096","nproc=4096:4096"]
[engine]
cgroup_manager="cgroupfs"
events_logger="file"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a net and a quick profile."""
    folder = tmp_path_factory.mktemp("deploy")
    nets.save(nets.conv_net(), folder / "net.onnx")
    walks.profile(folder)
    return folder


def compiled(place: Path, *arguments: str) -> Path:
    """The bundle's folder."""
    asked = ("compile", "net.onnx", "-p", "./fast.toml", "--recipe", "fp32", "-q", *arguments)
    ended = walks.mlopt(*asked, cwd=place, env={"MLOPT_CACHE_DIR": str(place / "store")}, limit=400)
    assert ended.returncode == 0, ended.stderr
    return place / "out" / "net" / "host"


@pytest.fixture(scope="module")
def bundle(place: Path, image_inputs: Inputs) -> Path:
    walks.borrow_inputs(image_inputs, place / "store")
    return compiled(place)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.slow
def test_a_bundle_with_an_image_can_be_deployed(bundle: Path) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert {name for name in manifest["files"] if name.startswith("deploy/")} == FILES
    ended = compose_spec(bundle / "deploy" / "compose.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for kind in ("deployment", "service"):
        kubernetes_validate.validate(read(bundle / "deploy" / "k8s" / f"{kind}.yaml"), "1.37", strict=True)
    (image,) = read(bundle / "deploy" / "k8s" / "kustomization.yaml")["images"]
    assert image["digest"] == manifest["image"]["digest"]
    assert f"{image['name']}:1" == manifest["image"]["reference"]


@pytest.mark.slow
def test_the_files_say_what_the_image_says(bundle: Path) -> None:
    server = read(bundle / "deploy" / "compose.yaml")["services"]["server"]
    config = json.loads(read_blob(bundle / "image", manifest_of(bundle / "image", server["platform"])["config"]))
    config = config["config"]
    assert server["user"] == config["User"]
    assert server["healthcheck"]["test"] == config["Healthcheck"]["Test"]
    (port,) = config["ExposedPorts"]
    assert server["ports"] == [f"127.0.0.1:{port.removesuffix('/tcp')}:{port.removesuffix('/tcp')}"]
    pod = read(bundle / "deploy" / "k8s" / "deployment.yaml")["spec"]["template"]["spec"]
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == config["User"]
    assert pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][0] == config["Entrypoint"][0]


@pytest.mark.slow
def test_memory_comes_from_the_measurement_of_what_ships(bundle: Path) -> None:
    report = json.loads((bundle / "report.json").read_text())
    taken = next(one for one in report["candidates"] if one["name"] == report["winner"])["measurement"]
    deployment = read(bundle / "deploy" / "k8s" / "deployment.yaml")
    resources = deployment["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert 64 * MIB <= amount(resources["requests"]["memory"]) - taken["peak_memory"] < 80 * MIB
    assert amount(resources["limits"]["memory"]) == 2 * amount(resources["requests"]["memory"])
    assert deployment["metadata"]["annotations"]["io.mlopt.evidence"] == "measured"
    assert f"measured on {taken['device']}" in (bundle / "deploy" / "compose.yaml").read_text()


@pytest.mark.slow
def test_without_an_image_there_is_nothing_to_deploy(place: Path, tmp_path: Path) -> None:
    compiled(place, "--no-image", "-o", str(tmp_path / "out"))
    folder = tmp_path / "out" / "net" / "host"
    assert (folder / "bundle.json").is_file()
    assert not (folder / "deploy").exists()
    assert "deploy" not in (folder / "bundle.json").read_text()


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not shutil.which("podman"):
        pytest.skip("tier engine: podman is not installed")
    runtime = 'runtime="runc"\n' if shutil.which("runc") else ""
    (tmp_path / "containers.conf").write_text(CONTAINERS + runtime)
    store = f'[storage]\ndriver="overlay"\ngraphroot="{tmp_path}/graph"\nrunroot="{tmp_path}/run"\n'
    (tmp_path / "storage.conf").write_text(store)
    monkeypatch.setenv("CONTAINERS_CONF", str(tmp_path / "containers.conf"))
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    if not engine_runs("podman"):
        pytest.skip("tier engine: podman info fails here")
    yield
    subprocess.run(["podman", "rm", "--all", "--force"], capture_output=True, check=False)
    subprocess.run(["podman", "rmi", "--all", "--force"], capture_output=True, check=False)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.usefixtures("podman")
def test_the_image_gets_healthy_under_what_compose_says(bundle: Path) -> None:
    """Every setting of the service but its port, by hand: the server is asked from inside, by the file's own check."""
    service = read(bundle / "deploy" / "compose.yaml")["services"]["server"]
    reference = load_image(bundle / "image", engine="podman", platform=service["platform"])
    assert reference == service["image"]
    command = ["podman", "run", "--detach", "--network", "none", "--user", service["user"], "--cpus", service["cpus"]]
    command += ["--memory", service["mem_limit"], "--memory-swap", service["memswap_limit"]]
    # podman puts a writable /tmp into read-only containers unless told not to; Docker does not.
    command += ["--read-only", "--read-only-tmpfs=false"] if service["read_only"] else []
    for right in service["cap_drop"]:
        command += ["--cap-drop", right]
    for option in service["security_opt"]:
        command += ["--security-opt", option]
    name = said(*command, reference).strip().splitlines()[-1]
    kind, *check = service["healthcheck"]["test"]
    assert kind == "CMD"
    deadline = time.monotonic() + 30
    while (health := subprocess.run(["podman", "exec", name, *check], capture_output=True)).returncode:
        assert time.monotonic() < deadline, health.stderr.decode() + said("podman", "logs", name)
        time.sleep(0.2)
    said("podman", "stop", "--time", "25", name)
    assert json.loads(said("podman", "inspect", name))[0]["State"]["ExitCode"] == 0, "it ended by itself, not killed"


def said(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
