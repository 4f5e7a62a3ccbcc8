"""The command ``conformance``."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import runpy
import sys
from pathlib import Path  # noqa: TC003  (read by Typer when the command is added)
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from moorage.cli.common import complain, examples, output, shown
from moorage.errors import ConfigurationError, InvalidArgument, MissingExtra, MoorageError
from moorage_conformance.results import CheckResult, ExitCode, MutantResult, Outcome, Report
from moorage_conformance.sampling import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.progress import Progress

    from moorage_conformance.target import Hooks, Target

_EXIT_CODES = """\b
[bold]Exit codes[/bold]
  0  conforms at the level asked
  1  a MUST failed
  2  interrupted
  3  the suite itself failed, or a broken backend of the self-test survived
  4  wrong arguments, or the storage cannot be opened
  5  nothing ran
  7  unknown, or only a part was run
"""

_DURATION = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>s|m|h)?")
_UNITS = {"s": 1, "m": 60, "h": 3600}


class ConformanceCommand(TyperCommand):
    """A command whose usage errors end with the exit code of the suite's table."""

    def make_context(self, *arguments: Any, **extra: Any) -> Any:
        """Read the arguments."""
        try:
            return super().make_context(*arguments, **extra)
        except Exception as error:
            if hasattr(error, "exit_code") and hasattr(error, "format_message"):
                error.exit_code = int(ExitCode.USAGE)
            raise


def add_to(app: typer.Typer) -> None:
    """Add the commands of this package to the program."""
    app.command(
        cls=ConformanceCommand,
        epilog=_EXIT_CODES
        + "\n"
        + examples(
            "moorage conformance 'sqlite:////tmp/{ns}.db' --report report",
            "moorage conformance 'postgresql://me@host:5432/test?prefix={ns}_' --hooks my_hooks.py:Server",
            "moorage conformance 'sqlite:////tmp/{ns}.db' --only LOCK --seed 7",
            "moorage conformance --self-test",
        ),
    )(conformance)
    from moorage_conformance import bench, new_backend

    new_backend.add_to(app)
    bench.add_to(app)


