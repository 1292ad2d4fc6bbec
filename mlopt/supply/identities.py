"""Signing by an identity: a token becomes a certificate of minutes, and every signature an entry of a log."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from mlopt.errors import Misused, NotSigned, NotVerified
from mlopt.image.layout import canonical
from mlopt.supply import keyless
from mlopt.supply.keyless import Identity

TOKEN: Final = "SIGSTORE_ID_TOKEN"  # noqa: S105 - the name of a variable, which cosign and GitLab know too
_GET: Final = (
    f"run it where a CI gives identities (GitHub: permissions: id-token: write), or set {TOKEN} to an OIDC token "
    "for the audience sigstore"
)
_PATIENCE: Final = 60.0  # seconds for one service; Rekor of version 2 says that it may take 20 until an entry is in
_Answer = TypeVar("_Answer")
_ASK: Final = "see that token and --trust-config are of these services, or ask who runs them"


class Keyless:
    """Signs with a key that is thrown away; its certificate says whose token asked for it."""

    signs_models = True  # the OpenSSF's verifier takes them as they are

    def __init__(self, signer: Any, verifier: Any) -> None:
        self._signer, self._verifier = signer, verifier
        self.name = self.issuer = ""  # as the certificate has them: known with the first signature

    @property
    def named(self) -> str:
        """The identity that the certificate names."""
        return f"{self.name}, known to {self.issuer}"

    def seal(self, statement: Mapping[str, Any]) -> bytes:
        """The bundle: the statement, its signature, the certificate, and the proof that the log has it.

        It is verified before it is given away. Raises `NotSigned` where the log does not take it.
        """
        from sigstore.dsse import Statement

        with _services("The log"):
            signed = _within(lambda: self._signer.sign_dsse(Statement(canonical(statement))))
            bundle = json.loads(signed.to_json())
            material = bundle["verificationMaterial"]
            for entry in material["tlogEntries"]:
                checkpoint = entry["inclusionProof"]["checkpoint"]
                checkpoint["envelope"] = keyless.own_note(checkpoint["envelope"])
            self.name, self.issuer = keyless.certified(keyless.certificate(material))
        data = canonical(bundle)
        logs = frozenset(str(entry["logId"]["keyId"]) for entry in material["tlogEntries"])
        try:
            Identity(self.name, self.issuer, self._verifier, logs).unseal(data, where=Path())
        except NotVerified as error:
            said = f"What the services answered does not verify. {error.what}"
            raise NotSigned(said, next=_ASK) from error
        return data


def keyless_signer(token: str | None, *, trust_config: Path | None) -> Keyless:
    """Get a certificate for whom the token names: given, else what this CI offers; from the public services, else those
    of a client trust configuration.

    Raises `NotSigned` without a token and where one is refused, `MissingDependency` without the extra.
    """
    keyless.needed()
    from sigstore.sign import Signer, SigningContext
    from sigstore.verify import Verifier

    known = _token(token)
    config = _config(trust_config)
    with _services("The configuration of the services"):
        context = SigningContext.from_trust_config(config)
        verifier = Verifier(trusted_root=config.trusted_root)
    with _services("The authority"):
        return Keyless(_within(lambda: Signer(known, context)), verifier)


def _token(given: str | None) -> Any:
    from sigstore.oidc import IdentityError, IdentityToken, detect_credential

    try:
        found = given or detect_credential()
    except IdentityError as error:
        raise NotSigned(f"This CI gives no identity token: {error}", next=_GET) from error
    if not found:
        raise NotSigned("There is no identity token.", next=_GET)
    try:
        return IdentityToken(found.strip())
    except IdentityError as error:
        why = error.__cause__ or error  # the library's own sentence is the same for all of them
        raise NotSigned(f"The identity token cannot be used: {why}.", next=_GET) from error


def _config(path: Path | None) -> Any:
    from sigstore.models import ClientTrustConfig

    if path is None:
        with _services("The public services' root of trust"):
            return _within(ClientTrustConfig.production)
    try:
        return ClientTrustConfig.from_json(path.read_text())
    except OSError as error:
        raise Misused(f"The trust configuration cannot be read: {error.strerror}.", where=str(path)) from error
    except ValueError as error:
        said = "This is no client trust configuration of Sigstore."
        raise Misused(said, where=str(path), next="give one that holds trustedRoot and signingConfig") from error


def _within(asked: Callable[[], _Answer]) -> _Answer:
    """What it returns or raises; `TimeoutError` after a minute. The library itself waits for ever.

    It is left alone then: nobody can stop it, and it ends with the process.
    """
    done: list[_Answer] = []
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            done.append(asked())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError
    return done[0]


@contextmanager
def _services(which: str) -> Iterator[None]:
    """What Sigstore's library raises where a service does not answer or refuses, as what it means here."""
    import requests
    from sigstore.errors import Error, TUFError
    from sigstore.oidc import ExpiredIdentity

    try:
        yield
    except TimeoutError as error:
        said = f"{which} did not answer within {_PATIENCE:.0f} seconds."
        raise NotSigned(said, next="try again; keyless signing needs the network, --key does not") from error
    except (ValueError, LookupError) as error:
        said = f"{which} cannot be used: {error!r}."
        raise NotSigned(said, next=_ASK) from error
    except requests.RequestException as error:
        where = error.request.url if error.request else ""
        said = f"{which} cannot be reached."
        raise NotSigned(said, where=str(where), next="keyless signing needs the network; --key does not") from error
    except TUFError as error:
        said = f"{which} cannot be fetched."
        raise NotSigned(said, next="keyless signing needs the network, or --trust-config; --key does not") from error
    except (Error, ExpiredIdentity) as error:
        said = f"{which} answers what cannot be trusted: {error or 'the token expired'}."
        raise NotSigned(said, next=_ASK) from error
    except Exception as error:
        # The clients of the services raise classes that the library keeps to itself.
        if not type(error).__module__.startswith("sigstore."):
            raise
        raise NotSigned(f"{which} refuses: {_why(error)}.", next=_ASK) from error


def _why(error: Exception) -> str:
    """What the service itself said, which the library's clients mostly lose."""
    answer = getattr(error.__cause__, "response", None)
    if answer is None:
        return str(error) or type(error).__name__
    try:
        said = str(answer.json()["message"])
    except (ValueError, LookupError, TypeError):
        said = str(answer.reason)
    return f"{answer.status_code}, {said}".rstrip(".")
