"""Reservations: a pending trial is handed to one worker, who gives heartbeats, and comes back when that one dies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from moorage import mapping
from moorage.codec import Plain, encode_time
from moorage.errors import FailedUpdate, IllegalTransition, MissingArguments, TrialNotFound
from moorage.filters import Filter, Order, equal
from moorage.lock import process_name
from moorage.protocol.asking import IN_QUEUE, VISIBLE, ExperimentOrId, TrialOrId
from moorage.protocol.counters import Counters
from moorage.protocol.registration import HANDING_OUT, places
from moorage.protocol.resources import resource_name
from moorage.protocol.transitions import Transitions
from moorage.protocol.trials import ReadTrials
from moorage.records import Experiment, Resource, Results, Trial, check_number, check_text, utcnow
from moorage.schema import ATTEMPTS, EXPERIMENTS, TRIALS
from moorage.statuses import PENDING, TRIAL_TRANSITIONS, ExperimentStatus, TrialStatus, trial_status
from moorage.waist import write_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from moorage.driver import Document, Increment


_UNENDED = ("lost", "exited")
"""What an attempt came to that ended without its user's code having ended the trial."""


class ReadReservations(ReadTrials):
    """The verbs that read what is reserved."""

    def fetch_lost_trials(
        self, experiment: ExperimentOrId = None, *, uid: str | None = None, timeout: float | None = None
    ) -> list[Trial]:
        """The reserved trials that gave no heartbeat within the experiment's ``heartbeat_timeout``.

        One without any heartbeat counts as lost. Where the backend has no clock that its users share, a trial counts
        as lost only after this storage has watched it for that long.

        Args:
            experiment: the record or its id.
            uid: the id, in place of ``experiment``.
            timeout: in place of the experiment's ``heartbeat_timeout``, in seconds.
        """
        stored = self._experiment(self._experiment_id(experiment, uid))
        return [mapping.trial_record(one) for one, _ in self._lost(stored, timeout)]

    def _lost(self, experiment: Experiment, timeout: float | None = None) -> list[tuple[Document, float]]:
        limit = experiment.heartbeat_timeout if timeout is None else check_number("timeout", timeout, least=0)
        if limit is None:
            return []
        reserved = equal(experiment=experiment.id, status=TrialStatus.RESERVED.value)
        silent = self._leases.silent(limit)
        found = {one.id: one for some in silent for one in self._waist.find(TRIALS, (*reserved, *some))}
        queued = sorted(found.values(), key=lambda one: cast("int", one.body["sequence"]))
        aged = [(one, self._leases.age(one)) for one in queued]
        return [(one, age) for one, age in aged if age > limit]


