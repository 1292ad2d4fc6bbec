"""`mlopt image …`: look after an OCI layout that compile wrote, and after the locked inputs it is made of."""

from __future__ import annotations

from pathlib import Path

import click

from mlopt.commands.variants import COMMANDS


@click.group(name="image")
def command() -> None:
    """Push, list, compare, pick and promote images; verify or load one; renew what images are made of."""


for found in COMMANDS:
    command.add_command(found)


@command.command()
@click.argument("layout", type=click.Path(path_type=Path))
def verify(layout: Path) -> None:
    """Check every blob of LAYOUT (a bundle, or its image folder) by size and digest."""
    from mlopt.bundle import layout_in
    from mlopt.image.layout import index_of
    from mlopt.image.layout import verify as check

    folder = layout_in(layout)
    platforms = check(folder)
    click.echo(f"{folder}  {index_of(folder)['digest']}  whole, for {', '.join(platforms)}")


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
@click.option("--into", type=click.Path(path_type=Path), help="Folder of python.toml and the locks.  [what ships]")
@click.option("--debian-mirror", "mirrors", multiple=True, metavar="URL", help="Instead of apt's own sources.")
@click.option("--index-url", metavar="URL", help="Instead of pip's own configuration.")
def lock(into: Path | None, mirrors: tuple[str, ...], index_url: str | None) -> None:
    """Resolve the wanted packages anew, and write the two lock files: versions and digests, never hosts."""
    from mlopt.image.inputs import docker_folder
    from mlopt.image.lock import refresh_locks

    folder = into or docker_folder()
    base, runtime = refresh_locks(folder, debian_mirrors=mirrors, index_url=index_url)
    for name, made in (("base.lock.json", base), ("runtime.lock.json", runtime)):
        counts = ", ".join(f"{len(packages)} for {platform}" for platform, packages in made.packages.items())
        click.echo(f"{folder / name}  {counts}")
