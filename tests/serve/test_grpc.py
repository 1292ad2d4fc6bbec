"""The Open Inference Protocol over gRPC, spoken by NVIDIA's own client and by a bare channel that lies."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from kinds import check_every_kind, kinds_folder
from serving_process import process, quiet_server, wait_ready
from test_serve_app import INFER, tensor
from test_several_models import copied

from mlopt.image.run import free_port
from mlopt.serve.oip import PACKAGE, SERVICE, messages

grpc = pytest.importorskip("grpc", reason="grpcio (the extra [grpc]) is not installed")
triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
logging.getLogger("tritonclient").setLevel(logging.ERROR)
PIXELS = np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32)
KEY = "a-key-of-16-chars"
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def ports(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """HTTP and gRPC, of two versions of a model and one that has every kind of tensor."""
    root = tmp_path_factory.mktemp("models")
    copied(model_folder, root / "3")
    copied(model_folder, root / "4", times=2)
    kinds_folder(root / "kinds")
    rpc = free_port()
    options = ("--grpc-port", str(rpc), "--max-body", "1", "--max-arrival", "1", "--cache", "1")
    with quiet_server(root, *options) as port:
        yield port, rpc


@pytest.fixture(scope="module")
def client(ports: tuple[int, int]) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{ports[1]}") as client:
        yield client


def pixels(values: np.ndarray = PIXELS) -> Any:
    given = triton.InferInput("pixels", list(values.shape), "FP32")
    given.set_data_from_numpy(values)
    return given


def test_the_messages_are_those_of_the_protocol() -> None:
    """Field by field against the ones that Triton's client was generated with."""
    from tritonclient.grpc import service_pb2

    def fields(message: Any) -> dict[str, Any]:
        found = {message.full_name: {field.name: describe(field) for field in message.fields}}
        for inner in message.nested_types:
            found |= fields(inner)
        return found

    def describe(field: Any) -> tuple[Any, ...]:
        one_of = field.containing_oneof.name if field.containing_oneof else None
        kind = field.message_type.full_name if field.message_type else None
        return field.number, field.type, field.is_repeated, kind, one_of

    for name, cls in messages().items():
        assert fields(cls.DESCRIPTOR) == fields(getattr(service_pb2, name).DESCRIPTOR), name
    assert SERVICE in service_pb2.DESCRIPTOR.pool.FindServiceByName(SERVICE).full_name
    assert service_pb2.DESCRIPTOR.package == PACKAGE


def test_it_computes_what_the_model_computes(client: Any) -> None:
    for version, times in (("3", 4), ("4", 8), ("", 8)):
        result = client.infer("colours", [pixels()], model_version=version, request_id="q1")
        np.testing.assert_allclose(result.as_numpy("scores"), times * PIXELS.mean(axis=(2, 3)), rtol=1e-5)
        answer = result.get_response()
        assert (answer.model_name, answer.model_version, answer.id) == ("colours", version or "4", "q1")


