"""Pushing to a real registry: what is kept is what was sent, whatever breaks on the way; and one clear error each."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from layouts import small_layout
from registries import Registry, free_port, line_to, log_in, running, token_server, with_password

from mlopt.errors import ImageFailed, RegistryFailed
from mlopt.image.layout import INDEX, index_of, manifests_of
from mlopt.image.push import Pushed, push_layout
from mlopt.image.reference import Reference
from mlopt.image.repository import PIECE, Repository
from mlopt.image.session import TRIES
from mlopt.image.statements import Statement, attach, statements

pytestmark = pytest.mark.registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with running(tmp_path / "registry") as started:
        yield started


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker"))


def push(layout: Path, repository: Repository, tag: str = "1") -> Pushed:
    return push_layout(layout, repository, tag=tag)


def test_what_is_pushed_is_there_under_its_digests(registry: Registry, tmp_path: Path) -> None:
    layout, repository = small_layout(tmp_path / "layout"), registry.repository()
    done = push(layout, repository)
    index = repository.manifest("1")
    assert index.digest == done.digest == index_of(layout)["digest"]
    for entry in index.content["manifests"]:
        manifest = repository.manifest(entry["digest"]).content
        for blob in (*manifest["layers"], manifest["config"]):
            assert len(repository.read(blob)) == blob["size"]
    assert repository.tags() == ("1",)
    assert done.kept == 0


def test_what_is_there_is_not_sent_again(registry: Registry, tmp_path: Path) -> None:
    base = os.urandom(100_000)
    first = small_layout(tmp_path / "first", layers={"base": base, "model": b"1"})
    second = small_layout(tmp_path / "second", layers={"base": base, "model": b"2"})
    push(first, registry.repository())
    assert push(first, registry.repository()).sent == 0
    update = push(second, registry.repository(), "2")
    assert update.sent < 2_000
    assert update.kept > 100_000


def test_the_tag_of_a_version_does_not_move(registry: Registry, tmp_path: Path) -> None:
    push(small_layout(tmp_path / "first"), registry.repository())
    before = registry.repository().manifest("1").digest
    with pytest.raises(RegistryFailed, match="1 names another image already"):
        push(small_layout(tmp_path / "second"), registry.repository())
    assert registry.repository().manifest("1").digest == before


def test_an_independent_client_reads_it_back(registry: Registry, tmp_path: Path) -> None:
    skopeo, crane = shutil.which("skopeo"), shutil.which("crane")
    if not (skopeo or crane):
        pytest.skip("needs skopeo or crane")
    layout = small_layout(tmp_path / "layout")
    digest = push(layout, registry.repository(), "1.2.0-ort1.31-cpu-int8").digest
    where = f"{registry.host}/team/net:1.2.0-ort1.31-cpu-int8"
    if crane:
        said = subprocess.run([crane, "digest", "--insecure", where], capture_output=True, text=True, check=True)
        assert said.stdout.strip() == digest
        subprocess.run([crane, "validate", "--insecure", "--remote", where], check=True, capture_output=True)
    if skopeo:
        back = tmp_path / "back"
        copy = [skopeo, "--insecure-policy", "copy", "--all", "--src-tls-verify=false"]
        subprocess.run([*copy, f"docker://{where}", f"oci:{back}:1"], check=True, capture_output=True)
        assert index_of(back)["digest"] == digest
        blobs = [sorted(path.name for path in (folder / "blobs/sha256").iterdir()) for folder in (layout, back)]
        assert blobs[0] == blobs[1]


def test_statements_are_listed_where_the_registry_keeps_no_list(registry: Registry, tmp_path: Path) -> None:
    repository = registry.repository()
    push(small_layout(tmp_path / "layout"), repository)
    image = repository.manifest("1")
    said = [Statement("application/vnd.tests.v1+json", {"said": n}, {"n": str(n)}) for n in (1, 2)]
    for one in (*said, said[0]):
        attach(repository, one, subject=image.descriptor)
    found = statements(repository, image.digest, said[0].kind)
    assert sorted(one.content["said"] for one in found) == [1, 2]
    assert statements(repository, image.digest, "application/vnd.other+json") == []
    assert repository.manifest("1").digest == image.digest


def test_what_a_layout_says_about_its_image_goes_with_it(registry: Registry, tmp_path: Path) -> None:
    layout = small_layout(tmp_path / "layout")
    blobs = layout / "blobs/sha256"
    empty, note = b"{}", b'{"note": 1}'

    def add(data: bytes, media_type: str) -> dict[str, object]:
        import hashlib

        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "artifactType": "application/spdx+json",
        "config": add(empty, "application/vnd.oci.empty.v1+json"),
        "layers": [add(note, "application/spdx+json")],
    }
    image, platform = index_of(layout), manifests_of(layout)["linux/arm64"]
    written = [add(json.dumps({**manifest, "subject": one}).encode(), manifest_type) for one in (image, platform)]
    listing = {"schemaVersion": 2, "mediaType": INDEX, "manifests": written[1:]}
    tagged = {"org.opencontainers.image.ref.name": platform["digest"].replace(":", "-")}
    entry = json.loads((layout / "index.json").read_text())
    entry["manifests"] += [written[0], {**add(json.dumps(listing).encode(), INDEX), "annotations": tagged}]
    (layout / "index.json").write_text(json.dumps(entry))
    digest = push(layout, registry.repository()).digest
    for subject in (digest, platform["digest"]):
        found = statements(registry.repository(), subject, "application/spdx+json")
        assert [one.content for one in found] == [{"note": 1}]


def large(tmp_path: Path, *, pieces: float = 2.5) -> Path:
    return small_layout(tmp_path / "large", layers={"model": os.urandom(int(PIECE * pieces))}, platforms=("amd64",))


def test_a_blob_whose_piece_was_cut_is_sent_anew_where_the_registry_cannot_go_on(
    registry: Registry, tmp_path: Path
) -> None:
    layout, said = large(tmp_path), list[str]()
    with line_to(registry.host, after=PIECE // 2, then="break", method=b"PATCH", skip=1) as line:
        repository = Repository.open(Reference(line.host, "team/net"), say=said.append)
        digest = push(layout, repository).digest
    assert line.methods.count(b"PATCH") == 2 + 3
    assert registry.repository().manifest("1").digest == digest
    assert [one for one in said if "again in" in one]
    assert [one for one in said if "sent anew" in one]


def test_a_blob_goes_on_where_the_registry_stands(registry: Registry, tmp_path: Path) -> None:
    layout = large(tmp_path)
    with line_to(registry.host, after=0, then="break", method=b"PATCH", skip=1, times=2) as line:
        digest = push(layout, Repository.open(Reference(line.host, "team/net"))).digest
    assert line.methods.count(b"PATCH") == 1 + 2 + 2
    assert registry.repository().manifest("1").digest == digest


@pytest.mark.parametrize("then", ["break", "swallow"])
@pytest.mark.parametrize("method", [b"PUT", b"POST", b"HEAD", b"GET"])
def test_any_request_may_be_lost_or_its_answer(registry: Registry, tmp_path: Path, method: bytes, then: str) -> None:
    layout = small_layout(tmp_path / "layout")
    with line_to(registry.host, after=0, then=then, method=method) as line:
        digest = push(layout, Repository.open(Reference(line.host, "team/net"))).digest
    assert line.reached.is_set()
    assert registry.repository().manifest("1").digest == digest


def test_a_line_that_always_breaks_is_given_up(registry: Registry, tmp_path: Path) -> None:
    layout = large(tmp_path, pieces=0.1)
    with (
        line_to(registry.host, after=200_000, then="break", times=1000) as line,
        pytest.raises(RegistryFailed, match="gives no answer"),
    ):
        push(layout, Repository.open(Reference(line.host, "team/net")))
    assert 1000 - line.times == TRIES
    assert registry.repository().find("1") is None


def test_a_killed_push_leaves_no_tag_and_is_resumed(registry: Registry, tmp_path: Path) -> None:
    layers = {"base": os.urandom(300_000), "model": os.urandom(3_000_000)}
    layout = small_layout(tmp_path / "layout", layers=layers)
    with line_to(registry.host, after=1_000_000, then="stall") as line:
        command = [sys.executable, "-m", "mlopt", "image", "push", str(layout), f"{line.host}/team/net:1.0.0"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert line.reached.wait(60)
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    assert registry.repository().find("1.0.0-ort1.31-cpu-int8") is None
    done = push(layout, registry.repository(), "1.0.0-ort1.31-cpu-int8")
    assert done.kept >= 300_000
    assert done.sent < 4_000_000
    assert registry.repository().manifest("1.0.0-ort1.31-cpu-int8").digest == done.digest


def test_no_registry(tmp_path: Path) -> None:
    with pytest.raises(RegistryFailed, match=r"gives no answer: Connection refused") as caught:
        push(small_layout(tmp_path / "layout"), Repository.open(Reference(f"127.0.0.1:{free_port()}", "team/net")))
    assert "http is spoken with this machine alone" in str(caught.value)
    with pytest.raises(RegistryFailed, match="gives no answer"):
        Repository.open(Reference("nobody.invalid", "team/net")).tags()


def test_no_such_repository_and_no_such_image(registry: Registry) -> None:
    with pytest.raises(RegistryFailed, match="no such repository"):
        registry.repository("nobody/pushed").tags()
    with pytest.raises(RegistryFailed, match="no such image"):
        registry.repository("nobody/pushed").manifest("1")


@contextmanager
def answering(pages: Mapping[str, tuple[bytes, str]]) -> Iterator[Repository]:
    """A server that answers a path with a body and where the list goes on; any other path with a page for people."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, following = pages.get(self.path, (b"<html>Welcome!</html>", ""))
            self.send_response(200)
            if following:
                self.send_header("Link", f'<{following}>; rel="next"')
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Repository.open(Reference(f"127.0.0.1:{server.server_address[1]}", "team/net"))
        server.shutdown()


