"""A worker's view of one trial."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Literal, Self, cast

from moorage.errors import FailedUpdate, ReservationLost
from moorage.protocol.measurements import WriteMeasurements
from moorage.protocol.reservations import WriteReservations
from moorage.protocol.trials import WriteTrials
from moorage.records import Experiment, Measurement, Results, Trial, measured
from moorage.statuses import TrialStatus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from moorage.keeper import Duty
    from moorage.protocol.asking import TrialOrId

logger = logging.getLogger("moorage")

_ERROR_LIMIT = 20_000


class Run:
    """The execution of a reserved trial, as a context manager.

    Heartbeats are given in the background. When the block ends the trial is completed with its results, in one step; an
    exception makes it broken with the error text, KeyboardInterrupt (and SystemExit) interrupted. The exception of the
    user goes on, whatever else fails.

    Attributes:
        trial: as it was reserved.
    """

    def __init__(self, storage: RunTrials, trial: Trial, interval: float) -> None:
        self.trial = trial
        self._storage = storage
        self._interval = interval
        self._results = trial.results
        self._steps: dict[str, int] = {}
        self._pruned: str | None = None
        self._lost = False
        self._duty: Duty | None = None

    @property
    def lost(self) -> bool:
        """Whether the reservation was taken over, as far as heartbeats and reports have told: stop working."""
        return self._lost

    def report(self, value: object, name: str = "objective", step: int | None = None) -> None:
        """Add a measurement, stored when this returns.

        Args:
            value: a number; NaN and infinities are kept.
            name: of the figure.
            step: its place in the series; by default one more than the last of this name, from 0.

        Raises:
            ReservationLost: the trial was taken over, or recovered.
        """
        place = self._steps.get(name, -1) + 1 if step is None else step
        measurement = Measurement(name=name, step=place, value=measured(value))
        try:
            self._storage.add_measurements(self.trial, [measurement])
        except ReservationLost:
            self._lost = True
            raise
        self._steps[name] = place

    def results(self, results: Mapping[str, object] | None = None, **values: object) -> None:
        """Set the results; they are stored together with the end of the trial. A later call adds to an earlier one.

        Raises:
            InvalidType: the objective is not a number.
        """
        self._results = Results({**self._results, **(results or {}), **values}, self._results.types)

    def prune(self, reason: str = "") -> None:
        """End the trial as pruned when the block is left."""
        self._pruned = reason

    def __enter__(self) -> Self:
        self._storage.start_attempt(self.trial)
        self._duty = self._storage._keeper.add(self._beat, self._interval)
        return self

    def _beat(self) -> bool:
        try:
            self._storage.update_heartbeat(self.trial)
        except (FailedUpdate, LookupError):
            self._lost = True
            return False
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        if self._duty is not None:
            self._duty.cancel()
        if error is None:
            status = TrialStatus.COMPLETED if self._pruned is None else TrialStatus.PRUNED
            self._end(status, self._pruned or None)
            return False
        broken = isinstance(error, Exception)
        text = _describe(error) if broken else f"interrupted by {type(error).__name__}"
        try:
            self._end(TrialStatus.BROKEN if broken else TrialStatus.INTERRUPTED, text)
        except Exception as failure:  # the user's own exception matters more
            error.add_note(f"moorage: while the end of trial {self.trial.id} was stored: {failure}")
            logger.warning("the end of trial %s could not be stored: %s", self.trial.id, failure)
        return False

    def _end(self, status: TrialStatus, error: str | None) -> None:
        storage = self._storage
        try:
            if status is TrialStatus.COMPLETED or len(self._results):
                storage.push_trial_results(self.trial, self._results, status=status, error=error)
            else:
                storage.set_trial_status(self.trial, status, was=TrialStatus.RESERVED, error=error)
        except ReservationLost:
            self._lost = True
            raise
        try:
            storage.end_attempt(self.trial, status.value, error)
        except (FailedUpdate, LookupError):
            logger.warning("attempt %d of trial %s was ended by somebody else", self.trial.token, self.trial.id)


def _describe(error: BaseException) -> str:
    """The error on the first line, and where it came from below."""
    first = "".join(traceback.format_exception_only(error)).strip()
    text = f"{first}\n\n{''.join(traceback.format_exception(error))}"
    cleaned = text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    return cleaned[:_ERROR_LIMIT]


class RunTrials(WriteReservations, WriteTrials, WriteMeasurements):
    """The verb that runs a trial."""

    def running(
        self, trial: TrialOrId = None, *, experiment_uid: Experiment | str | None = None, uid: str | None = None
    ) -> Run:
        """Run a reserved trial: heartbeats, measurements, results and the end, in a ``with`` block; see `Run`.

        Args:
            trial: the record from `reserve_trial`; given an id, the reservation that is stored now is meant.
            experiment_uid: the experiment of a trial given by id.
            uid: the id, in place of ``trial``.

        Raises:
            FailedUpdate: the trial is not reserved.
        """
        reserved = self._at_hand(trial, experiment_uid, uid)
        if reserved.status is not TrialStatus.RESERVED:
            raise FailedUpdate(f"trial {reserved.id!r} is {reserved.status}; only one from reserve_trial can be run")
        timeout = self._experiment(cast("str", reserved.experiment)).heartbeat_timeout
        return Run(self, reserved, timeout / 4)
