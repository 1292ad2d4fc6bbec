"""Aliases: tags that move, forward past a gate and back again. What an alias named before is kept in the registry.

The history of `stable` is an OCI index under the tag `stable.history`: the images that it named, the newest first. The
alias itself is the truth: what stands above its image there was never reached. So a kill between the two writes
of a promotion, or of a rollback, leaves nothing to mend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mlopt.errors import RegistryFailed
from mlopt.image.layout import INDEX, Descriptor, canonical
from mlopt.image.reference import Reference
from mlopt.image.repository import Manifest, Repository
from mlopt.image.statements import statements
from mlopt.variants import gates
from mlopt.variants.naming import check_alias, history_tag

_KIND: Final = "application/vnd.mlopt.history.v1+json"
_KEPT: Final = 100


@dataclass(frozen=True, slots=True)
class Moved:
    """An alias that names `digest` now, pushed as `tag`; `before` is empty where it named nothing. `note` says what a
    person should know of it."""

    alias: str
    digest: str
    tag: str
    before: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Named:
    """An image in the history of an alias; `tag` is the one that it was promoted by."""

    digest: str
    tag: str


def promote(repository: Repository, reference: Reference, alias: str) -> Moved:
    """Let an alias name an image whose gate passed.

    Raises `NotPromoted`, `RegistryFailed`, `Misused`; then the alias is where it was.
    """
    check_alias(alias)
    image = repository.manifest(reference.wanted)
    annotations = image.content.get("annotations") or {}
    where = str(repository.reference.at(reference.wanted))
    said = [gates.read_gate(one.content, where=where) for one in statements(repository, image.digest, gates.KIND)]
    passed = gates.check_passed(said, annotations, where=where)
    current = repository.find(alias)
    if current and current.digest == image.digest:
        return Moved(alias, image.digest, reference.tag, current.digest, "it named this image already")
    entries = _entries(repository, alias, current)
    newest = {**image.descriptor, "annotations": {"io.mlopt.tag": reference.tag}}
    _write(repository, alias, [newest, *entries][:_KEPT])
    repository.put(image.data, media_type=image.media_type, wanted=alias)
    before = current.digest if current else ""
    return Moved(alias, image.digest, reference.tag, before, _about_baseline(passed, current))


def rollback(repository: Repository, alias: str) -> Moved:
    """Let an alias name again what it named before.

    Raises `RegistryFailed` when it named nothing before, or that image is gone; then the alias is where it was.
    """
    check_alias(alias)
    current = repository.manifest(alias)
    entries = _entries(repository, alias, current)
    if len(entries) < 2:
        raise RegistryFailed(
            f"{alias} named nothing before, so there is nothing to go back to.",
            where=str(repository.reference.at(alias)),
            next=f"name the image yourself: mlopt image promote {repository.reference.repository}:TAG {alias}",
        )
    image = repository.manifest(entries[1]["digest"])
    repository.put(image.data, media_type=image.media_type, wanted=alias)
    _write(repository, alias, entries[1:])
    return Moved(alias, image.digest, _tag(entries[1]), current.digest)


def history(repository: Repository, alias: str) -> tuple[Named, ...]:
    """What an alias names, and what it named before that."""
    entries = _entries(repository, alias, repository.manifest(alias))
    return tuple(Named(entry["digest"], _tag(entry)) for entry in entries)


def _entries(repository: Repository, alias: str, current: Manifest | None) -> list[Descriptor]:
    """The history as it holds: from what the alias names on, which another tool may have moved."""
    if current is None:
        return []
    kept = repository.find(history_tag(alias))
    entries: list[Descriptor] = kept.content.get("manifests") or [] if kept else []
    for number, entry in enumerate(entries):
        if entry["digest"] == current.digest:
            return entries[number:]
    return [current.descriptor, *entries]


def _write(repository: Repository, alias: str, entries: list[Descriptor]) -> None:
    content: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "artifactType": _KIND,
        "manifests": entries,
        "annotations": {"io.mlopt.alias": alias},
    }
    repository.put(canonical(content), media_type=INDEX, wanted=history_tag(alias))


def _tag(entry: Descriptor) -> str:
    return str((entry.get("annotations") or {}).get("io.mlopt.tag", ""))


def _about_baseline(passed: gates.Gate, current: Manifest | None) -> str:
    """A gate says that it is not worse than its baseline; is that what the alias named?"""
    if current is None:
        return ""
    named = (current.content.get("annotations") or {}).get("io.mlopt.model-digest", "")
    if named == passed.baseline:
        return "the gate compared it with what the alias named before"
    return f"the gate compared it with sha256:{passed.baseline[:12]}…, which is not what the alias named before"
