"""From any trained model to the artifact it starts as, and to the step that exports it to ONNX."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.convert.process import Limits
from mlopt.errors import ModelNotFound, ModelUnreadable, NeedsFactory, NotTrusted
from mlopt.factory import Factory, find_factory
from mlopt.signature import InputSpec
from mlopt.sniff import (
    KERAS,
    KERAS_WEIGHTS,
    SAFETENSORS,
    SAVED_MODEL,
    TFLITE,
    TORCH_EXPORTED,
    TORCH_PICKLED,
    TORCH_WEIGHTS,
    TORCHSCRIPT,
    sniff,
)
from mlopt.step import Step
from mlopt.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

_WEIGHTS_ONLY: Final = frozenset({TORCH_WEIGHTS, SAFETENSORS})


def open_model(
    path: Path, *, store: Store, factory: str | None = None, root: Path | None = None, trust: bool = False
) -> Artifact:
    """Adopt the user's file or folder under the format that its content shows. Nothing in it is run.

    `factory` is looked up from `root` (the current folder) and among installed packages.

    Raises `ModelNotFound`, `ModelUnreadable`; `NotTrusted` when loading it would run code from it and `trust` was
    not given; `NeedsFactory` when it holds weights only and `factory` was not given or cannot be found.
    """
    if not path.exists():
        raise _absent(path)
    sniffed = sniff(path)
    if sniffed.code and not trust:
        raise NotTrusted(
            f"Loading this {sniffed.format} file would run code from it ({_few(sniffed.code)}).",
            where=str(path),
            next="if you trust where it came from: --trust. Else ask for it as ONNX, .pt2 or .safetensors",
        )
    if sniffed.format == KERAS_WEIGHTS:
        raise NeedsFactory(
            "The HDF5 file holds Keras weights only, so there is no graph to export.",
            where=str(path),
            next='save the model whole: model.save("model.keras")',
        )
    if sniffed.format in _WEIGHTS_ONLY and factory is None:
        raise NeedsFactory(
            "The file holds weights only (a state_dict), so there is no graph to export.",
            where=str(path),
            next=f"name the callable that builds the model: mlopt compile {path} --factory pkg.mod:build",
        )
    if factory is not None:
        find_factory(factory, root=root)
    if sniffed.format == ONNX:
        return _adopt_onnx(path, store)
    return store.adopt(path, sniffed.format)


def export_step(
    source: Artifact,
    *,
    opset: int,
    factory: str | None = None,
    root: Path | None = None,
    inputs: Mapping[str, InputSpec] | None = None,
    limits: Limits | None = None,
) -> Step:
    """The step that makes ONNX of an opened model, with at most `opset`, in a process kept within `limits`.

    `inputs` says what a format does not: shapes for TorchScript, sizes for dynamic dimensions that cannot be any.
    """
    build = _STEPS[source.format]
    return build(
        opset=opset,
        factory=find_factory(factory, root=root) if factory else None,
        inputs={name: spec.text for name, spec in (inputs or {}).items()},
        limits=limits or Limits(),
    )


def _from_torch(*, factory: Factory | None, **options: Any) -> Step:
    from mlopt.steps.onnx_from_torch import OnnxFromTorch

    return OnnxFromTorch(factory=factory, **options)


def _from_torchscript(*, factory: Factory | None, **options: Any) -> Step:
    from mlopt.steps.onnx_from_torchscript import OnnxFromTorchScript

    return OnnxFromTorchScript(**options)


def _from_keras(*, factory: Factory | None, **options: Any) -> Step:
    from mlopt.steps.onnx_from_tensorflow import OnnxFromKeras

    return OnnxFromKeras(**options)


def _from_tensorflow(*, factory: Factory | None, **options: Any) -> Step:
    from mlopt.steps.onnx_from_tensorflow import OnnxFromTensorFlow

    return OnnxFromTensorFlow(**options)


def _from_tflite(*, factory: Factory | None, **options: Any) -> Step:
    from mlopt.steps.onnx_from_tensorflow import OnnxFromTFLite

    return OnnxFromTFLite(**options)


def _from_onnx(*, factory: Factory | None, **options: Any) -> Step:
    from mlopt.steps.normalize_onnx import NormalizeOnnx

    return NormalizeOnnx(**options)


_STEPS: Final[Mapping[Format, Callable[..., Step]]] = {
    ONNX: _from_onnx,
    TORCH_EXPORTED: _from_torch,
    TORCH_PICKLED: _from_torch,
    TORCH_WEIGHTS: _from_torch,
    SAFETENSORS: _from_torch,
    TORCHSCRIPT: _from_torchscript,
    KERAS: _from_keras,
    SAVED_MODEL: _from_tensorflow,
    TFLITE: _from_tflite,
}


def _absent(path: Path) -> ModelNotFound:
    nearby = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, nearby, n=1, cutoff=0.6)
    guess = f" Did you mean {path.parent / near[0]}?" if near else ""
    return ModelNotFound(
        f"There is no model at this path.{guess}", where=str(path), next="give the path of a file, or of a SavedModel"
    )


def _adopt_onnx(path: Path, store: Store) -> Artifact:
    """The graph as `model.onnx`, and every file of weights that it refers to, each below the model's own folder."""
    files = _external_files(path)
    with tempfile.TemporaryDirectory(prefix="mlopt-adopt-") as scratch:
        tree = Path(scratch)
        (tree / "model.onnx").symlink_to(path.resolve())
        for name, file in files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).symlink_to(file)
        return store.adopt(tree, ONNX)


def _external_files(path: Path) -> dict[str, Path]:
    """Raises `ModelUnreadable` for a damaged graph, and for weights that are absent, short, or outside the folder."""
    from mlopt.onnx_file import external_tensors, load_graph

    files: dict[str, Path] = {}
    folder = path.resolve().parent
    for tensor in external_tensors(load_graph(path)):
        name = PurePosixPath(tensor.location)
        file = (folder / name).resolve()
        if name.is_absolute() or ".." in name.parts or not file.is_relative_to(folder) or str(name) == "model.onnx":
            raise ModelUnreadable(
                f"The model keeps weights of {tensor.name!r} outside its own folder, at {tensor.location!r}; "
                "mlopt does not follow that.",
                where=str(path),
                next="save it again with its external data beside it",
            )
        if not file.is_file():
            raise ModelUnreadable(
                f"The model keeps its weights in {tensor.location!r}, and that file is not beside it.",
                where=str(path),
                next=f"copy {tensor.location} into {folder}",
            )
        if file.stat().st_size < tensor.end:
            raise ModelUnreadable(
                f"The weights in {tensor.location!r} are truncated: they should have at least {tensor.end} bytes "
                f"and have {file.stat().st_size}.",
                where=str(file),
                next="copy or download it again",
            )
        files[str(name)] = file
    return files


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
