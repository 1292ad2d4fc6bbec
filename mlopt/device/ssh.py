"""The system's ssh and scp: no password is asked, no unknown host is trusted, every argument is quoted."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlopt.errors import DeviceBuildFailed, DeviceUnreachable, MissingDependency, Misused, NoSpaceLeft

_OPTIONS: Final = (
    *("-o", "BatchMode=yes", "-o", "ConnectTimeout=15"),
    *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"),
)
_ADDRESS: Final = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.\\-]*)@)?"
    r"(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?\])(?::(?P<port>[0-9]{1,5}))?"
)
_LOST: Final = 255  # ssh's own failures; a remote command has its own code
_SHORT: Final = 60.0
# What ssh says, and what a person can do about it.
_NEXT: Final = (
    (
        "identification has changed",
        "find out why its key changed before you trust it: ssh-keygen -R removes the old one",
    ),
    ("Host key verification failed", "connect once by hand and compare the fingerprint it shows: ssh {where}"),
    ("Permission denied", "give it your key: ssh-copy-id {where}; passwords are never asked for here"),
    ("Could not resolve", "look at the name: ssh knows those of /etc/hosts, of DNS and of ~/.ssh/config"),
)


@dataclass(frozen=True, slots=True)
class Device:
    """A machine as ssh reaches it: `host` may be a name of ~/.ssh/config, which says the rest."""

    host: str
    user: str = ""
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Device:
        """USER@HOST[:PORT]. Raises `Misused`."""
        found = _ADDRESS.fullmatch(text)
        if not found or not 0 < int(found["port"] or 22) < 65536:
            raise Misused(
                f"--device {text!r} is no address.", next="say USER@HOST or USER@HOST:PORT, as ssh would reach it"
            )
        return cls(found["host"], found["user"] or "", int(found["port"]) if found["port"] else None)

    def __str__(self) -> str:
        return self._at(self.host) + (f":{self.port}" if self.port else "")

    def command(self, *argv: str) -> list[str]:
        """What runs `argv` there, through the shell of the account, which gets every word quoted."""
        port = ["-p", str(self.port)] if self.port else []
        return [_program("ssh"), *_OPTIONS, *port, "--", self._at(self.host.strip("[]")), shlex.join(argv)]

    def ask(self, *argv: str) -> str:
        """Run something short and return what it printed. Raises `DeviceUnreachable`, `DeviceBuildFailed`."""
        ended = self._run(self.command(*argv), _SHORT)
        if ended.returncode:
            raise DeviceBuildFailed(
                f"{argv[0]} failed on the device: {_last(ended.stderr)}", where=f"{self}: {shlex.join(argv)}"
            )
        return ended.stdout

    def send(self, folder: Path, into: str) -> None:
        """Copy a folder below the folder `into` there."""
        self._copy(str(folder.resolve()), f"{self._at(self.host)}:{into}/")

    def fetch(self, path: str, into: Path) -> None:
        """Copy a file or folder from there below `into`."""
        self._copy(f"{self._at(self.host)}:{path}", f"{into.resolve()}/")

    def remove(self, folder: str) -> str:
        """Remove a folder there; what hindered it, or nothing."""
        try:
            ended = self._run(self.command("rm", "-rf", "--", folder), _SHORT)
        except (DeviceUnreachable, MissingDependency) as error:
            return error.what
        return _last(ended.stderr) if ended.returncode else ""

    def lost(self, said: str) -> DeviceUnreachable:
        """The error for what ssh printed when it did not get there, or not any more."""
        where = f"-p {self.port} {self._at(self.host)}" if self.port else self._at(self.host)
        advice = next((advice for words, advice in _NEXT if words.lower() in said.lower()), "try it: ssh {where} true")
        return DeviceUnreachable(
            f"The device cannot be reached over ssh: {_last(said).removeprefix('ssh: ')}",
            where=str(self),
            next=advice.format(where=where),
        )

    def _copy(self, source: str, destination: str) -> None:
        port = ["-P", str(self.port)] if self.port else []
        ended = self._run([_program("scp"), *_OPTIONS, "-q", "-r", *port, "--", source, destination], None)
        if ended.returncode == 0:
            return
        said = ended.stderr
        if "No space left" in said:
            raise NoSpaceLeft("A disk became full while copying.", where=f"{source} to {destination}")
        if ended.returncode == _LOST or "lost connection" in said or "Connection closed" in said:
            raise self.lost(said)
        raise DeviceBuildFailed(f"Copying failed: {_last(said)}", where=f"{source} to {destination}")

    def _run(self, command: list[str], limit: float | None) -> subprocess.CompletedProcess[str]:
        try:
            ended = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=limit
            )
        except subprocess.TimeoutExpired:
            raise self.lost(f"no answer within {limit:.0f} s") from None
        if ended.returncode == _LOST and not command[0].endswith("scp"):
            raise self.lost(ended.stderr)
        return ended

    def _at(self, host: str) -> str:
        return f"{self.user}@{host}" if self.user else host


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise MissingDependency(f"--device needs {name}.", next="install OpenSSH's client (Debian: openssh-client)")
    return found


def _last(said: str) -> str:
    """The last thing that a program printed, without what a terminal would obey."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    text = lines[-1] if lines else "it printed nothing"
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)[:300]
