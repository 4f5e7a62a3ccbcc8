"""The command line: ``moorage``.

Each module of this package holds the commands of one kind; what they share is in `moorage.cli.common`.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from moorage.cli.common import Commands

_EPILOG = """\b
[bold]Exit codes[/bold]
  0    done
  1    the operation failed
  2    wrong arguments, or refused without a confirmation
  3    what was asked for is not stored
  130  interrupted
  141  the reader of a pipe has left

\b
[bold]Output[/bold]
  Data goes to stdout; messages, questions and errors go to stderr.
  --json prints one JSON document (trials: one for each line)."""

app = typer.Typer(
    cls=Commands,
    name="moorage",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from moorage import __version__

        sys.stdout.write(f"moorage {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    r"""Look at, repair, copy and draw the experiments in a storage.

    The storage is named by --storage, or else by the variable MOORAGE_STORAGE, by moorage.toml or
    \[tool.moorage] in pyproject.toml, or is sqlite:///moorage.db.
    """


def _add_commands() -> None:
    from moorage.cli import demonstrate, draw, look, repair, status, transfer

    for module in (look, status, draw, repair, transfer, demonstrate):
        module.add_to(app)


_add_commands()


def main() -> None:
    """Run the command line, with the commands that plugins add; does not return."""
    from moorage.plugins import plugins

    plugins().extend(app)
    app()
