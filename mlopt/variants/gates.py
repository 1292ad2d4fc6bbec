"""What `mlopt gate` said of an image's model: how it gets to the image, and whether the image may be promoted by it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlopt.errors import ConfigInvalid, ModelNotFound, NotPromoted
from mlopt.gate.result import KIND as GATE
from mlopt.gate.result import SCHEMA, Verdict
from mlopt.image.statements import Statement

KIND: Final = "application/vnd.mlopt.gate.v1+json"
_MAKE: Final = "mlopt gate BUNDLE --baseline … --json > gate.json"


@dataclass(frozen=True, slots=True)
class Gate:
    """The gist of a gate's result; digests are those of models."""

    verdict: Verdict
    candidate: str
    runtime: str
    baseline: str
    profile: str


def gate_statement(path: Path, annotations: Mapping[str, str]) -> Statement:
    """What to attach of the result that lies there. Raises `ModelNotFound`, `ConfigInvalid`; also when it is about
    another model than the image's."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelNotFound("There is no result of a gate at this path.", where=str(path), next=_MAKE) from error
    except (OSError, ValueError) as error:
        raise ConfigInvalid("The result of the gate is no JSON.", where=str(path), next=_MAKE) from error
    gate = read_gate(content, where=str(path))
    if why := why_other(gate, annotations):
        raise ConfigInvalid(f"This gate says nothing about this image: {why}.", where=str(path), next=_MAKE)
    return Statement(KIND, content, {"io.mlopt.verdict": gate.verdict})


def read_gate(content: Any, *, where: str) -> Gate:
    """Raises `ConfigInvalid` for what no gate of this version wrote."""
    if not isinstance(content, dict) or content.get("kind") != GATE or content.get("schema") != SCHEMA:
        raise ConfigInvalid("This is no result of mlopt gate, or of another version.", where=where, next=_MAKE)
    try:
        candidate, baseline = content["candidate"], content["baseline"]
        verdict = content["verdict"]
        if verdict not in ("pass", "fail", "inconclusive"):
            raise ValueError(f"the verdict is {verdict!r}")
        return Gate(verdict, candidate["digest"], candidate["runtime"], baseline["digest"], content["profile"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigInvalid(f"The result of the gate is damaged: {error!r}.", where=where, next=_MAKE) from error


def why_other(gate: Gate, annotations: Mapping[str, str]) -> str:
    """Why a gate is not about the image with these annotations; empty when it is."""
    digest, runtime = annotations.get("io.mlopt.model-digest", ""), annotations.get("io.mlopt.runtime", "")
    if not digest:
        return "the image does not say which model it holds; assemble it anew"
    if gate.candidate != digest:
        return f"it judged the model sha256:{gate.candidate[:12]}…, the image holds sha256:{digest[:12]}…"
    if gate.runtime != runtime:
        return f"it ran the model in {gate.runtime}, the image runs it in {runtime}"
    return ""


def check_passed(gates: Sequence[Gate], annotations: Mapping[str, str], *, where: str) -> Gate:
    """The gate by which an image may be promoted: one that passed, where none failed.

    Raises `NotPromoted`.
    """
    for gate in gates:
        if why := why_other(gate, annotations):
            raise NotPromoted(f"A gate is attached that says nothing about this image: {why}.", where=where)
    verdicts = {gate.verdict: gate for gate in gates}
    if "fail" in verdicts:
        against = verdicts["fail"].baseline[:12]
        raise NotPromoted(
            f"The gate found it worse than its baseline (sha256:{against}…), so it is not promoted.",
            where=where,
            next="ship another one; mlopt image show says what was found",
        )
    if "pass" not in verdicts:
        found = "the gate could not decide" if verdicts else "no gate has judged it"
        raise NotPromoted(
            f"It is not promoted: {found}.", where=where, next=f"{_MAKE}; mlopt image push BUNDLE … --gate gate.json"
        )
    return verdicts["pass"]
