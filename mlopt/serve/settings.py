"""What one server is told: by options, by the environment (`MLOPT_SERVE_…`), or by nobody."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

PREFIX: Final = "MLOPT_SERVE_"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server accepts. Beyond `concurrency + waiting` requests, or `held` bytes of bodies, new ones get 503.

    Bytes and seconds; `patience` is how long a request may wait for a thread. `batch` and `delay` (seconds) are None
    where serving.json decides.
    """

    body: int = 64 << 20
    held: int = 256 << 20
    concurrency: int = 2
    waiting: int = 32
    arrival: float = 30.0
    patience: float = 30.0
    batch: int | None = None
    delay: float | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The command line of `python -m mlopt.serve`, checked."""

    model_dir: Path
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


def read_settings(arguments: list[str] | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Every option can also be an environment variable: --max-batch is MLOPT_SERVE_MAX_BATCH. Exits with 2 if wrong."""
    parser = argparse.ArgumentParser(
        prog="mlopt.serve",
        description=f"Serve one model. Every option can be set as {PREFIX}… too: --max-batch as {PREFIX}MAX_BATCH.",
    )

    def option(name: str, type: Callable[[str], Any], default: Any, help: str, metavar: str | None = None) -> None:
        variable = PREFIX + name.strip("-").replace("-", "_").upper()
        parser.add_argument(
            name,
            type=type,
            default=environment.get(variable, default),
            help=help if default is None else f"{help}  [default: {default}]",
            metavar=metavar or ("FILE" if type is Path else "N"),
            required=name == "--model-dir" and variable not in environment,
        )

    limits = Limits()
    option("--model-dir", Path, None, "folder with serving.json and the model", "DIR")
    option("--host", str, "127.0.0.1", "address to listen on", "ADDRESS")
    option("--port", int, 8080, "port to listen on")
    option("--concurrency", _whole(1), limits.concurrency, "inferences at once")
    option("--max-waiting", _whole(0), limits.waiting, "more than these waiting get 503")
    option("--max-wait", _seconds, f"{limits.patience:g}", "longest wait for an inference; then 503", "SECONDS")
    option("--max-batch", _whole(1), None, "rows that are computed together; 1: none (as in serving.json)")
    option("--batch-delay-us", _whole(0), None, "how long a request waits for others to join it", "MICROSECONDS")
    option("--max-body", _whole(1), limits.body >> 20, "largest request body", "MIB")
    option("--max-held", _whole(1), limits.held >> 20, "all request bodies together; beyond it 503", "MIB")
    option(
        "--max-arrival",
        _seconds,
        f"{limits.arrival:g}",
        "time for a head, and for a body, to arrive",
        "SECONDS",
    )
    option("--max-connections", _whole(1), 1000, "open connections; more get 503")
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
    if (asked.tls_cert is None) != (asked.tls_key is None):
        parser.error("--tls-cert and --tls-key belong together")
    if asked.max_held < asked.max_body:
        parser.error("--max-held must be at least --max-body")
    return Settings(
        **{field.name: getattr(asked, field.name) for field in fields(Settings) if hasattr(asked, field.name)},
        limits=Limits(
            body=asked.max_body << 20,
            held=asked.max_held << 20,
            concurrency=asked.concurrency,
            waiting=asked.max_waiting,
            arrival=asked.max_arrival,
            patience=asked.max_wait,
            batch=asked.max_batch,
            delay=None if asked.batch_delay_us is None else asked.batch_delay_us / 1e6,
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
