"""SARIF 2.1.0: every check as a result on the candidate's file, for code scanning."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import quote

from mlopt.gate import text
from mlopt.gate.result import Check, GateResult
from mlopt.report.text import cleaned

_LEVELS: Final = {"fail": "error", "inconclusive": "none", "pass": "none"}  # of what is no failure, by the standard
_KINDS: Final = {"fail": "fail", "inconclusive": "open", "pass": "pass"}


def to_sarif(result: GateResult) -> str:
    """One run with one result for each check: `fail`, `open` for what is undecided, `pass`."""
    result = cleaned(result)
    names = list(dict.fromkeys(_rule(check) for check in result.checks))
    rules = [{"id": name, "shortDescription": {"text": f"{name} against the baseline or the budget"}} for name in names]
    driver = {"name": "mlopt gate", "semanticVersion": result.mlopt, "rules": rules}
    run = {
        "tool": {"driver": driver},
        "results": [_result(result, check, names.index(_rule(check))) for check in result.checks],
        "invocations": [{"executionSuccessful": True}],
        "properties": {"verdict": result.verdict, "profile": result.profile, "baseline": result.baseline.name},
    }
    whole = {"version": "2.1.0", "runs": [run]}
    return json.dumps(whole, indent=1) + "\n"


def _result(result: GateResult, check: Check, index: int) -> dict[str, Any]:
    told = f"{text.name_of(check)}: {text.value(check, check.candidate)} {text.change(check)}"
    message = f"{told.strip()}, allowed {text.allowed(check)}. {check.note}".strip()
    name = result.candidate.name
    uri = quote(PurePath(name).as_posix())
    if PurePath(name).is_absolute():
        uri = f"file://{uri}"
    return {
        "ruleId": _rule(check),
        "ruleIndex": index,
        "kind": _KINDS[check.verdict],
        "level": _LEVELS[check.verdict],
        "message": {"text": message},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri}}}],
        "partialFingerprints": {"mloptGate/v1": f"{_rule(check)}:{result.candidate.digest}"},
    }


def _rule(check: Check) -> str:
    return f"{check.kind}/{check.metric}"
