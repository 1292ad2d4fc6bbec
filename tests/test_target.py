"""Every shipped target: loads, is consistent with itself and with what its GPU can do, and marks what is unverified."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlopt import paths
from mlopt.errors import ConfigInvalid, UnknownName
from mlopt.host import Machine
from mlopt.schema import load
from mlopt.target import Cpu, Gpu, Stack, Target, find_target, is_this_machine, namesakes, newest_opset, target_names
from mlopt.units import Bytes

SHIPPED = sorted(path.stem for path in paths.folder("targets").glob("*.toml"))


@pytest.fixture(autouse=True)
def _no_own_declarations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def shipped(name: str) -> Target:
    return find_target(str(paths.folder("targets") / f"{name}.toml"))


def test_there_are_enough_of_them() -> None:
    assert len(SHIPPED) >= 24
    assert target_names()[0] == "host"
    assert set(target_names()) == {"host", *SHIPPED}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_target_is_sound(name: str) -> None:
    target = shipped(name)
    assert target.summary
    assert target.sources, "says where its facts are from"
    assert 13 <= target.opset <= 26
    arm = {"neon", "dotprod", "fp16", "i8mm", "bf16", "sve", "sve2"}
    assert set(target.cpu.isa) <= arm if target.platform == "linux/arm64" else not set(target.cpu.isa) & arm
    assert (target.gpu is None) == (target.build_on == "anywhere" and not target.stacks)
    if target.gpu and target.gpu.memory is None:
        assert target.memory, "a GPU without memory of its own shares the machine's"


@pytest.mark.parametrize("name", SHIPPED)
def test_unverified_facts_are_facts_of_the_file(name: str) -> None:
    table = load(paths.folder("targets") / f"{name}.toml")
    for path in shipped(name).unverified:
        found: object = table
        for key in path.split("."):
            found = found[0] if isinstance(found, list) else found
            assert isinstance(found, dict), path
            assert key in found, f"{name}: unverified names {path!r}, which the file does not have"
            found = found[key]


@pytest.mark.parametrize("name", SHIPPED)
def test_numbers_that_nobody_measured_are_marked(name: str) -> None:
    """Whatever a data sheet says is marked: only definitions may stand without."""
    target = shipped(name)
    if target.cpu.frequency or target.cpu.cores:
        assert "cpu" in target.unverified
    stacks = "jetpacks" if target.jetpacks else "stack"
    for table, present in (("gpu", target.gpu), ("power", target.power), (stacks, target.stacks)):
        assert not present or table in target.unverified


@pytest.mark.parametrize("name", SHIPPED)
def test_precisions_agree_with_the_compute_capability(name: str) -> None:
    gpu = shipped(name).gpu
    if gpu is None:
        return
    assert "fp32" in gpu.precisions
    # FP8 came with Ada (8.9), FP4 with Blackwell (10.0), bf16 and 2:4 sparsity with Ampere (8.0).
    assert ("fp8" in gpu.precisions) == (gpu.sm >= (8, 9))
    assert ("fp4" in gpu.precisions) == (gpu.sm >= (10, 0))
    assert ("bf16" in gpu.precisions) == (gpu.sm >= (8, 0))
    assert gpu.sparsity == (gpu.sm >= (8, 0))
    assert set(gpu.dense) | set(gpu.sparse) <= set(gpu.precisions)


def test_aliases_and_names_are_unique() -> None:
    known = [*SHIPPED, "host"] + [alias for name in SHIPPED for alias in shipped(name).aliases]
    assert len(known) == len(set(known))


def test_jetson_is_the_orin_nano() -> None:
    target = find_target("jetson")
    assert target.name == "jetson-orin-nano-8gb"
    assert target.build_on == "device"
    assert (target.opset, target.int8_scheme, target.int8_dot) == (20, "s8s8", True)


def test_an_alias_that_could_mean_several_boards_has_namesakes() -> None:
    assert {"jetson-orin-nano-8gb", "jetson-agx-orin-64gb", "jetson-nano"} <= set(namesakes("jetson"))
    for name in ("jetson-nano", "rpi5", "raspberry-pi", "host", "./board.toml"):
        assert namesakes(name) == (), name


@pytest.mark.parametrize(
    ("isa", "platform", "scheme"),
    [
        (("avx2",), "linux/amd64", "u8s8-paired"),
        (("avx2", "avx512"), "linux/amd64", "u8s8-paired"),
        (("avx2", "avx512", "avx512-vnni"), "linux/amd64", "u8s8-paired"),
        (("avx2", "avx-vnni"), "linux/amd64", "u8s8-paired"),
        (("neon",), "linux/arm64", "s8s8"),
        (("neon", "dotprod"), "linux/arm64", "s8s8"),
    ],
)
def test_the_int8_scheme_is_exact_on_all_of_an_architecture(isa: tuple, platform: str, scheme: str) -> None:
    assert Target(name="any", summary="", platform=platform, cpu=Cpu("any", isa)).int8_scheme == scheme


@pytest.mark.parametrize(
    ("name", "multiple"),
    [("x86-64-avx2", 8), ("x86-64-avx512", 16), ("rpi5", 8), ("jetson-nano", 8), ("jetson", 16), ("h100", 16)],
)
def test_widths_are_multiples_of_what_kernels_take_at_a_time(name: str, multiple: int) -> None:
    assert find_target(name).channel_multiple == multiple


def test_a_file_may_say_how_many_channels_its_kernels_take() -> None:
    board = Target(name="t", summary="", platform="linux/arm64", cpu=Cpu("any", ("neon",)), channel_block=4)
    assert board.channel_multiple == 4
    with pytest.raises(ValueError, match="channel-block is less than 1"):
        Target(name="t", summary="", platform="linux/arm64", cpu=Cpu("any", ()), channel_block=0)


def test_the_opset_is_what_every_runtime_of_the_first_stack_reads() -> None:
    def opset(**stack: object) -> int:
        first = Stack(**stack)  # type: ignore[arg-type]
        cpu = Cpu("any", ("neon",))
        return Target(name="t", summary="", platform="linux/arm64", cpu=cpu, stacks=(first, Stack(opset=9))).opset

    assert opset(tensorrt="8.2.1") == 13
    assert opset(tensorrt="8.5.2") == 17
    assert opset(tensorrt="10.3.0", onnxruntime="1.14.0") == 18
    assert opset(onnxruntime="1.18.1") == 21
    assert opset(opset=15, tensorrt="11.4.0") == 15
    assert newest_opset("onnxruntime", "0.1") == 14


def test_the_newest_onnxruntime_opset_is_what_the_installed_one_loads() -> None:
    """Asked of the runtime itself: it loads its opset and refuses the next."""
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    newest = newest_opset("onnxruntime", ort.__version__)

    def loads(opset: int) -> bool:
        value = onnx.helper.make_tensor_value_info
        node = onnx.helper.make_node("Relu", ["x"], ["y"])
        graph = onnx.helper.make_graph([node], "g", [value("x", 1, [1])], [value("y", 1, [1])])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
        try:
            ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        except Exception:
            return False
        return True

    assert loads(newest)


def board(model: str, memory: float) -> Machine:
    return Machine("c", ("neon",), "linux/arm64", 6, Bytes(int(memory * 2**30)), board=model)


@pytest.mark.parametrize(
    ("name", "machine", "here"),
    [
        ("jetson-orin-nano-8gb", board("NVIDIA Jetson Orin Nano Developer Kit", 7.4), True),
        ("jetson-orin-nano-4gb", board("NVIDIA Jetson Orin Nano Developer Kit", 7.4), False),
        ("jetson-orin-nano-4gb", board("NVIDIA Jetson Orin Nano Developer Kit", 3.3), True),
        (
            "jetson-orin-nano-8gb",
            board("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", 7.4),
            False,
        ),
        (
            "jetson-orin-nano-8gb-super",
            board("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", 7.4),
            True,
        ),
        ("jetson-nano", board("NVIDIA Jetson Nano Developer Kit", 3.9), True),
        ("jetson-nano", board("NVIDIA Jetson Orin Nano Developer Kit", 3.9), False),
        ("rpi5", board("Raspberry Pi 5 Model B Rev 1.0", 7.9), True),
        ("rpi4", board("Raspberry Pi 5 Model B Rev 1.0", 7.9), False),
        ("rpi5", board("", 7.9), False),
        ("x86-64-avx2", board("", 7.9), False),
        ("t4", board("", 7.9), False),
    ],
)
def test_a_clock_counts_only_on_the_machine_itself(name: str, machine: Machine, here: bool) -> None:
    assert is_this_machine(shipped(name), machine) is here


def test_no_two_targets_claim_the_same_board() -> None:
    boards = [board("NVIDIA Jetson AGX Orin Developer Kit", size) for size in (30.0, 61.0)]
    boards += [board("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", size) for size in (7.4, 15.3)]
    boards += [board("NVIDIA Jetson Xavier NX Developer Kit", 6.8), board("Jetson-AGX Xavier", 30.9)]
    for machine in boards:
        claimed = [name for name in SHIPPED if is_this_machine(shipped(name), machine)]
        assert len(claimed) == 1, (machine.board, claimed)


def test_host_is_this_machine() -> None:
    host = find_target("host")
    assert is_this_machine(host)
    assert host.build_on == "host"
    assert not host.unverified


def test_an_unknown_target_gets_a_suggestion() -> None:
    for typed, meant in (("jetsn", "jetson"), ("rpi-5", "rpi5"), ("x86-64-avx", "x86-64-avx2"), ("hst", "host")):
        with pytest.raises(UnknownName, match=f"Did you mean .*{re.escape(meant)}"):
            find_target(typed)


GOOD = """
summary = "my board"
platform = "linux/arm64"
[cpu]
model = "Cortex-A76"
isa = ["neon"]
"""


def test_a_new_board_is_one_file(tmp_path: Path) -> None:
    file = tmp_path / "board.toml"
    file.write_text(GOOD)
    target = find_target(str(file))
    assert (target.name, target.platform, target.cpu.isa) == ("board", "linux/arm64", ("neon",))


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("linux/arm64", "linux/riscv64", "platform 'linux/riscv64'"),
        ("linux/arm64", "windows/amd64", "platform"),
        ('"neon"', '"neno"', "Did you mean 'neon'?"),
        ('isa = ["neon"]', 'isa = ["neon"]\ncores = 0', "cores is less than 1"),
        ('isa = ["neon"]', 'isa = ["neon"]\nfrequency = 1800', "has no unit"),
    ],
)
def test_a_board_with_a_slip_is_refused(old: str, new: str, what: str, tmp_path: Path) -> None:
    file = tmp_path / "board.toml"
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigInvalid) as caught:
        find_target(str(file))
    assert what in caught.value.what


@pytest.mark.parametrize(
    ("capability", "precisions", "match"),
    [
        ("8.6", ("fp32", "fp8"), "no fp8: it came with 8.9"),
        ("8.9", ("fp4",), "no fp4"),
        ("7.5", ("bf16",), "no bf16"),
        ("sm_87", ("fp32",), "not like '8.7'"),
        ("87", ("fp32",), "not like"),
    ],
)
def test_a_gpu_cannot_claim_what_its_generation_lacks(capability: str, precisions: tuple, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Gpu("g", capability, precisions)
