"""How often `mlopt gate` cries wolf and how often it sees a regression, beside the rules that other gates go by.

    python benchmarks/gate.py ROUNDS.json.gz… [--trials 1000]

Reads what benchmarks/gate_rounds.py recorded: real clocks of one model against itself. A trial is a gate on rounds
drawn from a session in blocks of ten (so that what hangs together stays together), which process plays which part drawn
too; a second run draws another session. A slow-down multiplies the candidate's recorded times. Writes
reports/published/gate.json and .md. What is timed is real, what is resampled is said.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gate_rules
import numpy as np

from mlopt.gate.answers import Right, compare_answers
from mlopt.gate.clocks import settled, watch
from mlopt.gate.memory import Processes
from mlopt.gate.result import Verdict
from mlopt.gate.rounds import ROLES, Pair
from mlopt.gate.timed import clock_margins
from mlopt.profile import find_profile

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "reports" / "published"
SLOWER = (0.0, 0.05, 0.10)
BLOCK = 10
MARGINS = find_profile("ci-gate").gate
Visits = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Session:
    """Four processes over its pairs, by clock (wall, core): `visits[clock][process][pair]`."""

    visits: tuple[tuple[tuple[Visits, ...], ...], ...]
    peaks: tuple[int, ...]
    seconds_each: float

    @property
    def pairs(self) -> int:
        return len(self.visits[0][0])


@dataclass(frozen=True, slots=True)
class Corpus:
    name: str
    facts: dict[str, Any]
    sessions: tuple[Session, ...]


def main() -> None:
    options = _options()
    rows, corpora = [], [read(path) for path in options.rounds]
    for corpus in corpora:
        for slower in SLOWER:
            rows += [{"corpus": corpus.name, "slower": slower, **row} for row in judged(corpus, slower, options.trials)]
            print(corpus.name, slower, rows[-5:], flush=True)
    found = {
        "trials": options.trials,
        "corpora": [{"name": one.name, **one.facts, **noise(one)} for one in corpora],
        "clocks": rows,
        "memory": [{"corpus": one.name, **row} for one in corpora for row in memory(one, options.trials)],
        "answers": answers(options.trials),
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "gate.json").write_text(json.dumps(found, indent=1) + "\n")
    (OUT / "gate.md").write_text(to_markdown(found))


def read(path: Path) -> Corpus:
    with gzip.open(path, "rt") as stream:
        found = json.load(stream)
    sessions = []
    recorded = found.pop("sessions")
    found["load_average"] = round(statistics.fmean(one["load_average"] for one in recorded), 1)
    for one in recorded:
        visits = tuple(
            tuple(
                tuple(tuple(tuple(ns / 1e9 for ns in visit) for visit in pair[clock][role]) for pair in one["pairs"])
                for role in range(len(ROLES))
            )
            for clock in (0, 1)
        )
        sessions.append(Session(visits, tuple(one["peaks"]), one["seconds"] / len(one["pairs"])))  # type: ignore[arg-type]
    return Corpus(path.name.partition(".")[0], found, tuple(sessions))


def judged(corpus: Corpus, slower: float, trials: int) -> Iterator[dict[str, Any]]:
    """By rule, how many trials fail, pass and stay open, and the seconds that the gate took."""
    scaled = [_scaled(session, slower) for session in corpus.sessions]
    draw = random.Random(f"{corpus.name} {slower}")
    verdicts: list[Verdict] = []
    spent = []
    for _ in range(trials):
        verdict, seconds = gate(corpus.sessions, scaled, draw)
        verdicts.append(verdict)
        spent.append(seconds)
    yield {
        "rule": "mlopt gate, ci-gate",
        **{name: verdicts.count(name) / trials for name in ("fail", "pass", "inconclusive")},  # type: ignore[arg-type]
        "seconds_median": statistics.median(spent),
        "seconds_p95": sorted(spent)[math.ceil(0.95 * trials) - 1],
    }
    for name, rule in gate_rules.RULES.items():
        fails = sum(rule(*gate_rules.drawn(corpus.sessions, draw), 1 + slower) for _ in range(trials))
        yield {"rule": name, "fail": fails / trials, "pass": 1 - fails / trials, "inconclusive": 0.0}


def gate(sessions: Sequence[Session], scaled: Sequence[Session], draw: random.Random) -> tuple[Verdict, float]:
    """The real rule on one drawn run, and on a second one when something fails."""
    runs = []
    for _ in range(2):
        number = draw.randrange(len(sessions))
        each = sessions[number].seconds_each
        ticks = itertools.count()
        stream = drawn_pairs(sessions[number], scaled[number], draw)
        doubted = runs[0].failed if runs else frozenset()
        runs.append(
            watch(
                stream,
                clock_margins(MARGINS),
                seconds=MARGINS.seconds,
                doubted=doubted,
                clock=lambda: next(ticks) * each,  # noqa: B023 - read before the next round of the loop
            )
        )
        if not runs[0].failed:
            break
    found = {settled(runs[0], runs[1] if len(runs) > 1 else None, name) for name in clock_margins(MARGINS)}
    verdict: Verdict = "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"
    return verdict, sum(run.seconds for run in runs)


def drawn_pairs(session: Session, scaled: Session, draw: random.Random) -> Iterator[Pair]:
    """Pairs without end: blocks of neighbours, begun anywhere, with the processes' parts drawn once."""
    parts = draw.sample(range(len(ROLES)), len(ROLES))
    sources = {
        role: (part, scaled if role in ("candidate", "twin") else session)
        for role, part in zip(ROLES, parts, strict=True)
    }
    while True:
        start = draw.randrange(session.pairs)
        for number in range(start, start + BLOCK):
            at = number % session.pairs
            wall, core = (
                {role: source.visits[clock][part][at] for role, (part, source) in sources.items()} for clock in (0, 1)
            )
            yield Pair(wall, core)


