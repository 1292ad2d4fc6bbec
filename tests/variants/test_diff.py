"""What changes between two images: layers by name, packages by version, figures with their ratio."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from layouts import SEEN, small_layout

from mlopt.variants.diff import diff, packages
from mlopt.variants.variant import Variant, open_variant


def opened(path: Path, **layers: bytes) -> Variant:
    return open_variant(str(small_layout(path, layers=layers)))


def test_the_same_image_has_no_difference(tmp_path: Path) -> None:
    one = opened(tmp_path / "one", base=b"b", model=b"m")
    assert diff(one, replace(one, where="elsewhere")) == ()


def test_layers_packages_and_figures(tmp_path: Path) -> None:
    one = replace(opened(tmp_path / "one", base=b"b", model=b"1" * 5000), evidence=SEEN)
    other = opened(tmp_path / "other", base=b"b", model=b"2", extra=b"e")
    other = replace(
        other,
        annotations={**other.annotations, "io.mlopt.precision": "fp32"},
        evidence=replace(SEEN, p50=0.036, top1=0.77, device="another board"),
    )
    found = {(change.kind, change.name): change for change in diff(one, other)}
    assert ("layer, linux/amd64", "base") not in found
    assert found["layer, linux/amd64", "model"].note.startswith("-")
    assert found["layer, linux/arm64", "extra"].before == ""
    assert (found["image", "io.mlopt.precision"].before, found["image", "io.mlopt.precision"].after) == ("int8", "fp32")
    assert (found["package", "extra-thing"].before, found["package", "extra-thing"].after) == ("", "1.0")
    assert ("package", "numpy") not in found
    assert found["figure", "p50"].note == "2.00×, by clocks of two runs"
    assert found["figure", "top-1"].note == "+2.0 pt"
    assert found["figure", "measured on"].after == "another board"
    assert ("figure", "model file") not in found


def test_packages_are_read_from_the_history(tmp_path: Path) -> None:
    one = opened(tmp_path / "one", base=b"b")
    assert packages(one.platforms[0]) == {"numpy": "2.4.6", "base-thing": "1.0"}


def test_a_platform_that_one_side_has_alone(tmp_path: Path) -> None:
    both = opened(tmp_path / "both", base=b"b")
    alone = replace(both, platforms=both.platforms[:1])
    assert [(one.kind, one.name, one.after) for one in diff(both, alone)] == [("platform", "linux/arm64", "")]
