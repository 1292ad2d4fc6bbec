"""The scheme of tags: `1.2.0-ort1.31-cpu-int8` is a version, and what the image is. Such a tag never moves.

Architectures are not in it: one tag names an index over all of them. What moves is an alias, by `promote` alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mlopt.errors import ImageFailed, Misused
from mlopt.image.reference import TAG, Reference

_SHORT: Final[Mapping[str, str]] = {"onnxruntime": "ort", "openvino": "ov"}
_DEVICE: Final = "cpu"  # every image that mlopt makes runs its model there
_OF_SCHEME: Final = re.compile(r"(?P<version>.+)-[a-z][a-z_]*[0-9.]+-[a-z0-9]+-[A-Za-z0-9_.]+")
_LISTS: Final = re.compile(r"sha256-[0-9a-f]{64}(\..+)?")  # what is attached to images, by registries and by signers
_HISTORY: Final = ".history"


def version_tag(reference: Reference, annotations: Mapping[str, str]) -> str:
    """The tag to push under: the reference's own is the version (the image's, without one), completed by what the image
    says of itself. A tag that is whole already must say the same.

    Raises `Misused` for an alias, or a tag that is of another image.
    """
    version = reference.tag or annotations.get("org.opencontainers.image.version", "1")
    whole = is_version(version)
    suffix = _suffix(annotations)
    if whole and not version.endswith(suffix):
        raise Misused(
            f"The tag {version} is of another image: this one ends on {suffix}.",
            next=f"give the version alone: {reference.repository}:1.2.0",
        )
    if not any(letter.isdigit() for letter in version):
        raise Misused(
            f"{version!r} is no version, and only promote moves the other tags.",
            next=f"push a version, {reference.repository}:1.2.0, then: mlopt image promote … {version}",
        )
    tag = version if whole else version + suffix
    if not TAG.fullmatch(tag):
        raise Misused(f"{tag!r} is no tag: at most 128 letters, digits and . _ -", next="give a shorter version")
    return tag


def is_version(tag: str) -> bool:
    """Whether it is a tag of the scheme.

    >>> is_version("1.2.0-rc.1-ort1.31-cpu-int8"), is_version("stable"), is_version("1.2")
    (True, False, False)
    """
    return bool(_OF_SCHEME.fullmatch(tag))


def is_for_people(tag: str) -> bool:
    """Whether it names an image, and not what is kept about images."""
    return not (_LISTS.fullmatch(tag) or tag.endswith(_HISTORY))


def check_alias(alias: str) -> None:
    """Raises `Misused` for what may not move."""
    if not TAG.fullmatch(alias) or not is_for_people(alias) or is_version(alias):
        why = "the tag of a version, which never moves" if is_version(alias) else "no tag that may be an alias"
        raise Misused(f"{alias!r} is {why}.", next="give a name like stable, canary or 1.2")


def history_tag(alias: str) -> str:
    return alias + _HISTORY


def _suffix(annotations: Mapping[str, str]) -> str:
    words = ("io.mlopt.runtime", "io.mlopt.runtime-version", "io.mlopt.precision")
    if missing := [word for word in words if not annotations.get(word)]:
        raise ImageFailed(
            f"The image does not say what it is: it has no annotation {missing[0]}.",
            next="assemble it anew: mlopt compile",
        )
    runtime, version, precision = (annotations[word] for word in words)
    minor = ".".join(version.split(".")[:2])
    server = "_native" if annotations.get("io.mlopt.server") == "native" else ""
    return f"-{_SHORT.get(runtime, runtime)}{server}{minor}-{_DEVICE}-{re.sub('[^A-Za-z0-9_.]', '_', precision)}"
