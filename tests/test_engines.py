"""Which engines can be made for whom, and with which shapes, decided without a compiler."""

from __future__ import annotations

import nets
import pytest

from mlopt.engines import (
    NoShapes,
    ShapeRange,
    is_experimental,
    shape_ranges,
    why_no_device_build,
    why_no_engine,
    why_no_rtx,
)
from mlopt.signature import InputSpec, signature_of
from mlopt.target import find_target


def test_a_free_batch_goes_from_one_to_the_most_and_is_tuned_for_one() -> None:
    found = shape_ranges(signature_of(nets.conv_net()), {}, 8)
    assert found == (ShapeRange("image", (1, 3, 32, 32), (1, 3, 32, 32), (8, 3, 32, 32)),)


def test_a_model_of_fixed_shapes_needs_no_range() -> None:
    assert shape_ranges(signature_of(nets.conv_net(batch=1)), {}, 8) == ()


def test_what_the_project_file_says_wins() -> None:
    said = {"image": InputSpec(least=(2, 3, 32, 32), usual=(4, 3, 32, 32), most=(6, 3, 32, 32))}
    assert shape_ranges(signature_of(nets.conv_net()), said, 8) == (
        ShapeRange("image", (2, 3, 32, 32), (4, 3, 32, 32), (6, 3, 32, 32)),
    )


def test_another_free_dimension_needs_bounds_and_the_key_is_named() -> None:
    model = nets.conv_net()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(NoShapes, match=r"'height'.*least and most under \[inputs.image\]"):
        shape_ranges(signature_of(model), {}, 8)


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"least": (1, 3)}, "belong together"),
        ({"usual": (1, 3)}, "belong together"),
        ({"least": (1, 3), "most": (8, 3, 3)}, "one rank"),
        ({"least": (4, 3), "most": (2, 3)}, "at least as large"),
        ({"least": (1, 3), "usual": (9, 3), "most": (8, 3)}, "at least as large"),
    ],
)
def test_bounds_that_cannot_be_are_refused(bounds: dict[str, tuple[int, ...]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        InputSpec(**bounds)


@pytest.mark.parametrize(
    ("target", "precision", "reason"),
    [
        ("rtx4090", "fp8", ""),
        ("dgx-spark", "fp4", ""),
        ("rtx3090", "fp8", "compute capability 8.6 has no fp8"),
        ("h100", "", "TensorRT for RTX does not compile for compute capability 9.0"),
        ("jetson-orin-nano-8gb", "fp16", "TensorRT for RTX does not compile for compute capability 8.7"),
        ("rpi5", "", "rpi5 has no NVIDIA GPU"),
    ],
)
def test_why_an_engine_cannot_be_made(target: str, precision: str, reason: str) -> None:
    assert why_no_rtx(find_target(target), precision) == reason


@pytest.mark.parametrize(
    ("target", "precision", "reason"),
    [
        ("jetson-orin-nano-8gb", "int8", ""),
        ("h100", "fp8", ""),
        ("t4", "fp16", ""),
        ("jetson-nano", "int8", "compute capability 5.3 has no int8"),
        ("rtx4090", "fp16", "engines for rtx4090 are built without it, by TensorRT for RTX"),
        ("rpi5", "", "rpi5 has no NVIDIA GPU"),
    ],
)
def test_why_the_device_builds_none(target: str, precision: str, reason: str) -> None:
    assert why_no_device_build(find_target(target), precision) == reason


def test_cards_that_the_vendor_does_not_name_are_experimental() -> None:
    assert is_experimental(find_target("l4"))
    assert not is_experimental(find_target("rtx5090"))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("jetson-orin-nano-8gb", ""),
        ("h100", ""),
        ("jetson-agx-xavier", "compute capability 7.2 has no 2:4 sparsity"),
        ("rpi5", "rpi5 has no NVIDIA GPU"),
    ],
)
def test_where_two_of_four_weights_can_be_skipped(target: str, reason: str) -> None:
    assert why_no_engine("pack-tensorrt-build", find_target(target), "fp16", sparse=True) == reason
