"""A page with the charts and the best trials, in one file that needs nothing else."""

from __future__ import annotations

import io
import re
import warnings
from html import escape
from typing import TYPE_CHECKING

import matplotlib as mpl

from moorage.plots import Kind, charts
from moorage.records import utcnow

if TYPE_CHECKING:
    from moorage.plots.study import Study

BEST = 10
"""How many of the best trials are listed."""

_MOST_COLUMNS = 10

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f5f7; color: #22262c; font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "DejaVu Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 26px; margin: 0 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 12px; }
.sub { color: #6b7280; margin: 0 0 22px; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 0 0 20px; }
.card { background: white; border: 1px solid #e3e6ea; border-radius: 10px; padding: 12px 18px; min-width: 110px; }
.card b { display: block; font-size: 21px; font-variant-numeric: tabular-nums; }
.card span { color: #6b7280; font-size: 13px; }
section { background: white; border: 1px solid #e3e6ea; border-radius: 10px; padding: 18px; margin: 0 0 20px;
  overflow-x: auto; }
section svg { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; color: #6b7280; font-weight: 600; font-size: 13px; border-bottom: 1px solid #d6dae0; }
th, td { padding: 6px 24px 6px 0; white-space: nowrap; }
td { border-bottom: 1px solid #eef0f3; }
td.number, th.number { text-align: right; }
code { font: 13px ui-monospace, "DejaVu Sans Mono", monospace; }
footer { color: #8a8f98; font-size: 13px; }
"""


def render(study: Study, kind: Kind) -> str:
    """The page as HTML."""
    experiment = study.experiment
    kinds = [one for one in Kind if one is not Kind.ALL] if kind is Kind.ALL else [kind]
    if kind is Kind.ALL and not study.curves:
        kinds.remove(Kind.CURVES)
    title = escape(f"{_clean(experiment.name)}:{experiment.version}")
    cards = [(str(total), str(status)) for status, total in study.counts.items() if total]
    if study.best is not None:
        cards.insert(0, (f"{study.objectives[study.best]:.6g}", "best objective"))
    owner = f" by {_clean(experiment.user)}" if experiment.user else ""
    sub = f"{experiment.status} · created {experiment.created:%Y-%m-%d %H:%M} UTC{owner} · {experiment.id}"
    sections = "\n".join(f"<section>{_svg(study, one)}</section>" for one in kinds)
    shown_cards = "".join(f'<div class="card"><b>{escape(b)}</b><span>{escape(s)}</span></div>' for b, s in cards)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="sub">{escape(sub)}</p>
<div class="cards">{shown_cards}</div>
{_table(study)}
{sections}
<footer>Drawn by Moorage, {utcnow():%Y-%m-%d %H:%M} UTC</footer>
</main>
</body>
</html>
"""


def _clean(value: object) -> str:
    return "".join(one if one.isprintable() else "·" for one in str(value))


def _cell(value: object) -> str:
    string = f"{value:.5g}" if type(value) is float else _clean(value if isinstance(value, str) else repr(value))
    return escape(string if len(string) <= 40 else f"{string[:39]}…")


def _table(study: Study) -> str:
    best = study.ranked()[:BEST]
    if not best:
        return ""
    names = [one.name for one in study.dimensions][:_MOST_COLUMNS]
    head = "".join(f"<th>{_cell(name)}</th>" for name in names)
    rows = []
    for rank, place in enumerate(best, 1):
        one = study.completed[place]
        cells = "".join(f"<td>{_cell(one.params[name]) if name in one.params else ''}</td>" for name in names)
        rows.append(
            f"<tr><td class=number>{rank}</td><td class=number>{study.numbers[place]}</td>"
            f"<td class=number><b>{study.objectives[place]:.6g}</b></td>{cells}"
            f"<td><code>{_cell(one.id[:8])}</code></td></tr>"
        )
    return (
        "<section><h2>Best trials</h2><table><thead><tr><th class=number>rank</th><th class=number>trial</th>"
        f"<th class=number>objective</th>{head}<th>id</th></tr></thead><tbody>{''.join(rows)}</tbody></table></section>"
    )


def _svg(study: Study, kind: Kind) -> str:
    """A chart as an element of the page; its ids are made unique in it."""
    figure = charts.draw(study, kind)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": f"moorage-{kind}"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, count=1, flags=re.DOTALL)
    drawn = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{kind}-", drawn)
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{kind}" ', 1)
