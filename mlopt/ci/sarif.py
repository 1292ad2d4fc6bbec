"""SARIF 2.1.0: every number that was judged as a result on the model's file, for code scanning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import quote

from mlopt.ci.suite import Case, Suite
from mlopt.report.text import cleaned

_LEVELS: Final = {"fail": "error", "inconclusive": "none", "pass": "none"}  # of what is no failure, by the standard
_KINDS: Final = {"fail": "fail", "inconclusive": "open", "pass": "pass"}


def to_sarif(suites: Sequence[Suite]) -> str:
    """One run for each model, with one result for each case that was judged: `fail`, `open`, `pass`."""
    whole = {"version": "2.1.0", "runs": [_run(suite) for suite in cleaned(tuple(suites))]}
    return json.dumps(whole, indent=1) + "\n"


def _run(suite: Suite) -> dict[str, Any]:
    cases = [case for case in suite.cases if case.outcome in _KINDS]
    names = list(dict.fromkeys(case.rule for case in cases))
    rules = [{"id": name, "shortDescription": {"text": _SAYS[name.partition("/")[0]].format(name)}} for name in names]
    return {
        "tool": {"driver": {"name": suite.tool, "semanticVersion": suite.mlopt, "rules": rules}},
        "results": [_result(suite, case, names.index(case.rule)) for case in cases],
        "invocations": [{"executionSuccessful": True}],
        "properties": dict(suite.properties),
    }


_SAYS: Final = {
    "regression": "{} against the baseline",
    "budget": "{} of the profile",
    "measured": "{}, which nothing limits",
}


def _result(suite: Suite, case: Case, index: int) -> dict[str, Any]:
    uri = quote(PurePath(suite.model).as_posix())
    if PurePath(suite.model).is_absolute():
        uri = f"file://{uri}"
    return {
        "ruleId": case.rule,
        "ruleIndex": index,
        "kind": _KINDS[case.outcome],
        "level": _LEVELS[case.outcome],
        "message": {"text": f"{case.name}: {case.told}. {case.note}".strip()},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri}}}],
        "partialFingerprints": {f"mlopt{suite.verb.capitalize()}/v1": f"{case.rule}:{suite.digest}"},
    }