def test_lists_come_in_pages() -> None:
    subject = "sha256:" + "0" * 64
    lists = {
        "/v2/team/net/tags/list?n=1000": (b'{"tags": ["b"]}', "/v2/team/net/tags/list?n=1000&last=b"),
        "/v2/team/net/tags/list?n=1000&last=b": (b'{"tags": ["a", "c"]}', ""),
        f"/v2/team/net/referrers/{subject}": (b'{"manifests": [{"digest": "1"}]}', "?page=2"),
        f"/v2/team/net/referrers/{subject}?page=2": (b'{"manifests": [{"digest": "2"}]}', ""),
    }
    with answering(lists) as repository:
        assert repository.tags() == ("a", "b", "c")
        assert [one["digest"] for one in repository.referrers(subject)] == ["1", "2"]


def test_what_is_no_registry() -> None:
    with answering({}) as repository:
        for ask in (repository.tags, lambda: repository.find("1"), lambda: repository.referrers("sha256:" + "0" * 64)):
            with pytest.raises(RegistryFailed, match="answers, and not as a registry does"):
                ask()


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


def test_a_damaged_layer_is_never_sent(registry: Registry, tmp_path: Path) -> None:
    layout = small_layout(tmp_path / "layout")
    index = json.loads((layout / "blobs/sha256" / index_of(layout)["digest"][7:]).read_text())
    manifest = json.loads((layout / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text())
    blob = layout / "blobs/sha256" / manifest["layers"][1]["digest"][7:]
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ImageFailed, match="a blob is not what its digest says"):
        push(layout, registry.repository())
    assert registry.repository().find("1") is None


