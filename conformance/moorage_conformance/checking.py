"""Checks: functions that try to show that a backend breaks a requirement, and the registry of them."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING, TypeAlias

import attrs

from moorage.errors import InvalidArgument
from moorage_conformance.specification import requirement, specification

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from moorage_conformance.context import Context

    CheckFunction: TypeAlias = Callable[[Context], None]


class Violation(Exception):
    """The backend breaks a requirement.

    Attributes:
        requirement: its number.
        files: what was saved to look at: a history, its timeline.
    """

    def __init__(self, requirement: str, message: str, files: Sequence[Path] = ()) -> None:
        super().__init__(message)
        self.requirement = requirement
        self.files = tuple(files)


class Unjudged(Exception):
    """Nobody knows whether the backend meets it: too little load, a spent budget, a tool or a hook that is missing."""


class SuiteError(Exception):
    """The suite itself cannot go on; it says nothing of the backend."""


@attrs.frozen(kw_only=True)
class Check:
    """One check.

    Attributes:
        name: of the function, with dashes; what ``--only`` takes.
        requirements: the numbers that it covers, all of one level.
        function: does it.
        limit: seconds after which a backend counts as hanging.
    """

    name: str
    requirements: tuple[str, ...]
    function: CheckFunction = attrs.field(repr=False)
    limit: float

    @property
    def level(self) -> int:
        """Of its requirements."""
        return requirement(self.requirements[0]).level

    @property
    def title(self) -> str:
        """What it does, in a line."""
        return (self.function.__doc__ or self.name).strip().splitlines()[0]

    @property
    def group(self) -> str:
        """The word before the number of its first requirement."""
        return requirement(self.requirements[0]).group


_checks: dict[str, Check] = {}


def check(*requirements: str, limit: float = 120.0) -> Callable[[CheckFunction], CheckFunction]:
    """Register a function as the check of requirements.

    It gets a `Context`, and says what it finds through it; an exception that it does not expect is a violation of all
    that it covers, so most checks cover one requirement.

    Args:
        *requirements: their numbers; the first one names the group.
        limit: seconds after which a backend counts as hanging; generous, for slow machines.
    """
    if len({requirement(one).level for one in requirements}) != 1:
        raise InvalidArgument(f"a check covers requirements of one level, not {requirements}")

    def register(function: CheckFunction) -> CheckFunction:
        name = function.__name__.replace("_", "-")
        if name in _checks and _checks[name].function.__module__ != function.__module__:
            raise InvalidArgument(f"there are two checks {name!r}")
        _checks[name] = Check(name=name, requirements=requirements, function=function, limit=limit)
        return function

    return register


@functools.cache
def checks() -> Mapping[str, Check]:
    """All checks by name, ordered by level and then as they stand in the code."""
    from moorage_conformance import checks as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_checks.items(), key=lambda item: item[1].level))


def uncovered() -> list[str]:
    """The requirements that no check covers; there must be no MUST among them."""
    covered = {number for one in checks().values() for number in one.requirements}
    return [number for number in specification() if number not in covered]
