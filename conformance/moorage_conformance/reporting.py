"""The report directory: ``report.json``, ``index.html``, ``junit.xml``, ``badge.svg``, and the folder ``histories``."""

from __future__ import annotations

import json
import shlex
import xml.etree.ElementTree as ElementTree
from html import escape
from typing import TYPE_CHECKING, Any

from moorage_conformance.results import CheckResult, ExitCode, Outcome, Report
from moorage_conformance.specification import LEVELS

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "moorage-conformance-1"
"""The format of ``report.json``; described by ``report.schema.json`` beside this module."""

HISTORIES = "histories"


def reproduce(report: Report, result: CheckResult) -> str:
    """The command that runs one check again as it ran."""
    return f"moorage conformance {shlex.quote(report.url)} --only {result.check} --seed {result.seed}"


def verdict(report: Report) -> str:
    """What came out, in a sentence."""
    asked = f"level {report.asked} ({LEVELS[report.asked]})"
    code = report.exit_code
    if report.mutants and not report.results:
        return f"self-test: {sum(one.caught for one in report.mutants)} of {len(report.mutants)} broken backends caught"
    if code is ExitCode.CONFORMS:
        return f"conforms at {asked}"
    if code is ExitCode.NOTHING_RAN:
        return "nothing ran"
    if code is ExitCode.FAILED:
        count = sum(one.outcome is Outcome.FAIL and one.requirement.decides for one in report.requirements)
        return f"does not conform at {asked}: {count} MUST{'' if count == 1 else 's'} failed"
    if report.partial:
        return f"only some checks ran, so {asked} is not shown"
    return f"{asked} is not shown: some requirements are unknown, exempt, or not claimed"


def level_text(report: Report) -> str:
    """The level that was reached, for people."""
    return f"{report.reached} {LEVELS[report.reached]}" if report.reached else "none"


def write(report: Report, folder: Path) -> None:
    """Write all files of a report; what is there under these names is replaced.

    Raises:
        OSError: the folder cannot be written.
    """
    from moorage_conformance import page

    folder.mkdir(parents=True, exist_ok=True)
    (folder / HISTORIES).mkdir(exist_ok=True)
    (folder / "report.json").write_text(json.dumps(as_json(report, folder), indent=2) + "\n", encoding="utf-8")
    (folder / "index.html").write_text(page.render(report, folder), encoding="utf-8")
    (folder / "badge.svg").write_text(as_badge(report), encoding="utf-8")
    ElementTree.ElementTree(as_junit(report)).write(folder / "junit.xml", encoding="utf-8", xml_declaration=True)


def relative(path: Path, folder: Path) -> str:
    """A path as the files of a report in this folder name it."""
    return (
        str(path.resolve().relative_to(folder.resolve()))
        if path.resolve().is_relative_to(folder.resolve())
        else str(path)
    )


def as_json(report: Report, folder: Path) -> dict[str, Any]:
    """The content of ``report.json``."""
    return {
        "format": FORMAT,
        "url": report.url,
        "backend": report.backend,
        "verdict": verdict(report),
        "exit_code": int(report.exit_code),
        "level": {"asked": report.asked, "declared": report.declared, "reached": report.reached},
        "partial": report.partial,
        "conditions": sorted(report.conditions),
        "seed": report.seed,
        "started": report.started,
        "seconds": round(report.seconds, 3),
        "versions": dict(report.versions),
        "environment": dict(report.environment),
        "exemptions": dict(report.exemptions),
        "requirements": [
            {
                "id": one.requirement.id,
                "level": one.requirement.level,
                "strength": one.requirement.strength,
                "provisional": one.requirement.provisional,
                "condition": one.requirement.condition,
                "text": one.requirement.text,
                "outcome": str(one.outcome),
                "message": one.message,
                "checks": list(one.checks),
            }
            for one in report.requirements
        ],
        "checks": [
            {
                "name": one.check,
                "title": one.title,
                "level": one.level,
                "requirements": list(one.requirements),
                "outcome": str(one.outcome),
                "violated": list(one.violated),
                "message": one.message,
                "seconds": round(one.seconds, 3),
                "rounds": one.rounds,
                "seed": one.seed,
                "reproduce": reproduce(report, one),
                "files": [relative(path, folder) for path in one.files],
            }
            for one in report.results
        ],
        "mutation_score": report.mutation_score,
        "mutants": [
            {
                "name": one.mutant,
                "breaks": one.breaks,
                "description": one.description,
                "caught": one.caught,
                "message": one.message,
                "seconds": round(one.seconds, 3),
            }
            for one in report.mutants
        ],
    }


