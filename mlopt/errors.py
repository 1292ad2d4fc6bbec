"""Every error a person can act on: what happened, where, what to type next; each kind its own exit code.

Only `MloptError` is expected. Anything else is a bug in mlopt and keeps its traceback.
`docs/exit-codes.md` is generated from this file.
"""

from __future__ import annotations

from typing import ClassVar


class MloptError(Exception):
    """Base of all expected errors.

    `what` happened in one sentence, `where` (a file, node, key, sample), and what to type `next`.
    """

    exit_code: ClassVar[int] = 70
    summary: ClassVar[str] = "internal: a kind of error that has no code of its own"

    def __init__(self, what: str, *, where: str = "", next: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.next = what, where, next

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.next:
            lines.append(f"  next:  {self.next}")
        return "\n".join(lines)


class BudgetMissed(MloptError):
    """A run ended well, and what ships is outside a budget of its profile, or a gate's candidate is proven worse."""

    exit_code = 1
    summary = (
        "what ships misses a budget of the profile; mlopt gate: the candidate is worse than the margin allows; "
        "mlopt image scan, without an exception: an advisory is about what is in the image"
    )


class Misused(MloptError):
    """The command line contradicts itself. 2 is also what click uses for its own usage errors."""

    exit_code = 2
    summary = "the command line is wrong"


class MissingDependency(MloptError):
    """An optional part of mlopt is needed and is not installed."""

    exit_code = 3
    summary = "an extra or a tool that this needs is not installed"


class UnsupportedModel(MloptError):
    """The model was read, but it holds something that an exporter, step or runtime cannot do."""

    exit_code = 4
    summary = "the model holds an operator or a shape that cannot be converted or run"


class BudgetInfeasible(MloptError):
    """No candidate can meet what was asked, or what was asked contradicts itself."""

    exit_code = 5
    summary = "the budget is impossible"


class ModelNotFound(MloptError):
    exit_code = 10
    summary = "there is no model at that path"


class ModelUnreadable(MloptError):
    """Empty, truncated, corrupt, or of a format that mlopt does not know."""

    exit_code = 11
    summary = "the model file is empty, truncated, corrupt, or of an unknown format"


class NotTrusted(MloptError):
    """Loading this file would run code that is inside it."""

    exit_code = 12
    summary = "loading this model would run code from it; --trust was not given"


class NeedsFactory(MloptError):
    """The file holds weights only, so there is no graph to export."""

    exit_code = 13
    summary = "the file holds weights only; --factory was not given or does not fit"


class ExportFailed(MloptError):
    exit_code = 14
    summary = "the framework's exporter failed"


class ParityFailed(MloptError):
    """The exported ONNX does not compute what its source computes."""

    exit_code = 15
    summary = "the exported model and its source give different answers"


class SamplesInvalid(MloptError):
    exit_code = 16
    summary = "the samples cannot be read or do not fit the model's inputs"


class LabelsMismatch(MloptError):
    exit_code = 17
    summary = "the labels do not match the samples or the model's classes"


class UnknownName(MloptError):
    exit_code = 18
    summary = "no target, profile, recipe, step or runtime has that name"


class ConfigInvalid(MloptError):
    """A TOML file, or a stored result, does not follow its schema."""

    exit_code = 19
    summary = "a TOML file or a stored result does not follow its schema"


class NoSpaceLeft(MloptError):
    exit_code = 20
    summary = "the disk is full; nothing was half-written"


class StoreUnusable(MloptError):
    """The store or the output folder cannot be written, or another run holds it."""

    exit_code = 21
    summary = "the store or the output folder cannot be used"


class ImageFailed(MloptError):
    exit_code = 22
    summary = "the image could not be assembled; the last good one stays"


class BaseUnusable(MloptError):
    """A base of the user's choice that nothing can stand on."""

    exit_code = 35
    summary = "the image of --base is damaged, for another architecture, or lacks Python or a library"


class WorkerFailed(MloptError):
    """A runtime crashed or hung in its own process; mlopt survives and names it."""

    exit_code = 23
    summary = "a runtime crashed or hung in its worker process"


class OutOfMemory(WorkerFailed):
    """A model does not fit into the memory that it was limited to."""

    exit_code = 33
    summary = "a model needs more memory than mlopt bench was told to give it"


class GateUndecided(MloptError):
    """A gate could neither prove a candidate worse nor prove that it is not, in its time on this machine."""

    exit_code = 24
    summary = "a gate could not decide: too little time, too few samples, or too noisy a machine"


class DeviceUnreachable(MloptError):
    """ssh does not get there, or does not trust who answers."""

    exit_code = 26
    summary = "the device of --device cannot be reached over ssh"


class DeviceBuildFailed(MloptError):
    """The device was reached, and no engine came back."""

    exit_code = 27
    summary = "the build on the device failed; the bundle that was there before stays"


class NotVerified(MloptError):
    """A bundle or an image is not what it says it is, or not signed with that key, or by that identity."""

    exit_code = 29
    summary = (
        "a bundle or an image is not what it says, or its signature is not by that key or identity; nothing was changed"
    )


class NotSigned(MloptError):
    """Nobody vouches for an identity: there is no token, it is refused, or the services do not answer."""

    exit_code = 41
    summary = "mlopt sign --keyless: no identity token, one that is refused, or no service; the bundle stays as it was"


class RegistryFailed(MloptError):
    """It cannot be reached, refuses, or does not hold what was asked for."""

    exit_code = 30
    summary = "a registry cannot be reached, refuses, or has no such image; no tag was moved"


class NotPromoted(MloptError):
    """An alias stays where it is: no gate says that the image is not worse."""

    exit_code = 31
    summary = "mlopt image promote: no gate passed for the image, or one failed; the alias stays where it was"


def kinds() -> tuple[type[MloptError], ...]:
    """All kinds of error by exit code, for the documentation and its test."""
    found = [kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, MloptError)]
    return tuple(sorted(found, key=lambda kind: kind.exit_code))
