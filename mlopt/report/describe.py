"""A run's findings, gathered from every room into one `Report`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from mlopt import surroundings
from mlopt.choose import Choice, Judged
from mlopt.engines import is_experimental
from mlopt.intervals import FEWEST
from mlopt.progress import Progress
from mlopt.prune.sparsity import WORTH_SAYING, sparsity_of, used_by
from mlopt.report import text
from mlopt.report.engines import engine_note, engines_on, licence, sparse_note, to_build
from mlopt.report.report import (
    SCHEMA,
    CandidateFacts,
    ImageFacts,
    ModelFacts,
    Report,
    SamplesFacts,
    StepFacts,
    TargetFacts,
    TensorFacts,
    to_json,
)
from mlopt.step import installed
from mlopt.target import namesakes

if TYPE_CHECKING:
    from mlopt.build import Built
    from mlopt.image.assemble import Image
    from mlopt.insight import Insight
    from mlopt.plan import Candidate
    from mlopt.prepare import Prepared

_TOOLS = (
    *("mlopt", "numpy", "onnx", "onnxruntime", "openvino", "ai-edge-litert", "onnxconverter-common", "tensorrt-rtx"),
    *("pillow", "torch", "tensorflow", "tf2onnx"),
)


def describe(
    prepared: Prepared,
    built: Built,
    judged: Sequence[Judged],
    choice: Choice,
    progress: Progress,
    *,
    image: Image | None,
    image_left_out: str,
    preflight: tuple[str, ...] = (),
    insight: Insight | None = None,
) -> Report:
    by_name = {one.name: one for one in judged}
    return Report(
        schema=SCHEMA,
        mlopt=metadata.version("mlopt"),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.monotonic() - progress.began,
        peak_memory=_peak_memory(),
        command=prepared.request.command,
        tools=_tools(),
        machine=surroundings.describe(),
        model=_model(prepared),
        target=TargetFacts(
            prepared.target.name,
            prepared.target.summary,
            prepared.target.platform,
            prepared.on_this_machine,
            prepared.target.unverified,
            engines_on(built),
        ),
        profile=to_json(prepared.profile),
        samples=_samples(prepared),
        parity=prepared.parity,
        candidates=tuple(
            _candidate(candidate, built, by_name.get(candidate.name), choice) for candidate in prepared.plan.candidates
        ),
        left_out=prepared.plan.left_out,
        baseline=prepared.plan.baseline.name,
        winner=choice.winner,
        why=choice.why,
        image=_image(image) if image else None,
        image_left_out=image_left_out,
        steps=tuple(progress.runs),
        notes=(*_starts(by_name.get(choice.winner)), *_notes(prepared, built, choice, image), *preflight),
        insight=insight,
    )


def _tools() -> dict[str, str]:
    """Versions of what took part, as installed."""
    return {name: version for name in _TOOLS if (version := installed(name))}


def _model(prepared: Prepared) -> ModelFacts:
    import onnx

    from mlopt.signature import walk

    facts = prepared.signature
    graph = onnx.load(str(prepared.exported.main), load_external_data=False).graph
    return ModelFacts(
        name=prepared.name,
        format=prepared.source.format,
        digest=prepared.source.digest,
        bytes=prepared.source.bytes,
        parameters=facts.parameters,
        opset=facts.opset,
        inputs=tuple(TensorFacts(tensor.name, tensor.dtype, tensor.shape) for tensor in facts.inputs),
        outputs=tuple(TensorFacts(tensor.name, tensor.dtype, tensor.shape) for tensor in facts.outputs),
        operators=Counter(node.op_type for node in walk(graph)),
    )


def _samples(prepared: Prepared) -> SamplesFacts | None:
    split = prepared.split
    if split is None:
        return None
    said = prepared.request.seed
    return SamplesFacts(
        source=split.source.where,
        total=len(split.source),
        calibration=len(split.calibration),
        evaluation=len(split.evaluation),
        seed=said if said is not None else prepared.project.samples.seed or 0,
        labelled=split.source.labelled,
        preprocess=split.preprocess,
        assumed_preprocess=split.assumed_preprocess,
    )


def _candidate(
    candidate: Candidate,
    built: Built,
    judged: Judged | None,
    choice: Choice,
) -> CandidateFacts:
    artifact = built.artifacts.get(candidate.name)
    engine, build = built.engines.get(candidate.name), built.device_builds.get(candidate.name)
    failure = built.failures.get(candidate.name, "")
    return CandidateFacts(
        name=candidate.name,
        summary=candidate.summary,
        precision=candidate.precision,
        runtime=candidate.runtime,
        digest=artifact.digest if artifact else "",
        file_size=artifact.bytes if artifact else 0,
        lineage=tuple(
            StepFacts(link.step, link.version, link.options, link.source, link.tools)
            for link in (artifact.lineage if artifact else ())
        ),
        accuracy=judged.accuracy if judged else None,
        measurement=judged.measurement if judged else None,
        verdicts=judged.verdicts if judged else (),
        eligible=candidate.name in choice.eligible,
        pareto=candidate.name in choice.pareto,
        why_not=failure or choice.why_not.get(candidate.name, ""),
        failure=failure,
        notes=(
            *(built.notes.get(candidate.name, ()) if artifact else ()),
            *((engine_note(candidate.name, engine),) if engine else ()),
            *((note,) if build and not engine and (note := sparse_note(build)) else ()),
            *(f"no engine of it: {why}" for why in [built.device_failures.get(candidate.name)] if why),
        ),
    )


def _image(image: Image) -> ImageFacts:
    return ImageFacts(
        digest=image.digest,
        tag=image.reference,
        platforms={
            found.platform: tuple((layer.name, layer.size, layer.unpacked) for layer in found.layers)
            for found in image.platforms
        },
    )


def _starts(ships: Judged | None) -> Iterator[str]:
    """What bounds the load time and memory of what ships, where a budget asked for one."""
    if ships and ships.measurement and ships.measurement.starts.processes >= FEWEST:
        yield f"{ships.name} {text.starts(ships.measurement.starts)}."


def _notes(prepared: Prepared, built: Built, choice: Choice, image: Image | None) -> tuple[str, ...]:
    """What a reader should know besides `verdict.warnings`, which every rendering derives from the report itself."""
    import onnx

    notes = []
    target = prepared.target
    if others := [name for name in namesakes(prepared.request.target) if name != target.name]:
        notes.append(
            f"{prepared.request.target} alone means {target.name}. For another one give its name: {', '.join(others)}."
        )
    if not prepared.on_this_machine:
        notes.append(
            f"Answers were compared on {prepared.device}, whose integer kernels may round differently from "
            f"{target.name}'s."
        )
        if built.engines.keys() - built.device_builds.keys() and is_experimental(target):
            notes.append(
                f"TensorRT for RTX compiles for {target.name}'s compute capability, and NVIDIA names RTX cards alone "
                "as supported: try these engines there before you count on them."
            )
        if target.build_on == "device":
            notes.append(to_build(prepared, built))
    if said := licence(built):
        notes.append(said)
    runtime = prepared.runtimes[choice.winner]
    if image and runtime != prepared.plan.baseline.runtime:
        (first, *others) = (found.platform for found in image.platforms)
        where = "" if others else f", and is for {first} alone"
        notes.append(f"The image holds {runtime}, in which {choice.winner} was judged{where}.")
    if (
        sparsity := sparsity_of(onnx.load(str(prepared.exported.main), load_external_data=False))
    ).share >= WORTH_SAYING:
        skipping = used_by(tensor_cores=bool(target.gpu and target.gpu.sparsity), engine=bool(built.engines))
        notes.append(f"Of the exported model {sparsity}: {skipping}.")
    if target.unverified:
        notes.append(f"Facts about {target.name} that nobody checked: {', '.join(target.unverified)}.")
    return tuple(notes)


def _peak_memory() -> int:
    """VmHWM of this process, in bytes; converters and measured models run in processes of their own."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
