"""The page of a report: what came out at a glance, and below it why."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from moorage.driver import Capability
from moorage_conformance.reporting import relative, reproduce, verdict
from moorage_conformance.results import CheckResult, ExitCode, Outcome, Report, RequirementResult
from moorage_conformance.specification import CONDITIONS, LEVELS

if TYPE_CHECKING:
    from pathlib import Path

_STYLE = """
:root { color-scheme: light dark; --page: #f4f5f7; --card: #fff; --text: #22262c; --soft: #5d6673; --line: #e3e6ea;
  --pass: #23804a; --fail: #c62828; --unknown: #b26a00; --exempt: #7c4dab; --none: #8a8f98; --code: #f1f3f5; }
@media (prefers-color-scheme: dark) { :root { --page: #16191d; --card: #1f2329; --text: #e6e8eb; --soft: #a0a8b4;
  --line: #343a43; --pass: #4cc38a; --fail: #ff6b62; --unknown: #e9a23b; --exempt: #b794e6; --none: #7d8590;
  --code: #2a2f37; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 26px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 12px; display: flex; justify-content: space-between; gap: 16px; flex-wrap: wrap; }
h2 span { font-weight: 400; font-size: 14px; color: var(--soft); }
.sub { margin: 2px 0 20px; color: var(--soft); overflow-wrap: anywhere; }
section, .top { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px;
  margin: 0 0 18px; }
.top { display: grid; grid-template-columns: auto 1fr; gap: 6px 24px; align-items: center; }
.level { font-size: 54px; font-weight: 700; line-height: 1; text-align: center; min-width: 92px; }
.level small { display: block; font-size: 13px; font-weight: 600; margin-top: 6px; }
.verdict { font-size: 19px; font-weight: 600; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; margin-top: 8px; }
.chip { font-size: 12.5px; border: 1px solid var(--line); border-radius: 99px; padding: 1px 10px; color: var(--soft); }
.chip.yes { color: var(--pass); border-color: currentcolor; }
.bar { display: flex; height: 8px; border-radius: 4px; overflow: hidden; background: var(--line); margin: 0 0 12px; }
.bar i { display: block; }
table { width: 100%; border-collapse: collapse; }
td { padding: 6px 8px 6px 0; vertical-align: top; border-top: 1px solid var(--line); }
td:first-child { white-space: nowrap; font-weight: 600; width: 1%; padding-right: 14px; }
td:last-child { white-space: nowrap; width: 1%; text-align: right; padding-right: 0; color: var(--soft);
  font-variant-numeric: tabular-nums; }
.mark { display: inline-block; min-width: 78px; font-size: 12px; font-weight: 700; }
.pass { color: var(--pass); } .fail { color: var(--fail); } .unknown { color: var(--unknown); }
.exempt { color: var(--exempt); } .not-claimed { color: var(--none); }
.b-pass { background: var(--pass); } .b-fail { background: var(--fail); } .b-unknown { background: var(--unknown); }
.b-exempt { background: var(--exempt); } .b-not-claimed { background: var(--none); opacity: .45; }
pre { background: var(--code); border-radius: 8px; padding: 10px 12px; margin: 8px 0 2px; font: 12.5px/1.5
  ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 22em;
  overflow-y: auto; }
code { font: 13px ui-monospace, "DejaVu Sans Mono", monospace; background: var(--code); border-radius: 4px;
  padding: 1px 5px; }
details summary { cursor: pointer; color: var(--soft); }
.should { font-size: 11px; color: var(--soft); border: 1px solid var(--line); border-radius: 4px; padding: 0 4px; }
a { color: inherit; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""

_WORDS = {Outcome.PASS: "pass", Outcome.FAIL: "FAIL", Outcome.UNKNOWN: "unknown", Outcome.EXEMPT: "exempt"}


def render(report: Report, folder: Path) -> str:
    """A page that says at a glance what came out, and then why; it needs nothing else."""
    tone = (
        "pass"
        if report.exit_code is ExitCode.CONFORMS
        else "fail"
        if report.exit_code is ExitCode.FAILED
        else "unknown"
    )
    chips = "".join(
        f'<span class="chip{" yes" if one in report.conditions else ""}">{"" if one in report.conditions else "no "}'
        f"{escape(one.replace('_', ' '))}</span>"
        for one in CONDITIONS
        if one in set(Capability) or (one != "password" and one in report.conditions)
    )
    reached, sentence = report.reached, verdict(report)
    facts = {
        "Storage": report.url,
        "Declared level": f"{report.declared} {LEVELS[report.declared]}",
        "Started": report.started,
        "Took": f"{report.seconds:.1f} s",
        "Seed": str(report.seed),
        "Versions": ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        "Machine": ", ".join(report.environment.values()),
    }
    if report.mutation_score is not None:
        caught = sum(one.caught for one in report.mutants)
        facts["Mutation score"] = (
            f"{report.mutation_score:.0%}: {caught} of {len(report.mutants)} broken backends caught"
        )
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    levels = "".join(
        _level_section(report, level, folder) for level in LEVELS if level <= report.asked and report.results
    )
    name = escape(report.backend)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}: {escape(verdict(report))}</title><style>{_STYLE}</style></head><body><main>\n"
        f'<h1>{name}</h1><p class="sub">Moorage conformance, {escape(report.started[:10])}</p>\n'
        f'<div class="top"><div class="level {tone}">{reached or "-"}<small>'
        f"{escape(LEVELS.get(reached, 'no level'))}</small></div>"
        f'<div><div class="verdict">{escape(sentence[0].upper() + sentence[1:])}</div>'
        f'<div class="chips">{chips}</div></div></div>\n'
        f"{levels}{_mutants_section(report)}\n"
        f"<section><h2>This run</h2><dl>{listed}</dl></section>\n</main></body></html>\n"
    )


def _level_section(report: Report, level: int, folder: Path) -> str:
    own = [one for one in report.requirements if one.requirement.level == level]
    counts = {outcome: sum(one.outcome is outcome for one in own) for outcome in Outcome}
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    bar = "".join(f'<i class="b-{outcome}" style="flex:{count}"></i>' for outcome, count in counts.items() if count)
    rows = "".join(_requirement_row(report, one, folder) for one in sorted(own, key=_trouble_first))
    return (
        f'<section id="level-{level}"><h2>Level {level}: {LEVELS[level]}<span>{told}</span></h2>'
        f'<div class="bar">{bar}</div><table>{rows}</table></section>\n'
    )


_ORDER = (Outcome.FAIL, Outcome.UNKNOWN, Outcome.EXEMPT, Outcome.PASS, Outcome.NOT_CLAIMED)


def _trouble_first(one: RequirementResult) -> int:
    return _ORDER.index(one.outcome)


def _requirement_row(report: Report, one: RequirementResult, folder: Path) -> str:
    results = [result for result in report.results if result.check in one.checks]
    seconds = sum(result.seconds for result in results)
    strength = "" if one.requirement.strength == "MUST" else ' <span class="should">SHOULD</span>'
    if one.requirement.provisional:
        strength += ' <span class="should">provisional</span>'
    more = ""
    if one.outcome in (Outcome.FAIL, Outcome.UNKNOWN, Outcome.EXEMPT):
        more = f"<pre>{escape(one.message)}</pre>" + "".join(_told(report, result, folder) for result in results)
    elif one.outcome is Outcome.NOT_CLAIMED:
        more = f'<div class="not-claimed">{escape(one.message)}</div>'
    word = _WORDS.get(one.outcome, "not claimed")
    return (
        f'<tr id="{one.requirement.id}"><td>{one.requirement.id}</td>'
        f"<td>{_code(one.requirement.text)}{strength}{more}</td>"
        f'<td><span class="mark {one.outcome}">{word}</span> {seconds:.1f} s</td></tr>'
    )


def _told(report: Report, result: CheckResult, folder: Path) -> str:
    if result.outcome in (Outcome.PASS, Outcome.NOT_CLAIMED):
        return ""
    links = " ".join(f'<a href="{escape(relative(path, folder))}">{escape(path.name)}</a>' for path in result.files)
    return f"<div>{escape(result.title)} {links}<pre>{escape(reproduce(report, result))}</pre></div>"


def _code(text: str) -> str:
    """The sentences of the specification, with what stands between backticks as code."""
    pieces = text.split("`")
    return "".join(f"<code>{escape(one)}</code>" if place % 2 else escape(one) for place, one in enumerate(pieces))


def _mutants_section(report: Report) -> str:
    if not report.mutants:
        return ""
    rows = "".join(
        f"<tr><td>{escape(one.mutant)}</td><td>{escape(one.description)}<br><small>{escape(one.message)}</small></td>"
        f'<td><span class="mark {"pass" if one.caught else "fail"}">{"caught" if one.caught else "SURVIVED"}</span> '
        f"{escape(one.breaks)}</td></tr>"
        for one in sorted(report.mutants, key=lambda one: one.caught)
    )
    caught = sum(one.caught for one in report.mutants)
    return (
        f'<section id="mutants"><h2>Broken backends<span>{caught} of {len(report.mutants)} caught</span></h2>'
        f"<details{'' if caught == len(report.mutants) else ' open'}><summary>what each of them breaks, and what the "
        f"suite said</summary><table>{rows}</table></details></section>\n"
    )
