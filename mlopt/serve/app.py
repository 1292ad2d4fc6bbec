"""The routes of the server: Open Inference Protocol v2, TensorFlow Serving's, TorchServe's, metrics, and the page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from mlopt.serve import tensorflow
from mlopt.serve.call import Call
from mlopt.serve.intake import SMALL, Intake
from mlopt.serve.keys import Keyed
from mlopt.serve.metrics import CONTENT_TYPE, Metrics, ModelMetrics
from mlopt.serve.model import NotServable, Serving
from mlopt.serve.observe import SERVED, Observed, request_id
from mlopt.serve.protocol import EXTENSIONS, HEADER_LENGTH, SERVER_VERSION, json_object, read_infer
from mlopt.serve.repository import Repository, find_models
from mlopt.serve.served import Served
from mlopt.serve.settings import Door, Limits
from mlopt.serve.tensors import Rejected

if TYPE_CHECKING:  # what only some requests need is imported by the first of them
    from mlopt.serve.first_start import Builds
    from mlopt.serve.rpc import RpcServer

_LOG: Final = logging.getLogger("mlopt.serve")


def make_app(
    *folders: Path,
    limits: Limits,
    failed: Callable[[str], None],
    keys: tuple[str, ...] = (),
    builds: Builds | None = None,
    limits_of: Callable[[Serving], Limits] | None = None,
    rpc: Door | None = None,
) -> Starlette:
    """The server of the models in these folders. Raises `NotServable` when there is none, when a serving.json or the
    folder of `builds` is unusable, and when two are the same by name and version.

    The models load while the app already answers liveness; `failed` is called with the reason if one cannot.
    With `keys` only who sends one of them is served. With `builds` an engine is built, and takes over; ready only then.
    `limits_of` may give each model limits of its own; `rpc` is where gRPC is served beside it. Who stops the app calls
    its `state.withdraw` first: what is served beside HTTP takes nothing new from then on.
    """
    return _Server(folders, limits, failed, builds, limits_of or (lambda serving: limits), rpc).app(keys)


class _Server:
    def __init__(
        self,
        folders: Sequence[Path],
        limits: Limits,
        failed: Callable[[str], None],
        builds: Builds | None,
        limits_of: Callable[[Serving], Limits],
        rpc: Door | None,
    ) -> None:
        self._failed, self._metrics, self._intake = failed, Metrics(), Intake(limits)
        found = find_models(folders)
        if builds and len(found) > 1:
            raise NotServable(
                "an engine is built at the first start for one model alone: --device-dir names its folder"
            )
        self._models = Repository(
            Served(
                folder,
                serving,
                limits=limits_of(serving),
                metrics=ModelMetrics(self._metrics, model=serving.name, version=serving.version),
                builds=builds,
            )
            for folder, serving in found
        )
        self._rpc = self._opened(rpc, limits) if rpc else None
        self._withdrawn = False

    def app(self, keys: tuple[str, ...]) -> Starlette:
        app = Starlette(
            routes=self._routes(),
            lifespan=self._lifespan,
            exception_handlers={Rejected: _rejected, HTTPException: _http_error, Exception: _fault},
        )
        if keys:
            app.add_middleware(Keyed, keys=keys)
        app.add_middleware(Observed, metrics=self._metrics)
        app.state.withdraw = self._withdraw
        return app

    def _opened(self, door: Door, limits: Limits) -> RpcServer:
        from mlopt.serve.rpc import RpcServer  # nobody else pays for it

        return RpcServer(door, self._models, limits=limits, intake=self._intake, metrics=self._metrics)

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
            *(Route(f"{prefix}/ready", self._model_ready) for prefix in models),
            Route("/v2/repository/index", self._index, methods=["POST"]),
            *(Route(prefix, self._model_status) for prefix in tensorflow_models),
        ]

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(self._load())
        yield
        self._withdraw()
        await loading
        if self._rpc is not None:
            await self._rpc.stop()
        for served in self._models.all:
            await asyncio.to_thread(served.close)

    async def _load(self) -> None:
        """One after another: each takes what cores there are, and the first that cannot be loaded ends it all."""
        try:
            if self._rpc is not None:
                await self._rpc.start()
            for served in self._models.all:
                if self._withdrawn:  # told to stop: nobody waits for the others
                    return
                await served.load()
            if any(served.serving.classifies_pictures for served in self._models.all):
                await asyncio.to_thread(import_module, "mlopt.serve.classify")  # so that no client waits for Pillow
        except NotServable as error:
            self._failed(str(error))
        except Exception as error:
            # A bug: the log gets its traceback, and nobody waits for a server that will never be ready.
            _LOG.error("fault", exc_info=error)
            self._failed(f"loading failed with {type(error).__name__}; the line above has the traceback")

    def _withdraw(self) -> None:
        """Nothing new is taken; what has begun is still answered."""
        self._withdrawn = True
        for served in self._models.all:
            served.withdraw()
        if self._rpc is not None:
            self._rpc.drain()

    async def _page(self, request: Request) -> Response:
        from mlopt.serve.page import page, security_headers

        return HTMLResponse(page(self._asked(request), self._models), headers=security_headers())

    async def _show_metrics(self, request: Request) -> Response:
        return Response(await asyncio.to_thread(self._metrics.text), media_type=CONTENT_TYPE)

    async def _server_metadata(self, request: Request) -> Response:
        return _json({"name": "mlopt", "version": SERVER_VERSION, "extensions": EXTENSIONS})

    async def _live(self, request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, request: Request) -> Response:
        for served in self._models.all:
            served.check_ready()
        return _json({"ready": True})

    async def _model_ready(self, request: Request) -> Response:
        (served := self._named(request)).check_ready()
        return _json({"name": served.serving.name, "ready": True})

    async def _ping(self, request: Request) -> Response:
        told, code = ("Healthy", 200) if self._models.ready else ("Unhealthy", 503)
        return _json({"status": told}, status=code)

    async def _index(self, request: Request) -> Response:
        body = await self._intake.read(request, most=SMALL, metrics=self._models.all[0].metrics)
        self._intake.release(len(body))
        asked = json_object(body) if body.strip() else {}
        return _json(self._models.index(ready=asked.get("ready") is True))

    async def _model_metadata(self, request: Request) -> Response:
        return _json(self._models.metadata(self._named(request)))

    async def _model_status(self, request: Request) -> Response:
        served = self._named(request)
        asked = [served] if "version" in request.path_params else self._models.versions(served.serving.name)
        return _json(tensorflow.status({each.serving.version: each.ready for each in asked}))

    async def _infer(self, request: Request) -> Response:
        served, header = self._named(request), request.headers.get(HEADER_LENGTH)
        return await self._answer(request, served, lambda body: read_infer(body, header, served.serving))

    async def _classify(self, request: Request) -> Response:
        from mlopt.serve.classify import read_picture

        served, top = self._asked(request), _whole(request.query_params.get("top", "5"), least=1, most=1000)
        if not served.serving.classifies_pictures:
            raise Rejected("this model does not declare how a picture becomes its input; use infer", status=404)
        read = partial(read_picture, serving=served.serving, top=top)
        return await self._answer(request, served, read, picture=True)

    async def _predict(self, request: Request) -> Response:
        served = self._named(request)
        return await self._answer(request, served, lambda body: tensorflow.read_predict(body, served.serving))

    async def _predictions(self, request: Request) -> Response:
        from mlopt.serve import torchserve

        kind = request.headers.get("content-type", "")
        try:
            served = self._named(request)
            read = partial(torchserve.read_prediction, content_type=kind, serving=served.serving)
            return await self._answer(request, served, read, picture=True)
        except Rejected as error:
            return _json(torchserve.failure(error.message, error.status), status=error.status, headers=_headers(error))

    async def _answer(
        self, request: Request, served: Served, read: Callable[[bytes], Call], *, picture: bool = False
    ) -> Response:
        """Through the line. A full one refuses before it takes the body."""
        line = served.line
        with line.arriving():
            body = await self._intake.read(request, most=served.limits.body, metrics=served.metrics)
        try:
            answer = await line.answer(lambda: read(body), small=len(body) <= SMALL and not picture)
        finally:
            self._intake.release(len(body))
        return Response(answer.body, media_type=answer.media_type, headers=answer.headers)

    def _named(self, request: Request) -> Served:
        """What the path asks for."""
        return self._noted(request, request.path_params.get("model"), request.path_params.get("version"))

    def _asked(self, request: Request) -> Served:
        """What the query asks for, and without a name the first that knows pictures, for such routes."""
        name, version = (request.query_params.get(what) for what in ("model", "version"))
        if name is None:
            first = next((one for one in self._models.all if one.serving.classifies_pictures), self._models.all[0])
            name, version = first.serving.name, version or first.serving.version
        return self._noted(request, name, version)

    def _noted(self, request: Request, name: str | None, version: str | None) -> Served:
        served = self._models.get(name, version)
        request.scope[SERVED] = served.metrics.labels
        return served


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
