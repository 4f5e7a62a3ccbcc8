"""The backends side by side, as a table: what each has shown to the conformance suite, and what its hot paths cost.

    moorage conformance URL --report reports/NAME
    moorage bench URL --json > bench/NAME.json
    python -m benchmarks.side_by_side reports bench

Both folders are of one's own making; the second may be left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CAPABILITIES = ("shared", "durable", "transactions", "server_clock")


def read(folder: Path, pattern: str) -> dict[str, dict[str, Any]]:
    """The JSON documents below a folder, by the name of the backend."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob(pattern)):
        content = json.loads(path.read_text(encoding="utf-8"))
        best = found.get(content["backend"])
        if best is None or content.get("level", {}).get("asked", 0) > best.get("level", {}).get("asked", 0):
            found[content["backend"]] = content
    return found


def row(report: dict[str, Any], bench: dict[str, Any] | None) -> list[str]:
    """One line of the table."""
    outcomes = [one["outcome"] for one in report["requirements"]]
    capabilities = ", ".join(one.replace("_", " ") for one in CAPABILITIES if one in report["conditions"])
    rate = growth = ""
    if bench is not None:
        reserve = next(one for one in bench["operations"] if one["name"] == "reserve")
        largest = reserve["costs"][-1]
        rate = f"{largest['per_second']:,.0f} at {largest['trials']:,} trials"
        growth = "" if reserve["growth"] is None else f"{reserve['growth']:.2f}"
    return [
        report["backend"],
        f"{report['level']['reached']} of {report['level']['asked']}",
        f"{outcomes.count('pass')} of {len(outcomes) - outcomes.count('not-claimed')}",
        capabilities or "none",
        rate,
        growth,
    ]


def main(arguments: list[str]) -> int:
    """Print the table in Markdown."""
    if not 1 <= len(arguments) <= 2:
        print("usage: python -m benchmarks.side_by_side REPORTS [BENCH]", file=sys.stderr)
        return 2
    reports = read(Path(arguments[0]), "**/report.json")
    benches = read(Path(arguments[1]), "**/*.json") if len(arguments) > 1 else {}
    head = ["Backend", "Level", "Requirements met", "Capabilities", "Reservations/s", "Growth exponent"]
    lines = [head, ["---"] * len(head), *(row(one, benches.get(name)) for name, one in reports.items())]
    for line in lines:
        print(f"| {' | '.join(line)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
