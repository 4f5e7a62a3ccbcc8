"""A worker's view of one trial."""

from __future__ import annotations

import logging
import time
import traceback
from typing import TYPE_CHECKING, Literal, Self, cast

from moorage import mapping
from moorage.errors import FailedUpdate, MoorageError, NotFound, ReservationLost, Unavailable
from moorage.filters import equal
from moorage.protocol.asking import VISIBLE
from moorage.protocol.interruption import Interruption, uninterrupted
from moorage.protocol.measurements import WriteMeasurements
from moorage.protocol.reservations import WriteReservations
from moorage.protocol.trials import WriteTrials
from moorage.records import Experiment, Measurement, Results, Trial, measured, utcnow
from moorage.schema import EXPERIMENTS, TRIALS
from moorage.statuses import TrialStatus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from moorage.filters import Filter
    from moorage.keeper import Duty
    from moorage.protocol.asking import TrialOrId

logger = logging.getLogger("moorage")

_ERROR_LIMIT = 20_000

LOOK = 0.5
"""Seconds between two looks at whether a stop was requested, where nothing else has looked meanwhile."""


class Run:
    """The execution of a reserved trial, as a context manager.

    Heartbeats are given in the background. When the block ends the trial is completed with its results, in one step; an
    exception makes it broken with the error text; KeyboardInterrupt, SystemExit and SIGTERM interrupted. The exception
    of the user goes on, whatever else fails. Where the results cannot be stored, the trial ends broken with the reason.

    Attributes:
        trial: as it was reserved.
    """

    def __init__(
        self, storage: RunTrials, trial: Trial, experiment: Experiment, interval: float | None, *, sigterm: bool
    ) -> None:
        self.trial = trial
        self._storage = storage
        self._experiment = experiment
        self._interval = interval
        self._results = Results()
        self._steps: dict[str, int] = {}
        self._pruned: str | None = None
        self._lost = False
        self._stop = trial.stop_requested is not None
        self._looked = 0.0
        self._duty: Duty | None = None
        self._interruption = Interruption(sigterm=sigterm)

    def __repr__(self) -> str:
        """Which trial, and by which reservation."""
        trial = self.trial
        return f"<Run of trial {trial.id} (number {trial.number}), attempt {trial.token}, of {self._experiment.name!r}>"

    @property
    def lost(self) -> bool:
        """Whether the reservation was taken over, as far as heartbeats and reports have told: stop working."""
        return self._lost

    @property
    def stop_requested(self) -> bool:
        """Whether somebody asked this trial, or all of its experiment, to stop.

        Each report and heartbeat tells; where none did within `LOOK` seconds, the storage is asked.
        """
        now = time.monotonic()
        if not self._stop and now - self._looked > LOOK:
            self._looked = now
            stored = self._storage._waist.get(EXPERIMENTS, self._experiment.id)
            self._stop = stored is None or stored.body.get("stop_requested") is not None
            if not self._stop:
                trial = self._storage.get_trial(self.trial)
                self._stop = trial.stop_requested is not None and trial.token == self.trial.token
        return self._stop

    def report(self, value: object, name: str = "objective", step: int | None = None) -> None:
        """Add a measurement, stored when this returns.

        Args:
            value: a number; NaN and infinities are kept.
            name: of the figure.
            step: its place in the series; by default one more than the last of this name, from 0.

        Raises:
            InvalidType: the value is not a number.
            ReservationLost: the trial was taken over, or recovered.
        """
        place = self._steps.get(name, -1) + 1 if step is None else step
        measurement = Measurement(name=name, step=place, value=measured(value))
        key = (cast("str", self.trial.experiment), self.trial.id)
        document = mapping.measurement_document(measurement, *key, self.trial.token)
        try:
            held = self._storage._insert_measurements(key, self._fence(), [document])
        except ReservationLost:
            self._lost = True
            raise
        self._stop = self._stop or held.body.get("stop_requested") is not None
        self._steps[name] = measurement.step

    def _fence(self) -> Filter:
        return equal(token=self.trial.token, status=TrialStatus.RESERVED.value)

    def results(self, results: Mapping[str, object] | None = None, **values: object) -> None:
        """Set the results; they are stored together with the end of the trial. A later call adds to an earlier one.

        Raises:
            EncodingError: a value cannot be stored; the message names it, and what was set before stays.
            InvalidType: the objective is not a number.
        """
        merged = Results({**self._results, **(results or {}), **values}, self._results.types)
        mapping.result_fields(merged)
        self._results = merged

    def prune(self, reason: str = "") -> None:
        """End the trial as pruned when the block is left."""
        self._pruned = reason

    @uninterrupted
    def __enter__(self) -> Self:
        try:
            self._interruption.begin()
            if self._interval is not None:
                self._duty = self._storage._keeper.add(self._beat, self._interval)
            self._interruption.allow()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _beat(self) -> bool:
        try:
            beaten = self._storage.update_heartbeat(self.trial)
        except (FailedUpdate, LookupError):
            self._lost = True
            return False
        self._stop = self._stop or beaten.stop_requested is not None
        return True

    @uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self._interruption.hold()
        try:
            if self._duty is not None:
                self._duty.cancel()
            self._leave(error)
        finally:
            self._interruption.end()
        return False

    def _leave(self, error: BaseException | None) -> None:
        if error is None:
            status = TrialStatus.COMPLETED if self._pruned is None else TrialStatus.PRUNED
            self._end(status, self._pruned or None)
            return
        text = _describe(error)
        status, outcome = TrialStatus.BROKEN, None
        try:
            if not isinstance(error, Exception):
                status, text, outcome = self._interrupted(error)
            self._end(status, text, outcome)
        except Exception as failure:  # the user's own exception matters more
            error.add_note(f"moorage: while the end of trial {self.trial.id} was stored: {failure}")
            logger.warning("the end of trial %s could not be stored: %s", self.trial.id, failure)

    def _interrupted(self, error: BaseException) -> tuple[TrialStatus, str, str | None]:
        """What becomes of a trial whose worker is to end; the status, the reason, and the outcome of the attempt.

        It is handed out again. But code that ends its process each time must not do so for ever, so ends that nobody
        asked for from outside count as attempts that came to no end.
        """
        text = f"interrupted by {self._interruption.told(error)}"
        if self._interruption.from_outside(error):
            return TrialStatus.INTERRUPTED, text, "stopped" if self._stop else None
        text = f"{text}: {error}" if str(error) else text
        document = self._storage._trial_document(cast("str", self.trial.experiment), self.trial.id)
        status, text = self._storage._after_loss(self._experiment, document, text, "exited")
        return status, text, "exited"

    def _end(self, status: TrialStatus, error: str | None, outcome: str | None = None) -> None:
        try:
            self._storage.push_trial_results(self.trial, self._results, status=status, error=error, outcome=outcome)
        except ReservationLost:
            self._lost = True
            raise
        except (FailedUpdate, NotFound, Unavailable):
            raise
        except MoorageError as failure:
            self._end_broken(status, failure)
            raise

    def _end_broken(self, status: TrialStatus, failure: MoorageError) -> None:
        """End the trial though what it came to could not be stored: otherwise it would be run again and again.

        What is small enough for every storage is kept: the objective.
        """
        kept = {name: self._results[name] for name, kind in self._results.types.items() if kind == "objective"}
        text = f"it was {status}, but its end could not be stored: {type(failure).__name__}: {failure}"[:_ERROR_LIMIT]
        try:
            self._storage.push_trial_results(self.trial, kept, status=TrialStatus.BROKEN, error=text)
        except MoorageError as again:
            failure.add_note(f"moorage: and trial {self.trial.id} could not be marked as broken: {again}")


