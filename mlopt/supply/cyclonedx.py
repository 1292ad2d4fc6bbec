"""CycloneDX 1.6 of one platform's image, as JSON, with the model as a component and its card (an ML-BOM)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

from mlopt.supply.about import About, Contents
from mlopt.supply.figures import Figure
from mlopt.supply.licences import NOASSERTION
from mlopt.supply.packages import Component, oci_purl, pypi_purl

MEDIA_TYPE: Final = "application/vnd.cyclonedx+json"
_NAMESPACE: Final = uuid.UUID("6f2d1a4e-3a0e-5d53-9a0e-0f6f0c6e2f27")


def cyclonedx(about: About, contents: Contents) -> dict[str, Any]:
    """The document. Its serial number follows from the image's digest."""
    components = contents.components
    server = {
        "type": "application",
        "bom-ref": "server",
        "name": "mlopt",
        "version": about.mlopt,
        "purl": pypi_purl("mlopt", about.mlopt),
        "licenses": [{"expression": "Apache-2.0"}],
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, contents.digest)}",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [{"type": "application", "name": "mlopt", "version": about.mlopt}]},
            "component": _image(about, contents),
        },
        "components": [_model(about), server, *map(_component, components)],
        "dependencies": _dependencies(about, components),
    }


def subject_of(document: Mapping[str, Any]) -> str:
    """The sha256 of the manifest that a document is about."""
    return str(document["metadata"]["component"]["hashes"][0]["content"])


def _image(about: About, contents: Contents) -> dict[str, Any]:
    return {
        "type": "container",
        "bom-ref": "image",
        "name": about.name,
        "version": about.version,
        "purl": oci_purl(about.name, about.version, platform=contents.platform, digest=contents.digest),
        "hashes": _hashes(contents.digest),
    }


def _component(component: Component) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": component.purl,
        "name": component.name,
        "version": component.version,
        "purl": component.purl,
        "hashes": _hashes(component.sha256),
    }
    if component.licence != NOASSERTION:
        found["licenses"] = [{"expression": component.licence}]
    if component.source:
        found["properties"] = [_property("source", f"{component.source} {component.source_version}")]
    return found


def _model(about: About) -> dict[str, Any]:
    model = about.model
    facts = {
        "precision": model.precision,
        "recipe": about.recipe,
        "runtime": model.runtime,
        "target": about.target,
        "digest": f"mloptDir1:{model.digest}",
        **{f"file:{name}": f"sha256:{sha256}" for name, sha256 in sorted(model.files.items())},
        **{f"compiled-from:{name}": f"sha256:{sha256}" for name, sha256 in sorted(about.given.items())},
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": model.name,
        "version": about.version,
        "hashes": _hashes(model.files["model.onnx"]),
        "modelCard": {
            "modelParameters": {
                "inputs": [{"format": _tensor(tensor)} for tensor in model.inputs],
                "outputs": [{"format": _tensor(tensor)} for tensor in model.outputs],
            },
            "quantitativeAnalysis": {"performanceMetrics": [_metric(figure) for figure in model.figures]},
        },
        "properties": [_property(name, value) for name, value in facts.items()],
    }


def _metric(figure: Figure) -> dict[str, Any]:
    metric: dict[str, Any] = {"type": figure.type, "value": figure.value, "slice": figure.slice}
    if figure.interval:
        low, high = figure.interval
        metric["confidenceInterval"] = {"lowerBound": low, "upperBound": high}
    return metric


def _tensor(tensor: Any) -> str:
    return f"{tensor.dtype}[{', '.join(map(str, tensor.shape))}] {tensor.name}"


def _dependencies(about: About, components: tuple[Component, ...]) -> list[dict[str, Any]]:
    runtime = [one.purl for one in components if one.kind == "pypi" and one.name == about.model.distribution]
    held = ["model", "server", *(component.purl for component in components)]
    return [{"ref": "image", "dependsOn": held}, {"ref": "model", "dependsOn": runtime}]


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"mlopt:{name}", "value": value}
