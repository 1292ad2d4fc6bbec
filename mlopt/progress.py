"""What a person sees while a run goes on: one line per step on stderr; on a terminal the running one is live."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import click

from mlopt.report.report import StepRun
from mlopt.step import Going, Step, StepState
from mlopt.units import Seconds, format_seconds

_BAR: Final = 12  # columns


@dataclass(slots=True)
class Progress:
    """Hears of steps and phases; keeps them for the report. `quiet` prints nothing, `verbose` what was reused too.

    `about` is the candidate that the steps are for, as far as one is.
    """

    quiet: bool = False
    verbose: bool = False
    runs: list[StepRun] = field(default_factory=list)
    about: str = ""
    began: float = field(default_factory=time.monotonic)
    _first: tuple[Step, float, float] | None = None

    def on_step(self, step: Step, state: StepState, seconds: float) -> None:
        """The store's observer."""
        if state == "started":
            self._live(f"{step.name} {self.about} …")
            return
        self.runs.append(StepRun(step.name, state == "cached", seconds))
        if state == "done":
            self._line(step.name, f"{seconds:.1f} s", self.about)
        elif self.verbose:
            self._line(step.name, "reused", self.about)

    def on_going(self, step: Step, going: Going) -> None:
        """The store's listener: a bar on a terminal; elsewhere a line for each part that is done."""
        now = time.monotonic()
        if self._first is None or self._first[0] is not step or going.done < self._first[1]:
            self._first = (step, going.done, now)  # what an earlier attempt did took none of this one's time
        _, done, began = self._first
        left = ""
        if done < going.done < going.total:
            left = f"{format_seconds(Seconds((now - began) / (going.done - done) * (going.total - going.done)))} left"
        at = f"{going.unit} {math.ceil(going.done) if going.done % 1 else int(going.done)} of {going.total}"
        said = ", ".join(filter(None, (left, going.detail)))  # where there is no room, the last is cut
        if sys.stderr.isatty():
            full = round(_BAR * going.done / going.total)
            self._live(f"{step.name} {self.about} {'━' * full}{'─' * (_BAR - full)} {at}  {said}")
        elif going.done % 1 == 0 and going.done > 0:
            self._line(step.name, at, f"{self.about}  {said}".strip())

    @contextmanager
    def phase(self, name: str, detail: str = "") -> Iterator[None]:
        """Something that is not a step: measuring, assembling the image."""
        self._live(f"{name} {detail}…")
        began = time.monotonic()
        yield
        self.runs.append(StepRun(name, False, time.monotonic() - began))
        self._line(name, f"{time.monotonic() - began:.1f} s", detail)

    def say(self, text: str) -> None:
        if not self.quiet:
            self._clear()
            click.echo(text, err=True)

    def _line(self, name: str, right: str, detail: str = "") -> None:
        if not self.quiet:
            self._clear()
            click.echo(f"  {click.style('·', fg='green')} {name:<28} {right:>9}  {detail}".rstrip(), err=True)

    def _live(self, text: str) -> None:
        if not self.quiet and sys.stderr.isatty():
            self._clear()
            room = shutil.get_terminal_size((80, 24)).columns - 5  # a line that wraps could not be taken back
            click.echo(f"  {click.style('·', fg='yellow')} {text[:room]}", err=True, nl=False)

    def _clear(self) -> None:
        if sys.stderr.isatty():
            click.echo("\r\x1b[K", err=True, nl=False)
