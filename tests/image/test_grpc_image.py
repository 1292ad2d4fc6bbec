"""gRPC in an image: there where the variant asks for it, answered by the image's own files, and nowhere else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlopt.image.assemble import ImageSpec, assemble
from mlopt.image.fetch import Inputs
from mlopt.image.inputs import PLATFORMS, docker_folder, host_platform, read_wanted
from mlopt.image.run import free_port, serve_image
from mlopt.serve.oip import SERVICE, messages

grpc = pytest.importorskip("grpc", reason="grpcio (the extra [grpc]) is not installed")
pytestmark = pytest.mark.skipif(
    host_platform() not in PLATFORMS, reason=f"images are not made for this machine ({host_platform()})"
)


def config_of(layout: Path) -> Any:
    def blob(digest: str) -> Any:
        return json.loads((layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes())

    (index,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = blob(blob(index["digest"])["manifests"][0]["digest"])
    return blob(manifest["config"]["digest"])["config"]


@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("litert", marks=pytest.mark.litert)])
def test_an_image_serves_grpc_where_its_model_says_so(
    inputs: Inputs, make_spec: Callable[..., ImageSpec], tmp_path: Path, runtime: str
) -> None:
    plain, port = make_spec(seed=1, runtime=runtime), free_port()
    spec = dataclasses.replace(plain, serving={**plain.serving, "server": {"grpc-port": port}})
    image = assemble(spec, tmp_path / "image", inputs=inputs)
    without = assemble(plain, tmp_path / "plain", inputs=inputs)
    added = [one.compressed - other.compressed for one, other in zip(image.platforms, without.platforms, strict=True)]
    assert all(5e6 < size < 8e6 for size in added), added
    assert set(config_of(image.path)["ExposedPorts"]) == {"8080/tcp", f"{port}/tcp"}
    assert set(config_of(without.path)["ExposedPorts"]) == {"8080/tcp"}
    pixels = np.zeros((1, 3, 8, 8), np.float32)
    request = messages()["ModelInferRequest"](
        model_name="colours",
        inputs=[{"name": "pixels", "datatype": "FP32", "shape": pixels.shape}],
        raw_input_contents=[pixels.tobytes()],
    )
    with serve_image(image.path, engine="none", root=tmp_path / "cache") as served:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            raw = channel.unary_unary(f"/{SERVICE}/ModelInfer")(request.SerializeToString(), timeout=20)
            health = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20)
        assert health == b"\x08\x01", "it serves"
        answer = messages()["ModelInferResponse"].FromString(raw)
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [0.0, 0.0, 0.0]
        loaded = Path(f"/proc/{served.pid}/maps").read_text()
        libraries = {line.split()[-1] for line in loaded.splitlines() if ".so" in line}
        assert any("cygrpc" in path for path in libraries)
        assert {path for path in libraries if not path.startswith(str(tmp_path))} == set()


def test_no_image_holds_it_unasked() -> None:
    wanted = read_wanted(docker_folder())
    for runtime in wanted.runtimes:
        assert "grpcio" not in wanted.running(runtime).packages
        assert {"grpcio", "protobuf"} <= set(wanted.running(runtime, ("grpc",)).packages)
        assert {"grpcio", "protobuf"} <= set(wanted.wheels)
