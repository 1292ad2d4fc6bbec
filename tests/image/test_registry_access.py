"""Who may, and over what: passwords, tokens, TLS, and blobs that lie elsewhere."""

from __future__ import annotations

import functools
import json
import shutil
import socket
import subprocess
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from layouts import small_layout
from registries import log_in, push, running, token_server, with_password

from mlopt.errors import RegistryFailed
from mlopt.image.reference import Reference
from mlopt.image.repository import Repository

pytestmark = pytest.mark.registry


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker"))


def test_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = small_layout(tmp_path / "layout")
    with running(tmp_path / "registry", auth=with_password(tmp_path / "auth")) as registry:
        with pytest.raises(RegistryFailed, match="wants to know who asks") as nobody:
            push(layout, registry.repository())
        assert f"docker login {registry.host}" in str(nobody.value)
        monkeypatch.setenv("DOCKER_CONFIG", str(log_in(tmp_path / "wrong", registry.host, password="letmeout")))
        with pytest.raises(RegistryFailed, match="does not accept the credentials of 'release'") as wrong:
            push(layout, registry.repository())
        assert "letmeout" not in str(wrong.value)
        monkeypatch.setenv("DOCKER_CONFIG", str(log_in(tmp_path / "right", registry.host)))
        assert registry.repository().find("1") is None
        push(layout, registry.repository())
        assert registry.repository().tags() == ("1",)


def test_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = small_layout(tmp_path / "layout")
    with token_server(tmp_path / "tokens") as (auth, scopes), running(tmp_path / "registry", auth=auth) as registry:
        with pytest.raises(RegistryFailed, match="wants to know who asks"):
            push(layout, registry.repository())
        monkeypatch.setenv("DOCKER_CONFIG", str(log_in(tmp_path / "wrong", registry.host, password="letmeout")))
        with pytest.raises(RegistryFailed, match="does not accept the credentials of 'release'"):
            push(layout, registry.repository())
        assert scopes == []
        monkeypatch.setenv("DOCKER_CONFIG", str(log_in(tmp_path / "right", registry.host)))
        push(layout, registry.repository())
        assert registry.repository().tags() == ("1",)
        assert scopes[0] == "repository:team/net:pull"
        assert {tuple(sorted(scope.rpartition(":")[2].split(","))) for scope in scopes} == {("pull",), ("pull", "push")}


def test_credentials_leave_this_machine_only_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = f"realm: http://tokens.example/token, service: tests, issuer: tests, rootcertbundle: {tmp_path}/t/cert.pem"
    auth = f"auth: {{token: {{{told}}}}}\n"
    with token_server(tmp_path / "t"), running(tmp_path / "registry", auth=auth) as registry:
        monkeypatch.setenv("DOCKER_CONFIG", str(log_in(tmp_path / "right", registry.host)))
        with pytest.raises(RegistryFailed, match=r"http://tokens\.example, which is not https"):
            registry.repository().tags()


def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the name is made up: it leads here, and everything else is as it is on the way to another machine."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, to make a certificate")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2"]
    name = ["-subj", "/CN=registry.example", "-addext", "subjectAltName=DNS:registry.example"]
    subprocess.run([*command, *name], check=True, capture_output=True)
    found = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: found("127.0.0.1", *rest, **more))
    layout = small_layout(tmp_path / "layout")
    tls = f"  tls: {{certificate: {cert}, key: {key}}}\n"
    with running(tmp_path / "registry", tls=tls) as registry:
        port = registry.host.rpartition(":")[2]
        repository = Repository.open(Reference(f"registry.example:{port}", "team/net"))
        with pytest.raises(RegistryFailed, match="certificate verify failed"):
            push(layout, repository)
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        digest = push(layout, repository).digest
        assert repository.manifest("1").digest == digest
        with pytest.raises(RegistryFailed, match="certificate verify failed: Hostname mismatch"):
            Repository.open(Reference(f"other.example:{port}", "team/net")).tags()


def test_blobs_that_lie_elsewhere_are_read_there_without_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    class Storage(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            super().do_GET()

        def log_message(self, *arguments: object) -> None:
            pass

    storage = functools.partial(Storage, directory=str(tmp_path / "registry/data"))
    with HTTPServer(("127.0.0.1", 0), storage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        told = f"{{name: redirect, options: {{baseurl: 'http://127.0.0.1:{server.server_address[1]}/'}}}}"
        more = with_password(tmp_path / "auth") + f"middleware: {{storage: [{told}]}}\n"
        with running(tmp_path / "registry", auth=more) as registry:
            monkeypatch.setenv("DOCKER_CONFIG", str(log_in(tmp_path / "right", registry.host)))
            repository = registry.repository()
            layout = small_layout(tmp_path / "layout")
            push(layout, repository)
            assert push(layout, repository).sent == 0
            manifest = repository.manifest(repository.manifest("1").content["manifests"][0]["digest"]).content
            assert json.loads(repository.read(manifest["config"]))["os"] == "linux"
        server.shutdown()
    digest = manifest["config"]["digest"][7:]
    assert [(f"{digest}/data" in path, authorization) for path, authorization in asked] == [(True, None)]
