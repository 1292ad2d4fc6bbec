"""A converter tells a full disk as one, and leaves everything else that it does not know as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import errno, sys
from mlopt.convert.program import serve
def write(request):
    with open(request["into"], "wb") as file:
        file.write(bytes(1 << 20))
    return {}
serve({"write": write})
"""


def run(folder: Path, into: str) -> subprocess.CompletedProcess[str]:
    request = {"do": "write", "memory": 1 << 34, "parent": os.getpid(), "into": into}
    (folder / "request.json").write_text(json.dumps(request))
    return subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, check=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_has_its_own_error(tmp_path: Path) -> None:
    assert run(tmp_path, "/dev/full").returncode == 0
    error = json.loads((tmp_path / "answer.json").read_text())["error"]
    assert error["kind"] == "NoSpaceLeft"
    assert "TMPDIR" in error["next"]


def test_other_errors_keep_their_traceback(tmp_path: Path) -> None:
    ended = run(tmp_path, str(tmp_path / "no" / "such" / "folder"))
    assert ended.returncode == 1
    assert "FileNotFoundError" in ended.stderr
    assert not (tmp_path / "answer.json").exists()
