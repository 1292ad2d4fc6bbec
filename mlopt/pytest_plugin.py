"""The plug-in for pytest: a model repository gates its models with the tests that it has.

def test_the_model_is_no_worse(mlopt_gate):
    mlopt_gate("build/net.onnx")

pytest --mlopt-baseline release/net.onnx
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from mlopt.gate.result import GateResult

_PROPERTY: Final = "mlopt_gate"
_WIDTH: Final = 100
_MODELS: Final = ("bundle.json", "saved_model.pb")  # what makes a folder one model
_OPTIONS: Final = {
    "baseline": "What mlopt_gate compares with: a model, a bundle, a gate's JSON, or a folder of them by name.",
    "profile": "Margins and budgets of mlopt_gate: a name or a file.  [ci-gate]",
    "samples": "What mlopt_gate evaluates answers on, as mlopt gate --samples.",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mlopt", "gating models with mlopt")
    for name, help in _OPTIONS.items():
        group.addoption(f"--mlopt-{name}", metavar="WHERE", help=help)
        parser.addini(f"mlopt_{name}", help)
    group.addoption(
        "--mlopt-strict", action="store_true", help="A gate that cannot decide fails its test; else it skips it."
    )


@dataclass(frozen=True, slots=True)
class Gate:
    """What the fixture `mlopt_gate` gives: call it with a model."""

    request: pytest.FixtureRequest

    def __call__(
        self,
        candidate: str | os.PathLike[str],
        *,
        baseline: str | os.PathLike[str] | None = None,
        profile: str | None = None,
        samples: str | None = None,
        runtime: str | None = None,
        seconds: float | None = None,
    ) -> GateResult:
        """The result of a gate that passed. The test fails where the candidate is worse or cannot be read, and is
        skipped where nobody can tell, or nobody named a baseline. Paths start where pytest was started, those of its
        ini file beside that."""
        from mlopt.errors import MloptError
        from mlopt.gate import text

        named = os.fspath(baseline) if baseline is not None else self._said("baseline", None)
        if not named:
            pytest.skip("mlopt_gate has no baseline: give --mlopt-baseline")
        before = _of(Path(candidate), Path(named))
        try:
            result = self._judged(Path(candidate), before, profile, samples, runtime, seconds)
        except MloptError as error:
            pytest.fail(f"mlopt_gate: {error}", pytrace=False)
        node = self.request.node
        node.user_properties.append((_PROPERTY, text.headline(result)))
        table = text.to_terminal(result, width=_WIDTH, color=False)
        node.add_report_section("call", "mlopt gate", table)
        if result.verdict == "fail":
            pytest.fail(table, pytrace=False)
        if result.verdict == "inconclusive":
            (pytest.fail if self.request.config.getoption("--mlopt-strict") else pytest.skip)(text.headline(result))
        return result

    def _judged(
        self,
        candidate: Path,
        baseline: Path,
        profile: str | None,
        samples: str | None,
        runtime: str | None,
        seconds: float | None,
    ) -> GateResult:
        from mlopt.gate.gate import gate
        from mlopt.gate.walk import Asked
        from mlopt.history.keep import keep
        from mlopt.profile import find_profile
        from mlopt.progress import Progress
        from mlopt.report.report import to_json
        from mlopt.request import Request
        from mlopt.units import Seconds

        named = find_profile(self._said("profile", profile) or "ci-gate")
        if seconds is not None:
            named = dataclasses.replace(named, gate=dataclasses.replace(named.gate, seconds=Seconds(seconds)))
        request = Request(model=candidate, samples=self._said("samples", samples))
        result = gate(Asked(request, baseline, named, runtime=runtime), Progress(quiet=True))
        history = os.environ.get("MLOPT_HISTORY")
        for problem in keep(to_json(result), given=Path(history) if history else None, model=candidate):
            self.request.node.warn(pytest.PytestWarning(str(problem)))
        return result

    def _said(self, name: str, given: str | None) -> str | None:
        """What the test says, else the command line, else pytest's ini file."""
        config = self.request.config
        said: str | None = given or config.getoption(f"--mlopt-{name}")
        if said or not (ini := str(config.getini(f"mlopt_{name}"))):
            return said
        beside = (config.inipath or config.rootpath / "ini").parent / ini
        return str(beside) if beside.exists() else ini


@pytest.fixture
def mlopt_gate(request: pytest.FixtureRequest) -> Gate:
    """Gate a model against its baseline: `mlopt_gate("build/net.onnx")` fails the test where it is worse."""
    return Gate(request)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    said = list(_headlines(terminalreporter))
    if said:
        terminalreporter.section("mlopt gate")
        for line in said:
            terminalreporter.write_line(line)


def _headlines(reporter: pytest.TerminalReporter) -> Iterator[str]:
    """Of every test that gated, in its own process or in another."""
    for reports in reporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                yield from (str(value) for name, value in report.user_properties if name == _PROPERTY)


def _of(candidate: Path, baseline: Path) -> Path:
    """The baseline itself; in a folder of baselines the one that is called like the candidate."""
    itself = not baseline.is_dir() or any((baseline / name).is_file() for name in _MODELS)
    return baseline if itself else baseline / candidate.name