class WriteReservations(ReadReservations, Transitions, Counters):
    """The verbs that reserve, hold and end."""

    def reserve_trial(
        self,
        experiment: ExperimentOrId = None,
        worker: str | None = None,
        resource: Resource | str | None = None,
        *,
        uid: str | None = None,
        trial: TrialOrId = None,
        recover: bool = True,
    ) -> Trial | None:
        """Hand the first pending trial of the queue to this worker, and to nobody else; None when there is none.

        Whoever reserves must give heartbeats (`running` does): without one for the experiment's ``heartbeat_timeout``,
        the trial counts as lost. When nothing is pending, lost trials are recovered first, and handed out again. An
        experiment that has ended, that was asked to stop, or whose ``max_broken`` is reached hands out nothing; nor one
        of which ``max_trials`` are completed or reserved (more may wait: it was lowered, or a broken or pruned trial is
        new again). These are counted in the step that reserves, so however many reserve at once, none gets one too
        many; a repair that sets the status to reserved is not refused.

        The execution is noted as an attempt, and the experiment as running, in the same step.

        Args:
            experiment: the record or its id.
            worker: who runs it; by default the host's name and the process id.
            resource: what it runs on, for the record.
            uid: the id of the experiment, in place of ``experiment``.
            trial: this one, the record or its id, in place of the first; None where it is not pending.
            recover: whether to look for lost trials when nothing is pending.

        Raises:
            ExperimentNotFound: there is no such experiment.
            TrialNotFound: there is no such trial.
        """
        if isinstance(trial, Trial) and experiment is None and uid is None:
            uid = trial.experiment
        identifier = self._experiment_id(experiment, uid)
        name = process_name() if worker is None else check_text("worker", worker)
        place = resource_name(resource)
        if trial is not None:
            key = mapping.trial_key(*self._trial_key(trial, None, identifier))
            reserved = self._claim(identifier, equal(id=key, experiment=identifier, pending=True), name, place)
            if reserved is None and self._waist.get(TRIALS, key) is None:
                raise TrialNotFound(
                    f"experiment {identifier!r} has no trial {trial.id if isinstance(trial, Trial) else trial!r}"
                )
            return reserved
        wanted = equal(experiment=identifier, pending=True)
        reserved = self._claim(identifier, wanted, name, place)
        if reserved is None and recover and self.recover_lost_trials(identifier):
            reserved = self._claim(identifier, wanted, name, place)
        return reserved

    def _claim(self, experiment: str, wanted: Filter, worker: str, resource: str | None) -> Trial | None:
        write, other, locking = write_id(), write_id(), write_id()
        changes: dict[str, Plain | Increment] = {**self._entering(TrialStatus.RESERVED), "worker": worker}
        if resource is not None:
            changes["resource"] = resource
        mark = equal(experiment=experiment, status=TrialStatus.RESERVED.value)

        def steps() -> Document | None:
            stored = self._experiment_document(experiment).body
            if not self._waist.repeated and not self._hands_out(experiment, stored):
                return None
            limit = self._limit_in_reach(experiment, stored)
            if limit is not None:
                if self._waist.transactional:
                    self._numbers(experiment, 0, locking)  # who reserves or registers waits here, and counts after us
                if not self._waist.repeated and self._handed_out(experiment) >= limit:
                    return None
            found = self._waist.claim(TRIALS, wanted, changes, IN_QUEUE, mark, write=write)
            if found is not None and limit is not None and not self._waist.transactional:
                found = self._unless_beyond(experiment, found, limit)
            if found is not None:
                self._waist.insert(ATTEMPTS, [mapping.attempt_document(found, write=write)])
                if stored.get("status") == ExperimentStatus.CREATED.value:
                    created = (*equal(status=ExperimentStatus.CREATED.value), *VISIBLE)
                    started: dict[str, Plain] = {
                        "status": ExperimentStatus.RUNNING.value,
                        "started": stored.get("started") or encode_time(utcnow()),
                    }
                    self._waist.patch_one(EXPERIMENTS, experiment, created, started, write=other)
            return found

        document = self._waist.together(steps, settled=False)
        if document is None:
            return None
        reserved = mapping.trial_record(document)
        if self._plugins.has_observers:
            self._tell_status(experiment, reserved.id, None, TrialStatus.RESERVED)
        return reserved

    def _hands_out(self, experiment: str, stored: Mapping[str, Plain]) -> bool:
        if stored.get("stop_requested") is not None or stored.get("status") not in HANDING_OUT:
            return False
        most = cast("int | None", stored.get("max_broken"))
        broken = equal(experiment=experiment, status=TrialStatus.BROKEN.value)
        return most is None or self._waist.count(TRIALS, broken) < most

    def _limit_in_reach(self, experiment: str, stored: Mapping[str, Plain]) -> int | None:
        """``max_trials``, where the experiment may have more trials than that; else nothing must be counted.

        Registration refuses those beyond it. But it may have been lowered since, or a broken trial, in whose place
        another one was registered, is new again.
        """
        most = cast("int | None", stored.get("max_trials"))
        return None if most is None or self._numbered(experiment) <= most else most

    def _handed_out(self, experiment: str) -> int:
        """How many trials are completed, or reserved and may still be."""
        counts = self._waist.tally(TRIALS, equal(experiment=experiment), "status")
        return counts.get(TrialStatus.COMPLETED.value, 0) + counts.get(TrialStatus.RESERVED.value, 0)

    def _unless_beyond(self, experiment: str, claimed: Document, limit: int) -> Document | None:
        """What was claimed without a transaction; None, and it is pending again, where it is one too many."""
        if self._handed_out(experiment) <= limit:
            return claimed
        held = equal(token=claimed.body["token"], status=TrialStatus.RESERVED.value)
        self._waist.patch_one(TRIALS, claimed.id, held, {**self._entering(TrialStatus.INTERRUPTED), "worker": None})
        return None

    def recover_lost_trials(
        self, experiment: ExperimentOrId = None, *, uid: str | None = None, timeout: float | None = None
    ) -> list[Trial]:
        """Make lost trials interrupted, so that they are reserved again, and note the reason in ``error``.

        They go behind those that are pending already. One that was lost as often as the experiment's ``max_attempts``
        allows is broken instead, with the history of its attempts as the reason. A trial whose worker gives a heartbeat
        at the last moment stays reserved, and so does one that others recover.

        Args:
            experiment: the record or its id.
            uid: the id, in place of ``experiment``.
            timeout: in place of the experiment's ``heartbeat_timeout``, in seconds.

        Returns:
            Those that this call recovered or broke, as it stored them.
        """
        stored = self._experiment(self._experiment_id(experiment, uid))
        recovered: list[Trial] = []
        for document, age in self._lost(stored, timeout):
            body = document.body
            limit = stored.heartbeat_timeout if timeout is None else timeout
            silence = "it never gave a heartbeat" if math.isinf(age) else f"no heartbeat for {age:.0f} s"
            error = f"lost by worker {body.get('worker')}: {silence} (heartbeat_timeout is {limit:g} s)"
            status, reason = self._after_loss(stored, document, error, "lost")
            changes: dict[str, Plain | Increment] = {**self._entering(status), "error": reason}
            if status in PENDING:
                changes["sequence"] = places.take()
            unchanged = (*equal(revision=document.revision), *equal(status=TrialStatus.RESERVED.value))
            key = (stored.id, cast("str", body["trial"]))
            try:
                changed = self._change_trial(key, unchanged, (), changes, self._ended(status, error, "lost"))
            except (FailedUpdate, TrialNotFound):  # it lives, or somebody else was faster
                continue
            self._tell_status(*key, TrialStatus.RESERVED, status)
            recovered.append(changed)
        return recovered

    def _after_loss(self, experiment: Experiment, trial: Document, error: str, outcome: str) -> tuple[TrialStatus, str]:
        """What becomes of a trial whose attempt came to no end by itself, and why: pending, or broken in the end."""
        if experiment.max_attempts is None:
            return TrialStatus.INTERRUPTED, error
        number = cast("int", trial.body["token"])
        wanted = equal(experiment=experiment.id, trial=trial.body["trial"])
        attempts = self._waist.find(ATTEMPTS, wanted, [Order("number")])
        failed = [one for one in attempts if one.body.get("outcome") in _UNENDED and one.body["number"] != number]
        if len(failed) + 1 < experiment.max_attempts:
            return TrialStatus.INTERRUPTED, error
        history = [f"attempt {one.body['number']}: {one.body.get('error') or one.body['outcome']}" for one in failed]
        told = "\n".join([*history, f"attempt {number}: {error}"])
        return (
            TrialStatus.BROKEN,
            (
                f"given up after {len(failed) + 1} attempts that came to no end (max_attempts is "
                f"{experiment.max_attempts}; the last one was {outcome})\n{told}"
            ),
        )

    def push_trial_results(
        self,
        trial: TrialOrId = None,
        results: Results | Mapping[str, object] | Iterable[object] | None = None,
        *,
        status: TrialStatus | str | None = None,
        error: str | None = None,
        experiment_uid: Experiment | str | None = None,
        uid: str | None = None,
        token: int | None = None,
        if_revision: int | None = None,
        outcome: str | None = None,
    ) -> Trial:
        """Store the results of a reserved trial, and with ``status`` end it in the same step; it as stored then.

        The end is noted on the attempt in the same step, too.

        Args:
            trial: the record or its id. Given a record, only the holder of that reservation succeeds.
            results: a dict as in ``{"objective": 0.3, "accuracy": 0.9}``, or records; by default the record's own.
            status: ``"completed"``, say; by default it stays reserved.
            error: why it ended so, stored with it.
            experiment_uid: the experiment of a trial given by id.
            uid: the id, in place of ``trial``.
            token: of the reservation, for a caller who has only the id; only its holder succeeds then.
            if_revision: the revision that must be stored now.
            outcome: what the attempt came to, where that is not the status.

        Raises:
            EncodingError: a result cannot be stored; the message names it.
            FailedUpdate: the trial is not reserved.
            ReservationLost: the trial was taken over, or recovered.
        """
        key = self._trial_key(trial, uid, experiment_uid)
        if results is None:
            if not isinstance(trial, Trial):
                raise MissingArguments("give the results, or a trial that has them")
            results = trial.results
        changes: dict[str, Plain | Increment] = {
            **mapping.result_fields(results if isinstance(results, Results) else Results(results))
        }
        if status is not None:
            after = trial_status(status)
            if after not in TRIAL_TRANSITIONS[TrialStatus.RESERVED]:
                raise IllegalTransition(f"a trial that is reserved cannot become {after}")
            changes |= self._entering(after)
        if error is not None:
            changes["error"] = check_text("error", error, limit=None, empty=True)
        ended = None if status is None else self._ended(trial_status(status), error, outcome)
        fence = self._fence(trial, holder=True, token=token)
        wanted = (*equal(status=TrialStatus.RESERVED.value), *self._revision(if_revision))
        changed = self._change_trial(key, wanted, fence, changes, ended)
        if status is not None:
            self._tell_status(*key, TrialStatus.RESERVED, changed.status)
        return changed

    def update_heartbeat(
        self,
        trial: TrialOrId = None,
        *,
        experiment_uid: Experiment | str | None = None,
        uid: str | None = None,
        token: int | None = None,
    ) -> Trial:
        """Tell that the worker of a reserved trial is alive; returns the trial as stored then.

        Args:
            trial: the record or its id. Given a record, only the holder of that reservation succeeds.
            experiment_uid: the experiment of a trial given by id.
            uid: the id, in place of ``trial``.
            token: of the reservation, for a caller who has only the id; only its holder succeeds then.

        Raises:
            FailedUpdate: the trial is not reserved.
            ReservationLost: the trial was taken over, or recovered.
        """
        key = self._trial_key(trial, uid, experiment_uid)
        changes: dict[str, Plain | Increment] = {"heartbeat": encode_time(utcnow()), **self._leases.stamp()}
        fence = self._fence(trial, holder=True, token=token)
        return self._change_trial(key, equal(status=TrialStatus.RESERVED.value), fence, changes)
