"""Thousands of hostile calls over gRPC, and bytes that are no HTTP/2: refused with a status, and the server lives."""

from __future__ import annotations

import asyncio
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from hostile_grpc import Sent, hostile_bytes, hostile_calls
from serving_process import process, wait_ready
from test_hostile import COUNT, ended_well, memory

from mlopt.image.run import free_port
from mlopt.serve.oip import SERVICE, messages

grpc = pytest.importorskip("grpc", reason="grpcio (the extra [grpc]) is not installed")
_AT_ONCE = 16
# What a client can be told of what it did; INTERNAL and UNKNOWN are faults of the server.
_HARMLESS = {
    *("OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "DEADLINE_EXCEEDED"),
    *("UNAUTHENTICATED", "CANCELLED", "UNAVAILABLE"),
}


async def _calls(port: int, calls: list[Sent]) -> Counter[str]:
    seen: Counter[str] = Counter()
    places = asyncio.Semaphore(_AT_ONCE)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:

        async def one(sent: Sent) -> None:
            async with places:
                patience = 1 if sent.path.endswith("/Watch") else 20  # who watches is answered until it leaves
                try:
                    await channel.unary_unary(sent.path)(sent.body, timeout=patience, metadata=sent.metadata)
                    seen.update(["OK"])
                except grpc.aio.AioRpcError as error:
                    seen.update([error.code().name])

        await asyncio.gather(*(one(sent) for sent in calls))
    return seen


async def _bytes(port: int, all_raw: list[bytes]) -> None:
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(raw: bytes) -> None:
        async with places:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(raw)
                while await asyncio.wait_for(reader.read(65536), 0.05):
                    pass
            except (TimeoutError, ConnectionError):
                pass
            finally:
                writer.close()

    await asyncio.gather(*(one(raw) for raw in all_raw))


def _ask(port: int, method: str) -> Any:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return channel.unary_unary(f"/{SERVICE}/{method}")(b"", timeout=20)


@pytest.mark.parametrize("options", [(), ("--max-batch", "8", "--cache", "1")], ids=["alone", "batches"])
def test_nothing_that_is_called_is_a_fault(model_folder: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    port, rpc = free_port(), free_port()
    strict = ("--log-level", "error", "--max-body", "1", "--max-held", "8", "--max-arrival", "2")
    calls = hostile_calls(COUNT // 2, seed=len(options))
    with (
        (tmp_path / "log").open("w") as log,
        process(model_folder, port=port, options=(*strict, *options, "--grpc-port", str(rpc)), log=log) as running,
    ):
        wait_ready(port, running)
        asyncio.run(_calls(rpc, hostile_calls(200, seed=99)))
        asyncio.run(_bytes(rpc, hostile_bytes(50, seed=99)))
        before = memory(running.pid)
        seen = asyncio.run(_calls(rpc, calls))
        assert set(seen) <= _HARMLESS, seen
        assert seen["INVALID_ARGUMENT"] > len(calls) / 4, seen
        assert seen["OK"] >= len(calls) / 16, seen
        asyncio.run(_bytes(rpc, hostile_bytes(COUNT // 4, seed=len(options))))
        assert messages()["ServerReadyResponse"].FromString(_ask(rpc, "ServerReady")).ready
        metrics = ended_well(port, running, before=before)
        codes = set(re.findall(r'mlopt_requests_total\{code="([A-Z_]+)"', metrics))
        assert codes <= _HARMLESS, codes
    assert (tmp_path / "log").read_text() == "", "hostile calls are no errors of the server"
