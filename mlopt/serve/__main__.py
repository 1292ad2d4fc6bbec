"""`python -m mlopt.serve --model-dir DIR`: serve models until SIGTERM."""

from __future__ import annotations

import gc

from mlopt.serve.lean import imported

if __name__ == "__main__":
    gc.disable()  # until all is imported, which stays: to look for garbage in it takes a twentieth of the start
    # Its documentation and its types for annotations take as much again.
    documentation = ("numpy._core._add_newdocs", "numpy._core._add_newdocs_scalars")
    imported("numpy", without=(*documentation, "numpy._typing"), NDArray=list)

import logging
import os
import resource
import signal
import socket
import sys
from typing import TYPE_CHECKING, Final

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from starlette.applications import Starlette

from mlopt.serve.app import make_app
from mlopt.serve.asgi import Config, Server
from mlopt.serve.connection import KEEP_ALIVE, connection_class
from mlopt.serve.keys import read_keys
from mlopt.serve.model import NotServable
from mlopt.serve.observe import log_to_stdout
from mlopt.serve.repository import find_models
from mlopt.serve.settings import PREFIX, Settings, read_settings
from mlopt.serve.told import limits_of, settled

if TYPE_CHECKING:
    from mlopt.serve.first_start import Builds

_LOG: Final = logging.getLogger("mlopt.serve")
_OTHER_FILES: Final = 100  # what is open beside connections


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 after a graceful stop, 1 when the model cannot be served or the port is taken."""
    settings = read_settings(arguments)
    log_to_stdout(settings.log_level)
    problems: list[str] = []

    def failed(reason: str) -> None:
        problems.append(reason)
        server.should_exit = True

    try:
        settings = settled(arguments, settings, [serving for _, serving in find_models(settings.model_dirs)])
        keys = read_keys(file=settings.api_keys_file, listed=os.environ.get(f"{PREFIX}API_KEYS"))
        builds = _builds(settings)
        app = make_app(
            *settings.model_dirs,
            limits=settings.limits,
            failed=failed,
            keys=keys,
            builds=builds,
            limits_of=limits_of(arguments, settings),
            rpc=settings.door(keys),
        )
        config = _config(app, settings)
    except NotServable as error:
        _LOG.error("cannot serve", extra={"reason": str(error)})
        return 1
    _allow_files((3 if settings.grpc_port else 2) * settings.connections + _OTHER_FILES)
    server = _Server(config)
    # While it runs uvicorn handles the signal; afterwards it raises it again, and a graceful stop must end with 0.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    gc.freeze()
    gc.enable()
    try:
        server.run()
    except SystemExit:
        # uvicorn has said why: the port is taken, or the address is not this machine's.
        return 1
    for reason in problems:
        _LOG.error("cannot serve", extra={"reason": reason})
    if not problems:
        _LOG.info("stopped")
    return 1 if problems else 0


class _Server(Server):
    """uvicorn's, which tells the app of its stop when it has waited for the last request over HTTP. It is told before,
    so that gRPC ends in the same time and not after it."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.withdraw()  # type: ignore[union-attr]  # it is the Starlette of `make_app`
        await super().shutdown(sockets)


def _allow_files(count: int) -> None:
    """As many as connections can be, where the system lets us: else the last of them would wait without an answer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _builds(settings: Settings) -> Builds | None:
    if settings.device_dir is None:
        return None
    from mlopt.serve.first_start import Builds

    engines = settings.engines or settings.device_dir / "engines"
    return Builds(settings.device_dir, engines, settings.engine, settings.engine_python)


def _config(app: Starlette, settings: Settings) -> Config:
    """Raises `NotServable` when certificate and key cannot be used."""
    config = Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="asyncio",
        http=connection_class(most=settings.connections, arrival=settings.limits.arrival),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=settings.grace,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except OSError as error:
        raise NotServable(f"{settings.tls_cert} and {settings.tls_key} cannot be used: {error}") from error
    return config


if __name__ == "__main__":
    sys.exit(main())
