"""Licences: what a file states in a form for machines, in SPDX's names; nothing where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from walks import borrow_inputs

from mlopt.errors import ImageFailed
from mlopt.image.fetch import Inputs
from mlopt.image.inputs import docker_folder, read_lock
from mlopt.supply import licences
from mlopt.supply.packages import Component, debs, wheels

HEAD = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"


def debian(*licence_lines: str) -> str:
    return licences.of_debian(
        HEAD + "\n".join(f"Files: f{n}\nLicense: {line}\n" for n, line in enumerate(licence_lines))
    )


@pytest.mark.parametrize(
    ("stated", "expression"),
    [
        (["Expat"], "MIT"),
        (["GPL-2+", "LGPL-2.1"], "GPL-2.0-or-later AND LGPL-2.1-only"),
        (["Artistic or GPL-1+", "Expat"], "(Artistic-1.0-Perl OR GPL-1.0-or-later) AND MIT"),
        (["public-domain"], "LicenseRef-debian-public-domain"),
        (["GPL-3+ with GCC exception"], "LicenseRef-debian-GPL-3-with-GCC-exception"),
        (["GPL-2+, and BSD-3-clause"], "LicenseRef-debian-GPL-2-and-BSD-3-clause"),
    ],
)
def test_debian_names_in_spdx_words(stated: list[str], expression: str) -> None:
    assert debian(*stated) == expression


def test_free_text_asserts_nothing() -> None:
    assert licences.of_debian("This package was put together by somebody.\n\nLicense: MIT\n") == licences.NOASSERTION
    assert licences.of_debian("") == licences.NOASSERTION


def test_metadata_of_wheels() -> None:
    assert licences.of_wheel("License-Expression: MIT AND Zlib\nLicense: x\n") == "MIT AND Zlib"
    one, other = (
        f"Classifier: License :: OSI Approved :: {name}\n" for name in ("MIT License", "Apache Software License")
    )
    both = one + other
    assert licences.of_wheel(both) == licences.NOASSERTION  # either, or both? It does not say
    assert licences.of_wheel("License: BSD-3-Clause\n") == "BSD-3-Clause"
    assert licences.of_wheel("License: see the file\n") == licences.NOASSERTION


def test_every_locked_package_has_its_name_digest_and_source(image_inputs: Inputs) -> None:
    from packageurl import PackageURL

    base, runtime = (read_lock(docker_folder() / f"{name}.lock.json") for name in ("base", "runtime"))
    found: list[Component] = []
    for platform in base.packages:
        found += debs(base.of(platform), suite="bookworm", platform=platform, inputs=image_inputs)
        found += wheels(runtime.of(platform), python="3.11", inputs=image_inputs)
    for component in found:
        assert PackageURL.from_string(component.purl).to_string() == component.purl
        assert PackageURL.from_string(component.purl).version == component.version
    by_name = {component.name: component for component in found}
    assert by_name["libssl3"].source == "openssl"
    assert by_name["libssl3"].licence == "(Artistic-1.0-Perl OR GPL-1.0-or-later) AND Apache-2.0"
    assert by_name["libgcc-s1"].licence == by_name["gcc-12-base"].licence  # its documents are a link to those
    assert by_name["onnxruntime"].licence == "MIT"


def test_what_was_read_once_needs_no_file_again(image_inputs: Inputs, tmp_path: Path) -> None:
    package = read_lock(docker_folder() / "base.lock.json").of("linux/amd64")[0]

    def read(root: Path) -> tuple[Component, ...]:
        offline = Inputs(root=root, debian_mirrors=(f"file://{tmp_path}/nowhere",))
        return debs([package], suite="bookworm", platform="linux/amd64", inputs=offline)

    with pytest.raises(ImageFailed, match=f"{package.name} .* could not be fetched"):
        read(tmp_path / "empty")
    borrow_inputs(image_inputs, tmp_path / "store")
    once = read(tmp_path / "store")
    (tmp_path / "store" / "inputs").unlink()
    assert read(tmp_path / "store") == once
