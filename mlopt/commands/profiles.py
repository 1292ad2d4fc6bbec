"""`mlopt profiles`: what can be asked for: budgets, and how they are measured."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import click

from mlopt.commands.table import echo_facts, echo_json, echo_table, echo_text

if TYPE_CHECKING:
    from mlopt.profile import Budgets, Margins, Profile


@click.group(name="profiles", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """The budgets that can be asked for: what is good enough, and how it is measured.

    One of your own is a .toml file: give --profile ./mine.toml, or put it into ~/.config/mlopt/profiles.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_profiles)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON: sizes in bytes, times in seconds.")
def list_profiles(as_json: bool = False) -> None:
    """All profiles."""
    from mlopt.profile import DEFAULT, find_profile, profile_names

    profiles = [find_profile(name) for name in profile_names()]
    if as_json:
        echo_json(profiles)
        return
    rows = [
        (one.name, one.minimize, one.summary + (" (used when none is named)" if one.name == DEFAULT else ""))
        for one in profiles
    ]
    echo_table(("PROFILE", "LEAST", "WHAT IT ASKS FOR"), rows)
    click.echo()
    echo_text("LEAST is what the winner is best at among all that keep the budgets. More: mlopt profiles show NAME")


@command.command("show")
@click.argument("name", metavar="NAME|FILE")
@click.option("--json", "as_json", is_flag=True, help="As JSON: sizes in bytes, times in seconds.")
def show(name: str, as_json: bool) -> None:
    """One profile: every budget, and the method of measuring."""
    from mlopt import paths
    from mlopt.profile import find_profile

    profile = find_profile(name)
    if as_json:
        echo_json(profile)
        return
    file = name if paths.is_path(name) else str(paths.declarations("profiles")[profile.name])
    echo_text(f"{profile.name}: {profile.summary}", bold=True)
    goal = f"least {profile.minimize}, among all inside every budget"
    echo_facts([("file", file), ("the winner has", goal)], indent=2)
    click.secho("\nbudgets", bold=True)
    echo_facts(_budgets(profile.budgets) or [("none", "every candidate is inside")], indent=2)
    click.secho("\nmethod", bold=True)
    echo_facts(_method(profile), indent=2)
    click.secho("\ngate", bold=True)
    echo_facts(_gate(profile.gate), indent=2)


_JUDGED = {
    "latency_p50": "of one query, median",
    "latency_p90": "of one query, nine of ten are quicker",
    "latency_p99": "of one query, 99 of 100 are quicker",
    "throughput": "samples per second, in batches",
    "load_time": "from the start of the process until it is ready",
    "peak_memory": "of the process",
    "file_size": "of the model on disk",
    "image_size": "of the whole image, unpacked",
    "max_drop": "of top-1 against the baseline, worse end of the 95 % interval",
    "min_agreement": "same answers as the baseline, worse end of the 95 % interval (without labels)",
    "min_cosine": "between outputs and the baseline's (without labels)",
    "min_sqnr": "signal to quantization noise of the outputs",
}


def _budgets(budgets: Budgets) -> list[tuple[str, str]]:
    from mlopt.profile import Budgets

    hints = get_type_hints(Budgets)
    facts = []
    for one in fields(budgets):
        value = getattr(budgets, one.name)
        if value is not None:
            bound = "at least" if one.name.startswith("min_") or one.name == "throughput" else "at most"
            facts.append((one.name.replace("_", "-"), f"{bound} {_shown(hints[one.name], value)}: {_JUDGED[one.name]}"))
    return facts


def _shown(hint: Any, value: float) -> str:
    from mlopt.units import UNITS, format_quantity

    kind = next((one for one in get_args(hint) if one in UNITS), None)
    return format_quantity(kind, value) if kind else f"{value:g}"


def _method(profile: Profile) -> list[tuple[str, str]]:
    from mlopt.units import format_seconds

    method = profile.method
    batch = f"{method.query_batch} sample{'s' if method.query_batch > 1 else ''}"
    return [
        ("scenario", f"{method.scenario}: {batch} a query; throughput in batches of {method.offline_batch}"),
        ("threads", str(method.threads)),
        ("rounds", f"{method.rounds}, every candidate in each, after {method.warm_up} warm-up queries"),
        ("time", f"{format_seconds(method.seconds)} at most for all candidates together"),
    ]


def _gate(margins: Margins) -> list[tuple[str, str]]:
    from mlopt.units import format_seconds

    facts = []
    for one in fields(margins):
        value = getattr(margins, one.name)
        if value is not None and one.name != "seconds":
            unit = "points less" if one.name == "top1" else "% more"
            facts.append((one.name.replace("_", "-"), f"at most {value * 100:g} {unit} than the baseline"))
    return [*facts, ("time", f"{format_seconds(margins.seconds)} at most for each run of the clocks")]
