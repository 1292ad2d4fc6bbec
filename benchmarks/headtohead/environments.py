"""A Python environment for each peer, made once from its requirements: peers pin versions that exclude each other."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

PEERS: Final = Path(__file__).resolve().parents[1] / "peers"
_LIMIT: Final = 3600.0


def environment(peer: str, home: Path, *, peers: Path = PEERS) -> tuple[Path | None, str]:
    """The peer's interpreter, and the empty string; or None, and why it could not be installed.

    It is made anew when the requirements file changes; a refusal is remembered too, until then.
    """
    requirements = peers / f"{peer}.txt"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    folder = home / peer
    python = folder / "bin" / "python"
    if _read(folder / "installed") == wanted:
        return python, ""
    if _read(folder / "refused").startswith(wanted):
        return None, _read(folder / "refused").partition("\n")[2]
    print(f"installing {peer} into {folder}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    ended = subprocess.run(
        [*pip, "install", "-q", "-r", str(requirements)], capture_output=True, text=True, timeout=_LIMIT
    )
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")] or ended.stderr.splitlines()
        why = f"pip refuses its requirements: {lines[0][:300] if lines else 'it said nothing'}"
        (folder / "refused").write_text(f"{wanted}\n{why}")
        return None, why
    (folder / "installed").write_text(wanted)
    return python, ""


def refusal(peer: str, home: Path) -> str:
    """Why the peer could not be installed when that was last tried; empty when it was not, or is installed."""
    return _read(home / peer / "refused").partition("\n")[2]


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
