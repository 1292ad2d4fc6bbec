"""From a choice to the folder that a run leaves: model, image, deploy, report, manifest, repro.sh."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlopt import paths
from mlopt.artifact import Artifact, digest_of
from mlopt.bundle import Bundle, publishing, write_manifest, write_repro
from mlopt.choose import Choice, Judged, judge_image
from mlopt.onnx_file import load_graph
from mlopt.progress import Progress
from mlopt.repair.pairs import overflowing

if TYPE_CHECKING:
    from mlopt.build import Built
    from mlopt.image.assemble import Image
    from mlopt.prepare import Prepared
    from mlopt.report.report import Report


def publish(
    prepared: Prepared,
    built: Built,
    judged: Sequence[Judged],
    choice: Choice,
    progress: Progress,
) -> Bundle:
    """Write the bundle beside where it goes, then put it there in one move.

    An image that cannot be assembled is a finding in the report, not the end: model and numbers still ship.
    """
    from mlopt.report.describe import describe
    from mlopt.report.files import write_report

    home = place(prepared)
    with publishing(home) as folder:
        winner = built.artifacts[choice.winner]
        shutil.copytree(winner.path, folder / "model")
        for name, engine in sorted(built.engines.items()):
            shutil.copytree(engine.path, folder / "engines" / name)
        serving = _serving(prepared, choice, winner, folder / "model")
        image, left_out = _image(prepared, choice, serving, folder, progress)
        judged = [_with_image(one, prepared, image) if one.name == choice.winner else one for one in judged]
        report = describe(prepared, built, judged, choice, progress, image=image, image_left_out=left_out)
        write_report(report, folder)
        _deploy(prepared, report, image, folder)
        write_repro(folder, _repro(prepared, choice), report.tools)
        facts = _facts(prepared, report, winner, image) | {"engines": _engines(built)}
        manifest = write_manifest(folder, facts)
    return Bundle(home, manifest, report)


def place(prepared: Prepared) -> Path:
    """Where the bundle goes."""
    return (prepared.request.out or prepared.project.compile.out or Path("out")) / prepared.name / prepared.target.name


def _serving(prepared: Prepared, choice: Choice, winner: Artifact, folder: Path) -> dict[str, Any]:
    """serving.json: beside the model for `mlopt serve`, and in the image's model layer."""
    from mlopt.image.serving import describe_serving, encode_serving

    split = prepared.split
    classes = prepared.project.samples.classes or (_class_names(split.source.classes) if split else ())
    serving = describe_serving(
        winner.main,
        name=prepared.name,
        preprocess=split.preprocess if split else _declared(prepared),
        classes=classes or None,
        threads=prepared.profile.method.threads,
        runtime=prepared.runtimes[choice.winner],
    )
    (folder / "serving.json").write_bytes(encode_serving(serving))
    return serving


def _declared(prepared: Prepared) -> Mapping[str, object] | None:
    """Without samples, preprocessing is known only if somebody declared it and there is one input to apply it to."""
    from mlopt.samples.preprocess import settle

    if prepared.project.preprocess is None or len(prepared.signature.inputs) != 1:
        return None
    return settle(prepared.project.preprocess, prepared.signature.inputs[0]).as_json()


def _class_names(known: Mapping[int, str]) -> tuple[str, ...]:
    """A name for every index up to the highest that has one; those between are called by their number."""
    return tuple(known.get(index, str(index)) for index in range(max(known) + 1)) if known else ()


def _image(
    prepared: Prepared, choice: Choice, serving: Mapping[str, Any], folder: Path, progress: Progress
) -> tuple[Image | None, str]:
    if not prepared.request.image:
        return None, "not asked for (--no-image)"
    from mlopt.errors import ImageFailed
    from mlopt.image.assemble import ImageSpec, assemble
    from mlopt.image.fetch import inputs_from_environment
    from mlopt.image.inputs import PLATFORMS

    candidate = next(found for found in prepared.plan.candidates if found.name == choice.winner)
    # The baseline's runtime answers the same everywhere, if sums of products are inside what every processor holds;
    # what another runtime gains is known for the target alone.
    anywhere = candidate.runtime == prepared.plan.baseline.runtime and not overflowing(
        load_graph(folder / "model" / serving["file"]).graph, folder / "model"
    )
    spec = ImageSpec(
        name=_reference(prepared.name),
        model=folder / "model",
        serving=serving,
        platforms=PLATFORMS if anywhere else ("/".join(prepared.target.platform.split("/")[:2]),),
        annotations={
            "io.mlopt.target": prepared.target.name,
            "io.mlopt.precision": candidate.precision,
            "io.mlopt.recipe": candidate.name,
        },
    )
    mirror = prepared.request.debian_mirror or ""
    inputs = inputs_from_environment(root=prepared.store.root, debian_mirror=mirror)
    try:
        with progress.phase("image", ", ".join(spec.platforms)):
            return assemble(spec, folder / "image", inputs=inputs), ""
    except ImageFailed as error:
        progress.say(f"no image: {error}")
        return None, str(error)


