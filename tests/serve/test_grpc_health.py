"""gRPC's own health service, asked by gRPC's own client: the server, a model, a version; watched until it drains."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from serving_process import process, quiet_server, wait_ready
from test_several_models import copied

from mlopt.image.run import free_port
from mlopt.serve.rpc_health import SERVICE, WATCHING, _messages

grpc = pytest.importorskip("grpc", reason="grpcio (the extra [grpc]) is not installed")
wire = pytest.importorskip("grpc_health.v1.health_pb2", reason="grpcio-health-checking is not installed")
stubs = pytest.importorskip("grpc_health.v1.health_pb2_grpc", reason="grpcio-health-checking is not installed")
Code, Answer = grpc.StatusCode, wire.HealthCheckResponse
KEY = "a-key-of-16-chars"


def asked(stub: Any, service: str = "", **more: Any) -> int:
    return int(stub.Check(wire.HealthCheckRequest(service=service), timeout=10, **more).status)


def test_the_messages_are_those_of_the_protocol() -> None:
    assert wire.DESCRIPTOR.services_by_name["Health"].full_name == SERVICE
    for name, ours in _messages().items():
        theirs = getattr(wire, name).DESCRIPTOR
        assert [(f.name, f.number, f.type) for f in ours.DESCRIPTOR.fields] == [
            (f.name, f.number, f.type) for f in theirs.fields
        ]
    statuses = _messages()["HealthCheckResponse"].DESCRIPTOR.enum_types_by_name["ServingStatus"].values
    assert [(one.name, one.number) for one in statuses] == Answer.ServingStatus.items()


def test_the_server_its_models_and_their_versions_are_asked_for(model_folder: Path, tmp_path: Path) -> None:
    copied(model_folder, tmp_path / "3")
    copied(model_folder, tmp_path / "4", times=2)
    rpc = free_port()
    with quiet_server(tmp_path, "--grpc-port", str(rpc)), grpc.insecure_channel(f"127.0.0.1:{rpc}") as channel:
        stub = stubs.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService", "colours", "colours/3", "colours/4"):
            assert asked(stub, service) == Answer.SERVING, service
        for service in ("colour", "colours/5", "colours/3/4", "/", "grpc.health.v1.Health"):
            with pytest.raises(grpc.RpcError) as failure:
                asked(stub, service)
            assert failure.value.code() is Code.NOT_FOUND
        with pytest.raises(grpc.RpcError) as failure:
            channel.unary_unary(f"/{SERVICE}/Check")(b"\xff\xff", timeout=10)
        assert failure.value.code() is Code.INVALID_ARGUMENT
        watched = stub.Watch(wire.HealthCheckRequest(service="not-there"), timeout=10)
        assert next(watched).status == Answer.SERVICE_UNKNOWN, "a watcher is told, and waits"
        watched.cancel()


def test_so_many_watch_and_no_more(model_folder: Path) -> None:
    rpc = free_port()
    with quiet_server(model_folder, "--grpc-port", str(rpc)), grpc.insecure_channel(f"127.0.0.1:{rpc}") as channel:
        stub = stubs.HealthStub(channel)
        watching = [stub.Watch(wire.HealthCheckRequest(), timeout=30) for _ in range(WATCHING)]
        assert {next(one).status for one in watching} == {Answer.SERVING}
        with pytest.raises(grpc.RpcError) as failure:
            next(stub.Watch(wire.HealthCheckRequest(), timeout=10))
        assert failure.value.code() is Code.RESOURCE_EXHAUSTED
        assert asked(stub) == Answer.SERVING, "probes still answer"
        watching.pop().cancel()
        for _ in range(50):  # the server learns of it in its own time
            try:
                assert next(stub.Watch(wire.HealthCheckRequest(), timeout=10)).status == Answer.SERVING
                break
            except grpc.RpcError:
                time.sleep(0.1)
        else:
            pytest.fail("a place that became free is not given again")


def test_models_by_name_need_the_key(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY + "\n")
    rpc = free_port()
    options = ("--grpc-port", str(rpc), "--api-keys-file", str(tmp_path / "keys"))
    with quiet_server(model_folder, *options), grpc.insecure_channel(f"127.0.0.1:{rpc}") as channel:
        stub = stubs.HealthStub(channel)
        assert asked(stub) == asked(stub, "inference.GRPCInferenceService") == Answer.SERVING
        for service in ("colours", "not-there"):
            for call in (lambda name=service: asked(stub, name), lambda name=service: watched_once(stub, name)):
                with pytest.raises(grpc.RpcError) as failure:
                    call()
                assert failure.value.code() is Code.UNAUTHENTICATED, "nobody learns which models there are"
        assert asked(stub, "colours", metadata=(("x-api-key", KEY),)) == Answer.SERVING


def watched_once(stub: Any, service: str) -> int:
    return int(next(stub.Watch(wire.HealthCheckRequest(service=service), timeout=10)).status)


def test_who_watches_is_told_of_the_end_and_holds_nothing_up(model_folder: Path) -> None:
    rpc, port = free_port(), free_port()
    with (
        process(model_folder, port=port, options=("--grpc-port", str(rpc))) as server,
        grpc.insecure_channel(f"127.0.0.1:{rpc}") as channel,
    ):
        wait_ready(port, server)
        answers = stubs.HealthStub(channel).Watch(wire.HealthCheckRequest(), timeout=30)
        assert next(answers).status == Answer.SERVING
        threading.Timer(0.3, os.kill, (server.pid, signal.SIGTERM)).start()
        assert [one.status for one in answers] == [Answer.NOT_SERVING]
        assert server.wait(5) == 0, "well before the 20 s that calls under way have"
