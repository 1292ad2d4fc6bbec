"""The routes of the server: Open Inference Protocol v2, metrics, and the page."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from mlopt.serve.classify import classify
from mlopt.serve.metrics import CONTENT_TYPE, Metrics
from mlopt.serve.model import Model, NotServable, Serving, give_back_memory, read_serving
from mlopt.serve.observe import Observed
from mlopt.serve.page import page, security_headers
from mlopt.serve.protocol import Rejected, encode_infer, parse_infer

SERVER_VERSION: Final = "0.1.0"
_BODY_SECONDS: Final = 30.0
_LOG: Final = logging.getLogger("mlopt.serve")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server accepts: bytes of a body, inferences at once, and how many more may wait."""

    body: int = 64 << 20
    concurrency: int = 2
    waiting: int = 32


def make_app(folder: Path, *, limits: Limits, failed: Callable[[str], None]) -> Starlette:
    """The server of one model folder. Raises `NotServable` when serving.json is unusable.

    The model loads while the app already answers liveness; `failed` is called with the reason if it cannot.
    """
    return _Server(folder, read_serving(folder), limits, failed).app()


class _Server:
    def __init__(self, folder: Path, serving: Serving, limits: Limits, failed: Callable[[str], None]) -> None:
        self._folder, self._serving, self._limits, self._failed = folder, serving, limits, failed
        self._metrics = Metrics(model=serving.name, version=serving.version)
        self._pool = ThreadPoolExecutor(limits.concurrency, thread_name_prefix="infer")
        self._model: Model | None = None
        self._busy = 0

    def app(self) -> Starlette:
        model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        routes = [
            Route("/", self._page),
            Route("/metrics", self._show_metrics),
            Route("/v1/classify", self._classify, methods=["POST"]),
            Route("/v2", self._server_metadata),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
        ]
        for prefix in (model, version):
            routes += [
                Route(prefix, self._model_metadata),
                Route(f"{prefix}/ready", self._ready),
                Route(f"{prefix}/infer", self._infer, methods=["POST"]),
            ]
        app = Starlette(
            routes=routes,
            lifespan=self._lifespan,
            exception_handlers={Rejected: _rejected, HTTPException: _http_error, Exception: _fault},
        )
        app.add_middleware(Observed, metrics=self._metrics)
        return app

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(self._become_ready())
        yield
        self._metrics.ready.set(0)
        await loading
        self._pool.shutdown(wait=True)

    async def _become_ready(self) -> None:
        """Load in a thread; then become ready between two requests, so that the log never has one before `ready`."""
        began = time.perf_counter()
        try:
            model = await asyncio.get_running_loop().run_in_executor(self._pool, self._load)
        except NotServable as error:
            self._failed(str(error))
            return
        except Exception as error:
            # A bug: the log gets its traceback, and nobody waits for a server that will never be ready.
            _LOG.error("fault", exc_info=error)
            self._failed(f"loading failed with {type(error).__name__}; the line above has the traceback")
            return
        self._model = model
        self._metrics.ready.set(1)
        _LOG.info(
            "ready",
            extra={
                "model": self._serving.name,
                "threads": model.threads,
                "load_ms": round((time.perf_counter() - began) * 1e3, 1),
                "pid": os.getpid(),
            },
        )

    def _load(self) -> Model:
        model = Model(self._folder, self._serving)
        model.warm_up()
        give_back_memory()
        return model

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(page(self._serving), headers=security_headers())

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)

    async def _server_metadata(self, request: Request) -> Response:
        return _json({"name": "mlopt", "version": SERVER_VERSION, "extensions": []})

    async def _live(self, request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, request: Request) -> Response:
        self._check_name(request)
        if self._model is None:
            raise Rejected("the model is not loaded yet", status=503, retry_after=1)
        return _json({"name": self._serving.name, "ready": True})

    async def _model_metadata(self, request: Request) -> Response:
        self._check_name(request)
        return _json(self._serving.metadata())

    async def _infer(self, request: Request) -> Response:
        self._check_name(request)
        body = await self._body(request)
        return Response(await self._threaded(lambda model: self._answer(model, body)), media_type="application/json")

    def _answer(self, model: Model, body: bytes) -> bytes:
        """Parse, infer, encode: all of it in the inference thread, so that a large body never holds up health."""
        serving, began = self._serving, time.perf_counter()
        asked = parse_infer(body, inputs=serving.inputs, outputs=serving.outputs)
        parsed = time.perf_counter()
        arrays = model.infer(asked.feeds, outputs=asked.outputs)
        done = time.perf_counter()
        self._metrics.stage.labels("parse").observe(parsed - began)
        self._metrics.stage.labels("infer").observe(done - parsed)
        return encode_infer(arrays, model=serving.name, version=serving.version, outputs=serving.outputs, id=asked.id)

    async def _classify(self, request: Request) -> Response:
        if not self._serving.classifies_pictures:
            raise Rejected("this model does not declare how a picture becomes its input; use infer", status=404)
        top = _whole(request.query_params.get("top", "5"), least=1, most=1000)
        picture = await self._body(request)
        answer = await self._threaded(lambda model: classify(model, picture, top=top))
        self._metrics.stage.labels("prepare").observe(answer.prepare)
        self._metrics.stage.labels("infer").observe(answer.infer)
        return _json(answer.body)

    def _check_name(self, request: Request) -> None:
        name, version = request.path_params.get("model"), request.path_params.get("version")
        if name not in (None, self._serving.name) or version not in (None, self._serving.version):
            raise Rejected(f"there is no such model; this server has {self._serving.name}", status=404)

    async def _body(self, request: Request) -> bytes:
        """The whole body, within the limits of size and time."""
        too_large = Rejected(f"the body is larger than {self._limits.body} bytes", status=413)
        declared = request.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._limits.body:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self._limits.body:
                        raise too_large
        except TimeoutError as error:
            raise Rejected(f"the body did not arrive within {_BODY_SECONDS:.0f} s", status=408) from error
        except ClientDisconnect as error:
            raise Rejected("the client went away", status=400) from error
        return bytes(body)

    async def _threaded(self, work: Callable[[Model], _T]) -> _T:
        """Run in an inference thread; refuse at once when too many already wait."""
        model = self._model
        if model is None:
            raise Rejected("the model is not loaded yet", status=503, retry_after=1)
        if self._busy >= self._limits.concurrency + self._limits.waiting:
            self._metrics.refused.inc()
            raise Rejected("too many requests wait already", status=503, retry_after=1)
        self._busy += 1
        self._metrics.in_flight.set(self._busy)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, model)
        finally:
            self._busy -= 1
            self._metrics.in_flight.set(self._busy)


def _whole(text: str, *, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise Rejected(f"top must be a whole number from {least} to {most}")
    return int(text)


def _json(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status_code=status, headers=headers, media_type="application/json")


async def _rejected(request: Request, error: Exception) -> Response:
    assert isinstance(error, Rejected)
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    if error.status in (408, 413):
        # What is left of the body is not read: the connection cannot carry another request.
        headers["Connection"] = "close"
    return _json({"error": error.message}, status=error.status, headers=headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, status=error.status_code, headers=dict(error.headers or {}))


async def _fault(request: Request, error: Exception) -> Response:
    _LOG.error("fault", exc_info=error)
    return _json({"error": "the server failed on this request; its log says why"}, status=500)
