"""nvidia-modelopt: int8 pairs in an ONNX graph. Runs in a Python without mlopt; what it imports of mlopt goes along."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlopt.array_files import load_arrays
from mlopt.convert.program import Request, first_line, serve
from mlopt.errors import MissingDependency, UnsupportedModel

if TYPE_CHECKING:
    from mlopt.array_files import Arrays


def quantize(request: Request) -> Mapping[str, Any]:
    """Quantize `model` by the ranges of what `samples` lead to, and write it to `into`.

    Weights are written in int8, and the rest stays in fp32: by itself modelopt leaves a pair before each weight, and
    makes the rest fp16.
    """
    version = metadata.version("nvidia-modelopt")
    try:
        from modelopt.onnx.quantization import quantize as by_modelopt
        from onnxruntime.quantization import CalibrationDataReader
    except ImportError as error:
        raise MissingDependency(
            f"nvidia-modelopt {version} cannot be loaded: {first_line(error)}",
            where=sys.executable,
            next=f"{sys.executable} -m pip install 'nvidia-modelopt[onnx]'",
        ) from error

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rewind()

        def rewind(self) -> None:
            self._queries = load_arrays(Path(request["samples"]))

        def get_first(self) -> Arrays:
            return next(load_arrays(Path(request["samples"])))

        def get_next(self) -> Arrays | None:
            return next(self._queries, None)

    try:
        by_modelopt(
            onnx_path=request["model"],
            quantize_mode="int8",
            calibration_data_reader=Reader(),
            calibration_method=request["calibrator"],
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            dq_only=True,
            output_path=request["into"],
        )
    except (MemoryError, OSError):
        raise
    except Exception as error:  # of its own and of everything below it: they share no base
        raise UnsupportedModel(
            f"nvidia-modelopt {version} cannot quantize this model: {type(error).__name__}: {first_line(error)}",
            where=request["source"],
        ) from error
    if not Path(request["into"]).is_file():
        raise UnsupportedModel(f"nvidia-modelopt {version} wrote no model.", where=request["source"])
    return {"version": version}


if __name__ == "__main__":
    serve({"quantize": quantize})
