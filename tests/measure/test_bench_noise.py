"""How small a difference these rounds can tell: a second copy of the first model beside it."""

from __future__ import annotations

from pathlib import Path

from nets import conv_net, save

from mlopt.measure.bench import bench
from mlopt.profile import Method
from mlopt.units import Seconds


def test_a_copy_of_the_first_says_what_can_be_told(tmp_path: Path) -> None:
    model = save(conv_net(), tmp_path / "net.onnx")
    found = bench([model], method=Method(rounds=12, seconds=Seconds(2.0)), device="d")
    copy = found.noise.speedup
    assert copy.low <= copy.value <= copy.high
    assert copy.low < copy.high, "a copy is measured, not assumed"
    assert found.noise.tells == max(copy.high, 1 / copy.low) - 1 > 0
    assert 0.5 < copy.value < 2
    assert len(found.models) == 1, "the copy is no model of the person's"
    assert found.machine["cpu"]
