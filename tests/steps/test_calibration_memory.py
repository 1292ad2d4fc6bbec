"""Calibrating on many samples needs no more memory than calibrating on few."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from nets import conv_net, save

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from mlopt.steps.ranges import Calibration, observe
def feeds():
    draw = np.random.default_rng(0)
    for _ in range(int(sys.argv[3])):
        yield {"image": draw.standard_normal((1, 3, 32, 32), dtype=np.float32)}
names = ["image", "c1", "r1", "c2", "r2", "logits"]
assert len(observe(Path(sys.argv[1]), names, feeds, Calibration(sys.argv[2]))) == len(names)
status = Path("/proc/self/status").read_text()
print(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.parametrize("calibrator", ["moving-average", "entropy", "mse"])
def test_peak_memory_does_not_grow_with_the_samples(tmp_path: Path, calibrator: str) -> None:
    model = save(conv_net(), tmp_path / "m.onnx")
    few, many = (
        int(subprocess.check_output([sys.executable, "-c", PROGRAM, str(model), calibrator, str(count)], text=True))
        for count in (32, 4096)
    )
    # The values of one sample alone are 0.1 MB: kept, those of 4096 would be four times the process.
    assert many <= 1.05 * few, f"{few} kB for 32 samples, {many} kB for 4096"
