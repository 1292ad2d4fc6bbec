"""`mlopt image push … rollback`, typed as a release engineer does: three variants of a small net, really compiled and
gated, in a real registry."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from layouts import SAID, small_layout
from nets import conv_net, save
from registries import Registry
from walks import borrow_inputs, labelled, mlopt, profile

from mlopt.commands.image import command
from mlopt.errors import BudgetInfeasible, ImageFailed, Misused, ModelNotFound, RegistryFailed
from mlopt.image.fetch import Inputs
from mlopt.image.run import free_port

RECIPES = ("baseline", "int8-static", "fp16")
_GATE = """\
schema = 1
summary = "quick, for tests"
[method]
warm-up = 1
rounds = 4
[gate]
file-size = "{size}"
"""


def typed(*arguments: str | Path) -> str:
    done = CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def bundles(tmp_path: Path, image_inputs: Inputs) -> dict[str, Path]:
    """A bundle with an image of each recipe."""
    borrow_inputs(image_inputs, tmp_path / "store")
    model = save(conv_net(width=24), tmp_path / "net.onnx")
    samples = labelled(tmp_path / "samples.npz", model)
    fast = profile(tmp_path)
    for recipe in RECIPES:
        more = ["--recipe", recipe] if recipe != "baseline" else []
        said = [model, "--target", "host", "--samples", samples, "--profile", fast, "--ship", recipe, *more]
        done = mlopt("compile", *said, "--out", tmp_path / recipe, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    return {recipe: tmp_path / recipe / "net" / "host" for recipe in RECIPES}


def gated(candidate: Path, baseline: Path, tmp_path: Path, *, size: str) -> tuple[Path, str]:
    """What a real gate says, judging by the size of the file alone."""
    margins = tmp_path / "gate.toml"
    margins.write_text(_GATE.format(size=size))
    done = mlopt("gate", candidate, "--baseline", baseline, "--profile", margins, "--json", cwd=tmp_path)
    path = tmp_path / f"{candidate.parents[1].name}.json"
    path.write_text(done.stdout)
    return path, json.loads(done.stdout)["verdict"]


@pytest.mark.slow
@pytest.mark.registry
def test_three_variants_from_push_to_rollback(registry: Registry, bundles: dict[str, Path], tmp_path: Path) -> None:
    where = f"{registry.host}/team/net"
    base, int8, half = (bundles[recipe] for recipe in RECIPES)
    verdicts = {}
    for recipe, baseline in (("baseline", base), ("int8-static", base), ("fp16", int8)):
        gate, verdicts[recipe] = gated(bundles[recipe], baseline, tmp_path, size="1%")
        typed("push", bundles[recipe], f"{where}:1.2.0", "--gate", gate)
    assert verdicts == {"baseline": "pass", "int8-static": "pass", "fp16": "fail"}
    tags = {recipe: f"1.2.0-ort1.31-cpu-{name}" for recipe, name in zip(RECIPES, ("fp32", "int8", "fp16"), strict=True)}

    listed = json.loads(typed("ls", where, "--json"))
    assert [one["tag"] for one in listed] == sorted(tags.values())
    digests = {one["tag"]: one["digest"] for one in listed}
    in_bundle = {r: json.loads((path / "bundle.json").read_text())["image"]["digest"] for r, path in bundles.items()}
    assert {recipe: digests[tag] for recipe, tag in tags.items()} == in_bundle

    picked = typed("pick", where, "--target", "host", "--max-latency", "10s", "--min-accuracy", "0.5")
    assert picked.splitlines()[0] == digests[tags["int8-static"]]
    assert "is larger" in picked
    local = typed("pick", *bundles.values(), "--max-size", "50MB", "-q")
    assert local.strip() == digests[tags["int8-static"]]
    with pytest.raises(BudgetInfeasible, match="was compiled for host, not for rpi5"):
        typed("pick", where, "--target", "rpi5")
    with pytest.raises(BudgetInfeasible, match=r"proven to be at most .*, the limit is 1\.00 ns"):
        typed("pick", where, "--max-latency", "1ns")

    assert typed("promote", f"{where}:{tags['baseline']}", "stable", "-q").strip() == digests[tags["baseline"]]
    moved = typed("promote", f"{where}:{tags['int8-static']}", "stable")
    assert "the gate compared it with what the alias named before" in moved
    refused = mlopt("image", "promote", f"{where}:{tags['fp16']}", "stable", cwd=tmp_path)
    assert refused.returncode == 31
    assert "The gate found it worse than its baseline" in refused.stderr
    assert digests[tags["int8-static"]] in typed("show", f"{where}:stable")
    assert typed("rollback", where, "stable", "-q").strip() == digests[tags["baseline"]]
    assert [one["aliases"] for one in json.loads(typed("ls", where, "--json"))] == [[], ["stable"], []]

    changed = json.loads(typed("diff", f"{where}:{tags['baseline']}", int8, "--json"))
    assert {"io.mlopt.precision", "model", "model file"} <= {change["name"] for change in changed}
    assert not [change for change in changed if change["kind"] == "package"]
    assert typed("diff", half, half) == "no difference\n"


def test_folders_and_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="No bundle with an image is in this folder"):
        typed("ls", tmp_path)
    with pytest.raises(ModelNotFound, match="no bundle at this path"):
        typed("show", tmp_path / "nothing")
    with pytest.raises(Misused, match="must begin with the registry's host"):
        typed("show", "net:1.2.0")
    layout = small_layout(tmp_path / "layout")
    assert "io.mlopt.precision" in typed("show", layout)
    with pytest.raises(ModelNotFound, match="This is a repository"):
        typed("show", "registry.example/net")
    with pytest.raises(Misused, match="only promote moves"):
        typed("push", layout, "registry.example/net:latest")
    with pytest.raises(ImageFailed, match="does not say what it is"):
        typed("push", small_layout(tmp_path / "old", annotations=dict.fromkeys(SAID, "")), "registry.example/net:1")


@pytest.mark.registry
def test_the_command_line_of_a_push(registry: Registry, tmp_path: Path) -> None:
    layout = small_layout(tmp_path / "layout", layers={"base": os.urandom(50_000), "model": os.urandom(10)})
    where = f"{registry.host}/team/net"
    done = mlopt("image", "push", layout, f"{where}:1.2.0", cwd=tmp_path)
    assert done.stdout.splitlines()[0] == f"{where}:1.2.0-ort1.31-cpu-int8"
    assert "sent base, 50.3 kB, sha256:" in done.stderr
    assert "0 B there already" in done.stdout
    again = mlopt("image", "push", layout, f"{where}:1.2.0", "-q", cwd=tmp_path)
    assert again.stderr == ""
    assert again.stdout.startswith("sha256:")
    rows = typed("ls", where).splitlines()
    assert rows[0].split() == ["image", "digest", "size", "target", "p50", "top-1", "gate", "aliases"]
    assert rows[1].startswith("1.2.0-ort1.31-cpu-int8  ")


def test_no_registry_ends_with_its_code(tmp_path: Path) -> None:
    layout = small_layout(tmp_path / "layout")
    done = mlopt("image", "push", layout, f"127.0.0.1:{free_port()}/net:1", cwd=tmp_path)
    assert done.returncode == RegistryFailed.exit_code == 30
    assert "error: The registry gives no answer: Connection refused." in done.stderr
    assert done.stderr.count("again in") == 4
    assert "Traceback" not in done.stderr
