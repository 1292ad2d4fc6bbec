"""The servers that are compared: how each is started, when it is ready, and what memory it holds."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from headtohead.environments import environment

from mlopt.image.assemble import ImageSpec, assemble
from mlopt.image.inputs import host_platform
from mlopt.image.rootfs import server_command, unpack_rootfs
from mlopt.image.run import free_port
from mlopt.store import default_root

PEERS: Final = Path(__file__).with_name("peers")


@dataclass(frozen=True, slots=True)
class Server:
    """`command` from its interpreter, the model and a port; `peer` is None for mlopt, which runs in this Python."""

    name: str
    peer: str | None
    infer: str
    ready: str
    command: Callable[[Path, Path, int], list[str]]


def _mlopt(*options: str) -> Callable[[Path, Path, int], list[str]]:
    return lambda python, model, port: [
        str(python), "-m", "mlopt.serve", "--model-dir", str(model.parent), "--port", str(port), *options,
    ]  # fmt: skip


def _image(kind: Literal["python", "native"]) -> Callable[[Path, Path, int], list[str]]:
    """The server of an image, from the image's own files and with its own Python."""

    def command(python: Path, model: Path, port: int) -> list[str]:
        layout, platform = model.parent / f"image-{kind}", host_platform()
        serving = json.loads((model.parent / "serving.json").read_bytes())
        assemble(ImageSpec("model", model, serving, kind, platforms=(platform,)), layout)
        files = unpack_rootfs(layout, platform=platform, root=default_root())
        found = server_command(layout, files, platform=platform, arguments=("--port", str(port)))
        return ["/usr/bin/env", *(f"{name}={value}" for name, value in found.environment.items()), *found.arguments]

    return command


def _flask(python: Path, model: Path, port: int) -> list[str]:
    at = ["--bind", f"127.0.0.1:{port}", "--chdir", str(PEERS)]
    return [str(python), "-m", "gunicorn", *at, "--threads", "4", "--keep-alive", "30", "server_flask:app"]


def _mlserver(python: Path, model: Path, port: int) -> list[str]:
    """Its settings lie beside the model. No worker processes: one process is what the others have, and it is faster."""
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    (model.parent / "settings.json").write_text(json.dumps(settings))
    runtime = {"name": "model", "implementation": "server_mlserver.Model"}
    (model.parent / "model-settings.json").write_text(json.dumps(runtime))
    return [str(python.with_name("mlserver")), "start", str(model.parent)]


def _kserve(python: Path, model: Path, port: int) -> list[str]:
    """REST alone, in one process, and one line of log for a request, as mlopt writes; its second one is off."""
    asked = ["--enable_grpc", "false", "--enable_latency_logging", "false"]
    return [str(python), str(PEERS / "server_kserve.py"), "--http_port", str(port), *asked]


def _bentoml(python: Path, model: Path, port: int) -> list[str]:
    at = ["--host", "127.0.0.1", "--port", str(port), "--working-dir", str(PEERS)]
    return [str(python), "-m", "bentoml", "serve", "server_bentoml:Server", *at]


_V2 = ("/v2/models/model/infer", "/v2/health/ready")
SERVERS = (
    Server("mlopt", None, *_V2, _mlopt()),
    Server("mlopt, batches of 16", None, *_V2, _mlopt("--max-batch", "16", "--batch-delay-us", "0")),
    Server("mlopt, Python image", None, *_V2, _image("python")),
    Server("mlopt, native image", None, *_V2, _image("native")),
    Server("MLServer", "server_mlserver", "/v2/models/model/infer", "/v2/models/model/ready", _mlserver),
    Server("KServe", "server_kserve", "/v2/models/model/infer", "/v2/models/model/ready", _kserve),
    Server("BentoML", "server_bentoml", "/infer", "/readyz", _bentoml),
    Server("Flask in gunicorn", "server_flask", "/infer", "/ready", _flask),
)


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is ready: its port, how long that took in seconds, and its processes."""

    port: int
    start: float
    pid: int

    def memory(self) -> int:
        """Bytes of all its processes; pages that they share count once."""
        return sum(_proportional(pid) for pid in _family(self.pid))

    def processor(self) -> float:
        """Seconds of processor time that all its processes have taken."""
        return sum(_ticks(pid) for pid in _family(self.pid)) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(server: Server, model: Path, home: Path, *, core: int) -> Iterator[Running | str]:
    """The server on this core, or why there is none."""
    python, why = (Path(sys.executable), "") if server.peer is None else environment(server.peer, home, peers=PEERS)
    if python is None:
        yield why
        return
    port = free_port()
    log = (home / f"{server.peer or 'mlopt'}.log").open("w")
    path = {"PYTHONPATH": str(PEERS)} if server.peer else {}
    quiet = {"ORT_DISABLE_TELEMETRY": "1", "BENTOML_DO_NOT_TRACK": "True", "OMP_NUM_THREADS": "1"}
    # Servers are installed once and started often: with their bytecode, as an image has it.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *server.command(python, model, port)],
        env={**inherited, **quiet, **path, "MODEL": str(model)},
        cwd=home,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        began = time.perf_counter()
        while time.perf_counter() - began < 90 and process.poll() is None and not _answers(port, server.ready):
            time.sleep(0.005)
        took = time.perf_counter() - began
        if process.poll() is None and took < 90:
            yield Running(port, took, process.pid)
        else:
            yield f"it does not become ready: {Path(log.name).read_text()[-300:]}"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        for pid in _family(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        process.wait()
        log.close()


def _answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _family(pid: int) -> list[int]:
    found = [pid] if Path(f"/proc/{pid}").is_dir() else []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += _family(int(child))
    return found


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)
