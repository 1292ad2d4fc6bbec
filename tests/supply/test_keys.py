"""Keys: ed25519 and ECDSA on P-256 in PEM, encrypted or not; any other is one clear error."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlopt.errors import Misused
from mlopt.supply.keys import private_key, public_key


def test_keys_of_other_kinds(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as to
    from cryptography.hazmat.primitives.asymmetric import rsa

    rsa_key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "rsa.pem").write_bytes(
        rsa_key.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, to.NoEncryption())
    )
    (tmp_path / "text.pem").write_text("no key")
    for name in ("rsa.pem", "text.pem", "absent.pem"):
        with pytest.raises(Misused):
            private_key(tmp_path / name)
        with pytest.raises(Misused):
            public_key(tmp_path / name)


def test_an_encrypted_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryptography.hazmat.primitives import serialization as to
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.generate()
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, to.BestAvailableEncryption(b"word")))
    with pytest.raises(Misused, match="cannot be opened"):
        private_key(path)
    monkeypatch.setenv("MLOPT_KEY_PASSWORD", "word")
    assert private_key(path).public.algorithm == "ed25519"
    monkeypatch.setenv("MLOPT_KEY_PASSWORD", "wrong")
    with pytest.raises(Misused):
        private_key(path)
