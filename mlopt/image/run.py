"""Run an image's server on this machine: in podman or Docker, or from its unpacked files where neither runs."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal

from mlopt.errors import ImageFailed, MloptError
from mlopt.image.inputs import host_platform
from mlopt.image.load import Engine, load_image
from mlopt.image.rootfs import server_command, unpack_rootfs
from mlopt.serve.settings import PREFIX
from mlopt.store import default_root

Choice = Literal["auto", "podman", "docker", "none"]

_READY_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 25.0


@dataclass(frozen=True, slots=True)
class Served:
    """A running server: what runs it, seconds from start to ready, its `pid` (None inside an engine).

    `refused` says why engines that were tried before it did not run it.
    """

    url: str
    engine: str
    start_seconds: float
    pid: int | None
    refused: tuple[str, ...] = ()


@contextmanager
def serve_image(
    layout: Path,
    *,
    port: int = 0,
    engine: Choice = "auto",
    platform: str | None = None,
    emulator: Sequence[str] = (),
    root: Path | None = None,
    ready_seconds: float = _READY_SECONDS,
) -> Iterator[Served]:
    """The server of an OCI layout on 127.0.0.1, ready when the block begins and stopped when it ends.

    `port` 0 takes a free one. `auto` takes podman or Docker where one really runs the image, else "none":
    the image's own files, unpacked below `root` (the cache), started through its own loader. `platform` and
    `emulator` (such as a qemu-user command) are for another architecture's files and need "none".
    Raises `ImageFailed` with the server's last words when it does not become ready.
    """
    port = port or free_port()
    wanted = platform or host_platform()
    with contextlib.ExitStack() as stack:
        yield _start(
            stack,
            _order(engine),
            layout=layout,
            port=port,
            platform=wanted,
            emulator=emulator,
            root=root or default_root(),
            seconds=ready_seconds,
        )


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def engine_runs(engine: Engine) -> bool:
    """Whether the engine is installed and answers. It may still refuse to run a container."""
    try:
        done = subprocess.run([engine, "info"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    # The Docker command line without a daemon says so on stderr; old ones still exit with 0.
    return done.returncode == 0 and b"Cannot connect" not in done.stderr


def _order(choice: Choice) -> list[Literal["podman", "docker", "none"]]:
    if choice == "auto":
        engines: list[Engine] = ["podman", "docker"]
        return [*(engine for engine in engines if engine_runs(engine)), "none"]
    return [choice]


def _start(
    stack: contextlib.ExitStack,
    engines: list[Literal["podman", "docker", "none"]],
    *,
    layout: Path,
    port: int,
    platform: str,
    emulator: Sequence[str],
    root: Path,
    seconds: float,
) -> Served:
    """The first engine that brings the server up; the last one's error when none does."""
    refused: list[str] = []
    for engine in engines:
        try:
            with contextlib.ExitStack() as attempt:
                if engine == "none":
                    running = attempt.enter_context(_unpacked(layout, port, platform, emulator, root, seconds))
                else:
                    running = attempt.enter_context(_contained(layout, port, platform, engine, seconds))
                stack.push(attempt.pop_all())
                return dataclasses.replace(running, refused=tuple(refused))
        except MloptError as error:
            if engine == engines[-1]:
                raise
            refused.append(f"{engine}: {error.what}")
    raise AssertionError("there is always one engine to try")


@contextmanager
def _unpacked(
    layout: Path, port: int, platform: str, emulator: Sequence[str], root: Path, seconds: float
) -> Iterator[Served]:
    rootfs = unpack_rootfs(layout, platform=platform, root=root)
    arguments = ["--host", "127.0.0.1", "--port", str(port)]
    command = server_command(layout, rootfs, platform=platform, arguments=arguments, emulator=emulator)
    model = str(rootfs / "model")
    with tempfile.TemporaryFile() as log:
        began = time.monotonic()
        try:
            process = subprocess.Popen(
                command.arguments,
                env={**command.environment, **_settings()},
                cwd=model,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise ImageFailed(f"The image's server cannot be started: {error}", where=str(rootfs)) from error
        try:
            _wait_ready(port, process, log, seconds, layout)
            yield Served(f"http://127.0.0.1:{port}", "none", time.monotonic() - began, process.pid)
        finally:
            _stop(process)


@contextmanager
def _contained(layout: Path, port: int, platform: str, engine: Engine, seconds: float) -> Iterator[Served]:
    reference = load_image(layout, engine=engine, platform=platform)
    name = f"mlopt-{uuid.uuid4().hex[:12]}"
    # The host's network and 127.0.0.1: reachable from this machine alone, with no bridge or firewall rule to set up.
    command = [engine, "run", "--rm", "--name", name, "--network", "host", "--read-only", "--cap-drop", "ALL"]
    # Limits that need no right to raise: podman's own default fails in small virtual machines.
    command += ["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"]
    command += [word for setting in _settings() for word in ("--env", setting)]
    command += ["--security-opt", "no-new-privileges", reference, "--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            _wait_ready(port, process, log, seconds, layout)
            yield Served(f"http://127.0.0.1:{port}", engine, time.monotonic() - began, None)
        finally:
            subprocess.run([engine, "stop", "--time", "20", name], capture_output=True, check=False)
            with suppress(subprocess.TimeoutExpired):  # `run --rm` removes the container: not to be cut off in that
                process.wait(_STOP_SECONDS)
            _stop(process)


def _settings() -> dict[str, str]:
    """What the server is told by the environment of whoever starts it (mlopt/serve/settings.py)."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(PREFIX)}


def _wait_ready(port: int, process: subprocess.Popen[bytes], log: IO[bytes], seconds: float, layout: Path) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise _never_ready(f"ended with status {process.returncode}", log, layout)
        if _is_ready(port):
            return
        time.sleep(0.02)
    raise _never_ready(f"was not ready within {seconds:.0f} s", log, layout)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _never_ready(how: str, log: IO[bytes], layout: Path) -> ImageFailed:
    log.seek(0)
    words = log.read().decode(errors="replace").strip().splitlines()
    return ImageFailed(
        f"The image's server {how}. It said: " + (" | ".join(words[-5:])[-1500:] or "nothing"),
        where=str(layout),
        next="mlopt doctor",
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
