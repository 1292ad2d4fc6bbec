"""deploy/first-start/ of a bundle: what makes an image, on the device, that builds its engine at its first start.

It is no image, because what it stands on is NVIDIA's and is not fetched: the layers of the bundle's own image are put
into a folder of their own there, where they run by their own C library beside whatever system that is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlopt.deploy.facts import config_of, dns_name
from mlopt.deploy.write import templates
from mlopt.image.load import manifest_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlopt.deploy.facts import DeployFacts
    from mlopt.image.assemble import Image
    from mlopt.target import Target

FILES: Final = ("first-start/Dockerfile", "first-start/compose.yaml")
_ROOT: Final = "/opt/mlopt"  # where the layers go
# The C library of each architecture, and the loader that starts a program by it.
_LOADERS: Final = {
    "linux/amd64": ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
    "linux/arm64": ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
}


@dataclass(frozen=True, slots=True)
class FirstStartFacts:
    """`base` is the image to stand on, in words; `base_asked` what compose says to who gives none. `layers` are paths
    in the bundle, lowest first; `builds` names with commas."""

    model: str
    target: str
    name: str
    reference: str
    platform: str
    port: int
    owner: str
    jetson: bool
    base: str
    base_asked: str
    layers: tuple[str, ...]
    builds: str
    entrypoint: tuple[str, ...]
    healthcheck: tuple[str, ...]


def write_first_start(facts: DeployFacts, image: Image, *, target: Target, builds: Sequence[str], into: Path) -> None:
    """Write the files below the folder `into`. `builds` are those of device/ that may serve."""
    filled = _facts(facts, image, target, builds)
    environment = templates()
    for name in FILES:
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(environment.get_template(f"{name}.j2").render(facts=filled), encoding="utf-8")


def _facts(facts: DeployFacts, image: Image, target: Target, builds: Sequence[str]) -> FirstStartFacts:
    stack = target.stacks[0]
    # A person's target file may say anything, and compose reads signs in it.
    container = re.sub(r"[^A-Za-z0-9._/:-]", "", stack.container or "")
    known = f"{container} of NVIDIA's registry, or of a mirror"
    base = known if container else f"an image with TensorRT {stack.tensorrt} and Python"
    config = config_of(image, facts.platform)
    python = _python(facts.platform, config["Env"])
    return FirstStartFacts(
        model=facts.model,
        target=facts.target,
        name=dns_name(f"{facts.name}-first-start"),
        reference=f"{facts.repository}-first-start:{facts.version}",
        platform=facts.platform,
        port=facts.port,
        owner=config["User"],
        jetson=bool(target.jetpacks),
        base=base,
        base_asked=f"${{BASE:?it is to name {base}}}",
        layers=tuple(_blob(layer["digest"]) for layer in manifest_of(image.path, facts.platform)["layers"]),
        builds=",".join(builds),
        entrypoint=(
            *python,
            "-m",
            "mlopt.serve",
            "--model-dir",
            f"{_ROOT}/model",
            "--engine-python",
            "/usr/bin/python3",
        ),
        healthcheck=(*python, "-m", "mlopt.serve.health", str(facts.port)),
    )


def _python(platform: str, environment: Sequence[str]) -> tuple[str, ...]:
    """The Python of the layers, started by their own loader. What concerns it alone is not in the environment of the
    container, whose own Python has TensorRT."""
    triplet, loader = _LOADERS[platform]
    libraries = f"{_ROOT}/usr/lib/{triplet}"
    own = (f"PYTHONHOME={_ROOT}/usr", *(line for line in environment if line.startswith(("PYTHON", "ORT_"))))
    start = (f"{libraries}/{loader}", "--inhibit-cache", "--library-path", libraries)
    return ("/usr/bin/env", *own, *start, f"{_ROOT}/usr/bin/python3.11")


def _blob(digest: str) -> str:
    algorithm, _, name = digest.partition(":")
    return f"image/blobs/{algorithm}/{name}"