def conformance(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL]", help="The storage, with {ns} where the name of a fresh namespace goes.", show_default=False
        ),
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(min=1, max=4, help="The level to be shown. By default the one that the backend declares."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A requirement (CLAIM-3), a group of them (LOCK), or a check. Repeatable."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of all that is random. By default a new one; it is printed.")
    ] = None,
    soak: Annotated[
        str | None, typer.Option(metavar="TIME", help="Repeat with new seeds for so long: 90s, 10m, 2h.")
    ] = None,
    hooks: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:CLASS", help="What only the author can do (restart the server); or FILE.py:CLASS."
        ),
    ] = None,
    exempt: Annotated[
        list[str] | None,
        typer.Option(metavar="NUMBER=LINK", help="A requirement that is known to fail, and why. Repeatable."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write report.json, index.html, junit.xml, badge.svg, histories.")
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Judge a saved history again; with a URL run its check again, too."),
    ] = None,
    self_test: Annotated[
        bool,
        typer.Option("--self-test", help="Run the broken backends: each must be caught. With a URL, that as well."),
    ] = False,
    sample: Annotated[
        str | None,
        typer.Option(
            metavar="PART/PARTS",
            help="With --self-test: only this part of the broken backends, as in 2/5.",
        ),
    ] = None,
    list_checks: Annotated[bool, typer.Option("--list", help="List the checks and what they cover.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="A line for each check.")] = False,
) -> None:
    r"""Prove what a backend guarantees, under races and crashes, and report it.

    Each check runs in a namespace of its own, which must be empty, and removes it afterwards.
    """
    with _exit_codes():
        try:
            importlib.import_module("hypothesis")
        except ModuleNotFoundError as error:
            raise MissingExtra(f'the suite needs {error.name!r}: pip install "moorage[conformance]"') from error
        if list_checks:
            _list(level or 4, only or ())
            return
        if replay is not None:
            code = _replay(replay, url, hooks, report)
        elif url is None and not self_test:
            raise InvalidArgument("give a URL with {ns} in it, or --self-test, --replay or --list")
        else:
            code = _run(
                None if url is None else _target(url, hooks, exempt or ()),
                level=level,
                only=only or (),
                seed=seed,
                soak=0.0 if soak is None else seconds(soak),
                folder=report,
                self_test=self_test,
                sample=None if sample is None else Sample.parse(sample),
                verbose=verbose,
            )
    raise typer.Exit(code)


@contextlib.contextmanager
def _exit_codes() -> Iterator[None]:
    """Turn errors into the exit codes of the suite."""
    from moorage.url import mask
    from moorage_conformance.checking import SuiteError, Violation
    from moorage_conformance.context import NotEmpty

    try:
        yield
    except KeyboardInterrupt:
        complain("interrupted")
        code = ExitCode.INTERRUPTED
    except (MoorageError, NotEmpty, OSError) as error:
        complain(f"error: {shown(mask(str(error)))}")
        code = ExitCode.USAGE
    except Violation as error:
        complain(f"error: {error.requirement}: {shown(mask(str(error)))}")
        code = ExitCode.FAILED
    except SuiteError as error:
        complain(f"error: the suite itself failed: {shown(mask(str(error)))}")
        code = ExitCode.SUITE_FAILED
    else:
        return
    raise typer.Exit(int(code))


def seconds(text: str) -> float:
    """The seconds that ``90s``, ``10m`` or ``2h`` are; a number alone is seconds.

    Raises:
        InvalidArgument: it is none of these.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise InvalidArgument(f"a time is written 90s, 10m or 2h, not {text!r:.80}")
    return float(found["number"]) * _UNITS[found["unit"] or "s"]


def _target(url: str, hooks: str | None, exempt: Sequence[str]) -> Target:
    from moorage_conformance.target import Hooks, Target

    exemptions: dict[str, str] = {}
    for one in exempt:
        number, _, link = one.partition("=")
        exemptions[number.upper()] = link
    return Target(url=url, hooks=Hooks() if hooks is None else find_hooks(hooks), exemptions=exemptions)


def find_hooks(text: str) -> Hooks:
    """The hooks that ``module:Class`` or ``file.py:Class`` names.

    Raises:
        ConfigurationError: it cannot be imported, or is no subclass of `Hooks`.
    """
    from moorage_conformance.target import Hooks

    place, _, name = text.rpartition(":")
    try:
        names = runpy.run_path(place) if place.endswith(".py") else vars(importlib.import_module(place))
        found = names[name]
        hooks = found() if isinstance(found, type) else found
    except (ImportError, LookupError, OSError, ValueError, SyntaxError) as error:
        raise ConfigurationError(f"the hooks {text!r:.80} cannot be imported: {error}") from error
    if not isinstance(hooks, Hooks):
        raise ConfigurationError(f"{text!r:.80} is not a subclass of moorage_conformance.Hooks")
    return hooks


def _list(level: int, only: Sequence[str]) -> None:
    from moorage_conformance.checking import uncovered
    from moorage_conformance.runner import select

    console = output()
    for one in select(level, only):
        console.print(f"{one.level}  {one.name}  {', '.join(one.requirements)}", soft_wrap=True)
        console.print(f"     {one.title}", style="dim", soft_wrap=True)
    if (missing := uncovered()) and not only:
        complain(f"requirements without a check: {', '.join(missing)}")


def _run(
    target: Target | None,
    *,
    level: int | None,
    only: Sequence[str],
    seed: int | None,
    soak: float,
    folder: Path | None,
    self_test: bool,
    sample: Sample | None,
    verbose: bool,
) -> int:
    import attrs

    from moorage_conformance import reporting
    from moorage_conformance.runner import Session, run, select
    from moorage_conformance.selftest import control_target

    console = output()
    with contextlib.ExitStack() as stack:
        alone = target is None
        if target is None:
            target = stack.enter_context(control_target())
        histories = None if folder is None else folder / reporting.HISTORIES
        session = Session(target, level=level, seed=seed, histories=histories)
        found: Report
        if alone:
            found = session.report()
        else:
            claimed = ", ".join(sorted(session.conditions))
            console.print(f"{target.backend.name}: {target.parsed}", style="bold", soft_wrap=True)
            console.print(f"seed {session.seed}; meets: {claimed}", style="dim", soft_wrap=True)
            progress = stack.enter_context(_progress())
            task = progress.add_task("", total=None if soak else len(select(session.level, only)))

            def tell(result: CheckResult) -> None:
                progress.update(task, advance=1, description=result.check)
                if verbose:
                    tell_check(result)

            found = run(session, only=only, soak=soak, tell=tell)
            progress.stop()
            _print(found)
        if self_test:
            found = attrs.evolve(found, mutants=_self_test(session.seed, only, sample, verbose=verbose))
            _print_mutants(found, sample)
        if folder is not None:
            reporting.write(found, folder)
            console.print(f"report: {folder / 'index.html'}", soft_wrap=True)
        return int(found.exit_code)


def _progress() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from moorage.cli.common import messages

    return Progress(
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=messages(),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


_STYLES = {
    Outcome.PASS: "green",
    Outcome.FAIL: "bold red",
    Outcome.UNKNOWN: "yellow",
    Outcome.EXEMPT: "magenta",
    Outcome.NOT_CLAIMED: "dim",
}


def tell_check(result: CheckResult) -> None:
    """A line on what one check has found."""
    from rich.text import Text

    line = Text(f"{result.outcome:<12}", style=_STYLES[result.outcome])
    line.append(f"{result.seconds:6.1f} s  {result.check}  ({', '.join(result.requirements)})", style="default")
    output().print(line, soft_wrap=True)


def _print(report: Report) -> None:
    """What came out, with all that is not a pass."""
    from rich.text import Text

    from moorage_conformance import reporting
    from moorage_conformance.checking import uncovered
    from moorage_conformance.specification import LEVELS

    console = output()
    by_name = {one.check: one for one in report.results}
    for level in range(1, report.asked + 1):
        own = [one for one in report.requirements if one.requirement.level == level]
        ran = [one for one in own if one.checks or not report.partial]
        told = [f"{sum(one.outcome is outcome for one in ran)} {outcome}" for outcome in Outcome]
        spent = sum(one.seconds for one in report.results if one.level == level)
        line = ", ".join(one for one in told if not one.startswith("0 "))
        console.print(f"level {level} {LEVELS[level]:<12} {line} in {spent:.1f} s", style="bold", soft_wrap=True)
        for one in ran:
            if one.outcome in (Outcome.PASS, Outcome.NOT_CLAIMED):
                continue
            line_of = Text(f"  {one.outcome:<8}", style=_STYLES[one.outcome])
            strength = "" if one.requirement.decides else " (decides nothing)"
            line_of.append(f"{one.requirement.id}{strength}  {one.requirement.text}", style="default")
            console.print(line_of, soft_wrap=True)
            for text in one.message.splitlines()[:12]:
                console.print(Text(f"          {shown(text)}"), soft_wrap=True)
            for name in one.checks:
                if by_name[name].outcome is not Outcome.PASS:
                    console.print(
                        Text(f"          {reporting.reproduce(report, by_name[name])}", style="cyan"), soft_wrap=True
                    )
    if missing := uncovered():
        complain(f"requirements without a check: {', '.join(missing)}")
    tone = (
        "green"
        if report.exit_code is ExitCode.CONFORMS
        else "bold red"
        if report.exit_code is ExitCode.FAILED
        else "yellow"
    )
    console.print(
        f"{reporting.verdict(report)}; level reached: {reporting.level_text(report)} ({report.seconds:.1f} s)",
        style=tone,
        soft_wrap=True,
    )


def _self_test(seed: int, only: Sequence[str], sample: Sample | None, *, verbose: bool) -> tuple[MutantResult, ...]:
    from moorage_conformance.mutants import mutants
    from moorage_conformance.selftest import chosen, self_test

    names = chosen(only, sample)
    if not names and sample is not None:
        raise InvalidArgument(f"the part {sample} has none of the broken backends that are named")
    if not names:
        raise InvalidArgument(f"{', '.join(only)} names none of the {len(mutants())} broken backends")
    with _progress() as progress:
        task = progress.add_task("", total=len(names))

        def tell(result: MutantResult) -> None:
            progress.update(task, advance=1, description=result.mutant)
            if verbose:
                output().print(
                    f"{'caught' if result.caught else 'SURVIVED':<9}{result.seconds:6.1f} s  "
                    f"{result.breaks:<14}{result.mutant}: {shown(result.message, 160)}",
                    soft_wrap=True,
                )

        return self_test(seed, only=only, sample=sample, processes=len(os.sched_getaffinity(0)), tell=tell)


def _print_mutants(report: Report, sample: Sample | None) -> None:
    console = output()
    for one in report.mutants:
        if not one.caught:
            console.print(
                f"  SURVIVED  {one.mutant} ({one.breaks}): {one.description}", style="bold red", soft_wrap=True
            )
            console.print(f"            {shown(one.message)}", soft_wrap=True)
    caught = sum(one.caught for one in report.mutants)
    score = report.mutation_score or 0.0
    console.print(
        f"mutation score: {score:.1%} ({caught} of {len(report.mutants)} broken backends caught"
        f"{'' if sample is None else f'; a sample, part {sample} of all'})",
        style="green" if score == 1.0 else "bold red",
        soft_wrap=True,
    )


def _replay(file: Path, url: str | None, hooks: str | None, folder: Path | None) -> int:
    from moorage_conformance import linearizability, timeline
    from moorage_conformance.histories import History

    history = History.load(file)
    if history.model not in linearizability.MODELS:
        raise InvalidArgument(f"{file} names the unknown model {history.model!r:.80}")
    model: linearizability.Model[Any] = linearizability.MODELS[history.model]()
    verdict = linearizability.check(history, model, least=None)
    console = output()
    console.print(
        f"{history.check or file.name}, seed {history.seed}: {len(history.operations)} operations of "
        f"{len(history.processes)} processes, judged as {history.model}: {verdict.finding}",
        style="bold",
        soft_wrap=True,
    )
    console.print(verdict.reason, markup=False, soft_wrap=True)
    drawn = (folder or file.parent) / f"{file.stem}.html"
    drawn.parent.mkdir(parents=True, exist_ok=True)
    timeline.save(history, verdict, drawn)
    console.print(f"timeline: {drawn}", soft_wrap=True)
    if url is not None:
        if not history.check:
            raise InvalidArgument(f"{file} does not say which check recorded it, so it cannot be run again")
        return _run(
            _target(url, hooks, ()),
            level=4,
            only=[history.check],
            seed=history.seed,
            soak=0.0,
            folder=folder,
            self_test=False,
            sample=None,
            verbose=True,
        )
    codes = {
        linearizability.Finding.LINEARIZABLE: ExitCode.CONFORMS,
        linearizability.Finding.VIOLATION: ExitCode.FAILED,
        linearizability.Finding.UNKNOWN: ExitCode.UNKNOWN,
    }
    return int(codes[verdict.finding])
