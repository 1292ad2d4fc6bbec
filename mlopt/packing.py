"""What an image of a candidate would hold: its serving.json, its platforms, and the bytes it takes once unpacked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from mlopt.artifact import Artifact
from mlopt.onnx_file import load_graph
from mlopt.repair.pairs import overflowing

if TYPE_CHECKING:
    from mlopt.image.assemble import ImageSpec
    from mlopt.image.fetch import Inputs
    from mlopt.prepare import Prepared

# These answer the same on every architecture, as long as sums of products are inside what every processor holds.
_SAME_EVERYWHERE: Final = frozenset({"onnxruntime", "litert"})


def image_spec(prepared: Prepared, name: str, artifact: Artifact) -> ImageSpec:
    """The image of candidate `name`, whose model is `artifact`."""
    from mlopt.image.assemble import ImageSpec
    from mlopt.image.inputs import PLATFORMS

    candidate = next(found for found in prepared.plan.candidates if found.name == name)
    # What another runtime answers is known for the target alone.
    anywhere = candidate.runtime in _SAME_EVERYWHERE and not overflowing(
        load_graph(artifact.main).graph, artifact.main.parent
    )
    platforms = PLATFORMS if anywhere else ("/".join(prepared.target.platform.split("/")[:2]),)
    return ImageSpec(
        name=_reference(prepared.name),
        model=artifact.path,
        serving=serving_of(prepared, name, artifact),
        server=prepared.server,
        platforms=tuple(one for one in platforms if prepared.base is None or one in prepared.base.manifests),
        annotations={
            "io.mlopt.target": prepared.target.name,
            "io.mlopt.precision": candidate.precision,
            "io.mlopt.recipe": candidate.name,
        },
        base=prepared.base,
        compression=prepared.compression,
    )


def image_inputs(prepared: Prepared) -> Inputs:
    """Where the parts of images come from, and where they are kept."""
    from mlopt.image.fetch import inputs_from_environment

    return inputs_from_environment(root=prepared.store.root, debian_mirror=prepared.request.debian_mirror or "")


def image_size(prepared: Prepared, name: str, artifact: Artifact) -> int:
    """Bytes of all files of the image of candidate `name`, of the larger of its platforms, before the model is packed.

    The layers below the model are packed on the way, unless they are there: one set for each runtime. Raises what
    `assemble` raises.
    """
    from mlopt.image.assemble import unpacked_sizes

    spec = image_spec(prepared, name, artifact)
    return max(unpacked_sizes(spec, inputs=image_inputs(prepared)).values())


def serving_of(prepared: Prepared, name: str, artifact: Artifact) -> dict[str, Any]:
    """serving.json: beside the model for `mlopt serve`, and in the image's model layer."""
    from mlopt.image.serving import describe_serving

    split = prepared.split
    classes = prepared.project.samples.classes or (_class_names(split.source.classes) if split else ())
    return describe_serving(
        artifact.main,
        name=prepared.name,
        version=prepared.project.model.version,
        preprocess=split.preprocess if split else _declared(prepared),
        classes=classes or None,
        threads=prepared.profile.method.threads,
        runtime=prepared.runtimes[name],
        told=prepared.project.serve.as_json(),
    )


def _declared(prepared: Prepared) -> Mapping[str, object] | None:
    """Without samples, preprocessing is known only if somebody declared it and there is one input to apply it to."""
    from mlopt.samples.preprocess import settle

    if prepared.project.preprocess is None or len(prepared.signature.inputs) != 1:
        return None
    return settle(prepared.project.preprocess, prepared.signature.inputs[0]).as_json()


def _class_names(known: Mapping[int, str]) -> tuple[str, ...]:
    """A name for every index up to the highest that has one; those between are called by their number."""
    return tuple(known.get(index, str(index)) for index in range(max(known) + 1)) if known else ()


def _reference(name: str) -> str:
    """A repository name that every registry accepts: lower case, digits, single separators."""
    plain = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name.lower())
    return "-".join(part for part in plain.split("-") if part) or "model"
