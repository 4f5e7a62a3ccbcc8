"""The command: ``python -m benchmarks``."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import environment, fairness, file_peers, hot_paths, peers, profiling, raw_limit, report, startup
from benchmarks.player import OPERATIONS

SECTIONS = ("hot", "raw", "fairness", "peers", "json", "startup")
_WIDTH = 150
"""Of tables that go to a file."""
_RESULTS = Path(__file__).parent / "results"


def _chosen(only: str | None) -> tuple[str, ...]:
    chosen = SECTIONS if only is None else tuple(one.strip() for one in only.split(","))
    unknown = [one for one in chosen if one not in SECTIONS]
    if unknown:
        raise typer.BadParameter(f"there is no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    return chosen


def _sizes(sizes: str | None, quick: bool) -> list[int]:
    if sizes is None:
        return [100, 10_000] if quick else [100, 10_000, 100_000]
    try:
        found = sorted({int(one) for one in sizes.split(",")})
    except ValueError:
        raise typer.BadParameter(f"--sizes takes whole numbers with commas between, not {sizes!r}") from None
    if found[0] < 100:
        raise typer.BadParameter("100 trials are the fewest: fewer would not leave enough pending ones")
    return found


def main(
    only: Annotated[str | None, typer.Option(help=f"Sections, with commas between: {', '.join(SECTIONS)}.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Numbers of trials stored, with commas between.")] = None,
    quick: Annotated[bool, typer.Option(help="Fewer and smaller rounds: a look in less than a minute.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for the results, and for the databases meanwhile.")] = _RESULTS,
    orion_python: Annotated[str | None, typer.Option(help="A Python interpreter that has Oríon.")] = None,
    profile: Annotated[
        str | None, typer.Option(help=f"Profile one operation instead: {', '.join(OPERATIONS)}.")
    ] = None,
) -> None:
    """Measure Moorage beside the raw limit and beside its peers."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    chosen, counts = _chosen(only), _sizes(sizes, quick)
    if profile is not None and profile not in OPERATIONS:
        raise typer.BadParameter(f"there is no operation {profile!r}; there are {', '.join(OPERATIONS)}")
    output.mkdir(parents=True, exist_ok=True)
    rounds = 5 if quick else 21
    middle = min(counts, key=lambda size: abs(size - 10_000))
    # The databases are where the results go, because /tmp is often in memory, where fsync costs nothing.
    with tempfile.TemporaryDirectory(prefix="databases-", dir=output) as name:
        folder = Path(name)
        if profile is not None:
            profiling.profile(folder, profile, middle)
            return
        details = environment.describe(folder)
        details["options"] = {"only": chosen, "sizes": counts, "quick": quick}
        console.print(details)
        sections: list[report.Section] = []
        with console.status("") as status:
            for section in chosen:

                def tell(text: str, section: str = section) -> None:
                    status.update(f"{section}: {text}")

                start = time.perf_counter()
                if section == "hot":
                    added = [hot_paths.measure(folder, counts, 5 if quick else 11, tell)]
                elif section == "raw":
                    added = raw_limit.measure(folder, middle, rounds, tell)
                elif section == "fairness":
                    added = [fairness.measure(folder, 1 if quick else 4, 1 if quick else 3, tell)]
                elif section == "peers":
                    repeats, cold = (2, 2000) if quick else (7, 10_000)
                    added = peers.measure(folder, rounds, repeats, cold, orion_python, tell)
                elif section == "json":
                    few = sorted({min(size, 10_000) for size in (100, 1000, *counts)})
                    added = file_peers.measure(folder, few, 3 if quick else 11, orion_python, tell)
                else:
                    added = [startup.measure(folder, 2000 if quick else 10_000, 3 if quick else 11, tell)]
                sections += added
                for one in added:
                    console.print(report.table(one))
                console.print(f"({section}: {time.perf_counter() - start:.0f} s)\n", style="dim")
    details["load after"] = environment.load()
    console.print(report.summary(sections))
    path = output / f"benchmarks-{time.strftime('%Y%m%d-%H%M%S')}.json"
    report.write_json(path, sections, details)
    console.print(f"written: {path}")
    report.draw(path, sections, console)


if __name__ == "__main__":
    typer.run(main)
