"""What the tests of deployment files share: facts of a made run, the files as data, and the rules a cluster keeps."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from mlopt.deploy.facts import DeployFacts, dns_name
from mlopt.deploy.resources import MIB, Allowance
from mlopt.deploy.write import write_deploy

PLAIN = DeployFacts(
    model="digits",
    name="digits",
    target="kubernetes-amd64",
    recipe="int8-static",
    precision="int8",
    runtime="onnxruntime",
    status="unmeasured",
    grade="unmeasured",
    platform="linux/amd64",
    repository="digits",
    version="1",
    reference="localhost/mlopt/digits:1",
    digest="sha256:" + "0123456789abcdef" * 4,
    user=65532,
    group=65532,
    port=8080,
    python="/usr/bin/python3.11",
    healthcheck=("CMD", "/usr/bin/python3.11", "-m", "mlopt.serve.health", "8080"),
    memory=Allowance(256 * MIB, 512 * MIB, "unmeasured", "a default"),
    cpu=Allowance(1000, 2000, "declared", "1 thread"),
)

# What a person, or a file from somebody else, may call a model, a recipe or a board.
HOSTILE = (
    "x\nprivileged: true",
    'a"\n    privileged: true\n    b: "',
    "a: b # c",
    "- [}{",
    "*alias &anchor !!python/object/apply:os.system ['id']",
    "${HOME} $HOME $$ $(id) `id`",
    "{{ 7 * 7 }}{% raw %}",
    "null",
    "1e3",
    "---",
    "'quoted' \\ back \\n",
    "tab\there\r\n\x00\x1b[31m\x7f\x85\u2028\u2029\ufeff",
    "modèle 模型 😀",
    "half \udcff",
    " spaces ",
    "n" * 200,
)


def hostile(text: str) -> DeployFacts:
    return replace(PLAIN, model=text, target=text, recipe=text, precision=text, name=dns_name(text))


def written(facts: DeployFacts, folder: Path) -> dict[str, Any]:
    """Every file as data, by its name in deploy/."""
    return {
        path.relative_to(folder).as_posix(): yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in write_deploy(facts, folder)
    }


def shape(value: Any) -> Any:
    """Keys and types without the values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


def compose_spec(path: Path) -> subprocess.CompletedProcess[str]:
    """The specification that Docker publishes, as check-jsonschema carries it: no network."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def broken_rules(deployment: Any, service: Any, *, routes: set[str]) -> list[str]:
    """What an API server or a kubelet would refuse or never make ready, and JSON schemas do not see."""
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    found = []
    for noun, selector in (
        ("deployment", deployment["spec"]["selector"]["matchLabels"]),
        ("service", service["spec"]["selector"]),
    ):
        if not selector or not selector.items() <= labels.items():
            found.append(f"the {noun}'s selector does not match the pod")
    found += [
        f"no such port: {port['targetPort']}" for port in service["spec"]["ports"] if port["targetPort"] not in ports
    ]
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        ask = container[kind]["httpGet"]
        if ask["port"] not in ports:
            found.append(f"{kind}: no such port")
        if ask["path"] not in routes:
            found.append(f"{kind}: the server has no {ask['path']}")
    scrape = pod["metadata"]["annotations"]
    if scrape["prometheus.io/path"] not in routes or scrape["prometheus.io/port"] not in map(str, ports.values()):
        found.append("nothing to scrape there")
    asked, most = container["resources"]["requests"], container["resources"]["limits"]
    found += [f"{key}: the limit is below the request" for key in asked if amount(asked[key]) > amount(most[key])]
    grace = pod["spec"]["terminationGracePeriodSeconds"]
    if grace < 25:
        found.append("killed before the server has ended: it waits 5 s, then takes up to 20 s")
    return found


def amount(quantity: str) -> int:
    """A quantity of Kubernetes in bytes, or in thousandths."""
    for suffix, factor in (("Mi", MIB), ("m", 1)):
        if quantity.endswith(suffix):
            return int(quantity.removesuffix(suffix)) * factor
    raise AssertionError(f"{quantity} has no unit")