def _describe(error: BaseException) -> str:
    """The error on the first line, and where it came from below."""
    first = "".join(traceback.format_exception_only(error)).strip()
    text = f"{first}\n\n{''.join(traceback.format_exception(error))}"
    cleaned = text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    return cleaned[:_ERROR_LIMIT]


class RunTrials(WriteReservations, WriteTrials, WriteMeasurements):
    """The verb that runs a trial."""

    def running(
        self,
        trial: TrialOrId = None,
        *,
        experiment_uid: Experiment | str | None = None,
        uid: str | None = None,
        sigterm: bool = True,
    ) -> Run:
        """Run a reserved trial: heartbeats, measurements, results and the end, in a ``with`` block; see `Run`.

        Args:
            trial: the record from `reserve_trial`; given an id, the reservation that is stored now is meant.
            experiment_uid: the experiment of a trial given by id.
            uid: the id, in place of ``trial``.
            sigterm: in the main thread, and where the process has no handler of its own: let SIGTERM, by which SLURM,
                Docker and Kubernetes end a job, interrupt the trial and end the process with the code 143.

        Raises:
            FailedUpdate: the trial is not reserved.
            ReservationLost: the trial was taken over, or recovered.
        """
        reserved = self._at_hand(trial, experiment_uid, uid)
        if reserved.status is not TrialStatus.RESERVED:
            raise FailedUpdate(f"trial {reserved.id!r} is {reserved.status}; only one from reserve_trial can be run")
        stored = self._trial_document(cast("str", reserved.experiment), reserved.id)
        if stored.body.get("status") != TrialStatus.RESERVED.value or stored.body.get("token") != reserved.token:
            raise self._lost_by(mapping.trial_record(stored), reserved.token)
        experiment = self._experiment(cast("str", reserved.experiment))
        timeout = experiment.heartbeat_timeout
        return Run(self, reserved, experiment, None if timeout is None else timeout / 4, sigterm=sigterm)

    def request_stop(
        self,
        stopped: Experiment | Trial | str,
        *,
        experiment_uid: Experiment | str | None = None,
    ) -> None:
        """Ask the workers of an experiment, or the worker of one trial, to stop: `Run.stop_requested` tells them.

        An experiment that was asked to stop hands out nothing any more; `start_experiment` takes the request back, and
        so does the next reservation of a trial. Nothing is interrupted by force. Asking again is fine.

        Args:
            stopped: the record of an experiment or a trial, or the id of an experiment; with ``experiment_uid`` the id
                of a trial.
            experiment_uid: the experiment of a trial given by id.

        Raises:
            ExperimentNotFound, TrialNotFound: there is none.
        """
        now = mapping.time_or_none(utcnow())
        if isinstance(stopped, Trial) or experiment_uid is not None:
            key = self._trial_key(cast("Trial | str", stopped), None, experiment_uid)
            if not self._waist.patch_one(TRIALS, mapping.trial_key(*key), (), {"stop_requested": now}):
                self._trial_document(*key)
            return
        identifier = self._experiment_id(stopped, None)
        if not self._waist.patch_one(EXPERIMENTS, identifier, VISIBLE, {"stop_requested": now}):
            self._require_experiment(identifier)
