"""Tags: completed by what the image is, never by what somebody hopes; aliases are other names."""

from __future__ import annotations

import pytest
from layouts import SAID

from mlopt.errors import ImageFailed, Misused
from mlopt.image.reference import Reference
from mlopt.variants.naming import check_alias, is_for_people, is_version, version_tag


def tag(text: str, **said: str) -> str:
    return version_tag(Reference.parse(f"registry.example/net{text}"), {**SAID, **said})


def test_a_version_is_completed() -> None:
    assert tag(":1.2.0") == "1.2.0-ort1.31-cpu-int8"
    assert tag(":1.2.0-rc.1") == "1.2.0-rc.1-ort1.31-cpu-int8"
    assert tag(":3f2c1ab") == "3f2c1ab-ort1.31-cpu-int8"
    assert tag("") == "1-ort1.31-cpu-int8"
    assert tag(":1.2.0-ort1.31-cpu-int8") == "1.2.0-ort1.31-cpu-int8"
    openvino = {"io.mlopt.runtime": "openvino", "io.mlopt.runtime-version": "2026.4.1"}
    assert tag(":1.2.0", **openvino) == "1.2.0-ov2026.4-cpu-int8"
    native = tag(":1.2.0", **{"io.mlopt.server": "native"})
    assert native == "1.2.0-ort_native1.31-cpu-int8"
    assert is_version(native)
    assert tag(":1.2.0", **{"io.mlopt.precision": "int8+bf16"}) == "1.2.0-ort1.31-cpu-int8_bf16"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (":1.2.0-ort1.31-cpu-fp32", "of another image: this one ends on -ort1.31-cpu-int8"),
        (":1.2.0-ov2026.4-cpu-int8", "of another image"),
        (":latest", "only promote moves"),
        (":1" + "2" * 120, "no tag"),
    ],
)
def test_what_would_be_untrue(text: str, why: str) -> None:
    with pytest.raises(Misused, match=why):
        tag(text)


def test_an_image_that_does_not_say_what_it_is() -> None:
    with pytest.raises(ImageFailed, match=r"no annotation io\.mlopt\.runtime\."):
        version_tag(Reference.parse("registry.example/net:1"), {})


def test_aliases() -> None:
    for alias in ("stable", "canary", "1.2", "2026-11"):
        check_alias(alias)
        assert is_for_people(alias)
        assert not is_version(alias)
    lists = "sha256-" + "0" * 64
    for other in ("1.2.0-ort1.31-cpu-int8", "stable.history", lists, f"{lists}.sig", "-x"):
        with pytest.raises(Misused):
            check_alias(other)
    assert not is_for_people("stable.history")
    assert not is_for_people("sha256-" + "0" * 64)
