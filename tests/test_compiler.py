"""The whole walk on the command line: small real models in, judged bundles out."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import nets
import onnx
import pytest
import walks
from walks import compiled, run, small_place

from mlopt.image.fetch import Inputs
from mlopt.measure import json_schema

SCHEMAS = Path(__file__).parents[1] / "mlopt" / "report" / "schemas"
RECIPES = ("--recipe", "fp32", "--recipe", "int8-static")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_place(tmp_path_factory.mktemp("walk"))


def shipped(report: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in report["candidates"] if one["name"] == report["winner"])
    return found


def test_labels_give_a_winner_with_its_paired_drop(place: Path, tmp_path: Path) -> None:
    report, folder = compiled(place, "--samples", "samples.npz", "-p", "./small.toml", *RECIPES, out=tmp_path)
    assert report["samples"]["labelled"] is True
    assert report["samples"]["calibration"] + report["samples"]["evaluation"] == 48
    by_name = {one["name"]: one for one in report["candidates"]}
    assert set(by_name) == {"baseline", "fp32", "int8-static"}
    quantized = by_name["int8-static"]
    assert quantized["file_size"] < by_name["baseline"]["file_size"] / 2
    drop = quantized["accuracy"]["drop"]
    assert drop["low"] <= drop["value"] <= drop["high"]
    assert by_name["baseline"]["accuracy"]["top1"] == 1.0, "the labels are its own answers"
    for one in by_name.values():
        assert one["measurement"]["grade"] == "measured"
        assert one["why_not"] or one["name"] == report["winner"], "whoever does not ship has a reason"
    assert (folder / "model" / "model.onnx").is_file()
    onnx.checker.check_model(str(folder / "model" / "model.onnx"))


def test_the_baseline_agrees_with_itself_however_few_samples_there_are(place: Path, tmp_path: Path) -> None:
    strict = walks.profile(tmp_path, 'max-drop = "0%"\nmin-agreement = "100%"', name="strict")
    report, _ = compiled(place, "-p", strict, "--samples", "samples.npz", *RECIPES, out=tmp_path)
    assert report["winner"] == "baseline"
    assert [verdict["outcome"] for verdict in shipped(report)["verdicts"]] == ["met"]


def test_every_file_of_the_bundle_is_what_the_manifest_says(place: Path, tmp_path: Path) -> None:
    _, folder = compiled(place, "--samples", "samples.npz", *RECIPES, out=tmp_path)
    manifest = json.loads((folder / "bundle.json").read_text())
    listed = {folder / name for name in manifest["files"]}
    assert listed == {path for path in folder.rglob("*") if path.is_file()} - {folder / "bundle.json"}
    for path in listed:
        facts = manifest["files"][path.relative_to(folder).as_posix()]
        assert facts == {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    assert manifest["status"] == "measured"


def test_reports_follow_the_schemas_that_ship(place: Path, tmp_path: Path) -> None:
    report, folder = compiled(place, "--samples", "samples.npz", *RECIPES, out=tmp_path)
    for name in ("report", "variants"):
        schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
        jsonschema.validate(json.loads((folder / f"{name}.json").read_text()), schema)
    assert json.loads((folder / "report.json").read_text()) == report
    assert "<svg" in (folder / "report.html").read_text()
    assert 'src="http' not in (folder / "report.html").read_text(), "the page opens offline"
    assert "int8-static" in (folder / "report.md").read_text()


def test_without_samples_it_says_so_and_does_not_calibrate(place: Path, tmp_path: Path) -> None:
    ended = run(place, "compile", "net.onnx", "-p", "./fast.toml", "--no-image", "-o", tmp_path)
    assert ended.returncode == 0, ended.stderr
    words = " ".join(ended.stdout.split())
    assert "No accuracy was measured" in words
    assert "Give --samples to know it" in words
    left_out, _, reason = words.partition("left out ")[2].partition(": it needs samples to observe ranges on")
    assert reason, "one reason, once for all who share it"
    assert {"int8-static", "int8-mixed", "openvino-int8"} <= set(left_out.replace(",", "").split())
    report = json.loads((tmp_path / "net" / "host" / "report.json").read_text())
    assert report["samples"] is None
    assert all(one["accuracy"]["generated"] for one in report["candidates"] if one["accuracy"])


def test_another_machine_is_unmeasured_and_gets_the_baseline(place: Path, tmp_path: Path) -> None:
    report, folder = compiled(place, "--samples", "samples.npz", "-t", "rpi5", *RECIPES, out=tmp_path)
    assert report["winner"] == "baseline"
    assert all(one["measurement"] is None for one in report["candidates"])
    assert {one["accuracy"]["grade"] for one in report["candidates"]} == {"estimated"}
    assert json.loads((folder / "bundle.json").read_text())["status"] == "unmeasured"


def test_ship_ships_what_was_asked_for(place: Path, tmp_path: Path) -> None:
    asked = ("--samples", "samples.npz", "-t", "rpi5", "--recipe", "fp32", "--ship", "int8-static")
    report, folder = compiled(place, *asked, out=tmp_path)
    assert report["winner"] == "int8-static"
    assert "asked for by name" in report["why"]
    operators = {node.op_type for node in onnx.load(str(folder / "model" / "model.onnx")).graph.node}
    assert "QuantizeLinear" in operators


@pytest.mark.slow
def test_what_waits_is_made_and_timed_beside_its_rivals_or_left_out_with_the_reason(
    place: Path, tmp_path: Path
) -> None:
    given = ("compile", "net.onnx", "--samples", "samples.npz", "-p", "./fast.toml", "--no-image")
    planned = json.loads(run(place, *given, "--dry-run", "--json").stdout)
    waits_for = {one["name"]: one["waits_for"] for one in planned["candidates"] if one["waits_for"]}
    assert (waits_for["int8-mixed"], waits_for["int8-repaired"]) == ("int8-repaired", "int8-static")
    report, _ = compiled(place, "--samples", "samples.npz", out=tmp_path)
    made = {one["name"]: one for one in report["candidates"]}
    left = {one["recipe"]: one["reason"] for one in report["left_out"]}
    timed = [one for one in report["steps"] if one["step"] == "measure"]
    assert 1 <= len(timed) <= 3, "one for each wave that brought something new"
    assert (len(timed) > 1) == any(made[name]["measurement"] for name in waits_for.keys() & made.keys())
    for name in waits_for:
        assert (name in made) != (name in left)
        assert name in made or any(reference in left[name] for reference in waits_for.values())


def test_all_are_made_where_speed_is_not_the_goal(place: Path, tmp_path: Path) -> None:
    report, _ = compiled(place, "--samples", "samples.npz", "-p", "./small.toml", out=tmp_path)
    assert {"int8-repaired", "int8-mixed", "int8-static-percentile"} <= {one["name"] for one in report["candidates"]}
    assert len([one for one in report["steps"] if one["step"] == "measure"]) == 1


def test_several_targets_one_bundle_and_one_line_of_json_each(place: Path, tmp_path: Path) -> None:
    asked = (
        "-p",
        "./fast.toml",
        "--no-image",
        "--json",
        "-q",
        "-o",
        tmp_path,
        "-t",
        "host",
        "-t",
        "jetson",
        *RECIPES[:2],
    )
    ended = run(place, "compile", "net.onnx", *asked)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == "", "-q prints nothing but errors"
    names = [json.loads(line)["target"]["name"] for line in ended.stdout.splitlines()]
    assert len(names) == 2
    assert sorted(path.name for path in (tmp_path / "net").iterdir() if path.is_dir()) == sorted(names)
    manifest = json.loads((tmp_path / "net" / names[1] / "bundle.json").read_text())
    assert manifest["status"] == "needs-device-build"


def test_what_ships_is_looked_at_inside_beside_the_baseline(place: Path, tmp_path: Path) -> None:
    report, folder = compiled(place, "--samples", "samples.npz", *RECIPES, out=tmp_path)
    insight = report["insight"]
    assert [one["candidate"] for one in insight["anatomies"]] == list(dict.fromkeys(["baseline", report["winner"]]))
    for one in insight["anatomies"]:
        assert one["why_not"] == ""
        layers = one["layers"]
        assert 0 < sum(layer["seconds"] for layer in layers["layers"]) <= layers["seconds"]
        assert {"conv1", "conv2", "head"} <= {node for layer in layers["layers"] for node in layer["nodes"]}
    assert {peak["kind"] for peak in insight["peaks"]["peaks"]} == {"fp32", "int8", "memory", "cache"}
    page = (folder / "report.html").read_text()
    assert all(f'id="{name}"' in page for name in ("cumulative", "memory", "layers", "roofline"))


def test_the_same_ships_without_a_look_inside(place: Path, tmp_path: Path) -> None:
    asked = ("--recipe", "fp32", "--ship", "fp32", "--no-inside")
    report, folder = compiled(place, *asked, out=tmp_path)
    assert report["insight"] is None
    assert report["winner"] == "fp32"
    assert "--no-inside" in (folder / "repro.sh").read_text()
    assert not {"look inside", "measure-peaks"} & {step["step"] for step in report["steps"]}


def test_a_second_run_does_no_step_twice(place: Path, tmp_path: Path) -> None:
    asked = ("--samples", "samples.npz", *RECIPES)
    compiled(place, *asked, out=tmp_path)
    report, _ = compiled(place, *asked, out=tmp_path)
    clocks = ("measure", "look inside")
    steps = {step["step"]: step["cached"] for step in report["steps"] if step["step"] not in clocks}
    assert {"normalize-onnx", "quantize-static", "evaluate"} <= steps.keys()
    assert all(steps.values()), steps


def test_repro_gives_the_same_model_again(place: Path, tmp_path: Path) -> None:
    """With another store, from another folder, and with a recipe and a profile of the user's own."""
    (tmp_path / "mine.toml").write_text(
        'schema = 1\nsummary = "x"\nprecision = "int8"\nneeds-samples = true\n'
        '[[step]]\nname = "quantize-static"\nscheme = "auto"\ncalibrator = "percentile"\n'
    )
    limits = ("--max-latency", "1min", "--max-memory", "9GB", "--max-size", "9MB", "--max-image-size", "9GB")
    more = ("--max-drop", "99.5%", *limits, "--threads", "2", "--seed", "3", "--calibration", "9")
    asked = ("--samples", "samples.npz", "--ship", tmp_path / "mine.toml", "--recipe", tmp_path / "mine.toml", *more)
    report, folder = compiled(place, *asked, out=tmp_path / "one")
    assert report["winner"] == "mine"
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLOPT_CACHE_DIR": str(tmp_path / "other store"),
    }
    again = [str(folder / "repro.sh"), "-q", "--out", str(tmp_path / "two")]
    subprocess.run(again, cwd=tmp_path, env=env, check=True, capture_output=True, timeout=120)
    first, second = (
        json.loads((tmp_path / one / "net" / "host" / "bundle.json").read_text()) for one in ("one", "two")
    )
    assert second["winner"]["digest"] == first["winner"]["digest"]
    assert [(one["budget"], one["limit"]) for one in second["verdicts"]] == [
        *(("latency-p50", 60), ("peak-memory", 9e9), ("file-size", 9e6), ("image-size", 9e9), ("max-drop", 0.995)),
    ]
    assert second["files"]["model/model.onnx"] == first["files"]["model/model.onnx"]