def test_what_the_registry_damaged_is_not_believed(registry: Registry, tmp_path: Path) -> None:
    repository = registry.repository()
    digest = push(small_layout(tmp_path / "layout"), repository).digest
    manifest = repository.manifest(repository.manifest("1").content["manifests"][0]["digest"]).content
    blobs = registry.folder / "data/docker/registry/v2/blobs/sha256"
    model = manifest["layers"][1]
    for found in (digest, model["digest"]):
        kept = blobs / found[7:9] / found[7:] / "data"
        kept.write_bytes(kept.read_bytes().replace(b"a", b"b") if found == digest else b"x" * model["size"])
    with pytest.raises(RegistryFailed, match="not what its digest says"):
        repository.read(model)
    with pytest.raises(RegistryFailed):
        repository.manifest(digest)


def test_credentials_leave_this_machine_only_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = f"realm: http://tokens.example/token, service: tests, issuer: tests, rootcertbundle: {tmp_path}/t/cert.pem"
    auth = f"auth: {{token: {{{told}}}}}\n"
    with token_server(tmp_path / "t"), running(tmp_path / "registry", auth=auth) as registry:
        monkeypatch.setenv("DOCKER_CONFIG", str(log_in(tmp_path / "right", registry.host)))
        with pytest.raises(RegistryFailed, match=r"http://tokens\.example, which is not https"):
            registry.repository().tags()
