"""Bases as users have them: our own base layer with a file of theirs above, as a layout of one or of two platforms."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlopt.image.assemble import kitchen_of
from mlopt.image.fetch import Inputs
from mlopt.image.layers import base_layer
from mlopt.image.layout import CONFIG, INDEX, LAYER, MANIFEST, REF_NAME, Writer, encode_entries

PATH = "usr/share/company/notice"
CONFIGURED = {
    "Env": ["PATH=/usr/local/bin:/usr/bin", "SSL_CERT_DIR=/etc/company", "PYTHONUTF8=0"],
    "Labels": {"company.team": "ml", "io.mlopt.target": "theirs"},
    "Entrypoint": ["/bin/theirs"],
    "Cmd": ["theirs"],
    "User": "root",
}


def layer(files: Mapping[str, bytes], *, links: Mapping[str, str] | None = None) -> bytes:
    """A plain tar, as `docker build` makes them: folders of their own, hard links."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(f"./{name}")
            info.type, info.linkname = tarfile.LNKTYPE, f"./{target}"
            tar.addfile(info)
    return stream.getvalue()


def write_base(
    folder: Path,
    inputs: Inputs,
    *,
    platforms: Sequence[str] = ("linux/amd64", "linux/arm64"),
    tag: str = "1",
    index: bool = True,
    below: bool = True,
    changed: Callable[[dict[str, Any]], None] = lambda config: None,
) -> Path:
    """`below`: with libc and Python, else nothing but the company's file. `changed` gets each config."""
    writer, manifests = Writer(folder), []
    for platform in platforms:
        system, architecture = platform.split("/")
        layers, diff_ids = [], []
        if below:
            made = base_layer(kitchen_of(inputs), platform=platform)
            layers.append(writer.add_file(made.blob, digest=made.digest, size=made.size, media_type=LAYER))
            diff_ids.append(f"sha256:{made.diff_id}")
        first = layer({PATH: b"ours\n", "usr/share/company/old": b"x"}, links={"usr/share/company/same": PATH})
        second = layer({"usr/share/company/.wh.old": b""})
        for plain in (first, second):
            layers.append(writer.add_bytes(plain, media_type="application/vnd.oci.image.layer.v1.tar"))
            diff_ids.append(f"sha256:{hashlib.sha256(plain).hexdigest()}")
        config = {
            "os": system,
            "architecture": architecture,
            "config": CONFIGURED,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": "theirs"}] * len(layers),
        }
        changed(config)
        content = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": writer.add_json(config, media_type=CONFIG),
            "layers": layers,
        }
        entry = writer.add_json(content, media_type=MANIFEST)
        manifests.append({**entry, "platform": {"os": system, "architecture": architecture}})
    if index:
        writer.close({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}, tag=tag)
        return folder
    (entry,) = manifests
    del entry["platform"]
    entries = {"schemaVersion": 2, "manifests": [{**entry, "annotations": {REF_NAME: tag}}]}
    (folder / "index.json").write_bytes(encode_entries(entries))
    (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    return folder
