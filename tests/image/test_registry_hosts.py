"""Hosts that do not answer, or not as a registry does."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from layouts import small_layout
from registries import push

from mlopt.errors import RegistryFailed
from mlopt.image.reference import Reference
from mlopt.image.repository import Repository
from mlopt.image.run import free_port


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker"))


def test_no_registry(tmp_path: Path) -> None:
    with pytest.raises(RegistryFailed, match=r"gives no answer: Connection refused") as caught:
        push(small_layout(tmp_path / "layout"), Repository.open(Reference(f"127.0.0.1:{free_port()}", "team/net")))
    assert "http is spoken with this machine alone" in str(caught.value)
    with pytest.raises(RegistryFailed, match="gives no answer"):
        Repository.open(Reference("nobody.invalid", "team/net")).tags()


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
