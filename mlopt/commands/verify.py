"""`mlopt verify`: whether a bundle or an image is what it says, and whose; without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mlopt.supply.dsse import Vouching


@click.command(name="verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), metavar="PUB.pem", help="Whose signatures there must be.")
@click.option("--identity", metavar="NAME", help="Or by whom, without a key: a mail address, or a workflow's URI.")
@click.option("--issuer", metavar="URL", help="Who knew that identity: the OIDC issuer of the token.")
@click.option(
    "--trusted-root",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Sigstore's trusted root: the authorities and logs that are believed.",
)
def command(
    bundle: Path, key: Path | None, identity: str | None, issuer: str | None, trusted_root: Path | None
) -> None:
    """Check every file of BUNDLE (or of an OCI layout alone) by its digest, what is said of the image, and signatures.

    Needs no network. What is not there, or cannot be checked without knowing whose it should be, has -- in place of ok.
    Ends with 29 at the first thing that is wrong, and names it.

    \b
      mlopt verify out/net/rpi5 --key pub.pem
      mlopt verify out/net/rpi5 --identity me@example.org --issuer https://accounts.example.org \\
        --trusted-root trusted_root.json
    """
    from mlopt.supply.verify import verify

    for checked in verify(bundle, _whose(key, identity, issuer, trusted_root)):
        click.echo(f"{'ok' if checked.held else '--'}  {checked.what:<15}  {checked.found}")


def _whose(key: Path | None, identity: str | None, issuer: str | None, trusted_root: Path | None) -> Vouching | None:
    from mlopt.errors import Misused

    asked = {"--identity": identity, "--issuer": issuer, "--trusted-root": trusted_root}
    given = [name for name, value in asked.items() if value]
    if key is not None:
        from mlopt.supply.keys import public_key

        if given:
            raise Misused("Signatures are by a key or by an identity.", next=f"leave --key or {given[0]} out")
        return public_key(key)
    if not given:
        return None
    if identity and issuer and trusted_root:
        from mlopt.supply import keyless

        return keyless.identity(identity, issuer, trusted_root=trusted_root)
    absent = ", ".join(name for name in asked if name not in given)
    said = "An identity is a name that an issuer knew, by a root of trust that you believe."
    raise Misused(said, next=f"give {absent} too")
