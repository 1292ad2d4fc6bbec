"""A base of the user's choice: from a layout or a real registry, kept as it is, started, or refused for one reason."""

from __future__ import annotations

import dataclasses
import json
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bases import CONFIGURED, PATH, write_base
from registries import Registry, log_in, running, with_password

from mlopt.errors import BaseUnusable, Misused, RegistryFailed
from mlopt.image.assemble import ImageSpec, assemble
from mlopt.image.base import open_base
from mlopt.image.fetch import Inputs
from mlopt.image.inputs import PLATFORMS, host_platform
from mlopt.image.layout import blob_path, index_of, manifests_of, read_blob, verify
from mlopt.image.load import manifest_of
from mlopt.image.push import push_layout
from mlopt.image.reference import Reference
from mlopt.image.repository import Repository
from mlopt.image.rootfs import unpack_rootfs
from mlopt.image.run import serve_image
from mlopt.request import Server

Make = Callable[..., ImageSpec]


def on(base: str, spec: ImageSpec, root: Path, **changes: Any) -> ImageSpec:
    return dataclasses.replace(spec, base=open_base(base, root=root), **changes)


@pytest.fixture
def layout(inputs: Inputs, tmp_path: Path) -> Path:
    return write_base(tmp_path / "base", inputs)


@pytest.mark.parametrize("tagged", [False, True])
def test_a_layout_is_put_below_and_stays_as_it_is(
    inputs: Inputs, make_spec: Make, layout: Path, tmp_path: Path, tagged: bool
) -> None:
    said = f"{layout}:1" if tagged else str(layout)
    image = assemble(on(said, make_spec(), tmp_path), tmp_path / "image", inputs=inputs)
    assert verify(image.path) == PLATFORMS
    for platform in PLATFORMS:
        theirs, ours = manifest_of(layout, platform), manifest_of(image.path, platform)
        assert [one["digest"] for one in theirs["layers"]] == [one["digest"] for one in ours["layers"]][:3]
        names = [one["annotations"]["io.mlopt.layer"] for one in ours["layers"]]
        assert names == ["base", "base-2", "base-3", "runtime", "application", "model"]
        config = json.loads(read_blob(image.path, ours["config"]))
        assert [one["created_by"] for one in config["history"][:3]] == ["theirs"] * 3
        assert len(config["history"]) == len(config["rootfs"]["diff_ids"]) == 6
        told = config["config"]
        assert told["User"] == "65532:65532"
        assert told["Entrypoint"][:3] == ["/usr/bin/python3.11", "-m", "mlopt.serve"]
        assert {"PATH=/usr/local/bin:/usr/bin", "SSL_CERT_DIR=/etc/company", "PYTHONUTF8=1"} <= set(told["Env"])
        assert "ORT_DISABLE_TELEMETRY=1" in told["Env"]
        assert told["Labels"]["company.team"] == CONFIGURED["Labels"]["company.team"]  # type: ignore[index]
        assert told["Labels"]["io.mlopt.target"] == "host"
        assert ours["annotations"]["org.opencontainers.image.base.digest"] == index_of(layout)["digest"]
    assert str(tmp_path) not in json.dumps(json.loads(read_blob(image.path, index_of(image.path))))
    assert image.platforms[0].unpacked > image.platforms[0].layers[0].unpacked


@pytest.mark.skipif(host_platform() not in PLATFORMS, reason="images are not made for this machine")
@pytest.mark.parametrize("server", ["python", "native"])
def test_it_is_served_on_that_base(
    inputs: Inputs, make_spec: Make, layout: Path, tmp_path: Path, server: Server
) -> None:
    spec = on(str(layout), make_spec(), tmp_path, server=server, platforms=(host_platform(),))
    image = assemble(spec, tmp_path / "image", inputs=inputs)
    with (
        serve_image(image.path, engine="none", root=tmp_path / "cache") as served,
        urllib.request.urlopen(f"{served.url}/v2/models/colours", timeout=30) as reply,
    ):
        assert json.load(reply)["name"] == "colours"
    files = unpack_rootfs(image.path, platform=host_platform(), root=tmp_path / "cache")
    assert (files / PATH).read_text() == (files / "usr/share/company/same").read_text() == "ours\n"
    assert not (files / "usr/share/company/old").exists()


def test_the_same_base_gives_the_same_image(inputs: Inputs, make_spec: Make, tmp_path: Path) -> None:
    spec = make_spec(seed=5)
    digests = set()
    for name in ("here", "there"):
        base = write_base(tmp_path / name / "base", inputs)
        made = assemble(on(str(base), spec, tmp_path / name), tmp_path / name / "image", inputs=inputs)
        digests.add(made.digest)
    assert len(digests) == 1


