"""Pythons besides this one, as virtual environments, with a stand-in for nvidia-modelopt or without."""

from __future__ import annotations

import sys
import venv
from pathlib import Path

VARIABLE = "MLOPT_MODELOPT_PYTHON"
# Pairs by ONNX Runtime's quantizer in place of modelopt's, from the same arguments, with as much noise on the terminal.
QUANTIZES = """
import sys
from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

def quantize(*, onnx_path, quantize_mode, calibration_data_reader, calibration_method, calibration_eps,
             high_precision_dtype, dq_only, output_path):
    assert (quantize_mode, calibration_eps, high_precision_dtype, dq_only) == ("int8", ["cpu"], "fp32", True)
    print("noise " * 10_000)
    print("noise " * 10_000, file=sys.stderr)
    first = calibration_data_reader.get_first()
    assert {value.shape[0] for value in first.values()} == {1}
    method = {"max": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy}[calibration_method]
    quantize_static(onnx_path, output_path, calibration_data_reader, per_channel=True, calibrate_method=method,
                    activation_type=QuantType.QInt8, extra_options={"ActivationSymmetric": True, "QuantizeBias": False})
"""


def python(folder: Path) -> Path:
    """A Python that has nothing but its standard library."""
    venv.create(folder, symlinks=True)
    return folder / "bin" / "python"


def with_modelopt(folder: Path, quantization: str = QUANTIZES, *, version: str = "9.9") -> Path:
    """One with what this one has, and `quantization` as modelopt's module of that name."""
    made = python(folder)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "those.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    (packages / "modelopt" / "onnx").mkdir(parents=True)
    (packages / "modelopt" / "onnx" / "quantization.py").write_text(quantization)
    say_version(folder, version)
    return made


def say_version(folder: Path, version: str) -> None:
    (packages,) = folder.glob("lib/python3*/site-packages")
    facts = packages / "nvidia_modelopt.dist-info"
    facts.mkdir(exist_ok=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: nvidia-modelopt\nVersion: {version}\n")
