"""Trials: read, changed and deleted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast, overload

from moorage import mapping
from moorage.errors import (
    FailedUpdate,
    IllegalTransition,
    InvalidQuery,
    InvalidType,
    MissingArguments,
    shown,
)
from moorage.filters import Comparison, Filter, Order, equal, matches, suggest
from moorage.protocol.asking import (
    IN_ORDER,
    IN_QUEUE,
    TRIAL_NAMES,
    ExperimentOrId,
    Query,
    Row,
    Selection,
    TrialOrId,
    check_limit,
    field_names,
    many_objects,
    query_filter,
    select,
    trial_filter,
)
from moorage.protocol.base import Base
from moorage.protocol.deletion import Deletion
from moorage.protocol.giving import check_fields
from moorage.protocol.transitions import Transitions
from moorage.records import Experiment, Params, Results, Trial, check_integer, check_text
from moorage.schema import TRIALS
from moorage.statuses import ENDED, PENDING, TRIAL_TRANSITIONS, TrialStatus, trial_status

if TYPE_CHECKING:
    import datetime

    from moorage.codec import Plain
    from moorage.driver import Document, Increment

_UPDATABLE_TRIAL = (
    "status",
    "results",
    "submit_time",
    "start_time",
    "end_time",
    "heartbeat",
    "worker",
    "parent",
    "working_directory",
    "resource",
    "error",
    "stop_requested",
)


class ReadTrials(Base):
    """The verbs that read trials."""

    def get_trial(
        self,
        trial: TrialOrId = None,
        experiment_uid: Experiment | str | None = None,
        *,
        uid: str | None = None,
    ) -> Trial:
        """The trial as it is stored now.

        Args:
            trial: the record or its id.
            experiment_uid: its experiment; needed only where several experiments have a trial of this id.
            uid: the id, in place of ``trial``.

        Raises:
            TrialNotFound: there is none.
            MissingArguments: neither the record nor the id is given, or the experiment is needed.
        """
        return mapping.trial_record(self._trial_document(*self._trial_key(trial, uid, experiment_uid)))

    @overload
    def fetch_trials(
        self,
        experiment: ExperimentOrId = None,
        where: Query = None,
        selection: None = None,
        order: str | Sequence[str] | None = None,
        limit: int | None = None,
        *,
        uid: str | None = None,
    ) -> list[Trial]: ...
    @overload
    def fetch_trials(
        self,
        experiment: ExperimentOrId = None,
        where: Query = None,
        *,
        selection: Sequence[str],
        order: str | Sequence[str] | None = None,
        limit: int | None = None,
        uid: str | None = None,
    ) -> list[Row]: ...
    def fetch_trials(
        self,
        experiment: ExperimentOrId = None,
        where: Query = None,
        selection: Selection = None,
        order: str | Sequence[str] | None = None,
        limit: int | None = None,
        *,
        uid: str | None = None,
    ) -> list[Trial] | list[Row]:
        """The trials of an experiment that match.

        Args:
            experiment: the record or its id.
            where: all must hold, as in ``{"status": {"$in": ["new", "suspended"]}, "params.lr": {"$lt": 0.1}}``.
            selection: fields (or inner ones: ``params.lr``) to return as dicts, in place of records.
            order: fields to sort by, with a ``-`` in front for descending; without it, trials of one pending status are
                in the order of the queue, and all others, like equals, in order of
                their number; ``sequence`` is the place in the queue of those that are pending.
            limit: at most so many.
            uid: the id of the experiment, in place of ``experiment``.

        Raises:
            ExperimentNotFound: there is no such experiment.
            InvalidQuery: an unknown field or operator.
        """
        identifier = self._experiment_id(experiment, uid)
        wanted = trial_filter(identifier, where)
        records = self._find_trials(identifier, wanted, self._order(order), check_limit(limit))
        return records if selection is None else select(records, selection, field_names(Trial))

    def _find_trials(
        self,
        experiment: str,
        wanted: Filter = (),
        order: Sequence[Order] = IN_ORDER,
        limit: int | None = None,
    ) -> list[Trial]:
        of_status = [one for one in wanted if one.field == "status" and one.operator in ("=", "in")]
        pending = any(one.operator == "=" and one.value in PENDING for one in of_status)
        if order is IN_ORDER and pending:
            order, wanted = IN_QUEUE, (*wanted, *equal(pending=True))  # says nothing new, but has an index in order
        sorts = order is IN_ORDER and limit is None and bool(of_status)
        with many_objects():
            found = self._waist.find(TRIALS, (*equal(experiment=experiment), *wanted), () if sorts else order, limit)
            self._require_experiment(experiment)
            if sorts:  # a database would walk over all trials in order, rather than sort the few of a status
                found.sort(key=_in_order)
            return [mapping.trial_record(one) for one in found]

    @staticmethod
    def _order(order: str | Sequence[str] | None) -> Sequence[Order]:
        if order is None:
            return IN_ORDER
        names = [order] if isinstance(order, str) else order
        if not isinstance(names, Sequence):
            raise InvalidQuery(f"order must be a field, or a list of fields, not {shown(order)}")
        known = [field.name for field in TRIALS.fields if field.public and field.kind != "json"] + ["sequence"]
        orders: list[Order] = []
        for name in names:
            word = name.removeprefix("-") if isinstance(name, str) else ""
            field = TRIAL_NAMES.get(word, word)
            if field not in known:
                raise InvalidQuery(
                    f"order names an unknown field {shown(name)}.{suggest(field, known)} "
                    f"The fields are: {', '.join(known)}"
                )
            orders.append(Order(field, descending=name.startswith("-")))
        asked = {one.field for one in orders}
        return (*orders, *(one for one in IN_ORDER if one.field not in asked))

    def iterate_trials(
        self,
        experiment: ExperimentOrId = None,
        where: Query = None,
        *,
        uid: str | None = None,
        batch: int = 1000,
    ) -> Iterator[Trial]:
        """The trials that match, in order of submission, read ``batch`` at a time; memory does not grow with them.

        Each trial is as it was when its batch was read. Those registered meanwhile may or may not come.
        """
        identifier = self._experiment_id(experiment, uid)
        wanted = (*equal(experiment=identifier), *trial_filter(identifier, where))
        size = check_integer("batch", batch, least=1)
        self._require_experiment(identifier)
        return self._iterate(TRIALS, wanted, "number", size, mapping.trial_record)

    def fetch_pending_trials(self, experiment: ExperimentOrId = None, *, uid: str | None = None) -> list[Trial]:
        """The trials that wait for a worker (new, suspended, interrupted), in the order in which they are reserved."""
        return self._find_trials(self._experiment_id(experiment, uid), equal(pending=True), IN_QUEUE)

    def fetch_noncompleted_trials(self, experiment: ExperimentOrId = None, *, uid: str | None = None) -> list[Trial]:
        """The trials of any status but completed, in order of submission."""
        wanted = (Comparison("status", "!=", TrialStatus.COMPLETED.value),)
        return self._find_trials(self._experiment_id(experiment, uid), wanted)

    def fetch_trials_by_status(
        self,
        experiment: ExperimentOrId = None,
        status: TrialStatus | str = TrialStatus.NEW,
        *,
        uid: str | None = None,
    ) -> list[Trial]:
        """The trials of one status, in order of submission."""
        return self._find_trials(self._experiment_id(experiment, uid), equal(status=trial_status(status).value))

    @overload
    def count_trials(
        self, experiment: ExperimentOrId = None, *, where: None = None, uid: str | None = None
    ) -> dict[TrialStatus, int]: ...
    @overload
    def count_trials(
        self, experiment: ExperimentOrId = None, *, where: Mapping[str, object], uid: str | None = None
    ) -> int: ...
    def count_trials(
        self, experiment: ExperimentOrId = None, *, where: Query = None, uid: str | None = None
    ) -> dict[TrialStatus, int] | int:
        """How many trials there are: by status (every status is named), or of those that match ``where``.

        Counts by status add up: a trial that changes meanwhile is counted once. They do not take longer the more
        trials there are, wherever the backend keeps them up to date.
        """
        identifier = self._experiment_id(experiment, uid)
        if where is not None:
            wanted = trial_filter(identifier, where)
            total = self._waist.count(TRIALS, (*equal(experiment=identifier), *wanted))
            self._require_experiment(identifier)
            return total
        counts = self._waist.tally(TRIALS, equal(experiment=identifier), "status")
        self._require_experiment(identifier)
        return {status: counts.get(status.value, 0) for status in TrialStatus}

    def _count(self, experiment: str, status: TrialStatus) -> int:
        return self._waist.count(TRIALS, equal(experiment=experiment, status=status.value))

    def count_completed_trials(self, experiment: ExperimentOrId = None, *, uid: str | None = None) -> int:
        """How many trials are completed."""
        return self._count_checked(self._experiment_id(experiment, uid), TrialStatus.COMPLETED)

    def count_broken_trials(self, experiment: ExperimentOrId = None, *, uid: str | None = None) -> int:
        """How many trials are broken."""
        return self._count_checked(self._experiment_id(experiment, uid), TrialStatus.BROKEN)

    def _count_checked(self, experiment: str, status: TrialStatus) -> int:
        total = self._count(experiment, status)
        self._require_experiment(experiment)
        return total

    def best_trial(
        self, experiment: ExperimentOrId = None, maximize: bool = False, *, uid: str | None = None
    ) -> Trial | None:
        """The completed trial with the smallest objective (the largest, where ``maximize``); None where there is none.

        Of equals, the one submitted first. NaN never wins, and trials without an objective do not take part.
        """
        identifier = self._experiment_id(experiment, uid)
        completed = equal(experiment=identifier, status=TrialStatus.COMPLETED.value)
        wanted = (*completed, Comparison("objective", "!=", None))
        found = self._waist.find(TRIALS, wanted, [Order("objective", descending=maximize)], 1)
        self._require_experiment(identifier)
        if not found:
            return None
        # In two steps, because no index is sorted down by one field and up by the next.
        best = self._waist.find(TRIALS, (*completed, *equal(objective=found[0].body["objective"])), IN_ORDER, 1)
        return mapping.trial_record((best or found)[0])

    def retrieve_result(
        self,
        trial: TrialOrId = None,
        experiment_uid: Experiment | str | None = None,
        *,
        uid: str | None = None,
    ) -> Results:
        """The results of a trial as they are stored now; empty where it has none yet.

        Raises:
            TrialNotFound: there is no such trial.
        """
        return self.get_trial(trial, experiment_uid, uid=uid).results


def _in_order(trial: Document) -> tuple[int, int]:
    number = cast("int | None", trial.body.get("number"))
    return (-1, cast("int", trial.body["sequence"])) if number is None else (number, 0)


class WriteTrials(ReadTrials, Transitions, Deletion):
    """The verbs that change and delete trials."""

    def set_trial_status(
        self,
        trial: TrialOrId = None,
        status: TrialStatus | str | None = None,
        heartbeat: datetime.datetime | None = None,
        was: TrialStatus | str | None = None,
        *,
        experiment_uid: Experiment | str | None = None,
        uid: str | None = None,
        error: str | None = None,
        force: bool = False,
        token: int | None = None,
        if_revision: int | None = None,
        outcome: str | None = None,
    ) -> Trial:
        """Give a trial another status, if it has the one that it is thought to have; returns it as stored then.

        Where that ends an execution, it is noted on the attempt in the same step.

        Args:
            trial: the record or its id. Given a reserved trial, only the holder of that reservation succeeds.
            status: the new one.
            heartbeat: a sign of life to store with it.
            was: the status that must be stored now; by default the record's, or what is stored where an id is given.
            experiment_uid: the experiment of a trial given by id.
            uid: the id, in place of ``trial``.
            error: why, stored with it.
            force: for repair: whatever the transitions say, and (without ``was``) whatever is stored.
            token: of the reservation, for a caller who has only the id; only its holder succeeds then.
            if_revision: the revision that must be stored now.
            outcome: what the attempt came to, where that is not the status: ``"timeout"``, say.

        Raises:
            FailedUpdate: the stored status is not ``was``.
            IllegalTransition: the step is not in the table of transitions.
            ReservationLost: the trial was taken over, or recovered.
        """
        if status is None:
            raise MissingArguments("give the new status")
        after = trial_status(status)
        key = self._trial_key(trial, uid, experiment_uid)
        more: dict[str, Plain | Increment] = {}
        if error is not None:
            more["error"] = check_text("error", error, limit=None, empty=True)
        if heartbeat is not None:
            more |= self._heartbeat_fields(heartbeat)
        expected = None if was is None else trial_status(was, "was")
        while True:
            if expected is not None:
                before = expected
            elif isinstance(trial, Trial) and not force:
                before = trial.status
            else:
                before = trial_status(self._trial_document(*key).body["status"])
            if not force and after not in TRIAL_TRANSITIONS[before]:
                legal = ", ".join(sorted(TRIAL_TRANSITIONS[before])) or "nothing: it is final"
                raise IllegalTransition(
                    f"a trial that is {before} cannot become {after}; it can become {legal}. force=True repairs"
                )
            # By force what is reserved stays reserved by whoever holds it: nothing begins anew.
            changes = more if before is after else {**self._entering(after), **more}
            wanted = (*equal(status=before.value), *self._revision(if_revision))
            reserved = before is TrialStatus.RESERVED
            fence = self._fence(trial, token=token) if reserved and not force else ()
            ended = self._ended(after, error, outcome) if reserved and after is not before else None
            try:
                changed = self._change_trial(key, wanted, fence, changes, ended)
            except FailedUpdate:
                if not force or expected is not None or if_revision is not None:
                    raise
            else:
                break
        self._tell_status(*key, before, after)
        return changed

    def _trial_changes(self, fields: Mapping[str, object]) -> dict[str, Plain | Increment]:
        """The stored form of fields of a trial, checked as the record checks them."""
        check_fields(Trial, fields, _UPDATABLE_TRIAL)
        checked = Trial(id="checked", **fields)  # type: ignore[arg-type]  # checked by the record
        changes: dict[str, Plain | Increment] = {}
        for name in fields:
            value = getattr(checked, name)
            if name == "status":
                changes = {**self._entering(checked.status), **changes}
            elif name == "results":
                changes |= mapping.result_fields(checked.results)
            elif name == "heartbeat":
                changes |= self._heartbeat_fields(checked.heartbeat)
            elif name.endswith("_time") or name == "stop_requested":
                changes[name] = mapping.time_or_none(value)
            else:
                changes[name] = value
        return changes

    def update_trial(
        self,
        trial: TrialOrId = None,
        where: Query = None,
        *,
        experiment_uid: Experiment | str | None = None,
        uid: str | None = None,
        force: bool = False,
        token: int | None = None,
        if_revision: int | None = None,
        **fields: object,
    ) -> Trial:
        """Change fields of a trial, if it matches ``where``; returns it as this change stored it.

        Its id, experiment, number and token never change. ``params`` and ``metadata`` are merged into what is stored,
        name by name, and leave other names alone; params only as long as the trial has not ended, for tuners that
        choose them while it runs (such a trial is registered under an id that is given, not derived). Given a reserved
        trial, only the holder of that reservation succeeds.

        Args:
            trial: the record or its id.
            where: what the stored trial must be like.
            experiment_uid: the experiment of a trial given by id.
            uid: the id, in place of ``trial``.
            force: for repair: whatever the transitions and the reservation say.
            token: of the reservation, for a caller who has only the id.
            if_revision: the revision that must be stored now.
            **fields: the new values.

        Raises:
            FailedUpdate: it does not match ``where`` or ``if_revision``, or has ended and params are given.
            IllegalTransition: its status cannot become the one given.
            ReservationLost: the trial was taken over, or recovered.
        """
        key = self._trial_key(trial, uid, experiment_uid)
        merged: dict[str, object] = {name: fields.pop(name) for name in ("params", "metadata") if name in fields}
        wanted = (*query_filter(where, TRIALS, names=TRIAL_NAMES), *self._revision(if_revision))
        fence = () if force else self._fence(trial, token=token)
        before: TrialStatus | None = None
        ended = None
        if "status" in fields:
            after = trial_status(fields["status"])
            stored = trial if isinstance(trial, Trial) else mapping.trial_record(self._trial_document(*key))
            before = stored.status
            if after == before:  # nothing begins or ends
                del fields["status"]
            elif not force and after not in TRIAL_TRANSITIONS[before]:
                raise IllegalTransition(f"a trial that is {before} cannot become {after}; force=True repairs")
            elif before is TrialStatus.RESERVED:
                ended = self._ended(after, cast("str | None", fields.get("error")))
            wanted += equal(status=before.value)
        changes = self._trial_changes(fields)
        if merged:
            changed = self._merge(key, wanted, fence, changes, merged, ended)
        else:
            changed = self._change_trial(key, wanted, fence, changes, ended)
        if "status" in fields:
            self._tell_status(*key, before, changed.status)
        return changed

    def _merge(
        self,
        key: tuple[str, str],
        wanted: Filter,
        fence: Filter,
        changes: Mapping[str, Plain | Increment],
        merged: Mapping[str, object],
        ended: Mapping[str, Plain] | None,
    ) -> Trial:
        """Merge named values into those that are stored, if nobody has changed the trial meanwhile; else again."""
        for name, given in merged.items():
            if not isinstance(given, Mapping):
                raise InvalidType(f"{name} must be a dict, not {type(given).__name__}: {shown(given)}")
        while True:
            document = self._trial_document(*key)
            stored = mapping.trial_record(document)
            more: dict[str, Plain | Increment] = {}
            if "params" in merged:
                if stored.status in ENDED:
                    raise FailedUpdate(f"trial {stored.id!r} is {stored.status}: its params are final")
                added = cast("Mapping[str, object]", merged["params"])
                more |= mapping.param_fields(Params({**stored.params, **added}, stored.params.types))
            if "metadata" in merged:
                added = cast("Mapping[str, object]", merged["metadata"])
                checked = Trial(id="checked", metadata={**stored.metadata, **added})
                more["metadata"] = mapping.encode_named("metadata", checked.metadata)
            unchanged = equal(revision=document.revision)
            try:
                return self._change_trial(key, (*wanted, *unchanged), fence, {**changes, **more}, ended)
            except FailedUpdate:
                again = self._trial_document(*key)
                if again.revision == document.revision or not matches(
                    (*wanted, *fence), again.id, again.revision, again.body
                ):
                    raise

    def update_trials(
        self,
        experiment: ExperimentOrId = None,
        where: Query = None,
        *,
        uid: str | None = None,
        force: bool = False,
        **fields: object,
    ) -> int:
        """Change fields of all trials of an experiment that match ``where``; how many there were.

        Each trial is changed by one atomic step, all of them are not.

        Raises:
            IllegalTransition: some of the trials that match have a status that cannot become the one given; nothing was
                changed.
        """
        identifier = self._experiment_id(experiment, uid)
        changes = self._trial_changes(fields)
        wanted = (*equal(experiment=identifier), *trial_filter(identifier, where))
        if "status" in fields and not force:
            after = trial_status(fields["status"])
            legal = tuple(before.value for before, reached in TRIAL_TRANSITIONS.items() if after in reached)
            for status in TrialStatus:
                if status.value not in legal and (
                    count := self._waist.count(TRIALS, (*wanted, *equal(status=status.value)))
                ):
                    raise IllegalTransition(
                        f"{count} of the trials are {status} and cannot become {after}; leave them out by where=…, or "
                        "repair with force=True"
                    )
            wanted += (Comparison("status", "in", legal),)
        changed = self._waist.patch(TRIALS, wanted, changes) if changes else self._waist.count(TRIALS, wanted)
        if not changed:
            self._require_experiment(identifier)
        return changed

    def delete_trials(self, experiment: ExperimentOrId = None, where: Query = None, *, uid: str | None = None) -> int:
        """Delete all trials of an experiment that match ``where``, with their measurements and attempts; how many.

        A crash on the way leaves some of them in place; the same call goes on.
        """
        identifier = self._experiment_id(experiment, uid)
        wanted = (*equal(experiment=identifier), *trial_filter(identifier, where))
        if not self._waist.transactional:
            self._require_experiment(identifier)
            self._count_on(identifier)
        gone = self._delete_matching(identifier, wanted)
        if not gone:
            self._require_experiment(identifier)
        return gone
