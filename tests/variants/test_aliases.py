"""Promote and rollback in a real registry: past a gate only, back the way it came, and nothing half-moved on a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
from layouts import MODEL, gate_file, small_layout
from registries import Registry

from mlopt.errors import ConfigInvalid, Misused, NotPromoted, RegistryFailed
from mlopt.gate.result import KIND, SCHEMA
from mlopt.image.layout import MANIFEST
from mlopt.image.push import push_layout
from mlopt.image.repository import Repository
from mlopt.image.statements import Statement, attach
from mlopt.variants import gates
from mlopt.variants.aliases import Moved, Named, history, promote, rollback
from mlopt.variants.pushing import what_to_push
from mlopt.variants.variant import open_variant

pytestmark = pytest.mark.registry


@pytest.fixture
def repository(registry: Registry) -> Repository:
    return registry.repository()


def push(repository: Repository, tmp_path: Path, version: str, verdict: str | None = "pass") -> tuple[str, str]:
    """Tag and digest of a new image, with a gate's verdict."""
    layout = tmp_path / f"layout-{version}"
    if not layout.exists():
        small_layout(layout)
    gate = gate_file(tmp_path / "gate.json", verdict) if verdict else None
    found = what_to_push(layout, repository.reference.at(version), gate=gate)
    done = push_layout(found.layout, repository, tag=found.tag, said=found.said)
    return done.tag, done.digest


def move(repository: Repository, tag: str, alias: str = "stable") -> Moved:
    return promote(repository, repository.reference.at(tag), alias)


def names(repository: Repository, alias: str = "stable") -> str:
    return repository.manifest(alias).digest


def test_forward_and_back(repository: Repository, tmp_path: Path) -> None:
    pushed = [push(repository, tmp_path, version) for version in ("1.0.0", "1.1.0", "1.2.0")]
    digests = [digest for _, digest in pushed]
    moved = [move(repository, tag) for tag, _ in pushed]
    assert [one.before for one in moved] == ["", *digests[:2]]
    assert names(repository) == digests[2]
    assert history(repository, "stable") == tuple(Named(digest, tag) for tag, digest in reversed(pushed))
    shown = open_variant(str(repository.reference.at("stable")))
    assert [one.tag for one in shown.before] == [pushed[1][0], pushed[0][0]]
    assert rollback(repository, "stable") == Moved("stable", digests[1], pushed[1][0], digests[2])
    assert names(repository) == digests[1]
    rollback(repository, "stable")
    assert names(repository) == digests[0]
    with pytest.raises(RegistryFailed, match="stable named nothing before"):
        rollback(repository, "stable")
    assert names(repository) == digests[0]
    move(repository, pushed[2][0])
    rollback(repository, "stable")
    assert names(repository) == digests[0]


def test_there_and_back_and_there_again(repository: Repository, tmp_path: Path) -> None:
    (one, first), (two, second) = (push(repository, tmp_path, version) for version in ("1.0.0", "2.0.0"))
    for tag in (one, two, one):
        move(repository, tag)
    assert move(repository, one).note == "it named this image already"
    assert [rollback(repository, "stable").digest for _ in range(2)] == [second, first]


def test_only_past_a_gate(repository: Repository, tmp_path: Path) -> None:
    good, digest = push(repository, tmp_path, "1.0.0")
    move(repository, good)
    for version, verdict, why in (
        ("1.1.0", None, "no gate has judged it"),
        ("1.2.0", "inconclusive", "the gate could not decide"),
        ("1.3.0", "fail", "found it worse than its baseline"),
    ):
        tag, _ = push(repository, tmp_path, version, verdict)
        with pytest.raises(NotPromoted, match=why):
            move(repository, tag)
        assert names(repository) == digest


def test_a_later_pass_helps_the_undecided_and_not_the_failed(repository: Repository, tmp_path: Path) -> None:
    tag, _ = push(repository, tmp_path, "1.0.0", "inconclusive")
    push(repository, tmp_path, "1.0.0", "pass")
    move(repository, tag)
    tag, _ = push(repository, tmp_path, "1.1.0", "fail")
    push(repository, tmp_path, "1.1.0", "pass")
    with pytest.raises(NotPromoted, match="found it worse"):
        move(repository, tag)


