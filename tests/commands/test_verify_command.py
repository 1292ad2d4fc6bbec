"""`mlopt verify` of a layout alone, as any tool may have written it; what is no layout is one clear error."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlopt.commands.verify import command
from mlopt.errors import ModelNotFound, NotVerified
from mlopt.image.layout import CONFIG, INDEX, LAYER, MANIFEST, Writer


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A small image for one platform, written as the product writes it."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        entry = tarfile.TarInfo("hello")
        entry.size = 5
        tar.addfile(entry, io.BytesIO(b"hello"))
    blob = gzip.compress(raw.getvalue(), mtime=0)
    (tmp_path / "blob").write_bytes(blob)
    writer = Writer(tmp_path / "layout")
    layer = writer.add_file(
        tmp_path / "blob", digest=hashlib.sha256(blob).hexdigest(), size=len(blob), media_type=LAYER
    )
    diff_id = "sha256:" + hashlib.sha256(raw.getvalue()).hexdigest()
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": writer.add_json(config, media_type=CONFIG),
        "layers": [layer],
    }
    descriptor = {
        **writer.add_json(manifest, media_type=MANIFEST),
        "platform": {"os": "linux", "architecture": "amd64"},
    }
    writer.close({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}, tag="1")
    return writer.folder


def test_whole(layout: Path) -> None:
    done = CliRunner().invoke(command, [str(layout)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "whole, for linux/amd64" in done.output
    assert "--  sbom             none" in done.output


def test_one_changed_byte_is_found(layout: Path) -> None:
    blobs = list((layout / "blobs" / "sha256").iterdir())
    for blob in blobs:
        whole = blob.read_bytes()
        blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(NotVerified):
            CliRunner().invoke(command, [str(layout)], catch_exceptions=False)
        blob.write_bytes(whole)


def test_no_layout(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="not a bundle"):
        CliRunner().invoke(command, [str(tmp_path)], catch_exceptions=False)
    (tmp_path / "bundle.json").write_text(json.dumps({"image": None}))
    with pytest.raises(NotVerified, match=r"bundle\.json cannot be read"):
        CliRunner().invoke(command, [str(tmp_path)], catch_exceptions=False)
