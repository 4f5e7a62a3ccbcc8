"""The reading verbs of the protocol, and the view that has nothing else."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Self, TypeAlias, TypedDict, TypeVar, cast, overload

import attrs

from moorage import mapping
from moorage.driver import Capability, Document, Driver
from moorage.errors import (
    BenchmarkNotFound,
    ConflictingArguments,
    ExperimentNotFound,
    InvalidArgument,
    InvalidQuery,
    InvalidType,
    MissingArguments,
    TrialNotFound,
    Unsupported,
    shown,
)
from moorage.filters import Comparison, Filter, Order, equal, parse, suggest
from moorage.keeper import Keeper
from moorage.leases import Leases
from moorage.lock import AlgorithmLocks
from moorage.plugins import plugins
from moorage.records import (
    AlgorithmState,
    Attempt,
    Benchmark,
    Experiment,
    Measurement,
    Resource,
    Results,
    Trial,
    check_integer,
    check_number,
    check_text,
)
from moorage.schema import (
    ATTEMPTS,
    BENCHMARKS,
    EXPERIMENTS,
    MEASUREMENTS,
    RESOURCES,
    SCHEMA,
    TRIALS,
    Collection,
)
from moorage.statuses import PENDING, TrialStatus, trial_status
from moorage.waist import IN_LIMIT, Waist

if TYPE_CHECKING:
    from types import TracebackType

    from moorage.events import Event

Query: TypeAlias = "Mapping[str, object] | None"
"""``{"field": value}`` or ``{"field": {"$operator": value}}``; see `moorage.filters.parse`."""

Selection: TypeAlias = "Sequence[str] | None"
"""Names of fields; where given, dicts with these keys are returned in place of records."""

Row: TypeAlias = dict[str, object]
ExperimentOrId: TypeAlias = "Experiment | str | None"
TrialOrId: TypeAlias = "Trial | str | None"
T = TypeVar("T")

TRIAL_NAMES = {"id": "trial"}
VISIBLE: Filter = (Comparison("deleting", "!=", True),)
IN_ORDER = (Order("sequence"),)
"""The order of submission, without a second field: an index that ends in it must give it without sorting."""


def query_filter(
    query: Query, collection: Collection, argument: str = "where", names: Mapping[str, str] | None = None
) -> Filter:
    """A user's query as a filter; see `moorage.filters.parse`."""
    return parse(query, collection, names=names, argument=argument)


def trial_filter(experiment: str, where: Query) -> Filter:
    """A user's query about the trials of one experiment; those asked for by id are looked up by their key."""
    wanted: list[Comparison] = []
    for one in query_filter(where, TRIALS, names=TRIAL_NAMES):
        if one.field == "trial" and one.operator == "=" and isinstance(one.value, str):
            wanted.append(Comparison("id", "=", mapping.trial_key(experiment, one.value)))
        elif one.field == "trial" and one.operator == "in" and isinstance(one.value, tuple):
            keys = tuple(mapping.trial_key(experiment, name) for name in one.value if isinstance(name, str))
            wanted.append(Comparison("id", "in", keys))
        else:
            wanted.append(one)
    return tuple(wanted)


@contextlib.contextmanager
def many_objects() -> Iterator[None]:
    """Keep the garbage collector from looking through thousands of records while they are made; none is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def select(records: Iterable[object], selection: Sequence[str], known: Sequence[str]) -> list[Row]:
    """The selected fields of records, as dicts.

    Raises:
        InvalidQuery: a field that the records have not.
    """
    if isinstance(selection, str) or not isinstance(selection, Sequence):
        raise InvalidQuery(f"selection must be a list of field names, not {shown(selection)}")
    for name in selection:
        head = name.partition(".")[0] if isinstance(name, str) else ""
        if head not in known:
            raise InvalidQuery(
                f"selection names an unknown field {shown(name)}.{suggest(head, known)} "
                f"The fields are: {', '.join(known)}"
            )
    return [{name: _reach(record, name) for name in selection} for record in records]


def _reach(record: object, name: str) -> object:
    head, dot, rest = name.partition(".")
    value = getattr(record, head)
    while dot and isinstance(value, Mapping):
        if rest in value:
            return value[rest]
        head, dot, rest = rest.partition(".")
        value = value.get(head)
    return None if dot else value


def field_names(record: type[object]) -> tuple[str, ...]:
    """The public fields of a record class."""
    names: tuple[str, ...] = tuple(field.name for field in record.__attrs_attrs__)  # type: ignore[attr-defined]  # attrs
    return (*names, "objective") if record is Trial else names


def parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Slices short enough for one ``in`` comparison."""
    for start in range(0, len(values), IN_LIMIT):
        yield values[start : start + IN_LIMIT]


