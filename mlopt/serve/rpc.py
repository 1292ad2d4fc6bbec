"""The Open Inference Protocol over gRPC: the same models, lines and limits as over REST, at a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import numpy as np

from mlopt.serve.call import Answer, Call
from mlopt.serve.connection import KEEP_ALIVE
from mlopt.serve.intake import SMALL, Intake
from mlopt.serve.keys import Keys
from mlopt.serve.metrics import Metrics
from mlopt.serve.model import NotServable, Serving
from mlopt.serve.observe import NO_MODEL, decent_id
from mlopt.serve.oip import SERVICE, messages
from mlopt.serve.protocol import EXTENSIONS, SERVER_VERSION, InferRequest
from mlopt.serve.repository import Repository
from mlopt.serve.rpc_health import SERVICE as HEALTH
from mlopt.serve.rpc_health import WATCHING, Health
from mlopt.serve.rpc_read import infer_request, read
from mlopt.serve.settings import Door, Limits
from mlopt.serve.tensors import Rejected, to_bytes

_LOG: Final = logging.getLogger("mlopt.serve")
_OPEN: Final = ("ServerLive", "ServerReady", "HealthCheck")  # what probes ask: without a key
_MORE: Final = 64 + WATCHING  # calls beside those that wait in the lines: probes, metadata, bodies under way
_LARGEST_HEAD: Final = 16 << 10
_INT: Final = 2**31 - 1  # the largest that an option of gRPC holds
_ALIVE_MS: Final = 60_000
# Where REST says a status; 503 is of back-pressure where the client shall come again, else of a server that cannot.
_CODES: Final[Mapping[int, str]] = {
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "RESOURCE_EXHAUSTED",
}


class RpcServer:
    """Used from the event loop of the HTTP server."""

    def __init__(self, door: Door, models: Repository, *, limits: Limits, intake: Intake, metrics: Metrics) -> None:
        self._door, self._models, self._limits = door, models, limits
        self._intake, self._metrics = intake, metrics
        self._keys = Keys(door.keys)
        self._health = Health(models, admit=self._admit)
        self._server: Any = None
        self._drained: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises `NotServable` where gRPC is not installed, or the port is taken."""
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what clients do wrong is no line on standard error
        try:
            import grpc
            import grpc.aio

            self._messages = messages()
        except ImportError as error:
            raise NotServable(f"gRPC needs the packages grpcio and protobuf: {error}") from error
        self._grpc = grpc
        server = grpc.aio.server(options=self._options(), maximum_concurrent_rpcs=self._most())
        handlers = {
            name: grpc.stream_unary_rpc_method_handler(self._observed(name, method))
            for name, method in self._methods().items()
        }
        health = {
            "Check": grpc.stream_unary_rpc_method_handler(self._observed("HealthCheck", self._check)),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch),
        }
        services = ((SERVICE, handlers), (HEALTH, health))
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(*one) for one in services])
        address = f"[{self._door.host}]" if ":" in self._door.host else self._door.host
        try:
            self._listen(server, f"{address}:{self._door.port}")
        except (RuntimeError, OSError) as error:
            raise NotServable(f"gRPC cannot listen on {address}:{self._door.port}: {error}") from error
        await server.start()
        self._server = server

    def drain(self) -> None:
        """No new calls; those under way have their time from now on, and who watches is let go."""
        self._health.end()
        if self._server is not None and self._drained is None:
            self._drained = asyncio.create_task(self._server.stop(self._door.grace))

    async def stop(self) -> None:
        """`drain`, to its end."""
        self.drain()
        if self._drained is not None:
            await self._drained

    def _listen(self, server: Any, address: str) -> None:
        if self._door.tls is None:
            server.add_insecure_port(address)
            return
        certificate, key = (path.read_bytes() for path in self._door.tls)
        server.add_secure_port(address, self._grpc.ssl_server_credentials([(key, certificate)]))

    def _options(self) -> list[tuple[str, int]]:
        return [
            ("grpc.max_receive_message_length", min(_INT, max(one.limits.body for one in self._models.all))),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", _LARGEST_HEAD),
            # One more is closed as it is accepted. Who is silent loses the place: without TLS and HTTP/2 begun within
            # the time of a body, or without a call for as long as over HTTP.
            ("grpc.max_allowed_incoming_connections", min(_INT, self._share())),
            ("grpc.server_handshake_timeout_ms", math.ceil(1e3 * self._limits.arrival)),
            ("grpc.max_connection_idle_ms", 1000 * KEEP_ALIVE),
            ("grpc.keepalive_time_ms", _ALIVE_MS),  # else who watches and vanishes would watch for ever
            ("grpc.so_reuseport", 0),  # a taken port is an error, not a port shared with another server
        ]

    def _share(self) -> int:
        """Of the connections, those of each address that the host's name stands for: gRPC counts by address."""
        with contextlib.suppress(OSError, UnicodeError):  # a name that nobody knows: to listen on it is refused
            found = {one[4] for one in socket.getaddrinfo(self._door.host, self._door.port, type=socket.SOCK_STREAM)}
            return max(1, self._door.connections // len(found))
        return self._door.connections

    def _most(self) -> int:
        return sum(one.limits.concurrency + one.limits.waiting for one in self._models.all) + _MORE

    def _methods(self) -> dict[str, Callable[[bytes, _Asked], Awaitable[bytes]]]:
        return {
            "ModelInfer": self._infer,
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "RepositoryIndex": self._index,
        }

    def _observed(self, name: str, method: Callable[[bytes, _Asked], Awaitable[bytes]]) -> Callable[..., Any]:
        """A method with its errors as statuses, counted, timed and logged like a request over REST."""
        route = f"grpc_{re.sub('(?<!^)(?=[A-Z])', '_', name).lower()}"

        async def called(request: Any, context: Any) -> bytes:
            began, asked, code = time.perf_counter(), _Asked(_headers(context)), "CANCELLED"
            try:
                body, code = await self._answered(name, method, context, asked), "OK"
                context.set_trailing_metadata((("x-request-id", asked.id), *asked.told))
                return body
            except Rejected as error:
                code = _code(error)
                more = (("retry-after", str(error.retry_after)),) if error.retry_after else ()
                status = getattr(self._grpc.StatusCode, code)
                await context.abort(status, error.message, (("x-request-id", asked.id), *more))
            except Exception as error:
                if isinstance(error, self._grpc.aio.AbortError):
                    raise
                code = "INTERNAL"
                _LOG.error("fault", exc_info=error, extra={"request_id": asked.id})
                said = "the server failed on this request; its log says why"
                await context.abort(self._grpc.StatusCode.INTERNAL, said, (("x-request-id", asked.id),))
            finally:
                self._note(name, route, code, asked, time.perf_counter() - began)
            raise AssertionError("an aborted call does not come here")

        return called

    def _note(self, name: str, route: str, code: str, asked: _Asked, seconds: float) -> None:
        self._metrics.requests.labels(route, code, *asked.model).inc()
        self._metrics.latency.labels(route, *asked.model).observe(seconds)
        if name not in _OPEN:
            fields = {"method": "gRPC", "path": name, "code": code, "ms": round(seconds * 1e3, 2)}
            _LOG.info("request", extra={**fields, "request_id": asked.id})

    async def _answered(
        self, name: str, method: Callable[[bytes, _Asked], Awaitable[bytes]], context: Any, asked: _Asked
    ) -> bytes:
        if name not in _OPEN:
            self._admit(asked.headers)
        if name == "ModelInfer":
            self._models.check_room()  # before the body is taken
        return await method(await self._body(context), asked)

    def _admit(self, headers: list[tuple[bytes, bytes]]) -> None:
        if self._door.keys and not self._keys.know(headers):
            raise Rejected("send an API key as metadata: authorization: Bearer KEY, or x-api-key: KEY", status=401)

    async def _body(self, context: Any) -> bytes:
        try:
            async with asyncio.timeout(self._limits.arrival):
                body = await context.read()
        except TimeoutError as error:
            said = f"the body did not arrive within {self._limits.arrival:g} s"
            raise Rejected(said, status=408) from error
        if body is self._grpc.aio.EOF:
            raise Rejected("the call holds no message")
        return bytes(body)

    async def _infer(self, body: bytes, asked: _Asked) -> bytes:
        small = len(body) <= SMALL
        self._intake.hold(len(body))
        try:
            parse = self._messages["ModelInferRequest"].FromString
            message = read(parse, body) if small else await asyncio.to_thread(read, parse, body)
            served = self._models.get(message.model_name, message.model_version)
            asked.model = served.metrics.labels
            if len(body) > served.limits.body:
                raise Rejected(f"the body is larger than {served.limits.body} bytes", status=413)
            answer = await served.line.answer(lambda: self._call(message, served.serving), small=small)
        finally:
            self._intake.release(len(body))
        asked.told = tuple((name.lower(), value) for name, value in answer.headers.items())
        return answer.body

    def _call(self, message: Any, serving: Serving) -> Call:
        asked = infer_request(message, serving)
        return Call(asked.feeds, asked.outputs, lambda arrays, spent: self._response(arrays, serving, asked))

    def _response(self, arrays: Mapping[str, np.ndarray], serving: Serving, asked: InferRequest) -> Answer:
        """Outputs always as bytes."""
        datatypes = {tensor.name: tensor.datatype for tensor in serving.outputs}
        message = self._messages["ModelInferResponse"](
            model_name=serving.name,
            model_version=serving.version,
            id=asked.id or "",
            outputs=[
                {"name": name, "datatype": datatypes[name], "shape": array.shape} for name, array in arrays.items()
            ],
            raw_output_contents=[to_bytes(array) for array in arrays.values()],
        )
        return Answer(message.SerializeToString(), "application/grpc")

    async def _live(self, body: bytes, asked: _Asked) -> bytes:
        return self._said("ServerLiveResponse", live=True)

    async def _ready(self, body: bytes, asked: _Asked) -> bytes:
        return self._said("ServerReadyResponse", ready=self._models.ready)

    async def _model_ready(self, body: bytes, asked: _Asked) -> bytes:
        message = read(self._messages["ModelReadyRequest"].FromString, body)
        return self._said("ModelReadyResponse", ready=self._models.get(message.name, message.version).ready)

    async def _check(self, body: bytes, asked: _Asked) -> bytes:
        return self._health.check(body, asked.headers)

    async def _watch(self, request: Any, context: Any) -> AsyncIterator[bytes]:
        """Not counted and not timed: it lasts as long as a client wants."""
        try:
            async with contextlib.aclosing(self._health.watch(await self._body(context), _headers(context))) as said:
                async for answer in said:
                    yield answer
        except Rejected as error:
            await context.abort(getattr(self._grpc.StatusCode, _code(error)), error.message)

    async def _server_metadata(self, body: bytes, asked: _Asked) -> bytes:
        return self._said("ServerMetadataResponse", name="mlopt", version=SERVER_VERSION, extensions=EXTENSIONS)

    async def _model_metadata(self, body: bytes, asked: _Asked) -> bytes:
        message = read(self._messages["ModelMetadataRequest"].FromString, body)
        told = self._models.metadata(self._models.get(message.name, message.version))
        wanted = ("name", "versions", "platform", "inputs", "outputs")
        return self._said("ModelMetadataResponse", **{name: told[name] for name in wanted})

    async def _index(self, body: bytes, asked: _Asked) -> bytes:
        message = read(self._messages["RepositoryIndexRequest"].FromString, body)
        return self._said("RepositoryIndexResponse", models=self._models.index(ready=message.ready))

    def _said(self, name: str, /, **fields: Any) -> bytes:
        found: bytes = self._messages[name](**fields).SerializeToString()
        return found


class _Asked:
    """What is known of one call."""

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.headers = headers
        self.id = decent_id(headers)
        self.model = NO_MODEL
        self.told: tuple[tuple[str, str], ...] = ()


def _headers(context: Any) -> list[tuple[bytes, bytes]]:
    pairs = context.invocation_metadata() or ()
    return [(key.encode(), value.encode() if isinstance(value, str) else bytes(value)) for key, value in pairs]


def _code(error: Rejected) -> str:
    if error.status == 503:
        return "RESOURCE_EXHAUSTED" if error.busy else "UNAVAILABLE"
    return _CODES.get(error.status, "INVALID_ARGUMENT")
