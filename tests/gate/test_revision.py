"""Baselines that git holds: real repositories, read without a checkout."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import onnx
import pytest
from nets import conv_net, save

from mlopt.errors import ModelNotFound, ModelUnreadable
from mlopt.gate.gate import gate
from mlopt.gate.result import GateResult
from mlopt.gate.revision import given
from mlopt.gate.walk import Asked
from mlopt.profile import Margins, Method, Profile
from mlopt.progress import Progress
from mlopt.request import Request
from mlopt.units import Fraction, Seconds

LOOSE = Margins(latency_p50=Fraction(0.9), peak_memory=Fraction(0.5), seconds=Seconds(20.0))
PROFILE = Profile("loose", "for tests", method=Method(warm_up=2, seconds=Seconds(0.5), rounds=3), gate=LOOSE)


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def tree(folder: Path, *entries: tuple[str, str, str]) -> str:
    """One with these modes, names and objects, whatever git thinks of them."""
    raw = b"".join(f"{mode} {name}\0".encode() + bytes.fromhex(digest) for mode, name, digest in entries)
    words = ["git", "hash-object", "-t", "tree", "--literally", "-w", "--stdin"]
    return subprocess.run(words, cwd=folder, input=raw, capture_output=True, check=True).stdout.decode().strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Tagged `v1`: a narrow net at models/net.onnx. Since then it is wider, and lies there uncommitted."""
    root = tmp_path / "repository"
    (root / "models").mkdir(parents=True)
    git(root, "init", "-q")
    save(conv_net(width=8), root / "models/net.onnx")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    git(root, "tag", "v1")
    save(conv_net(width=16), root / "models/net.onnx")
    return root


def run(candidate: Path, baseline: str) -> GateResult:
    return gate(Asked(Request(model=candidate), Path(baseline), PROFILE), Progress(quiet=True))


def test_the_candidate_s_own_path_at_a_revision(repository: Path) -> None:
    result = run(repository / "models/net.onnx", "git:v1")
    commit = git(repository, "rev-parse", "v1")
    assert result.baseline.name == f"models/net.onnx at v1 ({commit[:12]})"
    size = next(check for check in result.checks if check.metric == "file-size")
    assert size.baseline is not None
    assert size.candidate is not None
    assert size.baseline < size.candidate
    assert size.verdict == result.verdict == "fail"
    assert git(repository, "status", "--porcelain") == "M models/net.onnx", "nothing was checked out"


def test_another_path_with_weights_beside_it(repository: Path, tmp_path: Path) -> None:
    beside = repository / "beside.onnx"
    onnx.save(conv_net(), str(beside), save_as_external_data=True, location="beside.data", size_threshold=64)
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "second")
    beside.unlink()
    (repository / "beside.data").unlink()
    with given(Path("git:HEAD:beside.onnx"), repository / "models/net.onnx") as found:
        assert sorted(one.name for one in found.path.parent.iterdir()) == ["beside.data", "beside.onnx"]
        onnx.checker.check_model(str(found.path))
    assert not found.path.exists()


def test_a_bundle_and_a_stored_result_at_a_revision(repository: Path) -> None:
    """Of a bundle what its model needs: an image in it may be large."""
    bundle = repository / "out/net/host"
    (bundle / "model").mkdir(parents=True)
    (bundle / "image").mkdir()
    save(conv_net(), bundle / "model/model.onnx")
    (bundle / "image/blob").write_bytes(b"large")
    (bundle / "bundle.json").write_text(json.dumps({"schema": 1}))
    (repository / "release.json").write_text("{}")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "second")
    with given(Path("git:HEAD:out/net/host"), repository / "models/net.onnx") as found:
        files = sorted(one.relative_to(found.path).as_posix() for one in found.path.rglob("*") if one.is_file())
        assert files == ["bundle.json", "model/model.onnx"]
    with given(Path("git:HEAD:release.json"), repository / "models/net.onnx") as found:
        assert found.path.read_text() == "{}"


def test_what_git_does_not_hold_is_said(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = repository / "models/net.onnx"
    with pytest.raises(ModelNotFound, match="no revision 'v9'"):
        run(net, "git:v9")
    with pytest.raises(ModelNotFound, match="no revision '--all'"):
        run(net, "git:--all")
    with pytest.raises(ModelNotFound, match="no revision ''"):
        run(net, "git:")
    with pytest.raises(ModelNotFound, match=r"holds nothing at other.onnx") as raised:
        run(net, "git:v1:other.onnx")
    assert "git ls-tree" in raised.value.next
    outside = save(conv_net(), tmp_path / "outside.onnx")
    monkeypatch.chdir(repository)
    with pytest.raises(ModelNotFound, match="does not lie in the repository"):
        run(outside, "git:v1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound, match="no git repository"):
        run(outside, "git:v1")


def test_a_repository_that_git_does_not_trust_is_there_and_what_to_type_is_said(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's, as a container in CI sees what was checked out for it."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(ModelNotFound, match="git does not read the repository around") as raised:
        run(repository / "models/net.onnx", "git:v1")
    assert "dubious ownership" in raised.value.where
    assert raised.value.next.startswith("git config --global --add safe.directory ")


def test_a_shallow_clone_is_told_from_a_wrong_name(repository: Path, tmp_path: Path) -> None:
    git(repository, "commit", "-qam", "second")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", "--no-tags", f"file://{repository}", str(clone))
    with pytest.raises(ModelNotFound) as raised:
        run(clone / "models/net.onnx", "git:v1")
    assert "fetch-depth: 0" in raised.value.next


def test_pointers_of_lfs_and_links_are_no_models(repository: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 5\n"
    (repository / "large.onnx").write_text(pointer)
    (repository / "folder").mkdir()
    (repository / "folder/link.onnx").symlink_to("../models/net.onnx")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "second")
    with pytest.raises(ModelUnreadable, match="pointer of Git LFS"):
        run(repository / "models/net.onnx", "git:HEAD:large.onnx")
    with pytest.raises(ModelUnreadable, match="is a link"):
        run(repository / "models/net.onnx", "git:HEAD:folder")


def test_a_tree_made_by_a_stranger_writes_nothing_outside(repository: Path) -> None:
    """git keeps an entry named `..` that was pushed to it, and would not check it out."""
    net = git(repository, "rev-parse", "v1:models/net.onnx")
    inner = tree(repository, ("100644", "out.onnx", net))
    outer = tree(repository, ("40000", "folder", tree(repository, ("40000", "..", inner))))
    commit = git(repository, "commit-tree", "-m", "odd", outer)
    with (
        pytest.raises(ModelUnreadable, match=r"folder/\.\./out\.onnx is a link"),
        given(Path(f"git:{commit}:folder"), repository / "models/net.onnx"),
    ):
        pass


def test_a_file_of_that_name_is_itself(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    Path("git:v1").write_bytes(b"not git's")
    with given(Path("git:v1"), repository / "models/net.onnx") as found:
        assert found.path == Path("git:v1")
        assert dataclasses.astuple(found)[1] == "git:v1"
