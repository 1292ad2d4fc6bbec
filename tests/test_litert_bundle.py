"""A model for LiteRT, from ONNX to a bundle that is measured, gated and served, and its image."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import nets
import pytest
import walks

from mlopt.image.fetch import Inputs
from mlopt.image.inputs import PLATFORMS
from mlopt.image.run import serve_image
from mlopt.serve.model import Model, read_serving

pytestmark = [pytest.mark.litert, pytest.mark.slow]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, image_inputs: Inputs) -> Path:
    folder = tmp_path_factory.mktemp("litert")
    walks.borrow_inputs(image_inputs, folder / "store")
    model = nets.save(nets.depthwise_net(side=32), folder / "net.onnx")
    walks.labelled(folder / "samples.npz", model, count=96)
    walks.profile(folder)
    return folder


def said(place: Path, *arguments: str, code: int = 0) -> str:
    ended = walks.mlopt(*arguments, cwd=place, env={"MLOPT_CACHE_DIR": str(place / "store"), "COLUMNS": "100"})
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert "XNNPACK" not in ended.stderr, "LiteRT's own news are kept from who reads ours"
    return ended.stdout


@pytest.fixture(scope="module")
def bundle(place: Path) -> Path:
    asked = ("compile", "net.onnx", "-p", "./fast.toml", "--samples", "samples.npz", "-o", "out")
    told = said(place, *asked, "-r", "litert-fp32", "-r", "litert-int8", "--ship", "litert-int8")
    assert "litert-int8 ships for this machine" in told
    return place / "out" / "net" / "host"


def test_the_bundle_holds_the_file_and_how_it_came_to_be(bundle: Path) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert manifest["winner"]["runtime"] == "litert"
    assert manifest["lineage"][-1]["step"] == "to-tflite"
    assert manifest["lineage"][-1]["tools"]["ai-edge-litert"][0].isdigit()
    assert {"model/model.onnx", "model/model.tflite"} <= set(manifest["files"])
    report = json.loads((bundle / "report.json").read_text())
    made = {one["name"]: one for one in report["candidates"]}
    assert made["litert-fp32"]["accuracy"]["sqnr"] > 90
    assert made["litert-int8"]["measurement"]["speedup"]["value"] > 0
    assert not report["left_out"] or all("litert" not in one["recipe"] for one in report["left_out"])


def test_it_is_measured_and_gated(bundle: Path, place: Path) -> None:
    told = said(place, "bench", "net.onnx", str(bundle), "-p", "./fast.toml", "--json", "-q")
    assert [one["measurement"]["runtime"] for one in json.loads(told)["models"]] == ["onnxruntime", "litert"]
    given = ("--baseline", str(bundle), "--samples", "samples.npz", "-p", "./fast.toml", "-q", "--json")
    undecided = 24  # on so few samples
    assert json.loads(said(place, "gate", str(bundle), *given, code=undecided))["candidate"]["runtime"] == "litert"


def test_the_server_runs_it(bundle: Path) -> None:
    import numpy as np

    model = Model(bundle / "model", read_serving(bundle / "model"))
    model.warm_up()
    assert model.infer({"image": np.zeros((2, 3, 32, 32), np.float32)})["logits"].shape == (2, 10)


def test_its_image_is_for_both_architectures_and_answers_the_same(bundle: Path, place: Path) -> None:
    import numpy as np

    told = said(place, "verify", str(bundle))
    assert "sbom             spdx of linux/amd64, linux/arm64; cyclonedx of linux/amd64, linux/arm64" in told
    report = json.loads((bundle / "report.json").read_text())
    assert set(report["image"]["platforms"]) == set(PLATFORMS)
    assert "The image holds litert, in which litert-int8 was judged." in report["notes"]
    for asked in (("sbom",), ("sbom", "--format", "cyclonedx"), ("provenance",)):
        assert "pkg:pypi/ai-edge-litert@" in said(place, "image", *asked, str(bundle))
    picture = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    here = Model(bundle / "model", read_serving(bundle / "model")).infer({"image": picture})["logits"]
    tensor = {"name": "image", "shape": picture.shape, "datatype": "FP32", "data": picture.ravel().tolist()}
    with serve_image(bundle / "image", engine="none", root=place / "store") as served:
        body = json.dumps({"inputs": [tensor]}).encode()
        with urllib.request.urlopen(f"{served.url}/v2/models/net/infer", data=body, timeout=30) as reply:
            answers = json.load(reply)["outputs"][0]["data"]
    assert np.float32(answers).tolist() == here.ravel().tolist()


def test_with_an_image_too_its_recipes_are_tried(place: Path) -> None:
    told = said(place, "compile", "net.onnx", "--samples", "samples.npz", "--dry-run", "--json")
    assert {"litert-fp32", "litert-int8"} <= {one["name"] for one in json.loads(told)["candidates"]}


def test_a_model_that_litert_cannot_hold_loses_the_candidate_alone(place: Path) -> None:
    nets.save(nets.branching_net(), place / "branching.onnx")
    asked = ("compile", "branching.onnx", "-p", "./fast.toml", "--no-image", "-o", "out", "-r", "litert-fp32")
    told = " ".join(said(place, *asked).split())
    assert "litert-fp32: LiteRT's file cannot hold node" in told
    assert "baseline ships" in told
