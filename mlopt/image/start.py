"""How the server of an image is started, as whom, what it is told, and how it is asked for its health."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlopt.image.layers import USER
from mlopt.image.native import SERVER
from mlopt.request import Server

PORT: Final = 8080


@dataclass(frozen=True, slots=True)
class _Server:
    program: tuple[str, ...]
    health: tuple[str, ...]
    environment: tuple[str, ...]


_PYTHON: Final = "/usr/bin/python3.11"
_QUIET: Final = ("PATH=/usr/bin", "ORT_DISABLE_TELEMETRY=1")
_SERVERS: Final[Mapping[Server, _Server]] = {
    "python": _Server(
        (_PYTHON, "-m", "mlopt.serve"),
        (_PYTHON, "-m", "mlopt.serve.health"),
        (*_QUIET, "PYTHONDONTWRITEBYTECODE=1", "PYTHONSAFEPATH=1", "PYTHONUNBUFFERED=1", "PYTHONUTF8=1"),
    ),
    "native": _Server((SERVER,), (SERVER, "--health"), _QUIET),
}


def environment_of(server: Server) -> tuple[str, ...]:
    """The settings of its process."""
    return _SERVERS[server].environment


def start_of(server: Server) -> dict[str, Any]:
    """The part of an image's config that engines start it by."""
    served = _SERVERS[server]
    return {
        "User": f"{USER}:{USER}",
        "WorkingDir": "/model",
        "Entrypoint": [*served.program, "--model-dir", "/model"],
        "Cmd": ["--host", "0.0.0.0", "--port", str(PORT)],  # noqa: S104 - inside a container's own network
        "ExposedPorts": {f"{PORT}/tcp": {}},
        "Env": list(served.environment),
        "StopSignal": "SIGTERM",
        # Not in the OCI specification, which allows it; Docker reads it, podman with --format docker.
        "Healthcheck": {
            "Test": ["CMD", *served.health, str(PORT)],
            "Interval": 30_000_000_000,
            "Timeout": 5_000_000_000,
            "StartPeriod": 20_000_000_000,
            "Retries": 3,
        },
    }
