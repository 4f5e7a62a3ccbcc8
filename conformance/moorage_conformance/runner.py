"""Runs checks, one after the other, each in a namespace of its own."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import random
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

import attrs

import moorage
from moorage.errors import InvalidArgument
from moorage.filters import suggest
from moorage.url import mask
from moorage_conformance.checking import Check, SuiteError, Unjudged, Violation, checks
from moorage_conformance.context import Context
from moorage_conformance.results import CheckResult, Outcome, Report, meets
from moorage_conformance.specification import requirement, specification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from moorage_conformance.target import Target


def select(level: int, only: Sequence[str] = ()) -> list[Check]:
    """The checks up to a level.

    Args:
        level: from 1 to 4.
        only: numbers of requirements, words before their numbers, or names of checks; empty for all.

    Raises:
        InvalidArgument: a word that names nothing.
    """
    known = checks()
    chosen = [one for one in known.values() if one.level <= level]
    if not only:
        return chosen
    words = {one.upper() for one in only}
    groups = {one.group for one in specification().values()}
    possible = {*specification(), *groups, *(name.upper() for name in known)}
    for word in sorted(words - possible):
        raise InvalidArgument(
            f"{word!r:.80} is neither a requirement, nor a group of them, nor a check.{suggest(word, sorted(possible))}"
        )

    def wanted(one: Check) -> bool:
        names = {one.name.upper(), *one.requirements, *(requirement(number).group for number in one.requirements)}
        return bool(names & words)

    return [one for one in chosen if wanted(one)]


def run_check(
    target: Target, check: Check, *, conditions: frozenset[str], seed: int, histories: Path | None = None
) -> CheckResult:
    """Run one check.

    Raises:
        SuiteError: the suite itself cannot go on.
    """
    result = CheckResult(
        check=check.name,
        title=check.title,
        level=check.level,
        requirements=check.requirements,
        outcome=Outcome.PASS,
        seed=seed,
    )
    if not any(meets(requirement(one), conditions) for one in check.requirements):
        condition = requirement(check.requirements[0]).condition
        why = f"only for backends with {condition}" if condition else "the backend cannot reach this level"
        return attrs.evolve(result, outcome=Outcome.NOT_CLAIMED, message=why)
    began = time.monotonic()
    error = _in_time(target, check, conditions, seed, histories)
    result = attrs.evolve(result, seconds=time.monotonic() - began)
    if error is None:
        return result
    if isinstance(error, (SuiteError, KeyboardInterrupt)):
        raise error
    if isinstance(error, Unjudged):
        return attrs.evolve(result, outcome=Outcome.UNKNOWN, message=str(error))
    if isinstance(error, Violation):
        broken: tuple[str, ...] = (error.requirement,)
        files = error.files
        message = mask(str(error))
    else:
        broken, files = check.requirements, ()
        message = mask("".join(traceback.format_exception(error)).strip())
        message = f"{message.splitlines()[-1]}\n{message}"
    exempt = all(one in target.exemptions for one in broken)
    return attrs.evolve(
        result, outcome=Outcome.EXEMPT if exempt else Outcome.FAIL, violated=broken, message=message, files=files
    )


def _in_time(
    target: Target, check: Check, conditions: frozenset[str], seed: int, histories: Path | None
) -> BaseException | None:
    """Run a check in a thread, so that a backend that hangs does not hang the suite; what it raised."""
    found: list[BaseException] = []
    contexts: list[Context] = []

    def run() -> None:
        context = Context(target, check, conditions=conditions, seed=seed, histories=histories)
        contexts.append(context)
        try:
            check.function(context)
        except BaseException as error:
            found.append(error)
        finally:
            try:
                context.close()
            except Exception as error:
                found.append(error)

    thread = threading.Thread(target=run, daemon=True, name=f"check {check.name}")
    thread.start()
    thread.join(check.limit)
    if thread.is_alive():
        frame = sys._current_frames().get(thread.ident or 0)
        where = "".join(traceback.format_stack(frame)[-6:]) if frame is not None else ""
        for context in contexts:
            context.kill()
        return Violation(check.requirements[0], f"did not end within {check.limit:g} s; it is at\n{where}")
    return found[0] if found else None


class Session:
    """A run of the suite in progress: remembers what each check has found, and reports it.

    Args:
        target: what is tested.
        level: which is to be shown; by default the one that the backend declares.
        seed: by default a random one; the report names it.
        histories: where failing histories are saved.

    Raises:
        MoorageError: the URL cannot be opened at all.
    """

    def __init__(
        self, target: Target, *, level: int | None = None, seed: int | None = None, histories: Path | None = None
    ) -> None:
        self.target = target
        self.level = target.backend.level if level is None else level
        self.seed = random.SystemRandom().randrange(2**31) if seed is None else seed
        self.histories = histories
        self.results: dict[str, CheckResult] = {}
        self._started = datetime.datetime.now(datetime.UTC)
        self._began = time.monotonic()
        self.conditions = target.conditions()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def run(self, check: Check, *, further: int = 0) -> CheckResult:
        """Run a check; in the report it has the worst result of all its rounds.

        Args:
            check: which.
            further: added to the seed, for another round.
        """
        result = run_check(
            self.target, check, conditions=self.conditions, seed=self.seed + further, histories=self.histories
        )
        self.results[check.name] = _worse(self.results.get(check.name), result)
        return result

    def report(self, *, partial: bool = False) -> Report:
        """What was found so far.

        Args:
            partial: whether only some of the checks were chosen.
        """
        backend = self.target.backend
        return Report(
            url=str(self.target.parsed),
            backend=backend.name,
            asked=self.level,
            declared=backend.level,
            conditions=self.conditions,
            seed=self.seed,
            started=self._started.isoformat(timespec="seconds"),
            seconds=self.seconds,
            versions=versions(),
            environment=environment(),
            results=tuple(self.results.values()),
            exemptions=dict(self.target.exemptions),
            partial=partial,
        )


def run(
    session: Session,
    *,
    only: Sequence[str] = (),
    soak: float = 0.0,
    tell: Callable[[CheckResult], None] = lambda result: None,
) -> Report:
    """Run the checks up to the level of a session.

    Args:
        session: a new one.
        only: see `select`.
        soak: seconds for which all is repeated, each round with another seed; 0 for one round.
        tell: called with each result as it comes.

    Raises:
        InvalidArgument: ``only`` names nothing that there is.
        SuiteError: the suite itself cannot go on.
    """
    chosen = select(session.level, only)
    rounds = 0
    while chosen:
        for one in chosen:
            tell(session.run(one, further=rounds))
            if rounds and session.seconds >= soak:
                break
        rounds += 1
        if session.seconds >= soak:
            break
    return session.report(partial=bool(only))


_RANK = (Outcome.NOT_CLAIMED, Outcome.PASS, Outcome.EXEMPT, Outcome.UNKNOWN, Outcome.FAIL)


def _worse(before: CheckResult | None, after: CheckResult) -> CheckResult:
    """The result of several rounds is that of the worst."""
    if before is None:
        return after
    worse = after if _RANK.index(after.outcome) > _RANK.index(before.outcome) else before
    return attrs.evolve(worse, rounds=before.rounds + 1, seconds=before.seconds + after.seconds)


def versions() -> dict[str, str]:
    """The versions of Python, Moorage and the installed distributions that its plugins come from."""
    found = {"python": platform.python_version(), "moorage": moorage.__version__}
    for name in sorted(_distributions()):
        found.setdefault(name, importlib.metadata.version(name))
    return found


def _distributions() -> Iterable[str]:
    wanted = {"hypothesis", "sqlalchemy"}
    for entry in importlib.metadata.entry_points(group="moorage"):
        if entry.dist is not None:
            wanted.add(entry.dist.name.lower())
    return {name for name in wanted if _is_installed(name)}


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def environment() -> Mapping[str, str]:
    """The machine, as far as it matters."""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "processors": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
    }
