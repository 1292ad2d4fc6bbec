"""gRPC's own health service, `grpc.health.v1.Health`: what probes and balancers ask of the server or of a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from functools import cache
from typing import Any, Final

from mlopt.serve.oip import SERVICE as INFERENCE
from mlopt.serve.repository import Repository
from mlopt.serve.rpc_read import read
from mlopt.serve.tensors import Rejected

Headers = list[tuple[bytes, bytes]]

SERVICE: Final = "grpc.health.v1.Health"
WATCHING: Final = 32  # who watches holds a call for ever
SERVING, NOT_SERVING, UNKNOWN = 1, 2, 3
_EVERY: Final = 0.2


class Health:
    """What is asked for is the whole server (empty, or the inference service's name), `MODEL`, or `MODEL/VERSION`."""

    def __init__(self, models: Repository, *, admit: Callable[[Headers], None]) -> None:
        """`admit` raises `Rejected` for headers of a call that may not ask for models by name."""
        self._models, self._admit = models, admit
        self._ended = asyncio.Event()
        self._watching = 0

    def check(self, body: bytes, headers: Headers) -> bytes:
        """One answer. Raises `Rejected`: 404 for what is not served."""
        status = self._status(body, headers)
        if status == UNKNOWN:
            raise Rejected("there is no such service: ask for none, for a model, or for MODEL/VERSION", status=404)
        return _response(status)

    async def watch(self, body: bytes, headers: Headers) -> AsyncGenerator[bytes, None]:
        """An answer, and another whenever it changes, until the server drains. Raises `Rejected` for one too many."""
        if self._watching >= WATCHING:
            raise Rejected(f"{WATCHING} watch already", status=503, retry_after=5, busy=True)
        self._watching += 1
        try:
            last = 0
            while not self._ended.is_set():
                status = self._status(body, headers)
                if status != last:
                    yield _response(status)
                last = status
                try:
                    await asyncio.wait_for(self._ended.wait(), _EVERY)
                except TimeoutError:
                    continue
            yield _response(NOT_SERVING)
        finally:
            self._watching -= 1

    def end(self) -> None:
        """Nothing is served from now on; who watches is told, and let go."""
        self._ended.set()

    def _status(self, body: bytes, headers: Headers) -> int:
        asked = _asked(body)
        if asked in ("", INFERENCE):
            ready = self._models.ready
        else:
            self._admit(headers)
            name, _, version = asked.partition("/")
            try:
                ready = self._models.get(name, version).ready
            except Rejected:
                return UNKNOWN
        return SERVING if ready and not self._ended.is_set() else NOT_SERVING


def _asked(body: bytes) -> str:
    return str(read(_messages()["HealthCheckRequest"].FromString, body).service)


def _response(status: int) -> bytes:
    found: bytes = _messages()["HealthCheckResponse"](status=status).SerializeToString()
    return found


@cache
def _messages() -> dict[str, Any]:
    """Its two messages, in a pool of their own: the process may hold a client's."""
    from google.protobuf import descriptor_pool, message_factory  # type: ignore[import-untyped]
    from google.protobuf.descriptor_pb2 import (  # type: ignore[import-untyped]
        FieldDescriptorProto,
        FileDescriptorProto,
    )

    file = FileDescriptorProto(name="mlopt/health.proto", package="grpc.health.v1", syntax="proto3")
    optional = FieldDescriptorProto.LABEL_OPTIONAL
    request, response = (file.message_type.add(name=f"HealthCheck{kind}") for kind in ("Request", "Response"))
    request.field.add(name="service", number=1, label=optional, type=FieldDescriptorProto.TYPE_STRING)
    statuses = response.enum_type.add(name="ServingStatus")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        statuses.value.add(name=name, number=number)
    kind = {"type": FieldDescriptorProto.TYPE_ENUM, "type_name": ".grpc.health.v1.HealthCheckResponse.ServingStatus"}
    response.field.add(name="status", number=1, label=optional, **kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"grpc.health.v1.{name}"))
        for name in (request.name, response.name)
    }
