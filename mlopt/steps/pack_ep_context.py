"""A model whose nodes TensorRT has compiled already, as ONNX Runtime keeps it (EPContext): opened, not built anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.errors import UnsupportedModel
from mlopt.onnx_file import context_files, load_graph
from mlopt.runners.onnxruntime_cuda import OnnxRuntimeTensorrtRunner, why


@dataclass(frozen=True, slots=True)
class PackEpContext:
    """On a machine with the GPU: its engines go into a file beside the model, with `embed` into the model itself, which
    then may not pass 2 GB. They are for that GPU and that TensorRT alone, as any engine."""

    name: ClassVar[str] = "pack-ep-context"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("onnxruntime-gpu",)

    embed: bool = False

    def run(self, source: Artifact, into: Path) -> None:
        """Raises `UnsupportedModel` where no TensorRT can be loaded, or it took no node."""
        import onnxruntime as ort

        chain = OnnxRuntimeTensorrtRunner.chain
        if chain[0] not in ort.get_available_providers():
            raise UnsupportedModel(
                "This ONNX Runtime has no TensorRT provider, which compiles the nodes.",
                where=str(source.main),
                next="pip install 'mlopt[onnxruntime-cuda]', on the machine with the GPU",
            )
        made = into / "model.onnx"
        options = ort.SessionOptions()
        for key, value in (("enable", "1"), ("file_path", str(made)), ("embed_mode", str(int(self.embed)))):
            options.add_session_config_entry(f"ep.context_{key}", value)
        try:
            ort.InferenceSession(str(source.main), options, providers=list(chain), enable_fallback=0)
        except Exception as error:  # onnxruntime's own exception types share no public base
            raise UnsupportedModel(
                f"TensorRT compiles nothing here: {why(str(error))}.", where=str(source.main)
            ) from error
        check(made, source.main)


def check(made: Path, source: Path) -> None:
    """That it holds what it should, and names no file outside its folder."""
    model: Any = load_graph(made) if made.is_file() else None
    if model is None or not any(node.op_type == "EPContext" for node in model.graph.node):
        raise UnsupportedModel(
            "TensorRT compiled no node of the model.", where=str(source), next="mlopt preflight says what it refuses"
        )
    context_files(model, made)
