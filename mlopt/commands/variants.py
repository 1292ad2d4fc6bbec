"""`mlopt image push|ls|show|diff|pick|promote|rollback`: variants in registries and in folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlopt.commands.options import limit, progress_for
from mlopt.commands.table import echo_facts, echo_json, echo_table

if TYPE_CHECKING:
    from mlopt.variants.aliases import Moved
    from mlopt.variants.variant import Variant

as_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")
quiet = click.option("-q", "--quiet", is_flag=True, help="The digest alone, and errors.")


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("reference")
@click.option("--gate", type=click.Path(path_type=Path), metavar="FILE", help="What mlopt gate --json said.")
@quiet
def push(image: Path, reference: str, gate: Path | None, quiet: bool) -> None:
    """Push IMAGE (a bundle, or its image folder) to REFERENCE, HOST/NAME:VERSION.

    The tag is the version, completed by what the image is: 1.2.0-ort1.31-cpu-int8. What the run measured goes with
    it, and with --gate the verdict by which it can be promoted. What is there already is not sent again.
    """
    from mlopt.image.push import push_layout
    from mlopt.image.reference import Reference
    from mlopt.image.repository import Repository
    from mlopt.report.text import size
    from mlopt.variants.pushing import what_to_push

    parsed = Reference.parse(reference)
    progress = progress_for(quiet=quiet, verbose=False)
    found = what_to_push(image, parsed, gate=gate)
    repository = Repository.open(parsed, say=progress.say)
    done = push_layout(found.layout, repository, tag=found.tag, said=found.said, say=progress.say)
    if quiet:
        click.echo(done.digest)
        return
    click.echo(f"{parsed.repository}:{done.tag}")
    click.echo(f"{done.digest}  {size(done.sent)} sent, {size(done.kept)} there already")


@click.command(name="ls")
@click.argument("where", nargs=-1, required=True, metavar="REPOSITORY|FOLDER…")
@as_json
def list_variants(where: tuple[str, ...], as_json: bool) -> None:
    """List the images of a repository, HOST/NAME, or of the bundles in FOLDER."""
    from mlopt.variants.text import HEAD, row

    variants = _variants(where)
    if as_json:
        echo_json(variants)
        return
    echo_table(HEAD, [row(variant) for variant in variants])


@click.command()
@click.argument("image")
@as_json
def show(image: str, as_json: bool) -> None:
    """Show what is known of IMAGE: a bundle, a layout, or a reference HOST/NAME:TAG."""
    from mlopt.variants.text import facts
    from mlopt.variants.variant import open_variant

    variant = open_variant(image, say=_say)
    if as_json:
        echo_json(variant)
        return
    echo_facts(facts(variant))


@click.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@as_json
def diff(before: str, after: str, as_json: bool) -> None:
    """Show what changes from image A to B: what they are, layers, figures."""
    from mlopt.variants.diff import diff as compare
    from mlopt.variants.text import changes
    from mlopt.variants.variant import open_variant

    found = compare(open_variant(before, say=_say), open_variant(after, say=_say))
    if as_json:
        echo_json(found)
    elif found:
        echo_table(("what", "", "A", "B", "change"), changes(found))
    else:
        click.echo("no difference")


@click.command()
@click.argument("where", nargs=-1, required=True, metavar="REPOSITORY|FOLDER…")
@click.option("-t", "--target", metavar="NAME|FILE", help="Compiled for, and measured on this one.")
@limit("--max-size", "40MB", "Bytes", "Of the image, compressed, for the target's platform.")
@limit("--max-latency", "20ms", "Seconds", "Of one query: the median, proven at 95 % confidence.")
@limit("--min-accuracy", "70%", "Fraction", "Top-1, proven at 95 % confidence.", bare=True)
@click.option("--by", type=click.Choice(["size", "latency", "accuracy"]), default="size", help="Best in what.  [size]")
@quiet
@as_json
def pick(
    where: tuple[str, ...],
    target: str | None,
    max_size: int | None,
    max_latency: float | None,
    min_accuracy: float | None,
    by: Any,
    quiet: bool,
    as_json: bool,
) -> None:
    """Pick one image of several: the best that keeps every limit.

    Says its digest, and why the others lost. A limit is kept only by what was measured.
    """
    from mlopt.target import find_target
    from mlopt.variants.pick import Limits
    from mlopt.variants.pick import pick as choose

    limits = Limits(find_target(target) if target else None, max_size, max_latency, min_accuracy)
    found = choose(_variants(where), limits, by=by)
    if as_json:
        echo_json(found)
        return
    click.echo(found.variant.digest)
    if not quiet:
        echo_facts([(found.variant.name, found.why)])
        if found.lost:
            click.echo("\nwhy not")
            echo_facts([(one.variant.name, one.why) for one in found.lost], indent=2)


@click.command()
@click.argument("reference")
@click.argument("alias")
@quiet
def promote(reference: str, alias: str, quiet: bool) -> None:
    """Let ALIAS name the image REFERENCE, if its gate passed.

    ALIAS is stable, canary, 1.2 …: a tag that moves. The gate is what push attached with --gate.
    """
    from mlopt.image.reference import Reference
    from mlopt.image.repository import Repository
    from mlopt.variants.aliases import promote as move

    parsed = Reference.parse(reference)
    _moved(parsed.repository, move(Repository.open(parsed, say=_say), parsed, alias), quiet=quiet)


@click.command()
@click.argument("repository")
@click.argument("alias")
@quiet
def rollback(repository: str, alias: str, quiet: bool) -> None:
    """Let ALIAS of REPOSITORY name again what it named before."""
    from mlopt.image.reference import Reference
    from mlopt.image.repository import Repository
    from mlopt.variants.aliases import rollback as move

    parsed = Reference.parse(repository)
    _moved(parsed.repository, move(Repository.open(parsed, say=_say), alias), quiet=quiet)


COMMANDS = (push, list_variants, show, diff, pick, promote, rollback)


def _variants(where: tuple[str, ...]) -> list[Variant]:
    from mlopt.variants.variant import variants_below

    return [variant for one in where for variant in variants_below(one, say=_say)]


def _moved(repository: str, moved: Moved, *, quiet: bool) -> None:
    if quiet:
        click.echo(moved.digest)
        return
    click.echo(f"{repository}:{moved.alias}")
    facts = [("names", f"{moved.digest}  {moved.tag}".rstrip()), ("before", moved.before or "nothing")]
    echo_facts([*facts, *([("note", moved.note)] if moved.note else [])])


def _say(line: str) -> None:
    click.echo(line, err=True)
