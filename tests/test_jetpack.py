"""The table of JetPack releases: whole, and at one with the boards that name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlopt import paths
from mlopt.errors import ConfigInvalid
from mlopt.jetpack import release_of, releases, sources
from mlopt.target import Target, find_target
from mlopt.tensorrt import number

BOARDS = sorted(path.stem for path in paths.folder("targets").glob("jetson-*.toml"))


def board(name: str) -> Target:
    return find_target(str(paths.folder("targets") / f"{name}.toml"))


def test_releases_are_there_from_4_6_1_on_in_rising_order() -> None:
    names = list(releases())
    assert names == sorted(names, key=number)
    assert {"4.6.1", "5.1", "6.0", "6.2", "7.0", "7.2", "7.2.2"} <= set(names)
    assert sources()


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_names_releases_that_run_on_its_gpu(name: str) -> None:
    target = board(name)
    assert target.gpu
    assert target.jetpacks
    for jetpack in target.jetpacks:
        assert target.gpu.compute_capability in releases()[jetpack].compute_capabilities, jetpack


def test_every_release_runs_on_a_board() -> None:
    assert {jetpack for name in BOARDS for jetpack in board(name).jetpacks} == set(releases())


@pytest.mark.parametrize("name", BOARDS)
def test_the_first_release_is_the_stack_to_build_for(name: str) -> None:
    target = board(name)
    first = releases()[target.jetpacks[0]]
    assert [stack.jetpack for stack in target.stacks] == list(target.jetpacks)
    assert (target.stacks[0].tensorrt, target.stacks[0].l4t) == (first.tensorrt, first.l4t)
    assert (target.stacks[0].python, target.stacks[0].cuda) == (first.python, first.cuda)


def test_super_mode_and_tensorrt_11_are_kept_to_where_they_exist() -> None:
    assert all(number(name) >= (6, 2) for name in board("jetson-orin-nano-8gb-super").jetpacks)
    with_11 = {name for name in BOARDS for stack in board(name).stacks if number(stack.tensorrt or "") >= (11,)}
    assert with_11 == {"jetson-agx-orin-32gb", "jetson-agx-orin-64gb", "jetson-thor"}


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [
        *(("36.4.3", "6.2"), ("36.4.0", "6.1"), ("36.5.0", "6.2.2"), ("36.3.0", "6.0"), ("35.4.1", "5.1")),
        *(("35.6.1", "5.1"), ("32.7.4", "4.6.1"), ("39.2.0", "7.2"), ("39.2.1", "7.2.1"), ("38.4", "7.1")),
        ("32.6.1", None),  # JetPack 4.6, which has another TensorRT
        *(("36.4.9", None), ("34.1", None), ("365.3", None), ("", None)),
    ],
)
def test_a_boards_release_is_known_by_its_jetson_linux(l4t: str, jetpack: str | None) -> None:
    found = release_of(l4t)
    assert (found.jetpack if found else None) == jetpack


def test_a_release_that_is_not_known_is_refused_with_those_that_are(tmp_path: Path) -> None:
    text = (paths.folder("targets") / "jetson-nano.toml").read_text().replace('["4.6.1"]', '["4.7"]')
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigInvalid, match=r"JetPack 4\.7 is not known") as caught:
        find_target(str(tmp_path / "mine.toml"))
    assert "mine.toml: jetpacks" in caught.value.where
    assert "4.6.1, 5.1" in caught.value.next


def test_a_board_of_ones_own_may_still_write_out_its_stack(tmp_path: Path) -> None:
    text = (paths.folder("targets") / "jetson-nano.toml").read_text()
    (tmp_path / "mine.toml").write_text(text + '\n[[stack]]\njetpack = "4.5"\ntensorrt = "7.1.3"\n')
    assert [stack.jetpack for stack in find_target(str(tmp_path / "mine.toml")).stacks] == ["4.6.1", "4.5"]
