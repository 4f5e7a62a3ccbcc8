"""The statuses of trials and experiments, and which steps between them are legal."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeVar

from moorage.errors import InvalidArgument, shown
from moorage.filters import suggest

if TYPE_CHECKING:
    from collections.abc import Mapping


class TrialStatus(enum.StrEnum):
    """Where a trial is in its life."""

    NEW = "new"
    RESERVED = "reserved"
    SUSPENDED = "suspended"
    INTERRUPTED = "interrupted"
    COMPLETED = "completed"
    BROKEN = "broken"
    PRUNED = "pruned"


class ExperimentStatus(enum.StrEnum):
    """Where an experiment is in its life."""

    CREATED = "created"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"


_T, _E = TrialStatus, ExperimentStatus

TRIAL_TRANSITIONS: Mapping[TrialStatus, frozenset[TrialStatus]] = {
    _T.NEW: frozenset({_T.RESERVED, _T.SUSPENDED, _T.INTERRUPTED, _T.BROKEN, _T.PRUNED}),
    _T.RESERVED: frozenset({_T.SUSPENDED, _T.INTERRUPTED, _T.COMPLETED, _T.BROKEN, _T.PRUNED}),
    _T.SUSPENDED: frozenset({_T.NEW, _T.RESERVED, _T.INTERRUPTED, _T.BROKEN, _T.PRUNED}),
    _T.INTERRUPTED: frozenset({_T.NEW, _T.RESERVED, _T.SUSPENDED, _T.BROKEN, _T.PRUNED}),
    _T.BROKEN: frozenset({_T.NEW}),
    _T.COMPLETED: frozenset(),
    _T.PRUNED: frozenset(),
}
"""From each status of a trial, the legal next ones. Whatever makes a trial reserved counts as a reservation."""

EXPERIMENT_TRANSITIONS: Mapping[ExperimentStatus, frozenset[ExperimentStatus]] = {
    _E.CREATED: frozenset({_E.RUNNING, _E.STOPPED, _E.FINISHED, _E.FAILED}),
    _E.RUNNING: frozenset({_E.STOPPING, _E.STOPPED, _E.FINISHED, _E.FAILED}),
    _E.STOPPING: frozenset({_E.RUNNING, _E.STOPPED, _E.FINISHED, _E.FAILED}),
    _E.STOPPED: frozenset({_E.RUNNING, _E.FINISHED, _E.FAILED}),
    _E.FAILED: frozenset({_E.RUNNING, _E.STOPPED}),
    _E.FINISHED: frozenset(),
}
"""From each status of an experiment, the legal next ones."""

PENDING = frozenset({_T.NEW, _T.SUSPENDED, _T.INTERRUPTED})
"""Trials that wait for a worker."""

ENDED = frozenset({_T.COMPLETED, _T.BROKEN, _T.PRUNED})
"""Trials on which no more work is done."""


S = TypeVar("S", TrialStatus, ExperimentStatus)


def _named(kind: type[S], value: object, argument: str) -> S:
    try:
        return kind(value if isinstance(value, str) else "")
    except ValueError:
        known = [str(one) for one in kind]
        raise InvalidArgument(
            f"{argument} must be one of {', '.join(known)}, not {shown(value)}.{suggest(value, known)}"
        ) from None


def trial_status(value: object, argument: str = "status") -> TrialStatus:
    """The status that a value names.

    Raises:
        InvalidArgument: there is none; the message lists them.
    """
    return _named(TrialStatus, value, argument)


def experiment_status(value: object, argument: str = "status") -> ExperimentStatus:
    """The status that a value names.

    Raises:
        InvalidArgument: there is none; the message lists them.
    """
    return _named(ExperimentStatus, value, argument)