def _with_image(winner: Judged, prepared: Prepared, image: Image | None) -> Judged:
    """What ships is judged by its image too, by the larger of its platforms."""
    unpacked = max(platform.unpacked for platform in image.platforms) if image else None
    verdicts = judge_image(prepared.profile.budgets, unpacked=unpacked)
    return dataclasses.replace(winner, verdicts=(*winner.verdicts, *verdicts))


def _deploy(prepared: Prepared, report: Report, image: Image | None, folder: Path) -> None:
    """deploy/: what runs the image elsewhere. Without an image there is nothing to run."""
    if image is None:
        return
    from mlopt.deploy.facts import deploy_facts
    from mlopt.deploy.write import write_deploy

    threads = prepared.profile.method.threads
    facts = deploy_facts(report, image, target=prepared.target, threads=threads, status=_status(prepared))
    write_deploy(facts, folder / "deploy")


def _reference(name: str) -> str:
    """A repository name that every registry accepts: lower case, digits, single separators."""
    plain = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name.lower())
    return "-".join(part for part in plain.split("-") if part) or "model"


def _repro(prepared: Prepared, choice: Choice) -> tuple[str, ...]:
    """The command as it was typed, with the choice and the place of the model pinned."""
    said = prepared.request
    target = _absolute(said.target)
    command = ["mlopt", "compile", str(said.model.resolve()), "--target", str(target), "--ship", choice.winner]
    pairs = {
        "--profile": _absolute(said.profile),
        "--samples": _samples(said.samples),
        "--factory": said.factory,
        "--project": said.project and str(said.project.resolve()),
        "--calibration": said.calibration,
        "--seed": said.seed,
        "--threads": said.threads,
        "--max-drop": None if said.max_drop is None else f"{said.max_drop * 100:.12g}%",
    }
    for flag, value in pairs.items():
        command += [flag, str(value)] if value is not None else []
    for recipe in said.recipes:
        command += ["--recipe", str(_absolute(recipe))]
    command += ["--trust"] if said.trust else []
    command += [] if said.image else ["--no-image"]
    return tuple(command)


def _absolute(where: str | None) -> str | None:
    """A name stays a name, whatever lies in the current folder; a path holds from anywhere."""
    return str(Path(where).expanduser().resolve()) if where and paths.is_path(where) else where


def _samples(where: str | None) -> str | None:
    """The absolute path, or pkg.mod:callable as it is."""
    return str(Path(where).resolve()) if where and Path(where).exists() else where


def _facts(prepared: Prepared, report: Report, winner: Artifact, image: Image | None) -> dict[str, Any]:
    shipped = report.candidate(report.winner)
    return {
        "mlopt": metadata.version("mlopt"),
        "model": {"name": prepared.name, "digest": prepared.source.digest, "format": prepared.source.format},
        "target": prepared.target.name,
        "profile": prepared.profile.name,
        "winner": {
            "recipe": report.winner,
            "precision": shipped.precision,
            "runtime": shipped.runtime,
            "digest": winner.digest,
            "why": report.why,
        },
        "status": _status(prepared),
        "verdicts": [
            {"budget": v.budget, "limit": v.limit, "actual": v.actual, "outcome": v.outcome, "grade": v.grade}
            for v in shipped.verdicts
        ],
        "lineage": [{"step": link.step, "version": link.version, "tools": dict(link.tools)} for link in winner.lineage],
        "image": image.as_json() if image else None,
    }


def _engines(built: Built) -> dict[str, Any]:
    """By candidate: the digest of the engine's bytes, by which alone one may be loaded, and how it was made."""
    return {
        name: {
            "file": f"engines/{name}/model.engine",
            "sha256": digest_of(engine.main),
            "bytes": engine.main.stat().st_size,
            **json.loads((engine.path / "engine.json").read_bytes()),
        }
        for name, engine in sorted(built.engines.items())
    }


def _status(prepared: Prepared) -> str:
    """`measured` here, or what is still to be done on the device: an engine that was not built there does not exist."""
    if prepared.on_this_machine:
        return "measured"
    return "needs-device-build" if prepared.target.build_on == "device" else "unmeasured"
