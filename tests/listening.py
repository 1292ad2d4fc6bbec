"""Waiting until a server that a test started listens on 127.0.0.1."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import pytest


def wait_until_listening(port: int, server: subprocess.Popen[bytes], log: Path, *, name: str) -> None:
    """Skips the test where the server ends, or does not listen within ten seconds: here it cannot run."""
    deadline = time.monotonic() + 10
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None or time.monotonic() > deadline:
            said = log.read_text()[-300:] if log.exists() else "it says nothing"
            pytest.skip(f"{name} does not start here: {said}")
        time.sleep(0.05)
