"""How an image was made: an in-toto Statement v1 whose predicate is SLSA provenance v1, with the whole lineage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from mlopt.supply.about import About
from mlopt.supply.packages import pypi_purl

MEDIA_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://slsa.dev/provenance/v1"
# Of a folder: sha256 of the sorted lines "name NUL sha256-of-file LF", as mlopt/artifact.py makes it.
DIRECTORY: Final = "mloptDir1"
# Names, not addresses: docs/supply-chain.md says what they mean.
_BUILD_TYPE: Final = "urn:mlopt:build-type:compile:1"
_BUILDER: Final = "urn:mlopt:builder:local"


def provenance(about: About, byproducts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The statement about the image's index. `byproducts` are the resource descriptors of what was made beside it.

    No time and no invocation id: the same inputs give the same statement. The builder is whoever ran mlopt, so that
    this claims no level of SLSA; a CI that isolates builds can say more in a statement of its own.
    """
    return {
        "_type": STATEMENT,
        "subject": [{"name": f"{about.name}:{about.version}", "digest": {"sha256": about.digest}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD_TYPE,
                "externalParameters": {
                    "model": about.model.name,
                    "target": about.target,
                    "profile": about.profile,
                    "recipe": about.recipe,
                    "platforms": [contents.platform for contents in about.platforms],
                },
                "internalParameters": {
                    "precision": about.model.precision,
                    "runtime": about.model.runtime,
                    "steps": [
                        {
                            "step": step.step,
                            "version": step.version,
                            "options": dict(step.options),
                            "source": {DIRECTORY: step.source},
                            "tools": dict(step.tools),
                        }
                        for step in about.steps
                    ],
                    "result": {DIRECTORY: about.model.digest},
                },
                "resolvedDependencies": _dependencies(about),
            },
            "runDetails": {
                "builder": {
                    "id": _BUILDER,
                    "version": {"mlopt": about.mlopt, **about.tools},
                },
                "byproducts": [*_model_files(about), *byproducts],
            },
        },
    }


def _dependencies(about: About) -> list[dict[str, Any]]:
    """The given model, the locks, and every package of every platform once."""
    given = [
        {"name": name, "digest": {"sha256": sha256}, "annotations": {"format": about.given_format}}
        for name, sha256 in sorted(about.given.items())
    ]
    locks = [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(about.locks.items())]
    packages = {component.purl + component.sha256: component for one in about.platforms for component in one.components}
    return [
        *given,
        *locks,
        {"name": "mlopt", "uri": pypi_purl("mlopt", about.mlopt)},
        *(
            {"name": component.filename, "uri": component.purl, "digest": {"sha256": component.sha256}}
            for _, component in sorted(packages.items())
        ),
    ]


def _model_files(about: About) -> list[dict[str, Any]]:
    return [
        {"name": f"model/{name}", "digest": {"sha256": sha256}} for name, sha256 in sorted(about.model.files.items())
    ]