@pytest.mark.registry
@pytest.mark.parametrize("named", ["tag", "digest"])
def test_a_registry_with_a_password(
    inputs: Inputs, make_spec: Make, layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    with running(tmp_path / "registry", auth=with_password(tmp_path / "registry")) as registry:
        monkeypatch.setenv("DOCKER_CONFIG", str(log_in(tmp_path / "docker", registry.host)))
        reference = pushed(layout, registry)
        wanted = ":1" if named == "tag" else f"@{index_of(layout)['digest']}"
        spec = on(reference + wanted, make_spec(seed=6), tmp_path / "cache")
        image = assemble(spec, tmp_path / "image", inputs=inputs)
        assert verify(image.path)
        index = json.loads(read_blob(image.path, index_of(image.path)))
        assert index["annotations"]["org.opencontainers.image.base.name"] == (
            f"{reference}@{index_of(layout)['digest']}"
        )
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "nothing"))
        with pytest.raises(RegistryFailed, match="wants to know who asks"):
            open_base(f"{reference}:1", root=tmp_path / "cache")


@pytest.mark.registry
def test_what_a_registry_does_wrong(layout: Path, tmp_path: Path) -> None:
    with running(tmp_path / "registry") as registry:
        reference = pushed(layout, registry)
        with pytest.raises(RegistryFailed, match="no such image"):
            open_base(f"{reference}:2", root=tmp_path)
        base = open_base(f"{reference}:1", root=tmp_path / "cache")
        damage(tmp_path / "registry", manifest_of(layout, "linux/arm64")["layers"][1]["digest"])
        with pytest.raises(RegistryFailed, match=r"not what its digest says|does not give the whole"):
            base.ground("linux/arm64", python="3.11")
        assert not list((tmp_path / "cache" / "scratch").iterdir())
        assert not [path for path in (tmp_path / "cache" / "bases").iterdir() if not (path / "facts.json").is_file()]
    with pytest.raises(RegistryFailed, match="gives no answer"):
        open_base(f"{reference}:1", root=tmp_path)


def pushed(layout: Path, registry: Registry) -> str:
    reference = Reference.parse(f"{registry.host}/company/python")
    push_layout(layout, Repository.open(reference), tag="1")
    return str(reference)


def damage(storage: Path, digest: str) -> None:
    name = digest.removeprefix("sha256:")
    (blob,) = (path / "data" for path in storage.rglob(name) if (path / "data").is_file())
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(bytes(data))


def test_a_lone_manifest_is_of_one_platform(inputs: Inputs, make_spec: Make, tmp_path: Path) -> None:
    layout = write_base(tmp_path / "base", inputs, platforms=("linux/arm64",), index=False)
    base = open_base(str(layout), root=tmp_path)
    assert list(base.manifests) == ["linux/arm64"]
    with pytest.raises(BaseUnusable, match="no image for linux/amd64, only for linux/arm64"):
        assemble(on(str(layout), make_spec(), tmp_path), tmp_path / "image", inputs=inputs)
    one = on(str(layout), make_spec(), tmp_path, platforms=("linux/arm64",))
    assert verify(assemble(one, tmp_path / "image", inputs=inputs).path) == ("linux/arm64",)


def other_architecture(config: dict[str, Any]) -> None:
    config["architecture"] = "riscv64"


def other_layers(config: dict[str, Any]) -> None:
    config["rootfs"]["diff_ids"][1] = "sha256:" + "0" * 64


def fewer_layers(config: dict[str, Any]) -> None:
    config["rootfs"]["diff_ids"].pop()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (other_architecture, "says in its config that it is for linux/riscv64"),
        (other_layers, "Layer 2 of the base is not what its config says"),
        (fewer_layers, "disagree on the number of layers"),
    ],
)
def test_a_base_that_contradicts_itself(
    inputs: Inputs, tmp_path: Path, changed: Callable[[dict[str, Any]], None], says: str
) -> None:
    layout = write_base(tmp_path / "base", inputs, changed=changed)
    with pytest.raises(BaseUnusable, match=says) as caught:
        open_base(str(layout), root=tmp_path).ground("linux/amd64", python="3.11")
    assert caught.value.exit_code == 35
    assert caught.value.where == str(layout)


def test_a_base_without_python_or_of_another(inputs: Inputs, layout: Path, tmp_path: Path) -> None:
    empty = write_base(tmp_path / "empty", inputs, below=False)
    with pytest.raises(BaseUnusable, match=r"no python3\.11"):
        open_base(str(empty), root=tmp_path).ground("linux/amd64", python="3.11")
    with pytest.raises(BaseUnusable, match=r"no python3\.13"):
        open_base(str(layout), root=tmp_path).ground("linux/amd64", python="3.13")


def test_a_damaged_layout(layout: Path, tmp_path: Path) -> None:
    base = open_base(str(layout), root=tmp_path)
    blob = blob_path(layout, manifest_of(layout, "linux/amd64")["layers"][0])
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BaseUnusable, match="base is damaged: a blob is not what its digest says"):
        base.ground("linux/amd64", python="3.11")
    blob_path(layout, manifests_of(layout)["linux/amd64"]).unlink()
    with pytest.raises(BaseUnusable, match="base is damaged: the blob cannot be read"):
        base.ground("linux/amd64", python="3.11")


def test_what_names_no_base(layout: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseUnusable, match="not an OCI layout"):
        open_base(str(tmp_path / "empty"), root=tmp_path)
    with pytest.raises(BaseUnusable, match="has no image with the tag 7") as caught:
        open_base(f"{layout}:7", root=tmp_path)
    assert str(caught.value.next).endswith("of 1")
    with pytest.raises(Misused, match="must begin with the registry's host"):
        open_base("python:3.11-slim", root=tmp_path)