def test_it_finds_what_it_asks_for(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colours", "3")
    assert client.get_server_metadata().name == "mlopt"
    told = client.get_model_metadata("colours")
    assert list(told.versions) == ["3", "4"]
    assert (told.inputs[0].name, list(told.inputs[0].shape)) == ("pixels", [-1, 3, 8, 8])
    found = [(one.name, one.version, one.state) for one in client.get_model_repository_index().models]
    assert found == [("colours", "3", "READY"), ("colours", "4", "READY"), ("kinds", "1", "READY")]


def test_every_kind_of_tensor_comes_back_as_it_was(client: Any) -> None:
    check_every_kind(client, triton)


def call(port: int, method: str, body: bytes, **options: Any) -> bytes:
    """One call of raw bytes."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        found: bytes = channel.unary_unary(f"/{SERVICE}/{method}")(body, timeout=20, **options)
        return found


def request(**changes: Any) -> Any:
    one = {"name": "pixels", "datatype": "FP32", "shape": [1, 3, 8, 8], "contents": {"fp32_contents": [0.5] * 192}}
    fields = {"model_name": "colours", "inputs": [one | changes.pop("input", {})]} | changes
    return messages()["ModelInferRequest"](**fields)


def test_typed_contents_are_read_too(ports: tuple[int, int]) -> None:
    answer = messages()["ModelInferResponse"].FromString(call(ports[1], "ModelInfer", request().SerializeToString()))
    np.testing.assert_allclose(np.frombuffer(answer.raw_output_contents[0], np.float32), 4.0)
    small = {"contents": {"uint_contents": [300, 1]}, "name": "u", "datatype": "UINT8", "shape": [1, 2]}
    with pytest.raises(grpc.RpcError) as refused:
        call(ports[1], "ModelInfer", request(model_name="kinds", input=small).SerializeToString())
    assert (refused.value.code(), "do not fit" in refused.value.details()) == (Code.INVALID_ARGUMENT, True)


RAW = PIXELS[:1].tobytes()


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (b"\xff\xff", Code.INVALID_ARGUMENT, "not one of"),
        (b"", Code.NOT_FOUND, "no such model"),
        (request(model_name="absent"), Code.NOT_FOUND, "colours, kinds"),
        (request(model_version="9"), Code.NOT_FOUND, "4, 3 of colours"),
        (request(input={"name": "x"}), Code.INVALID_ARGUMENT, "no input 'x'"),
        (request(input={"name": "\U0001f600" * 90_000}), Code.INVALID_ARGUMENT, "no input '\U0001f600"),
        (request(inputs=[]), Code.INVALID_ARGUMENT, "missing"),
        (request(input={"datatype": "INT8"}), Code.INVALID_ARGUMENT, "must be FP32"),
        (request(input={"shape": [1, 3, 8, 9]}), Code.INVALID_ARGUMENT, "must be [-1, 3, 8, 8]"),
        (request(input={"shape": [-1, 3, 8, 8]}), Code.INVALID_ARGUMENT, "above 0"),
        (request(input={"shape": [2, 3, 8, 8]}), Code.INVALID_ARGUMENT, "needs 384"),
        (request(raw_input_contents=[RAW]), Code.INVALID_ARGUMENT, "both"),
        (request(input={"contents": None}, raw_input_contents=[RAW, RAW]), Code.INVALID_ARGUMENT, "1 inputs and 2"),
        (request(input={"contents": None}, raw_input_contents=[RAW[:-1]]), Code.INVALID_ARGUMENT, "needs 768"),
        (request(input={"contents": None}), Code.INVALID_ARGUMENT, "0 values"),
        (request(outputs=[{"name": "x"}]), Code.INVALID_ARGUMENT, "no output 'x'"),
        (
            request(input={"parameters": {"shared_memory_region": {"string_param": "r"}}}),
            Code.INVALID_ARGUMENT,
            "shared_memory_region",
        ),
        (
            request(outputs=[{"name": "scores", "parameters": {"classification": {"int64_param": 2}}}]),
            Code.INVALID_ARGUMENT,
            "classification",
        ),
        (request(id="a" * (2 << 20)), Code.RESOURCE_EXHAUSTED, ""),
    ],
)
def test_what_is_wrong_is_said_with_the_right_status(ports: tuple[int, int], body: Any, code: Any, says: str) -> None:
    raw = body if isinstance(body, bytes) else body.SerializeToString()
    with pytest.raises(grpc.RpcError) as refused:
        call(ports[1], "ModelInfer", raw)
    assert refused.value.code() is code, refused.value.details()
    assert says in refused.value.details()


def test_a_parameter_named_like_the_rest_protocols_does_nothing(ports: tuple[int, int]) -> None:
    lying = request(input={"parameters": {"binary_data_size": {"int64_param": 4}}})
    assert call(ports[1], "ModelInfer", lying.SerializeToString())


def test_what_is_not_there_is_said(ports: tuple[int, int]) -> None:
    for method in ("ModelStreamInfer", "RepositoryModelLoad", "Nonsense"):
        with pytest.raises(grpc.RpcError) as refused:
            call(ports[1], method, b"")
        assert refused.value.code() is Code.UNIMPLEMENTED
    for method in ("ModelReady", "ModelMetadata"):
        with pytest.raises(grpc.RpcError) as refused:
            call(ports[1], method, messages()["ModelReadyRequest"](name="absent").SerializeToString())
        assert refused.value.code() is Code.NOT_FOUND


def test_who_sends_nothing_is_cut_off(ports: tuple[int, int]) -> None:
    def nothing() -> Iterator[bytes]:
        time.sleep(5)
        yield b""

    with grpc.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as refused:
            channel.stream_unary(f"/{SERVICE}/ModelInfer")(nothing(), timeout=20)
        assert refused.value.code() is Code.DEADLINE_EXCEEDED
        assert "did not arrive" in refused.value.details()
        assert time.monotonic() - began < 4


def test_both_protocols_share_answers_ids_and_counters(ports: tuple[int, int]) -> None:
    ones = request(input={"contents": {"fp32_contents": [0.125] * 192}}).SerializeToString()
    told = []
    with grpc.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
        for _ in range(2):
            method = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            _, done = method.with_call(ones, timeout=20, metadata=(("x-request-id", "mine-1"),))
            told.append(dict(done.trailing_metadata()))
    assert [one["x-cache"] for one in told] == ["miss", "hit"]
    assert told[0]["x-request-id"] == "mine-1"
    url = f"http://127.0.0.1:{ports[0]}"
    reply = httpx.post(url + INFER, json={"inputs": [tensor(data=[0.125] * 192)]})
    assert reply.headers["x-cache"] == "hit"
    text = httpx.get(url + "/metrics").text
    assert 'mlopt_requests_total{code="OK",model="colours",route="grpc_model_infer",version="4"}' in text
    assert 'mlopt_requests_total{code="NOT_FOUND",model="",route="grpc_model_infer",version=""}' in text


def test_a_full_line_is_resource_exhausted_and_probes_still_answer(model_folder: Path, tmp_path: Path) -> None:
    """Of many at once to a slow model, some are answered and the rest are told to come again; none fails otherwise."""
    folder = slow_model(tmp_path / "slow")
    rpc, codes, waits = free_port(), [], []
    options = ("--grpc-port", str(rpc), "--concurrency", "1", "--max-waiting", "1")
    body = messages()["ModelInferRequest"](
        model_name="slow",
        inputs=[{"name": "x", "datatype": "FP32", "shape": [700, 700]}],
        raw_input_contents=[np.zeros((700, 700), np.float32).tobytes()],
    ).SerializeToString()
    with quiet_server(folder, *options):

        def ask() -> None:
            try:
                call(rpc, "ModelInfer", body)
                codes.append(Code.OK)
            except grpc.RpcError as error:
                codes.append(error.code())
                waits.append(dict(error.trailing_metadata()).get("retry-after"))

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        live = messages()["ServerLiveResponse"].FromString(call(rpc, "ServerLive", b""))
        for thread in threads:
            thread.join(60)
    assert live.live
    assert set(codes) == {Code.OK, Code.RESOURCE_EXHAUSTED}
    assert len(codes) == 12
    assert set(waits) == {"1"}


def slow_model(folder: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper

    from mlopt.image.serving import describe_serving, encode_serving

    folder.mkdir()
    names = ["x", *(f"x{place}" for place in range(12))]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [one, one], [other]) for one, other in pairwise(names)],
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [700, 700])],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, [700, 700])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    spec = describe_serving(folder / "m.onnx", name="slow", threads=1)
    (folder / "serving.json").write_bytes(encode_serving(spec))
    return folder


def test_keys_guard_all_but_the_probes(model_folder: Path) -> None:
    rpc = free_port()
    with quiet_server(model_folder, "--grpc-port", str(rpc), environment={"MLOPT_SERVE_API_KEYS": KEY}):
        body = request().SerializeToString()
        for metadata in ((), (("x-api-key", KEY + "x"),), (("authorization", KEY),)):
            for method in ("ModelInfer", "ModelMetadata", "ServerMetadata", "RepositoryIndex"):
                with pytest.raises(grpc.RpcError) as refused:
                    call(rpc, method, body, metadata=metadata)
                assert refused.value.code() is Code.UNAUTHENTICATED
        for metadata in ((("x-api-key", KEY),), (("authorization", f"Bearer {KEY}"),)):
            assert call(rpc, "ModelInfer", body, metadata=metadata)
        for method in ("ServerLive", "ServerReady"):
            assert call(rpc, method, b"")


def test_tls_serves_the_certificate_and_nothing_in_the_clear(
    model_folder: Path, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    port, rpc = free_port(), free_port()
    options = ("--tls-cert", str(cert), "--tls-key", str(key), "--grpc-port", str(rpc))
    with process(model_folder, port=port, options=options) as running:
        wait_ready(port, running, tls=True)
        with triton.InferenceServerClient(f"localhost:{rpc}", ssl=True, root_certificates=str(cert)) as client:
            assert client.infer("colours", [pixels()]).as_numpy("scores").shape == (2, 3)
        with pytest.raises(grpc.RpcError) as refused:
            call(rpc, "ServerLive", b"", wait_for_ready=False)
        assert refused.value.code() is Code.UNAVAILABLE
        running.terminate()
        assert running.wait(30) == 0


def test_a_call_under_way_is_answered_before_it_stops(tmp_path: Path) -> None:
    folder, port, rpc, codes = slow_model(tmp_path / "slow"), free_port(), free_port(), []
    zeros = np.zeros((700, 700), np.float32).tobytes()
    one = {"name": "x", "datatype": "FP32", "shape": [700, 700]}
    body = messages()["ModelInferRequest"](model_name="slow", inputs=[one], raw_input_contents=[zeros])
    with process(folder, port=port, options=("--grpc-port", str(rpc))) as running:
        wait_ready(port, running)
        thread = threading.Thread(target=lambda: codes.append(len(call(rpc, "ModelInfer", body.SerializeToString()))))
        thread.start()
        time.sleep(0.15)
        running.terminate()
        thread.join(60)
        said, _ = running.communicate(timeout=30)
        assert running.returncode == 0
    assert codes
    assert codes[0] > len(zeros)
    events = [json.loads(line)["event"] for line in said.splitlines()]
    assert events == ["ready", "request", "stopped"]


def test_both_protocols_stop_at_once_and_have_their_time_together(model_folder: Path) -> None:
    """With half a request over each of them, the grace passes once, and nothing new is taken meanwhile."""
    port, rpc, sending = free_port(), free_port(), threading.Event()

    def half() -> Iterator[bytes]:
        sending.set()
        time.sleep(10)
        yield b""

    with (
        process(model_folder, port=port, options=("--grpc-port", str(rpc), "--grace", "3")) as running,
        socket.socket() as http,
        grpc.insecure_channel(f"127.0.0.1:{rpc}") as channel,
    ):
        wait_ready(port, running)
        http.connect(("127.0.0.1", port))
        http.sendall(b"POST /v2/models/colours/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{")
        channel.stream_unary(f"/{SERVICE}/ModelInfer").future(half())
        assert sending.wait(10)
        time.sleep(0.2)
        began = time.monotonic()
        running.terminate()
        time.sleep(1)
        with pytest.raises(grpc.RpcError) as refused:
            call(rpc, "ServerLive", b"")
        assert refused.value.code() is Code.UNAVAILABLE
        assert running.wait(20) == 0
        assert 2.5 < time.monotonic() - began < 5.5


def test_a_taken_port_ends_it(model_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        rpc = taken.getsockname()[1]
        with process(model_folder, port=free_port(), options=("--grpc-port", str(rpc))) as running:
            said, _ = running.communicate(timeout=30)
    assert running.returncode == 1
    assert f"gRPC cannot listen on 127.0.0.1:{rpc}" in json.loads(said.splitlines()[-1])["reason"]


def test_without_the_packages_it_says_which(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "grpc.py").write_text("raise ImportError('no grpc here')\n")
    with process(
        model_folder,
        port=free_port(),
        options=("--grpc-port", str(free_port())),
        environment={"PYTHONPATH": str(tmp_path)},
    ) as running:
        said, _ = running.communicate(timeout=30)
    assert running.returncode == 1
    assert "grpcio and protobuf" in json.loads(said.splitlines()[-1])["reason"]


def test_nobody_pays_for_it_who_does_not_ask(model_folder: Path) -> None:
    asked = "import sys, mlopt.serve.__main__; print({'grpc', 'google.protobuf', 'mlopt.serve.rpc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
