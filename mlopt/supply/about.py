"""All that SBOMs and provenance say of an image, as one value: from the run's findings, the locks and the image."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlopt.artifact import digest_of, files
from mlopt.image.assemble import kitchen_of
from mlopt.image.inputs import docker_folder
from mlopt.image.layers import source_date
from mlopt.image.native import sources
from mlopt.image.serving import extras_of
from mlopt.request import Server
from mlopt.supply.figures import Figure, figures_of
from mlopt.supply.packages import Component, debs, image_below, vendored, wheels

if TYPE_CHECKING:
    from mlopt.image.assemble import Image
    from mlopt.image.base import Base
    from mlopt.image.fetch import Inputs
    from mlopt.report.report import Report, StepFacts, TensorFacts


@dataclass(frozen=True, slots=True)
class ShippedModel:
    """The model in the image. `digest` is the artifact's; `files` are those of its folder, with their sha256;
    `distribution` is what PyPI calls its runtime."""

    name: str
    digest: str
    files: Mapping[str, str]
    precision: str
    runtime: str
    distribution: str
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """The image of one platform: its manifest's digest, and what is in it."""

    platform: str
    digest: str
    components: tuple[Component, ...]


@dataclass(frozen=True, slots=True)
class About:
    """`created` is the one time that everything in the image has; `given` are the files that were compiled and `locks`
    those that pin the packages (and what the server was built from), with their sha256."""

    name: str
    version: str
    digest: str
    mlopt: str
    server: Server
    created: str
    suite: str
    target: str
    profile: str
    recipe: str
    given: Mapping[str, str]
    given_format: str
    steps: tuple[StepFacts, ...]
    tools: Mapping[str, str]
    locks: Mapping[str, str]
    model: ShippedModel
    platforms: tuple[Contents, ...]


def about(
    report: Report, image: Image, *, source: Path, model: Path, inputs: Inputs, base: Base | None = None
) -> About:
    """`source` is the folder of what was compiled, `model` of what went into the image, `base` of the user's choice.

    Raises `ImageFailed` when a package is no longer to be had.
    """
    shipped = report.candidate(report.winner)
    kitchen = kitchen_of(inputs)
    suite, python = kitchen.wanted.suite, kitchen.wanted.python
    name, _, version = image.reference.rpartition(":")

    compiled = vendored(kitchen.native.vendored) if image.server == "native" else ()
    extras = extras_of(json.loads((model / "serving.json").read_bytes()))

    def contents(platform: str, digest: str) -> Contents:
        own = () if base else kitchen.debs(platform, image.server)
        packages = (*own, *kitchen.libraries(platform, shipped.runtime, image.server))
        below = debs(packages, suite=suite, platform=platform, inputs=inputs)
        runtime = wheels(kitchen.wheels(platform, shipped.runtime, image.server, extras), python=python, inputs=inputs)
        ground = (image_below(base, platform),) if base else ()
        return Contents(platform, digest.removeprefix("sha256:"), (*ground, *below, *runtime, *compiled))

    return About(
        name=name,
        version=version,
        digest=image.digest.removeprefix("sha256:"),
        mlopt=report.mlopt,
        server=image.server,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(source_date())),
        suite=suite,
        target=report.target.name,
        profile=str(report.profile["name"]),
        recipe=shipped.name,
        given=_digests(source),
        given_format=report.model.format,
        steps=shipped.lineage,
        tools=report.tools,
        locks=_locks(docker_folder(), image.server),
        model=ShippedModel(
            report.model.name,
            shipped.digest,
            _digests(model),
            shipped.precision,
            shipped.runtime,
            kitchen.wanted.distribution(shipped.runtime),
            report.model.inputs,
            report.model.outputs,
            figures_of(shipped),
        ),
        platforms=tuple(contents(one.platform, one.digest) for one in image.platforms),
    )


def _digests(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): digest_of(path) for path in files(folder)}


def _locks(folder: Path, server: Server) -> dict[str, str]:
    """The native server has a compiler and sources, too."""
    names = ["base.lock.json", "python.toml", "runtime.lock.json"]
    if server == "native":
        names += ["native.lock.json", "native.toml", *(f"native/{name}" for name in sources())]
    return {f"docker/{name}": hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(names)}
