"""Adds the commands of this package to the command line; imports nothing of the suite until one of them runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.plugins import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def moorage_commands(app: typer.Typer) -> None:
    """``conformance``, ``bench`` and ``new-backend``."""
    from moorage_conformance import commands

    commands.add_to(app)
