"""JUnit XML: one test case for each check, so that a CI's list of tests shows what failed."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Final

from mlopt.gate import text
from mlopt.gate.result import Check, GateResult
from mlopt.report.text import cleaned

_SUITE: Final = "mlopt gate"


def to_junit(result: GateResult) -> str:
    """A failure fails its case; what is inconclusive or was not compared is a skipped case, with the reason."""
    result = cleaned(result)
    failed = sum(check.verdict == "fail" for check in result.checks)
    skipped = sum(check.verdict == "inconclusive" for check in result.checks) + len(result.not_compared)
    counts = {
        "tests": str(len(result.checks) + len(result.not_compared)),
        "failures": str(failed),
        "errors": "0",
        "skipped": str(skipped),
        "time": f"{result.seconds:.3f}",
    }
    total = {key: value for key, value in counts.items() if key != "skipped"}
    suites = ElementTree.Element("testsuites", {"name": _SUITE, **total})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": f"{_SUITE} {result.candidate.name}", **counts})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (("baseline", result.baseline.name), ("profile", result.profile), ("verdict", result.verdict)):
        ElementTree.SubElement(properties, "property", name=name, value=value)
    for check in result.checks:
        _case(suite, result, check)
    for left in result.not_compared:
        case = ElementTree.SubElement(suite, "testcase", name=left.metric, classname=_class(result), time="0")
        ElementTree.SubElement(case, "skipped", message=f"not compared: {left.reason}")
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, result: GateResult, check: Check) -> None:
    name = check.metric if check.kind == "regression" else f"budget {check.metric}"
    case = ElementTree.SubElement(suite, "testcase", name=name, classname=_class(result), time="0")
    told = f"{text.value(check, check.candidate)} {text.change(check)}, allowed {text.allowed(check)}".strip()
    if check.verdict == "fail":
        failure = ElementTree.SubElement(case, "failure", message=told, type="regression")
        failure.text = f"{told}\n{check.method}\n{check.note}".strip()
    elif check.verdict == "inconclusive":
        ElementTree.SubElement(case, "skipped", message=f"inconclusive: {told}; {check.note}")
    else:
        ElementTree.SubElement(case, "system-out").text = told


def _class(result: GateResult) -> str:
    return f"mlopt.gate.{result.profile}"
