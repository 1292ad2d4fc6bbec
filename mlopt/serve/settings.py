"""What one server is told: by options, by the environment (`MLOPT_SERVE_…`), or by nobody."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

PREFIX: Final = "MLOPT_SERVE_"


# Options that serving.json may set too: of its model, and of the process, where several models must agree.
OF_MODEL: Final = ("cache", "concurrency", "max-waiting", "max-wait", "max-body")
OF_PROCESS: Final = ("max-held", "max-arrival", "max-connections", "api-keys-file", "grpc-port")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server accepts. Beyond `concurrency + waiting` requests, or `held` bytes of bodies, new ones get 503.

    Bytes and seconds; `patience` is how long a request may wait for a thread. `batch` and `delay` (seconds) are None
    where serving.json decides. `memory` bounds what the process takes once its models are loaded; `cache` what the kept
    answers of each model take.
    """

    body: int = 64 << 20
    held: int = 256 << 20
    concurrency: int = 2
    waiting: int = 32
    arrival: float = 30.0
    patience: float = 30.0
    batch: int | None = None
    delay: float | None = None
    memory: int | None = None
    cache: int = 0


@dataclass(frozen=True, slots=True)
class Door:
    """Where gRPC is served, and for whom: `tls` are the files of certificate and key, `grace` seconds to finish, and
    `connections` how many may be open, besides those of HTTP."""

    host: str
    port: int
    keys: tuple[str, ...]
    tls: tuple[Path, Path] | None
    grace: int
    connections: int


@dataclass(frozen=True, slots=True)
class Settings:
    """The command line of `python -m mlopt.serve`, checked."""

    model_dirs: tuple[Path, ...]
    host: str
    port: int
    limits: Limits
    connections: int
    grace: int
    api_keys_file: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    log_level: str
    device_dir: Path | None = None
    engines: Path | None = None
    engine: tuple[str, ...] = ()
    engine_python: str = "python3"
    grpc_port: int | None = None

    def door(self, keys: tuple[str, ...]) -> Door | None:
        """Where gRPC is served; None where it is not."""
        if self.grpc_port is None:
            return None
        tls = (self.tls_cert, self.tls_key) if self.tls_cert and self.tls_key else None
        return Door(self.host, self.grpc_port, keys, tls, self.grace, self.connections)


def variable(option: str) -> str:
    """The environment's name of an option: `max-batch` is MLOPT_SERVE_MAX_BATCH."""
    return PREFIX + option.strip("-").replace("-", "_").upper()


def is_said(option: str, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> bool:
    """Whether who starts the server says this option, so that serving.json does not count."""
    flag = f"--{option}"
    return variable(option) in environment or any(word.split("=", 1)[0] == flag for word in arguments)


def read_settings(arguments: list[str] | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Every option can also be an environment variable: --max-batch is MLOPT_SERVE_MAX_BATCH. Exits with 2 if wrong."""
    parser = argparse.ArgumentParser(
        prog="mlopt.serve",
        description=f"Serve models. Every option can be set as {PREFIX}… too: --max-batch as {PREFIX}MAX_BATCH.",
    )

    def option(name: str, type: Callable[[str], Any], default: Any, help: str, metavar: str | None = None) -> None:
        parser.add_argument(
            name,
            type=type,
            default=environment.get(variable(name), default),
            help=help if default is None else f"{help}  [default: {default}]",
            metavar=metavar or ("FILE" if type is Path else "N"),
        )

    limits = Limits()
    inherited = environment.get(variable("model-dir"))
    parser.add_argument(
        "--model-dir",
        dest="model_dirs",
        type=Path,
        action="append",
        help=f"folder of a model (with serving.json), or of models; several times, or with {os.pathsep!r} in "
        f"{PREFIX}MODEL_DIR",
        metavar="DIR",
    )
    option("--host", str, "127.0.0.1", "address to listen on", "ADDRESS")
    option("--port", int, 8080, "port to listen on")
    option("--grpc-port", int, None, "port for gRPC, which needs grpcio and protobuf; without, none")
    option("--concurrency", _whole(1), limits.concurrency, "inferences at once")
    option("--max-waiting", _whole(0), limits.waiting, "more than these waiting get 503")
    option("--max-wait", _seconds, f"{limits.patience:g}", "longest wait for an inference; then 503", "SECONDS")
    option("--max-batch", _whole(1), None, "rows that are computed together; 1: none (as in serving.json)")
    option("--batch-delay-us", _whole(0), None, "how long a request waits for others to join it", "MICROSECONDS")
    option("--max-body", size(1), f"{limits.body >> 20}", "largest request body", "MIB")
    option("--max-held", size(1), f"{limits.held >> 20}", "all request bodies together; beyond it 503", "MIB")
    option("--cache", size(0), "0", "answers of each model that are kept for the same inputs; 0: none", "MIB")
    option("--max-memory", size(1), None, "do not start where the loaded models take more", "MIB")
    option(
        "--max-arrival",
        _seconds,
        f"{limits.arrival:g}",
        "time for a head, and for a body, to arrive",
        "SECONDS",
    )
    option(
        "--max-connections", _whole(1), 1000, "open connections; more get 503 (gRPC: as many again, more are closed)"
    )
    option("--api-keys-file", Path, None, f"one key a line; or {PREFIX}API_KEYS, with commas")
    option("--tls-cert", Path, None, "certificate chain, PEM")
    option("--tls-key", Path, None, "its private key, PEM")
    option("--device-dir", Path, None, "device/ of a bundle: its engine is built here first, then serves", "DIR")
    option("--engines", Path, None, "where engines are kept, a volume  [default: engines in that folder]", "DIR")
    option("--engine", _names, None, "which of its builds may serve; without, any", "NAME,…")
    option("--engine-python", str, "python3", "the system's Python, for its TensorRT", "PYTHON")
    option("--grace", _whole(1), 20, "time to finish on SIGTERM", "SECONDS")
    option("--log-level", _level, "info", "debug, info, warning or error", "LEVEL")
    asked = parser.parse_args(arguments)
    asked.engine = asked.engine or ()
    asked.model_dirs = tuple(asked.model_dirs or map(Path, filter(None, (inherited or "").split(os.pathsep))))
    if not asked.model_dirs:
        parser.error(f"give --model-dir DIR, or {PREFIX}MODEL_DIR")
    if (asked.tls_cert is None) != (asked.tls_key is None):
        parser.error("--tls-cert and --tls-key belong together")
    if asked.max_held < asked.max_body:
        parser.error("--max-held must be at least --max-body")
    return Settings(
        **{field.name: getattr(asked, field.name) for field in fields(Settings) if hasattr(asked, field.name)},
        limits=Limits(
            body=asked.max_body,
            held=asked.max_held,
            concurrency=asked.concurrency,
            waiting=asked.max_waiting,
            arrival=asked.max_arrival,
            patience=asked.max_wait,
            batch=asked.max_batch,
            delay=None if asked.batch_delay_us is None else asked.batch_delay_us / 1e6,
            cache=asked.cache,
            memory=asked.max_memory,
        ),
        connections=asked.max_connections,
    )


def _whole(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return value

    return read


def size(least: int) -> Callable[[str], int]:
    """Bytes of a number of MiB, or of bytes with a B behind it."""
    whole = _whole(least)

    def read(text: str) -> int:
        return whole(text[:-1]) if text.endswith("B") else whole(text) << 20

    return read


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _level(text: str) -> str:
    if text not in ("debug", "info", "warning", "error"):
        raise argparse.ArgumentTypeError("must be debug, info, warning or error")
    return text
