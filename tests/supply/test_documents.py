"""SBOMs and provenance of a real bundle: valid by their own tools, complete, the same again, no part of the image."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import nets
import pytest
import walks
from click.testing import CliRunner
from supply.conftest import borrow

from mlopt.artifact import files
from mlopt.bundle import Bundle
from mlopt.commands.image import command
from mlopt.errors import ImageFailed
from mlopt.image.fetch import Inputs
from mlopt.image.inputs import docker_folder, read_lock, read_wanted
from mlopt.image.layout import index_of, manifests_of, read_blob, verify
from mlopt.image.referrers import attached
from mlopt.supply.attach import Kind, documents

PLATFORMS = ("linux/amd64", "linux/arm64")


def of(bundle: Path, kind: Kind, platform: str = "") -> list[dict[str, Any]]:
    return [document for _, document in documents(bundle / "image", kind, platform=platform)]


BUNDLES = pytest.mark.parametrize("made", ["compiled", "natively_served"])


@BUNDLES
def test_cyclonedx_is_valid(made: str, request: pytest.FixtureRequest) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    found = of(request.getfixturevalue(made), "cyclonedx")
    assert len(found) == 2
    for document in found:
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None


@BUNDLES
def test_spdx_is_valid(made: str, request: pytest.FixtureRequest) -> None:
    from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    found = of(request.getfixturevalue(made), "spdx")
    assert len(found) == 2
    for document in found:
        assert validate_full_spdx_document(JsonLikeDictParser().parse(document), "SPDX-2.3") == []


@pytest.mark.parametrize("platform", PLATFORMS)
def test_both_name_every_package_of_the_image(compiled: Path, platform: str) -> None:
    folder = docker_folder()
    wanted = read_wanted(folder).running("onnxruntime").packages
    digests = {package.sha256 for package in read_lock(folder / "base.lock.json").of(platform)}
    runtime = read_lock(folder / "runtime.lock.json").of(platform)
    digests |= {package.sha256 for package in runtime if package.name in wanted}
    (cyclonedx,), (spdx,) = of(compiled, "cyclonedx", platform), of(compiled, "spdx", platform)
    libraries = [one for one in cyclonedx["components"] if one["type"] == "library"]
    assert {one["hashes"][0]["content"] for one in libraries} == digests
    with_purl = [one for one in spdx["packages"] if one["SPDXID"].startswith(("SPDXRef-deb-", "SPDXRef-pypi-"))]
    assert {one["checksums"][0]["checksumValue"] for one in with_purl} == digests


def test_what_the_native_server_was_made_of_is_named(natively_served: Path) -> None:
    folder = docker_folder()
    (document,) = of(natively_served, "cyclonedx", "linux/arm64")
    libraries = {one["name"]: one for one in document["components"] if one["type"] == "library"}
    assert set(libraries) == {
        *("gcc-12-base", "libc6", "libgcc-s1", "libstdc++6", "onnxruntime", "picohttpparser", "yyjson")
    }
    assert f'"{libraries["yyjson"]["version"]}"' in (folder / "native" / "vendor" / "yyjson.h").read_text()
    (provenance,) = of(natively_served, "provenance")
    names = {one["name"] for one in provenance["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert {"docker/native.lock.json", "docker/native/main.c", "docker/native/vendor/yyjson.c"} <= names
    labels = json.loads(read_blob(natively_served / "image", index_of(natively_served / "image")))["annotations"]
    assert labels["io.mlopt.server"] == "native"


def test_the_model_is_a_component_with_what_was_measured(compiled: Path) -> None:
    (document,) = of(compiled, "cyclonedx", "linux/amd64")
    model = next(one for one in document["components"] if one["type"] == "machine-learning-model")
    shipped = compiled / "model" / "model.onnx"
    assert model["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(shipped.read_bytes()).hexdigest()}]
    figures = {one["type"]: one for one in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    report = Bundle.load(compiled).report
    candidate = next(one for one in report["candidates"] if one["name"] == report["winner"])
    assert float(figures["top-1"]["value"]) == pytest.approx(candidate["accuracy"]["top1"])
    taken = float(figures["latency p50 in seconds"]["value"])
    assert taken == pytest.approx(candidate["measurement"]["latency"]["p50"], rel=1e-5)
    assert all("grade" in one["slice"] for one in figures.values())


def test_provenance_tells_the_lineage_and_every_input(compiled: Path) -> None:
    (statement,) = of(compiled, "provenance")
    bundle = Bundle.load(compiled)
    index = index_of(compiled / "image")["digest"].removeprefix("sha256:")
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    assert statement["subject"] == [{"name": "net:1", "digest": {"sha256": index}}]
    built = statement["predicate"]["buildDefinition"]
    assert [one["step"] for one in built["internalParameters"]["steps"]] == [
        one["step"] for one in bundle.manifest["lineage"]
    ]
    given = hashlib.sha256((compiled.parents[2] / "net.onnx").read_bytes()).hexdigest()
    assert built["resolvedDependencies"][0]["digest"] == {"sha256": given}
    names = [one["name"] for one in built["resolvedDependencies"]]
    assert len(names) == len(set(names))
    assert "docker/base.lock.json" in names
    run = statement["predicate"]["runDetails"]
    assert run["builder"]["version"]["mlopt"] == bundle.manifest["mlopt"]
    listed = {one["digest"]["sha256"] for one in run["byproducts"] if "mediaType" in one}
    there = {one.blob["digest"].removeprefix("sha256:") for one in attached(compiled / "image")}
    assert len(listed) == 4
    assert listed < there


def test_they_hang_on_the_image_and_do_not_change_it(compiled: Path) -> None:
    layout = compiled / "image"
    assert verify(layout) == PLATFORMS
    assert index_of(layout)["digest"] == Bundle.load(compiled).manifest["image"]["digest"]
    index = json.loads(read_blob(layout, index_of(layout)))
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == ["amd64", "arm64"]
    of_whom = {one.annotations["io.mlopt.document"]: one.subject for one in attached(layout)}
    assert of_whom["provenance"] == index_of(layout)["digest"]
    assert of_whom["spdx"] in {entry["digest"] for entry in manifests_of(layout).values()}
    for one in attached(layout):
        manifest = json.loads(read_blob(layout, {"digest": one.digest, "size": _size(layout, one.digest)}))
        assert manifest["subject"]["digest"] == one.subject
        assert manifest["artifactType"] == manifest["layers"][0]["mediaType"]


def _size(layout: Path, digest: str) -> int:
    return (layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).stat().st_size


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(tmp_path: Path, image_inputs: Inputs) -> None:
    """Compiled twice for a machine that is not here, whose clocks are in no document: from other folders and stores, in
    another time zone, with another hash seed. Image and documents are the same, file by file."""
    places = []
    for name, zone, seed in (("one", "UTC", "1"), ("other", "Asia/Tokyo", "2")):
        place = tmp_path / name
        place.mkdir()
        nets.save(nets.conv_net(), place / "net.onnx")
        borrow(image_inputs, place / "store")
        asked = ("compile", "net.onnx", "--target", "rpi5", "--recipe", "fp32", "-q")
        env = {"MLOPT_CACHE_DIR": str(place / "store"), "TZ": zone, "PYTHONHASHSEED": seed}
        ended = walks.mlopt(*asked, cwd=place, env=env, limit=400)
        assert ended.returncode == 0, ended.stderr
        places.append(next(place.glob("out/net/*/image")))
    one, other = ({path.relative_to(at).as_posix(): path.read_bytes() for path in files(at)} for at in places)
    assert one == other
    assert len(documents(places[0], "provenance")) == 1


def test_they_are_printed(compiled: Path) -> None:
    done = CliRunner().invoke(command, ["sbom", str(compiled), "--format", "cyclonedx", "--platform", "linux/arm64"])
    assert [json.loads(done.output)] == of(compiled, "cyclonedx", "linux/arm64")
    done = CliRunner().invoke(command, ["provenance", str(compiled / "image")])
    assert [json.loads(done.output)] == of(compiled, "provenance")
    with pytest.raises(ImageFailed, match="no spdx of linux/riscv64"):
        CliRunner().invoke(command, ["sbom", str(compiled), "--platform", "linux/riscv64"], catch_exceptions=False)
