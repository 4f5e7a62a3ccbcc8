"""Drawings of an experiment, as a picture or as a page that stands by itself.

- `moorage.plots.study` gathers what is drawn;
- `moorage.plots.charts` draws it, and imports matplotlib;
- `moorage.plots.page` makes the page.
"""

from __future__ import annotations

import enum
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from moorage.errors import InvalidArgument, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from moorage.plots.study import Study
    from moorage.protocol import ReadOnlyStorage
    from moorage.records import Experiment

FORMATS = (".png", ".svg", ".pdf", ".html")
"""What a drawing may be saved as."""


class Kind(enum.StrEnum):
    """What is drawn."""

    HISTORY = "history"
    """The objective of each trial, and the best so far."""
    PARALLEL = "parallel"
    """The params of each trial beside each other, coloured by the objective."""
    CURVES = "curves"
    """The measurements of each trial by step."""
    SLICES = "slices"
    """The objective against each param."""
    ALL = "all"
    """All of these together."""


def save(
    storage: ReadOnlyStorage,
    experiment: Experiment | str,
    path: Path | str,
    *,
    kind: Kind | str = Kind.ALL,
    maximize: bool = False,
    params: Sequence[str] | None = None,
) -> Path:
    """Draw an experiment into a file, replacing one that exists.

    Args:
        storage: where the experiment is.
        experiment: the record or its id.
        path: the end of its name says what it becomes: .png, .svg, .pdf, or .html for a page that needs no network.
        kind: what to draw, see `Kind`.
        maximize: the largest objective is the best.
        params: only these; by default all, up to a number that is legible.

    Returns:
        The path.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidArgument: the path ends otherwise, a param or the kind is unknown.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InvalidArgument(f"{path.name!r} should end with one of {', '.join(FORMATS)}")
    try:
        wanted = Kind(kind)
    except ValueError:
        raise InvalidArgument(f"kind must be one of {', '.join(Kind)}, not {kind!r:.80}") from None
    _require_matplotlib()
    from moorage.plots import study

    read = study.read(storage, experiment, maximize=maximize, params=params, curves=wanted in (Kind.CURVES, Kind.ALL))
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        if path.suffix.lower() == ".html":
            from moorage.plots import page

            beside.write_text(page.render(read, wanted), encoding="utf-8")
        else:
            from moorage.plots import charts

            charts.write(read, wanted, beside, path.suffix.lower()[1:])
        os.replace(beside, path)  # noqa: PTH105  (the same, and clearer beside unlink)
    finally:
        beside.unlink(missing_ok=True)
    return path


def figure(
    storage: ReadOnlyStorage,
    experiment: Experiment | str,
    *,
    kind: Kind | str = Kind.ALL,
    maximize: bool = False,
    params: Sequence[str] | None = None,
) -> Figure:
    """Draw an experiment as a figure of matplotlib, to show in a notebook, say; see `save`."""
    _require_matplotlib()
    from moorage.plots import charts, study

    wanted = Kind(kind)
    read: Study = study.read(
        storage, experiment, maximize=maximize, params=params, curves=wanted in (Kind.CURVES, Kind.ALL)
    )
    return charts.draw(read, wanted)


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401  (only whether it is there)
    except ModuleNotFoundError as error:
        raise MissingExtra(f'plots need {error.name!r}, which is not installed: pip install "moorage[plot]"') from error
