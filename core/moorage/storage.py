"""The protocol with all its verbs, written once over the waist."""

from __future__ import annotations

import datetime
import functools
import getpass
import itertools
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast

import attrs

from moorage import mapping
from moorage.codec import encode_time
from moorage.driver import Document, Increment
from moorage.errors import (
    AttemptNotFound,
    ConflictingArguments,
    DuplicateBenchmark,
    DuplicateExperiment,
    DuplicateResource,
    DuplicateTrial,
    ExperimentNotFound,
    FailedUpdate,
    IllegalTransition,
    InvalidArgument,
    InvalidType,
    LockLost,
    MissingArguments,
    ReservationLost,
    ResourceNotFound,
    UniqueViolation,
    shown,
)
from moorage.events import ExperimentCreated, TrialStatusChanged
from moorage.filters import Comparison, Filter, Order, equal, suggest
from moorage.lock import Acquisition, process_name
from moorage.reading import (
    IN_ORDER,
    TRIAL_NAMES,
    VISIBLE,
    ExperimentOrId,
    Query,
    ReadOnlyStorage,
    TrialOrId,
    field_names,
    query_filter,
    trial_filter,
)
from moorage.records import (
    Attempt,
    Benchmark,
    Experiment,
    Measurement,
    Params,
    Resource,
    Results,
    Trial,
    check_number,
    check_text,
    derive_trial_id,
    measured,
    utcnow,
)
from moorage.running import Run
from moorage.schema import (
    ALGORITHM_LOCKS,
    ALGORITHM_STATE_CHUNKS,
    ATTEMPTS,
    BENCHMARKS,
    EXPERIMENTS,
    MEASUREMENTS,
    RESOURCES,
    TRIALS,
)
from moorage.space import param_types
from moorage.statuses import (
    ENDED,
    EXPERIMENT_TRANSITIONS,
    PENDING,
    TRIAL_TRANSITIONS,
    ExperimentStatus,
    TrialStatus,
    experiment_status,
    trial_status,
)
from moorage.waist import IN_LIMIT, write_id

if TYPE_CHECKING:
    from moorage.codec import Plain

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
_UPDATABLE_EXPERIMENT = tuple(name for name in field_names(Experiment) if name != "id")

MEASUREMENT_BATCH = 5000
"""How many measurements go to the driver at once."""


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


def _check_fields(record: type[object], fields: Mapping[str, object], known: Sequence[str]) -> None:
    for name in fields:
        if name not in known:
            raise InvalidArgument(
                f"{record.__name__} has no field {shown(name)} that can be set.{suggest(name, known)} "
                f"The fields are: {', '.join(known)}"
            )


