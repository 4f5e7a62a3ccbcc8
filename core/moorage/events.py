"""What observers are told of: see `moorage.plugins.HookSpecifications.moorage_event`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from moorage.records import Experiment
    from moorage.statuses import TrialStatus


@attrs.frozen(kw_only=True)
class Event:
    """Something that was stored."""


@attrs.frozen(kw_only=True)
class ExperimentCreated(Event):
    """An experiment was created."""

    experiment: Experiment


@attrs.frozen(kw_only=True)
class TrialStatusChanged(Event):
    """A trial was registered or took another status.

    Attributes:
        experiment, trial: the ids.
        before: None where the trial was registered, or where the status before is not known (``force=True``).
        after: the status now.
    """

    experiment: str
    trial: str
    before: TrialStatus | None
    after: TrialStatus


@attrs.frozen(kw_only=True)
class AlgorithmLockEvent(Event):
    """Something happened to the algorithm lock of an experiment.

    Attributes:
        experiment: its id.
        holder: who holds, or held, the lock.
        token: the fencing token.
    """

    experiment: str
    holder: str
    token: int


@attrs.frozen(kw_only=True)
class AlgorithmLockAcquired(AlgorithmLockEvent):
    """The lock was acquired."""


@attrs.frozen(kw_only=True)
class AlgorithmLockReleased(AlgorithmLockEvent):
    """The lock was released by its holder."""


@attrs.frozen(kw_only=True)
class AlgorithmLockLost(AlgorithmLockEvent):
    """The holder found that it no longer holds the lock."""
