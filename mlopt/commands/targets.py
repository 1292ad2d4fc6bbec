"""`mlopt targets`: the machines that can be built for, what can be built for each, and which facts nobody checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mlopt.commands.engine_facts import engine_facts, released
from mlopt.commands.table import echo_facts, echo_json, echo_table, echo_text

if TYPE_CHECKING:
    from mlopt.target import Gpu, Target


@click.group(name="targets", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """The machines that can be built for: facts, one file each.

    A board of your own is a .toml file: start from one that `show` names, and give --target ./board.toml,
    or put it into ~/.config/mlopt/targets.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_targets)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with every fact.")
def list_targets(as_json: bool = False) -> None:
    """All targets, this machine first."""
    from mlopt.target import find_target, target_names

    targets = [find_target(name) for name in target_names()]
    if as_json:
        echo_json([_facts(target) for target in targets])
        return
    echo_table(("TARGET", "CPU", "MEMORY", "SM", "WHAT IT IS"), [_row(target) for target in targets])
    click.echo()
    echo_text("SM is the GPU's compute capability. More about one: mlopt targets show NAME")


@command.command("show")
@click.argument("name", metavar="NAME|FILE")
@click.option("--json", "as_json", is_flag=True, help="As JSON: sizes in bytes, rates per second.")
def show(name: str, as_json: bool) -> None:
    """One target: its facts, and what can be built for it where, and why."""
    from mlopt.target import find_target, namesakes

    target = find_target(name)
    if as_json:
        echo_json(_facts(target))
        return
    echo_text(f"{target.name}: {target.summary}", bold=True)
    if others := [one for one in namesakes(name) if one != target.name]:
        echo_text(f"{name} alone means this one. Others: {', '.join(others)}")
    echo_facts(_machine(target), indent=2)
    click.secho("\nwhat can be made for it", bold=True)
    echo_facts(_buildable(target), indent=2)
    click.secho("\nrecipes", bold=True)
    echo_facts(_recipes(target), indent=2)
    if notes := _notes(target):
        click.secho("\nwhere the facts are from", bold=True)
        echo_facts(notes, indent=2)


def _notes(target: Target) -> list[tuple[str, str]]:
    from mlopt import jetpack

    sources = (*target.sources, *(jetpack.sources() if target.jetpacks else ()))
    notes = [("sources", "\n".join(sources))] if sources else []
    for name in target.jetpacks:
        if doubtful := jetpack.releases()[name].unverified:
            notes.append((f"JetPack {name}", f"{', '.join(doubtful)} not certain"))
    if target.unverified:
        marked = ", ".join(target.unverified)
        notes.append(("* unverified", f"{marked}: written down, and not checked on such a machine"))
    return notes


def _row(target: Target) -> tuple[str, str, str, str, str]:
    from mlopt.units import format_bytes

    memory = target.memory or (target.gpu and target.gpu.memory)
    aliases = f" (also: {', '.join(target.aliases)})" if target.aliases else ""
    return (
        target.name,
        target.platform.removeprefix("linux/"),
        format_bytes(memory) if memory else "",
        target.gpu.compute_capability if target.gpu else "",
        target.summary + aliases,
    )


def _facts(target: Target) -> dict[str, object]:
    from dataclasses import fields

    from mlopt.target import is_this_machine

    declared: dict[str, object] = {one.name: getattr(target, one.name) for one in fields(target)}
    return declared | {
        "opset": target.opset,
        "int8_scheme": target.int8_scheme,
        "channel_multiple": target.channel_multiple,
        "this_machine": is_this_machine(target),
        "file": _file(target),
    }


def _file(target: Target) -> str | None:
    from mlopt import paths
    from mlopt.target import HOST

    found = paths.declarations("targets").get(target.name)
    return str(found) if found and target.name != HOST else None


def _machine(target: Target) -> list[tuple[str, str]]:
    from mlopt.units import format_bytes

    mark = _Marker(target.unverified)
    facts = [("also called", ", ".join(target.aliases)), ("file", _file(target) or ""), ("platform", target.platform)]
    if target.memory:
        shared = " shared by CPU and GPU" if target.gpu and target.gpu.memory is None else ""
        facts.append(("memory" + mark("memory"), format_bytes(target.memory) + shared))
    facts.append(("cpu" + mark("cpu"), _cpu(target)))
    if target.gpu:
        facts.append(("gpu" + mark("gpu"), _gpu(target.gpu)))
    if target.power:
        facts.append(("power" + mark("power"), " / ".join(f"{watts:g} W" for watts in target.power.modes)))
    if target.stacks:
        marked = mark("jetpacks") or mark("stack")
        facts.append(("JetPack" + marked if target.jetpacks else "stack" + marked, "\n".join(released(target.stacks))))
    return [(name, value) for name, value in facts if value]