class Storage(ReadOnlyStorage):
    """An open storage: every verb of the protocol.

    Each verb is one atomic step unless it says otherwise, and may be repeated after an error. An error of the database
    is raised as such and means that the outcome could not be found out; nothing that a verb has returned from is ever
    lost or undone.
    """

    def read_only(self) -> ReadOnlyStorage:
        """A view of this storage that has the reading verbs and nothing else; closing it closes nothing else."""
        view = ReadOnlyStorage(self.driver, **self._options)
        view._owns_driver = False
        return view

    # Experiments

    def create_experiment(
        self,
        experiment: Experiment | Mapping[str, object] | None = None,
        *,
        exist_ok: bool = False,
        **fields: object,
    ) -> Experiment:
        """Create an experiment.

        Args:
            experiment: a record or a dict of fields; or give the fields as keywords, see `Experiment`.
            exist_ok: where the name and version are taken, return what is stored: so many workers may start alike.
            **fields: win over those of ``experiment``.

        Raises:
            DuplicateExperiment: the name and version, or the id, are taken.
            InvalidArgument, InvalidType: a field is unknown or has a wrong value.
        """
        created = self._experiment_given(experiment, fields)
        document = mapping.EXPERIMENTS.document(created, deleting=False, write=None)
        while refused := self._waist.insert(EXPERIMENTS, [document]):
            taken = (
                equal(id=created.id) if refused[0].key == ("id",) else equal(name=created.name, version=created.version)
            )
            found = self._waist.find(EXPERIMENTS, taken, limit=1)
            if found and found[0].body.get("deleting"):
                self._finish_deletion(found[0].id)
            elif found and exist_ok and all(found[0].body[one] == document.body[one] for one in ("name", "version")):
                return mapping.EXPERIMENTS.record(found[0])
            elif found:
                raise DuplicateExperiment(
                    f"an experiment {created.name!r} of version {created.version} (or the id {created.id!r}) is stored "
                    "already; choose another version, or take the stored one with exist_ok=True"
                )
        if self._plugins.has_observers:
            self._tell(ExperimentCreated(experiment=created))
        return created

    def _experiment_given(
        self, experiment: Experiment | Mapping[str, object] | None, fields: Mapping[str, object]
    ) -> Experiment:
        known = field_names(Experiment)
        if isinstance(experiment, Experiment):
            _check_fields(Experiment, fields, known)
            return attrs.evolve(experiment, **fields)  # type: ignore[arg-type]  # checked by the record
        given = _fields_given("an experiment", experiment, fields)
        _check_fields(Experiment, given, known)
        if "name" not in given:
            raise MissingArguments("an experiment needs a name: create_experiment(name=…)")
        given.setdefault("heartbeat_timeout", self._options["heartbeat_timeout"])
        if "user" not in given:
            given["user"] = _user()
        return Experiment(**given)  # type: ignore[arg-type]  # checked by the record

    def update_experiment(
        self,
        experiment: ExperimentOrId = None,
        where: Query = None,
        *,
        uid: str | None = None,
        force: bool = False,
        **fields: object,
    ) -> Experiment:
        """Change fields of an experiment, if it matches ``where``; returns it as stored then.

        Args:
            experiment: the record or its id.
            where: what the stored experiment must be like.
            uid: the id, in place of ``experiment``.
            force: allow a status that the table of transitions does not.
            **fields: the new values.

        Raises:
            FailedUpdate: the stored experiment does not match ``where``.
            IllegalTransition: from its status the new one cannot be reached.
            DuplicateExperiment: the new name and version are taken.
            ExperimentNotFound: there is no such experiment.
        """
        identifier = self._experiment_id(experiment, uid)
        _check_fields(Experiment, fields, _UPDATABLE_EXPERIMENT)
        wanted = (*query_filter(where, EXPERIMENTS), *VISIBLE)
        stored = self._experiment(identifier)
        changed = attrs.evolve(stored, **fields)  # type: ignore[arg-type]  # checked by the record
        changes = mapping.EXPERIMENTS.encode({name: getattr(changed, name) for name in fields})
        if "status" in fields and not force:
            legal = tuple(str(one) for one, after in EXPERIMENT_TRANSITIONS.items() if changed.status in after)
            wanted += (Comparison("status", "in", (*legal, changed.status.value)),)
        try:
            done = self._waist.patch_one(EXPERIMENTS, identifier, wanted, changes)
        except UniqueViolation:
            raise DuplicateExperiment(
                f"an experiment {changed.name!r} of version {changed.version} is stored already; choose another"
            ) from None
        if done:
            return self._experiment(identifier)
        stored = self._experiment(identifier)
        if "status" in fields and not force and stored.status not in (*legal, changed.status.value):
            raise IllegalTransition(
                f"experiment {identifier!r} is {stored.status} and cannot become {changed.status}; force=True repairs"
            )
        raise FailedUpdate(f"experiment {identifier!r} is stored, but does not match where={where!r}")

    def start_experiment(self, experiment: ExperimentOrId = None, *, uid: str | None = None) -> Experiment:
        """Set it running; the first start is remembered in ``started``.

        Raises:
            IllegalTransition: it is finished.
        """
        stored = self._experiment(self._experiment_id(experiment, uid))
        return self.update_experiment(
            stored.id, status=ExperimentStatus.RUNNING, started=stored.started or utcnow(), ended=None
        )

    def end_experiment(
        self,
        experiment: ExperimentOrId = None,
        status: ExperimentStatus | str = ExperimentStatus.FINISHED,
        *,
        uid: str | None = None,
    ) -> Experiment:
        """End it: ``finished``, ``stopped`` or ``failed``.

        Raises:
            InvalidArgument: the status is not one of an ended experiment.
            IllegalTransition: it cannot be reached from the stored one.
        """
        after = experiment_status(status)
        ends = (ExperimentStatus.FINISHED, ExperimentStatus.STOPPED, ExperimentStatus.FAILED)
        if after not in ends:
            raise InvalidArgument(f"an experiment ends as {', '.join(ends)}, not as {after}")
        return self.update_experiment(self._experiment_id(experiment, uid), status=after, ended=utcnow())

    def delete_experiment(self, experiment: ExperimentOrId = None, *, uid: str | None = None) -> None:
        """Delete an experiment with its trials, measurements, attempts and algorithm lock.

        It is gone for every reader at once; a crash while the rest is removed leaves nothing that is seen, and the next
        deletion of it, or creation of the same name, goes on where it ended.

        Raises:
            ExperimentNotFound: there is no such experiment.
        """
        identifier = self._experiment_id(experiment, uid)
        if not self._waist.patch_one(EXPERIMENTS, identifier, (), {"deleting": True}):
            raise ExperimentNotFound(f"no experiment with the id {identifier!r} is stored")
        self._finish_deletion(identifier)

    def _finish_deletion(self, experiment: str) -> None:
        # In small steps first: others who write shall not wait until a hundred thousand trials are gone.
        self._delete_matching(experiment, equal(experiment=experiment))
        for collection in (TRIALS, MEASUREMENTS, ATTEMPTS, ALGORITHM_STATE_CHUNKS):
            self._waist.delete(collection, equal(experiment=experiment))
        self._waist.delete(ALGORITHM_LOCKS, equal(id=experiment))
        self._waist.delete(EXPERIMENTS, equal(id=experiment))

    def log_error(self, experiment: ExperimentOrId = None, message: str = "", *, uid: str | None = None) -> bool:
        """Remember why an experiment went wrong; the first message stays. Whether this was the first.

        Raises:
            ExperimentNotFound: there is no such experiment.
        """
        identifier = self._experiment_id(experiment, uid)
        text = check_text("message", message, limit=None)
        first = self._waist.patch_one(EXPERIMENTS, identifier, (*equal(error=None), *VISIBLE), {"error": text})
        if not first:
            self._require_experiment(identifier)
        return first

    # Benchmarks

    def create_benchmark(
        self, benchmark: Benchmark | Mapping[str, object] | None = None, **fields: object
    ) -> Benchmark:
        """Create a benchmark, given as a record, a dict or keywords.

        Raises:
            DuplicateBenchmark: the name is taken.
        """
        if isinstance(benchmark, Benchmark):
            _check_fields(Benchmark, fields, field_names(Benchmark))
            created = attrs.evolve(benchmark, **fields)  # type: ignore[arg-type]  # checked by the record
        else:
            given = _fields_given("a benchmark", benchmark, fields)
            _check_fields(Benchmark, given, field_names(Benchmark))
            if "name" not in given:
                raise MissingArguments("a benchmark needs a name: create_benchmark(name=…)")
            created = Benchmark(**given)  # type: ignore[arg-type]  # checked by the record
        if self._waist.insert(BENCHMARKS, [mapping.BENCHMARKS.document(created)]):
            raise DuplicateBenchmark(f"a benchmark {created.name!r} is stored already; choose another name")
        return created

    def delete_benchmark(self, benchmark: Benchmark | str | None = None, *, uid: str | None = None) -> None:
        """Delete a benchmark, given as the record or its id.

        Raises:
            BenchmarkNotFound: there is none.
        """
        self._waist.delete(BENCHMARKS, equal(id=self._benchmark_id(benchmark, uid)))

    # Trials: registration and reservation

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
        reserved = self._claim(identifier, name, _resource_name(resource))
        if reserved is None and self.recover_lost_trials(identifier):
            reserved = self._claim(identifier, name, _resource_name(resource))
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

    def _entering(self, status: TrialStatus) -> dict[str, Plain | Increment]:
        """What changes in a trial that takes this status."""
        changes: dict[str, Plain | Increment] = {"status": status.value, "pending": status in PENDING}
        if status in ENDED:
            changes["end_time"] = encode_time(utcnow())
        elif status is TrialStatus.RESERVED:
            now = encode_time(utcnow())
            changes |= {
                "start_time": now,
                "end_time": None,
                "heartbeat": now,
                "error": None,
                "token": Increment(),
            }
            changes |= self._leases.stamp()
        elif status is TrialStatus.NEW:
            changes |= {"end_time": None, "error": None}
        return changes

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
            attempt = _attempt_id(document.id, cast("int", body["token"]))
            self._waist.patch_one(ATTEMPTS, attempt, equal(outcome=None), ended)
            trial = cast("str", body["trial"])
            self._tell_status(identifier, trial, TrialStatus.RESERVED, TrialStatus.INTERRUPTED)
            recovered.append(self.get_trial(trial, identifier))
        return recovered

    def _tell_status(self, experiment: str, trial: str, before: TrialStatus | None, after: TrialStatus) -> None:
        if self._plugins.has_observers:
            self._tell(TrialStatusChanged(experiment=experiment, trial=trial, before=before, after=after))

    # Trials: changes

    def _fence(self, trial: TrialOrId, *, holder: bool = False) -> Filter:
        """The comparison that only the holder of a reservation meets.

        It is made where the caller has a reserved trial in hand, or any trial where only a ``holder`` may act.
        """
        if isinstance(trial, Trial) and (holder or trial.status is TrialStatus.RESERVED):
            return equal(token=trial.token, status=TrialStatus.RESERVED.value)
        return ()

    def _change_trial(
        self, key: tuple[str, str], wanted: Filter, fence: Filter, changes: Mapping[str, Plain | Increment]
    ) -> None:
        """Change a trial if it matches; otherwise say why it does not."""
        identifier = mapping.trial_key(*key)
        if self._waist.patch_one(TRIALS, identifier, (*wanted, *fence), changes):
            return
        stored = mapping.trial_record(self._trial_document(*key))
        if fence and (stored.status is not TrialStatus.RESERVED or stored.token != fence[0].value):
            reason = f": {stored.error}" if stored.error else ""
            raise ReservationLost(
                f"trial {stored.id!r} is no longer reserved by this caller (reservation {fence[0].value}): it is "
                f"{stored.status}, reservation {stored.token}, worker {stored.worker!r}{reason}. Nothing was written; "
                "stop working on it"
            )
        expected = ", ".join(f"{one.field} {one.operator} {one.value!r}" for one in wanted)
        raise FailedUpdate(
            f"trial {stored.id!r} is {stored.status}; the update requires {expected}. Nothing was written"
        )

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

    def _heartbeat_fields(self, moment: datetime.datetime | None) -> dict[str, Plain]:
        if moment is not None and (not isinstance(moment, datetime.datetime) or moment.utcoffset() is None):
            raise InvalidArgument(f"heartbeat must be a datetime with a time zone, not {shown(moment)}")
        return {"heartbeat": mapping.time_or_none(moment), **self._leases.stamp_at(moment)}

    def _trial_changes(self, fields: Mapping[str, object]) -> dict[str, Plain | Increment]:
        """The stored form of fields of a trial, checked as the record checks them."""
        _check_fields(Trial, fields, _UPDATABLE_TRIAL)
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

    def _delete_matching(self, experiment: str, wanted: Filter) -> int:
        """Delete the trials that match, in steps that are short for others who wait; how many."""
        names = self._iterate(TRIALS, wanted, "sequence", IN_LIMIT, lambda found: cast("str", found.body["trial"]))
        gone = 0
        while some := list(itertools.islice(names, IN_LIMIT)):
            gone += self._delete_some(experiment, wanted, some)
        return gone

    def _delete_some(self, experiment: str, wanted: Filter, trials: Sequence[str]) -> int:
        """Delete those of these trials that still match; how many."""
        gone: list[int] = [0]
        keys = tuple(mapping.trial_key(experiment, name) for name in trials)

        def delete() -> None:
            still = self._waist.find(TRIALS, (*wanted, Comparison("id", "in", keys)))
            names = tuple(cast("str", one.body["trial"]) for one in still)
            among = (*equal(experiment=experiment), Comparison("trial", "in", names))
            self._waist.delete(MEASUREMENTS, among)
            self._waist.delete(ATTEMPTS, among)
            rest = (*wanted, Comparison("id", "in", tuple(one.id for one in still)))
            gone.append(self._waist.delete(TRIALS, rest, len(still)))

        self._waist.together(delete)
        return max(gone)  # a repetition, after a commit without a reply, finds nothing left

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

    def _at_hand(self, trial: TrialOrId, experiment_uid: Experiment | str | None, uid: str | None) -> Trial:
        """The record that the caller has, or the stored one where an id is given."""
        key = self._trial_key(trial, uid, experiment_uid)
        if isinstance(trial, Trial):
            return trial if trial.experiment is not None else attrs.evolve(trial, experiment=key[0])
        return mapping.trial_record(self._trial_document(*key))

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

    # Attempts and measurements

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
        name = _resource_name(resource)
        key = mapping.trial_key(cast("str", reserved.experiment), reserved.id)
        attempt = Attempt(
            id=_attempt_id(key, reserved.token),
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
        identifier = _attempt_id(mapping.trial_key(cast("str", ended_trial.experiment), name), number)
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

    def add_measurements(
        self,
        trial: TrialOrId = None,
        measurements: Iterable[Measurement | Mapping[str, object]] = (),
        *,
        experiment_uid: Experiment | str | None = None,
        uid: str | None = None,
    ) -> int:
        """Add measurements of a trial, one or thousands in one round trip; how many.

        Args:
            trial: the record or its id. Given a reserved trial, only the holder of that reservation succeeds.
            measurements: records, or dicts as in ``{"name": "loss", "step": 3, "value": 0.7}``.
            experiment_uid: the experiment of a trial given by id.
            uid: the id, in place of ``trial``.

        Raises:
            ReservationLost: the trial was taken over, or recovered.
            TrialNotFound: there is no such trial.
            InvalidArgument: a measurement of this id belongs to another trial; all others were added.
        """
        experiment, identifier = self._trial_key(trial, uid, experiment_uid)
        if isinstance(measurements, (str, bytes, Mapping, Measurement)) or not isinstance(measurements, Iterable):
            raise InvalidType(
                f"measurements must be a list of Measurements or dicts, not {type(measurements).__name__}"
            )
        attempt = trial.token if isinstance(trial, Trial) else 0
        documents = [
            mapping.measurement_document(
                _measurement_given(one, (experiment, identifier)), experiment, identifier, attempt
            )
            for one in measurements
        ]

        def insert(some: Sequence[Document]) -> list[Document]:
            if isinstance(trial, Trial) and trial.status is TrialStatus.RESERVED:
                self._check_reserved(attrs.evolve(trial, experiment=experiment) if trial.experiment is None else trial)
            elif not self._waist.count(TRIALS, equal(id=mapping.trial_key(experiment, identifier))):
                self._trial_document(experiment, identifier)
            refused = (self._waist.get(MEASUREMENTS, one.id) for one in self._waist.insert(MEASUREMENTS, some))
            own = (experiment, identifier)
            return [one for one in refused if one and (one.body["experiment"], one.body["trial"]) != own]

        foreign: list[Document] = []
        for start in range(0, max(1, len(documents)), MEASUREMENT_BATCH):
            some = documents[start : start + MEASUREMENT_BATCH]
            foreign += self._waist.together(functools.partial(insert, some))
        if foreign:  # raised when all is done, so that a backend with transactions keeps the others, too
            raise InvalidArgument(
                f"measurement {foreign[0].id!r} was added to trial {foreign[0].body['trial']!r} already; "
                f"make another Measurement for trial {identifier!r}"
            )
        return len(documents)

    # Resources

    def add_resource(self, resource: Resource | Mapping[str, object] | None = None, **fields: object) -> Resource:
        """Add a resource that workers can take, given as a record, a dict or keywords; it is free.

        Raises:
            DuplicateResource: the name, or the id, is taken.
        """
        if isinstance(resource, Resource):
            _check_fields(Resource, fields, field_names(Resource))
            added = attrs.evolve(resource, **fields)  # type: ignore[arg-type]  # checked by the record
        else:
            given = _fields_given("a resource", resource, fields)
            _check_fields(Resource, given, field_names(Resource))
            if "name" not in given:
                raise MissingArguments("a resource needs a name: add_resource(name=…, kind=…)")
            added = Resource(**given)  # type: ignore[arg-type]  # checked by the record
        added = attrs.evolve(added, holder=None, lease=None, heartbeat=None, token=0)
        document = mapping.RESOURCES.document(added, clock=None, beat=None, write=write_id())
        if self._waist.insert(RESOURCES, [document]):
            raise DuplicateResource(f"a resource {added.name!r} (or the id {added.id!r}) is stored already")
        return added

    def remove_resource(self, resource: Resource | str) -> None:
        """Delete a resource, given as the record or its id.

        Raises:
            ResourceNotFound: there is none.
        """
        identifier = _resource_id(resource)
        if self._waist.get(RESOURCES, identifier) is None:
            raise ResourceNotFound(f"no resource with the id {identifier!r} is stored")
        self._waist.delete(RESOURCES, equal(id=identifier))

    def take_resource(
        self,
        kind: str | None = None,
        holder: str | None = None,
        lease: float = 60.0,
        *,
        id: str | None = None,  # noqa: A002
    ) -> Resource | None:
        """Take a free resource, for one holder alone; None when none is free.

        Args:
            kind: any one of this kind (the first by name).
            holder: who takes it; by default the host's name and the process id.
            lease: seconds after which it is free again unless it is renewed.
            id: this one, in place of any of a kind.

        Raises:
            MissingArguments: neither kind nor id is given.
            ResourceNotFound: there is no resource of this id.
        """
        if kind is None and id is None:
            raise MissingArguments("say which resource: kind=…, or id=…")
        wanted = () if kind is None else equal(kind=check_text("kind", kind))
        if id is not None:
            wanted += equal(id=check_text("id", id))
            if self._waist.get(RESOURCES, id) is None:
                raise ResourceNotFound(f"no resource with the id {id!r} is stored")
        name = process_name() if holder is None else check_text("holder", holder)
        seconds = check_number("lease", lease, above=0)

        def taking() -> dict[str, Plain | Increment]:
            return {
                "holder": name,
                "lease": seconds,
                "heartbeat": encode_time(utcnow()),
                "token": Increment(),
                **self._leases.stamp(),
            }

        free = (*wanted, *equal(holder=None))
        order = [Order("name")]
        taken = self._waist.claim(RESOURCES, free, taking(), order, equal(holder=name))
        if taken is not None:
            return mapping.RESOURCES.record(taken)
        for document in self._waist.find(RESOURCES, (*wanted, Comparison("holder", "!=", None)), order):
            unchanged = equal(revision=document.revision)
            if self._is_free(document) and self._waist.patch_one(RESOURCES, document.id, unchanged, taking()):
                return mapping.RESOURCES.record(cast("Document", self._waist.get(RESOURCES, document.id)))
        return None

    def _held(self, resource: Resource | str, holder: str | None) -> tuple[str, str, Filter]:
        identifier = _resource_id(resource)
        name = holder
        if name is None and isinstance(resource, Resource):
            name = resource.holder
        name = process_name() if name is None else check_text("holder", name)
        taken = isinstance(resource, Resource) and resource.holder == name
        return identifier, name, equal(holder=name, token=resource.token) if taken else equal(holder=name)  # type: ignore[union-attr]

    def _change_resource(
        self, resource: Resource | str, holder: str | None, changes: Mapping[str, Plain | Increment]
    ) -> None:
        identifier, name, wanted = self._held(resource, holder)
        if self._waist.patch_one(RESOURCES, identifier, wanted, changes):
            return
        stored = self._waist.get(RESOURCES, identifier)
        if stored is None:
            raise ResourceNotFound(f"no resource with the id {identifier!r} is stored")
        now = stored.body.get("holder")
        raise ReservationLost(
            f"resource {stored.body['name']!r} is not held by {name!r} any more, but "
            f"{'free' if now is None else f'by {now!r}'}; nothing was written"
        )

    def renew_resource(self, resource: Resource | str, holder: str | None = None, lease: float | None = None) -> None:
        """Hold a resource for another lease, counted from now.

        Args:
            resource: the record from `take_resource`, or its id.
            holder: who holds it; by default as in the record.
            lease: seconds; by default as before.

        Raises:
            ReservationLost: somebody else has it, or it is free.
        """
        changes: dict[str, Plain | Increment] = {"heartbeat": encode_time(utcnow()), **self._leases.stamp()}
        if lease is not None:
            changes["lease"] = check_number("lease", lease, above=0)
        self._change_resource(resource, holder, changes)

    def free_resource(self, resource: Resource | str, holder: str | None = None) -> None:
        """Give a resource back; only its holder can.

        Raises:
            ReservationLost: somebody else has it, or it is free.
        """
        self._change_resource(resource, holder, _FREED)

    def free_resources(self, holder: str | None = None) -> int:
        """Give back all that a holder has; how many."""
        name = process_name() if holder is None else check_text("holder", holder)
        return self._waist.patch(RESOURCES, equal(holder=name), _FREED)

    # The algorithm lock

    def initialize_algorithm_lock(
        self,
        experiment_id: Experiment | str | None = None,
        algorithm_config: object = None,
        *,
        uid: str | None = None,
    ) -> None:
        """Create the algorithm lock of an experiment, free and without a state.

        Args:
            experiment_id: the record or its id.
            algorithm_config: the configuration of the algorithm; by default the experiment's.
            uid: the id, in place of ``experiment_id``.

        Raises:
            DuplicateAlgorithmLock: there is one.
            ExperimentNotFound: there is no such experiment.
        """
        stored = self._experiment(self._experiment_id(experiment_id, uid))
        configuration = dict(stored.algorithm) if algorithm_config is None else algorithm_config
        self._locks.create(stored.id, configuration)

    def acquire_algorithm_lock(
        self,
        experiment: ExperimentOrId = None,
        timeout: float = 600,
        retry_interval: float | None = None,
        *,
        uid: str | None = None,
    ) -> Acquisition:
        """Hold the state of the algorithm, and nobody else does: a context manager giving `LockedAlgorithmState`.

        The lock is renewed in the background. When the block is left, the state that ``set_state`` was given is saved
        and the lock released, in one step; on an exception nothing is saved. A holder that dies is succeeded after the
        storage's ``lock_ttl``; one that was paused for longer gets `LockLost` and can neither save nor release.

        Whoever waits is served in the order of coming. A contender that does not take the free lock within half a
        second has lost its place, and the others queue anew.

        Args:
            experiment: the record or its id. Its lock is created if there is none.
            timeout: seconds to wait for it.
            retry_interval: the longest time between two looks, in seconds; by default 2 ms for the first in the queue,
                and up to 50 ms for the others.
            uid: the id of the experiment, in place of ``experiment``.

        Raises:
            LockAcquisitionTimeout: it was not free in time; the message names holder, age and lease.
            LockLost: on leaving the block, when another may have held the lock meanwhile; the state is untouched.
        """
        identifier = self._experiment_id(experiment, uid)
        return Acquisition(
            self._locks,
            identifier,
            lambda: dict(self._experiment(identifier).algorithm),
            timeout,
            retry_interval,
        )

    def release_algorithm_lock(
        self, experiment: ExperimentOrId = None, new_state: object = None, *, uid: str | None = None
    ) -> None:
        """Release the lock that this storage holds, before its block ends; ``new_state`` is saved in the same step.

        Raises:
            LockLost: this storage does not hold the lock.
        """
        identifier = self._experiment_id(experiment, uid)
        handle = self._locks.held.get(identifier)
        if handle is None:
            raise LockLost(
                f"the algorithm lock of experiment {identifier!r} is not held by this storage; "
                "break_algorithm_lock frees one that somebody else holds"
            )
        handle.release(new_state, save=new_state is not None)

    def delete_algorithm_lock(self, experiment: ExperimentOrId = None, *, uid: str | None = None) -> bool:
        """Delete the lock and the state; whether there was one. Whoever holds it gets `LockLost`."""
        return self._locks.delete(self._experiment_id(experiment, uid))

    def break_algorithm_lock(self, experiment: ExperimentOrId = None, *, uid: str | None = None) -> bool:
        """Free the lock, whoever holds it; the state stays as it was last saved. Whether it was held.

        For repair: whoever held it gets `LockLost`.

        Raises:
            AlgorithmLockNotFound: the experiment has none.
        """
        return self._locks.break_lock(self._experiment_id(experiment, uid))


_FREED: Mapping[str, Plain] = {"holder": None, "lease": None, "heartbeat": None, "clock": None, "beat": None}


def _fields_given(what: str, given: object, fields: Mapping[str, object]) -> dict[str, object]:
    if given is not None and not isinstance(given, Mapping):
        raise InvalidType(
            f"{what} is given as keywords, a dict or a record, not {type(given).__name__}: {shown(given)}"
        )
    return {**(given or {}), **fields}


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a process without a name for its user
        return None


def _attempt_id(trial_key: str, number: int) -> str:
    return f"{trial_key}#{number}"


def _resource_name(resource: Resource | str | None) -> str | None:
    if resource is None or isinstance(resource, Resource):
        return None if resource is None else resource.name
    return check_text("resource", resource)


def _resource_id(resource: Resource | str) -> str:
    return resource.id if isinstance(resource, Resource) else check_text("the id of a resource", resource)


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


def _measurement_given(given: Measurement | Mapping[str, object], key: tuple[str, str]) -> Measurement:
    if isinstance(given, Measurement):
        if given.experiment not in (None, key[0]) or given.trial not in (None, key[1]):
            raise ConflictingArguments(
                f"measurement {given.id!r} names trial {given.trial!r} of experiment {given.experiment!r}, "
                f"and is added to trial {key[1]!r} of experiment {key[0]!r}"
            )
        return given
    if not isinstance(given, Mapping):
        raise InvalidType(f"a measurement is a Measurement or a dict, not {type(given).__name__}: {shown(given)}")
    _check_fields(Measurement, given, ("name", "value", "step", "time"))
    if "name" not in given or "value" not in given:
        raise MissingArguments(f"a measurement needs a name and a value: {shown(dict(given))}")
    return Measurement(**{**given, "value": measured(given["value"])})  # type: ignore[arg-type]  # checked by the record
