"""Attempts: the executions of a trial."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import attrs

from moorage import mapping
from moorage.codec import Plain, encode_time
from moorage.driver import Document, Increment
from moorage.errors import AttemptNotFound, FailedUpdate, OutcomeUnknown
from moorage.filters import Filter, Order, equal
from moorage.protocol.base import Base
from moorage.protocol.resources import resource_name
from moorage.protocol.transitions import Transitions
from moorage.records import Attempt, Experiment, Resource, Trial, check_text, utcnow
from moorage.schema import ATTEMPTS, TRIALS
from moorage.statuses import TrialStatus
from moorage.waist import write_id

if TYPE_CHECKING:
    from moorage.protocol.asking import TrialOrId


class ReadAttempts(Base):
    """The verb that reads attempts."""

    def fetch_attempts(
        self,
        trial: TrialOrId = None,
        experiment_uid: Experiment | str | None = None,
        *,
        uid: str | None = None,
    ) -> list[Attempt]:
        """The executions of a trial, the first one first.

        One whose worker died before it noted the end has the outcome that the trial tells: its status, or ``lost``.
        """
        experiment, identifier = self._trial_key(trial, uid, experiment_uid)
        found = self._waist.find(ATTEMPTS, equal(experiment=experiment, trial=identifier), [Order("number")])
        attempts = [mapping.ATTEMPTS.record(one) for one in found]
        if all(one.outcome is not None for one in attempts):
            if not attempts:
                self._trial_document(experiment, identifier)
            return attempts
        stored = mapping.trial_record(self._trial_document(experiment, identifier))
        return [_told_by_trial(one, stored) if one.outcome is None else one for one in attempts]


class WriteAttempts(ReadAttempts, Transitions):
    """The verbs that note the begin and the end of an execution."""

    def start_attempt(
        self,
        trial: TrialOrId = None,
        resource: Resource | str | None = None,
        *,
        experiment_uid: Experiment | str | None = None,
        uid: str | None = None,
    ) -> Attempt:
        """The attempt that began with the reservation of a trial; its number is the reservation's token.

        `reserve_trial` has noted it already; this verb adds the resource, and serves who reserved by another way.

        Args:
            trial: the record from `reserve_trial`; given an id, the reservation that is stored now is meant.
            resource: what it runs on; by default the trial's.
            experiment_uid: the experiment of a trial given by id.
            uid: the id, in place of ``trial``.

        Raises:
            ReservationLost: the trial was taken over, or recovered, or is not reserved.
        """
        reserved = self._at_hand(trial, experiment_uid, uid)
        name = resource_name(resource)
        experiment = cast("str", reserved.experiment)
        key = mapping.trial_key(experiment, reserved.id)
        identifier = mapping.attempt_id(key, reserved.token)
        write, other = write_id(), write_id()

        def steps() -> Document:
            held = self._hold((experiment, reserved.id), self._fence(reserved, holder=True), 0, write)
            document = mapping.attempt_document(held, write=other)
            if name is not None:
                document.body["resource"] = name
            if not self._waist.insert(ATTEMPTS, [document]):
                return document  # the reservation was made by a release that did not note it
            stored = self._waist.get(ATTEMPTS, identifier)
            if name is None or stored is None:
                return stored or document
            return self._waist.change_one(ATTEMPTS, identifier, (), {"resource": name}, write=other) or stored

        return mapping.ATTEMPTS.record(self._waist.together(steps, settled=False))

    def _at_hand(self, trial: TrialOrId, experiment_uid: Experiment | str | None, uid: str | None) -> Trial:
        """The record that the caller has, or the stored one where an id is given."""
        key = self._trial_key(trial, uid, experiment_uid)
        if isinstance(trial, Trial):
            return trial if trial.experiment is not None else attrs.evolve(trial, experiment=key[0])
        return mapping.trial_record(self._trial_document(*key))

    def _hold(self, key: tuple[str, str], fence: Filter, measured: int, write: str) -> Document:
        """The trial, changed under the fence, so that to the end of the transaction nobody takes it over.

        A mere look would not do: somebody else could end the reservation between it and the write that it allows.

        Args:
            key: the ids of the experiment and the trial.
            fence: what only the holder of the reservation meets; empty where anybody may.
            measured: how many measurements are added: they are counted on the trial.
            write: the id of this mutation.

        Raises:
            ReservationLost: it does not match the fence.
            TrialNotFound: there is no such trial.
        """
        held = self._waist.change_one(
            TRIALS, mapping.trial_key(*key), fence, {"measured": Increment(measured)}, write=write
        )
        if held is None:
            stored = mapping.trial_record(self._trial_document(*key))
            raise self._lost_by(stored, next((one.value for one in fence if one.field == "token"), "none"))
        return held

    def end_attempt(
        self,
        trial: TrialOrId = None,
        outcome: str = TrialStatus.COMPLETED,
        error: str | None = None,
        *,
        experiment_uid: Experiment | str | None = None,
        uid: str | None = None,
    ) -> None:
        """Note how the execution of a trial ended, for a trial that stays reserved, or with the reason.

        Whatever ends a reservation notes it already, as the status that the trial then has; the same again is no error.

        Args:
            trial: the record from `reserve_trial`; given an id, the last execution is meant.
            outcome: the status that the trial came to, or any other word.
            error: why it ended badly.
            experiment_uid: the experiment of a trial given by id.
            uid: the id, in place of ``trial``.

        Raises:
            AttemptNotFound: it was not started.
            FailedUpdate: it has ended already, in another way.
        """
        ended_trial = self._at_hand(trial, experiment_uid, uid)
        name, number = ended_trial.id, ended_trial.token
        identifier = mapping.attempt_id(mapping.trial_key(cast("str", ended_trial.experiment), name), number)
        ended: dict[str, Plain] = {
            "outcome": check_text("outcome", outcome),
            "error": None if error is None else check_text("error", error, limit=None, empty=True),
            "ended": encode_time(utcnow()),
        }
        unknown = None
        try:
            if self._waist.patch_one(ATTEMPTS, identifier, equal(outcome=None), ended):
                return
        except OutcomeUnknown as failure:  # what is stored now tells
            unknown = failure
        stored = self._waist.get(ATTEMPTS, identifier)
        if stored is None:
            raise AttemptNotFound(f"no attempt {number} of trial {name!r} was started")
        if stored.body["outcome"] != ended["outcome"]:
            if unknown is not None:
                raise unknown
            raise FailedUpdate(f"attempt {number} of trial {name!r} has ended already: {stored.body['outcome']}")
        if error is not None and stored.body.get("error") is None:  # the end was noted before, without the reason
            self._waist.patch_one(ATTEMPTS, identifier, equal(error=None), {"error": ended["error"]})


def _told_by_trial(attempt: Attempt, trial: Trial) -> Attempt:
    """An attempt that nobody ended, as the trial tells what became of it."""
    if attempt.number < trial.token:
        return attrs.evolve(attempt, outcome="lost")
    if trial.status is TrialStatus.RESERVED:
        return attempt
    return attrs.evolve(attempt, outcome=trial.status.value, error=trial.error, ended=trial.end_time)
