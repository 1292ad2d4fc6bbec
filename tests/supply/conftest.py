"""What the tests of the supply chain share: one real bundle with an image, and keys made for the test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import nets
import pytest
import walks
from supply.sigstores import ISSUER, Sigstore, serving

from mlopt.image.fetch import Inputs
from mlopt.supply import keyless
from mlopt.supply.dsse import Signer, Vouching
from mlopt.supply.identities import keyless_signer
from mlopt.supply.keys import PrivateKey, private_key


def borrow(inputs: Inputs, store: Path) -> None:
    """The parts of images, and the layers that are packed already: what is tested here hangs on the image."""
    walks.borrow_inputs(inputs, store)
    for name in ("layers", "servers"):
        (inputs.root / name).mkdir(exist_ok=True)
        (store / name).symlink_to(inputs.root / name)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory, image_inputs: Inputs) -> Path:
    """The bundle of a small net with measured figures, as compile leaves it. Tests only read it."""
    place = tmp_path_factory.mktemp("supply")
    nets.save(nets.conv_net(), place / "net.onnx")
    walks.profile(place)
    walks.labelled(place / "samples.npz", place / "net.onnx")
    borrow(image_inputs, place / "store")
    return _compile(place)


@pytest.fixture(scope="session")
def natively_served(compiled: Path) -> Path:
    """The same model, in the native image."""
    return _compile(compiled.parents[2], "--server", "native", "--out", "native")


def _compile(place: Path, *more: str) -> Path:
    asked = ("compile", "net.onnx", "-p", "./fast.toml", "--recipe", "fp32", "--samples", "samples.npz", "-q")
    ended = walks.mlopt(*asked, *more, cwd=place, env={"MLOPT_CACHE_DIR": str(place / "store")}, limit=400)
    assert ended.returncode == 0, ended.stderr
    return place / ("native" if more else "out") / "net" / "host"


@pytest.fixture
def bundle(compiled: Path, tmp_path: Path) -> Path:
    """A copy that a test may sign, and damage where it is not a layer: those are linked, being large."""
    return Path(shutil.copytree(compiled, tmp_path / "bundle", copy_function=_copy))


def _copy(source: str, target: str) -> None:
    (os.link if Path(source).stat().st_size > 1 << 20 else shutil.copy2)(source, target)


def write_keys(folder: Path, kind: str) -> Path:
    """key.pem and pub.pem of a new key; the private one's path."""
    from cryptography.hazmat.primitives import serialization as to
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    key = ec.generate_private_key(ec.SECP256R1()) if kind == "ecdsa-p256" else ed25519.Ed25519PrivateKey.generate()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "key.pem"
    path.write_bytes(key.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, to.NoEncryption()))
    public = key.public_key().public_bytes(to.Encoding.PEM, to.PublicFormat.SubjectPublicKeyInfo)
    (folder / "pub.pem").write_bytes(public)
    return path


@pytest.fixture(params=["ed25519", "ecdsa-p256"])
def key_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_keys(tmp_path / "keys", request.param)


@pytest.fixture
def key(key_file: Path) -> PrivateKey:
    return private_key(key_file)


@pytest.fixture(params=["ed25519", "ecdsa-p256", "keyless"])
def signer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Signer, Vouching]]:
    """Every way to sign: its name, who signs, and whose signature there must be."""
    if request.param != "keyless":
        key = private_key(write_keys(tmp_path / "keys", request.param))
        yield request.param, key, key.public
        return
    with serving(Sigstore(1)) as sigstore:
        config, root = sigstore.write(tmp_path / "sigstore")
        signs = keyless_signer(sigstore.token(), trust_config=config)
        yield request.param, signs, keyless.identity("me@example.org", ISSUER, trusted_root=root)
