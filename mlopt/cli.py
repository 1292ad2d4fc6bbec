"""argv to the one command module to import. Nothing heavier than click is loaded before that.

`mlopt VERB` lives in `mlopt/commands/VERB.py` as `command`; adding a verb is adding that file and a line here.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from types import FrameType
from typing import Final, NoReturn

import click

from mlopt.errors import MloptError, NoSpaceLeft

# What a person reads in `mlopt --help`, kept here so that showing it imports no command.
VERBS: Final = {
    "compile": "Take a trained model to a measured, judged image.",
    "export": "Convert a model to ONNX, checked against its source.",
    "quantize": "Make one recipe's candidate of a model, and judge it.",
    "prune": "Remove channels as far as the accuracy budget lets.",
    "bench": "Measure models side by side.",
    "gate": "Tell whether a model is worse than its baseline, for CI.",
    "compare": "Two results or bundles, as far as they can be compared.",
    "history": "Results over time, and where they changed.",
    "preflight": "Ask here whether TensorRT there will take a model.",
    "parity": "Whether a model answers the same on other instruction sets.",
    "inspect": "Show what a model or a bundle holds.",
    "serve": "Serve a bundle on this machine.",
    "verify": "Whether a bundle or an image is what it says, and whose.",
    "sign": "Sign a bundle, its image and its model.",
    "image": "Push, list, pick, promote images; what is in one; scan, load.",
    "targets": "The machines that can be built for.",
    "profiles": "The budgets that can be asked for.",
    "recipes": "The kinds of variant that can be made.",
    "doctor": "What is installed, and what each missing extra would give.",
    "cache": "The store of results: list, verify, clean.",
}
INTERRUPTED: Final = 130


class Verbs(click.Group):
    """A group whose commands are imported when they are typed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"mlopt.commands.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], list(VERBS), n=1)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(error.message + guess, ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: mlopt compile MODEL --target host",
)
@click.version_option(package_name="mlopt", message="mlopt %(version)s")
def cli() -> None:
    """A trained model to a measured, judged, slim container image, in one command."""


def main() -> None:
    """Run the command line: expected errors become a message and their exit code, bugs keep their traceback."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # NumPy's products would wait for threads that other work keeps from running, and round by how many there are.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    interrupts = _interrupts()
    try:
        cli(standalone_mode=False, color=False if os.environ.get("NO_COLOR") else None)
    except MloptError as error:
        _show(error)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        full = NoSpaceLeft(
            "A disk is full; nothing was half-written.",
            where=str(error.filename or "the folder of temporary files (TMPDIR)"),
            next="free some space and run again",
        )
        _show(full)
        sys.exit(full.exit_code)
    except click.exceptions.Exit as exit:
        sys.exit(exit.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ImportError:
        if not interrupts:
            raise
        _interrupted()  # native code that was being imported made the interruption into this
    except (click.Abort, KeyboardInterrupt):
        _interrupted()


def _interrupts() -> list[int]:
    """A list that every Ctrl-C adds to, before it is raised as ever; stays empty where Ctrl-C is ignored."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, note)
    return seen


def _interrupted() -> NoReturn:
    _clear_line()
    click.echo("interrupted; nothing was half-written", err=True)
    sys.exit(INTERRUPTED)


def _show(error: MloptError) -> None:
    plain = False if os.environ.get("NO_COLOR") else None
    _clear_line()
    click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True, color=plain)


def _clear_line() -> None:
    """Progress leaves its live line on a terminal when what it tells of fails."""
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)


if __name__ == "__main__":
    main()
