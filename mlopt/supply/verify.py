"""Whether a bundle, or an image's layout, is what it says it is, and whose: without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlopt.artifact import digest_of
from mlopt.bundle import SIGNATURE, Bundle, layout_in, listed
from mlopt.errors import ImageFailed, NotVerified
from mlopt.image import layout as oci
from mlopt.image.referrers import attached, subjects
from mlopt.supply import cyclonedx, dsse, spdx, statements
from mlopt.supply.attach import Kind, documents

MODEL_SIGNATURE: Final = "model.sig"
_UNASKED: Final = "not checked: give --key or --identity"
_AGAIN: Final = "get it anew from where it comes from, or compile again"


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that is as it should be; `held` is False where there was nothing to check, or nobody to ask for."""

    what: str
    found: str
    held: bool = True


def verify(path: Path, by: dsse.Vouching | None = None) -> Iterator[Checked]:
    """Everything that can be checked of a bundle or a layout, one after another.

    Raises `NotVerified` at the first thing that is wrong, naming the file; where it is told whose signatures
    there must be, what they did not sign is wrong.
    Raises `ModelNotFound` for what is neither a bundle nor a layout.
    """
    if (path / "oci-layout").is_file() and not (path / "bundle.json").exists():
        yield from _image(path, by)
        return
    if not (path / "bundle.json").is_file():
        Bundle.load(path)  # says what is there instead
    yield _bundle_signature(path, by)
    manifest = _manifest(path)
    yield _files(path, manifest)
    if (path / MODEL_SIGNATURE).is_file():
        yield _model_signature(path, by)
    if manifest["image"] is not None or (path / "image").is_dir():
        layout = layout_in(path)
        _same_image(manifest["image"], layout)
        yield from _image(layout, by, model=path / "model")


def _manifest(path: Path) -> Mapping[str, Any]:
    """bundle.json, as far as it is read here."""
    where = path / "bundle.json"
    try:
        manifest = json.loads(where.read_bytes())
        files = {name: {"sha256": one["sha256"], "bytes": one["bytes"]} for name, one in manifest["files"].items()}
        image = manifest["image"]
        if image is not None:
            platforms = [{"platform": one["platform"], "digest": one["digest"]} for one in image["platforms"]]
            image = {"digest": image["digest"], "platforms": platforms}
        return {"files": files, "image": image}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _wrong(f"bundle.json cannot be read ({error!r})", where) from error


def _bundle_signature(path: Path, by: dsse.Vouching | None) -> Checked:
    where = path / SIGNATURE
    if by is None:
        return Checked("signature", f"{SIGNATURE} {_UNASKED}" if where.is_file() else "none", held=False)
    statement = by.unseal(_read(where), where=where)
    if statement != statements.of_bundle(path):
        raise _wrong("bundle.json is not what was signed", path / "bundle.json")
    return Checked("signature", f"bundle.json, by {by.named}")


def _files(folder: Path, manifest: Mapping[str, Any]) -> Checked:
    """Every file that bundle.json names is there as it says, and no other."""
    named = {folder / name: (entry["sha256"], entry["bytes"]) for name, entry in manifest["files"].items()}
    if links := sorted(path for path in folder.rglob("*") if path.is_symlink()):
        raise _wrong("this is a link, and what it leads to can change", links[0])
    for path, (sha256, size) in sorted(named.items()):
        if not path.is_file():
            raise _wrong("a file of the bundle is missing", path)
        if path.stat().st_size != size or digest_of(path) != sha256:
            raise _wrong("a file is not what bundle.json says", path)
    if extra := sorted(set(listed(folder)) - named.keys()):
        raise _wrong("bundle.json does not name this file", extra[0])
    return Checked("files", f"{len(named)}, as bundle.json says")


def _model_signature(path: Path, by: dsse.Vouching | None) -> Checked:
    where = path / MODEL_SIGNATURE
    if by is None:
        return Checked("model", f"{MODEL_SIGNATURE} {_UNASKED}", held=False)
    if by.unseal(_read(where), where=where) != statements.of_model(path / "model"):
        raise _wrong("the model is not what was signed", path / "model")
    return Checked("model", f"{MODEL_SIGNATURE}, by {by.named}")


def _same_image(image: Mapping[str, Any] | None, layout: Path) -> None:
    if image is None:
        raise _wrong("bundle.json tells of no image, and there is one", layout)
    wanted = {"": image["digest"], **{one["platform"]: one["digest"] for one in image["platforms"]}}
    with _damage():
        parts = {name: descriptor["digest"] for name, descriptor in subjects(layout).items()}
    if parts != wanted:
        raise _wrong("the image is another than bundle.json says", layout / "index.json")


