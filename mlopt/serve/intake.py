"""Bodies of requests: read within limits of size, of time, and of what all of them hold together."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import ClientDisconnect, Request

from mlopt.serve.metrics import ModelMetrics
from mlopt.serve.settings import Limits
from mlopt.serve.tensors import Rejected

SMALL: Final = 16 << 10  # bytes of a body that is read in far less than a millisecond


class Intake:
    """Counts the bytes of bodies from their arrival until `release`."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._held = limits, 0

    async def read(self, request: Request, *, most: int, metrics: ModelMetrics) -> bytes:
        """The whole body, of at most so many bytes. `release` its length when done.

        Raises `Rejected`, and then holds nothing of it.
        """
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise Rejected(f"bodies in {encoding[:40]!r} are not read here; send it as it is", status=415)
        declared = request.headers.get("content-length", "0")
        if not declared.isascii() or not declared.isdigit():
            raise Rejected("Content-Length is no number")
        if len(declared) > 18 or int(declared) > most:
            raise _too_large(most)
        body, whole = bytearray(), False
        try:
            async with asyncio.timeout(self._limits.arrival):
                async for chunk in request.stream():
                    body += chunk
                    self._held += len(chunk)
                    if len(body) > most:
                        raise _too_large(most)
                    self._check_held(metrics)
            whole = True
        except TimeoutError as error:
            raise Rejected(f"the body did not arrive within {self._limits.arrival:g} s", status=408) from error
        except ClientDisconnect as error:
            raise Rejected("the client went away", status=400) from error
        finally:
            if not whole:
                self._held -= len(body)
        return bytes(body)

    def hold(self, count: int) -> None:
        """A body that is here already; `release` it when done. Raises `Rejected`, and then does not count it."""
        if self._held + count > self._limits.held:
            raise _too_many()
        self._held += count

    def release(self, count: int) -> None:
        """A body of this length is no longer needed."""
        self._held -= count

    def _check_held(self, metrics: ModelMetrics) -> None:
        if self._held > self._limits.held:
            metrics.refused.inc()
            raise _too_many()


def _too_many() -> Rejected:
    return Rejected("too many large requests at once", status=503, retry_after=1, busy=True)


def _too_large(most: int) -> Rejected:
    return Rejected(f"the body is larger than {most} bytes", status=413)
