"""Reservations: a pending trial is handed to one worker, who gives heartbeats, and comes back when that one dies."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from moorage import mapping
from moorage.codec import Plain, encode_time
from moorage.errors import IllegalTransition, MissingArguments
from moorage.filters import equal
from moorage.lock import process_name
from moorage.protocol.asking import IN_ORDER, ExperimentOrId, TrialOrId
from moorage.protocol.attempts import attempt_id
from moorage.protocol.resources import resource_name
from moorage.protocol.transitions import Transitions
from moorage.protocol.trials import ReadTrials
from moorage.records import Experiment, Resource, Results, Trial, check_text, utcnow
from moorage.schema import ATTEMPTS, TRIALS
from moorage.statuses import TRIAL_TRANSITIONS, TrialStatus, trial_status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from moorage.driver import Document, Increment


class ReadReservations(ReadTrials):
    """The verbs that read what is reserved."""

    def fetch_lost_trials(self, experiment: ExperimentOrId = None, *, uid: str | None = None) -> list[Trial]:
        """The reserved trials that gave no heartbeat within the experiment's ``heartbeat_timeout``.

        One without any heartbeat counts as lost. Where the backend has no clock that its users share, a trial counts
        as lost only after this storage has watched it for that long.
        """
        return [mapping.trial_record(one) for one, _ in self._lost(self._experiment_id(experiment, uid))]

    def _lost(self, experiment: str) -> list[tuple[Document, float]]:
        timeout = self._experiment(experiment).heartbeat_timeout
        reserved = equal(experiment=experiment, status=TrialStatus.RESERVED.value)
        silent = self._leases.silent(timeout)
        found = {one.id: one for some in silent for one in self._waist.find(TRIALS, (*reserved, *some))}
        queued = sorted(found.values(), key=lambda one: cast("int", one.body["sequence"]))
        aged = [(one, self._leases.age(one)) for one in queued]
        return [(one, age) for one, age in aged if age > timeout]


class WriteReservations(ReadReservations, Transitions):
    """The verbs that reserve, hold and end."""

    def reserve_trial(
        self,
        experiment: ExperimentOrId = None,
        worker: str | None = None,
        resource: Resource | str | None = None,
        *,
        uid: str | None = None,
    ) -> Trial | None:
        """Hand the oldest pending trial to this worker, and to nobody else; None when there is none.

        Whoever reserves must give heartbeats (`running` does): without one for the experiment's ``heartbeat_timeout``,
        the trial counts as lost. When nothing is pending, lost trials are recovered first, and handed out again.

        Args:
            experiment: the record or its id.
            worker: who runs it; by default the host's name and the process id.
            resource: what it runs on, for the record.
            uid: the id of the experiment, in place of ``experiment``.

        Raises:
            ExperimentNotFound: there is no such experiment.
        """
        identifier = self._experiment_id(experiment, uid)
        name = process_name() if worker is None else check_text("worker", worker)
        reserved = self._claim(identifier, name, resource_name(resource))
        if reserved is None and self.recover_lost_trials(identifier):
            reserved = self._claim(identifier, name, resource_name(resource))
        return reserved

    def _claim(self, experiment: str, worker: str, resource: str | None) -> Trial | None:
        changes: dict[str, Plain | Increment] = {**self._entering(TrialStatus.RESERVED), "worker": worker}
        if resource is not None:
            changes["resource"] = resource
        mark = equal(experiment=experiment, status=TrialStatus.RESERVED.value)
        document = self._waist.claim(TRIALS, equal(experiment=experiment, pending=True), changes, IN_ORDER, mark)
        if document is None:
            return None
        trial = mapping.trial_record(document)
        if self._plugins.has_observers:
            self._tell_status(experiment, trial.id, None, TrialStatus.RESERVED)
        return trial

    def recover_lost_trials(self, experiment: ExperimentOrId = None, *, uid: str | None = None) -> list[Trial]:
        """Make lost trials interrupted, so that they are reserved again, and note the reason in ``error``.

        A trial whose worker gives a heartbeat at the last moment stays reserved. Returns those recovered.
        """
        identifier = self._experiment_id(experiment, uid)
        recovered: list[Trial] = []
        for document, age in self._lost(identifier):
            body = document.body
            silence = "it never gave a heartbeat" if age == float("inf") else f"no heartbeat for {age:.0f} s"
            error = f"lost by worker {body.get('worker')}: {silence}"
            changes = {**self._entering(TrialStatus.INTERRUPTED), "error": error}
            unchanged = equal(revision=document.revision, status=TrialStatus.RESERVED.value)
            if not self._waist.patch_one(TRIALS, document.id, unchanged, changes):
                continue
            ended: dict[str, Plain] = {"outcome": "lost", "error": error, "ended": encode_time(utcnow())}
            attempt = attempt_id(document.id, cast("int", body["token"]))
            self._waist.patch_one(ATTEMPTS, attempt, equal(outcome=None), ended)
            trial = cast("str", body["trial"])
            self._tell_status(identifier, trial, TrialStatus.RESERVED, TrialStatus.INTERRUPTED)
            recovered.append(self.get_trial(trial, identifier))
        return recovered

    def push_trial_results(
        self,
        trial: TrialOrId = None,
        results: Results | Mapping[str, object] | Iterable[object] | None = None,
        *,
        status: TrialStatus | str | None = None,
        error: str | None = None,
        experiment_uid: Experiment | str | None = None,
        uid: str | None = None,
    ) -> None:
        """Store the results of a reserved trial, and with ``status`` end it in the same step.

        Args:
            trial: the record or its id. Given a record, only the holder of that reservation succeeds.
            results: a dict as in ``{"objective": 0.3, "accuracy": 0.9}``, or records; by default the record's own.
            status: ``"completed"``, say; by default it stays reserved.
            error: why it ended so, stored with it.
            experiment_uid: the experiment of a trial given by id.
            uid: the id, in place of ``trial``.

        Raises:
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
        fence = self._fence(trial, holder=True)
        self._change_trial(key, equal(status=TrialStatus.RESERVED.value), fence, changes)
        if status is not None:
            self._tell_status(*key, TrialStatus.RESERVED, trial_status(status))

    def update_heartbeat(
        self,
        trial: TrialOrId = None,
        *,
        experiment_uid: Experiment | str | None = None,
        uid: str | None = None,
    ) -> None:
        """Tell that the worker of a reserved trial is alive.

        Raises:
            FailedUpdate: the trial is not reserved.
            ReservationLost: the trial was taken over, or recovered.
        """
        key = self._trial_key(trial, uid, experiment_uid)
        changes: dict[str, Plain | Increment] = {"heartbeat": encode_time(utcnow()), **self._leases.stamp()}
        fence = self._fence(trial, holder=True)
        self._change_trial(key, equal(status=TrialStatus.RESERVED.value), fence, changes)