def check_limit(limit: int | None) -> int | None:
    """None, or a count.

    Raises:
        InvalidArgument: negative.
    """
    return None if limit is None else check_integer("limit", limit, least=0)


def _told_by_trial(attempt: Attempt, trial: Trial) -> Attempt:
    """An attempt that nobody ended, as the trial tells what became of it."""
    if attempt.number < trial.token:
        return attrs.evolve(attempt, outcome="lost")
    if trial.status is TrialStatus.RESERVED:
        return attempt
    return attrs.evolve(attempt, outcome=trial.status.value, error=trial.error, ended=trial.end_time)


class StorageOptions(TypedDict, total=False):
    """What a storage is opened with, besides its driver; in seconds."""

    lock_ttl: float
    heartbeat_timeout: float
    retry_timeout: float


class ReadOnlyStorage:
    """An open storage, to be read: every reading verb of the protocol, and nothing else.

    A verb that concerns an experiment or a trial takes the record or its id. What is returned are snapshots: each
    record is read whole, and what was acknowledged before the call is seen.

    Args:
        driver: an open driver whose collections exist; closed together with this storage.
        lock_ttl: seconds for which an algorithm lock stays held without a renewal.
        heartbeat_timeout: the default of new experiments, in seconds.
        retry_timeout: seconds during which transient errors of the database are repeated.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        lock_ttl: float = 60.0,
        heartbeat_timeout: float = 120.0,
        retry_timeout: float = 30.0,
    ) -> None:
        self._options: StorageOptions = {
            "lock_ttl": check_number("lock_ttl", lock_ttl, above=0),
            "heartbeat_timeout": check_number("heartbeat_timeout", heartbeat_timeout, above=0),
            "retry_timeout": check_number("retry_timeout", retry_timeout, least=0),
        }
        self._waist = Waist(driver, retry_timeout=retry_timeout)
        self._owns_driver = True
        self._leases = Leases(self._waist)
        self._keeper = Keeper()
        self._plugins = plugins()
        self._locks = AlgorithmLocks(self._waist, self._leases, self._keeper, lock_ttl, self._tell)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free what was opened; calling it twice is fine."""
        self._keeper.close()
        if self._owns_driver:
            self._waist.close()

    @property
    def driver(self) -> Driver:
        """The driver below, for tools that copy or check a whole storage."""
        return self._waist.driver

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the backend declares."""
        return self.driver.capabilities

    def require(self, *capabilities: Capability | str) -> None:
        """Insist on capabilities.

        Raises:
            Unsupported: the backend does not declare one of them.
            InvalidArgument: there is no such capability.
        """
        for one in capabilities:
            try:
                wanted = Capability(one if isinstance(one, str) else "")
            except ValueError:
                known = ", ".join(Capability)
                raise InvalidArgument(f"there is no capability {shown(one)}; there are {known}") from None
            if wanted not in self.capabilities:
                declared = ", ".join(sorted(self.capabilities)) or "none"
                raise Unsupported(
                    f"the {self.driver.name} backend does not declare {wanted.value!r}; it declares: {declared}"
                )

    def _tell(self, event: Event) -> None:
        self._plugins.tell(event)

    # Which record is meant

    def _experiment_id(self, experiment: ExperimentOrId, uid: str | None) -> str:
        if experiment is None and uid is None:
            raise MissingArguments("name the experiment: give the record, or its id as uid=…")
        if uid is not None and not isinstance(uid, str):
            raise InvalidType(f"uid must be the id of an experiment, a str, not {type(uid).__name__}: {shown(uid)}")
        if isinstance(experiment, Experiment):
            found = experiment.id
        elif experiment is None:
            return check_text("uid", uid)
        elif isinstance(experiment, str):
            found = check_text("the id of an experiment", experiment)
        else:
            raise InvalidType(
                f"an experiment is given as a record or an id, not {type(experiment).__name__}: {shown(experiment)}"
            )
        if uid is not None and uid != found:
            raise ConflictingArguments(f"two experiments are named, {found!r} and uid={uid!r}: give one of them")
        return found

    def _trial_key(self, trial: TrialOrId, uid: str | None, experiment_uid: Experiment | str | None) -> tuple[str, str]:
        """The ids of the experiment and the trial that are meant."""
        if trial is None and uid is None:
            raise MissingArguments("name the trial: give the record, or its id as uid=…")
        if uid is not None and not isinstance(uid, str):
            raise InvalidType(f"uid must be the id of a trial, a str, not {type(uid).__name__}: {shown(uid)}")
        wanted = None if experiment_uid is None else self._experiment_id(experiment_uid, None)
        if isinstance(trial, Trial):
            if uid is not None and uid != trial.id:
                raise ConflictingArguments(f"two trials are named, {trial.id!r} and uid={uid!r}: give one of them")
            if trial.experiment is None and wanted is None:
                raise MissingArguments(
                    f"trial {trial.id!r} belongs to no experiment yet: register it, or give experiment_uid=…"
                )
            if trial.experiment is not None and wanted is not None and trial.experiment != wanted:
                raise ConflictingArguments(
                    f"trial {trial.id!r} belongs to experiment {trial.experiment!r}, not to experiment_uid={wanted!r}"
                )
            return cast("str", trial.experiment or wanted), trial.id
        if trial is not None and not isinstance(trial, str):
            raise InvalidType(f"a trial is given as a record or an id, not {type(trial).__name__}: {shown(trial)}")
        if trial is not None and uid is not None and trial != uid:
            raise ConflictingArguments(f"two trials are named, {trial!r} and uid={uid!r}: give one of them")
        identifier = check_text("the id of a trial", trial if trial is not None else uid)
        return (wanted, identifier) if wanted is not None else (self._experiment_of(identifier), identifier)

    def _experiment_of(self, trial: str) -> str:
        """The experiment of a trial of which only the id is known."""
        prefix = mapping.trial_key("", trial)
        between = (
            Comparison("id", ">=", prefix),
            Comparison("id", "<", prefix[:-1] + chr(ord(prefix[-1]) + 1)),
        )
        found = self._waist.find(TRIALS, (*between, *equal(trial=trial)), limit=2)
        if not found:
            raise TrialNotFound(f"no trial {trial!r} is stored")
        if len(found) > 1:
            raise MissingArguments(f"several experiments have a trial {trial!r}: say which by experiment_uid=…")
        return cast("str", found[0].body["experiment"])

    def _experiment(self, identifier: str) -> Experiment:
        document = self._waist.get(EXPERIMENTS, identifier)
        if document is None or document.body.get("deleting"):
            raise ExperimentNotFound(f"no experiment with the id {identifier!r} is stored")
        return mapping.EXPERIMENTS.record(document)

    def _require_experiment(self, identifier: str) -> None:
        """An experiment that is deleted is gone for every reader, whatever a crash may have left of it."""
        if not self._waist.count(EXPERIMENTS, (*equal(id=identifier), *VISIBLE)):
            raise ExperimentNotFound(f"no experiment with the id {identifier!r} is stored")

    def _trial_document(self, experiment: str, trial: str) -> Document:
        document = self._waist.get(TRIALS, mapping.trial_key(experiment, trial))
        if document is None:
            raise TrialNotFound(f"experiment {experiment!r} has no trial {trial!r}")
        return document

    # Experiments and benchmarks

    @overload
    def fetch_experiments(self, query: Query = None, selection: None = None) -> list[Experiment]: ...
    @overload
    def fetch_experiments(self, query: Query = None, *, selection: Sequence[str]) -> list[Row]: ...
    def fetch_experiments(self, query: Query = None, selection: Selection = None) -> list[Experiment] | list[Row]:
        """The experiments that match, the oldest first.

        Args:
            query: all must hold, as in ``{"name": "digits", "version": {"$gte": 2}}``.
            selection: fields to return as dicts, in place of records.

        Raises:
            InvalidQuery: an unknown field or operator.
        """
        wanted = (*query_filter(query, EXPERIMENTS, "query"), *VISIBLE)
        found = self._waist.find(EXPERIMENTS, wanted, [Order("created"), Order("id")])
        records = [mapping.EXPERIMENTS.record(one) for one in found]
        return records if selection is None else select(records, selection, field_names(Experiment))

    def get_experiment(self, experiment: ExperimentOrId = None, *, uid: str | None = None) -> Experiment:
        """The experiment as it is stored now.

        Raises:
            ExperimentNotFound: there is none with this id.
        """
        return self._experiment(self._experiment_id(experiment, uid))

    @overload
    def fetch_benchmark(self, query: Query = None, selection: None = None) -> list[Benchmark]: ...
    @overload
    def fetch_benchmark(self, query: Query = None, *, selection: Sequence[str]) -> list[Row]: ...
    def fetch_benchmark(self, query: Query = None, selection: Selection = None) -> list[Benchmark] | list[Row]:
        """The benchmarks that match, by name.

        Raises:
            InvalidQuery: an unknown field or operator.
        """
        found = self._waist.find(BENCHMARKS, query_filter(query, BENCHMARKS, "query"), [Order("name")])
        records = [mapping.BENCHMARKS.record(one) for one in found]
        return records if selection is None else select(records, selection, field_names(Benchmark))

    def _benchmark_id(self, benchmark: Benchmark | str | None, uid: str | None) -> str:
        given = benchmark.id if isinstance(benchmark, Benchmark) else benchmark
        if given is None and uid is None:
            raise MissingArguments("name the benchmark: give the record, or its id as uid=…")
        if given is not None and uid is not None and given != uid:
            raise ConflictingArguments(f"two benchmarks are named, {given!r} and uid={uid!r}: give one of them")
        identifier = check_text("the id of a benchmark", given if given is not None else uid)
        if self._waist.get(BENCHMARKS, identifier) is None:
            raise BenchmarkNotFound(f"no benchmark with the id {identifier!r} is stored")
        return identifier

    # Trials

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

    def _iterate(
        self, collection: Collection, wanted: Filter, field: str, size: int, build: Callable[[Document], T]
    ) -> Iterator[T]:
        """Documents in order of a field that is never null, page by page."""
        after: Filter = ()
        seen: set[str] = set()
        while True:
            # A page begins with the last value of the page before, because several documents may share it.
            found = self._waist.find(collection, (*wanted, *after), [Order(field), Order("id")], size + len(seen))
            fresh = [one for one in found if one.id not in seen]
            yield from (build(one) for one in fresh)
            if len(found) < size + len(seen) or not fresh:
                return
            last = found[-1].body[field]
            after = (Comparison(field, ">=", last),)
            seen = {one.id for one in found if one.body[field] == last}

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

    # Attempts and measurements

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

    def fetch_measurements(
        self,
        trial: TrialOrId = None,
        *,
        trials: Iterable[Trial | str] | None = None,
        experiment: ExperimentOrId = None,
        name: str | None = None,
        where: Query = None,
        experiment_uid: Experiment | str | None = None,
    ) -> list[Measurement]:
        """The measurements of a trial, of several trials, or of all trials of an experiment.

        For each trial in order of name, then step, then time; trials in the order given (those of an experiment by id).

        Args:
            trial: the record or its id.
            trials: several of them.
            experiment: all of its trials.
            name: of the figure; all where None.
            where: more conditions, as in ``{"step": {"$gte": 10}}``.
            experiment_uid: the experiment of trials given by id.

        Raises:
            MissingArguments: none of the three is given.
            ConflictingArguments: more than one is.
        """
        if sum(given is not None for given in (trial, trials, experiment)) != 1:
            error = (
                MissingArguments if trial is None and trials is None and experiment is None else ConflictingArguments
            )
            raise error("measurements are asked for by one of: a trial, trials=[…], experiment=…")
        if isinstance(trials, (str, bytes, Trial)) or not (trials is None or isinstance(trials, Iterable)):
            raise InvalidType(f"trials must be a list of Trials or of their ids, not {shown(trials)}")
        wanted = query_filter(where, MEASUREMENTS)
        if name is not None:
            wanted += equal(name=check_text("name", name))
        order = [Order("trial"), Order("name"), Order("step"), Order("time"), Order("id")]
        with many_objects():
            if experiment is not None:
                identifier = self._experiment_id(experiment, None)
                found = self._waist.find(MEASUREMENTS, (*equal(experiment=identifier), *wanted), order)
                self._require_experiment(identifier)
            else:
                given = [trial] if trial is not None else list(() if trials is None else trials)
                found = self._measurements_of(given, experiment_uid, wanted, order)
            return [mapping.measurement_record(one) for one in found]

    def _measurements_of(
        self,
        trials: Sequence[Trial | str],
        experiment_uid: Experiment | str | None,
        wanted: Filter,
        order: Sequence[Order],
    ) -> list[Document]:
        keys = [self._trial_key(one, None, experiment_uid) for one in trials]
        by_experiment: dict[str, list[str]] = {}
        for experiment, identifier in keys:
            by_experiment.setdefault(experiment, []).append(identifier)
        found: dict[tuple[str, str], list[Document]] = {key: [] for key in keys}
        for experiment, identifiers in by_experiment.items():
            for some in parts(list(dict.fromkeys(identifiers))):
                among = Comparison("trial", "in", tuple(some)) if len(some) > 1 else Comparison("trial", "=", some[0])
                for one in self._waist.find(MEASUREMENTS, (*equal(experiment=experiment), among, *wanted), order):
                    found[experiment, cast("str", one.body["trial"])].append(one)
        if len(keys) == 1 and not found[keys[0]]:
            self._trial_document(*keys[0])
        return [one for key in dict.fromkeys(keys) for one in found[key]]

    # Resources and the algorithm lock

    def fetch_resources(self, kind: str | None = None, free: bool | None = None) -> list[Resource]:
        """The resources, by name.

        Args:
            kind: only of this kind.
            free: only those that can be taken now (True), or cannot (False). One whose lease has run out can be taken.
        """
        wanted = () if kind is None else equal(kind=check_text("kind", kind))
        found = self._waist.find(RESOURCES, wanted, [Order("name")])
        if free is not None:
            found = [one for one in found if self._is_free(one) == free]
        return [mapping.RESOURCES.record(one) for one in found]

    def _is_free(self, document: Document) -> bool:
        if document.body.get("holder") is None:
            return True
        lease = cast("float | None", document.body.get("lease"))
        return self._leases.age(document) > (math.inf if lease is None else lease)

    def get_algorithm_lock_info(
        self, experiment: ExperimentOrId = None, *, uid: str | None = None, state: bool = True
    ) -> AlgorithmState:
        """The state of the algorithm as it was last saved, and who holds the lock.

        Args:
            experiment: the record or its id.
            uid: the id, in place of ``experiment``.
            state: False leaves the state out (it is None then), which may be large.

        Raises:
            AlgorithmLockNotFound: the experiment has no lock yet.
        """
        identifier = self._experiment_id(experiment, uid)
        found = self._locks.info(identifier, state=state)
        self._require_experiment(identifier)
        return found

    def is_empty(self) -> bool:
        """Whether nothing at all is stored."""
        return not any(self._waist.find(collection, limit=1) for collection in SCHEMA.collections)
