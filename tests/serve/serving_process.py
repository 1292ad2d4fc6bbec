"""A server process for tests: started, ready, and gone when the block ends."""

from __future__ import annotations

import http.client
import os
import shlex
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mlopt.image.run import free_port

# The interpreter that serves: this one, or the one of an image, by tests/image/test_cut_root.py.
PYTHON = tuple(shlex.split(os.environ.get("MLOPT_TEST_PYTHON", ""))) or (sys.executable,)


@contextmanager
def process(
    folder: Path,
    *,
    port: int,
    options: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
    log: IO[str] | int = subprocess.PIPE,
    command: Sequence[str] = (*PYTHON, "-m", "mlopt.serve"),
) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(
        [*command, "--model-dir", str(folder), "--port", str(port), *options],
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.communicate()


@contextmanager
def quiet_server(folder: Path, *options: str, environment: dict[str, str] | None = None) -> Iterator[int]:
    """The port of a ready server that logs errors alone (nobody empties its pipe)."""
    port = free_port()
    with process(folder, port=port, options=("--log-level", "error", *options), environment=environment) as running:
        wait_ready(port, running)
        yield port
        assert running.poll() is None, running.communicate()


def status(port: int, path: str, body: str | None = None, *, tls: bool = False) -> int:
    """The status of a GET, or of a POST of `body`; 0 where nobody answers."""
    if tls:
        context = ssl._create_unverified_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=10, context=context
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST" if body else "GET", path, body)
        return connection.getresponse().status
    except (ConnectionError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def wait_ready(port: int, running: subprocess.Popen[str], *, tls: bool = False) -> None:
    deadline = time.monotonic() + 30
    while status(port, "/v2/health/ready", tls=tls) != 200:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
