"""The command ``plot``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from moorage.cli.common import (
    ExperimentArgument,
    MaximizeOption,
    ProfileOption,
    StorageOption,
    examples,
    find_experiment,
    open_reading,
    shown,
)
from moorage.plots import Kind


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command(
        epilog=examples(
            "moorage plot digits",
            "moorage plot digits --kind history -o history.png",
            "moorage plot digits --kind slices --params lr,depth -o slices.svg",
        )
    )(plot)


def plot(
    experiment: ExperimentArgument,
    storage: StorageOption = None,
    profile: ProfileOption = None,
    kind: Annotated[
        Kind,
        typer.Option(
            "--kind",
            "-k",
            help="history: the objective and the best so far. parallel: params against the objective. curves: "
            "measurements by step. slices: each param by itself.",
        ),
    ] = Kind.ALL,
    destination: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="A .png, .svg, .pdf or .html file; by default the experiment's name with .html.",
            show_default=False,
        ),
    ] = None,
    params: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Only these params, separated by commas.", show_default=False),
    ] = None,
    maximize: MaximizeOption = False,
) -> None:
    """Draw an experiment, and print the name of the file.

    An .html page stands by itself: it needs neither a network nor other files.
    """
    from moorage import plots

    names = None if params is None else [name.strip() for name in params.split(",") if name.strip()]
    with open_reading(storage, profile) as opened:
        found = find_experiment(opened, experiment)
        safe = re.sub(r"[^\w.-]+", "-", found.name).strip("-.") or "experiment"
        path = destination or Path(f"{safe}-{found.version}.html")
        written = plots.save(opened, found, path, kind=kind, maximize=maximize, params=names)
    typer.echo(shown(written))
