"""The whole gate on real models in real processes: what passes, fails, stays open, and what dies."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from nets import conv_net, matmul_net, save
from onnx import helper, numpy_helper

from mlopt.errors import (
    ConfigInvalid,
    LabelsMismatch,
    Misused,
    ModelNotFound,
    ModelUnreadable,
    UnsupportedModel,
)
from mlopt.gate import json_schema
from mlopt.gate.gate import gate
from mlopt.gate.result import GateResult, read_stored
from mlopt.gate.walk import Asked
from mlopt.profile import Budgets, Margins, Method, Profile
from mlopt.progress import Progress
from mlopt.report.report import to_json
from mlopt.request import Request
from mlopt.units import Fraction, Seconds

# Wide enough that what the machine of the test does to a clock is not what is tested.
LOOSE = Margins(latency_p50=Fraction(0.6), cpu_time=Fraction(0.6), peak_memory=Fraction(0.2), seconds=Seconds(20.0))
PROFILE = Profile("loose", "for tests", method=Method(warm_up=2, seconds=Seconds(1.0), rounds=4), gate=LOOSE)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save(conv_net(width=32, side=64), tmp_path / "base.onnx")


@pytest.fixture
def rebuilt(tmp_path: Path) -> Path:
    """The same computation in other bytes."""
    model = conv_net(width=32, side=64)
    model.doc_string = "built again"
    return save(model, tmp_path / "rebuilt.onnx")


@pytest.fixture
def samples(tmp_path: Path, base: Path) -> Path:
    """Samples with the labels that the baseline gives them, nine of ten times."""
    import onnxruntime as ort

    random = np.random.default_rng(0)
    x = random.standard_normal((700, 3, 64, 64)).astype(np.float32)
    y = ort.InferenceSession(str(base)).run(None, {"image": x})[0].argmax(axis=1)
    y = np.where(random.random(700) < 0.9, y, random.integers(0, 10, 700))
    np.savez(tmp_path / "samples.npz", x=x, y=y)
    return tmp_path / "samples.npz"


def judged(candidate: Path, baseline: Path, profile: Profile = PROFILE, **request: object) -> GateResult:
    asked = Asked(Request(model=candidate, **request), baseline, profile)  # type: ignore[arg-type]
    return gate(asked, Progress(quiet=True))


def verdicts(result: GateResult) -> dict[str, str]:
    return {check.metric: check.verdict for check in result.checks}


def stored(result: GateResult, path: Path, **changes: object) -> Path:
    path.write_text(json.dumps({**to_json(result), **changes}))
    return path


@pytest.mark.slow
def test_a_rebuild_of_the_same_model_passes(base: Path, rebuilt: Path, samples: Path) -> None:
    result = judged(rebuilt, base, samples=str(samples))
    assert verdicts(result) == {
        "file-size": "pass",
        "answers-nan": "pass",
        "top1": "pass",
        "latency-p50": "pass",
        "cpu-time": "pass",
        "peak-memory": "pass",
        "arena-peak": "pass",
    }
    assert result.verdict == "pass"
    assert result.slower == ()
    assert result.timing
    assert result.timing.pairs >= 16
    assert result.timing.control is not None
    jsonschema.validate(json.loads(json.dumps(to_json(result))), json.loads(json_schema.FILE.read_text()))


def test_the_schema_is_not_stale() -> None:
    assert json_schema.FILE.read_text() == json_schema.text()


@pytest.mark.slow
def test_a_slower_larger_model_fails_after_a_second_run(base: Path, tmp_path: Path) -> None:
    wider = save(conv_net(width=96, side=64), tmp_path / "wider.onnx")
    result = judged(wider, base)
    found = verdicts(result)
    assert found["latency-p50"] == found["cpu-time"] == found["file-size"] == result.verdict == "fail"
    assert result.timing
    assert result.timing.runs == 2
    assert "says the same" in next(check.note for check in result.checks if check.metric == "latency-p50")
    worst = result.slower[0]
    assert (worst.layer, worst.operators.partition(" ")[0]) == ("conv2", "Conv"), "nine times the products"
    assert worst.candidate > worst.baseline > 0


def test_the_same_file_is_not_timed(base: Path) -> None:
    result = judged(base, base)
    assert result.verdict == "pass"
    assert result.timing
    assert result.timing.pairs == 0
    assert "same bytes" in next(check.note for check in result.checks if check.metric == "latency-p50")


def test_the_same_file_keeps_budgets_of_answers_however_few_the_samples(
    base: Path, samples: Path, tmp_path: Path
) -> None:
    known = np.load(samples)
    np.savez(tmp_path / "few.npz", x=known["x"][:75], y=known["y"][:75])
    strict = dataclasses.replace(PROFILE, budgets=Budgets(max_drop=Fraction(0.01)))
    found = {
        (check.metric, check.kind): check.verdict
        for check in judged(base, base, strict, samples=str(tmp_path / "few.npz")).checks
    }
    assert found["max-drop", "budget"] == "pass"


def test_lost_answers_fail(base: Path, samples: Path, tmp_path: Path) -> None:
    model = conv_net(width=32, side=64)
    for tensor in model.graph.initializer:
        if tensor.name == "b3":
            tensor.CopyFrom(numpy_helper.from_array(np.linspace(-50, 50, 10, dtype=np.float32), "b3"))
    result = judged(save(model, tmp_path / "biased.onnx"), base, samples=str(samples))
    assert verdicts(result)["top1"] == "fail"


def test_labels_that_are_strangers_to_the_answers_are_no_pass(base: Path, samples: Path, tmp_path: Path) -> None:
    """Shifted by one, both are as seldom right: nothing would be lost."""
    known = np.load(samples)
    np.savez(tmp_path / "shifted.npz", x=known["x"], y=(known["y"] + 1) % 10)
    with pytest.raises(LabelsMismatch, match="labels do not fit"):
        judged(base, base, samples=str(tmp_path / "shifted.npz"))


def test_a_candidate_that_answers_nan_fails(base: Path, tmp_path: Path) -> None:
    model = conv_net(width=32, side=64)
    for tensor in model.graph.initializer:
        if tensor.name == "b3":
            tensor.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), "b3"))
    result = judged(save(model, tmp_path / "nan.onnx"), base)
    assert verdicts(result)["answers-nan"] == "fail"
    json.dumps(to_json(result), allow_nan=False)
    before = stored(result, tmp_path / "nan.json")
    assert verdicts(judged(tmp_path / "nan.onnx", before))["answers-nan"] == "pass", "its own baseline answers as much"
    wider = save(conv_net(width=48, side=64), tmp_path / "wider.onnx")
    known = next(check for check in judged(wider, before).checks if check.metric == "answers-nan")
    assert known.baseline == 128, "the same inputs are generated for every model that takes them"
    other = stored(result, tmp_path / "other.json", samples="f" * 64)
    assert verdicts(judged(tmp_path / "nan.onnx", other))["answers-nan"] == "inconclusive"


def test_too_little_time_is_inconclusive(base: Path, rebuilt: Path) -> None:
    hurried = dataclasses.replace(PROFILE, gate=dataclasses.replace(LOOSE, seconds=Seconds(0.001)))
    result = judged(rebuilt, base, hurried)
    assert result.verdict == "inconclusive"
    assert "too few rounds" in next(check.note for check in result.checks if check.metric == "latency-p50")


@pytest.mark.slow
def test_budgets_of_the_profile_are_judged_too(base: Path, rebuilt: Path) -> None:
    tight = dataclasses.replace(PROFILE, budgets=Budgets(file_size=1000, peak_memory=10**10))  # type: ignore[arg-type]
    found = {(check.metric, check.kind): check.verdict for check in judged(rebuilt, base, tight).checks}
    assert found["file-size", "budget"] == "fail"
    assert found["peak-memory", "budget"] == "pass"


@pytest.mark.slow
def test_one_byte_more_fails_a_margin_of_nothing(base: Path, rebuilt: Path) -> None:
    strict = dataclasses.replace(PROFILE, gate=dataclasses.replace(LOOSE, file_size=Fraction(0.0)))
    assert verdicts(judged(rebuilt, base, strict))["file-size"] == "fail"
    assert verdicts(judged(base, rebuilt, strict))["file-size"] == "pass"


@pytest.mark.slow
def test_a_stored_result_is_compared_on_what_is_comparable(
    base: Path, rebuilt: Path, samples: Path, tmp_path: Path
) -> None:
    before = judged(base, base, samples=str(samples))
    result = judged(rebuilt, stored(before, tmp_path / "before.json"), samples=str(samples))
    assert result.verdict == "pass"
    assert set(verdicts(result)) == {"file-size", "answers-nan", "top1", "peak-memory", "arena-peak"}
    assert {one.metric for one in result.not_compared} == {"latency-p50", "cpu-time"}
    asked = dataclasses.replace(PROFILE, budgets=Budgets(min_cosine=0.99))
    left = judged(rebuilt, tmp_path / "before.json", asked).not_compared
    assert "no outputs" in next(one.reason for one in left if one.metric == "min-cosine")
    elsewhere = stored(before, tmp_path / "else.json", machine={**before.machine, "cpu": "Another CPU"})
    result = judged(rebuilt, elsewhere)
    reasons = {one.metric: one.reason for one in result.not_compared}
    assert "Another CPU" in reasons["peak-memory"]
    assert "no labels" in reasons["top1"]
    older = stored(before, tmp_path / "older.json", machine={**before.machine, "onnxruntime": "1.0"})
    assert "onnxruntime 1.0" in {one.metric: one.reason for one in judged(rebuilt, older).not_compared}["peak-memory"]


def test_bad_baselines_are_one_clear_error(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no baseline"):
        judged(base, tmp_path / "absent")
    other = tmp_path / "other.json"
    other.write_text('{"kind": "mlopt-gate", "schema": 2}')
    with pytest.raises(ConfigInvalid, match="schema 2"):
        judged(base, other)
    other.write_text('{"kind": "mlopt-gate", "schema": 1}')
    with pytest.raises(ConfigInvalid, match="damaged"):
        read_stored(other)
    other.write_text('{"models": []}')
    with pytest.raises(ConfigInvalid, match="no result of mlopt gate"):
        read_stored(other)
    other.write_text("{")
    with pytest.raises(ConfigInvalid, match="no JSON"):
        read_stored(other)
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ModelUnreadable):
        judged(base, tmp_path / "empty.onnx")
    with pytest.raises(UnsupportedModel, match="different inputs"):
        judged(base, save(matmul_net(), tmp_path / "other.onnx"))


def test_answers_of_two_shapes_are_one_clear_error(base: Path, tmp_path: Path) -> None:
    more = conv_net(width=32, side=64)
    more.graph.output.append(helper.make_tensor_value_info("f", onnx.TensorProto.FLOAT, ["N", 32]))
    with pytest.raises(UnsupportedModel, match=r"2 outputs \(10, 32\).* 1 output \(10\)"):
        judged(save(more, tmp_path / "more.onnx"), base)
    fewer = conv_net(width=32, side=64)
    for tensor in fewer.graph.initializer:
        if tensor.name in ("w3", "b3"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:5], tensor.name))
    fewer.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    with pytest.raises(UnsupportedModel, match=r"1 output \(5\).* 1 output \(10\)"):
        judged(save(fewer, tmp_path / "fewer.onnx"), base)


def test_the_side_that_fixes_its_batch_decides_for_both(base: Path, tmp_path: Path) -> None:
    fixed = save(conv_net(width=32, side=64, batch=5), tmp_path / "fixed.onnx")
    hurried = dataclasses.replace(PROFILE, gate=dataclasses.replace(LOOSE, seconds=Seconds(0.001), peak_memory=None))
    for one, other in ((base, fixed), (fixed, base)):
        result = judged(one, other, hurried)
        assert "130" in next(check.method for check in result.checks if check.metric == "answers-nan")
        assert result.timing
        assert (result.timing.batch, result.timing.offline_batch) == (5, 5), "as it was, not as it was asked"
    with pytest.raises(UnsupportedModel, match="takes 4 samples at a time"):
        judged(save(conv_net(width=32, side=64, batch=4), tmp_path / "four.onnx"), fixed, hurried)


def test_answers_come_at_the_batch_of_the_scenario_as_in_compile(base: Path, tmp_path: Path) -> None:
    """A query of the scenario is what will be served: this model answers NaN to any batch but one."""
    single = conv_net(width=32, side=64)
    single.graph.node[-1].output[0] = "plain"
    single.graph.node.extend(
        [
            helper.make_node("Shape", ["image"], ["shape"], start=0, end=1),
            helper.make_node("Cast", ["shape"], ["count"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Sub", ["one", "count"], ["below"]),
            helper.make_node("Sqrt", ["below"], ["spoiled"]),
            helper.make_node("Add", ["plain", "spoiled"], ["logits"]),
        ]
    )
    single.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "one"))
    model = save(single, tmp_path / "single.onnx")
    hurried = dataclasses.replace(PROFILE, gate=dataclasses.replace(LOOSE, seconds=Seconds(0.001), peak_memory=None))
    assert verdicts(judged(model, base, hurried))["answers-nan"] == "pass"
    offline = dataclasses.replace(hurried, method=dataclasses.replace(hurried.method, scenario="offline"))
    assert verdicts(judged(model, base, offline))["answers-nan"] == "fail"


def test_a_scenario_that_is_not_measured_is_said_at_once(base: Path, rebuilt: Path) -> None:
    server = dataclasses.replace(PROFILE, method=dataclasses.replace(PROFILE.method, scenario="server"))
    with pytest.raises(Misused, match="not measured side by side"):
        judged(rebuilt, base, server)


@pytest.mark.slow
def test_the_offline_scenario_times_batches(base: Path, rebuilt: Path) -> None:
    offline = dataclasses.replace(PROFILE, method=dataclasses.replace(PROFILE.method, scenario="offline"))
    result = judged(rebuilt, base, offline)
    assert result.timing
    assert (result.timing.scenario, result.timing.batch) == ("offline", 8)


def test_a_model_that_no_runtime_can_load_is_refused(base: Path, tmp_path: Path) -> None:
    model = conv_net(width=32, side=64)
    model.graph.node[1].op_type = "NoSuchOperator"
    onnx.save(model, str(tmp_path / "odd.onnx"))
    with pytest.raises(UnsupportedModel):
        judged(tmp_path / "odd.onnx", base)


def test_instructions_decide_or_are_named_as_not_compared(base: Path, rebuilt: Path) -> None:
    counting = dataclasses.replace(PROFILE, gate=dataclasses.replace(LOOSE, instructions=Fraction(0.2)))
    result = gate(Asked(Request(model=rebuilt), base, counting), Progress(quiet=True))
    checks = {one.metric: one for one in result.checks}
    if "instructions" in checks:
        assert checks["instructions"].verdict == "pass"
        assert checks["instructions"].candidate
    else:
        assert "instructions" in {one.metric for one in result.not_compared}
