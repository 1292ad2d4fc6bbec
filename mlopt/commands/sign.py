"""`mlopt sign`: vouch for a bundle, its image and its model, with a key of one's own or by an identity."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="sign")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), metavar="KEY.pem", help="ed25519 or ECDSA P-256.")
@click.option("--keyless", is_flag=True, help="Sign by an identity, through Sigstore's services.")
@click.option(
    "--identity-token",
    metavar="TOKEN",
    envvar="SIGSTORE_ID_TOKEN",
    help="Whose identity: an OIDC token for the audience sigstore. Better in $SIGSTORE_ID_TOKEN: others see a command "
    "line.  [default: the one that this CI offers]",
)
@click.option(
    "--trust-config",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Sigstore's client trust configuration, of services of your own.  [default: the public ones]",
)
def command(
    bundle: Path, key: Path | None, keyless: bool, identity_token: str | None, trust_config: Path | None
) -> None:
    """Sign BUNDLE, its image and its model, in place of an earlier signature. Needs the extra [signing] or [keyless].

    The digest of the image stays what it is. A key that is encrypted is opened with $MLOPT_KEY_PASSWORD.

    \b
      openssl genpkey -algorithm ed25519 -out key.pem
      openssl pkey -in key.pem -pubout -out pub.pem
      mlopt sign out/net/rpi5 --key key.pem

    With --keyless there is no key to keep: an authority certifies for minutes who asked, and a log keeps digests,
    signatures and THE NAME OF THE IDENTITY (a mail address, a workflow), in public and for ever where the services are
    the public ones. It was tried against stand-ins for those services, and never against the public ones.

    \b
      mlopt sign out/net/rpi5 --keyless            # in a CI that gives identities
    """
    from mlopt.errors import Misused
    from mlopt.supply.sign import sign

    if keyless is (key is not None):
        raise Misused("Sign with a key, or by an identity.", next="give either --key KEY.pem or --keyless")
    if trust_config and not keyless:
        raise Misused("A key needs no services.", next="leave --trust-config out, or give --keyless in place of --key")
    if key is not None:
        from mlopt.supply.keys import private_key

        opened = private_key(key)
        for written in sign(bundle, opened):
            click.echo(f"signed  {written}")
        click.echo(f"by {opened.named}, {opened.public.algorithm}")
        click.echo(f"check it with: mlopt verify {bundle} --key PUB.pem")
        return
    from mlopt.bundle import Bundle
    from mlopt.supply.identities import keyless_signer

    Bundle.load(bundle)  # before anybody is asked to vouch for it
    signer = keyless_signer(identity_token, trust_config=trust_config)
    for written in sign(bundle, signer):
        click.echo(f"signed  {written}")
    click.echo(f"by {signer.named}")
    who = f"--identity {signer.name} --issuer {signer.issuer}"
    click.echo(f"check it with: mlopt verify {bundle} {who} --trusted-root ROOT.json")
