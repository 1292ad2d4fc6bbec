"""Credentials: from Docker's configuration and its helpers; a secret is never shown."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from mlopt.errors import ConfigInvalid, MissingDependency
from mlopt.image.credentials import Credentials, credentials_for


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


def write(folder: Path, content: object) -> None:
    (folder / "config.json").write_text(json.dumps(content))


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_auths(docker: Path) -> None:
    assert credentials_for("registry.example") is None
    write(docker, {"auths": {"registry.example:5000": {"auth": coded("me:pass:word")}}})
    assert credentials_for("registry.example:5000") == Credentials("me", "pass:word")
    assert credentials_for("registry.example") is None
    write(docker, {"auths": {"https://registry.example/v1/": {"username": "me", "password": "x"}}})
    assert credentials_for("registry.example") == Credentials("me", "x")
    write(docker, {"auths": {"registry.example": {"identitytoken": "t"}}})
    assert credentials_for("registry.example") == Credentials("<token>", "t", identity=True)
    write(docker, {"auths": {"registry.example": {}}})
    assert credentials_for("registry.example") is None


def test_a_helper_is_asked_by_its_protocol(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = docker / "docker-credential-safe"
    helper.write_text(
        '#!/bin/sh\n[ "$1" = get ] || exit 9\nhost=$(cat)\n'
        '[ "$host" = registry.example ] || { echo "credentials not found in native keychain"; exit 1; }\n'
        'printf \'{"ServerURL":"%s","Username":"me","Secret":"from the safe"}\' "$host"\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(docker), prepend=":")
    write(docker, {"credsStore": "safe", "auths": {"other.example": {"auth": coded("me:own")}}})
    assert credentials_for("registry.example") == Credentials("me", "from the safe")
    assert credentials_for("other.example") == Credentials("me", "own")
    write(docker, {"credHelpers": {"registry.example": "safe"}})
    assert credentials_for("registry.example") == Credentials("me", "from the safe")
    assert credentials_for("other.example") is None


def test_bad_configurations(docker: Path) -> None:
    write(docker, {"credsStore": "nobody-has-this"})
    with pytest.raises(MissingDependency, match="docker-credential-nobody-has-this is not installed"):
        credentials_for("registry.example")
    for broken in ("{", "[]", '{"auths": []}', '{"auths": {"registry.example": {"auth": "%%%"}}}'):
        (docker / "config.json").write_text(broken)
        with pytest.raises(ConfigInvalid, match="Docker's configuration cannot be read"):
            credentials_for("registry.example")


def test_a_secret_is_not_shown() -> None:
    assert "hunter2" not in repr(Credentials("me", "hunter2"))
