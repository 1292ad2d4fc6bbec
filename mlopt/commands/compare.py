"""`mlopt compare A B`: two results or bundles, as far as they can be compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click


@click.command(name="compare")
@click.argument("before", metavar="A", type=click.Path(path_type=Path))
@click.argument("after", metavar="B", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write both as a page.")
@click.option("--json", "as_json", is_flag=True, help="The comparison as JSON on stdout.")
def command(before: Path, after: Path, html: Path | None, as_json: bool) -> None:
    """Compare B with A, and say of every number that cannot be compared why.

    Each is a bundle, what bench or gate printed with --json, or lines that history export wrote. Models are matched
    by their names. Nothing is run: clocks of two runs are never compared, only speeds relative to the same baseline.

    \b
      mlopt compare out/net/host elsewhere/net/host
      mlopt compare monday.json tuesday.json
      mlopt compare before/net/host after/net/host --html compared.html
    """
    from mlopt.history.compare import compare, read_result
    from mlopt.history.compared_text import to_terminal
    from mlopt.report.report import to_json

    entries, others = read_result(before), read_result(after)
    found = compare(entries, others)
    if html:
        from mlopt.ci.files import put_page
        from mlopt.history.compare_page import Given, report_in, to_html

        page = to_html(Given(str(before), entries, report_in(before)), Given(str(after), others, report_in(after)))
        put_page(html, page)
    if as_json:
        click.echo(json.dumps(to_json(found), indent=1))
    else:
        click.echo(to_terminal(found, width=shutil.get_terminal_size((100, 24)).columns))
        if html:
            click.echo(f"\npage  {html}")