def memory(corpus: Corpus, trials: int) -> Iterator[dict[str, Any]]:
    """Peaks of fresh processes, drawn from the recorded ones; more of them where the gate would start more."""
    assert MARGINS.peak_memory is not None
    seen = [peak for session in corpus.sessions for peak in session.peaks]
    draw = random.Random(corpus.name)
    for larger in (0.0, 0.05):
        found = [memory_gate(seen, larger, float(MARGINS.peak_memory), draw)[0] for _ in range(trials)]
        yield {"larger": larger, "fail": found.count("fail") / trials, "spread": max(seen) / min(seen) - 1}


def memory_gate(
    seen: Sequence[int], larger: float, margin: float, draw: random.Random, *, begun: int = 2
) -> tuple[Verdict, int]:
    """The real rule on processes drawn from `seen`, of which a gate has `begun` of each; how many it took of each."""
    processes = Processes()
    missing = begun
    while missing:
        processes.baseline.peaks += draw.choices(seen, k=missing)
        processes.candidate.peaks += [round(peak * (1 + larger)) for peak in draw.choices(seen, k=missing)]
        missing = processes.missing(margin)
    return processes.check(margin).verdict, len(processes.candidate.peaks)


def answers(trials: int) -> list[dict[str, Any]]:
    """2000 samples; by chance up to ten answers are lost and ten won, and the worse model loses 20 more: one point."""
    random_ = np.random.default_rng(0)
    rows = []
    for lost in (0, 20):
        fails = 0
        for _ in range(trials):
            before = random_.random(2000) < 0.8
            after = before.copy()
            gone = lost + random_.binomial(10, 0.5)
            after[random_.choice(np.flatnonzero(before), gone, replace=False)] = False
            after[random_.choice(np.flatnonzero(~before), random_.binomial(10, 0.5), replace=False)] = True
            found = compare_answers(Right("s", before), Right("s", after), 0.005)
            fails += getattr(found, "verdict", "") == "fail"
        rows.append({"lost": lost, "fail": fails / trials})
    return rows


