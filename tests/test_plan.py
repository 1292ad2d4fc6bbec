"""Plans: which candidates each model gets on each target, with which options, and why the rest are left out.

Golden files say it as a person reads it; `MLOPT_GOLDEN=write pytest tests/test_plan.py` writes them anew.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import nets
import numpy as np
import other_pythons
import pytest

from mlopt.artifact import Digest
from mlopt.errors import ConfigInvalid, UnknownName
from mlopt.intervals import Allowed
from mlopt.plan import Plan
from mlopt.plan import plan as plan_of
from mlopt.recipe import Recipe, StepSpec, all_recipes, find_recipe
from mlopt.samples.generated import GeneratedSamples
from mlopt.samples.samples import Samples
from mlopt.samples.sources import MappedArrays
from mlopt.signature import Signature, signature_of
from mlopt.step import options_of
from mlopt.steps.calibrated import common
from mlopt.target import Target, find_target

ALLOWED = Allowed(400, drop=0.03)
GOLDEN = Path(__file__).parent / "golden" / "plan"
MODELS = {"conv": nets.conv_net, "matmul": nets.matmul_net}
TARGETS = ("rpi4", "rpi5", "jetson-orin-nano-8gb", "x86-64-avx2", "x86-64-avx512-vnni", "graviton3", "h100")


@pytest.fixture(scope="module", params=sorted(MODELS))
def signature(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Signature]:
    path = nets.save(MODELS[request.param](), tmp_path_factory.mktemp("plan") / "net.onnx")
    return request.param, signature_of(path)


def samples(signature: Signature) -> Samples:
    """Some samples; a plan knows them by their digest and reads none of them."""
    tensor = signature.inputs[0]
    array = np.zeros((4, *(size for size in tensor.shape[1:] if isinstance(size, int))), np.float32)
    source = MappedArrays("made up", {tensor.name: array}, None, {}, {})
    return Samples(source, (0, 1), signature, {}, Digest("0" * 64))


def plan(
    signature: Signature,
    target: Target,
    recipes: Sequence[Recipe],
    calibration: Samples | None,
    allowed: Allowed = ALLOWED,
    asked: Sequence[str] = (),
) -> Plan:
    probe = calibration or GeneratedSamples(signature, 4, 0)
    return plan_of(signature, target, recipes, calibration, probe, allowed, asked=asked)


def as_text(made: Plan) -> str:
    lines = []
    for candidate in made.candidates:
        lines.append(f"{candidate.name} ({candidate.precision}, {candidate.runtime})")
        for step in candidate.steps:
            lines.append(f"  {step.name}")
            lines += [f"    {name} = {_shown(value)}" for name, value in sorted(options_of(step).items())]
    lines.append("left out:")
    lines += [f"  {left.recipe}: {left.reason}" for left in made.left_out]
    return "\n".join(lines) + "\n"


def _shown(value: object) -> object:
    """A digest changes with the data, and is no decision of the plan."""
    return "samples" if str(value).startswith("sha256:") else value


@pytest.mark.parametrize("calibrated", [True, False], ids=["samples", "no-samples"])
@pytest.mark.parametrize("target", TARGETS)
def test_golden(
    signature: tuple[str, Signature], target: str, calibrated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, facts = signature
    monkeypatch.setattr("mlopt.plan.installed", lambda distribution: "1.0")  # the same files, whatever extras are here
    made = plan(facts, find_target(target), all_recipes(), samples(facts) if calibrated else None)
    file = GOLDEN / f"{name}-{target}{'' if calibrated else '-no-samples'}.txt"
    if os.environ.get("MLOPT_GOLDEN") == "write":
        file.write_text(as_text(made))
    assert as_text(made) == file.read_text(), f"if this is meant: MLOPT_GOLDEN=write pytest {__file__}"


def test_no_golden_file_is_left_over() -> None:
    known = {f"{model}-{target}{kind}.txt" for model in MODELS for target in TARGETS for kind in ("", "-no-samples")}
    assert {path.name for path in GOLDEN.iterdir()} == known


@pytest.fixture
def conv(tmp_path: Path) -> Signature:
    return signature_of(nets.save(nets.conv_net(), tmp_path / "net.onnx"))


@pytest.fixture
def board() -> Target:
    return find_target("rpi5")


def reason(made: Plan) -> str:
    (left,) = made.left_out
    return left.reason


@pytest.mark.parametrize("name", ["cuda-fp32", "cuda-graph-fp16", "tensorrt-provider-fp16"])
def test_what_runs_on_a_gpu_is_planned_where_that_gpu_is(
    conv: Signature, board: Target, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = [find_recipe(name)]
    assert reason(plan(conv, board, recipes, None)) == "rpi5 has no NVIDIA GPU"
    card = find_target("rtx4090")
    assert "runs on the GPU of rtx4090 and nowhere else" in reason(plan(conv, card, recipes, None))
    here = dataclasses.replace(card, name="host", build_on="host")
    monkeypatch.setattr("mlopt.plan.installed", lambda distribution: None)
    assert reason(plan(conv, here, recipes, None)) == (
        "onnxruntime-gpu is not installed here: pip install 'mlopt[onnxruntime-cuda]'"
    )
    monkeypatch.setattr("mlopt.plan.installed", lambda distribution: "1.31")
    assert plan(conv, here, recipes, None).candidates[1].runtime == find_recipe(name).runtime


def test_engines_without_their_compiler_are_left_out_with_what_to_type(
    conv: Signature, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlopt.plan.installed", lambda distribution: None)
    made = plan(conv, find_target("rtx4090"), [find_recipe("rtx-fp16")], None)
    assert [one.name for one in made.candidates] == ["baseline"]
    assert reason(made) == "tensorrt-rtx is not installed here: pip install 'mlopt[tensorrt]'"


def test_a_tool_of_another_python_is_planned_when_somebody_asks_and_that_python_has_it(
    conv: Signature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes, jetson, name = [find_recipe("tensorrt-modelopt-int8")], find_target("jetson"), "tensorrt-modelopt-int8"
    monkeypatch.delenv(other_pythons.VARIABLE, raising=False)
    assert "ask for it with --recipe" in reason(plan(conv, jetson, recipes, samples(conv)))
    assert "export MLOPT_MODELOPT_PYTHON=" in reason(plan(conv, jetson, recipes, samples(conv), asked=[name]))
    bare = other_pythons.python(tmp_path / "bare")
    monkeypatch.setenv(other_pythons.VARIABLE, str(bare))
    assert f"{bare} -m pip install 'nvidia-" in reason(plan(conv, jetson, recipes, samples(conv), asked=[name]))
    monkeypatch.setenv(other_pythons.VARIABLE, str(other_pythons.with_modelopt(tmp_path / "other")))
    made = plan(conv, jetson, recipes, samples(conv), asked=[name])
    assert [step.name for step in made.candidates[1].steps] == ["equalize", "quantize-modelopt"]
    assert made.device_builds == (name,)


FP32 = Recipe("mine", "", "int8", (StepSpec("optimize-graph", {}),))


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (dataclasses.replace(FP32, runtime="tensorflow-lite"), "runtime 'tensorflow-lite' is not known"),
        (dataclasses.replace(FP32, needs_ops=("Attention",)), "no Attention"),
        (dataclasses.replace(FP32, needs_isa=("avx512",)), "has none of avx512"),
        (dataclasses.replace(FP32, min_opset=21), "needs opset 21"),
        (dataclasses.replace(FP32, needs_samples=True), "give --samples"),
    ],
)
def test_every_reason_to_leave_a_recipe_out(conv: Signature, board: Target, recipe: Recipe, words: str) -> None:
    made = plan(conv, board, [recipe], None)
    assert [candidate.name for candidate in made.candidates] == ["baseline"]
    assert words in reason(made)


def test_a_recipe_whose_runtime_is_not_installed_is_left_out_and_says_what_to_install(
    conv: Signature, board: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlopt.plan.installed", lambda distribution: None if distribution == "openvino" else "1.0")
    made = plan(conv, board, [find_recipe("openvino-fp32"), find_recipe("fp32")], None)
    assert [candidate.name for candidate in made.candidates] == ["baseline", "fp32"]
    assert reason(made) == "openvino is not installed here: pip install 'mlopt[openvino]'"


def test_a_search_is_left_out_where_no_samples_could_prove_its_result(conv: Signature, board: Target) -> None:
    mixed = find_recipe("int8-mixed")
    assert not plan(conv, board, [mixed], samples(conv)).left_out
    (left,) = plan(conv, board, [mixed], samples(conv), Allowed(40, drop=0.01)).left_out
    assert left.reason == (
        "40 evaluation samples cannot prove a drop of at most 1 points for any model that changes an answer; the least "
        "that they can is 6.6 points"
    )
    assert not plan(conv, board, [mixed], samples(conv), Allowed(40, drop=0.066)).left_out
    (left,) = plan(conv, board, [mixed], samples(conv), Allowed(40, agreement=0.99)).left_out
    most = float(left.reason.rpartition(" is ")[2].split()[0]) / 100
    assert not plan(conv, board, [mixed], samples(conv), Allowed(40, agreement=most)).left_out
    static = find_recipe("int8-static")
    assert not plan(conv, board, [static], samples(conv), Allowed(40, drop=0.01)).left_out, "it searches nothing"


def test_what_is_quantized_already_is_not_quantized_again(conv: Signature, board: Target) -> None:
    quantized = dataclasses.replace(conv, op_types=(*conv.op_types, "QuantizeLinear"))
    made = plan(quantized, board, [FP32], None)
    assert "quantized already" in reason(made)
    assert made.baseline.precision == "int8"


def test_the_scheme_is_what_the_target_computes_exactly(conv: Signature) -> None:
    schemes = {}
    for name in ("x86-64-avx2", "x86-64-avx512-vnni", "rpi5"):
        made = plan(conv, find_target(name), [find_recipe("int8-static")], samples(conv))
        (quantize,) = (step for step in made.candidates[1].steps if step.name == "quantize-static")
        schemes[name] = options_of(quantize)["scheme"]
    assert "auto" not in schemes.values()
    assert schemes["x86-64-avx2"] == schemes["x86-64-avx512-vnni"], "an image of one runs on the other too"
    assert schemes["rpi5"] != schemes["x86-64-avx2"]


def test_what_takes_long_is_made_when_it_is_asked_for(conv: Signature, board: Target) -> None:
    pruned = find_recipe("pruned")
    assert reason(plan(conv, board, [pruned], samples(conv))) == (
        "it takes long to make; ask for it with --recipe pruned"
    )
    made = plan(conv, board, [pruned], samples(conv), asked=["pruned"])
    assert [candidate.name for candidate in made.candidates] == ["baseline", "pruned"]
    assert reason(plan(conv, board, [pruned], None, asked=["pruned"])) == (
        "it needs samples to observe ranges on; give --samples"
    )


def test_widths_are_multiples_of_what_the_target_computes_at_a_time(conv: Signature) -> None:
    multiples = {}
    for name in ("x86-64-avx2", "x86-64-avx512-vnni", "rpi5"):
        made = plan(conv, find_target(name), [find_recipe("pruned-int8")], samples(conv), asked=["pruned-int8"])
        multiples[name] = options_of(made.candidates[1].steps[0])["multiple"]
    assert multiples == {"x86-64-avx2": 8, "x86-64-avx512-vnni": 16, "rpi5": 8}


@pytest.mark.litert
@pytest.mark.parametrize(
    ("allowed", "least"),
    [
        (Allowed(100, agreement=0.95), 39.6),
        (Allowed(100, agreement=0.99), 53.6),
        (Allowed(100, drop=0.01), 39.6),  # of agreement that profile says nothing
        (Allowed(100, agreement=0.95, sqnr=45.0), 45.5),
        (Allowed(100, agreement=1.0), float("inf")),
    ],
)
def test_noise_that_the_profile_leaves_room_for_is_told_whatever_else_a_recipe_does(
    conv: Signature, board: Target, allowed: Allowed, least: float
) -> None:
    shipped = find_recipe("litert-int8-dynamic")
    rounded = dataclasses.replace(shipped, name="own", steps=(StepSpec("optimize-graph", {}), *shipped.steps))
    for recipe in (shipped, rounded):
        (step,) = (
            one for one in plan(conv, board, [recipe], None, allowed).candidates[1].steps if "hybrid" in one.name
        )
        assert options_of(step)["least_sqnr"] == least


def test_a_slip_in_an_option_is_found_before_anything_runs(conv: Signature, board: Target) -> None:
    slip = dataclasses.replace(FP32, steps=(StepSpec("optimize-graph", {"levl": "basic"}),))
    with pytest.raises(ConfigInvalid, match="Did you mean 'level'"):
        plan(conv, board, [slip], None)
    with pytest.raises(UnknownName, match="Did you mean optimize-graph"):
        plan(conv, board, [dataclasses.replace(FP32, steps=(StepSpec("optimise-graph", {}),))], None)


def test_a_value_that_a_step_refuses_is_found_before_anything_runs(conv: Signature, board: Target) -> None:
    slip = dataclasses.replace(FP32, steps=(StepSpec("quantize-static", {"calibrator": "minmax"}),))
    with pytest.raises(ConfigInvalid, match="cannot be set so: calibrator is 'minmax', and there are"):
        plan(conv, board, [slip], samples(conv))


def test_planning_is_pure(conv: Signature, board: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    first = plan(conv, board, all_recipes(), samples(conv))
    assert as_text(plan(conv, board, all_recipes(), samples(conv))) == as_text(first)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("runtime", ["", "openvino-"])
def test_a_search_begins_as_the_repaired_one_where_that_is_made_too(
    signature: tuple[str, Signature], runtime: str
) -> None:
    """Both then find one equalisation, one observation of ranges and one repair in the store."""
    _, facts = signature
    target, given = find_target("x86-64-avx512-vnni"), samples(facts)
    names = f"{runtime}int8-mixed", f"{runtime}int8-repaired"
    both = plan(facts, target, [find_recipe(name) for name in names], given)
    mixed, repaired = (next(one for one in both.candidates if one.name == name) for name in names)
    assert mixed.steps[0] == repaired.steps[0]
    place = 1 if runtime else 2
    search, static = mixed.steps[place], repaired.steps[place]
    assert (search.name, static.name) == ("quantize-mixed", "quantize-static")
    assert common(search) == common(static)  # type: ignore[arg-type]
    assert options_of(search)["fallback"], "all int8 is judged beside it"
    (alone,) = plan(facts, target, [find_recipe(names[0])], given).candidates[1:]
    assert options_of(alone.steps[0])["calibrator"] == "min-max", "without a companion, the quicker way"
    assert not options_of(alone.steps[place])["fallback"]
