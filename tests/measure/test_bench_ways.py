"""Several batches and numbers of threads in one `mlopt bench`: who is who, per sample, and nothing twice."""

from __future__ import annotations

import json
from pathlib import Path

import nets
import pytest
import walks

from mlopt.measure.bench import bench
from mlopt.measure.ways import labels
from mlopt.profile import Method
from mlopt.units import Seconds


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ways")
    nets.save(nets.conv_net(side=32), folder / "net.onnx")
    walks.profile(folder)
    return folder


def test_every_batch_is_measured_with_every_number_of_threads(place: Path) -> None:
    asked = (
        "bench",
        "net.onnx",
        "-p",
        "./fast.toml",
        "--batch",
        "1",
        "--batch",
        "8",
        "--threads",
        "1",
        "--threads",
        "2",
    )
    files = ("--openmetrics", "net.txt", "--junit", "net.xml", "--history", "net.db")
    ended = walks.mlopt(*asked, "-q", "--json", *files, cwd=place)
    assert ended.returncode == 0, ended.stderr
    taken = [one["measurement"] for one in json.loads(ended.stdout)["models"]]
    assert [(one["threads"], one["batch"]) for one in taken] == [(1, 1), (1, 8), (2, 1), (2, 8)]
    assert 'batch="8",threads="2"' in (place / "net.txt").read_text()
    assert (place / "net.xml").read_text().count('name="mlopt bench net.onnx (batch 8, 2 threads)"') == 1
    lines = walks.mlopt("history", "export", "--history", "net.db", cwd=place).stdout.splitlines()
    assert [entry["batch"] for entry in map(json.loads, lines)] == [1, 8, 1, 8]
    assert not any("relative-latency" in line for line in lines), "none of them was asked as the first was"


def test_speed_is_compared_per_sample(place: Path) -> None:
    found = bench([place / "net.onnx"], method=Method(rounds=6, seconds=Seconds(2.0)), device="d", batches=(1, 16))
    one, many = (found.labelled[f"{place / 'net.onnx'} (batch {batch})"] for batch in (1, 16))
    assert many.latency.p50 > 2 * one.latency.p50, "sixteen samples take longer than one"
    assert many.speedup.value == pytest.approx(16 * one.latency.p50 / many.latency.p50, rel=0.5)
    assert many.latency.p50_high >= many.latency.p50


def test_the_batch_of_the_offline_scenario_is_the_one_asked_for(place: Path) -> None:
    ended = walks.mlopt(
        "bench", "net.onnx", "-p", "./fast.toml", "--scenario", "offline", "--batch", "3", "-q", "--json", cwd=place
    )
    (one,) = json.loads(ended.stdout)["models"]
    assert (one["measurement"]["batch"], one["measurement"]["offline_batch"]) == (3, 3)


def test_the_terminal_names_each_and_keeps_to_its_width(place: Path) -> None:
    (place / "a-folder-with-a-long-name").mkdir(exist_ok=True)
    model = nets.save(nets.conv_net(side=32), place / "a-folder-with-a-long-name" / "net.onnx")
    ended = walks.mlopt(
        "bench", str(model.relative_to(place)), "-p", "./fast.toml", "--batch", "2", "--batch", "4", "-q", cwd=place
    )
    said = " ".join(ended.stdout.split())
    assert "batch 2 and 4, 1 thread," in said
    assert "speed-ups are per sample" in said
    assert ended.stdout.count("a-folder-with-a-long-name/net.onnx (batch 4)\n") == 2
    assert all(len(line) <= 100 for line in ended.stdout.splitlines())


def test_what_would_be_measured_twice_is_an_error(place: Path) -> None:
    for asked in (("--batch", "4", "--batch", "4"), ("--threads", "2", "--threads", "2")):
        ended = walks.mlopt("bench", "net.onnx", "-p", "./fast.toml", *asked, "-q", cwd=place)
        assert ended.returncode == 2
        assert "would be measured twice" in ended.stderr


def test_names_tell_only_what_differs() -> None:
    assert labels([("a", "onnxruntime", 1, 1), ("b", "openvino", 1, 1)]) == ["a", "b"]
    assert labels([("a", "onnxruntime", 1, 1), ("a", "openvino", 1, 1)]) == ["a (onnxruntime)", "a (openvino)"]
    both = [("a", "onnxruntime", batch, threads) for threads in (1, 2) for batch in (1, 8)]
    assert labels(both)[-1] == "a (batch 8, 2 threads)"
