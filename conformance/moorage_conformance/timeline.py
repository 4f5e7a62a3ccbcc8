"""A history as a picture: one lane per process, one bar per operation, and the order that explains most of it.

The page is one file that needs nothing else and asks for nothing. Its axis keeps the order of all events and not their
distances: time is stretched where labels need the room, and long waits are cut short and marked.
"""

from __future__ import annotations

import itertools
import math
import statistics
import unicodedata
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from moorage.codec import dumps

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from moorage_conformance.histories import History, Operation
    from moorage_conformance.linearizability import KeyVerdict, Verdict

MOST = 200
"""How many operations are drawn: those around the violation where there are more."""

_GHOSTS = 20
_LISTED = 60
_LABEL = 36
_TOLD = 1500
_CHARACTER = 7.25
_ROW = 42
_TOP = 40
_PAD = 9
_RIGHT = 60
_WAIT = 74.0
_COLORS = ("#2563a8", "#0f7f72", "#7c4dab", "#a3641a", "#4d6a1e", "#9c3f7d")

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f5f7; color: #22262c; font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "DejaVu Sans", sans-serif; }
main { max-width: 1640px; margin: 0 auto; padding: 28px 20px 40px; }
h1 { font-size: 24px; margin: 0 0 4px; overflow-wrap: anywhere; }
h1 em { font-style: normal; font-size: 13px; font-weight: 600; border-radius: 99px; padding: 3px 12px;
  margin-right: 10px; vertical-align: 4px; color: white; background: #6b7280; }
h1 em.violation { background: #c62828; }
h1 em.linearizable { background: #23804a; }
h2 { font-size: 16px; margin: 0 0 10px; }
.sub { margin: 0 0 18px; overflow-wrap: anywhere; color: #4b5563; }
.cards { display: flex; flex-wrap: wrap; gap: 10px; margin: 0 0 18px; }
.card { background: white; border: 1px solid #e3e6ea; border-radius: 10px; padding: 8px 16px; min-width: 96px; }
.card b { display: block; font-size: 18px; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.card span { color: #6b7280; font-size: 12.5px; }
section { background: white; border: 1px solid #e3e6ea; border-radius: 10px; padding: 16px; margin: 0 0 18px; }
.scroll { overflow-x: auto; display: flex; }
.scroll svg { display: block; flex: none; }
.names { position: sticky; left: 0; background: white; z-index: 1; border-right: 1px solid #d6dae0; }
.names text { font-weight: 600; font-size: 13px; fill: #374151; }
text { font: 12px ui-monospace, "DejaVu Sans Mono", monospace; fill: #22262c; }
text.tick, text.wait { font-size: 11px; fill: #8a8f98; }
.operation { cursor: default; }
.operation .label { paint-order: stroke; stroke: white; stroke-width: 4px; stroke-linejoin: round; }
.lane1 .label { stroke: #f9fafb; }
.operation.beyond { opacity: .5; }
.operation.stuck .label { fill: #b71c1c; font-weight: 700; }
.operation.failed .label { fill: #8a8f98; text-decoration: line-through; }
.operation.ghost .label { fill: #6b7280; font-style: italic; }
.operation .number { font-size: 10px; font-weight: 700; text-anchor: middle; }
svg.focused .operation { opacity: .22; }
svg.focused .operation.near { opacity: 1; }
svg.focused .order { opacity: .15; }
.order { fill: none; stroke: #4b5563; stroke-width: 1.2; opacity: .4; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 24px; color: #4b5563; font-size: 13px; margin: 12px 0 0; }
.legend span { display: inline-flex; align-items: center; gap: 8px; }
#tip { position: fixed; pointer-events: none; background: #1f2937; color: white; border-radius: 8px; padding: 9px 13px;
  font: 12px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  max-width: min(560px, 90vw); box-shadow: 0 4px 16px #0004; z-index: 2; }
ol { margin: 0; padding: 0; list-style: none; font: 13px/1.75 ui-monospace, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
ol.long { columns: 460px auto; column-gap: 40px; }
li { break-inside: avoid; padding-left: 52px; text-indent: -52px; }
li i { font-style: normal; display: inline-block; width: 40px; margin-right: 12px; text-align: right; color: #8a8f98;
  text-indent: 0; }
li.stuck { color: #b71c1c; font-weight: 700; }
li.stuck i { color: inherit; }
li.ghost { color: #6b7280; font-style: italic; }
footer { color: #8a8f98; font-size: 13px; }
"""

_SCRIPT = """
const tip = document.getElementById("tip"), chart = document.getElementById("chart");
const all = [...chart.querySelectorAll(".operation")];
const span = (one) => [Number(one.dataset.from), Number(one.dataset.to)];
for (const one of all) {
  const [from, to] = span(one);
  one.addEventListener("pointerenter", () => {
    tip.textContent = one.dataset.tip;
    tip.hidden = false;
    chart.classList.add("focused");
    for (const other of all) {
      const [begin, end] = span(other);
      other.classList.toggle("near", begin <= to && from <= end);
    }
  });
  one.addEventListener("pointermove", (event) => {
    const box = tip.getBoundingClientRect();
    const left = Math.min(event.clientX + 14, innerWidth - box.width - 8);
    const below = event.clientY + 18;
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = (below + box.height > innerHeight ? event.clientY - box.height - 12 : below) + "px";
  });
  one.addEventListener("pointerleave", () => {
    tip.hidden = true;
    chart.classList.remove("focused");
  });
}
const stuck = chart.querySelector(".stuck rect");
if (stuck) {
  const scroll = chart.parentElement;
  scroll.scrollLeft = Number(stuck.getAttribute("x")) - scroll.clientWidth / 2;
}
"""


@attrs.define
class _Bar:
    """An operation, and where it is drawn."""

    operation: Operation
    ghost: bool
    begin: float = 0.0
    end: float = 0.0
    row: int = 0
    number: int | None = None
    point: float = 0.0

    @property
    def open(self) -> bool:
        """Whether it may take effect until the end of the picture."""
        return self.ghost or self.operation.returned is None


def save(history: History, verdict: Verdict, path: Path | str, *, key: str | None = None) -> None:
    """Write the page to a file; see `render`."""
    Path(path).write_text(render(history, verdict, key=key), encoding="utf-8")


def render(history: History, verdict: Verdict, *, key: str | None = None) -> str:
    """The page as HTML.

    Args:
        history: what is drawn.
        verdict: what was found out about it.
        key: which key; by default the one with a violation that has the fewest operations, or else the one with most.
    """
    if key is None:
        keys = verdict.violating or verdict.keys
        weight = -1 if verdict.violating else 1
        key = max(keys, key=lambda one: weight * verdict.keys[one].operations, default="")
    found = verdict.keys.get(key)
    operations = [one for one in history.operations if one.key == key]
    drawn = _around(operations, found)
    bars = [_Bar(one, ghost=False) for one in drawn]
    order = found.order if found is not None else ()
    ours = {id(one) for one in operations}
    ghosts = [one for one in order if id(one) not in ours]
    bars += [_Bar(one, ghost=True) for one in ghosts[-_GHOSTS:]]
    stuck = found.stuck if found is not None else None
    finding = verdict.finding if stuck is None or found is None else found.finding
    reason = verdict.reason if found is None or verdict.finding is not found.finding else found.reason
    chart = _chart(bars, order, stuck) if bars else "<p>There is nothing to draw.</p>"
    title = f"{_clean(key)}: {finding}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1><em class="{finding}">{finding}</em>{escape(_clean(key) or "an empty history")}</h1>
<p class="sub">{escape(_short(_clean(reason), 400))}</p>
<div class="cards">{_cards(history, verdict, found, operations)}</div>
<section>{chart}{_legend(bars, order, stuck, len(operations) - len(drawn), len(ghosts))}</section>
{_listing(order, stuck, {id(one) for one in ghosts})}
<footer>Drawn by Moorage's conformance suite</footer>
</main>
<div id="tip" hidden></div>
<script>{_SCRIPT if bars else ""}</script>
</body>
</html>
"""


def _around(operations: Sequence[Operation], found: KeyVerdict | None) -> list[Operation]:
    """As many as can be drawn: those that end last before the violation does, and a few after it."""
    if len(operations) <= MOST:
        return list(operations)
    place = len(operations)
    if found is not None and found.stuck is not None:
        place = operations.index(found.stuck) + MOST // 5
    first = max(0, min(place, len(operations)) - MOST)
    return list(operations[first : first + MOST])


def _clean(value: str) -> str:
    return "".join(one if one.isprintable() else "·" for one in value)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _columns(text: str) -> int:
    """How wide it is, in characters of a fixed-width font."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def _told(operation: Operation, most: int, *, ghost: bool = False) -> str:
    """The call and what came of it, on one line."""
    arguments = ", ".join(dumps(one) for one in operation.arguments)
    result = {"ok": dumps(operation.result), "fail": "failed", "unknown": "?"}[operation.outcome]
    result = _short(_clean(result), most // 2)
    call = _clean(f"{operation.call}({arguments})")
    room = max(most - len(result) - 3, 8)
    if len(call) > room:
        call = f"{call[: room - 2]}…)"
    return f"({call})" if ghost and operation.outcome == "unknown" else f"{call} → {result}"


def _duration(nanoseconds: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return (
                f"{nanoseconds / size:.3g} {unit}" if nanoseconds < 1000 * size else f"{nanoseconds / size:,.0f} {unit}"
            )
    return f"{nanoseconds:.0f} ns"


def _cards(history: History, verdict: Verdict, found: KeyVerdict | None, operations: Sequence[Operation]) -> str:
    cards = [
        (f"{len(operations):,}", "operations"),
        (str(len({one.process for one in operations})), "processes"),
        (str(sum(one.outcome == "unknown" for one in operations)), "of unknown outcome"),
        (f"{found.configurations if found else 0:,}", "configurations searched"),
    ]
    if len(verdict.keys) > 1:
        cards.append((f"{len(verdict.violating)} of {len(verdict.keys)}", "keys violate"))
    if history.background:
        cards.append((f"{len(history.background):,}", "may have happened besides"))
    if history.model:
        cards.append((history.model, "model"))
    if history.seed is not None:
        cards.append((str(history.seed), "seed"))
    cards += [(version, name) for name, version in history.versions.items()]
    return "".join(
        f'<div class="card"><b>{escape(_short(_clean(b), 60))}</b><span>{escape(_short(_clean(s), 60))}</span></div>'
        for b, s in cards
    )


def _lay_out(bars: Sequence[_Bar]) -> tuple[list[tuple[int, float]], list[tuple[float, float, int]], float]:
    """Give each bar its begin and end; returns where each moment is, the waits that were cut short, and the width."""
    events: dict[int, list[tuple[_Bar, bool]]] = {}
    for bar in bars:
        events.setdefault(bar.operation.invoked, []).append((bar, True))
        if not bar.open and bar.operation.returned is not None:
            events.setdefault(bar.operation.returned, []).append((bar, False))
    moments = sorted(events)
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    usual = max(statistics.median(gaps), 1.0) if gaps else 1.0
    places: list[tuple[int, float]] = []
    waits: list[tuple[float, float, int]] = []
    place = float(_PAD)
    for number, moment in enumerate(moments):
        if number:
            gap = gaps[number - 1]
            step = 10 + min(40.0, 14 * math.log10(1 + gap / usual))
            previous = place
            place += step
            if gap > 40 * usual and gap > 1_000_000:
                place = previous + _WAIT
                waits.append((previous, place, gap))
        # A bar is at least as long as its label, so that no two labels of a lane touch.
        ending = [bar.begin + _needs(bar) for bar, begins in events[moment] if not begins]
        place = max([place, *ending])
        for bar, begins in events[moment]:
            if begins:
                bar.begin = place
            else:
                bar.end = place
        places.append((moment, place))
    width = max([place + _RIGHT, *(bar.begin + _needs(bar) + _RIGHT for bar in bars if bar.open)])
    for bar in bars:
        bar.end = width if bar.open else max(bar.end, bar.begin + 3)
    return places, waits, width


def _needs(bar: _Bar) -> float:
    return _columns(_told(bar.operation, _LABEL, ghost=bar.ghost)) * _CHARACTER + 14


def _rows(bars: Sequence[_Bar]) -> dict[str, tuple[int, int]]:
    """Give each bar a row of its process's lane in which it overlaps no other; returns the rows of each lane."""
    lanes: dict[str, list[_Bar]] = {}
    for bar in sorted(bars, key=lambda one: (one.begin, one.end)):
        lanes.setdefault(bar.operation.process, []).append(bar)
    found: dict[str, tuple[int, int]] = {}
    first = 0
    for process in sorted(lanes, key=_natural):
        ends: list[float] = []
        for bar in lanes[process]:
            row = next((row for row, end in enumerate(ends) if end < bar.begin), len(ends))
            ends[row : row + 1] = [bar.end]
            bar.row = first + row
        found[process] = (first, len(ends))
        first += len(ends)
    return found


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """A key by which w10 comes after w9."""
    parts: list[str] = []
    for one in name:
        if parts and parts[-1].isdecimal() == one.isdecimal():
            parts[-1] += one
        else:
            parts.append(one)
    return tuple((int(one), "") if one.isdecimal() else (-1, one) for one in parts)


def _points(bars: Sequence[_Bar], order: Sequence[Operation]) -> list[_Bar]:
    """Number the bars by the order, and give each a point within it so that the points follow the order as well."""
    by_operation = {id(bar.operation): bar for bar in bars}
    numbered: list[_Bar] = []
    for number, one in enumerate(order, 1):
        bar = by_operation.get(id(one))
        if bar is not None:
            bar.number = number
            numbered.append(bar)
    # From the last to the first each may go as late as its return, or its successor, lets it; then as early as it can.
    latest = math.inf
    limits: list[float] = []
    for bar in reversed(numbered):
        latest = min(latest - 1, bar.end - 9)
        limits.append(latest)
    point = 0.0
    for bar, limit in zip(numbered, reversed(limits), strict=True):
        point = max(point, min(max(point + 20, bar.begin + 9), limit), bar.begin + 1)
        bar.point = point
    return numbered


def _middle(bar: _Bar) -> float:
    return _TOP + bar.row * _ROW + 29


def _chart(bars: Sequence[_Bar], order: Sequence[Operation], stuck: Operation | None) -> str:
    places, waits, width = _lay_out(bars)
    lanes = _rows(bars)
    numbered = _points(bars, order)
    rows = sum(count for _, count in lanes.values())
    height = _TOP + rows * _ROW + 10
    calls = _colors(bars)
    names, ground = [], []
    longest = max(_columns(_short(_clean(process), 24)) for process in lanes)
    for number, (process, (first, count)) in enumerate(lanes.items()):
        top = _TOP + first * _ROW
        if number % 2:
            band = f'<rect x="0" y="{top}" width="100%" height="{count * _ROW}" fill="#f9fafb"/>'
            ground.append(band)
            names.append(band)
        label = escape(_short(_clean(process), 24))
        names.append(f'<text x="0" y="{top + count * _ROW / 2 + 5:.0f}">{label}</text>')
    for left, right, gap in waits:
        ground.append(
            f'<rect x="{left + 6:.1f}" y="{_TOP - 6}" width="{right - left - 12:.1f}" height="{height - _TOP}" '
            'fill="url(#wait)"/>'
            f'<text class="wait" x="{(left + right) / 2:.1f}" y="{height - 1}" text-anchor="middle">'
            f"{escape(_duration(gap))}</text>"
        )
    ground += _ticks(places, height)
    parity = {process: number % 2 for number, process in enumerate(lanes)}
    beyond = {id(bar) for bar in bars if order and stuck is not None and bar.number is None}
    drawn = [
        _draw(bar, calls[bar.operation.call], stuck, places[0][0], id(bar) in beyond, parity[bar.operation.process])
        for bar in bars
    ]
    path = " ".join(f"{bar.point:.1f},{_middle(bar):.0f}" for bar in numbered)
    line = f'<polyline class="order" points="{path}"/>' if len(numbered) > 1 else ""
    side = longest * 7.9 + 16
    return f"""<div class="scroll">
<svg class="names" width="{side:.0f}" height="{height + 6}">{"".join(names)}</svg>
<svg id="chart" width="{width:.0f}" height="{height + 6}" role="img" aria-label="timeline">
<defs>{_gradients(calls)}
<pattern id="wait" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect width="2" height="7" fill="#e5e7eb"/></pattern></defs>
{"".join(ground)}
{line}
{"".join(drawn)}
</svg></div>"""


def _colors(bars: Sequence[_Bar]) -> dict[str, tuple[int, str]]:
    calls = sorted({bar.operation.call for bar in bars})
    return {call: (number, _COLORS[number % len(_COLORS)]) for number, call in enumerate(calls)}


def _gradients(calls: dict[str, tuple[int, str]]) -> str:
    colors = [*calls.values(), (-1, "#c62828")]
    return "".join(
        f'<linearGradient id="fade{number}"><stop offset="0" stop-color="{color}" stop-opacity=".85"/>'
        f'<stop offset="1" stop-color="{color}" stop-opacity="0"/></linearGradient>'
        for number, color in colors
    )


def _ticks(places: Sequence[tuple[int, float]], height: float) -> list[str]:
    drawn = []
    last = -math.inf
    for moment, place in places:
        if place - last >= 130:
            last = place
            text = f"+{_duration(moment - places[0][0])}" if moment != places[0][0] else "0"
            drawn.append(
                f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP - 12}" y2="{height - 8}" stroke="#eceef1"/>'
                f'<text class="tick" x="{place:.1f}" y="{_TOP - 18}">{escape(text)}</text>'
            )
    return drawn


def _draw(bar: _Bar, color_of: tuple[int, str], stuck: Operation | None, start: int, beyond: bool, parity: int) -> str:
    operation = bar.operation
    number, color = color_of
    kinds = ["operation", f"lane{parity}"]
    if operation is stuck:
        number, color = -1, "#c62828"
        kinds.append("stuck")
    elif beyond:
        kinds.append("beyond")
    if operation.outcome == "fail":
        color = "#9ca3af"
        kinds.append("failed")
    if bar.ghost:
        kinds.append("ghost")
    middle = _middle(bar)
    fill = f"url(#fade{number})" if bar.open and operation.outcome != "fail" else color
    edge = ""
    if bar.ghost:
        fill, edge = "none", f' stroke="url(#fade{number})" stroke-dasharray="4 3"'
    elif "stuck" in kinds:
        edge = ' stroke="#7f1010" stroke-width="2"'
    size = f'width="{bar.end - bar.begin:.1f}" height="10" rx="{0 if bar.open else 5}"'
    shape = f'<rect x="{bar.begin:.1f}" y="{middle - 5:.0f}" {size} fill="{fill}"{edge}/>'
    if bar.open:
        shape += f'<rect x="{bar.begin:.1f}" y="{middle - 5:.0f}" width="3" height="10" fill="{color}"/>'
    prefix = "✗ " if "stuck" in kinds else ""
    label = escape(prefix + _told(operation, _LABEL, ghost=bar.ghost))
    mark = ""
    if bar.number is not None:
        wide = max(0, len(str(bar.number)) - 2) * 5.5
        mark = (
            f'<rect x="{bar.point - 8.5 - wide / 2:.1f}" y="{middle - 8.5:.1f}" width="{17 + wide:.1f}" height="17" '
            f'rx="8.5" fill="white" stroke="{color}" stroke-width="1.6"/>'
            f'<text class="number" x="{bar.point:.1f}" y="{middle + 3.6:.1f}">{bar.number}</text>'
        )
    return (
        f'<g class="{" ".join(kinds)}" data-from="{bar.begin:.1f}" data-to="{bar.end:.1f}" '
        f'data-tip="{escape(_tip(bar, start, "stuck" in kinds))}">'
        f'<text class="label" x="{bar.begin:.1f}" y="{middle - 12:.0f}">{label}</text>{shape}{mark}</g>\n'
    )


def _tip(bar: _Bar, start: int, stuck: bool) -> str:
    operation = bar.operation
    arguments = ", ".join(dumps(one) for one in operation.arguments)
    lines = [_clean(operation.process), _short(_clean(f"{operation.call}({arguments})"), _TOLD)]
    if operation.outcome == "ok":
        lines.append(_short(_clean(f"→ {dumps(operation.result)}"), _TOLD))
    elif operation.outcome == "fail":
        lines.append("failed: it has certainly not happened")
    else:
        lines.append("unknown: it may take effect at any time from here on, or never")
    since = operation.invoked - start
    if operation.returned is None:
        lines.append(f"from +{_duration(since)}")
    else:
        took = operation.returned - operation.invoked
        lines.append(f"+{_duration(since)} to +{_duration(operation.returned - start)} ({_duration(took)})")
    if bar.ghost:
        lines.append("not needed for the violation: it may as well have happened at another time, or never")
    if bar.number is not None:
        lines.append(f"number {bar.number} of the order")
    if stuck:
        lines.append("no order that explains what came before explains this")
    return "\n".join(lines)


def _swatch(style: str, text: str) -> str:
    return (
        f'<span><svg width="34" height="12"><rect x="1" y="1" width="32" height="10" rx="5" {style}/></svg>'
        f"{escape(text)}</span>"
    )


def _legend(
    bars: Sequence[_Bar], order: Iterable[Operation], stuck: Operation | None, left_out: int, ghosts: int
) -> str:
    parts = [
        _swatch(f'fill="{color}"', _short(_clean(call), 40)) for call, (_, color) in list(_colors(bars).items())[:12]
    ]
    if stuck is not None:
        parts.append(_swatch('fill="#c62828" stroke="#7f1010" stroke-width="2"', "could not be placed"))
    if any(bar.open and not bar.ghost for bar in bars):
        parts.append(_swatch('fill="url(#fade0)"', "unknown: at any time from here on, or never"))
    if any(bar.ghost for bar in bars):
        parts.append(
            _swatch('fill="none" stroke="#6b7280" stroke-dasharray="4 3"', f"besides, at any time or never ({ghosts})")
        )
    if any(True for _ in order):
        parts.append("<span>① place in the longest order that can be explained</span>")
    if left_out:
        parts.append(f"<span>{left_out:,} more operations are not drawn</span>")
    return f'<p class="legend">{"".join(parts)}</p>'


def _listing(order: Sequence[Operation], stuck: Operation | None, ghosts: set[int]) -> str:
    if not order and stuck is None:
        return ""
    first = max(0, len(order) - _LISTED)
    rows = [f"<li><i>…</i>{first:,} before</li>"] if first else []
    for number, one in enumerate(order[first:], first + 1):
        kind = ' class="ghost"' if id(one) in ghosts else ""
        text = escape(f"{_clean(one.process)}: {_told(one, 120)}")
        rows.append(f"<li{kind}><i>{number}</i>{text}</li>")
    if stuck is not None:
        text = escape(f"{_clean(stuck.process)}: {_told(stuck, 120)}")
        rows.append(f'<li class="stuck"><i>✗</i>{text}</li>')
    long = ' class="long"' if len(rows) > 16 else ""
    if stuck is None:
        head = "The order in which it may have happened"
    else:
        head = "The longest order that explains the beginning, and what it cannot explain"
    return f"<section><h2>{head}</h2><ol{long}>{''.join(rows)}</ol></section>"
