"""From what was asked to what can be judged: everything looked up, the model exported and checked, the plan made."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlopt.artifact import Artifact
from mlopt.errors import BudgetInfeasible, ConfigInvalid, Misused
from mlopt.intervals import Allowed, allowed
from mlopt.measurement import OutputParity
from mlopt.plan import BASELINE, Plan, hopeless, plan
from mlopt.profile import ASKED, DEFAULT, Profile, find_profile, narrowed
from mlopt.progress import Progress
from mlopt.project import Project, find_project
from mlopt.recipe import Recipe, all_recipes, find_recipe
from mlopt.request import Compression, Request, Server
from mlopt.samples.generated import GeneratedSamples
from mlopt.samples.open import Asked, Split, open_samples
from mlopt.signature import Signature, signature
from mlopt.store import Store, default_root
from mlopt.target import NEWEST_OPSET, Target, find_target, is_this_machine
from mlopt.units import Fraction, format_percent

if TYPE_CHECKING:
    import numpy as np

    from mlopt.host import Machine
    from mlopt.image.base import Base
    from mlopt.samples.samples import Samples

# As many as it takes to prove 97 % agreement when all agree: what the strictest common profile asks.
_GENERATED = 128
_PARITY_SAMPLES = 4


@dataclass(frozen=True, slots=True)
class Prepared:
    """`split` is None when nobody gave samples: then `evaluation` is generated, and proves little."""

    request: Request
    project: Project
    target: Target
    profile: Profile
    store: Store
    source: Artifact
    exported: Artifact
    signature: Signature
    parity: tuple[OutputParity, ...]
    split: Split | None
    evaluation: Samples | GeneratedSamples
    plan: Plan
    machine: Machine
    on_this_machine: bool
    base: Base | None = None

    @property
    def device(self) -> str:
        """What numbers taken here are numbers of."""
        return f"{self.machine.cpu}, {self.machine.cores} cores"

    @property
    def name(self) -> str:
        """What the model is called: in the project file, or its file's name without the last suffix."""
        return self.project.model.name or self.request.model.resolve().stem.strip(".") or "model"

    @property
    def compression(self) -> Compression:
        """Of the layers of its image."""
        return _compression(self.request, self.project)

    @property
    def server(self) -> Server:
        """What serves the model in its image."""
        return _server(self.request, self.project)

    @property
    def runtimes(self) -> Mapping[str, str]:
        return {candidate.name: candidate.runtime for candidate in self.plan.candidates}

    def batch(self, wanted: int) -> int:
        """`wanted`, unless the model's batch dimension is fixed."""
        leading = [tensor.shape[0] for tensor in self.signature.inputs if tensor.shape]
        fixed = [dim for dim in leading if isinstance(dim, int)]
        return fixed[0] if fixed and self.signature.batch is None else wanted


def prepare(request: Request, progress: Progress) -> Prepared:
    """Look up names, open and export the model, check parity, open the samples, plan. Nothing is built yet."""
    from mlopt.check.parity import check_parity
    from mlopt.host import detect
    from mlopt.source import export_step, open_model

    project = find_project(request.model, request.project)
    server = _server(request, project)
    target, profile = find_target(request.target), _profile(request, project)
    request, recipes = _recipes(request, project)
    store = Store(request.store or default_root(), progress.on_step, progress.on_going)
    base = _base(request, project, target, store.root, progress) if request.image else None
    factory = request.factory or project.model.factory
    # A name from the command line is looked up from where it was typed, one from mlopt.toml from beside that file.
    root = Path.cwd() if request.factory else project.root.resolve()
    source = open_model(request.model, store=store, factory=factory, root=root, trust=request.trust)
    step = export_step(source, opset=min(target.opset, NEWEST_OPSET), factory=factory, root=root, inputs=project.inputs)
    exported = store.run(step, source)
    facts = signature(exported)
    split = split_samples(request, project, facts)
    if split and not split.source.labelled:
        profile = _unlabelled(profile, request, project, progress)
    evaluation: Samples | GeneratedSamples = split.evaluation if split else _generated(exported, facts, project)
    real = list(itertools.islice(split.evaluation.feeds(batch=1), _PARITY_SAMPLES)) if split else None
    parity = check_parity(source, exported, store=store, factory=factory, root=root, inputs=project.inputs, feeds=real)
    may_lose = allowed(profile.budgets, len(evaluation), labelled=bool(split and split.source.labelled))
    candidates = plan(
        facts,
        target,
        recipes,
        split.calibration if split else None,
        split.calibration if split else evaluation,
        may_lose,
        inputs=project.inputs,
        asked=_asked(request, project, recipes),
        server=server,
    )
    _check_ship(request, candidates, may_lose)
    machine = detect()
    return Prepared(
        request=request,
        project=project,
        target=target,
        profile=profile,
        store=store,
        source=source,
        exported=exported,
        signature=facts,
        parity=parity,
        split=split,
        evaluation=evaluation,
        plan=candidates,
        machine=machine,
        on_this_machine=is_this_machine(target, machine),
        base=base,
    )


def _base(request: Request, project: Project, target: Target, root: Path, progress: Progress) -> Base | None:
    """The base of the user's choice, and zstd, looked at before anything takes hours. Raises what `ground` raises."""
    from mlopt.image.base import open_base
    from mlopt.image.compression import OLD_ENGINES, decides_bytes
    from mlopt.image.inputs import PLATFORMS, docker_folder, read_wanted

    if _compression(request, project) == "zstd":
        decides_bytes("zstd")
        progress.say(f"layers of zstd: {OLD_ENGINES}")
    said = request.base or project.compile.base
    if said is None:
        return None
    base, wanted = open_base(said, root=root, say=progress.say), "/".join(target.platform.split("/")[:2])
    with progress.phase("base", said):
        python = read_wanted(docker_folder()).python if _server(request, project) == "python" else ""
        base.ground(wanted, python=python)
    if missing := [platform for platform in PLATFORMS if platform not in base.manifests]:
        progress.say(f"the base has no image for {' and '.join(missing)}: this one has none either")
    return base


