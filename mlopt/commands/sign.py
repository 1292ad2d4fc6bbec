"""`mlopt sign`: vouch for a bundle, its image and its model with a key of one's own."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="sign")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--key", type=click.Path(path_type=Path), metavar="KEY.pem", required=True, help="ed25519 or ECDSA P-256."
)
def command(bundle: Path, key: Path) -> None:
    """Sign BUNDLE, its image and its model, in place of an earlier signature. Needs the extra [signing].

    The digest of the image stays what it is. A key that is encrypted is opened with $MLOPT_KEY_PASSWORD.

    \b
      openssl genpkey -algorithm ed25519 -out key.pem
      openssl pkey -in key.pem -pubout -out pub.pem
      mlopt sign out/net/rpi5 --key key.pem
    """
    from mlopt.supply.keys import private_key
    from mlopt.supply.sign import sign

    opened = private_key(key)
    for written in sign(bundle, opened):
        click.echo(f"signed  {written}")
    click.echo(f"by key {opened.public.name[:16]}…, {opened.public.algorithm}")
    click.echo(f"check it with: mlopt verify {bundle} --key PUB.pem")
