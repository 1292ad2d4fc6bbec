"""All that deployment files say, as one value: gathered from the run's findings and from the image itself."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlopt.deploy.resources import Allowance, cpu_of, memory_of
from mlopt.image.layout import read_blob
from mlopt.image.load import local_reference, manifest_of

if TYPE_CHECKING:
    from mlopt.image.assemble import Image
    from mlopt.report.report import Report
    from mlopt.target import Target

# A Service's name is a DNS label of RFC 1035; what is left is for the hash of a pod and for a person's own suffix.
_NAME_LENGTH: Final = 40


@dataclass(frozen=True, slots=True)
class DeployFacts:
    """`model`, `target` and `recipe` are names as people gave them, with any character in them; `name` is made of
    `model` for those who are strict. `repository` and `version` name the image in a registry, `reference` the one
    that `mlopt image load` gives it. `memory` is in bytes, `cpu` in thousandths of a core.
    `grpc_port` is None where the server speaks REST alone.
    """

    model: str
    name: str
    target: str
    recipe: str
    precision: str
    runtime: str
    status: str
    grade: str
    platform: str
    repository: str
    version: str
    reference: str
    digest: str
    user: int
    group: int
    port: int
    python: str
    healthcheck: tuple[str, ...]
    memory: Allowance
    cpu: Allowance
    grpc_port: int | None = None

    @property
    def architecture(self) -> str:
        """As Kubernetes labels its nodes: `amd64`, `arm64`."""
        return self.platform.split("/")[1]


def deploy_facts(report: Report, image: Image, *, target: Target, threads: int, status: str) -> DeployFacts:
    """The facts of what a run ships. User, port and health check are read from the image, so they cannot differ.

    `threads` is what one inference uses in the server; `status` is the bundle's. Raises `ImageFailed` for an
    image that is not whole.
    """
    shipped = report.candidate(report.winner)
    taken = shipped.measurement
    platform = "/".join(target.platform.split("/")[:2])
    config = config_of(image, platform)
    user, _, group = config["User"].partition(":")
    port, grpc_port = ports_of(config)
    repository, _, version = image.reference.rpartition(":")
    return DeployFacts(
        model=report.model.name,
        name=dns_name(repository),
        target=target.name,
        recipe=shipped.name,
        precision=shipped.precision,
        runtime=shipped.runtime,
        status=status,
        grade=taken.grade if taken else "unmeasured",
        platform=platform,
        repository=repository,
        version=version,
        reference=local_reference(image.path),
        digest=image.digest,
        user=int(user),
        group=int(group),
        port=port,
        python=config["Entrypoint"][0],
        healthcheck=tuple(config["Healthcheck"]["Test"]),
        memory=memory_of(taken, file_size=shipped.file_size, target=target),
        cpu=cpu_of(threads, target=target),
        grpc_port=grpc_port,
    )


def dns_name(text: str) -> str:
    """A DNS label of RFC 1035 for any text, at most 40 characters; texts that lose something get a hash, and so
    stay apart.

    >>> dns_name("squeezenet1-0"), dns_name("3d-net")
    ('squeezenet1-0', 'm-3d-net')
    """
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    named = plain if re.match(r"[a-z]", plain) else f"m-{plain}".rstrip("-")
    if plain == text and len(named) <= _NAME_LENGTH:
        return named
    digest = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]
    return f"{named[: _NAME_LENGTH - 9].rstrip('-')}-{digest}"


def ports_of(config: dict[str, Any]) -> tuple[int, int | None]:
    """Where an image with this config serves REST, and where gRPC, if it does."""
    port = int(config["Cmd"][config["Cmd"].index("--port") + 1])
    beside = {int(one.partition("/")[0]) for one in config["ExposedPorts"]} - {port}
    return port, min(beside, default=None)


def config_of(image: Image, platform: str) -> dict[str, Any]:
    """What the image says of how it wants to run."""
    found: dict[str, Any] = json.loads(read_blob(image.path, manifest_of(image.path, platform)["config"]))["config"]
    return found
