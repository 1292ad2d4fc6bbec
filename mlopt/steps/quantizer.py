"""What the quantization steps share: a model made ready for onnxruntime's quantizer, and its result made plain."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlopt.artifact import Artifact, digest_of
from mlopt.errors import MloptError, UnsupportedModel
from mlopt.onnx_file import note
from mlopt.precision.groups import name_nodes
from mlopt.precision.rewrites import pool_means
from mlopt.step import Composed, Make, Step

_SAID = 300  # characters of a tool's own words
_FLOATS = (1, 10, 11, 16)  # float, float16, double, bfloat16 in onnx.TensorProto


@contextmanager
def prepared(source: Artifact, *, optimize: bool) -> Iterator[Any]:
    """The source as an onnx.ModelProto, shapes inferred, nodes named; when `optimize`, BatchNorm folded
    first and means made poolings.

    `value_info` is inferred anew: what exporters leave there may contradict the graph, and the quantizer dies
    of it. Raises `UnsupportedModel` when the model is quantized already or its shapes cannot be inferred.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnx
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    logging.getLogger().setLevel(logging.ERROR)  # the quantizer logs advice to the root logger
    _refuse_quantized(source)
    with tempfile.TemporaryDirectory(prefix="mlopt-quantize-") as scratch:
        path = source.main
        if optimize:
            with third_party("ONNX Runtime", source):
                path = _optimized(path, Path(scratch) / "optimized.onnx")
        model = onnx.load(str(path))
        del model.graph.value_info[:]
        name_nodes(model.graph)
        with third_party("onnxruntime's quantizer", source):
            inferred = onnx.shape_inference.infer_shapes(model)
            if optimize and pool_means(inferred.graph):
                inferred = onnx.shape_inference.infer_shapes(inferred)
            add_infer_metadata(inferred)
            yield inferred


@contextmanager
def unshared() -> Iterator[Make]:
    """What makes the parts of a step that runs by itself, outside of a store: each anew, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mlopt-parts-") as scratch:

        def make(step: Step, source: Artifact) -> Artifact:
            into = Path(tempfile.mkdtemp(dir=scratch))
            if isinstance(step, Composed):
                step.compose(source, into, make)
            else:
                step.run(source, into)
            return Artifact(step.produces, digest_of(into), into)

        yield make


@contextmanager
def third_party(tool: str, source: Artifact) -> Iterator[None]:
    """What a converter that is not ours raises, and an invalid model that it wrote, as `UnsupportedModel`.

    Such tools raise anything, from KeyError to their own types; a candidate that one of them cannot make is
    a finding, not the end of a run.
    """
    try:
        yield
    except (MloptError, OSError, MemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split("==>")[0].split())  # onnx's checker repeats the whole node after the arrow
        reason = said if len(said) <= _SAID else said[:_SAID] + " …"
        raise UnsupportedModel(
            f"{tool} cannot handle this model: {type(error).__name__}: {reason}", where=str(source.main)
        ) from error


def saved(path: Path, *, notes: Iterable[str] = (), properties: Mapping[str, str] = MappingProxyType({})) -> None:
    """Drop the tool's marks that would differ between runs, and check the model that was written.

    `notes` are sentences on what was decided in making it; they travel in its metadata (`onnx_file.notes_in`), as do
    `properties`.
    """
    import onnx

    model = onnx.load(str(path))
    note(model, notes)
    for key, value in properties.items():
        model.metadata_props.add(key=key, value=value)
    model.producer_name = "mlopt"
    model.producer_version = ""
    onnx.save(model, str(path))
    onnx.checker.check_model(str(path))


def _optimized(model: Path, into: Path) -> Path:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(into)
    ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return into


def _refuse_quantized(source: Artifact) -> None:
    import onnx

    graph = onnx.load(str(source.main), load_external_data=False).graph
    found = next(
        (node for node in graph.node if node.op_type in ("QuantizeLinear", "QLinearConv", "QLinearMatMul")), None
    )
    if found is not None:
        raise UnsupportedModel(
            f"The model is quantized already (node {found.name or found.op_type!r}), and quantizing it again would "
            "only lose accuracy.",
            where=str(source.main),
            next="start from the floating-point model, or compile this one with --recipe fp32",
        )