def _generated(exported: Artifact, facts: Signature, project: Project) -> GeneratedSamples:
    from mlopt.convert.batch import free_size_of

    free = free_size_of(exported.main, project.inputs)
    return GeneratedSamples(facts, _GENERATED, project.samples.seed or 0, project.inputs, free)


def _compression(request: Request, project: Project) -> Compression:
    return request.compression or project.compile.compression or "gzip"


def _server(request: Request, project: Project) -> Server:
    """Raises `ConfigInvalid` where the native one would serve, and leave undone what mlopt.toml says to a server."""
    server = request.server or project.compile.server or "python"
    if server == "native" and (unread := sorted(project.serve.as_json().get("server", {}))):
        raise ConfigInvalid(
            f"The native server does not read [serve], which says {unread[0]}.",
            where=f"{project.file}: serve",
            next="leave the table out and set MLOPT_SERVE_… where it runs, or compile with --server python",
        )
    return server


def _profile(request: Request, project: Project) -> Profile:
    """The profile, with what flags and mlopt.toml override in it."""
    said = project.compile
    profile = find_profile(request.profile or said.profile or DEFAULT)
    asked = {name: getattr(request, name) for name in ASKED}
    profile = narrowed(
        profile, {name: getattr(said, name) if value is None else value for name, value in asked.items()}
    )
    threads = request.threads or said.threads
    if threads is not None:
        profile = dataclasses.replace(profile, method=dataclasses.replace(profile.method, threads=threads))
    return profile


def _unlabelled(profile: Profile, request: Request, project: Project, progress: Progress) -> Profile:
    """A drop that was asked for, where nothing tells right from wrong: no more can be lost than answers change."""
    drop = request.max_drop if request.max_drop is not None else project.compile.max_drop
    if drop is None:
        return profile
    least = Fraction(max(1 - drop, profile.budgets.min_agreement or 0.0))
    progress.say(f"the samples have no labels: max-drop is judged as min-agreement {format_percent(least)}")
    return dataclasses.replace(profile, budgets=dataclasses.replace(profile.budgets, min_agreement=least))


def _recipes(request: Request, project: Project) -> tuple[Request, tuple[Recipe, ...]]:
    """The recipes to try, and the request with what it ships by its name, which may have been given as a file."""
    names = request.recipes or project.compile.recipes
    recipes = tuple(find_recipe(name) for name in dict.fromkeys(names) if name != BASELINE) if names else all_recipes()
    if request.ship in (None, BASELINE):
        return request, recipes
    assert request.ship
    if request.ship in {recipe.name for recipe in recipes}:
        return request, recipes
    ship = find_recipe(request.ship)
    others = tuple(recipe for recipe in recipes if recipe.name != ship.name)
    return dataclasses.replace(request, ship=ship.name), (*others, ship)


def _asked(request: Request, project: Project, recipes: tuple[Recipe, ...]) -> frozenset[str]:
    """The recipes that somebody named, rather than all that there are."""
    if request.recipes or project.compile.recipes:
        return frozenset(recipe.name for recipe in recipes)
    return frozenset({request.ship} if request.ship else ())


def evaluation_samples(
    request: Request, model: Path, count: int
) -> tuple[Samples | GeneratedSamples, np.ndarray | None]:
    """What an ONNX file was, or would be, evaluated on, with its labels; `count` generated inputs without samples."""
    from mlopt.convert.batch import free_size_of
    from mlopt.signature import signature_of

    facts, project = signature_of(model), find_project(request.model, request.project)
    if split := split_samples(request, project, facts):
        return split.evaluation, split.evaluation.labels
    free = free_size_of(model, project.inputs)
    return GeneratedSamples(facts, count, project.samples.seed or 0, project.inputs, free), None


def _check_ship(request: Request, candidates: Plan, may_lose: Allowed) -> None:
    for left in candidates.left_out:
        if left.recipe == request.ship and left.reason == hopeless(may_lose):
            raise BudgetInfeasible(
                f"{left.reason}.",
                where=str(request.model),
                next="give more samples, or allow more with --max-drop",
            )
        if left.recipe == request.ship:
            raise Misused(
                f"{left.recipe} cannot ship: {left.reason}.",
                where=str(request.model),
                next="mlopt compile MODEL --dry-run shows what can be made of this model, and why not the rest",
            )


def split_samples(request: Request, project: Project, facts: Signature) -> Split | None:
    """The samples that the request or mlopt.toml name; None when nobody named any."""
    said = project.samples
    where = request.samples
    if where is None and said.path is not None:
        beside = project.root / said.path
        where = str(beside) if beside.exists() or ":" not in said.path else said.path
    if where is None:
        return None
    return open_samples(
        Asked(
            where=where,
            preprocess=project.preprocess,
            constants={name: spec for name, spec in project.inputs.items() if spec.value is not None},
            calibration=request.calibration or said.calibration,
            seed=request.seed if request.seed is not None else said.seed or 0,
            labels=said.labels,
            label_offset=said.label_offset,
            classes=said.classes,
            root=project.root,
        ),
        facts,
    )
