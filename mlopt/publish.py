"""From a choice to the folder that a run leaves: model, image, deploy, report, manifest, repro.sh."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlopt import paths
from mlopt.artifact import Artifact, digest_of
from mlopt.bundle import Bundle, publishing, write_manifest, write_repro
from mlopt.choose import Choice, Judged
from mlopt.errors import DeviceBuildFailed
from mlopt.packing import image_inputs, image_spec, serving_of
from mlopt.progress import Progress

if TYPE_CHECKING:
    from mlopt.build import Built
    from mlopt.image.assemble import Image
    from mlopt.insight import Insight
    from mlopt.prepare import Prepared
    from mlopt.report.report import Report


def publish(
    prepared: Prepared,
    built: Built,
    judged: Sequence[Judged],
    choice: Choice,
    progress: Progress,
    *,
    insight: Insight | None = None,
) -> Bundle:
    """Write the bundle beside where it goes, then put it there in one move.

    An image that cannot be assembled is a finding in the report, not the end: model and numbers still ship.
    """
    from mlopt.image.serving import encode_serving
    from mlopt.report.describe import describe
    from mlopt.report.files import write_report

    home = place(prepared)
    with publishing(home) as folder:
        winner = built.artifacts[choice.winner]
        shutil.copytree(winner.path, folder / "model")
        built, packed = _device(prepared, built, folder, progress)
        for name, engine in sorted(built.engines.items()):
            if not engine.path.is_relative_to(folder):  # those from the device are there already
                shutil.copytree(engine.path, folder / "engines" / name)
        (folder / "model" / "serving.json").write_bytes(encode_serving(serving_of(prepared, choice.winner, winner)))
        image, left_out = _image(prepared, choice, winner, folder, progress)
        asked = tuple(_preflight(prepared, built, choice.winner, progress))
        report = describe(
            prepared,
            built,
            judged,
            choice,
            progress,
            image=image,
            image_left_out=left_out,
            preflight=asked,
            insight=insight,
        )
        write_report(report, folder)
        _attach(prepared, report, image, folder, progress)
        _deploy(prepared, built, report, image, folder, _serving_builds(packed, judged))
        write_repro(folder, _repro(prepared, choice), report.tools)
        facts = _facts(prepared, report, winner, image)
        facts |= {"engines": _engines(built), "device-builds": packed, "status": _status(prepared, built)}
        manifest = write_manifest(folder, facts)
    return Bundle(home, manifest, report)


def _preflight(prepared: Prepared, built: Built, winner: str, progress: Progress) -> Iterator[str]:
    """What TensorRT on the device will say to the models that it is to build, or else to what ships, as far as that is
    known here; nothing where engines are built here."""
    from mlopt.engines import why_no_rtx
    from mlopt.preflight.preflight import notes, preflight

    target = prepared.target
    stack = next((stack for stack in target.stacks if stack.tensorrt), None)
    if prepared.on_this_machine or target.gpu is None or stack is None or not why_no_rtx(target):
        return
    found = {}
    for name in sorted(built.artifacts.keys() & built.device_builds.keys()) or [winner]:
        progress.about = name
        found[name] = preflight(built.artifacts[name], target, stack, prepared.store, inputs=prepared.project.inputs)
    progress.about = ""
    yield from notes(found)


def place(prepared: Prepared) -> Path:
    """Where the bundle goes."""
    return (prepared.request.out or prepared.project.compile.out or Path("out")) / prepared.name / prepared.target.name


def _device(prepared: Prepared, built: Built, folder: Path, progress: Progress) -> tuple[Built, list[str]]:
    """device/: what the target needs to build its engines itself. With --device that is done at once, and then they are
    among what was built. Also the names of the builds in it."""
    if not built.device_builds:
        if prepared.request.device:
            why = {built.failures[name] for name in prepared.plan.device_builds}
            raise DeviceBuildFailed(f"There is nothing to build on the device: {'; '.join(sorted(why))}")
        return built, []
    from mlopt.device.pack import pack

    packed = pack(
        built.device_builds,
        folder / "device",
        model=prepared.name,
        target=prepared.target,
        signature=prepared.signature,
        samples=prepared.evaluation,
        batch=prepared.batch(1),
        threads=prepared.machine.cores,
        engines=before if (before := place(prepared) / "engines").is_dir() else None,
    )
    if prepared.request.device is None:
        return built, list(packed.names)
    from mlopt.device.remote import build_on
    from mlopt.device.ssh import Device

    device = Device.parse(prepared.request.device)
    with progress.phase("build on", str(device)):
        returned = build_on(device, packed, folder / "engines", progress.say)
    return (
        dataclasses.replace(
            built,
            engines={**built.engines, **returned.engines},
            device_failures=dict(returned.failures),
        ),
        list(packed.names),
    )


def _image(
    prepared: Prepared, choice: Choice, winner: Artifact, folder: Path, progress: Progress
) -> tuple[Image | None, str]:
    if not prepared.request.image:
        return None, "not asked for (--no-image)"
    from mlopt.errors import ImageFailed
    from mlopt.image.assemble import assemble

    spec = image_spec(prepared, choice.winner, winner)
    try:
        with progress.phase("image", ", ".join(spec.platforms)):
            return assemble(spec, folder / "image", inputs=image_inputs(prepared)), ""
    except ImageFailed as error:
        progress.say(f"no image: {error}")
        return None, str(error)


def _attach(prepared: Prepared, report: Report, image: Image | None, folder: Path, progress: Progress) -> None:
    """SBOMs and provenance, in the image's layout and no part of the image."""
    if image is None:
        return
    from mlopt.errors import ImageFailed
    from mlopt.supply.about import about
    from mlopt.supply.attach import attach_documents

    try:
        facts = about(
            report,
            image,
            source=prepared.source.path,
            model=folder / "model",
            inputs=image_inputs(prepared),
            base=prepared.base,
        )
    except ImageFailed as error:  # its layers were kept and the packages in them were not: the image ships all the same
        progress.say(f"no SBOM and no provenance: {error}")
        return
    attach_documents(image.path, facts)


