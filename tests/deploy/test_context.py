"""The folder for buildx: the image's own layers in its own order, its own config, clean by hadolint, read by bake."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from layouts import small_layout

from mlopt.deploy.context import write_context
from mlopt.errors import ImageFailed, StoreUnusable
from mlopt.image.layout import CONFIG, INDEX, MANIFEST, Writer, blob_path, manifests_of, read_blob
from mlopt.image.load import manifest_of

TOLD = {
    "User": "65532:65532",
    "WorkingDir": "/model",
    "Entrypoint": ["/usr/bin/python3.11", "-m", "mlopt.serve"],
    "Cmd": ["--port", "8080"],
    "ExposedPorts": {"8080/tcp": {}},
    "Env": ["PATH=/usr/bin", 'ODD=a "b" $HOME \\ c'],
    "Labels": {"io.mlopt.target": "host", "io.mlopt.odd": "one\nUSER root"},
    "StopSignal": "SIGTERM",
    "Healthcheck": {"Test": ["CMD", "/usr/bin/python3.11", "-m", "mlopt.serve.health", "8080"]},
}


def configured(folder: Path, *, base: dict[str, str] | None = None) -> Path:
    """A layout with a whole config; of one with a base, the first layer is the base's."""
    folder.parent.mkdir(exist_ok=True)
    plain = small_layout(folder.with_name("plain"))
    writer, manifests = Writer(folder), []
    for platform, entry in manifests_of(plain).items():
        manifest = manifest_of(plain, platform)
        config = json.loads(read_blob(plain, manifest["config"]))
        manifest["config"] = writer.add_json({**config, "config": TOLD}, media_type=CONFIG)
        for layer in manifest["layers"]:
            writer.add_bytes(read_blob(plain, layer), media_type=layer["mediaType"])
        made = writer.add_json(manifest, media_type=MANIFEST)
        manifests.append({**made, "platform": entry["platform"]})
    said = {"org.opencontainers.image.title": "net", "org.opencontainers.image.version": "1", **(base or {})}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests, "annotations": said}
    writer.close(index, tag="1")
    return folder


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return write_context(configured(tmp_path / "image"), tmp_path / "context")


def test_it_lays_down_the_layers_of_the_image(context: Path, tmp_path: Path) -> None:
    layout = tmp_path / "image"
    added = [line.split()[1] for line in lines(context) if line.startswith("ADD ")]
    assert added == ["${TARGETPLATFORM}/0-base.tar.gz", "${TARGETPLATFORM}/1-model.tar.gz"]
    for platform in manifests_of(layout):
        blobs = [blob_path(layout, layer).read_bytes() for layer in manifest_of(layout, platform)["layers"]]
        assert [(context / name.replace("${TARGETPLATFORM}", platform)).read_bytes() for name in added] == blobs
    assert lines(context)[0] == "FROM scratch"


def test_it_says_what_the_config_says(context: Path) -> None:
    found = lines(context)
    assert "USER 65532:65532" in found
    assert 'ENTRYPOINT ["/usr/bin/python3.11", "-m", "mlopt.serve"]' in found
    assert any(line.endswith('CMD ["/usr/bin/python3.11", "-m", "mlopt.serve.health", "8080"]') for line in found)
    assert 'ENV ODD="a \\"b\\" \\$HOME \\\\ c"' in found


def test_no_value_becomes_an_instruction(context: Path) -> None:
    assert "USER root" not in lines(context)
    assert 'LABEL io.mlopt.odd="one USER root"' in lines(context)


def test_the_same_image_gives_the_same_bytes(context: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in context.rglob("*") if path.is_file()}
    write_context(tmp_path / "image", context)
    assert {path.name: path.read_bytes() for path in context.rglob("*") if path.is_file()} == before


def test_on_a_base_it_begins_with_the_base(tmp_path: Path) -> None:
    name = "registry.example/python@sha256:" + "1" * 64
    base = {"org.opencontainers.image.base.name": name, "org.opencontainers.image.base.digest": "sha256:" + "1" * 64}
    context = write_context(configured(tmp_path / "image", base=base), tmp_path / "context")
    assert lines(context)[:2] == [f"ARG BASE={name}", "FROM ${BASE}"]
    assert [line for line in lines(context) if "base.tar" in line] == []
    assert not list(context.rglob("*base.tar*"))


def test_a_base_of_one_machine_is_refused_and_the_last_folder_stays(context: Path, tmp_path: Path) -> None:
    base = {"org.opencontainers.image.base.digest": "sha256:" + "1" * 64}
    other = configured(tmp_path / "another" / "image", base=base)
    with pytest.raises(ImageFailed, match="stands on a layout of one machine"):
        write_context(other, context)
    assert (context / "Dockerfile").is_file()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = configured(tmp_path / "image")
    home = tmp_path / "home"
    home.mkdir()
    (home / "notes").write_text("mine")
    monkeypatch.chdir(home)
    for into in (home, Path()):
        with pytest.raises(StoreUnusable, match=r"other files and no docker-bake\.hcl") as refused:
            write_context(layout, into)
        assert refused.value.next == "give another FOLDER, or remove it yourself"
    assert (home / "notes").read_text() == "mine"


def test_a_damaged_layer_leaves_the_last_folder_and_nothing_beside_it(context: Path, tmp_path: Path) -> None:
    layout = tmp_path / "image"
    layer = manifest_of(layout, "linux/arm64")["layers"][-1]
    blob_path(layout, layer).write_bytes(b"damaged")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ImageFailed, match="damaged"):
        write_context(layout, context)
    assert (context / "Dockerfile").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_hadolint_finds_nothing(context: Path) -> None:
    program = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([program, str(context / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_buildx_reads_the_bake_file(context: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "buildx", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker buildx is not installed")
    done = subprocess.run([docker, "buildx", "bake", "--print"], cwd=context, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    target = json.loads(done.stdout)["target"]["image"]
    assert target["platforms"] == ["linux/amd64", "linux/arm64"]
    assert target["tags"] == ["localhost/mlopt/net:1"]
    assert target["args"] == {"SOURCE_DATE_EPOCH": "0"}


def lines(context: Path) -> list[str]:
    return [line for line in (context / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
