"""A real sshd on 127.0.0.1 for a test: with a key of its own for the host, one for the account, and its known_hosts."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from listening import wait_until_listening

from mlopt.image.run import free_port

SSHD = shutil.which("sshd", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))


@dataclass(frozen=True, slots=True)
class Loopback:
    """`bin` goes first on PATH: its ssh and scp are the system's, told to know this host and this key alone."""

    folder: Path
    port: int
    server: subprocess.Popen[bytes]

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def address(self) -> str:
        return f"{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"


def why_not() -> str:
    """Why no sshd can be started here; empty when one can."""
    if SSHD is None or shutil.which("ssh") is None:
        return "needs sshd and ssh (Debian: openssh-server)"
    if os.getuid() == 0:
        try:
            pwd.getpwnam("sshd")
        except KeyError:
            return "sshd that is started by root needs the user sshd (its package makes it)"
        if not Path("/run/sshd").is_dir():
            return "sshd that is started by root needs the folder /run/sshd (its service makes it)"
    return ""


@contextmanager
def serving(folder: Path, env: Mapping[str, str]) -> Iterator[Loopback]:
    """sshd whose sessions have `env`, which stands for the device that is logged in to."""
    if reason := why_not():
        pytest.skip(reason)
    (folder / "bin").mkdir(parents=True)
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port = free_port()
    sessions = " ".join(f'"{name}={value}"' for name, value in env.items())
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/key.pub\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\nSetEnv {sessions}\n"
    )
    host_key = (folder / "host_key.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key[0]} {host_key[1]}\n")
    (folder / "ssh_config").write_text(
        f"Host *\n  IdentityFile {folder}/key\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n"
        "  GlobalKnownHostsFile none\n  LogLevel ERROR\n"
    )
    for name in ("ssh", "scp"):
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {shutil.which(name)} -F {folder}/ssh_config "$@"\n')
        program.chmod(0o755)
    log = folder / "sshd.log"
    assert SSHD
    server = subprocess.Popen([SSHD, "-D", "-f", str(folder / "sshd_config"), "-E", str(log)])
    try:
        wait_until_listening(port, server, log, name="sshd")
        yield Loopback(folder, port, server)
    finally:
        server.terminate()
        server.wait(10)
