"""Every request counted, timed and logged as one JSON line, with an id that the client can give or read."""

from __future__ import annotations

import json
import logging
import random
import re
import sys
import time
import traceback
from collections.abc import Iterable, MutableMapping
from typing import Any, Final

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlopt.serve.counting import Counter, Histogram
from mlopt.serve.metrics import Metrics

_LOG: Final = logging.getLogger("mlopt.serve")
# Where a request's scope names the model that it was for, by name and version: only of those that are served.
SERVED: Final = "mlopt.model"
NO_MODEL: Final = ("", "")
_QUIET: Final = ("/v2/health/", "/metrics", "/ping")
_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_RANDOM: Final = random.Random()  # noqa: S311 - names a request, guards nothing
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class Observed:
    """ASGI middleware: metrics, the access log and X-Request-Id."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._known: dict[tuple[str, str, tuple[str, str]], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, id, status = time.perf_counter(), request_id(scope), 500
        encoded = id.encode()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", encoded)]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._note(scope, status, time.perf_counter() - began, id)

    def _note(self, scope: MutableMapping[str, Any], status: int, seconds: float, id: str) -> None:
        # The route's pattern, never the raw path: a scanner must not be able to make a million time series.
        endpoint = scope.get("endpoint")
        route = getattr(endpoint, "__name__", "unknown").strip("_") if endpoint else "unknown"
        requests, latency = self._counters(route, str(status), scope.get(SERVED, NO_MODEL))
        requests.inc()
        latency.observe(seconds)
        # A probe asks again and again while the model loads: 503 is its ordinary answer, and `ready` is logged once.
        if not (scope["path"].startswith(_QUIET) and (status < 400 or status == 503)):
            fields = {"method": scope["method"], "path": scope["path"][:200], "code": status}
            _LOG.info("request", extra={**fields, "ms": round(seconds * 1e3, 2), "request_id": id})

    def _counters(self, route: str, code: str, model: tuple[str, str]) -> tuple[Counter, Histogram]:
        """Found once: to look labels up takes longer than to count."""
        key = route, code, model
        if key not in self._known:
            found = self._metrics.requests.labels(route, code, *model), self._metrics.latency.labels(route, *model)
            self._known[key] = found
        return self._known[key]


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, event, and whatever the call added."""

    _second = (0, "")

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": f"{self._time(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info and record.exc_info[1]:
            line["error"] = "".join(traceback.format_exception(record.exc_info[1]))
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # a text that is no Unicode
            return json.dumps(line, default=str)

    def _time(self, second: int) -> str:
        if self._second[0] != second:
            self._second = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return self._second[1]


def log_to_stdout(level: str) -> None:
    """Send the server's and uvicorn's lines to standard output as JSON."""
    # What no line holds is not looked up for it (as the handbook of logging has it): a third of what a line costs.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.captureWarnings(True)  # of decoders, about what is no picture: lines like all others
    for name in ("mlopt.serve", "uvicorn", "asyncio", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level.upper())
    for name in ("uvicorn", "asyncio", "py.warnings"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger("mlopt.serve").level))


def request_id(scope: MutableMapping[str, Any]) -> str:
    """The id that the client gave this request, else one of its own; the same however often it is asked for."""
    if "mlopt.request_id" not in scope:
        scope["mlopt.request_id"] = decent_id(scope["headers"])
    known: str = scope["mlopt.request_id"]
    return known


def decent_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id in a request's headers, where it is a decent one; else one of its own."""
    given = next((bytes(value) for name, value in headers if name == b"x-request-id"), b"")
    return given.decode() if _ID.fullmatch(given) else f"{_RANDOM.getrandbits(128):032x}"