@pytest.mark.slow
def test_repro_gives_the_same_image_again(place: Path, tmp_path: Path, image_inputs: Inputs) -> None:
    digests = []
    for store in ("one", "two"):
        walks.borrow_inputs(image_inputs, tmp_path / store)
        asked = ("--recipe", "fp32", "--ship", "fp32", "-q", "-o", tmp_path / store / "out")
        env = {"MLOPT_CACHE_DIR": str(tmp_path / store)}
        ended = walks.mlopt("compile", "net.onnx", "-p", "./fast.toml", *asked, cwd=place, env=env, limit=400)
        assert ended.returncode == 0, ended.stderr
        manifest = json.loads((tmp_path / store / "out" / "net" / "host" / "bundle.json").read_text())
        digests.append(manifest["image"]["digest"])
    assert digests[0] == digests[1]


def test_plain_text_without_colour_within_80_columns(place: Path, tmp_path: Path) -> None:
    asked = ("-p", "./fast.toml", "--samples", "samples.npz", "--no-image", "--no-color", "-o", tmp_path, *RECIPES)
    ended = run(place, "compile", "net.onnx", *asked)
    assert ended.returncode == 0
    assert "\x1b" not in ended.stdout + ended.stderr
    paths = ("bundle", "report")
    assert [line for line in ended.stdout.splitlines() if len(line) > 80 and not line.startswith(paths)] == []
    assert all(line.startswith("  · ") for line in ended.stderr.splitlines()), "no library talks on stderr"


