"""Shares of a model pruned one after another, and what recipes make of each: trials, until none keeps the budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn

from mlopt.artifact import Artifact
from mlopt.assess import compared
from mlopt.errors import MloptError, NoSpaceLeft, StoreUnusable, UnsupportedModel
from mlopt.measurement import Accuracy, Interval
from mlopt.plan import BASELINE
from mlopt.prepare import Prepared
from mlopt.progress import Progress
from mlopt.step import Step
from mlopt.steps.prune_channels import PruneChannels
from mlopt.widths import Layer, Size, followed, layers_of, size_of

if TYPE_CHECKING:
    from mlopt.prune.channels import Channels

SHARES: Final = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of pruning a share and then following a recipe; 0 is the whole model. `speedup` over the exported
    model, where it was timed."""

    share: float
    recipe: str
    runtime: str
    artifact: Artifact
    accuracy: Accuracy
    before: Size
    after: Size
    layers: tuple[Layer, ...]
    speedup: Interval | None = None

    @property
    def gone(self) -> float:
        """Of the multiply-accumulates; at least `share`, because widths are multiples."""
        return 1 - self.after.work / self.before.work

    @property
    def name(self) -> str:
        return f"{self.recipe} of {self.share:.0%}"

    def keeps(self, max_drop: float) -> bool:
        """Whether the drop is proven to be inside the budget."""
        return self.accuracy.drop is not None and self.accuracy.drop.high <= max_drop


@dataclass(frozen=True, slots=True)
class Way:
    """What is done once a model is pruned, and where it then runs."""

    recipe: str
    runtime: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Search:
    """`then` comes after pruning and before every one of the `ways`. `dropped` are those that could not be made or run,
    each with what it died of: it is tried at no further share."""

    prepared: Prepared
    progress: Progress
    whole: Channels
    step: PruneChannels
    then: tuple[Step, ...]
    ways: tuple[Way, ...]
    dropped: dict[str, MloptError] = field(default_factory=dict)

    def rising(self, budget: float) -> Iterator[tuple[Trial, ...]]:
        """Trials that each prune more than the last ones, by the ways that kept the budget so far, until none does or
        the model has no more to give. The whole model is where they begin, if there is anything to do to it."""
        gone, ways = 0.0, self.ways
        for share in ((0.0,) if ways[0].steps else ()) + SHARES:
            if share and share <= gone:
                continue  # the last one went as far, because widths are multiples
            try:
                pruned = self._pruned(share)
            except UnsupportedModel:
                if not gone:
                    raise
                return
            trials = self._followed(share, pruned, ways)
            if not trials:
                return
            gone = trials[0].gone
            yield trials
            kept = {trial.recipe for trial in trials if trial.keeps(budget)}
            ways = tuple(way for way in ways if way.recipe in kept)
            if not ways:
                return

    def tried(self, share: float) -> tuple[Trial, ...]:
        """One trial for each way."""
        return self._followed(share, self._pruned(share), self.ways)

    def refuse(self) -> NoReturn:
        """Raises what every way died of: its own error where there is one, all reasons where there are more."""
        if len(self.dropped) == 1:
            raise next(iter(self.dropped.values()))
        reasons = " ".join(f"{name}: {error.what}" for name, error in self.dropped.items())
        raise UnsupportedModel(
            f"No recipe can follow pruning. {reasons}",
            where=str(self.prepared.request.model),
            next="mlopt recipes list shows the others",
        )

    def _pruned(self, share: float) -> Artifact:
        """Raises `UnsupportedModel` where so much cannot go."""
        self.progress.about = f"{share:.0%}"
        pruned = self.prepared.exported
        return self.prepared.store.run(dataclasses.replace(self.step, share=share), pruned) if share else pruned

    def _followed(self, share: float, pruned: Artifact, ways: Sequence[Way]) -> tuple[Trial, ...]:
        for step in self.then if share else ():
            pruned = self.prepared.store.run(step, pruned)
        narrow, found = followed(pruned), []
        for way in ways:
            self.progress.about = f"{share:.0%} {way.recipe if way.steps else ''}".rstrip()
            try:
                artifact = pruned
                for step in way.steps:
                    artifact = self.prepared.store.run(step, artifact)
                accuracy = compared(self.prepared, artifact, way.recipe if way.steps else BASELINE)
            except (NoSpaceLeft, StoreUnusable):
                raise
            except MloptError as error:
                self.dropped[way.recipe] = error
                self.progress.say(f"{way.recipe} of {share:.0%} is left out: {error.what}")
                continue
            sizes = size_of(self.whole), size_of(narrow)
            layers = tuple(layers_of(self.whole, narrow))
            found.append(Trial(share, way.recipe, way.runtime, artifact, accuracy, *sizes, layers))
        self.progress.about = ""
        return tuple(found)
