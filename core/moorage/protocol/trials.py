"""Trials: registered, read, changed and deleted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, overload

import attrs

from moorage import mapping
from moorage.errors import (
    DuplicateTrial,
    IllegalTransition,
    InvalidArgument,
    InvalidQuery,
    InvalidType,
    MissingArguments,
    shown,
)
from moorage.filters import Comparison, Filter, Order, equal, suggest
from moorage.protocol.asking import (
    IN_ORDER,
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
from moorage.records import Experiment, Params, Results, Trial, check_integer, check_text, derive_trial_id, utcnow
from moorage.schema import TRIALS
from moorage.space import param_types
from moorage.statuses import PENDING, TRIAL_TRANSITIONS, TrialStatus, trial_status

if TYPE_CHECKING:
    import datetime

    from moorage.codec import Plain
    from moorage.driver import Increment

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
)


class _Sequence:
    """Places in the queue of trials: nanoseconds of this machine's wall clock, growing within the process."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> int:
        """The first of ``count`` places in a row."""
        with self._lock:
            first = max(time.time_ns(), self._last + 1)
            self._last = first + count - 1
            return first


_sequence = _Sequence()


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
            order: fields to sort by, with a ``-`` in front for descending; equals, and all without it, are in order of
                submission, which is called ``sequence``.
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
        if any(one.field == "status" and one.operator == "=" and one.value in PENDING for one in wanted):
            wanted = (*wanted, *equal(pending=True))  # says nothing new, but there is an index of it in order
        with many_objects():
            found = self._waist.find(TRIALS, (*equal(experiment=experiment), *wanted), order, limit)
            self._require_experiment(experiment)
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
        return self._iterate(TRIALS, wanted, "sequence", size, mapping.trial_record)

    def fetch_pending_trials(self, experiment: ExperimentOrId = None, *, uid: str | None = None) -> list[Trial]:
        """The trials that wait for a worker (new, suspended, interrupted), in the order in which they are reserved."""
        return self._find_trials(self._experiment_id(experiment, uid), equal(pending=True))

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


