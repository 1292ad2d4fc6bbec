"""NVIDIA's own client against the server: tensors in bytes both ways, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))

from serving_process import quiet_server

from mlopt.image.serving import describe_serving, encode_serving

triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
PIXELS = np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32)
KINDS = {"f": "FLOAT", "h": "FLOAT16", "d": "DOUBLE", "i": "INT64", "u": "UINT8", "b": "BOOL", "s": "STRING"}


@pytest.fixture(scope="module")
def port(model_folder: Path) -> Iterator[int]:
    with quiet_server(model_folder) as port:
        yield port


@pytest.fixture(scope="module")
def client(port: int) -> Iterator[Any]:
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    yield client
    client.close()


def kinds_folder(folder: Path) -> Path:
    """A model that gives back each input, one for each kind of tensor."""
    folder.mkdir()
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in KINDS],
        "kinds",
        [helper.make_tensor_value_info(name, getattr(TensorProto, kind), ["N", 2]) for name, kind in KINDS.items()],
        [helper.make_tensor_value_info(f"{n}_out", getattr(TensorProto, kind), ["N", 2]) for n, kind in KINDS.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    (folder / "serving.json").write_bytes(encode_serving(describe_serving(folder / "model.onnx", name="kinds")))
    return folder


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Of a model that gives back each input, one for each kind of tensor."""
    folder = kinds_folder(tmp_path_factory.mktemp("kinds") / "model")
    with quiet_server(folder) as port:
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


def test_every_kind_of_tensor_comes_back_as_it_was(every_kind: Any) -> None:
    values = {
        "f": np.array([[1.5, -2]], np.float32),
        "h": np.array([[0.5, 7]], np.float16),
        "d": np.array([[1e300, -1e-300]], np.float64),
        "i": np.array([[2**62, -(2**62)]], np.int64),
        "u": np.array([[0, 255]], np.uint8),
        "b": np.array([[True, False]]),
        "s": np.array([["ä", ""]], object),
    }
    datatypes = dict(zip(KINDS, ("FP32", "FP16", "FP64", "INT64", "UINT8", "BOOL", "BYTES"), strict=True))
    inputs = []
    for name, value in values.items():
        inputs.append(triton.InferInput(name, list(value.shape), datatypes[name]))
        inputs[-1].set_data_from_numpy(value)
    result = every_kind.infer("kinds", inputs)
    for name, value in values.items():
        got = result.as_numpy(f"{name}_out")
        if name == "s":
            assert [text.decode() for text in got.ravel()] == value.ravel().tolist()
        else:
            assert got.dtype == value.dtype
            np.testing.assert_array_equal(got, value)


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
