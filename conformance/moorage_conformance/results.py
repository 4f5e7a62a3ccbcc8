"""What a run of the suite has found, and what follows from it: the level reached and the exit code."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from moorage_conformance.specification import LEVELS, Requirement, specification

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Outcome(enum.StrEnum):
    """What was found out about a check or a requirement."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    UNKNOWN = "unknown"
    EXEMPT = "exempt"
    NOT_CLAIMED = "not-claimed"


class ExitCode(enum.IntEnum):
    """How the suite ends; 0 to 5 mean what they mean to pytest."""

    CONFORMS = 0
    FAILED = 1
    INTERRUPTED = 2
    SUITE_FAILED = 3
    USAGE = 4
    NOTHING_RAN = 5
    UNKNOWN = 7


@attrs.frozen(kw_only=True)
class CheckResult:
    """What one check has found.

    Attributes:
        check: its name.
        title: what it does, in a line.
        level: of its requirements.
        requirements: which it covers.
        outcome: of the check.
        violated: which of them were shown to be broken.
        message: why the outcome is not a pass.
        seconds: how long it took.
        files: what was saved to look at.
        rounds: how often it ran; more than once in a soak.
        seed: with which it came to this outcome.
    """

    check: str
    title: str
    level: int
    requirements: tuple[str, ...]
    outcome: Outcome
    violated: tuple[str, ...] = ()
    message: str = ""
    seconds: float = 0.0
    files: tuple[Path, ...] = ()
    rounds: int = 1
    seed: int = 0


@attrs.frozen(kw_only=True)
class RequirementResult:
    """What is known of one requirement.

    Attributes:
        requirement: which.
        outcome: FAIL where a check has shown that it is broken (or that it holds although it is exempt), UNKNOWN where
            any of its checks did not come to an end or did not run.
        checks: the names of those that cover it.
        message: why the outcome is not a pass.
    """

    requirement: Requirement
    outcome: Outcome
    checks: tuple[str, ...]
    message: str = ""


@attrs.frozen(kw_only=True)
class MutantResult:
    """What became of one broken backend.

    Attributes:
        mutant: its name.
        breaks: the requirement that it breaks.
        description: how.
        caught: whether a check of that requirement has shown it.
        message: what the check said; or what was found instead.
        seconds: how long it took.
    """

    mutant: str
    breaks: str
    description: str
    caught: bool
    message: str
    seconds: float = 0.0


@attrs.frozen(kw_only=True)
class Report:
    """A run of the suite.

    Attributes:
        url: of the target, without secrets.
        backend: its name.
        asked: the level that the run was to show.
        declared: the level that the backend declares.
        conditions: which it meets, capabilities among them.
        seed: of the run.
        started: in ISO 8601, UTC.
        seconds: how long it took.
        versions: of all that took part.
        environment: the machine.
        results: of each check, in the order in which they ran.
        exemptions: links by requirement.
        partial: whether only some of the checks were chosen.
        mutants: of a self-test, where there was one.
    """

    url: str
    backend: str
    asked: int
    declared: int
    conditions: frozenset[str]
    seed: int
    started: str
    seconds: float
    versions: Mapping[str, str]
    environment: Mapping[str, str]
    results: tuple[CheckResult, ...]
    exemptions: Mapping[str, str] = attrs.field(factory=dict)
    partial: bool = False
    mutants: tuple[MutantResult, ...] = ()

    @property
    def requirements(self) -> tuple[RequirementResult, ...]:
        """What is known of each requirement up to the level asked, in the order of the specification."""
        return tuple(self._judge(one) for one in specification().values() if one.level <= self.asked)

    def _judge(self, requirement: Requirement) -> RequirementResult:
        covering = [one for one in self.results if requirement.id in one.requirements]
        outcome, message = self._found(requirement, covering)
        link = self.exemptions.get(requirement.id)
        if link is not None:
            if outcome is Outcome.FAIL:
                outcome, message = Outcome.EXEMPT, f"{message} (exempt: {link})"
            elif outcome in (Outcome.PASS, Outcome.NOT_CLAIMED) and covering:
                outcome, message = Outcome.FAIL, f"exempt ({link}), and yet it holds: remove the exemption"
        return RequirementResult(
            requirement=requirement, outcome=outcome, checks=tuple(one.check for one in covering), message=message
        )

    def _found(self, requirement: Requirement, covering: list[CheckResult]) -> tuple[Outcome, str]:
        if not self.applies(requirement):
            return Outcome.NOT_CLAIMED, f"only for backends with {requirement.condition or _needed(requirement.level)}"
        broken = next((one for one in covering if requirement.id in one.violated), None)
        if broken is not None:
            return Outcome.FAIL, broken.message
        if not covering:
            return Outcome.UNKNOWN, "no check of it has run"
        unclear = next((one for one in covering if one.outcome is not Outcome.PASS), None)
        if unclear is not None:
            return Outcome.UNKNOWN, unclear.message
        return Outcome.PASS, ""

    def applies(self, requirement: Requirement) -> bool:
        """Whether the backend meets the condition of a requirement and what its level needs."""
        return meets(requirement, self.conditions)

    @property
    def reached(self) -> int:
        """The highest level of which every MUST holds, and of all below; 0 where there is none."""
        found = dict.fromkeys(LEVELS, True)
        for one in self.requirements:
            holds = one.outcome is Outcome.PASS or (
                one.outcome is Outcome.NOT_CLAIMED and level_needs(one.requirement.level) <= self.conditions
            )
            if one.requirement.decides and not holds:
                found[one.requirement.level] = False
        reached = 0
        while reached < self.asked and found[reached + 1]:
            reached += 1
        return reached

    @property
    def exit_code(self) -> ExitCode:
        """What the process should end with."""
        if self.mutants and not self.results:
            return ExitCode.CONFORMS if self.mutation_score == 1.0 else ExitCode.SUITE_FAILED
        if not any(one.outcome is not Outcome.NOT_CLAIMED for one in self.results):
            return ExitCode.NOTHING_RAN
        if any(one.outcome is Outcome.FAIL and one.requirement.decides for one in self.requirements):
            return ExitCode.FAILED
        if any(not one.caught for one in self.mutants):
            return ExitCode.SUITE_FAILED
        return ExitCode.CONFORMS if self.reached >= self.asked else ExitCode.UNKNOWN

    @property
    def mutation_score(self) -> float | None:
        """Which share of the broken backends was caught; None without a self-test."""
        return sum(one.caught for one in self.mutants) / len(self.mutants) if self.mutants else None


def level_needs(level: int) -> frozenset[str]:
    """The conditions without which a level cannot be reached."""
    return frozenset({"shared"} if level > 1 else ()) | frozenset({"network"} if level > 3 else ())


def _needed(level: int) -> str:
    return " and ".join(sorted(level_needs(level)))


def meets(requirement: Requirement, conditions: frozenset[str]) -> bool:
    """Whether a requirement holds for backends that meet these conditions."""
    own = {requirement.condition} if requirement.condition else set()
    return own | level_needs(requirement.level) <= conditions