def _image(layout: Path, by: dsse.Vouching | None, *, model: Path | None = None) -> Iterator[Checked]:
    with _damage():
        platforms = oci.verify(layout)
        parts = {name: part["digest"].removeprefix("sha256:") for name, part in subjects(layout).items()}
    yield Checked("image", f"sha256:{parts['']}, whole, for {', '.join(platforms)}")
    with _damage():
        sboms = _sboms(layout, parts)
        yield Checked("sbom", sboms or "none", held=bool(sboms))
        made = _provenance(layout, parts[""], model)
        told = "of the image and of all that is listed in it" if made else "none"
        yield Checked("provenance", told, held=bool(made))
        yield _image_signature(layout, parts[""], made, by)


def _sboms(layout: Path, parts: Mapping[str, str]) -> str:
    """Which there are; each must say of itself that it is of what it is attached to."""
    names = {digest: name for name, digest in parts.items()}
    found: dict[str, list[str]] = {}
    of: tuple[tuple[Kind, Callable[[Mapping[str, Any]], str]], ...]
    of = (("spdx", spdx.subject_of), ("cyclonedx", cyclonedx.subject_of))
    for kind, subject_of in of:
        for one, document in documents(layout, kind):
            if f"sha256:{subject_of(document)}" != one.subject:
                raise _wrong("an SBOM is of another image than it is attached to", oci.blob_path(layout, one.blob))
            found.setdefault(kind, []).append(names[one.subject.removeprefix("sha256:")])
    return "; ".join(f"{kind} of {', '.join(sorted(platforms))}" for kind, platforms in found.items())


def _provenance(layout: Path, digest: str, model: Path | None) -> list[dict[str, Any]]:
    """The statements; each must be of this image, and what it lists must be what is there."""
    there = {one.blob["digest"].removeprefix("sha256:") for one in attached(layout)}
    made_by, listed_in = [], set[str]()
    for one, statement in documents(layout, "provenance"):
        where = oci.blob_path(layout, one.blob)
        if [subject["digest"] for subject in statement["subject"]] != [{"sha256": digest}]:
            raise _wrong("the provenance is of another image", where)
        for made in statement["predicate"]["runDetails"]["byproducts"]:
            sha256, name = made["digest"]["sha256"], made["name"]
            if "mediaType" in made:
                listed_in.add(sha256)
                if sha256 not in there:
                    raise _wrong(f"the provenance lists what is not there: {name}", where)
            elif model is not None and digest_of(model.parent / name) != sha256:
                raise _wrong("the provenance is of another model", model.parent / name)
        made_by.append(statement)
    for one, _ in (*documents(layout, "spdx"), *documents(layout, "cyclonedx")):
        if one.blob["digest"].removeprefix("sha256:") not in listed_in:
            raise _wrong("no provenance lists this SBOM", oci.blob_path(layout, one.blob))
    return made_by


def _image_signature(layout: Path, digest: str, made: list[dict[str, Any]], by: dsse.Vouching | None) -> Checked:
    found = [one for one in attached(layout) if one.media_type == dsse.MEDIA_TYPE]
    if by is None:
        return Checked("image signature", f"{len(found)} {_UNASKED}" if found else "none", held=False)
    signed = []
    for one in found:
        where = oci.blob_path(layout, one.blob)
        statement = by.unseal(oci.read_blob(layout, one.blob), where=where)
        if one.subject != f"sha256:{digest}" or statement["subject"][0]["digest"] != {"sha256": digest}:
            raise _wrong("the signature is of another image", where)
        signed.append(statement)
    if statements.IMAGE not in [statement["predicateType"] for statement in signed]:
        raise _wrong("the image is not signed", layout)
    if any(statement not in signed for statement in made):
        raise _wrong("the provenance is not signed", layout)
    return Checked("image signature", f"image{' and provenance' if made else ''}, by {by.named}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotVerified(
            "The bundle is not signed.", where=str(path), next="mlopt sign BUNDLE, or leave --key or --identity out"
        ) from error


@contextmanager
def _damage() -> Iterator[None]:
    """What reading a layout raises, as what it means here."""
    try:
        yield
    except ImageFailed as error:
        raise NotVerified(error.what, where=error.where, next=_AGAIN) from error
    except (LookupError, TypeError, ValueError, OSError) as error:
        raise NotVerified(f"A document of the image is not one: {error!r}", next=_AGAIN) from error


def _wrong(reason: str, where: Path) -> NotVerified:
    return NotVerified(f"Not verified: {reason}.", where=str(where), next=_AGAIN)
