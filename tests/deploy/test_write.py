"""Deployment files: valid by the tools that others check them with, by a cluster's own rules, for any name."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from deploy.deployments import HOSTILE, PLAIN, broken_rules, compose_spec, hostile, shape, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kubernetes_validate.utils import all_versions
from starlette.routing import Route

from mlopt.deploy.facts import dns_name, ports_of
from mlopt.deploy.write import FILES, write_deploy
from mlopt.image.layout import canonical
from mlopt.image.start import start_of
from mlopt.serve.app import make_app
from mlopt.serve.settings import Limits

MANIFESTS = ("k8s/deployment.yaml", "k8s/service.yaml")
SERVING = '{"schema": 1, "name": "digits", "version": "1", "file": "model.onnx", "inputs": [], "outputs": []}'


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What the server that goes into images answers a GET on."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "serving.json").write_text(SERVING)
    app = make_app(folder, limits=Limits(), failed=pytest.fail)
    return {route.path for route in app.routes if isinstance(route, Route) and "GET" in (route.methods or ())}


def test_the_same_facts_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = write_deploy(PLAIN, tmp_path / "a"), write_deploy(PLAIN, tmp_path / "b")
    assert [path.relative_to(tmp_path / "a").as_posix() for path in first] == list(FILES)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert all(path.read_bytes().endswith(b"\n") and path.read_bytes().isascii() for path in first)


@pytest.mark.parametrize("version", all_versions())
def test_kubernetes_takes_them(version: str, tmp_path: Path) -> None:
    files = written(PLAIN, tmp_path)
    for name in MANIFESTS:
        kubernetes_validate.validate(files[name], version, strict=True)


def test_grpc_is_published_where_the_image_serves_it(tmp_path: Path, routes: set[str]) -> None:
    files = written(replace(PLAIN, grpc_port=8081), tmp_path)
    for name in MANIFESTS:
        kubernetes_validate.validate(files[name], "1.37", strict=True)
    assert compose_spec(tmp_path / "compose.yaml").returncode == 0
    assert broken_rules(*(files[name] for name in MANIFESTS), routes=routes) == []
    assert files["compose.yaml"]["services"]["server"]["ports"] == ["127.0.0.1:8080:8080", "127.0.0.1:8081:8081"]
    (container,) = files["k8s/deployment.yaml"]["spec"]["template"]["spec"]["containers"]
    assert [(one["name"], one["containerPort"]) for one in container["ports"]] == [("http", 8080), ("grpc", 8081)]
    ports = files["k8s/service.yaml"]["spec"]["ports"]
    assert [(one["name"], one["port"], one["targetPort"]) for one in ports] == [
        ("http", 80, "http"),
        ("grpc", 8081, "grpc"),
    ]
    assert "grpc" not in "".join(path.read_text() for path in write_deploy(PLAIN, tmp_path / "rest"))


@pytest.mark.parametrize(("beside", "grpc"), [((), None), ((1024,), 1024), ((9000,), 9000)])
def test_ports_are_told_apart_whichever_is_lower(beside: tuple[int, ...], grpc: int | None) -> None:
    """A config is stored with its keys sorted."""
    config = json.loads(canonical(start_of("python", beside)))
    assert ports_of(config) == (8080, grpc)


def test_the_check_by_schema_can_fail(tmp_path: Path) -> None:
    deployment = written(PLAIN, tmp_path)["k8s/deployment.yaml"]
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.37", strict=True)


def test_compose_takes_it(tmp_path: Path) -> None:
    write_deploy(PLAIN, tmp_path)
    ended = compose_spec(tmp_path / "compose.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    text = (tmp_path / "compose.yaml").read_text()
    (tmp_path / "typo.yaml").write_text(text.replace("read_only:", "readonly:"))
    assert compose_spec(tmp_path / "typo.yaml").returncode != 0


def test_a_cluster_could_run_them(tmp_path: Path, routes: set[str]) -> None:
    assert {"/v2/health/live", "/v2/health/ready", "/metrics"} <= routes
    files = written(PLAIN, tmp_path)
    assert broken_rules(*(files[name] for name in MANIFESTS), routes=routes) == []


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("0.spec.selector.matchLabels", {"app.kubernetes.io/name": "other"}, "deployment's selector"),
        ("1.spec.selector", {"app.kubernetes.io/name": "other"}, "service's selector"),
        ("1.spec.selector", {}, "service's selector"),
        ("1.spec.ports", [{"targetPort": "grpc"}], "no such port: grpc"),
        ("0.spec.template.spec.containers.0.readinessProbe.httpGet.path", "/healthz", "no /healthz"),
        ("0.spec.template.spec.containers.0.livenessProbe.httpGet.port", "web", "livenessProbe: no such port"),
        ("0.spec.template.spec.containers.0.resources.limits.memory", "16Mi", "memory: the limit"),
        ("0.spec.template.spec.containers.0.resources.limits.cpu", "1m", "cpu: the limit"),
        ("0.spec.template.metadata.annotations", {"prometheus.io/path": "/m", "prometheus.io/port": "8080"}, "scrape"),
        ("0.spec.template.spec.terminationGracePeriodSeconds", 5, "killed"),
    ],
)
def test_every_rule_can_fail(where: str, value: Any, words: str, tmp_path: Path, routes: set[str]) -> None:
    files = written(PLAIN, tmp_path)
    both = [copy.deepcopy(files[name]) for name in MANIFESTS]
    *way, last = [int(part) if part.isdigit() else part for part in re.split(r"\.(?!kubernetes|io)", where)]
    place: Any = both
    for part in way:
        place = place[part]
    assert last in place
    place[last] = value
    assert words in " ".join(broken_rules(*both, routes=routes))


def test_the_container_has_no_rights(tmp_path: Path) -> None:
    files = written(PLAIN, tmp_path)
    pod = files["k8s/deployment.yaml"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["nodeSelector"]["kubernetes.io/arch"] == "amd64"
    server = files["compose.yaml"]["services"]["server"]
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert server["security_opt"] == ["no-new-privileges:true"]
    assert server["user"] == "65532:65532"
    assert server["ports"] == ["127.0.0.1:8080:8080"]
    assert server["mem_limit"] == server["memswap_limit"] == "512m"
    assert server["cpus"] == "2"
    assert server["healthcheck"]["test"] == list(PLAIN.healthcheck)


def test_what_is_said_of_the_server_is_what_it_does(tmp_path: Path) -> None:
    """Inferences at once stand behind the CPU limit, the time to end behind both grace periods."""
    from mlopt.deploy.resources import cpu_of
    from mlopt.serve.settings import read_settings
    from mlopt.target import Cpu, Target

    defaults = read_settings(["--model-dir", "x"], {})
    assert cpu_of(3, target=Target("t", "", "linux/amd64", Cpu("any", ()))).limit == 3000 * defaults.limits.concurrency
    files = written(PLAIN, tmp_path)
    pod = files["k8s/deployment.yaml"]["spec"]["template"]["spec"]
    assert "time.sleep(5)" in pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert pod["terminationGracePeriodSeconds"] >= defaults.grace + 5
    assert int(files["compose.yaml"]["services"]["server"]["stop_grace_period"].removesuffix("s")) > defaults.grace


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_name_changes_what_is_deployed(text: str, tmp_path: Path) -> None:
    files, plain = written(hostile(text), tmp_path / "a"), written(PLAIN, tmp_path / "b")
    assert shape(files) == shape(plain)
    stored = text.encode("utf-8", "backslashreplace").decode()
    for name in MANIFESTS:
        kubernetes_validate.validate(files[name], "1.37", strict=True)
    assert files["k8s/deployment.yaml"]["metadata"]["annotations"]["io.mlopt.model"] == stored
    label = files["compose.yaml"]["services"]["server"]["labels"]["io.mlopt.model"]
    assert not re.search(r"(?<!\$)(\$\$)*\$(?!\$)", label), "compose would put a variable there"
    assert label.replace("$$", "$") == stored
    ended = compose_spec(tmp_path / "a" / "compose.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(), max_size=40))
def test_any_text_comes_back_as_it_was(text: str, tmp_path: Path) -> None:
    files = written(replace(PLAIN, model=text, target=text), tmp_path)
    stored = text.encode("utf-8", "backslashreplace").decode()
    found = files["k8s/deployment.yaml"]["metadata"]["annotations"]
    assert (found["io.mlopt.model"], found["io.mlopt.target"]) == (stored, stored)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_any_name_becomes_one_that_dns_takes(text: str) -> None:
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", dns_name(text))


def test_names_that_lose_something_stay_apart() -> None:
    assert dns_name("resnet-20") == "resnet-20"
    assert len({dns_name(text) for text in ("a b", "a-b", "a_b", "A-b", "模型", "型模", "n" * 60, "n" * 61)}) == 8


def test_an_engine_that_nobody_built_is_said_to_be_absent(tmp_path: Path) -> None:
    write_deploy(replace(PLAIN, status="needs-device-build"), tmp_path / "device")
    write_deploy(replace(PLAIN, status="device-built"), tmp_path / "built")
    write_deploy(PLAIN, tmp_path / "plain")
    for name in ("compose.yaml", "k8s/deployment.yaml"):
        assert "none of the engines that the device built" in (tmp_path / "built" / name).read_text()
        assert "there is none yet" in (tmp_path / "device" / name).read_text()
        assert "there is none yet" not in (tmp_path / "plain" / name).read_text()


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed: what kustomize makes is not seen")
@pytest.mark.parametrize("text", ["digits", "{{ 7 * 7 }}", 'a"\n  b: c', "模型 😀"])
def test_kustomize_pins_the_digest_and_an_overlay_gives_the_registry(text: str, tmp_path: Path) -> None:
    facts = hostile(text) if text != "digits" else PLAIN
    write_deploy(facts, tmp_path / "bundle" / "deploy")
    base = built(tmp_path / "bundle" / "deploy" / "k8s")
    assert image_of(base) == f"digits@{PLAIN.digest}"
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    # As the first lines of the base say it.
    (overlay / "kustomization.yaml").write_text(
        "resources: [../bundle/deploy/k8s]\n"
        "images: [{name: digits, newName: registry.example/models/digits}]\n"
        "nameSuffix: -canary\n"
    )
    made = built(overlay)
    assert image_of(made) == f"registry.example/models/digits@{PLAIN.digest}"
    for document in made:
        kubernetes_validate.validate(document, "1.37", strict=True)
        assert document["metadata"]["name"] == f"{facts.name}-canary"


def built(folder: Path) -> list[Any]:
    """What `kubectl kustomize` makes of a folder."""
    ended = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return list(yaml.safe_load_all(ended.stdout))


def image_of(documents: list[Any]) -> str:
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return str(container["image"])


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_compose_itself_reads_every_name_back(text: str, tmp_path: Path) -> None:
    asked = ["docker", "compose", "version"]
    if not shutil.which("docker") or subprocess.run(asked, capture_output=True, check=False).returncode:
        pytest.skip("the compose plugin of Docker is not installed: checked against its specification alone")
    write_deploy(hostile(text), tmp_path)
    command = ["docker", "compose", "-f", str(tmp_path / "compose.yaml"), "config", "--format", "json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    service = json.loads(ended.stdout)["services"]["server"]
    # What it prints is a compose file again, in which a dollar is two.
    stored = text.encode("utf-8", "backslashreplace").decode().replace("$", "$$")
    assert service["labels"]["io.mlopt.model"] == stored
    assert service["mem_limit"] == str(512 << 20)
    assert service["read_only"] is True
