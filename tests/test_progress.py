"""How far a long step is: a bar on a terminal, a line for each whole part elsewhere, nothing when quiet."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from mlopt.progress import Progress
from mlopt.step import Going
from mlopt.steps.fold_hard_swish import FoldHardSwish

TOLD = """
from mlopt.progress import Progress
from mlopt.step import Going
from mlopt.steps.fold_hard_swish import FoldHardSwish
progress, step = Progress(about="30%"), FoldHardSwish()
for done in (2, 2.5, 3):
    progress.on_going(step, Going("epoch", done, 4, "loss 0.5"))
"""


def test_a_line_for_each_part_that_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    progress, step = Progress(about="30%"), FoldHardSwish()
    for done in (0, 0.5, 1, 1.5, 2, 4):
        progress.on_going(step, Going("epoch", done, 4, "loss 0.5"))
    lines = capsys.readouterr().err.splitlines()
    assert [re.search(r"epoch \d of 4", line)[0] for line in lines] == [f"epoch {n} of 4" for n in (1, 2, 4)]  # type: ignore[index]
    assert all("fold-hard-swish" in line and line.endswith("loss 0.5") for line in lines)
    assert " left, loss 0.5" in lines[0]
    assert "30%  loss 0.5" in lines[-1], "nothing is left"


def test_what_an_earlier_attempt_did_is_not_counted_as_speed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("mlopt.progress.time.monotonic", lambda: now)
    progress, step = Progress(), FoldHardSwish()
    progress.on_going(step, Going("epoch", 8, 12))
    now += 10
    progress.on_going(step, Going("epoch", 9, 12))
    assert capsys.readouterr().err.splitlines()[-1].endswith("30 s left")


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(quiet=True).on_going(FoldHardSwish(), Going("epoch", 1, 2))
    assert capsys.readouterr().err == ""


def test_a_bar_that_is_taken_back_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", TOLD], stderr=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    said = b""
    try:
        while chunk := os.read(ours, 4096):
            said += chunk
    except OSError:  # Linux says EIO when the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    bars = [part for part in said.decode().split("\r\x1b[K") if part.strip()]
    assert [(bar.count("━"), bar.count("─")) for bar in bars] == [(6, 6), (8, 4), (9, 3)]
    assert "\n" not in said.decode().replace("\r\n", "\n")
    assert "epoch 3 of 4" in bars[1], "the third is being done"
    assert " left" in bars[1]
