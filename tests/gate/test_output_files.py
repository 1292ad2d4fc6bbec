"""Where a gate writes: files whole, where links lead, streams as they come; what cannot be written is said."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from gate_results import made

from mlopt.errors import StoreUnusable
from mlopt.gate.outputs import FORMATS, to_csv, write


def test_files_are_written_and_the_summary_of_the_step_is_added_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    files = {name: tmp_path / "out" / name for name in FORMATS}
    write(made(), {**files, "csv": None})
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FORMATS) - {"csv"}
    assert summary.read_text().startswith("before\n## ❌")


def test_a_file_that_cannot_be_written_is_one_error_and_does_not_lose_the_others(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    files = {
        "junit": tmp_path / "file" / "junit.xml",
        "sarif": tmp_path / "folder",
        "csv": tmp_path / "gate.csv",
    }
    found = write(made(), files)
    assert [type(error) for error in found] == [StoreUnusable, StoreUnusable]
    assert [error.where for error in found] == [str(files["junit"]), str(files["sarif"])]
    assert (tmp_path / "gate.csv").read_text() == to_csv(made())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "gate.csv"], "no scratch stays"


def test_a_link_stays_one_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link, dangling = tmp_path / "link.csv", tmp_path / "dangling.csv"
    (tmp_path / "far" / "there.csv").write_text("before")
    link.symlink_to(tmp_path / "far" / "there.csv")
    dangling.symlink_to(tmp_path / "far" / "new.csv")
    for path in (link, dangling):
        assert write(made(), {"csv": path}) == []
        assert path.is_symlink()
        assert path.read_text() == to_csv(made())


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDWR)
    try:
        assert write(made(), {"csv": tmp_path / "fifo"}) == []
        assert (tmp_path / "fifo").is_fifo()
        assert os.read(reader, 1 << 16).decode() == to_csv(made())
    finally:
        os.close(reader)


# A link of its own, as /dev/stdout is one: should this ever fail, the machine's would be replaced.
_TO_STDOUT = """
import sys
from pathlib import Path
from gate_results import made
from mlopt.gate.outputs import write
print("the verdict", flush=True)
assert write(made(), {"csv": Path(sys.argv[1])}) == []
print("the end")
"""


@pytest.mark.parametrize("into", ["pipe", "file", "socket"])
def test_stdout_is_a_path_too_whatever_it_leads_to(into: str, tmp_path: Path) -> None:
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    code = [sys.executable, "-c", _TO_STDOUT, tmp_path / "stdout"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if into == "pipe":
        shown = subprocess.run(code, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    elif into == "file":
        with (tmp_path / "log").open("w") as log:
            subprocess.run(code, env=environment, check=True, stdout=log)
        shown = (tmp_path / "log").read_text()
    else:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            subprocess.run(code, env=environment, check=True, stdout=theirs)
            shown = ours.recv(1 << 16).decode()
    assert shown == "the verdict\n" + to_csv(made()) + "the end\n"
