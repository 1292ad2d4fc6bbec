"""Pushing over lines that break: what is kept is what was sent, and no tag on half an image."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from layouts import small_layout
from registries import Registry, line_to, push

from mlopt.errors import RegistryFailed
from mlopt.image.reference import Reference
from mlopt.image.repository import PIECE, Repository
from mlopt.image.session import TRIES

pytestmark = pytest.mark.registry


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
