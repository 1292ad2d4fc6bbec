"""Small OCI layouts, written as the product writes them, and what a bundle around one would say."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

from mlopt.gate.result import KIND, SCHEMA
from mlopt.image.layout import CONFIG, INDEX, LAYER, MANIFEST, Writer
from mlopt.variants.evidence import Evidence

MODEL = "a" * 64
SAID = {
    "org.opencontainers.image.title": "net",
    "org.opencontainers.image.version": "1",
    "io.mlopt.target": "host",
    "io.mlopt.precision": "int8",
    "io.mlopt.recipe": "int8-static",
    "io.mlopt.runtime": "onnxruntime",
    "io.mlopt.runtime-version": "1.31.1",
    "io.mlopt.model-digest": MODEL,
}

SEEN = Evidence(
    target="rpi5",
    status="measured",
    recipe="int8-static",
    source="s" * 64,
    started="2026-11-26T12:00:00+00:00",
    file_size=1_000_000,
    device="a board",
    p50=0.018,
    p50_high=0.019,
    peak_memory=60_000_000,
    top1=0.75,
    top1_low=0.72,
    drop_high=0.01,
    samples=1000,
)


def small_layout(
    folder: Path,
    *,
    layers: Mapping[str, bytes] | None = None,
    annotations: Mapping[str, str] | None = None,
    platforms: tuple[str, ...] = ("amd64", "arm64"),
) -> Path:
    """One file in each layer, `layers` by name; new content every time where they are not given."""
    layers = layers or {"base": b"base", "model": os.urandom(100)}
    said = {**SAID, **(annotations or {})}
    writer = Writer(folder)
    manifests = []
    for platform in platforms:
        descriptors, diff_ids = [], []
        for name, content in layers.items():
            raw = _tar(name, content)
            blob = gzip.compress(raw, 1, mtime=0)
            path = folder.parent / f"{folder.name}-{name}"
            path.write_bytes(blob)
            digest = hashlib.sha256(blob).hexdigest()
            descriptor = writer.add_file(path, digest=digest, size=len(blob), media_type=LAYER)
            descriptors.append({**descriptor, "annotations": {"io.mlopt.layer": name}})
            diff_ids.append("sha256:" + hashlib.sha256(raw).hexdigest())
        history = [{"created_by": f"mlopt: wheels: numpy 2.4.6, {name}-thing 1.0"} for name in layers]
        rootfs = {"type": "layers", "diff_ids": diff_ids}
        config = {"architecture": platform, "os": "linux", "rootfs": rootfs, "history": history}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": writer.add_json(config, media_type=CONFIG),
            "layers": descriptors,
            "annotations": said,
        }
        written = writer.add_json(manifest, media_type=MANIFEST)
        manifests.append({**written, "platform": {"os": "linux", "architecture": platform}})
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests, "annotations": said}
    writer.close(index, tag="1")
    return folder


def gate_file(path: Path, verdict: str = "pass", *, model: str = MODEL, runtime: str = "onnxruntime") -> Path:
    """The parts of a gate's result by which an image is promoted."""
    candidate = {"name": "net.onnx", "digest": model, "runtime": runtime}
    baseline = {"name": "old.onnx", "digest": "b" * 64, "runtime": runtime}
    content = {"kind": KIND, "schema": SCHEMA, "verdict": verdict, "profile": "ci-gate"}
    path.write_text(json.dumps({**content, "candidate": candidate, "baseline": baseline}))
    return path


def _tar(name: str, content: bytes) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return raw.getvalue()
