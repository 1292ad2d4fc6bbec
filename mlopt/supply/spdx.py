"""SPDX 2.3 of one platform's image, as JSON: no clock and no random identifier, so the same image has the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from mlopt.supply.about import About, Contents
from mlopt.supply.licences import NOASSERTION, references
from mlopt.supply.packages import Component, oci_purl, pypi_purl

MEDIA_TYPE: Final = "application/spdx+json"
_IMAGE, _SERVER, _MODEL = "SPDXRef-Image", "SPDXRef-Server", "SPDXRef-Model"


def spdx(about: About, contents: Contents) -> dict[str, Any]:
    """The document. Every package of it is declared as its own files state it; mlopt concludes no licence."""
    components = contents.components
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{about.name}:{about.version} for {contents.platform}",
        "documentNamespace": f"https://spdx.org/spdxdocs/mlopt-{quote(about.name)}-{contents.digest}",
        "creationInfo": {"created": about.created, "creators": [f"Tool: mlopt-{about.mlopt}"]},
        "packages": [
            _image(about, contents),
            _model(about),
            _package(_SERVER, "mlopt", about.mlopt, "Apache-2.0", purl=pypi_purl("mlopt", about.mlopt)),
            *map(_component, components),
        ],
        "hasExtractedLicensingInfos": list(_extracted(components, packed=".xz" if about.server == "native" else "")),
        "relationships": list(_relationships(about, components)),
    }


def subject_of(document: Mapping[str, Any]) -> str:
    """The sha256 of the manifest that a document is about."""
    image = next(package for package in document["packages"] if package["SPDXID"] == _IMAGE)
    return str(image["checksums"][0]["checksumValue"])


def _image(about: About, contents: Contents) -> dict[str, Any]:
    purl = oci_purl(about.name, about.version, platform=contents.platform, digest=contents.digest)
    made = _package(_IMAGE, about.name, about.version, NOASSERTION, purl=purl, sha256=contents.digest)
    return {**made, "primaryPackagePurpose": "CONTAINER"}


def _model(about: About) -> dict[str, Any]:
    model = about.model
    lines = [f"{name}: sha256 {sha256}" for name, sha256 in sorted(model.files.items())]
    lines += [f"{figure.type}: {figure.value} ({figure.slice})" for figure in model.figures]
    made = _package(_MODEL, model.name, about.version, NOASSERTION, sha256=model.files["model.onnx"])
    return {
        **made,
        "packageFileName": "model/model.onnx",
        "primaryPackagePurpose": "OTHER",
        "summary": f"machine learning model, {model.precision}, for {model.runtime}, made by recipe {about.recipe}",
        "comment": "\n".join(lines),
    }


def _component(component: Component) -> dict[str, Any]:
    made = _package(
        _id(component),
        component.name,
        component.version,
        component.licence,
        purl=component.purl,
        sha256=component.sha256,
    )
    made |= {"packageFileName": component.filename.rsplit("/", 1)[-1], "primaryPackagePurpose": "LIBRARY"}
    if component.source:
        made["sourceInfo"] = f"built from {component.source} {component.source_version}"
        made["supplier"] = "Organization: Debian"
    return made


def _package(
    identifier: str, name: str, version: str, licence: str, *, purl: str = "", sha256: str = ""
) -> dict[str, Any]:
    package: dict[str, Any] = {
        "SPDXID": identifier,
        "name": name,
        "versionInfo": version,
        "downloadLocation": NOASSERTION,
        "filesAnalyzed": False,
        "licenseConcluded": NOASSERTION,
        "licenseDeclared": licence,
        "copyrightText": NOASSERTION,
    }
    if sha256:
        package["checksums"] = [{"algorithm": "SHA256", "checksumValue": sha256}]
    if purl:
        package["externalRefs"] = [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}
        ]
    return package


def _extracted(components: tuple[Component, ...], *, packed: str) -> Iterator[dict[str, str]]:
    named: dict[str, list[str]] = {}
    for component in components:
        for reference in references(component.licence):
            named.setdefault(reference, []).append(component.name)
    for reference, users in sorted(named.items()):
        place = ", ".join(f"/usr/share/doc/{name}/copyright{packed}" for name in users)
        name = reference.removeprefix("LicenseRef-debian-")
        yield {
            "licenseId": reference,
            "name": name,
            "extractedText": f"What Debian calls {name}. Its text is in the image: {place}",
        }


def _relationships(about: About, components: tuple[Component, ...]) -> Iterator[dict[str, str]]:
    yield _relation("SPDXRef-DOCUMENT", "DESCRIBES", _IMAGE)
    for identifier in (_MODEL, _SERVER, *map(_id, components)):
        yield _relation(_IMAGE, "CONTAINS", identifier)
    for component in components:
        if component.kind == "pypi" and component.name == about.model.distribution:
            yield _relation(_MODEL, "DEPENDS_ON", _id(component))


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _id(component: Component) -> str:
    return "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", f"{component.kind}-{component.name.replace('+', 'plus')}")
