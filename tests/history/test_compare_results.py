"""Two results side by side: what is compared, what is not, and what is said of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from history.histories import entry

from mlopt.errors import ConfigInvalid, ModelNotFound
from mlopt.history.compare import Match, compare, read_result
from mlopt.history.compared_text import to_terminal, word
from mlopt.history.entry import Entry, Number, line_of

NUMBERS = {
    "relative-latency": Number(0.50, 0.49, 0.51),
    "latency-p50": Number(0.01),
    "peak-memory": Number(1e8),
    "file-size": Number(4e6),
    "top1": Number(0.7),
}


def side(**given: object) -> Entry:
    numbers = {**NUMBERS, **given.pop("numbers", {})}  # type: ignore[dict-item]
    facts = {"samples": "the same", **given}
    return entry(0, model="net.onnx", baseline="sha256:aa", numbers=numbers, **facts)


def match(before: Entry, after: Entry) -> Match:
    (found,) = compare([before], [after]).matches
    return found


def reasons(found: Match) -> dict[str, str]:
    return {metric: left.reason for left in found.left for metric in left.metrics}


def test_all_but_clocks_is_compared_where_all_else_is_the_same() -> None:
    found = match(side(), side(numbers={"relative-latency": Number(0.6, 0.59, 0.61), "file-size": Number(3e6)}))
    pairs = {pair.metric: pair for pair in found.pairs}
    assert set(pairs) == set(NUMBERS) - {"latency-p50"}
    assert "54 %" in reasons(found)["latency-p50"]
    ratio = pairs["relative-latency"].ratio
    assert ratio
    assert ratio.value == pytest.approx(1.2)
    assert (ratio.low, ratio.high) == pytest.approx((0.59 / 0.51, 0.61 / 0.49))
    assert [word(pairs[name]) for name in ("relative-latency", "file-size", "top1")] == ["worse", "better", ""]


def test_what_both_intervals_allow_is_undecided() -> None:
    found = match(side(), side(numbers={"relative-latency": Number(0.505, 0.50, 0.52)}))
    assert word(found.pairs[0]) == "undecided"


@pytest.mark.parametrize(
    ("change", "metrics", "reason"),
    [
        ({"device": "Other CPU, 4 cores"}, {"relative-latency", "peak-memory"}, "another machine"),
        ({"threads": 2}, {"relative-latency", "peak-memory"}, "another threads: 1 and 2"),
        ({"baseline": "sha256:cc"}, {"relative-latency"}, "another baseline beside it"),
        ({"samples": "others"}, {"top1"}, "another samples"),
        ({"versions": {"onnxruntime": "9.9"}}, {"peak-memory"}, "another onnxruntime: 1.30.0 and 9.9"),
    ],
)
def test_what_cannot_be_compared_is_said(change: dict[str, object], metrics: set[str], reason: str) -> None:
    changed = dataclasses.replace(side(), **change)  # type: ignore[arg-type]
    found = {name: why for name, why in reasons(match(side(), changed)).items() if name != "latency-p50"}
    assert set(found) == metrics
    assert all(why.startswith(reason) for why in found.values())


def test_models_are_matched_by_name() -> None:
    one, other = (dataclasses.replace(side(), model=name) for name in ("a", "b"))
    found = compare([one, other], [other])
    assert [pair.before.model for pair in found.matches] == ["b"]
    assert found.only_before == ("a",)
    shown = to_terminal(found, width=100)
    assert "only in A: a" in shown
    assert "b: the same bytes" in shown


def test_lines_of_a_history_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(line_of(side()) + "\n" + line_of(dataclasses.replace(side(), model="x")) + "\n")
    assert [one.model for one in read_result(tmp_path / "a.jsonl")] == ["net.onnx", "x"]
    (tmp_path / "one.json").write_text(line_of(side()))
    assert read_result(tmp_path / "one.json") == [side()]


def test_what_is_no_result_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no bundle"):
        read_result(tmp_path)
    with pytest.raises(ModelNotFound, match="no readable result"):
        read_result(tmp_path / "absent.json")
    path = tmp_path / "x.json"
    for content, said in (
        ("{}", "no result of mlopt"),
        ("[1]", "no result of mlopt"),
        ("not json", "no JSON"),
        (json.dumps({"kind": "mlopt-bench", "schema": 2}), "schema 2"),
        (json.dumps({"kind": "mlopt-bench", "schema": 1, "models": [{}]}), "no result of mlopt"),
    ):
        path.write_text(content)
        with pytest.raises(ConfigInvalid, match=said):
            read_result(path)
