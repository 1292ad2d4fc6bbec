"""What is written down of TensorRT's versions, against the ONNX standard and against the one that is installed."""

from __future__ import annotations

import onnx
import pytest

from mlopt.step import installed
from mlopt.target import newest_opset
from mlopt.tensorrt import facts, number

# In the lists, and of no ONNX: operators of old Caffe2 exporters.
FOREIGN = {"ImageScaler", "ParametricSoftplus", "ScaledTanh", "Upsample", "Scatter"}


def listed() -> list[str]:
    return [operator for group in facts().groups for operator in group.operators]


def test_every_operator_is_listed_once_and_is_one_of_onnx() -> None:
    assert set(facts().dla) <= set(listed())
    names = [*listed(), *facts().never]
    assert len(names) == len(set(names))
    assert len(listed()) > 140
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert set(listed()) - FOREIGN <= known


@pytest.mark.parametrize(
    ("operator", "since"),
    [("Conv", "8.2"), ("HardSwish", "8.4"), ("GridSample", "8.5"), ("LayerNormalization", "8.6"), ("Gelu", "10.0")],
)
def test_operators_come_with_a_version(operator: str, since: str) -> None:
    group = facts().group(operator)
    assert group
    assert group.since == since


def test_precisions_come_with_a_version_too() -> None:
    def having(version: str) -> set[str]:
        return {name for name in facts().precisions if facts().has(version, name)}

    assert having("8.5.2") == {"fp32", "tf32", "fp16", "int8"}
    assert having("10.3.0") - having("8.5.2") == {"bf16", "fp8", "int4"}
    assert having("10.13") - having("10.3.0") == {"fp4"}
    assert not facts().has("11.4", "int2")


def test_the_newest_opset_of_every_version_that_a_board_may_run() -> None:
    versions = ("8.2.1", "8.5.2", "8.6.2", "10.3.0", "10.13", "10.16.2", "11.4.1")
    assert [newest_opset("tensorrt", version) for version in versions] == [13, 17, 17, 20, 20, 24, 25]


def test_versions_compare_by_their_numbers() -> None:
    assert number("10.3.0") > number("8.6.2")


@pytest.mark.skipif(installed("tensorrt-rtx") is None, reason="needs the extra [tensorrt] (x86-64)")
def test_the_installed_parser_knows_every_operator_of_the_lists_and_none_that_they_refuse() -> None:
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.Severity.INTERNAL_ERROR)
    parser = trt.OnnxParser(trt.Builder(logger).create_network(), logger)
    # A plug-in of TensorRT, which TensorRT for RTX comes without.
    assert [name for name in listed() if not parser.supports_operator(name)] == ["DeformConv"]
    assert [name for name in facts().never if parser.supports_operator(name)] == []
