"""EPContext: where no TensorRT is it says so; files that a model names stay in its folder. It was run on no GPU."""

from __future__ import annotations

from pathlib import Path

import nets
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from mlopt.artifact import ONNX, Artifact, digest_of
from mlopt.errors import ModelUnreadable, UnsupportedModel
from mlopt.onnx_file import context_files, load_graph
from mlopt.steps.pack_ep_context import PackEpContext, check

TENSORRT = "TensorrtExecutionProvider" in ort.get_available_providers()


def compiled(folder: Path, context: str, *, embed: int = 0) -> Path:
    node = helper.make_node(
        "EPContext", ["x"], ["y"], domain="com.microsoft", embed_mode=embed, ep_cache_context=context, main_context=1
    )
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]))
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.skipif(TENSORRT, reason="this ONNX Runtime has a TensorRT provider")
def test_without_tensorrt_it_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    nets.save(nets.conv_net(), tmp_path / "net" / "model.onnx")
    (tmp_path / "into").mkdir()
    source = Artifact(ONNX, digest_of(tmp_path / "net"), tmp_path / "net")
    with pytest.raises(UnsupportedModel, match="no TensorRT provider"):
        PackEpContext().run(source, tmp_path / "into")
    assert not list((tmp_path / "into").iterdir())


def test_a_model_of_which_nothing_was_compiled_is_refused(tmp_path: Path) -> None:
    plain = nets.save(nets.conv_net(), tmp_path / "model.onnx")
    for made in (plain, tmp_path / "nothing.onnx"):
        with pytest.raises(UnsupportedModel, match="compiled no node"):
            check(made, plain)


def test_files_beside_the_model_are_named(tmp_path: Path) -> None:
    made = compiled(tmp_path / "made", "part.bin")
    with pytest.raises(ModelUnreadable, match="does not lie beside it"):
        check(made, made)
    (made.parent / "part.bin").write_bytes(b"engine")
    assert context_files(load_graph(made), made) == (made.parent / "part.bin",)
    check(made, made)
    assert context_files(load_graph(compiled(tmp_path / "in", "bytes", embed=1)), made) == ()


@pytest.mark.parametrize("name", ["../secret.bin", "/etc/passwd"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.bin").write_bytes(b"x")
    with pytest.raises(ModelUnreadable, match="does not lie beside it"):
        check(compiled(tmp_path / "made", name), tmp_path / "net.onnx")


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(b"x")
    made = compiled(tmp_path / "made", "part.bin")
    (made.parent / "part.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelUnreadable):
        check(made, made)