def test_a_gate_of_another_model_or_runtime(repository: Repository, tmp_path: Path) -> None:
    layout = small_layout(tmp_path / "layout")
    where = repository.reference.at("1.0.0")
    with pytest.raises(ConfigInvalid, match="it judged the model sha256:cccccccccccc"):
        what_to_push(layout, where, gate=gate_file(tmp_path / "other.json", model="c" * 64))
    with pytest.raises(ConfigInvalid, match="it ran the model in openvino, the image runs it in onnxruntime"):
        what_to_push(layout, where, gate=gate_file(tmp_path / "other.json", runtime="openvino"))
    tag, _ = push(repository, tmp_path, "1.0.0")
    image = repository.manifest(tag)
    forged = gates.Gate("pass", "c" * 64, "onnxruntime", "b" * 64, "ci-gate")
    content = {
        "kind": KIND,
        "schema": SCHEMA,
        "verdict": "pass",
        "profile": forged.profile,
        "candidate": {"digest": forged.candidate, "runtime": forged.runtime},
        "baseline": {"digest": forged.baseline},
    }
    attach(repository, Statement(gates.KIND, content, {}), subject=image.descriptor)
    with pytest.raises(NotPromoted, match="says nothing about this image"):
        move(repository, tag)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kind": "mlopt-gate", "schema": 99}', '{"kind": "other"}'])
def test_what_is_no_result_of_a_gate(tmp_path: Path, content: str) -> None:
    path = tmp_path / "gate.json"
    path.write_text(content)
    with pytest.raises(ConfigInvalid):
        gates.gate_statement(path, {"io.mlopt.model-digest": MODEL, "io.mlopt.runtime": "onnxruntime"})


def test_a_kill_between_the_two_writes_leaves_nothing_to_mend(repository: Repository, tmp_path: Path) -> None:
    (one, first), (two, second), (three, third) = (
        push(repository, tmp_path, version) for version in ("1.0.0", "2.0.0", "3.0.0")
    )
    move(repository, one)
    move(repository, two)
    alias = repository.manifest("stable")
    move(repository, three)
    repository.put(alias.data, media_type=alias.media_type, wanted="stable")  # as if it was killed before the alias
    assert history(repository, "stable") == (Named(second, two), Named(first, one))
    kept = repository.manifest("stable.history")
    rollback(repository, "stable")
    repository.put(kept.data, media_type=kept.media_type, wanted="stable.history")  # as if killed after the alias
    assert history(repository, "stable") == (Named(first, one),)
    move(repository, three)
    assert history(repository, "stable") == (Named(third, three), Named(first, one))


def test_an_alias_that_another_tool_moved_is_remembered_too(repository: Repository, tmp_path: Path) -> None:
    (one, first), (two, second), (three, _) = (
        push(repository, tmp_path, version) for version in ("1.0.0", "2.0.0", "3.0.0")
    )
    move(repository, one)
    image = repository.manifest(two)
    repository.put(image.data, media_type=image.media_type, wanted="stable")
    move(repository, three)
    assert [rollback(repository, "stable").digest for _ in range(2)] == [second, first]


def test_an_image_that_is_gone_stays_gone(repository: Repository, tmp_path: Path) -> None:
    (one, first), (two, second) = (push(repository, tmp_path, version) for version in ("1.0.0", "2.0.0"))
    move(repository, one)
    move(repository, two)
    repository.session.request("DELETE", f"manifests/{first}", expect=(202,))
    with pytest.raises(RegistryFailed, match="no such image"):
        rollback(repository, "stable")
    assert names(repository) == second


def test_the_tag_of_a_version_is_no_alias(repository: Repository, tmp_path: Path) -> None:
    tag, _ = push(repository, tmp_path, "1.0.0")
    for alias in (tag, "stable.history"):
        with pytest.raises(Misused):
            move(repository, tag, alias)
    with pytest.raises(RegistryFailed, match="no such image"):
        rollback(repository, "canary")


def test_an_image_that_is_not_ours_is_not_promoted(repository: Repository, tmp_path: Path) -> None:
    config = repository.add_bytes(b"{}", media_type="application/vnd.oci.image.config.v1+json")
    import json

    plain = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []}).encode()
    repository.put(plain, media_type=MANIFEST, wanted="theirs")
    with pytest.raises(NotPromoted, match="no gate has judged it"):
        move(repository, "theirs")