def _serving_builds(packed: Sequence[str], judged: Sequence[Judged]) -> tuple[str, ...]:
    """Of what the device can build what may serve: what is not known to miss a budget, by the names in device/."""
    from mlopt.device.pack import folder_name

    bad = {one.name for one in judged for verdict in one.verdicts if verdict.outcome == "missed"}
    return tuple(folder_name(name) for name in packed if name not in bad)


def _deploy(
    prepared: Prepared, built: Built, report: Report, image: Image | None, folder: Path, builds: Sequence[str]
) -> None:
    """deploy/: what runs the image elsewhere. Without an image there is nothing to run."""
    if image is None:
        return
    from mlopt.deploy.facts import deploy_facts
    from mlopt.deploy.first_start import write_first_start
    from mlopt.deploy.write import write_deploy
    from mlopt.engines import why_no_first_start

    threads = prepared.profile.method.threads
    facts = deploy_facts(report, image, target=prepared.target, threads=threads, status=_status(prepared, built))
    write_deploy(facts, folder / "deploy")
    if not why_no_first_start(
        prepared.target, builds, image.server, plain=prepared.base is None and prepared.compression == "gzip"
    ):
        write_first_start(facts, image, target=prepared.target, builds=builds, into=folder / "deploy")


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
        "--max-latency": None if said.max_latency is None else f"{said.max_latency:.12f}s",
        "--max-memory": None if said.max_memory is None else f"{said.max_memory:.0f}B",
        "--max-size": None if said.max_size is None else f"{said.max_size:.0f}B",
        "--max-image-size": None if said.max_image_size is None else f"{said.max_image_size:.0f}B",
    }
    for flag, value in pairs.items():
        command += [flag, str(value)] if value is not None else []
    command += ["--base", paths.with_folder(said.base, Path())] if said.base else []
    command += ["--compression", said.compression] if said.compression else []
    for recipe in said.recipes:
        command += ["--recipe", str(_absolute(recipe))]
    command += ["--trust"] if said.trust else []
    command += ["--server", said.server] if said.server else []
    command += [] if said.image else ["--no-image"]
    command += [] if said.inside else ["--no-inside"]
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


def _status(prepared: Prepared, built: Built) -> str:
    """`measured` here, or what is still to be done on the device: an engine that was not built there does not exist."""
    if prepared.on_this_machine:
        return "measured"
    if built.device_builds.keys() & built.engines.keys():
        return "device-built"
    return "needs-device-build" if prepared.target.build_on == "device" else "unmeasured"
