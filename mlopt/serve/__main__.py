"""`python -m mlopt.serve --model-dir DIR`: serve one model until SIGTERM."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Final

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import uvicorn

from mlopt.serve.app import Limits, make_app
from mlopt.serve.model import NotServable
from mlopt.serve.observe import log_to_stdout

_LOG: Final = logging.getLogger("mlopt.serve")


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 after a graceful stop, 1 when the model cannot be served or the port is taken."""
    asked = _parser().parse_args(arguments)
    log_to_stdout(asked.log_level)
    problems: list[str] = []

    def failed(reason: str) -> None:
        problems.append(reason)
        server.should_exit = True

    limits = Limits(body=asked.max_body << 20, concurrency=asked.concurrency, waiting=asked.max_waiting)
    try:
        app = make_app(asked.model_dir, limits=limits, failed=failed)
    except NotServable as error:
        _LOG.error("cannot serve", extra={"reason": str(error)})
        return 1
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=asked.host,
            port=asked.port,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=asked.grace,
        )
    )
    # While it runs uvicorn handles the signal; afterwards it raises it again, and a graceful stop must end with 0.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlopt.serve", description="Serve one model (Open Inference Protocol v2).")
    parser.add_argument("--model-dir", type=Path, required=True, help="folder with serving.json and the model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--concurrency", type=_positive, default=2, help="inferences at once")
    parser.add_argument("--max-waiting", type=int, default=32, help="more than these waiting get 503")
    parser.add_argument("--max-body", type=_positive, default=64, metavar="MIB", help="largest request body")
    parser.add_argument("--grace", type=_positive, default=20, metavar="SECONDS", help="time to finish on SIGTERM")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