def test_dry_run_prints_the_plan_and_makes_nothing(place: Path, tmp_path: Path) -> None:
    ended = run(place, "compile", "net.onnx", "--dry-run", "-o", tmp_path / "none", "-p", "./fast.toml")
    assert ended.returncode == 0
    assert "nothing was built" in ended.stdout
    assert "int8-static" in ended.stdout.split("left out:")[1]
    assert not (tmp_path / "none").exists()
    as_json = run(place, "compile", "net.onnx", "--dry-run", "--json")
    plan = json.loads(as_json.stdout)
    assert plan["candidates"][0]["name"] == "baseline"
    assert all(left["reason"] for left in plan["left_out"])


def test_a_model_that_is_no_classifier_and_has_no_images(tmp_path: Path) -> None:
    nets.save(nets.matmul_net(), tmp_path / "net.onnx")
    walks.profile(tmp_path, "min-cosine = 0.9")
    report, _ = compiled(tmp_path, out=tmp_path / "out")
    assert {"int8-dynamic", "int4-weights"} <= {one["name"] for one in report["candidates"]}


def test_export_writes_beside_other_files_and_not_over_them(place: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "model.onnx").write_text("mine too")
    for out in (tmp_path, place / "net.onnx"):
        ended = run(place, "export", "net.onnx", "-o", out)
        assert ended.returncode == 2, ended.stderr
    assert (tmp_path / "model.onnx").read_text() == "mine too"
    assert run(place, "export", "net.onnx", "-o", tmp_path / "net.onnx").returncode == 0
    onnx.checker.check_model(str(tmp_path / "net.onnx"))
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.openvino
def test_a_winner_in_openvino_is_served_and_timed_in_openvino(place: Path, tmp_path: Path) -> None:
    recipes = ("--recipe", "openvino-int8", "--ship", "openvino-int8")
    report, folder = compiled(place, "--samples", "samples.npz", *recipes, out=tmp_path)
    assert {one["name"]: one["measurement"]["runtime"] for one in report["candidates"]} == {
        "baseline": "onnxruntime",
        "openvino-int8": "openvino",
    }
    assert shipped(report)["accuracy"]["drop"]["value"] < 0.2
    assert json.loads((folder / "model" / "serving.json").read_text())["runtime"] == "openvino"
    measured = run(place, "bench", "net.onnx", folder, "-p", "./fast.toml", "--json", "-q")
    assert measured.returncode == 0, measured.stderr
    found = {one["model"]: one["measurement"]["runtime"] for one in json.loads(measured.stdout)["models"]}
    assert found == {"net.onnx": "onnxruntime", str(folder): "openvino"}


def test_quantize_and_inspect_and_bench(place: Path, tmp_path: Path) -> None:
    asked = ("--samples", "samples.npz", "-o", tmp_path, "--json", "-q", "--project", place / "quick.toml")
    (place / "quick.toml").write_text(f'schema = 1\n[compile]\nprofile = "{place / "fast.toml"}"\n')
    ended = run(place, "quantize", "net.onnx", *asked)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["winner"] == "int8-static"
    shown = run(place, "inspect", tmp_path / "net" / "host")
    assert "int8-static" in shown.stdout
    measured = run(place, "bench", "net.onnx", tmp_path / "net" / "host", "-p", "./fast.toml", "--json", "-q")
    assert measured.returncode == 0, measured.stderr
    found = json.loads(measured.stdout)
    assert [one["model"] for one in found["models"]] == ["net.onnx", str(tmp_path / "net" / "host")]
    jsonschema.validate(found, json.loads(json_schema.FILE.read_text()))
    assert json_schema.FILE.read_text() == json_schema.text(), "run: python -m mlopt.measure.json_schema"
