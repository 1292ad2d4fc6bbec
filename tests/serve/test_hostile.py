"""Thousands of hostile requests over real connections: the server refuses them with a 4xx, and lives."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import urllib.request
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from hostile import hostile_requests
from serving_process import process, status, wait_ready

from mlopt.image.run import free_port

COUNT = int(os.environ.get("MLOPT_HOSTILE", "2000"))
_AT_ONCE, _PATIENCE, _MORE = 16, 0.15, 0.02  # seconds for the first of an answer, and for what may follow


async def send_all(port: int, requests: list[bytes]) -> Counter[int]:
    """Every request over a connection of its own, some at once; statuses of what was answered (0: cut off)."""
    seen: Counter[int] = Counter()
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(raw: bytes) -> None:
        async with places:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answer = b""
            try:
                writer.write(raw)
                while part := await asyncio.wait_for(reader.read(65536), _MORE if answer else _PATIENCE):
                    answer += part
            except (TimeoutError, ConnectionError):
                pass  # an unfinished request waits for its end, which does not come
            finally:
                writer.close()
            statuses = re.findall(rb"^HTTP/1\.1 (\d{3}) ", answer, re.M)
            seen.update([int(code) for code in statuses if code != b"100"] or [0])

    await asyncio.gather(*(one(raw) for raw in requests))
    return seen


def ended_well(port: int, running: subprocess.Popen[str], *, before: int) -> str:
    """That it forgot no request, took no more memory than `before`, is ready, and stops as it should; its metrics."""
    metrics: str = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    assert 'mlopt_in_flight{model="colours",version="3"} 0.0' in metrics, "a request is still counted"
    assert memory(running.pid) - before < 48 << 20
    assert status(port, "/v2/health/ready") == 200
    running.terminate()
    assert running.wait(30) == 0
    return metrics


def memory(pid: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) << 10  # type: ignore[index]


@pytest.mark.parametrize("options", [(), ("--max-batch", "8", "--batch-delay-us", "500")], ids=["alone", "batches"])
def test_nothing_that_is_sent_makes_a_5xx(model_folder: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    port, requests = free_port(), hostile_requests(COUNT // 2, seed=len(options))
    strict = ("--log-level", "error", "--max-body", "1", "--max-held", "8", "--max-arrival", "2")
    with (
        (tmp_path / "log").open("w") as log,
        process(model_folder, port=port, options=(*strict, *options), log=log) as running,
    ):
        wait_ready(port, running)
        asyncio.run(send_all(port, hostile_requests(200, seed=99)))
        before = memory(running.pid)
        seen = asyncio.run(send_all(port, requests))
        assert all(code in (0, 503) or 200 <= code < 500 for code in seen), seen
        assert seen[400] > len(requests) / 4, seen
        assert seen[200] > len(requests) / 50, seen
        metrics = ended_well(port, running, before=before)
        codes = set(re.findall(r'mlopt_requests_total\{code="(\d+)"', metrics))
        assert not {code for code in codes if code >= "500"} - {"503"}, codes
    assert (tmp_path / "log").read_text() == "", "hostile requests are no errors of the server"