def as_junit(report: Report) -> ElementTree.Element:
    """The checks, and the mutants of a self-test, as test cases of JUnit's format."""
    suites = ElementTree.Element("testsuites", name="moorage conformance")
    suite = ElementTree.SubElement(
        suites,
        "testsuite",
        name=_xml(report.url),
        timestamp=report.started,
        time=f"{report.seconds:.3f}",
        tests=str(len(report.results) + len(report.mutants)),
        failures=str(
            sum(one.outcome is Outcome.FAIL for one in report.results) + sum(not one.caught for one in report.mutants)
        ),
        errors="0",
        skipped=str(
            sum(one.outcome in (Outcome.UNKNOWN, Outcome.EXEMPT, Outcome.NOT_CLAIMED) for one in report.results)
        ),
    )
    for result in report.results:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"level{result.level}", name=result.check, time=f"{result.seconds:.3f}"
        )
        first = _xml(result.message).partition("\n")[0]
        if result.outcome is Outcome.FAIL:
            failure = ElementTree.SubElement(case, "failure", message=f"{', '.join(result.violated)}: {first}")
            failure.text = f"{_xml(result.message)}\n\n{_xml(reproduce(report, result))}"
        elif result.outcome is not Outcome.PASS:
            ElementTree.SubElement(case, "skipped", message=f"{result.outcome}: {first}")
    for one in report.mutants:
        case = ElementTree.SubElement(
            suite, "testcase", classname="mutants", name=one.mutant, time=f"{one.seconds:.3f}"
        )
        if not one.caught:
            ElementTree.SubElement(case, "failure", message=f"{one.breaks} does not catch it").text = _xml(one.message)
    return suites


def _xml(text: str) -> str:
    """What XML can hold; all else is escaped."""
    return "".join(
        one
        if one in "\t\n" or (one >= " " and not "\ud800" <= one <= "\udfff" and one not in "\ufffe\uffff")
        else ascii(one)[1:-1]
        for one in text
    )


_BADGE = """<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{label}: {text}">
<title>{label}: {text}</title>
<clipPath id="r"><rect width="{width}" height="20" rx="3"/></clipPath>
<g clip-path="url(#r)"><rect width="{left}" height="20" fill="#3b4252"/>
<rect x="{left}" width="{right}" height="20" fill="{color}"/></g>
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{middle_left}" y="14" textLength="{text_left}">{label}</text>
<text x="{middle_right}" y="14" textLength="{text_right}">{text}</text></g></svg>
"""

_COLORS = {0: "#b42318", 1: "#8a6d1b", 2: "#5f7d1f", 3: "#2e7d4f", 4: "#1769aa"}


def as_badge(report: Report) -> str:
    """A picture of the level that was reached, to stand in a README."""
    label, text = "moorage", f"level {level_text(report)}" if report.reached else "does not conform"
    if not report.reached and report.exit_code is not ExitCode.FAILED:
        text = "level not shown"
    text_left, text_right = 6.6 * len(label), 6.4 * len(text)
    left, right = round(text_left) + 12, round(text_right) + 12
    return _BADGE.format(
        label=escape(label),
        text=escape(text),
        width=left + right,
        left=left,
        right=right,
        color=_COLORS[report.reached],
        middle_left=left / 2,
        middle_right=left + right / 2,
        text_left=round(text_left),
        text_right=round(text_right),
    )