class WriteTrials(ReadTrials, Transitions, Deletion):
    """The verbs that register, change and delete trials."""

    def register_trial(
        self,
        experiment: ExperimentOrId = None,
        trial: Trial | Mapping[str, object] | None = None,
        *,
        uid: str | None = None,
    ) -> Trial:
        """Register one trial, given as a record or a dict of params; see `register_trials`.

        Raises:
            DuplicateTrial: the experiment has a trial of this id, that is, with these params.
        """
        if isinstance(experiment, Trial) and trial is None:
            experiment, trial = experiment.experiment, experiment
        if trial is None:
            raise MissingArguments("give the trial to register, as a Trial or a dict of params")
        return self.register_trials(experiment, [trial], uid=uid)[0]

    def register_trials(
        self,
        experiment: ExperimentOrId = None,
        trials: Iterable[Trial | Mapping[str, object]] = (),
        *,
        uid: str | None = None,
        duplicates: Literal["raise", "skip"] = "raise",
    ) -> list[Trial]:
        """Register a batch of trials in one round trip; each stands or falls alone.

        The types of the params follow the experiment's space where it tells them. Trials are reserved in the order in
        which they were registered; between machines, by their wall clocks.

        Args:
            experiment: the record or its id.
            trials: records, or dicts of params. A record of any status but reserved will do (one that was evaluated
                elsewhere is registered as completed, with its results).
            uid: the id of the experiment, in place of ``experiment``.
            duplicates: what to do about trials whose id the experiment has already: ``"raise"`` when all others are
                registered, or ``"skip"`` them.

        Returns:
            The trials that were registered, in order.

        Raises:
            DuplicateTrial: some were refused; all others are registered. The error names them in ``refused``.
            ExperimentNotFound: there is no such experiment.
            InvalidType: something is neither a Trial nor a dict; nothing was registered.
        """
        if not isinstance(duplicates, str) or duplicates not in ("raise", "skip"):
            raise InvalidArgument(f"duplicates must be 'raise' or 'skip', not {shown(duplicates)}")
        if isinstance(trials, (str, bytes, Mapping, Trial)) or not isinstance(trials, Iterable):
            raise InvalidType(f"trials must be a list of Trials or of dicts of params, not {type(trials).__name__}")
        identifier = self._experiment_id(experiment, uid)
        space = experiment.space if isinstance(experiment, Experiment) else self._experiment(identifier).space
        types = param_types(space)
        given = list(trials)
        first = _sequence.take(max(1, len(given)))
        now = utcnow()
        registered = [_trial_given(one, identifier, types, now) for one in given]
        documents = [
            mapping.trial_document(one, identifier, sequence=first + place) for place, one in enumerate(registered)
        ]

        def insert() -> set[int]:
            self._require_experiment(identifier)
            return {refusal.position for refusal in self._waist.insert(TRIALS, documents)}

        refused = self._waist.together(insert)
        kept = [one for place, one in enumerate(registered) if place not in refused]
        if self._plugins.has_observers:
            for one in kept:
                self._tell_status(identifier, one.id, None, one.status)
        if refused and duplicates == "raise":
            names = [registered[place].id for place in sorted(refused)]
            raise DuplicateTrial(
                f"{len(refused)} of {len(given)} trials are registered already in experiment {identifier!r}, "
                f"such as {registered[min(refused)].params!r:.120} (id {names[0]!r}); the others are registered. "
                "duplicates='skip' leaves them out without an error",
                refused=names,
            )
        return kept

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
    ) -> None:
        """Give a trial another status, if it has the one that it is thought to have.

        Args:
            trial: the record or its id. Given a reserved trial, only the holder of that reservation succeeds.
            status: the new one.
            heartbeat: a sign of life to store with it.
            was: the status that must be stored now; by default the record's, or what is stored where an id is given.
            experiment_uid: the experiment of a trial given by id.
            uid: the id, in place of ``trial``.
            error: why, stored with it.
            force: for repair: whatever the transitions say, and (without ``was``) whatever is stored.

        Raises:
            FailedUpdate: the stored status is not ``was``.
            IllegalTransition: the step is not in the table of transitions.
            ReservationLost: the trial was taken over, or recovered.
        """
        if status is None:
            raise MissingArguments("give the new status")
        after = trial_status(status)
        key = self._trial_key(trial, uid, experiment_uid)
        if was is not None:
            before: TrialStatus | None = trial_status(was, "was")
        elif force:
            before = None
        elif isinstance(trial, Trial):
            before = trial.status
        else:
            before = trial_status(self._trial_document(*key).body["status"])
        if before is not None and not force and after not in TRIAL_TRANSITIONS[before]:
            legal = ", ".join(sorted(TRIAL_TRANSITIONS[before])) or "nothing: it is final"
            raise IllegalTransition(
                f"a trial that is {before} cannot become {after}; it can become {legal}. force=True repairs"
            )
        changes = self._entering(after)
        if error is not None:
            changes["error"] = check_text("error", error, limit=None, empty=True)
        if heartbeat is not None:
            changes |= self._heartbeat_fields(heartbeat)
        wanted = () if before is None else equal(status=before.value)
        fence = self._fence(trial) if before is TrialStatus.RESERVED and not force else ()
        self._change_trial(key, wanted, fence, changes)
        self._tell_status(*key, before, after)

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
            elif name.endswith("_time"):
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
        **fields: object,
    ) -> Trial:
        """Change fields of a trial, if it matches ``where``; returns it as stored then.

        Its id, experiment, params and token never change. Given a reserved trial, only the holder of that reservation
        succeeds.

        Raises:
            FailedUpdate: it does not match ``where``.
            IllegalTransition: its status cannot become the one given.
            ReservationLost: the trial was taken over, or recovered.
        """
        key = self._trial_key(trial, uid, experiment_uid)
        changes = self._trial_changes(fields)
        wanted = query_filter(where, TRIALS, names=TRIAL_NAMES)
        before: TrialStatus | None = None
        if "status" in fields and not force:
            before = (
                trial.status if isinstance(trial, Trial) else trial_status(self._trial_document(*key).body["status"])
            )
            after = trial_status(fields["status"])
            if after == before:  # nothing begins or ends
                changes = self._trial_changes({name: value for name, value in fields.items() if name != "status"})
            elif after not in TRIAL_TRANSITIONS[before]:
                raise IllegalTransition(f"a trial that is {before} cannot become {after}; force=True repairs")
            wanted += equal(status=before.value)
        self._change_trial(key, wanted, () if force else self._fence(trial), changes)
        if "status" in fields:
            self._tell_status(*key, before, trial_status(fields["status"]))
        return self.get_trial(key[1], key[0])

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
        gone = self._delete_matching(identifier, wanted)
        if not gone:
            self._require_experiment(identifier)
        return gone


def _trial_given(
    given: Trial | Mapping[str, object], experiment: str, types: Mapping[str, str], now: datetime.datetime
) -> Trial:
    if isinstance(given, Trial):
        if given.status is TrialStatus.RESERVED:
            raise InvalidArgument(f"trial {given.id!r} is reserved; a trial is registered first and reserved then")
        if given.experiment not in (None, experiment):
            raise InvalidArgument(
                f"trial {given.id!r} belongs to experiment {given.experiment!r}, not to {experiment!r}"
            )
        params = Params(given.params, types)
        derived = given.id == derive_trial_id(given.params)
        identifier = derive_trial_id(params) if derived else given.id
        return attrs.evolve(given, id=identifier, experiment=experiment, params=params)
    if not isinstance(given, Mapping):
        raise InvalidType(f"a trial is a Trial or a dict of params, not {type(given).__name__}: {shown(given)}")
    return Trial(params=Params(given, types), experiment=experiment, submit_time=now)
