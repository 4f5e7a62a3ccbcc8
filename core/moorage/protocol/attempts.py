"""Attempts: the executions of a trial."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import attrs

from moorage import mapping
from moorage.codec import Plain, encode_time
from moorage.errors import AttemptNotFound, FailedUpdate, ReservationLost
from moorage.filters import Order, equal
from moorage.protocol.base import Base
from moorage.protocol.resources import resource_name
from moorage.records import Attempt, Experiment, Resource, Trial, check_text, utcnow
from moorage.schema import ATTEMPTS, TRIALS
from moorage.statuses import TrialStatus

if TYPE_CHECKING:
    from moorage.protocol.asking import TrialOrId


def attempt_id(trial_key: str, number: int) -> str:
    """The id of an execution: that of the trial's document, and the token of the reservation."""
    return f"{trial_key}#{number}"


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


class WriteAttempts(ReadAttempts):
    """The verbs that note the begin and the end of an execution."""

    def start_attempt(
        self,
        trial: TrialOrId = None,
        resource: Resource | str | None = None,
        *,
        experiment_uid: Experiment | str | None = None,
        uid: str | None = None,
    ) -> Attempt:
        """Note that the execution of a reserved trial begins; its number is the reservation's token.

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
        key = mapping.trial_key(cast("str", reserved.experiment), reserved.id)
        attempt = Attempt(
            id=attempt_id(key, reserved.token),
            experiment=cast("str", reserved.experiment),
            trial=reserved.id,
            number=reserved.token,
            worker=reserved.worker,
            resource=reserved.resource if name is None else name,
        )

        def insert() -> None:
            self._check_reserved(reserved)
            self._waist.insert(ATTEMPTS, [mapping.ATTEMPTS.document(attempt, write=None)])

        self._waist.together(insert)
        return attempt

    def _at_hand(self, trial: TrialOrId, experiment_uid: Experiment | str | None, uid: str | None) -> Trial:
        """The record that the caller has, or the stored one where an id is given."""
        key = self._trial_key(trial, uid, experiment_uid)
        if isinstance(trial, Trial):
            return trial if trial.experiment is not None else attrs.evolve(trial, experiment=key[0])
        return mapping.trial_record(self._trial_document(*key))

    def _check_reserved(self, trial: Trial) -> None:
        key = mapping.trial_key(cast("str", trial.experiment), trial.id)
        wanted = equal(id=key, status=TrialStatus.RESERVED.value, token=trial.token)
        if not self._waist.count(TRIALS, wanted):
            stored = self._trial_document(cast("str", trial.experiment), trial.id).body
            raise ReservationLost(
                f"trial {trial.id!r} is no longer reserved by this caller (reservation {trial.token}): it is "
                f"{stored['status']}, reservation {stored.get('token')}, worker {stored.get('worker')!r}. Nothing was "
                "written; stop working on it"
            )

    def end_attempt(
        self,
        trial: TrialOrId = None,
        outcome: str = TrialStatus.COMPLETED,
        error: str | None = None,
        *,
        experiment_uid: Experiment | str | None = None,
        uid: str | None = None,
    ) -> None:
        """Note how the execution of a trial ended.

        Args:
            trial: the record from `reserve_trial`; given an id, the last execution is meant.
            outcome: the status that the trial came to, or any other word.
            error: why it ended badly.
            experiment_uid: the experiment of a trial given by id.
            uid: the id, in place of ``trial``.

        Raises:
            AttemptNotFound: it was not started.
            FailedUpdate: it has ended already.
        """
        ended_trial = self._at_hand(trial, experiment_uid, uid)
        name, number = ended_trial.id, ended_trial.token
        identifier = attempt_id(mapping.trial_key(cast("str", ended_trial.experiment), name), number)
        ended: dict[str, Plain] = {
            "outcome": check_text("outcome", outcome),
            "error": None if error is None else check_text("error", error, limit=None, empty=True),
            "ended": encode_time(utcnow()),
        }
        if self._waist.patch_one(ATTEMPTS, identifier, equal(outcome=None), ended):
            return
        stored = self._waist.get(ATTEMPTS, identifier)
        if stored is None:
            raise AttemptNotFound(f"no attempt {number} of trial {name!r} was started")
        raise FailedUpdate(f"attempt {number} of trial {name!r} has ended already: {stored.body['outcome']}")


def _told_by_trial(attempt: Attempt, trial: Trial) -> Attempt:
    """An attempt that nobody ended, as the trial tells what became of it."""
    if attempt.number < trial.token:
        return attrs.evolve(attempt, outcome="lost")
    if trial.status is TrialStatus.RESERVED:
        return attempt
    return attrs.evolve(attempt, outcome=trial.status.value, error=trial.error, ended=trial.end_time)
