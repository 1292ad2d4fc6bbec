"""Settle a graph's batch dimension: dynamic where that is true, fixed where it is not, never dynamic on paper only."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.convert.rewrite import fixed_batch, with_dynamic_batch, with_fixed_batch
from mlopt.convert.rows import join_rows, split_rows
from mlopt.convert.session import OrtFailed, Session, constant_inputs
from mlopt.errors import ModelUnreadable, UnsupportedModel
from mlopt.onnx_file import load_graph, save
from mlopt.signature import FREE_SIZE, InputSpec, Signature, random_feeds, signature_of
from mlopt.tflite.wrapper import wrapped

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]

Given = Mapping[str, InputSpec]
# Tried in turn for dynamic dimensions other than the batch, until the model runs: sequences, pictures, audio frames.
_FREE_SIZES: Final = (FREE_SIZE, 64, 128, 224, 256, 512, 576, 1024)
_BATCHES: Final = (1, 2, 3, 4, 8, 16, 32)  # a batch that an exporter baked in is one of these, if any
_ROWS: Final = 3
_CLOSE: Final = 1e-3


def settle_batch(model: Any, *, beside: Path | None, given: Given) -> Any:
    """The model with a batch dimension that was seen to work: three rows at once give what each gives alone.

    A dynamic batch that fails this becomes fixed (exporters bake a batch in silently); a fixed one becomes dynamic
    when the rewritten graph passes it and agrees with the original. Raises `UnsupportedModel` when ONNX Runtime
    cannot load or run the model at all.
    """
    signature = signature_of(model)
    if signature.batch is not None:
        size, free = _runs_at(model, signature, beside, given)
        if size == 1 and _rows_independent(model, beside, given, free):
            return model
        return with_fixed_batch(model, signature.batch, size)
    model = _checked(model, beside, given)
    fixed = fixed_batch(signature)
    if fixed is None:
        return model
    candidate = with_dynamic_batch(model, fixed)
    try:
        free = _free_size(candidate, signature_of(candidate), beside, given)
        agrees = _rows_independent(candidate, beside, given, free) and _agree(model, candidate, fixed, beside, given)
    except UnsupportedModel:
        return model
    return candidate if agrees else model


def free_size_of(path: Path, given: Given) -> int:
    """A size of dimensions other than the batch at which the model of a file runs. Raises `UnsupportedModel`."""
    if wrapped(path):
        return _FREE_SIZES[0]  # nothing but its batch is free, and ONNX Runtime does not run it
    model = load_graph(path)
    return _free_size(model, signature_of(model), path.parent, given)


def _runs_at(model: Any, signature: Signature, beside: Path | None, given: Given) -> tuple[int, int]:
    """The smallest batch of the usual ones at which the model runs, and the size of its other free dimensions."""
    first: UnsupportedModel | None = None
    for batch in _BATCHES:
        try:
            return batch, _free_size(model, signature, beside, given, batch=batch)
        except UnsupportedModel as error:
            first = first or error
    assert first is not None
    raise first


def _checked(model: Any, beside: Path | None, given: Given) -> Any:
    _free_size(model, signature_of(model), beside, given)
    return model


def _free_size(model: Any, signature: Signature, beside: Path | None, given: Given, *, batch: int = 1) -> int:
    """A size of the free dimensions at which a batch runs."""
    open_dims = {dim for tensor in signature.inputs for dim in tensor.shape if isinstance(dim, str)}
    sizes = _FREE_SIZES if open_dims - {signature.batch} else _FREE_SIZES[:1]
    first: OrtFailed | None = None
    with _session(model, beside) as session:
        for size in sizes:
            try:
                session.run(random_feeds(signature, batch=batch, seed=0, given=given, free=size))
            except OrtFailed as error:
                first = first or error
            else:
                return size
    assert first is not None
    raise UnsupportedModel(
        f"ONNX Runtime cannot run the model: {first.reason}",
        where=first.node,
        next="if an input needs a certain size or value, say so in mlopt.toml: [inputs.NAME] shape = [...], value = …",
    )


def _rows_independent(model: Any, beside: Path | None, given: Given, free: int) -> bool:
    signature = signature_of(model)
    assert signature.batch is not None
    axes = {
        tensor.name: tensor.shape.index(signature.batch)
        for tensor in signature.inputs
        if signature.batch in tensor.shape
    }
    feeds = random_feeds(signature, batch=_ROWS, seed=0, given=given, free=free)
    with _session(model, beside) as session:
        try:
            whole = session.run(feeds)
            rows = [session.run(row) for row in split_rows(feeds, axes)]
        except OrtFailed:
            return False
    joined = {name: _axis(rows[0][name], value) for name, value in whole.items()}
    batched = {name: axis for name, axis in joined.items() if axis is not None}
    if not batched:
        return False
    together = join_rows(rows, batched)
    return all(_close(together[name], value) for name, value in whole.items())


def _agree(model: Any, candidate: Any, size: int, beside: Path | None, given: Given) -> bool:
    feeds = random_feeds(signature_of(candidate), batch=size, seed=1, given=given)
    with _session(model, beside) as before, _session(candidate, beside) as after:
        try:
            old, new = before.run(feeds), after.run(feeds)
        except OrtFailed:
            return False
    return all(_close(old[name], new[name]) for name in old)


def _axis(row: np.ndarray, whole: np.ndarray) -> int | None:
    """The axis along which an output grew with the batch."""
    if row.ndim != whole.ndim:
        return None
    grown = [axis for axis in range(row.ndim) if whole.shape[axis] == _ROWS * row.shape[axis] and row.shape[axis]]
    return grown[0] if grown else None


def _close(left: np.ndarray, right: np.ndarray) -> bool:
    """Equal but for rounding. 8-bit results may differ by a step here and there."""
    import numpy as np

    if left.shape != right.shape:
        return False
    if left.dtype.kind not in "fiu" or not left.size:
        return bool(np.array_equal(left, right))
    apart = np.abs(left.astype(np.float64) - right.astype(np.float64))
    if left.dtype.itemsize == 1:
        return bool(np.mean(apart > 1) < 0.01)
    finite = np.isfinite(left)
    scale = float(np.abs(left[finite]).max()) if finite.any() else 0.0
    return bool(np.array_equal(finite, np.isfinite(right)) and np.all(apart[finite] <= _CLOSE * scale + 1e-6))


class _session:  # noqa: N801 - read as a function: `with _session(model, beside) as session`
    """A model that is not a file yet, in ONNX Runtime."""

    def __init__(self, model: Any, beside: Path | None) -> None:
        self._model, self._beside = model, beside
        self._scratch = tempfile.TemporaryDirectory(prefix="mlopt-settle-")

    def __enter__(self) -> Session:
        try:
            save(self._model, Path(self._scratch.name), beside=self._beside)
            return Session(Path(self._scratch.name) / "model.onnx", fixed=constant_inputs(self._model))
        except OrtFailed as error:
            self._scratch.cleanup()
            kind = ModelUnreadable if error.damaged else UnsupportedModel
            raise kind(
                f"ONNX Runtime cannot load the model: {error.reason}",
                where=error.node,
                next="export it again with operators of the ONNX standard; mlopt inspect MODEL lists those it has",
            ) from error

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()