class _Marker:
    """An asterisk for a table any fact of which is unverified."""

    def __init__(self, unverified: tuple[str, ...]) -> None:
        self.tables = {path.split(".")[0] for path in unverified}

    def __call__(self, table: str) -> str:
        return "*" if table in self.tables else ""


def _cpu(target: Target) -> str:
    cpu = target.cpu
    cores = f"{cpu.cores} × " if cpu.cores else ""
    clock = f" at {cpu.frequency / 1e9:.3g} GHz" if cpu.frequency else ""
    return f"{cores}{cpu.model}{clock}\n{' '.join(cpu.isa)}"


def _gpu(gpu: Gpu) -> str:
    from mlopt.units import BytesPerSecond, OpsPerSecond, format_bytes, format_quantity

    lines = [f"{gpu.name}, compute capability {gpu.compute_capability}"]
    memory = [format_bytes(gpu.memory)] if gpu.memory else []
    memory += [format_quantity(BytesPerSecond, gpu.bandwidth)] if gpu.bandwidth else []
    lines += [f"memory {' at '.join(memory)}"] if memory else []
    lines.append(f"precisions {' '.join(gpu.precisions)}")
    for rates, kind in ((gpu.dense, "dense"), (gpu.sparse, "with 2:4 sparse weights")):
        if rates:
            peaks = ", ".join(f"{name} {format_quantity(OpsPerSecond, rate)}" for name, rate in rates.items())
            lines.append(f"peak {peaks} ({kind})")
    units = [f"{gpu.dla} DLA"] if gpu.dla else []
    units += ["2:4 sparsity"] if gpu.sparsity else []
    return "\n".join([*lines, *([", ".join(units)] if units else [])])


def _buildable(target: Target) -> list[tuple[str, str]]:
    from mlopt.target import HOST, is_this_machine

    architecture = target.platform.removeprefix("linux/")
    facts = [
        (
            "image",
            f"here, without the machine: a server with ONNX Runtime, OpenVINO or LiteRT on its {architecture} CPU",
        ),
        ("opset", f"{target.opset} at most: {_opset_reason(target)}"),
        ("int8 on the CPU", _int8_reason(target)),
        ("pruned widths", f"multiples of {target.channel_multiple} channels"),
    ]
    facts += engine_facts(target)
    if is_this_machine(target):
        facts.append(("clocks", "measured: the target is this machine"))
    else:
        facts.append(("clocks", f"unmeasured: this machine is another, and its clocks say nothing of {target.name}"))
    if target.name == HOST:
        facts.append(("accuracy", "measured with the instructions of this CPU"))
    return facts


def _opset_reason(target: Target) -> str:
    stack = target.stacks[0] if target.stacks else None
    if stack and stack.opset is not None:
        return "its file says so"
    if stack and stack.tensorrt:
        return f"what TensorRT {stack.tensorrt} of its first stack reads"
    return "what ONNX Runtime reads"


def _int8_reason(target: Target) -> str:
    found = sorted({"avx512-vnni", "avx-vnni", "amx-int8", "dotprod", "i8mm"} & set(target.cpu.isa))
    speed = (
        f"{', '.join(found)} multiplies int8 directly, so it can be faster than fp32"
        if found
        else "no int8 dot product, so it is smaller and rarely faster"
    )
    exact = {
        "u8s8": "u8 by s8",
        "u8s8-paired": "u8 by s8, neighbouring weights small enough for processors that add products in 16 bits",
        "s8s8": "s8 by s8",
        "u8u8": "u8 by u8",
    }[target.int8_scheme]
    return f"{exact}; {speed}"


def _recipes(target: Target) -> list[tuple[str, str]]:
    """What the target alone decides; the model decides the rest (`mlopt compile --dry-run`)."""
    from mlopt.engines import built_on_device, why_no_engine
    from mlopt.recipe import all_recipes

    facts = []
    for recipe in all_recipes():
        if recipe.engine:
            reason = why_no_engine(recipe.engine.name, target, recipe.precision, sparse=recipe.sparse)
            if reason:
                facts.append((recipe.name, f"no: {reason}"))
                continue
        if recipe.needs_isa and not set(recipe.needs_isa) & set(target.cpu.isa):
            facts.append((recipe.name, f"no: its CPU has none of {', '.join(recipe.needs_isa)}"))
            continue
        needs = ["samples"] if recipe.needs_samples else []
        needs += [f"a model with {' or '.join(recipe.needs_ops)}"] if recipe.needs_ops else []
        needs += [f"--recipe {recipe.name}"] if recipe.on_request else []
        needs += ["the device to build it on"] if recipe.engine and built_on_device(recipe.engine.name) else []
        facts.append((recipe.name, f"yes, given {' and '.join(needs)}" if needs else "yes"))
    return facts
