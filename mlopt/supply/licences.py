"""Licences as SPDX expressions, where a package states them in a form that a machine can read; else nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from mlopt.image.apt import paragraphs

NOASSERTION: Final = "NOASSERTION"

# The short names of Debian's copyright files that SPDX writes otherwise, with those that both write alike.
_DEBIAN: Final[Mapping[str, str]] = {
    "apache-2.0": "Apache-2.0",
    "artistic": "Artistic-1.0-Perl",
    "artistic-2.0": "Artistic-2.0",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd-4-clause": "BSD-4-Clause",
    "cc0-1.0": "CC0-1.0",
    "expat": "MIT",
    "isc": "ISC",
    "mit": "MIT",
    "mpl-1.1": "MPL-1.1",
    "mpl-2.0": "MPL-2.0",
    "openssl": "OpenSSL",
    "python-2.0": "Python-2.0",
    "x11": "X11",
    "zlib": "Zlib",
}
_GNU: Final = re.compile(r"(A?GPL|LGPL|GFDL)-(\d(?:\.\d)?)(\+?)", re.IGNORECASE)
_JOINT: Final = re.compile(r"\s+(or|and)\s+", re.IGNORECASE)

# What distributions on PyPI say where they do not yet say License-Expression. "BSD License" names no one licence.
_CLASSIFIERS: Final[Mapping[str, str]] = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "License :: OSI Approved :: The Unlicense (Unlicense)": "Unlicense",
}
_SHORT: Final = {*_DEBIAN.values(), "HPND", "MIT-CMU", "PSF-2.0"}


def of_debian(copyright_file: str) -> str:
    """The licences of all files of a package, by its machine-readable copyright file (DEP 5).

    A name that SPDX does not know becomes a `LicenseRef-`. Of a file in free text nothing is asserted.

    >>> of_debian("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\\n\\n"
    ...           "Files: *\\nLicense: Artistic or GPL-1+\\n\\nFiles: x\\nLicense: Expat\\n")
    '(Artistic-1.0-Perl OR GPL-1.0-or-later) AND MIT'
    """
    head, *stanzas = list(paragraphs(copyright_file)) or [{}]
    if "copyright-format" not in head.get("format", ""):
        return NOASSERTION
    found = {_expression(line) for line in _stated(stanzas)}
    if not found:
        return NOASSERTION
    if len(found) == 1:
        return found.pop()
    return " AND ".join(sorted(f"({one})" if " " in one else one for one in found))


def of_wheel(metadata: str) -> str:
    """The licence that a distribution's METADATA states: License-Expression, else a classifier or name that means one.

    >>> of_wheel("Name: x\\nClassifier: License :: OSI Approved :: MIT License\\n")
    'MIT'
    >>> of_wheel("Name: x\\nClassifier: License :: OSI Approved :: BSD License\\n")
    'NOASSERTION'
    """
    from email.parser import HeaderParser

    fields = HeaderParser().parsestr(metadata)
    if expression := fields.get("License-Expression"):
        return str(expression).strip()
    named = {_CLASSIFIERS[line] for line in map(str, fields.get_all("Classifier", [])) if line in _CLASSIFIERS}
    if len(named) == 1:
        return named.pop()
    stated = str(fields.get("License", "")).strip()
    return stated if stated in _SHORT else NOASSERTION


def references(expression: str) -> list[str]:
    """The names in an expression that stand for no licence on SPDX's list."""
    return sorted(set(re.findall(r"LicenseRef-[A-Za-z0-9.-]+", expression)))


def _stated(stanzas: list[dict[str, str]]) -> Iterator[str]:
    for stanza in stanzas:
        lines = stanza.get("license", "").strip().splitlines()
        if "files" in stanza and lines:
            yield lines[0]


def _expression(line: str) -> str:
    """One License line: names with `or` and `and`. What has commas or exceptions too is one name, taken whole."""
    if "," in line or " with " in line.lower():
        return _spdx(line)
    words = _JOINT.split(line.strip())
    joints = {word.upper() for word in words[1::2]}
    if len(joints) > 1:
        return _spdx(line)
    return f" {joints.pop()} ".join(map(_spdx, words[::2])) if joints else _spdx(words[0])


def _spdx(name: str) -> str:
    name = name.strip()
    if known := _DEBIAN.get(name.lower()):
        return known
    if gnu := _GNU.fullmatch(name):
        version = gnu[2] if "." in gnu[2] else f"{gnu[2]}.0"
        return f"{gnu[1].upper()}-{version}-{'or-later' if gnu[3] else 'only'}"
    return "LicenseRef-debian-" + (re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-") or "unnamed")
