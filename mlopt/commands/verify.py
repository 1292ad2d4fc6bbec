"""`mlopt verify`: whether a bundle or an image is what it says, and signed with a key; without a network."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), metavar="PUB.pem", help="Whose signatures there must be.")
def command(bundle: Path, key: Path | None) -> None:
    """Check every file of BUNDLE (or of an OCI layout alone) by its digest, what is said of the image, and signatures.

    Needs no network. What is not there, or cannot be checked without a key, has -- in place of ok. Ends with 29 at the
    first thing that is wrong, and names it.

    \b
      mlopt verify out/net/rpi5 --key pub.pem
    """
    from mlopt.supply.keys import public_key
    from mlopt.supply.verify import verify

    for checked in verify(bundle, public_key(key) if key else None):
        click.echo(f"{'ok' if checked.held else '--'}  {checked.what:<15}  {checked.found}")
