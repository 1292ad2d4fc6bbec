"""Libraries asked to bind elsewhere: what changes, what does not, and what is refused. On this machine's own NumPy."""

from __future__ import annotations

import ctypes
from pathlib import Path
from struct import pack_into, unpack_from

import numpy as np
import pytest

from mlopt.errors import ImageFailed
from mlopt.image.elf import Rebinding, rebind, strip
from mlopt.image.libraries import library_tree, rebound, stripped
from mlopt.image.tree import Entry

RULE = Rebinding("libscipy_openblas64_*", "libblas64.so.3", "scipy_", "64_", ("?gesv_",))


@pytest.fixture(scope="module")
def library() -> bytes:
    """The part of NumPy that asks for LAPACK."""
    path = next((Path(np.__file__).parent / "linalg").glob("_umath_linalg*.so"))
    data = path.read_bytes()
    if b"libscipy_openblas64_-" not in data:
        pytest.skip("this NumPy was built with another BLAS")
    return data


def test_it_asks_for_another_library_by_its_names(library: bytes) -> None:
    found = rebind(library, [RULE])
    assert len(found) == len(library)
    assert b"libscipy_openblas64_-" not in found
    assert b"\0libblas64.so.3\0" in found
    assert b"\0scipy_dgetrf_64_\0" in library
    assert b"\0dgetrf_\0" in found
    assert b"\0dgesv_\0" not in found
    assert b"\0abort\0" in found
    assert sum(a != b for a, b in zip(library, found, strict=True)) < 2000


def test_the_same_rules_give_the_same_bytes_and_nothing_twice(library: bytes) -> None:
    once = rebind(library, [RULE])
    assert rebind(library, [RULE]) == once == rebind(once, [RULE])


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01 32 bit"])
def test_what_is_no_such_library_stays(data: bytes) -> None:
    assert rebind(data, [RULE]) == data


def test_a_library_that_asks_for_nothing_of_it_stays(library: bytes) -> None:
    assert rebind(library, [Rebinding("libother*", "libblas64.so.3", "scipy_", "64_")]) == library


def test_a_longer_name_is_refused(library: bytes) -> None:
    with pytest.raises(ValueError, match="is longer than"):
        rebind(library, [Rebinding(RULE.needed, "lib" + 40 * "x" + ".so")])


def test_versions_that_the_other_does_not_have_are_refused(library: bytes) -> None:
    with pytest.raises(ValueError, match="asks for versions"):
        rebind(library, [Rebinding("libm.so.6", "libm.so.6")])


def test_a_name_inside_another_is_refused(library: bytes) -> None:
    """Linkers share the ends of names: the end of one is then a name of its own, and would be written over."""
    with pytest.raises(ValueError, match="a name of its own"):
        rebind(_with_shared_end(library), [RULE])


def _with_shared_end(library: bytes) -> bytes:
    """The library with its symbol dgesv looked for by the end of dgetrf's name."""
    data = bytearray(library)
    offset, size, count = unpack_from("<Q", data, 40)[0], *unpack_from("<HH", data, 58)
    sections = [unpack_from("<IIQQQQII", data, offset + number * size) for number in range(count)]
    table = next(section for section in sections if section[1] == 11)
    strings = sections[table[6]][4]
    names = {}
    for at in range(table[4], table[4] + table[5], 24):
        start = strings + unpack_from("<I", data, at)[0]
        names[bytes(data[start : data.index(0, start)])] = at
    place = unpack_from("<I", data, names[b"scipy_dgetrf_64_"])[0]
    pack_into("<I", data, names[b"scipy_dgesv_64_"], place + 6)
    return bytes(data)


def test_a_rule_that_cannot_be_followed_is_said(library: bytes) -> None:
    entry = Entry("file", 0o644, library)
    with pytest.raises(ImageFailed, match=r"numpy/x\.so cannot be bound .* is longer than"):
        rebound("numpy/x.so", entry, [Rebinding(RULE.needed, 60 * "x")])
    assert rebound("numpy/x.py", entry, [RULE]) == entry


def test_a_stripped_library_is_loaded_and_no_loaded_byte_is_another(library: bytes, tmp_path: Path) -> None:
    path = next((Path(np.__file__).parents[1]).glob("numpy.libs/libscipy_openblas*.so"))
    data = path.read_bytes()
    found = strip(data)
    assert 0 < len(data) - len(found) < len(data) / 4
    changed = [place for place, (one, other) in enumerate(zip(found, data, strict=False)) if one != other]
    assert changed
    assert set(changed) <= {*range(40, 48), *range(58, 64)}, "the table of sections, in the header"
    assert strip(found) == found
    (tmp_path / "lib.so").write_bytes(found)
    product = ctypes.CDLL(str(tmp_path / "lib.so")).scipy_cblas_ddot64_
    product.restype = ctypes.c_double
    pair = (ctypes.c_double * 2)(3, 4)
    assert product(ctypes.c_int64(2), pair, ctypes.c_int64(1), pair, ctypes.c_int64(1)) == 25


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01 32 bit"])
def test_only_a_library_is_stripped_and_only_where_that_is_asked_for(data: bytes, library: bytes) -> None:
    entry = Entry("file", 0o644, library)
    assert stripped("numpy/x.so", entry, ["other/*.so"]) == entry
    assert len(stripped("numpy/x.so", entry, ["numpy/*.so"]).content) < len(library)  # type: ignore[arg-type]
    assert stripped("x.so", Entry("file", 0o644, data), ["*.so"]).content == data


def test_of_a_package_its_libraries_and_its_licence() -> None:
    deb = {
        "usr/lib/x86_64-linux-gnu/blas64": Entry("folder"),
        "usr/lib/x86_64-linux-gnu/blas64/libblas64.so.3": Entry("link", target="libblas64.so.3.11.0"),
        "usr/lib/x86_64-linux-gnu/blas64/libblas64.so.3.11.0": Entry("file", 0o644, b"x"),
        "usr/share/doc/libblas64-3/changelog.gz": Entry("file", 0o644, b"x"),
        "usr/share/doc/libblas64-3/copyright": Entry("file", 0o644, b"x"),
    }
    assert sorted(library_tree(deb, "numpy.libs")) == [
        "numpy.libs/libblas64.so.3",
        "numpy.libs/libblas64.so.3.11.0",
        "usr/share/doc/libblas64-3/copyright",
    ]
