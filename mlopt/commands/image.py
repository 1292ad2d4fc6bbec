"""`mlopt image …`: look after an OCI layout that compile wrote, and after the locked inputs it is made of."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mlopt.commands.variants import COMMANDS


@click.group(name="image")
def command() -> None:
    """Push, list, compare, pick and promote images; show what is in one, scan, load; renew what they are made of."""


for found in COMMANDS:
    command.add_command(found)


@command.command()
@click.argument("layout", type=click.Path(path_type=Path))
@click.option("--format", type=click.Choice(["spdx", "cyclonedx"]), default="spdx", show_default=True)
@click.option("--platform", metavar="OS/ARCH", help="Of which platform's image.  [this machine's]")
def sbom(layout: Path, format: str, platform: str | None) -> None:
    """Print what is in an image: packages, versions, licences, the model.

    LAYOUT is a bundle, or its image folder. The bytes are those that are attached to the image.
    """
    from mlopt.bundle import layout_in
    from mlopt.image.inputs import host_platform
    from mlopt.supply.attach import document

    click.echo(document(layout_in(layout), format, platform=platform or host_platform()), nl=False)  # type: ignore[arg-type]


@command.command()
@click.argument("layout", type=click.Path(path_type=Path))
def provenance(layout: Path) -> None:
    """Print how an image was made: SLSA provenance, as an in-toto statement.

    LAYOUT is a bundle, or its image folder. The bytes are those that are attached to the image.
    """
    from mlopt.bundle import layout_in
    from mlopt.supply.attach import document

    click.echo(document(layout_in(layout), "provenance"), nl=False)


@command.command()
@click.argument("layout", type=click.Path(path_type=Path))
@click.option("--advisories", type=click.Path(path_type=Path), metavar="FILE", help="OSV's or Debian's JSON.  [needed]")
def scan(layout: Path, advisories: Path | None) -> None:
    """Hold the packages of an image against advisories of yours.

    LAYOUT is a bundle, or its image folder. FILE is OSV's JSON (one, a list, a folder, a zip as OSV offers them), or
    the Debian security tracker's. Debian's packages are found by source package and release. Ends with 1 where an
    advisory is about what is in the image.
    """
    from mlopt.bundle import layout_in
    from mlopt.errors import Misused
    from mlopt.supply.advisories import read_advisories
    from mlopt.supply.packages import SUITES
    from mlopt.supply.scan import scan as run
    from mlopt.supply.scan import told

    if advisories is None:
        raise Misused(
            "A scan needs advisories, and mlopt brings none: a list that ships is old when it is read.",
            next="download OSV's all.zip for Debian and PyPI, or the Debian tracker's JSON, and add --advisories FILE",
        )
    found = run(layout_in(layout), read_advisories(advisories, suites=SUITES))
    for line in told(found):
        click.echo(line)
    if found.findings:
        sys.exit(1)


@command.command()
@click.argument("layout", type=click.Path(path_type=Path))
@click.option("--engine", type=click.Choice(["podman", "docker"]), required=True)
@click.option("--platform", metavar="OS/ARCH", help="Which one to load.  [this machine's]")
def load(layout: Path, engine: str, platform: str | None) -> None:
    """Load LAYOUT (a bundle, or its image folder) into a container engine, and say how to run it."""
    from mlopt.bundle import layout_in
    from mlopt.image.inputs import host_platform
    from mlopt.image.load import load_image

    folder = layout_in(layout)
    reference = load_image(folder, engine=engine, platform=platform or host_platform())  # type: ignore[arg-type]
    click.echo(f"{engine} run --rm --read-only -p 127.0.0.1:8080:8080 {reference}")


@command.command()
@click.argument("layout", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
def context(layout: Path, folder: Path) -> None:
    """Write FOLDER for docker buildx: the layers of LAYOUT (a bundle, or its image folder), a Dockerfile, a bake file.

    For who has to build with Docker, or adds something of his own. What is built holds the same files.
    """
    from mlopt.bundle import layout_in
    from mlopt.deploy.context import write_context

    click.echo(f"cd {write_context(layout_in(layout), folder)} && docker buildx bake")


@command.command()
@click.option("--into", type=click.Path(path_type=Path), help="Folder of what is wanted and the locks.  [what ships]")
@click.option("--debian-mirror", "mirrors", multiple=True, metavar="URL", help="Instead of apt's own sources.")
@click.option("--index-url", metavar="URL", help="Instead of pip's own configuration.")
def lock(into: Path | None, mirrors: tuple[str, ...], index_url: str | None) -> None:
    """Resolve the wanted packages anew, and write the lock files: versions and digests, never hosts."""
    from mlopt.image.inputs import docker_folder
    from mlopt.image.lock import refresh_locks

    folder = into or docker_folder()
    for name, made in refresh_locks(folder, debian_mirrors=mirrors, index_url=index_url).items():
        counts = ", ".join(f"{len(packages)} for {platform}" for platform, packages in made.packages.items())
        click.echo(f"{folder / name}  {counts}")