def noise(corpus: Corpus) -> dict[str, float]:
    """Median absolute deviation of a pair's log ratio, of the clock and of the time on a core."""
    found = {}
    for clock, name in enumerate(("latency", "cpu")):
        ratios = []
        for session in corpus.sessions:
            for at in range(session.pairs):
                logs = [
                    statistics.fmean(math.log(statistics.median(visit)) for visit in process[at])
                    for process in session.visits[clock]
                ]
                ratios.append((logs[1] + logs[2] - logs[0] - logs[3]) / 2)
        middle = statistics.median(ratios)
        found[f"deviation_{name}"] = statistics.median(abs(one - middle) for one in ratios)
    return {**found, "sessions": len(corpus.sessions), "pairs": sum(one.pairs for one in corpus.sessions)}


def to_markdown(found: dict[str, Any]) -> str:
    lines = ["# False alarms and power of gates", "", f"`{_command(found)}`", "", _SAYS.format(**found), ""]
    heads = ["corpus", "machine", "model", "busy loops beside it", "load average", "sessions", "pairs"]
    lines += [f"| {' | '.join(heads)} | deviation of a pair: latency, on a core |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for one in found["corpora"]:
        ran = f"{one['model']}, onnxruntime {one['onnxruntime']}"
        counts = f"{one['strangers']} | {one['load_average']} | {one['sessions']} | {one['pairs']}"
        deviations = f"{one['deviation_latency']:.1%}, {one['deviation_cpu']:.1%}"
        lines.append(f"| {one['name']} | {one['machine']} | {ran} | {counts} | {deviations} |")
    heads = ["corpus", "rule", "false alarms", "+5 % fails", "+10 % fails", "A/A passes", "+5 % passes", "A/A takes"]
    lines += ["", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    ordered = sorted(found["clocks"], key=lambda row: (row["corpus"], not row["rule"].startswith("mlopt"), row["rule"]))
    for (corpus, rule), rows in itertools.groupby(ordered, key=lambda row: (row["corpus"], row["rule"])):
        by = {row["slower"]: row for row in rows}
        took = f"{by[0.0]['seconds_median']:.0f} s" if "seconds_median" in by[0.0] else ""
        cells = [f"{by[slower]['fail']:.1%}" for slower in SLOWER]
        cells += [f"{by[slower]['pass']:.1%}" for slower in SLOWER[:2]]
        lines.append(f"| {corpus} | {rule} | {' | '.join(cells)} | {took} |")
    lines += ["", "What neither fails nor passes is inconclusive; the other rules know no such verdict.", ""]
    lines += ["| what | seeded | fails |", "|---|---|---|"]
    for row in found["memory"]:
        lines.append(f"| peak memory, {row['corpus']} | +{row['larger']:.0%} | {row['fail']:.1%} |")
    for row in found["answers"]:
        lines.append(f"| top-1, 2000 samples, {_CHURN} | {row['lost']} lost | {row['fail']:.1%} |")
    lines.append("| file size, margin of nothing | one byte | 100 %, counted |")
    return "\n".join(lines) + "\n"


_CHURN = "up to 20 answers changed by chance"
_SAYS = (
    "Real: the clock and the peak memory of every recorded query and process. Resampled: {trials} gates for each row, "
    "drawn from those rounds in blocks of ten; a slow-down multiplies the candidate's times. Every rule sees the same "
    "sessions: those that compare with a stored figure take it from another session, the U test takes one half of a "
    "session after the other. `mlopt gate` errs at the margin itself (2.5 %) in at most 1 % for each direction and run."
)


def _command(found: dict[str, Any]) -> str:
    files = " ".join(f"reports/published/gate-rounds/{one['name']}.json.gz" for one in found["corpora"])
    return f"python benchmarks/gate.py {files} --trials {found['trials']}"


def _scaled(session: Session, slower: float) -> Session:
    factor = 1 + slower
    visits = tuple(
        tuple(tuple(tuple(tuple(s * factor for s in visit) for visit in pair) for pair in process) for process in clock)
        for clock in session.visits
    )
    return Session(visits, session.peaks, session.seconds_each)  # type: ignore[arg-type]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", type=Path, nargs="+")
    parser.add_argument("--trials", type=int, default=1000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
