"""NVIDIA's own client against the server: tensors in bytes both ways, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from kinds import check_every_kind, kinds_folder
from serving_process import quiet_server

triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
PIXELS = np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32)


@pytest.fixture(scope="module")
def port(model_folder: Path) -> Iterator[int]:
    with quiet_server(model_folder) as port:
        yield port


@pytest.fixture(scope="module")
def client(port: int) -> Iterator[Any]:
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    yield client
    client.close()


def pixels(*, binary: bool) -> Any:
    given = triton.InferInput("pixels", [2, 3, 8, 8], "FP32")
    given.set_data_from_numpy(PIXELS, binary_data=binary)
    return given


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("wanted", [True, False, None])
def test_tensors_travel_as_bytes_or_as_json(client: Any, sent: bool, wanted: bool | None) -> None:
    outputs = None if wanted is None else [triton.InferRequestedOutput("scores", binary_data=wanted)]
    result = client.infer("colours", [pixels(binary=sent)], outputs=outputs, request_id="q1", model_version="3")
    assert result.get_response()["id"] == "q1"
    assert ("parameters" in result.get_output("scores")) == (wanted is not False)
    np.testing.assert_allclose(result.as_numpy("scores"), 4 * PIXELS.mean(axis=(2, 3)), rtol=1e-5)


def test_it_finds_what_it_asks_for(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colours")
    assert client.is_model_ready("colours", "3")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.get_model_metadata("colours")["inputs"][0]["shape"] == [-1, 3, 8, 8]


def test_every_kind_of_tensor_comes_back_as_it_was(tmp_path: Path) -> None:
    with (
        quiet_server(kinds_folder(tmp_path / "model")) as port,
        triton.InferenceServerClient(f"127.0.0.1:{port}") as client,
    ):
        check_every_kind(client, triton)


def test_what_it_cannot_do_is_said(client: Any) -> None:
    for refused, says in [
        ({"outputs": [triton.InferRequestedOutput("scores", class_count=2)]}, "classification"),
        ({"request_compression_algorithm": "gzip"}, "gzip"),
    ]:
        with pytest.raises(triton.InferenceServerException, match=says):
            client.infer("colours", [pixels(binary=True)], **refused)


def test_a_body_without_a_header_is_the_one_tensor(port: int) -> None:
    url = f"http://127.0.0.1:{port}/v2/models/colours/infer"
    reply = httpx.post(url, content=PIXELS.tobytes(), headers={"Inference-Header-Content-Length": "0"})
    head = int(reply.headers["inference-header-content-length"])
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.content[:head].endswith(b"}")
    scores = np.frombuffer(reply.content[head:], np.float32).reshape(2, 3)
    np.testing.assert_allclose(scores, 4 * PIXELS.mean(axis=(2, 3)), rtol=1e-5)


HEAD = b'{"inputs":[{"name":"pixels","shape":[1,3,8,8],"datatype":"FP32","parameters":{"binary_data_size":%s}}]}'


@pytest.mark.parametrize(
    ("length", "body", "says"),
    [
        ("x", b"", "whole number"),
        ("-1", b"", "whole number"),
        ("99999", b"", "whole number"),
        ("1" * 4000, b"", "whole number"),
        ("0", b"\0" * 5, "needs 768"),
        ("0", b"", "needs 768"),
        (None, HEAD % b"768", "0 bytes are left"),
        (None, HEAD % b"0", "needs 768"),
        ("", HEAD % b"768" + b"\0" * 768, "whole number"),
        ("head", HEAD % b"768" + b"\0" * 767, "767 bytes are left"),
        ("head", HEAD % b"764" + b"\0" * 764, "needs 768"),
        ("head", HEAD % b"768" + b"\0" * 769, "belong to none"),
        ("head", HEAD % b'"768"' + b"\0" * 768, "binary_data_size"),
        ("head", HEAD % b"-1" + b"\0" * 768, "binary_data_size"),
        ("head", HEAD % b"true" + b"\0" * 768, "binary_data_size"),
        ("head", HEAD.replace(b'{"binary', b'{"shared_memory_region":"r","binary') % b"768", "shared_memory_region"),
        ("head", HEAD.replace(b"FP32", b"BYTES") % b"4" + b"\xff" * 4, "must be FP32"),
    ],
)
def test_bytes_that_do_not_fit_are_a_400(port: int, length: str | None, body: bytes, says: str) -> None:
    headers = {} if length is None else {"Inference-Header-Content-Length": length}
    if length == "head":
        headers["Inference-Header-Content-Length"] = str(body.index(b"}]}") + 3)
    reply = httpx.post(f"http://127.0.0.1:{port}/v2/models/colours/infer", content=body, headers=headers)
    assert reply.status_code == 400, reply.text
    assert says in reply.json()["error"]


@pytest.mark.parametrize(
    "raw", [b"\xff\xff\xff\xff", b"\x01", b"", b"\0" * 4, b"\0" * 12, b"\x05\0\0\0abc", b"\1\0\0\0a\1\0\0\0\xff"]
)
def test_texts_that_end_too_early_or_too_late_are_refused(raw: bytes) -> None:
    from mlopt.serve.tensors import Rejected, Tensor, from_bytes

    with pytest.raises(Rejected):
        from_bytes(memoryview(raw), Tensor("s", "BYTES", (-1,)), shape=(2,))
