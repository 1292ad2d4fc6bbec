"""What the arena held is counted by the runtime: the same every time, and more for more."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import conv_net

from mlopt.errors import UnsupportedModel
from mlopt.runners import onnxruntime_arena
from mlopt.runners.onnxruntime_arena import arena_peak


def feed(batch: int, side: int = 32) -> dict[str, np.ndarray]:
    return {"image": np.zeros((batch, 3, side, side), np.float32)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(conv_net(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_it_is_the_same_every_time_on_any_number_of_threads(model: Path) -> None:
    found = {arena_peak(model, [feed(1), feed(8)], threads=threads) for threads in (1, 1, 2)}
    assert len(found) == 1
    assert None not in found


def test_it_grows_with_the_batch_by_at_least_what_a_layer_makes(model: Path) -> None:
    one, eight = (arena_peak(model, [feed(batch)], threads=1) for batch in (1, 8))
    assert one is not None
    assert eight is not None
    made = 16 * 16 * 16 * 4  # floats of the first convolution, for each picture
    assert one >= made
    assert eight - one >= 7 * made


def test_a_wider_model_holds_more(tmp_path: Path, model: Path) -> None:
    onnx.save(conv_net(width=17), tmp_path / "wide.onnx")
    narrow, wide = (arena_peak(path, [feed(8)], threads=1) for path in (model, tmp_path / "wide.onnx"))
    assert narrow is not None
    assert wide is not None
    assert wide > narrow * 1.03


def test_what_it_cannot_run_is_one_clear_error(tmp_path: Path, model: Path) -> None:
    with pytest.raises(UnsupportedModel, match="Invalid"):
        arena_peak(model, [{"another": np.zeros((1, 3, 32, 32), np.float32)}], threads=1)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(UnsupportedModel, match="failed"):
        arena_peak(tmp_path / "broken.onnx", [feed(1)], threads=1)


def test_texts_have_no_counterpart(model: Path) -> None:
    assert arena_peak(model, [{"image": np.array(["a"], dtype=object)}], threads=1) is None


def test_without_the_library_nobody_knows(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_arena, "_folder", lambda: tmp_path)
    assert arena_peak(model, [feed(1)], threads=1) is None


def test_places_are_those_of_the_header(root: Path) -> None:
    """The header that the native server is built with is older; what it has stays where it is for ever."""
    header = (root / "docker/native/vendor/onnxruntime_c_api.h").read_text()
    table = header[header.index("\nstruct OrtApi {") :]
    table = re.sub(r"//[^\n]*|/\*.*?\*/", "", table[: table.index("\n};")], flags=re.DOTALL)
    found = re.findall(r"ORT_API2_STATUS\((\w+)|ORT_CLASS_RELEASE2?\((\w+)|ORT_API_CALL\s*\*\s*(\w+)\)", table)
    names = [status or (f"Release{released}" if released else other) for status, released, other in found]
    ours = {name: place for name, place in onnxruntime_arena._PLACES.items() if place < len(names)}
    assert ours == {name: names.index(name) for name in ours}
    assert len(ours) >= 20
