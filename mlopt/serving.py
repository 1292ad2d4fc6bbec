"""`[serve]` of mlopt.toml: what the server is told, in its image and by `mlopt serve`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mlopt.units import Bytes, Seconds

# The server's own default: mlopt/serve/settings.py, Limits.
_HELD: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class ServeSpec:
    """What the server is told, in its image and by `mlopt serve`; its own options and environment win.

    `api-keys-file` is a path where the server runs: keys themselves never travel with a model.
    """

    max_batch: int | None = None
    batch_delay: Seconds | None = None
    cache: Bytes | None = None
    concurrency: int | None = None
    max_waiting: int | None = None
    max_wait: Seconds | None = None
    max_body: Bytes | None = None
    max_held: Bytes | None = None
    max_arrival: Seconds | None = None
    max_connections: int | None = None
    api_keys_file: str | None = None
    grpc_port: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_batch", "concurrency", "max_wait", "max_body", "max_held", "max_arrival", "max_connections"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name.replace('_', '-')} is not above 0")
        if self.grpc_port is not None and not 1024 <= self.grpc_port < 65536:
            raise ValueError("grpc-port is not from 1024 to 65535: the server is nobody special")
        if self.max_waiting is not None and self.max_waiting < 0:
            raise ValueError("max-waiting is below 0")
        if self.batch_delay is not None and self.max_batch is None:
            raise ValueError("batch-delay means nothing without max-batch")
        if self.max_body is not None and self.max_body > (self.max_held or _HELD):
            raise ValueError("max-held, the bytes of all bodies together, is less than max-body, those of one")
        if self.api_keys_file is not None and not self.api_keys_file.startswith("/"):
            raise ValueError(
                f"api-keys-file {self.api_keys_file!r} is no absolute path: it is read where the server runs, "
                "/run/secrets/api-keys for example"
            )

    def as_json(self) -> dict[str, Any]:
        """The keys of serving.json that say it to the server; none where nothing is said."""
        told = {
            "cache": _size(self.cache),
            "concurrency": self.concurrency,
            "max-waiting": self.max_waiting,
            "max-wait": self.max_wait,
            "max-body": _size(self.max_body),
            "max-held": _size(self.max_held),
            "max-arrival": self.max_arrival,
            "max-connections": self.max_connections,
            "api-keys-file": self.api_keys_file,
            "grpc-port": self.grpc_port,
        }
        server = {name: value for name, value in told.items() if value is not None}
        batching = {"largest": self.max_batch, "delay_us": round((self.batch_delay or 0) * 1e6)}
        return {**({"batching": batching} if self.max_batch else {}), **({"server": server} if server else {})}


def _size(count: Bytes | None) -> str | None:
    """As the server's options take bytes: a bare number would be MiB."""
    return None if count is None else f"{count}B"
