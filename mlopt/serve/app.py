"""The routes of the server: Open Inference Protocol v2, TensorFlow Serving's, TorchServe's, metrics, and the page."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from mlopt.serve import tensorflow, torchserve
from mlopt.serve.batching import Batching, why_not
from mlopt.serve.call import Answer, Call
from mlopt.serve.classify import read_picture
from mlopt.serve.first_start import STAGES, Builds, FirstStart
from mlopt.serve.intake import Intake
from mlopt.serve.keys import Keyed
from mlopt.serve.line import Line
from mlopt.serve.metrics import CONTENT_TYPE, Metrics
from mlopt.serve.model import Model, NotServable, Serving, give_back_memory, read_serving
from mlopt.serve.observe import Observed, request_id
from mlopt.serve.page import page, security_headers
from mlopt.serve.protocol import EXTENSIONS, HEADER_LENGTH, InferRequest, encode_infer, parse_infer
from mlopt.serve.settings import Limits
from mlopt.serve.tensors import Rejected

SERVER_VERSION: Final = "0.1.0"
_SMALL: Final = 16 << 10  # bytes of a body that is read in far less than a millisecond
_LOG: Final = logging.getLogger("mlopt.serve")


def make_app(
    folder: Path,
    *,
    limits: Limits,
    failed: Callable[[str], None],
    keys: tuple[str, ...] = (),
    builds: Builds | None = None,
) -> Starlette:
    """The server of one model folder. Raises `NotServable` when serving.json, or the folder of `builds`, is unusable.

    The model loads while the app already answers liveness; `failed` is called with the reason if it cannot.
    With `keys` only who sends one of them is served. With `builds` an engine is built, and takes over; ready only then.
    """
    return _Server(folder, read_serving(folder), limits, failed, builds).app(keys)


class _Server:
    def __init__(
        self, folder: Path, serving: Serving, limits: Limits, failed: Callable[[str], None], builds: Builds | None
    ) -> None:
        self._folder, self._serving, self._limits, self._failed = folder, serving, limits, failed
        self._first_start = FirstStart(builds, self._note) if builds else None
        self._metrics = Metrics(model=serving.name, version=serving.version)
        self._intake = Intake(limits, self._metrics)
        self._line: Line | None = None

    def app(self, keys: tuple[str, ...]) -> Starlette:
        app = Starlette(
            routes=self._routes(),
            lifespan=self._lifespan,
            exception_handlers={Rejected: _rejected, HTTPException: _http_error, Exception: _fault},
        )
        if keys:
            app.add_middleware(Keyed, keys=keys)
        app.add_middleware(Observed, metrics=self._metrics)
        return app

    def _routes(self) -> list[Route]:
        """What is asked most stands first: routes are tried in this order."""
        models = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        tensorflow_models = ("/v1/models/{model}", "/v1/models/{model}/versions/{version}")
        predictions = ("/predictions/{model}", "/predictions/{model}/{version}")
        return [
            *(Route(f"{prefix}/infer", self._infer, methods=["POST"]) for prefix in models),
            Route("/v1/classify", self._classify, methods=["POST"]),
            *(Route(f"{prefix}:predict", self._predict, methods=["POST"]) for prefix in tensorflow_models),
            *(Route(prefix, self._predictions, methods=["POST", "PUT"]) for prefix in predictions),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/metrics", self._show_metrics),
            Route("/", self._page),
            Route("/ping", self._ping),
            Route("/v2", self._server_metadata),
            *(Route(prefix, self._model_metadata) for prefix in models),
            *(Route(f"{prefix}/ready", self._ready) for prefix in models),
            *(Route(prefix, self._model_status) for prefix in tensorflow_models),
        ]

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(self._become_ready())
        yield
        self._metrics.ready.set(0)
        await loading
        if self._first_start is not None:
            await asyncio.to_thread(self._first_start.stop)
        if self._line is not None:
            await asyncio.to_thread(self._line.close)

    async def _become_ready(self) -> None:
        """Load in a thread; then become ready between two requests, so that the log never has one before `ready`."""
        began = time.perf_counter()
        try:
            model, batching = await asyncio.to_thread(self._load)
        except NotServable as error:
            self._failed(str(error))
            return
        except Exception as error:
            # A bug: the log gets its traceback, and nobody waits for a server that will never be ready.
            _LOG.error("fault", exc_info=error)
            self._failed(f"loading failed with {type(error).__name__}; the line above has the traceback")
            return
        self._line = Line(model, limits=self._limits, batching=batching, metrics=self._metrics)
        if self._first_start is not None:
            self._first_start.begin(model)
        self._note()
        _LOG.info(
            "ready" if self._first_start is None else "fallback ready",
            extra={
                "model": self._serving.name,
                "threads": model.threads,
                "batch": batching.largest if batching else 1,
                "load_ms": round((time.perf_counter() - began) * 1e3, 1),
                "pid": os.getpid(),
            },
        )

    def _note(self) -> None:
        """Who answers may be another now; called from the thread that builds, too."""
        if self._first_start is not None:
            self._metrics.stage(self._first_start.status.stage, STAGES)
        self._metrics.ready.set(self._is_ready)

    @property
    def _is_ready(self) -> bool:
        """Loaded, and where an engine was asked for, served by it."""
        served = self._first_start is None or self._first_start.status.stage == "engine"
        return self._line is not None and served

    def _load(self) -> tuple[Model, Batching | None]:
        model = Model(self._folder, self._serving)
        model.warm_up()
        batching = self._batching(model)
        give_back_memory()
        return model, batching

    def _batching(self, model: Model) -> Batching | None:
        """As the options say, else serving.json; none where the model does not take batches, as the log says."""
        told = self._serving.batching
        largest = self._limits.batch or (told.largest if told else 1)
        delay = self._limits.delay if self._limits.delay is not None else (told.delay if told else 0.0)
        if largest == 1:
            return None
        if reason := why_not(model):
            _LOG.warning("no batching", extra={"reason": reason})
            return None
        return Batching(largest, delay)

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(page(self._serving), headers=security_headers())

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)

    async def _server_metadata(self, request: Request) -> Response:
        return _json({"name": "mlopt", "version": SERVER_VERSION, "extensions": EXTENSIONS})

    async def _live(self, request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, request: Request) -> Response:
        self._check_name(request)
        self._ready_line()
        if not self._is_ready:
            why = self._first_start.status.why if self._first_start else ""
            raise Rejected(f"the fallback answers, and not the engine: {why}", status=503, retry_after=30)
        return _json({"name": self._serving.name, "ready": True})

    async def _ping(self, request: Request) -> Response:
        ready = self._is_ready
        return _json({"status": "Healthy" if ready else "Unhealthy"}, status=200 if ready else 503)

    async def _model_metadata(self, request: Request) -> Response:
        self._check_name(request)
        told = self._serving.metadata()
        if self._first_start is not None:
            told |= {"engine": self._first_start.status.as_json()}
            told["platform"] = "tensorrt_plan" if self._is_ready else told["platform"]
        return _json(told)

    async def _model_status(self, request: Request) -> Response:
        self._check_name(request)
        return _json(tensorflow.status(self._serving, ready=self._is_ready))

    async def _infer(self, request: Request) -> Response:
        self._check_name(request)
        header = request.headers.get(HEADER_LENGTH)
        return await self._answer(request, lambda body: self._read_infer(body, header))

    def _read_infer(self, body: bytes, header: str | None) -> Call:
        serving = self._serving
        asked = parse_infer(body, header=header, inputs=serving.inputs, outputs=serving.outputs)
        return Call(asked.feeds, asked.outputs, lambda arrays, spent: self._encoded(arrays, asked))

    def _encoded(self, arrays: Mapping[str, np.ndarray], asked: InferRequest) -> Answer:
        serving = self._serving
        body, header = encode_infer(
            arrays, model=serving.name, version=serving.version, outputs=serving.outputs, asked=asked
        )
        if header is None:
            return Answer(body)
        return Answer(body, "application/octet-stream", {HEADER_LENGTH: str(header)})

    async def _classify(self, request: Request) -> Response:
        if not self._serving.classifies_pictures:
            raise Rejected("this model does not declare how a picture becomes its input; use infer", status=404)
        top = _whole(request.query_params.get("top", "5"), least=1, most=1000)
        return await self._answer(request, lambda body: read_picture(body, self._serving, top=top), picture=True)

    async def _predict(self, request: Request) -> Response:
        self._check_name(request)
        return await self._answer(request, lambda body: tensorflow.read_predict(body, self._serving))

    async def _predictions(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "")
        try:
            self._check_name(request)
            read = partial(torchserve.read_prediction, content_type=kind, serving=self._serving)
            return await self._answer(request, read, picture=True)
        except Rejected as error:
            return _json(torchserve.failure(error.message, error.status), status=error.status, headers=_headers(error))

    async def _answer(self, request: Request, read: Callable[[bytes], Call], *, picture: bool = False) -> Response:
        """Through the line. A full one refuses before it takes the body."""
        line = self._ready_line()
        line.check_room()
        body = await self._intake.read(request)
        try:
            answer = await line.answer(lambda: read(body), small=len(body) <= _SMALL and not picture)
        finally:
            self._intake.release(len(body))
        return Response(answer.body, media_type=answer.media_type, headers=answer.headers)

    def _ready_line(self) -> Line:
        if self._line is None:
            raise Rejected("the model is not loaded yet", status=503, retry_after=1)
        return self._line

    def _check_name(self, request: Request) -> None:
        name, version = request.path_params.get("model"), request.path_params.get("version")
        if name not in (None, self._serving.name) or version not in (None, self._serving.version):
            raise Rejected(f"there is no such model; this server has {self._serving.name}", status=404)


def _whole(text: str, *, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise Rejected(f"top must be a whole number from {least} to {most}")
    return int(text)


def _json(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status_code=status, headers=headers, media_type="application/json")


def _headers(error: Rejected) -> dict[str, str]:
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    if error.status in (408, 413):
        # What is left of the body is not read: the connection cannot carry another request.
        headers["Connection"] = "close"
    return headers


async def _rejected(request: Request, error: Exception) -> Response:
    assert isinstance(error, Rejected)
    return _json({"error": error.message}, status=error.status, headers=_headers(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, status=error.status_code, headers=dict(error.headers or {}))


async def _fault(request: Request, error: Exception) -> Response:
    id = request_id(request.scope)
    _LOG.error("fault", exc_info=error, extra={"request_id": id})
    headers = {"X-Request-Id": id}
    return _json({"error": "the server failed on this request; its log says why"}, status=500, headers=headers)
