"""Adds the commands of this package to the command line; imports nothing of the suite until one of them runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.plugins import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def holdfast_commands(app: typer.Typer) -> None:
    """``conformance``, ``bench`` and ``new-backend``."""
    from holdfast_conformance import commands

    commands.add_to(app)
