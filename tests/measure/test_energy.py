"""Energy: real counters where the machine has them, and folders laid out as the kernel's for their arithmetic."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from nets import conv_net, save

from mlopt.artifact import ONNX, Artifact, digest_of
from mlopt.measure.alone import loaded
from mlopt.measure.bench import bench
from mlopt.measure.energy import Rapl, counters, since, spent
from mlopt.measure.interleave import Subject
from mlopt.measure.text import to_terminal
from mlopt.profile import Method
from mlopt.units import Seconds

RANGE = 262_143_328_850  # microjoules, as a server's processor says


def powercap(root: Path, **zones: tuple[str, int]) -> Path:
    """A folder for each zone, by its number: name and counter."""
    for number, (name, energy) in zones.items():
        folder = root / "sys/class/powercap" / f"intel-rapl:{number.removeprefix('z').replace('_', ':')}"
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{energy}\n")
        (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return root / "sys/class/powercap"


def test_packages_are_counted_once_and_cores_within_them_not_again(tmp_path: Path) -> None:
    powercap(tmp_path, z0=("package-0", 1_000_000), z1=("package-1", 2_500_000), z0_0=("core", 1), z2=("psys", 9))
    found, why = counters(gpu="", root=tmp_path)
    assert [(one.name, one.read()) for one in found] == [("RAPL package-0", 1.0), ("RAPL package-1", 2.5)]
    assert not why


def test_a_counter_that_begins_anew_is_read_across_that(tmp_path: Path) -> None:
    zones = powercap(tmp_path, z0=("package-0", RANGE - 2_000_000))
    (counter,), _ = counters(gpu="", root=tmp_path)
    assert isinstance(counter, Rapl)
    before = counter.read()
    (zones / "intel-rapl:0/energy_uj").write_text("3000000\n")
    assert since(counter, before) == pytest.approx(5.0, abs=1e-3)
    (zones / "intel-rapl:0/energy_uj").write_text(f"{RANGE - 1_000_000}\n")
    assert since(counter, before) == pytest.approx(1.0, abs=1e-3)


def test_without_a_counter_it_is_said_why(tmp_path: Path) -> None:
    found, why = counters(gpu="", root=tmp_path)
    assert not found
    assert "no counter" in why
    zones = powercap(tmp_path, z0=("package-0", 1))
    (zones / "intel-rapl:0/energy_uj").unlink()
    (zones / "intel-rapl:0/energy_uj").mkdir()  # not even root reads a folder
    found, why = counters(gpu="", root=tmp_path)
    assert not found
    assert "only root" in why


def test_a_query_costs_what_it_adds_to_rest(tmp_path: Path) -> None:
    """The counter is a file that a thread raises by 10 W, and the worker a real one: nothing is above rest."""
    zones = powercap(tmp_path, z0=("package-0", 0))
    save(conv_net(), tmp_path / "model.onnx")
    subject = Subject("net", Artifact(ONNX, digest_of(tmp_path / "model.onnx"), tmp_path / "model.onnx"), "onnxruntime")
    ended, began = threading.Event(), time.perf_counter()

    def raise_it() -> None:
        while not ended.wait(0.001):
            new = zones / "new"
            new.write_text(str(int(10e6 * (time.perf_counter() - began))))
            new.replace(zones / "intel-rapl:0/energy_uj")

    thread = threading.Thread(target=raise_it)
    thread.start()
    try:
        given, _ = counters(gpu="", root=tmp_path)
        feeds = [{"image": np.zeros((1, 3, 32, 32), np.float32)}]
        with loaded(subject, feeds, threads=1) as worker:
            found = spent(worker, given, busy=0.3, idle=0.3)
    finally:
        ended.set()
        thread.join()
    assert found.idle == pytest.approx(10, rel=0.2)
    assert found.busy == pytest.approx(10, rel=0.2)
    assert abs(found.joules) * found.queries < 3 * found.seconds
    assert found.queries > 1


def test_bench_tells_energy_or_why_not(tmp_path: Path) -> None:
    model = save(conv_net(), tmp_path / "net.onnx")
    found = bench([model], method=Method(rounds=3, seconds=Seconds(0.5)), device="d")
    (one,) = found.models
    said = to_terminal(found, width=300)
    if counters(gpu="")[0]:
        assert one.energy
        assert one.energy.busy > 0
        assert "mJ a query above rest" in said
    else:
        assert one.energy is None
        assert f"energy: not measured: {found.no_energy}" in said
        assert "counter" in found.no_energy


def test_this_machine_s_own_counter() -> None:
    given, why = counters(gpu="")
    if not given:
        pytest.skip(why)
    before = [one.read() for one in given]
    time.sleep(0.2)
    assert all(0 < since(one, was) < 1000 for one, was in zip(given, before, strict=True))
