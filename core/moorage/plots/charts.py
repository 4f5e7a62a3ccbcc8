"""The charts, drawn with matplotlib.

The colours are those of M. Okabe and K. Ito (*Color Universal Design*, 2008) and the map viridis; both can be told
apart whatever kind of colour vision a reader has.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, TypeVar, cast

import matplotlib as mpl
import numpy as np
from matplotlib import colors, ticker
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from moorage.plots import Kind
from moorage.statuses import ENDED, TrialStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

    from moorage.plots.study import Curve, Dimension, Study

    Floats = npt.NDArray[np.float64]

T = TypeVar("T")

BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8a8f98"
INK, FAINT = "#22262c", "#6b7280"

MOST_CURVES = 400
"""More curves than this are not drawn; those are spread over all ranks."""

MANY = 2000
"""More points than this become pixels inside an .svg file."""

MOST_LINES = 1500
"""The same for parallel coordinates."""

DPI = 100
_STYLE: dict[Any, object] = {
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": "#c4c9d1",
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titlecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8eaee",
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "figure.titlesize": 15,
    "figure.titleweight": "bold",
}
# The palest part of viridis cannot be seen on white.
_MAP = colors.ListedColormap(mpl.colormaps["viridis"](np.linspace(0.0, 0.93, 256)), name="moorage")


def text(value: object, limit: int = 60) -> str:
    """A stored text as a label: never read as mathematics, without what cannot be printed, and not too long."""
    string = "".join(one if one.isprintable() else "·" for one in str(value))
    if len(string) > limit:
        string = f"{string[: max(1, limit - 1)]}…"
    return string.replace("$", r"\$")


def write(study: Study, kind: Kind, path: Path, file_format: str) -> None:
    """Draw into a file."""
    drawn = draw(study, kind)
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[file_format]
    # The name of the file may end otherwise, so the format is told; a font may lack a character of a name.
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"moorage-{kind}"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        drawn.savefig(path, format=file_format, dpi=DPI, metadata=metadata)


def draw(study: Study, kind: Kind) -> Figure:
    """One figure of 1200 by 800 pixels, or a larger one with all charts."""
    with mpl.rc_context(_STYLE):
        if kind is not Kind.ALL:
            figure = Figure(figsize=(12, 8), layout="constrained")
            _pad(figure)
            _CHARTS[kind](figure, study)
            return figure
        rows = math.ceil(len(study.dimensions) / 4)
        figure = Figure(figsize=(16, 13 + 2.4 * max(1, rows)), layout="constrained")
        _pad(figure)
        upper, middle, lower = cast(
            "Sequence[FigureBase]",
            figure.subfigures(3, 1, height_ratios=[6.2, 6, 1.6 + 2.4 * max(1, rows)], hspace=0.03),
        )
        left, right = cast("Sequence[FigureBase]", upper.subfigures(1, 2, wspace=0.03))
        _history(left, study)
        _curves(right, study, most_names=1)
        _parallel(middle, study)
        _slices(lower, study)
        return figure


def _pad(figure: Figure) -> None:
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(w_pad=0.12, h_pad=0.1)


# What the charts share


def _heading(figure: FigureBase, study: Study, name: str) -> None:
    title = f"{text(study.experiment.name, 36)}:{study.experiment.version} · {name}"
    figure.suptitle(title, x=0.015, ha="left")


def _nothing(figure: FigureBase, message: str) -> None:
    axes = figure.subplots()
    axes.set_axis_off()
    axes.text(0.5, 0.5, message, ha="center", va="center", color=FAINT, fontsize=13, transform=axes.transAxes)


def _alpha(count: int) -> float:
    """How opaque each of so many marks is."""
    return float(np.clip(25 / math.sqrt(max(1, count)), 0.12, 0.85))


class _Range:
    """The part of the values that is worth showing, and the scale to show it on.

    A few values far off on the bad side would press all others together, so the axis ends before them; they are drawn
    at its edge. The good side is always shown. With ``strip``, there is room below for marks of other trials.
    """

    def __init__(self, values: Floats, *, maximize: bool, both: bool = False, strip: bool = False) -> None:
        low, high = float(values.min()), float(values.max())
        near_low, middle, near_high = (float(one) for one in np.quantile(values, [0.05, 0.5, 0.95]))
        self.logarithmic = low > 0 and (near_high / low > 50 if not maximize else high / max(near_low, low) > 50)
        if not self.logarithmic:
            spread = (near_high - near_low) or (high - low) or 1.0
            if (not maximize or both) and high > near_high + 3 * spread:
                high = near_high + 0.6 * max(spread, near_high - middle)
            if (maximize or both) and low < near_low - 3 * spread:
                low = near_low - 0.6 * max(spread, middle - near_low)
            margin = (high - low) * 0.05 or abs(high) * 0.05 or 0.5
            self.low, self.high = low - margin * (2.4 if strip else 1), high + margin
        else:
            factor = max((high / low) ** 0.05, 1.05)
            self.low, self.high = low / factor ** (2.4 if strip else 1), high * factor
        self.beyond = int(((values > self.high) | (values < self.low)).sum())

    def inside(self, values: Floats) -> Floats:
        """Values beyond the axis moved to its edge."""
        return np.clip(values, self.low, self.high)

    def share(self, values: Floats) -> Floats:
        """The place of each value on the axis, from 0 to 1."""
        low, high, inner = self.low, self.high, self.inside(values)
        if self.logarithmic:
            low, high, inner = math.log(low), math.log(high), np.log(inner)
        return (inner - low) / (high - low)

    def apply(self, axes: Axes) -> None:
        """Set the scale and the limits of the vertical axis."""
        if self.logarithmic:
            axes.set_yscale("log")
            _log_ticks(axes.yaxis.get_major_formatter, self.low, self.high, axes)
        axes.set_ylim(self.low, self.high)


def _log_ticks(_: object, low: float, high: float, axes: Axes) -> None:
    """Label enough ticks where an axis covers few decades."""
    if high / low < 100:
        axes.yaxis.set_major_locator(ticker.LogLocator(base=10, subs=(1, 2, 5), numticks=12))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _edge_marks(axes: Axes, x: Floats, values: Floats, shown: _Range, colour: str = BLUE) -> None:
    """Small arrows at the edge for what lies beyond it."""
    for far, edge, marker in (
        (values > shown.high, 0.985, "^"),
        (values < shown.low, 0.015, "v"),
    ):
        if far.any():
            axes.scatter(
                x[far],
                np.full(int(far.sum()), edge),
                marker=marker,
                s=26,
                color=colour,
                alpha=0.8,
                linewidths=0,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
                zorder=3,
            )


def _objective_label(study: Study) -> str:
    named = [name for one in study.completed[:1] for name, kind in one.results.types.items() if kind == "objective"]
    return text(named[0] if named else "objective", 40)


def _left_out(study: Study, shown: _Range, how: str = "arrows") -> str:
    parts = []
    if shown.beyond:
        parts.append(f"{shown.beyond} beyond the axis ({how})")
    if study.omitted:
        parts.append(f"{study.omitted} without a finite objective, not drawn")
    return "".join(f" · {part}" for part in parts)


def _spread(ranked: Sequence[T], most: int) -> list[T]:
    """At most so many of them, from all ranks alike."""
    if len(ranked) <= most:
        return list(ranked)
    return [ranked[int(place)] for place in np.unique(np.linspace(0, len(ranked) - 1, most).astype(int))]


def _subtitle(axes: Axes, line: str) -> None:
    """A line above the axes that may be wider than they are."""
    # No title, because the layout makes room for the middle of a title, wherever that is.
    axes.annotate(
        line,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 6),
        textcoords="offset points",
        color=FAINT,
        annotation_clip=False,
    ).set_in_layout(False)
    axes.set_title(" ")


def _tally(study: Study) -> str:
    counts = [f"{total} {status}" for status, total in study.counts.items() if total]
    return ", ".join(counts) or "no trials"


# History


def _history(figure: FigureBase, study: Study) -> None:
    _heading(figure, study, "history")
    if study.best is None:
        _nothing(figure, f"no completed trial with an objective yet ({_tally(study)})")
        return
    axes = figure.subplots()
    x = np.array(study.numbers, dtype=float)
    y = np.array(study.objectives)
    places = {status: [n for n, one in enumerate(study.trials, 1) if one.status is status] for status in TrialStatus}
    strip = bool(places[TrialStatus.BROKEN] or places[TrialStatus.PRUNED])
    shown = _Range(y, maximize=study.maximize, strip=strip)
    shown.apply(axes)
    points = axes.scatter(
        x,
        np.where((y > shown.high) | (y < shown.low), np.nan, y),
        s=float(np.clip(9000 / len(x), 12, 46)),
        color=BLUE,
        alpha=_alpha(len(x)),
        linewidths=0,
        label=f"completed ({len(x)})",
        plotnonfinite=True,
        zorder=2,
    )
    points.set_gid("moorage-history")
    points.set_rasterized(len(x) > MANY)
    _edge_marks(axes, x, y, shown)
    best = np.maximum.accumulate(y) if study.maximize else np.minimum.accumulate(y)
    last = float(max(max(places[status], default=0) for status in ENDED))
    axes.step(
        np.append(x, last),
        np.append(best, best[-1]),
        where="post",
        color=VERMILLION,
        linewidth=2.2,
        label="best so far",
        zorder=4,
    )
    axes.scatter(
        [x[study.best]],
        [y[study.best]],
        s=150,
        marker="*",
        color=VERMILLION,
        edgecolors="white",
        linewidths=1,
        label=f"best: {y[study.best]:.6g} (trial {study.numbers[study.best]})",
        zorder=5,
        clip_on=False,
    )
    for status, marker, colour, height in (
        (TrialStatus.BROKEN, "x", INK, 0.022),
        (TrialStatus.PRUNED, "d", PURPLE, 0.048),
    ):
        if places[status]:
            marks = axes.scatter(
                places[status],
                np.full(len(places[status]), height),
                marker=marker,
                s=32,
                color=colour,
                linewidths=1.2,
                alpha=max(0.35, _alpha(len(places[status]))),
                transform=axes.get_xaxis_transform(),
                label=f"{status} ({len(places[status])})",
                zorder=3,
            )
            marks.set_rasterized(len(places[status]) > MANY)
    width = max(1.0, last)
    axes.set_xlim(1 - width * 0.015 - 0.5, last + width * 0.015 + 0.5)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=9))
    axes.set_xlabel("trial, in order of submission")
    axes.set_ylabel(_objective_label(study))
    _subtitle(axes, f"{_tally(study)}{_left_out(study, shown)}")
    legend = figure.legend(loc="outside lower center", ncols=5, handletextpad=0.4, columnspacing=1.6)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)


# Curves


def _curves(figure: FigureBase, study: Study, most_names: int = 4) -> None:
    _heading(figure, study, "curves")
    names = list(study.curves)[:most_names]
    if not names:
        _nothing(figure, "no measurements yet")
        return
    columns = 1 if len(names) == 1 else 2
    grid = figure.subplots(math.ceil(len(names) / columns), columns, squeeze=False)
    flat = list(grid.flat)
    for axes in flat[len(names) :]:
        axes.set_axis_off()
    y = np.array(study.objectives)
    shown = _Range(y, maximize=study.maximize) if len(y) else None
    shares = {} if shown is None else dict(zip((one.id for one in study.completed), shown.share(y), strict=True))
    best = None if study.best is None else study.completed[study.best].id
    for name, axes in zip(names, flat, strict=False):
        _curves_of(axes, name, study.curves[name], shares, best, study)
    has_best = any(one.trial.id == best for name in names for one in study.curves[name])
    others = [name for name in study.curves if name not in names]
    lines = [Line2D([], [], color=VERMILLION, linewidth=2.4, label="the best trial")] if has_best else []
    if any(one.trial.id not in shares for name in names for one in study.curves[name]):
        lines.append(Line2D([], [], color=GREY, linewidth=1.2, label="pruned, or without an objective"))
    if others:
        flat[0].texts[0].set_text(f"{flat[0].texts[0].get_text()} · not drawn: {text(', '.join(others), 60)}")
    if lines:
        figure.legend(handles=lines, loc="outside lower center", ncols=2)
    if shown is not None and shares:
        _objective_bar(figure, flat[: len(names)], shown, study)


def _objective_bar(figure: FigureBase, axes: Sequence[Axes], shown: _Range, study: Study) -> None:
    """The colours of the objective, as a bar at the right."""
    norm = (colors.LogNorm if shown.logarithmic else colors.Normalize)(shown.low, shown.high)
    scale = mpl.cm.ScalarMappable(norm=norm, cmap=_colour_map(study))
    bar = figure.colorbar(scale, ax=list(axes), pad=0.015, aspect=40, fraction=0.03)
    bar.set_label(_objective_label(study))
    bar.outline.set_visible(False)
    bar.ax.grid(visible=False)


def _colour_map(study: Study) -> colors.Colormap:
    """Dark is good."""
    return _MAP.reversed() if study.maximize else _MAP


def _curves_of(
    axes: Axes,
    name: str,
    curves: Sequence[Curve],
    shares: dict[str, float],
    best: str | None,
    study: Study,
) -> None:
    # The worst first, so that the best lie on top.
    sign = -1 if study.maximize else 1
    ordered = sorted(curves, key=lambda one: -sign * shares.get(one.trial.id, math.inf * sign))
    ordered = _spread(ordered, MOST_CURVES)
    of_best = [one for one in curves if one.trial.id == best]
    ordered = [one for one in ordered if one.trial.id != best]
    finite = np.array([value for one in (*ordered, *of_best) for value in one.values if math.isfinite(value)])
    if len(finite):
        _Range(finite, maximize=False, both=True).apply(axes)
    palette = _colour_map(study)
    lines = [np.column_stack([one.steps, one.values]).astype(float) for one in ordered]
    tints = [palette(shares[one.trial.id]) if one.trial.id in shares else GREY for one in ordered]
    collection = LineCollection(
        lines, colors=tints, linewidths=1.2, alpha=float(np.clip(_alpha(len(lines)) + 0.15, 0.25, 0.9))
    )
    collection.set_gid("moorage-curves")
    collection.set_rasterized(sum(map(len, lines)) > 20 * MANY)
    axes.add_collection(collection)
    lone = [(line, tint) for line, tint in zip(lines, tints, strict=True) if len(line) == 1]
    if lone:
        axes.scatter([line[0, 0] for line, _ in lone], [line[0, 1] for line, _ in lone], s=14, c=[t for _, t in lone])
    for one in of_best:
        axes.plot(one.steps, one.values, color="white", linewidth=4.2, zorder=4)
        axes.plot(one.steps, one.values, color=VERMILLION, linewidth=2.4, zorder=5)
    steps = [step for one in curves for step in (one.steps[0], one.steps[-1])]
    low, high = min(steps), max(steps)
    margin = (high - low) * 0.02 or 1.0
    axes.set_xlim(low - margin, high + margin)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=8))
    axes.set_xlabel("step")
    axes.set_ylabel(text(name, 40))
    drawn = len(ordered) + len(of_best)
    some = f"{drawn} of {len(curves)} trials" if drawn < len(curves) else f"{drawn} trials"
    _subtitle(axes, some)


# Parallel coordinates


def _parallel(figure: FigureBase, study: Study) -> None:
    _heading(figure, study, "parallel coordinates")
    if study.best is None or not study.dimensions:
        _nothing(figure, "no completed trial with params and an objective yet")
        return
    y = np.array(study.objectives)
    shown = _Range(y, maximize=study.maximize)
    shares = shown.share(y)
    tracks = [_track(one, study) for one in study.dimensions]
    heights = np.column_stack([*(track for track, _ in tracks), shares])
    count = len(study.dimensions)
    axes = figure.subplots()
    axes.grid(visible=False)
    order = _spread([place for place in reversed(study.ranked()) if place != study.best], MOST_LINES)
    places = np.arange(count + 1, dtype=float)
    lines = [np.column_stack([places, heights[place]]) for place in order]
    palette = _colour_map(study)
    collection = LineCollection(
        lines,
        colors=palette(shares[order]),
        linewidths=1.1,
        alpha=_alpha(4 * len(lines)),
        zorder=2,
    )
    collection.set_gid("moorage-parallel")
    collection.set_rasterized(len(y) > MANY / 4)
    axes.add_collection(collection)
    axes.plot(places, heights[study.best], color="white", linewidth=4.4, zorder=3)
    axes.plot(places, heights[study.best], color=VERMILLION, linewidth=2.6, zorder=4, label="the best trial")
    limit = max(5, 110 // (count + 1))
    for place, (_, marks) in enumerate(tracks):
        axes.axvline(place, color="#9aa1ac", linewidth=1, zorder=5)
        _axis_labels(axes, place, marks, limit)
    strip = axes.imshow(
        np.linspace(0, 1, 256)[:, None],
        extent=(count - 0.012 * count, count + 0.012 * count, 0, 1),
        aspect="auto",
        origin="lower",
        cmap=palette,
        zorder=6,
    )
    strip.set_clip_on(False)
    _axis_labels(axes, count * 1.012, _number_marks(shown.low, shown.high, shown.logarithmic), limit)
    axes.set_xlim(-0.02 * count, count * 1.012)
    axes.set_ylim(-0.02, 1.02)
    axes.set_yticks([])
    names = [text(one.name, max(8, 150 // (count + 1))) for one in study.dimensions]
    crowded = any(len(name) > 105 // (count + 1) for name in names)
    axes.set_xticks(
        places,
        [*names, _objective_label(study)],
        rotation=20 if crowded else 0,
        ha="right" if crowded else "center",
        fontsize=11,
        color=INK,
    )
    axes.tick_params(length=0, pad=8)
    axes.spines[["left", "bottom"]].set_visible(False)
    some = f"{len(lines) + 1} of {len(y)} " if len(lines) + 1 < len(y) else f"{len(y)} "
    hidden = f" · {study.hidden} more params not drawn" if study.hidden else ""
    _subtitle(axes, f"{some}completed trials{_left_out(study, shown, 'drawn at its end')}{hidden}")
    figure.legend(loc="outside lower center", ncols=2)


def _track(dimension: Dimension, study: Study) -> tuple[Floats, list[tuple[float, str]]]:
    """The height of each trial on the axis of a param, from 0 to 1 (NaN for nowhere), and the marks of that axis."""
    found = [
        dimension.position(one.params[dimension.name]) if dimension.name in one.params else None
        for one in study.completed
    ]
    values = np.array([math.nan if one is None else one for one in found], dtype=float)
    if dimension.categories:
        count = len(dimension.categories)
        heights = (values + 0.5) / count
        step = max(1, math.ceil(count / 14))
        marks = [((place + 0.5) / count, dimension.categories[place]) for place in range(0, count, step)]
        return heights, marks
    finite = values[np.isfinite(values)]
    if not len(finite):
        return values, []
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        return np.where(np.isfinite(values), 0.5, math.nan), [(0.5, f"{low:.4g}")]
    if dimension.logarithmic:
        heights = (np.log(values) - math.log(low)) / (math.log(high) - math.log(low))
    else:
        heights = (values - low) / (high - low)
    return heights, _number_marks(low, high, dimension.logarithmic)


def _number_marks(low: float, high: float, logarithmic: bool) -> list[tuple[float, str]]:
    """A few round numbers between two bounds, with their places from 0 to 1."""
    if logarithmic:
        subs = (1.0,) if high / low > 1000 else (1.0, 3.0) if high / low > 30 else (1.0, 2.0, 5.0)
        locator: ticker.Locator = ticker.LogLocator(base=10, subs=subs, numticks=9)
        span = math.log(high) - math.log(low)
        return [
            ((math.log(one) - math.log(low)) / span, f"{one:g}")
            for one in locator.tick_values(low, high)
            if low <= one <= high
        ]
    ticks = ticker.MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [((one - low) / (high - low), f"{one:.6g}") for one in ticks if low <= one <= high]


def _axis_labels(axes: Axes, place: float, marks: Sequence[tuple[float, str]], limit: int) -> None:
    for height, label in marks:
        axes.annotate(
            text(label, limit),
            (place, height),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            ha="left",
            fontsize=9.5,
            color=INK,
            zorder=7,
            annotation_clip=False,
            path_effects=[withStroke(linewidth=3, foreground="white", alpha=0.9)],
        )


# Slices


def _slices(figure: FigureBase, study: Study) -> None:
    _heading(figure, study, "slices")
    if study.best is None or not study.dimensions:
        _nothing(figure, "no completed trial with params and an objective yet")
        return
    count = len(study.dimensions)
    columns = min(4, count) if count != 4 else 2
    if count > 4:
        columns = 4 if count > 6 else 3
    rows = math.ceil(count / columns)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    flat = list(grid.flat)
    for axes in flat[count:]:
        axes.set_axis_off()
    y = np.array(study.objectives)
    shown = _Range(y, maximize=study.maximize)
    numbers = np.array(study.numbers, dtype=float)
    norm = colors.Normalize(1, max(2, len(study.trials)))
    for dimension, axes in zip(study.dimensions, flat, strict=False):
        _slice(axes, dimension, study, y, numbers, norm, shown, columns)
    for row in grid:
        row[0].set_ylabel(_objective_label(study))
    scale = mpl.cm.ScalarMappable(norm=norm, cmap=_MAP.reversed())
    bar = figure.colorbar(scale, ax=flat, pad=0.012, aspect=40, fraction=0.025)
    bar.set_label("trial (later is darker)")
    bar.outline.set_visible(False)
    bar.ax.grid(visible=False)
    bar.ax.yaxis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=6))
    hidden = f" · {study.hidden} more params not drawn" if study.hidden else ""
    _subtitle(flat[0], f"{len(y)} completed trials{_left_out(study, shown)}{hidden}")


def _slice(
    axes: Axes,
    dimension: Dimension,
    study: Study,
    y: Floats,
    numbers: Floats,
    norm: colors.Normalize,
    shown: _Range,
    columns: int,
) -> None:
    found = [
        dimension.position(one.params[dimension.name]) if dimension.name in one.params else None
        for one in study.completed
    ]
    x = np.array([math.nan if one is None else one for one in found], dtype=float)
    if dimension.categories:
        # Beside each other, in the same way each time.
        x = x + np.random.default_rng(0).uniform(-0.28, 0.28, len(x))
    elif dimension.logarithmic:
        axes.set_xscale("log")
    shown.apply(axes)
    inside = (y <= shown.high) & (y >= shown.low) & np.isfinite(x)
    points = axes.scatter(
        x[inside],
        y[inside],
        c=numbers[inside],
        cmap=_MAP.reversed(),
        norm=norm,
        s=float(np.clip(6000 / max(1, len(y)), 9, 32)),
        alpha=float(np.clip(_alpha(len(y)) + 0.2, 0.3, 0.9)),
        linewidths=0,
        clip_on=False,
        zorder=2,
    )
    points.set_gid(f"moorage-slice-{study.dimensions.index(dimension)}")
    points.set_rasterized(len(y) > MANY)
    far = np.isfinite(x) & ~inside
    _edge_marks(axes, x[far], y[far], shown, GREY)
    if study.best is not None and math.isfinite(x[study.best]):
        axes.scatter(
            [x[study.best]],
            [y[study.best]],
            s=120,
            marker="*",
            color=VERMILLION,
            edgecolors="white",
            linewidths=0.8,
            zorder=5,
        )
    if dimension.categories:
        _category_axis(axes, dimension, x, y, shown)
    elif not dimension.logarithmic:
        integral = bool(np.all(np.isfinite(x))) and bool(np.all(x == np.round(x)))
        axes.xaxis.set_major_locator(ticker.MaxNLocator(nbins=5, integer=integral))
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-4, 5))
    else:
        axes.xaxis.set_major_locator(ticker.LogLocator(base=10, numticks=7 - columns if columns > 2 else 6))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel(text(dimension.name, 84 // (columns + 1) + 4))


def _category_axis(axes: Axes, dimension: Dimension, x: Floats, y: Floats, shown: _Range) -> None:
    count = len(dimension.categories)
    for place in range(count):
        here = y[np.round(x) == place]
        if len(here) > 2:
            median = float(shown.inside(np.array([np.median(here)]))[0])
            axes.hlines(median, place - 0.32, place + 0.32, color=INK, linewidth=1.8, zorder=4)
    step = max(1, math.ceil(count / 10))
    ticks = range(0, count, step)
    labels = [text(dimension.categories[place], 12) for place in ticks]
    crowded = sum(map(len, labels)) > 22
    axes.set_xticks(list(ticks), labels, rotation=30 if crowded else 0, ha="right" if crowded else "center")
    axes.set_xlim(-0.6, count - 0.4)
    axes.grid(visible=False, axis="x")


_CHARTS: dict[Kind, Callable[[FigureBase, Study], None]] = {
    Kind.HISTORY: _history,
    Kind.PARALLEL: _parallel,
    Kind.CURVES: _curves,
    Kind.SLICES: _slices,
}
