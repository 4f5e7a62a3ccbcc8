"""What was found: figures with their aims, as a table, as JSON and as a picture."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Literal

import attrs
from rich.table import Table

from benchmarks.clock import digits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from benchmarks.clock import Timing


@attrs.frozen
class Aim:
    """What a figure should be."""

    relation: Literal["≥", "≤"]
    bound: float

    def is_met(self, value: float) -> bool:
        """Whether a value is as it should be."""
        return value >= self.bound if self.relation == "≥" else value <= self.bound

    def margin(self, value: float) -> float:
        """How many times better than it must be, at most 100; below 1 the aim is missed."""
        if self.relation == "≥":
            return min(value / self.bound, 100)
        return self.bound / max(value, self.bound / 100)

    def __str__(self) -> str:
        return f"{self.relation} {digits(self.bound)}"


@attrs.frozen(kw_only=True)
class Figure:
    """One line of a table.

    Attributes:
        name: what was measured.
        value: None where it could not be measured; ``note`` says why.
        unit: of the value.
        aim: None where the figure is for information.
        cells: what stands in the further columns of the section.
        note: anything that a reader must know.
    """

    name: str
    value: float | None
    unit: str = ""
    aim: Aim | None = None
    cells: Sequence[str] = ()
    note: str = ""

    @property
    def verdict(self) -> str:
        """Whether the aim was met."""
        if self.value is None or math.isnan(self.value):
            return "not measured" if self.aim else ""
        if self.aim is None:
            return ""
        return "met" if self.aim.is_met(self.value) else "missed"


@attrs.frozen(kw_only=True)
class Section:
    """The figures that one kind of measurement gave.

    Attributes:
        title: of the table.
        figures: its lines.
        measured: what the column of the values is called.
        columns: what the further columns are called.
        curves: for each operation the seconds at each size, for the picture.
        samples: all timings, for the JSON.
        note: below the table.
    """

    title: str
    figures: Sequence[Figure]
    measured: str = "measured"
    columns: Sequence[str] = ()
    curves: dict[str, dict[int, float]] = attrs.field(factory=dict)
    samples: dict[str, list[Timing]] = attrs.field(factory=dict)
    note: str = ""


_STYLES = {"met": "green", "missed": "bold red", "not measured": "yellow"}


def table(section: Section) -> Table:
    """A section for the terminal."""
    found = Table(title=section.title, title_justify="left", caption=section.note or None, caption_justify="left")
    found.add_column("", no_wrap=True)
    for column in section.columns:
        found.add_column(column, justify="right")
    found.add_column(section.measured, justify="right")
    found.add_column("aim", justify="right")
    found.add_column("")
    has_notes = any(figure.note for figure in section.figures)
    if has_notes:
        found.add_column("")
    for figure in section.figures:
        value = "?" if figure.value is None else f"{digits(figure.value)} {figure.unit}".rstrip()
        verdict = figure.verdict
        style = _STYLES.get(verdict, "")
        cells = [*figure.cells, *[""] * (len(section.columns) - len(figure.cells))]
        aim = f"{figure.aim} {figure.unit}".rstrip() if figure.aim else ""
        line = [figure.name, *cells, value, aim, f"[{style}]{verdict}[/]" if style else verdict]
        found.add_row(*line, *([figure.note] if has_notes else []))
    return found


def summary(sections: Sequence[Section]) -> str:
    """How many aims were met, and which were not."""
    judged = [(section, figure) for section in sections for figure in section.figures if figure.aim]
    met = sum(figure.verdict == "met" for _, figure in judged)
    missed = [f"  {section.title}: {one.name}" for section, one in judged if one.verdict == "missed"]
    absent = [f"  {section.title}: {one.name}" for section, one in judged if one.verdict == "not measured"]
    lines = [f"{met} of {len(judged)} aims met"]
    lines += ["missed:", *missed] if missed else []
    lines += ["not measured:", *absent] if absent else []
    return "\n".join(lines)


def write_json(path: Path, sections: Sequence[Section], environment: dict[str, object]) -> None:
    """All figures, all timings, and where they were taken."""
    found = {
        "environment": environment,
        "sections": [
            {
                "title": section.title,
                "note": section.note,
                "columns": list(section.columns),
                "figures": [
                    {**attrs.asdict(figure), "value": _finite(figure.value), "verdict": figure.verdict}
                    for figure in section.figures
                ],
                "curves": section.curves,
                "samples": {name: [attrs.asdict(one) for one in some] for name, some in section.samples.items()},
            }
            for section in sections
        ],
    }
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def draw(path: Path, sections: Sequence[Section], console: Console) -> None:
    """Time against size, and each figure against its aim, as PNG and SVG."""
    try:
        import matplotlib as mpl
    except ImportError:
        console.print("no picture: matplotlib is not installed (pip install 'moorage\\[plot]')")
        return
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    curves = {name: curve for section in sections for name, curve in section.curves.items()}
    judged = [
        (f"{figure.name} — {section.title.partition(':')[0]}", figure.aim.margin(figure.value))
        for section in sections
        for figure in section.figures
        if figure.aim and figure.value is not None and math.isfinite(figure.value)
    ]
    panels = bool(curves) + bool(judged)
    if not panels:
        return
    height = max(4.5, 0.24 * len(judged))
    picture, axes = plt.subplots(1, panels, figsize=(8 * panels, height), squeeze=False, layout="constrained")
    remaining = list(axes[0])
    if curves:
        panel = remaining.pop(0)
        for name, curve in curves.items():
            panel.loglog(list(curve), [seconds * 1e6 for seconds in curve.values()], marker="o", label=name)
        panel.set(xlabel="trials stored", ylabel="µs of processor time for each operation", title="Growth")
        panel.grid(visible=True, alpha=0.3)
        panel.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    if judged:
        panel = remaining.pop(0)
        judged.reverse()
        colours = ["#2a7f62" if margin >= 1 else "#c0392b" for _, margin in judged]
        panel.barh([name for name, _ in judged], [margin - 1 for _, margin in judged], left=1, color=colours)
        panel.axvline(1, color="black", linewidth=1)
        panel.set_xscale("log")
        panel.set(xlabel="times better than the aim", title="Aims")
        panel.tick_params(axis="y", labelsize="small")
    for suffix in (".png", ".svg"):
        picture.savefig(path.with_suffix(suffix), dpi=120)
        console.print(f"written: {path.with_suffix(suffix)}")
    plt.close(picture)
