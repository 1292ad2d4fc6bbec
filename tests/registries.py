"""A real registry on 127.0.0.1 for a test, with or without a password, and a line to it that can break."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from listening import wait_until_listening

from mlopt.image.push import Pushed, push_layout
from mlopt.image.reference import Reference
from mlopt.image.repository import Repository
from mlopt.image.run import free_port

USER, PASSWORD = "release", "letmein"
_BCRYPT = "$2y$05$abcdefghijklmnopqrstuuKwWV7ESJpzKzf9FQg57dBvMuv92X9HS"
_CONFIG = """\
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}
http:
  addr: 127.0.0.1:{port}
"""


def program() -> str | None:
    """MLOPT_REGISTRY_BIN, or docker-registry on the path."""
    return os.environ.get("MLOPT_REGISTRY_BIN") or shutil.which("docker-registry")


@dataclass(frozen=True, slots=True)
class Registry:
    host: str
    folder: Path

    def reference(self, rest: str = "team/net") -> Reference:
        return Reference.parse(f"{self.host}/{rest}")

    def repository(self, rest: str = "team/net") -> Repository:
        return Repository.open(self.reference(rest))


def push(layout: Path, repository: Repository, tag: str = "1") -> Pushed:
    return push_layout(layout, repository, tag=tag)


@contextmanager
def running(folder: Path, *, auth: str = "", tls: str = "") -> Iterator[Registry]:
    """docker-registry that keeps all below `folder`, until the block ends; `tls` and `auth` as its configuration has
    them."""
    found = program()
    if found is None:
        pytest.skip("needs docker-registry (Debian's package), or MLOPT_REGISTRY_BIN")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "config.yml"
    config.write_text(_CONFIG.format(folder=folder, port=port) + tls + auth)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([found, "serve", str(config)], stdout=log, stderr=log)
    try:
        wait_until_listening(port, server, folder / "log", name="docker-registry")
        yield Registry(f"127.0.0.1:{port}", folder)
    finally:
        server.terminate()
        server.wait(10)


def with_password(folder: Path) -> str:
    """What `running` takes for a registry that only `USER` may use."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "htpasswd").write_text(f"{USER}:{_BCRYPT}\n")
    return f"auth: {{htpasswd: {{realm: tests, path: {folder}/htpasswd}}}}\n"


def log_in(folder: Path, host: str, *, password: str = PASSWORD) -> Path:
    """A folder for DOCKER_CONFIG, as `docker login` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    coded = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": coded}}}))
    return folder


@contextmanager
def token_server(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Gives tokens to `USER`, signed with a key of its own: what `running` takes, and the scopes that were asked."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, to sign tokens")
    folder.mkdir(parents=True, exist_ok=True)
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert]
    subprocess.run([*command, "-days", "2", "-subj", "/CN=tests"], check=True, capture_output=True)
    der = "".join(line for line in cert.read_text().splitlines() if "-----" not in line)
    scopes: list[str] = []

    class Tokens(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            if self.headers["Authorization"] != expected:
                self.send_error(401)
                return
            scope = parse_qs(urlsplit(self.path).query)["scope"][0]
            scopes.append(scope)
            body = json.dumps({"token": _token(key, der, scope)}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Tokens) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        realm = f"http://127.0.0.1:{server.server_address[1]}/token"
        told = f"{{realm: {realm}, service: tests, issuer: tests, rootcertbundle: {cert}}}"
        try:
            yield f"auth: {{token: {told}}}\n", scopes
        finally:
            server.shutdown()


def _token(key: Path, der: str, scope: str) -> str:
    kind, name, actions = scope.split(":")
    now = int(time.time())
    access = [{"type": kind, "name": name, "actions": actions.split(",")}]
    claims = {"iss": "tests", "sub": USER, "aud": "tests", "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1"}
    head = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
    signed = ".".join(_coded(json.dumps(part).encode()) for part in (head, {**claims, "access": access}))
    command = ["openssl", "dgst", "-sha256", "-sign", str(key)]
    signature = subprocess.run(command, input=signed.encode(), capture_output=True, check=True).stdout
    return f"{signed}.{_coded(signature)}"


def _coded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@dataclass(slots=True)
class Line:
    """A port of its own that leads to a registry's. It breaks, or stands still, after so many bytes towards it: on the
    first `times` connections that begin with `method`, `skip` of them left alone. `methods` are those of all."""

    host: str
    after: int
    then: str
    times: int
    method: bytes
    skip: int
    reached: threading.Event = field(default_factory=threading.Event)
    methods: list[bytes] = field(default_factory=list)

    def breaks(self, carried: int) -> bool:
        """Whether now is the time."""
        if carried <= self.after or not self.times:
            return False
        self.times -= 1
        self.reached.set()
        return True

    def spares(self, begin: bytes) -> bool:
        """Whether a connection that begins so is left alone."""
        self.methods.append(begin.split(b" ")[0])
        if not begin.startswith(self.method):
            return True
        self.skip -= 1
        return self.skip >= 0


@contextmanager
def line_to(host: str, *, after: int, then: str, times: int = 1, method: bytes = b"", skip: int = 0) -> Iterator[Line]:
    """`then` is "break" (both ends are closed), "stall" (nothing goes on) or "swallow" (only the answer is lost)."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        line = Line(f"127.0.0.1:{listener.getsockname()[1]}", after, then, times, method, skip)
        threading.Thread(target=_accept, args=(listener, host, line), daemon=True).start()
        yield line


def _accept(listener: socket.socket, host: str, line: Line) -> None:
    name, _, port = host.partition(":")
    while True:
        try:
            near, _ = listener.accept()
        except OSError:
            return
        far = socket.create_connection((name, int(port)))
        link = _Link(near, far, line)
        threading.Thread(target=link.there, daemon=True).start()
        threading.Thread(target=link.back, daemon=True).start()


@dataclass(slots=True)
class _Link:
    """One connection over a line."""

    near: socket.socket
    far: socket.socket
    line: Line
    spared: bool = True

    def there(self) -> None:
        carried = 0
        try:
            while data := self.near.recv(1 << 16):
                if not carried:
                    self.spared = self.line.spares(data)
                carried += len(data)
                if self.line.then != "swallow" and not self.spared and self.line.breaks(carried):
                    if self.line.then == "stall":
                        time.sleep(60)
                    self.cut()
                    return
                self.far.sendall(data)
            self.far.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def back(self) -> None:
        try:
            while data := self.far.recv(1 << 16):
                if self.line.then == "swallow" and not self.spared and self.line.breaks(len(data)):
                    self.cut()
                    return
                self.near.sendall(data)
            self.near.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self) -> None:
        for end in (self.near, self.far):
            end.shutdown(socket.SHUT_RDWR)
            end.close()  # so that what still comes is answered with a reset
