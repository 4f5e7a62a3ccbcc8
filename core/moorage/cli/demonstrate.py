"""The command ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moorage.cli.common import ProfileOption, StorageOption, check_place, examples


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command(
        epilog=examples("moorage demo", "moorage demo -s postgresql+psycopg://me@host/hpo --workers 8 --trials 100")
    )(demo)


def demo(
    storage: StorageOption = None,
    profile: ProfileOption = None,
    workers: Annotated[int, typer.Option(min=1, help="How many worker processes.")] = 4,
    trials: Annotated[int, typer.Option(min=1, help="How many trials are to be completed.")] = 40,
    seed: Annotated[int, typer.Option(help="Of the algorithm that proposes trials.")] = 0,
    plot: Annotated[Path, typer.Option(metavar="FILE", help="Where to draw the outcome.")] = Path("moorage-demo.png"),
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Draw nothing.")] = False,
    no_kill: Annotated[bool, typer.Option("--no-kill", help="Let every worker live.")] = False,
) -> None:
    """Tune a small model with several worker processes, kill one on the way, and verify that nothing is lost."""
    from moorage.demo import run

    check_place(storage, profile)
    summary = run(
        storage,
        profile=profile,
        workers=workers,
        trials=trials,
        seed=seed,
        plot=None if no_plot else plot,
        kill=not no_kill,
    )
    raise typer.Exit(summary.exit_code)
