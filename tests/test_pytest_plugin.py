"""The plug-in for pytest, in a pytest of its own: what passes, fails, is skipped, and what is read of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from nets import conv_net, save

pytest_plugins = "pytester"

TEST = """
def test_net(mlopt_gate):
    result = mlopt_gate("net.onnx")
    assert result.measured["file-size"] > 0
"""
PROFILE = 'schema = 1\nsummary = "for tests"\n[method]\nwarm-up = 1\nrounds = 4\nseconds = "0.3s"\n'


@pytest.fixture
def place(pytester: pytest.Pytester) -> pytest.Pytester:
    save(conv_net(), pytester.path / "net.onnx")
    (pytester.path / "fast.toml").write_text(PROFILE)
    pytester.makepyfile(TEST)
    return pytester


def run(place: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return place.runpytest_subprocess("--mlopt-profile", "./fast.toml", "-ra", *arguments)


def rebuilt(path: Path) -> Path:
    model = conv_net()
    model.doc_string = "built again"
    return save(model, path)


def test_the_same_model_passes_and_is_told_of(place: pytest.Pytester) -> None:
    ended = run(place, "--mlopt-baseline", "net.onnx", "--junit-xml", "out.xml")
    ended.assert_outcomes(passed=1)
    ended.stdout.fnmatch_lines(["*= mlopt gate =*", "PASS: net.onnx is not worse than net.onnx*"])
    assert 'name="mlopt_gate" value="PASS' in (place.path / "out.xml").read_text()


def test_a_missed_budget_fails_the_test_with_its_table(place: pytest.Pytester) -> None:
    (place.path / "fast.toml").write_text(PROFILE + '[budgets]\nfile-size = "1kB"\n')
    ended = run(place, "--mlopt-baseline", "net.onnx")
    ended.assert_outcomes(failed=1)
    ended.stdout.fnmatch_lines(["FAIL: net.onnx against net.onnx: file-size (budget)*", "file-size (budget)*FAIL"])
    assert "Traceback" not in ended.stdout.str()


def test_what_nobody_can_tell_is_skipped_or_fails_where_that_is_asked(place: pytest.Pytester) -> None:
    rebuilt(place.path / "before.onnx")
    (place.path / "fast.toml").write_text(PROFILE + '[gate]\nseconds = "1ms"\n')
    ended = run(place, "--mlopt-baseline", "before.onnx")
    ended.assert_outcomes(skipped=1)
    ended.stdout.fnmatch_lines(["*INCONCLUSIVE: net.onnx against before.onnx*"])
    run(place, "--mlopt-baseline", "before.onnx", "--mlopt-strict").assert_outcomes(failed=1)


def test_without_a_baseline_it_is_skipped(place: pytest.Pytester) -> None:
    ended = run(place)
    ended.assert_outcomes(skipped=1)
    ended.stdout.fnmatch_lines(["*give --mlopt-baseline*"])


def test_a_folder_holds_baselines_by_name(place: pytest.Pytester) -> None:
    (place.path / "released").mkdir()
    save(conv_net(), place.path / "released" / "net.onnx")
    run(place, "--mlopt-baseline", "released").assert_outcomes(passed=1)
    (place.path / "released" / "net.onnx").unlink()
    ended = run(place, "--mlopt-baseline", "released")
    ended.assert_outcomes(failed=1)
    ended.stdout.fnmatch_lines(["*There is no baseline at this path*"])


def test_the_ini_file_names_what_the_command_line_would(place: pytest.Pytester) -> None:
    place.makeini("[pytest]\nmlopt_baseline = net.onnx\nmlopt_profile = fast.toml\n")
    place.runpytest_subprocess().assert_outcomes(passed=1)


def test_what_cannot_be_read_fails_with_one_clear_error(place: pytest.Pytester) -> None:
    (place.path / "net.onnx").write_bytes(b"")
    ended = run(place, "--mlopt-baseline", "net.onnx")
    ended.assert_outcomes(failed=1)
    ended.stdout.fnmatch_lines(["mlopt_gate: *"])
    assert "Traceback" not in ended.stdout.str()


def test_gates_are_recorded_where_the_environment_says(place: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlopt.history.shelf import History

    monkeypatch.setenv("MLOPT_HISTORY", str(place.path / "h.db"))
    run(place, "--mlopt-baseline", "net.onnx").assert_outcomes(passed=1)
    with History(place.path / "h.db") as history:
        assert [one.verb for one in history.entries()] == ["gate"]


def test_the_plug_in_loads_nothing_but_pytest(place: pytest.Pytester) -> None:
    place.makepyfile(
        "import sys\ndef test_loaded():\n"
        "    assert 'mlopt.pytest_plugin' in sys.modules\n"
        "    assert not {'numpy', 'onnx', 'onnxruntime', 'click'} & set(sys.modules)\n"
    )
    place.runpytest_subprocess().assert_outcomes(passed=1)
