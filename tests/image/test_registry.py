"""Pushing to a real registry: what is kept is what was sent, and what is read is held against its digest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from layouts import small_layout
from registries import Registry, push

from mlopt.errors import ImageFailed, RegistryFailed
from mlopt.image.layout import INDEX, index_of, manifests_of
from mlopt.image.statements import Statement, attach, statements

pytestmark = pytest.mark.registry


def test_what_is_pushed_is_there_under_its_digests(registry: Registry, tmp_path: Path) -> None:
    layout, repository = small_layout(tmp_path / "layout"), registry.repository()
    done = push(layout, repository)
    index = repository.manifest("1")
    assert index.digest == done.digest == index_of(layout)["digest"]
    for entry in index.content["manifests"]:
        manifest = repository.manifest(entry["digest"]).content
        for blob in (*manifest["layers"], manifest["config"]):
            assert len(repository.read(blob)) == blob["size"]
    assert repository.tags() == ("1",)
    assert done.kept == 0


def test_what_is_there_is_not_sent_again(registry: Registry, tmp_path: Path) -> None:
    base = os.urandom(100_000)
    first = small_layout(tmp_path / "first", layers={"base": base, "model": b"1"})
    second = small_layout(tmp_path / "second", layers={"base": base, "model": b"2"})
    push(first, registry.repository())
    assert push(first, registry.repository()).sent == 0
    update = push(second, registry.repository(), "2")
    assert update.sent < 2_000
    assert update.kept > 100_000


def test_the_tag_of_a_version_does_not_move(registry: Registry, tmp_path: Path) -> None:
    push(small_layout(tmp_path / "first"), registry.repository())
    before = registry.repository().manifest("1").digest
    with pytest.raises(RegistryFailed, match="1 names another image already"):
        push(small_layout(tmp_path / "second"), registry.repository())
    assert registry.repository().manifest("1").digest == before


def test_an_independent_client_reads_it_back(registry: Registry, tmp_path: Path) -> None:
    skopeo, crane = shutil.which("skopeo"), shutil.which("crane")
    if not (skopeo or crane):
        pytest.skip("needs skopeo or crane")
    layout = small_layout(tmp_path / "layout")
    digest = push(layout, registry.repository(), "1.2.0-ort1.31-cpu-int8").digest
    where = f"{registry.host}/team/net:1.2.0-ort1.31-cpu-int8"
    if crane:
        said = subprocess.run([crane, "digest", "--insecure", where], capture_output=True, text=True, check=True)
        assert said.stdout.strip() == digest
        subprocess.run([crane, "validate", "--insecure", "--remote", where], check=True, capture_output=True)
    if skopeo:
        back = tmp_path / "back"
        copy = [skopeo, "--insecure-policy", "copy", "--all", "--src-tls-verify=false"]
        subprocess.run([*copy, f"docker://{where}", f"oci:{back}:1"], check=True, capture_output=True)
        assert index_of(back)["digest"] == digest
        blobs = [sorted(path.name for path in (folder / "blobs/sha256").iterdir()) for folder in (layout, back)]
        assert blobs[0] == blobs[1]


def test_statements_are_listed_where_the_registry_keeps_no_list(registry: Registry, tmp_path: Path) -> None:
    repository = registry.repository()
    push(small_layout(tmp_path / "layout"), repository)
    image = repository.manifest("1")
    said = [Statement("application/vnd.tests.v1+json", {"said": n}, {"n": str(n)}) for n in (1, 2)]
    for one in (*said, said[0]):
        attach(repository, one, subject=image.descriptor)
    found = statements(repository, image.digest, said[0].kind)
    assert sorted(one.content["said"] for one in found) == [1, 2]
    assert statements(repository, image.digest, "application/vnd.other+json") == []
    assert repository.manifest("1").digest == image.digest


def test_what_a_layout_says_about_its_image_goes_with_it(registry: Registry, tmp_path: Path) -> None:
    layout = small_layout(tmp_path / "layout")
    blobs = layout / "blobs/sha256"
    empty, note = b"{}", b'{"note": 1}'

    def add(data: bytes, media_type: str) -> dict[str, object]:
        import hashlib

        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "artifactType": "application/spdx+json",
        "config": add(empty, "application/vnd.oci.empty.v1+json"),
        "layers": [add(note, "application/spdx+json")],
    }
    image, platform = index_of(layout), manifests_of(layout)["linux/arm64"]
    written = [add(json.dumps({**manifest, "subject": one}).encode(), manifest_type) for one in (image, platform)]
    listing = {"schemaVersion": 2, "mediaType": INDEX, "manifests": written[1:]}
    tagged = {"org.opencontainers.image.ref.name": platform["digest"].replace(":", "-")}
    entry = json.loads((layout / "index.json").read_text())
    entry["manifests"] += [written[0], {**add(json.dumps(listing).encode(), INDEX), "annotations": tagged}]
    (layout / "index.json").write_text(json.dumps(entry))
    digest = push(layout, registry.repository()).digest
    for subject in (digest, platform["digest"]):
        found = statements(registry.repository(), subject, "application/spdx+json")
        assert [one.content for one in found] == [{"note": 1}]


def test_no_such_repository_and_no_such_image(registry: Registry) -> None:
    with pytest.raises(RegistryFailed, match="no such repository"):
        registry.repository("nobody/pushed").tags()
    with pytest.raises(RegistryFailed, match="no such image"):
        registry.repository("nobody/pushed").manifest("1")


def test_a_damaged_layer_is_never_sent(registry: Registry, tmp_path: Path) -> None:
    layout = small_layout(tmp_path / "layout")
    index = json.loads((layout / "blobs/sha256" / index_of(layout)["digest"][7:]).read_text())
    manifest = json.loads((layout / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text())
    blob = layout / "blobs/sha256" / manifest["layers"][1]["digest"][7:]
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ImageFailed, match="a blob is not what its digest says"):
        push(layout, registry.repository())
    assert registry.repository().find("1") is None


def test_what_the_registry_damaged_is_not_believed(registry: Registry, tmp_path: Path) -> None:
    repository = registry.repository()
    digest = push(small_layout(tmp_path / "layout"), repository).digest
    manifest = repository.manifest(repository.manifest("1").content["manifests"][0]["digest"]).content
    blobs = registry.folder / "data/docker/registry/v2/blobs/sha256"
    model = manifest["layers"][1]
    for found in (digest, model["digest"]):
        kept = blobs / found[7:9] / found[7:] / "data"
        kept.write_bytes(kept.read_bytes().replace(b"a", b"b") if found == digest else b"x" * model["size"])
    with pytest.raises(RegistryFailed, match="not what its digest says"):
        repository.read(model)
    with pytest.raises(RegistryFailed):
        repository.manifest(digest)
