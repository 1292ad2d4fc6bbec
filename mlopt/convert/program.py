"""The frame of every converter program: one request in, one answer out, its limits kept, its errors told."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlopt.errors import ExportFailed, MloptError, NoSpaceLeft

Request = Mapping[str, Any]
Command = Callable[[Request], Mapping[str, Any]]


def serve(commands: Mapping[str, Command]) -> None:
    """Read `request.json` in the folder that argv names, run its command, and write `answer.json` there."""
    folder = Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_bytes())
    _die_with(request["parent"])
    _limit(request["memory"])
    try:
        answer = dict(commands[request["do"]](request))
    except MloptError as error:
        answer = _told(error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        answer = _told(
            NoSpaceLeft(
                "The disk of temporary files is full; nothing was half-written.",
                where=str(error.filename or tempfile.gettempdir()),
                next="free some space there, or set TMPDIR to a folder with room for several times the model",
            )
        )
    except MemoryError:
        answer = _told(
            ExportFailed(
                f"The converter reached its limit of {request['memory'] >> 20} MiB of memory.",
                next="allow it more: set MLOPT_CONVERT_GIB",
            )
        )
    scratch = folder / "answer.json.part"
    scratch.write_text(json.dumps(answer))
    os.replace(scratch, folder / "answer.json")


def _told(error: MloptError) -> dict[str, Any]:
    return {
        "error": {"kind": type(error).__name__, "what": error.what, "where": error.where, "next": error.next},
    }


def _die_with(parent: int) -> None:
    """Ask the kernel to end this process when the one that started it ends, however that happens."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _limit(memory: int) -> None:
    """Limit private writable memory. Address space would be the wrong measure: runtimes reserve much and use little."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def first_line(error: BaseException) -> str:
    """The first line of an error that says something; frameworks write pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
