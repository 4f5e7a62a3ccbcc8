"""Registration: trials come into an experiment, each with a number of its own."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, cast

import attrs

from moorage import mapping
from moorage.errors import (
    DuplicateTrial,
    ExperimentNotFound,
    FailedUpdate,
    InvalidArgument,
    InvalidType,
    MissingArguments,
    TrialLimitReached,
    UniqueViolation,
    shown,
)
from moorage.filters import Comparison, equal
from moorage.lock import process_name
from moorage.protocol.asking import ExperimentOrId, parts
from moorage.protocol.counters import Counters
from moorage.protocol.measurements import MEASUREMENT_BATCH, measurement_given
from moorage.protocol.transitions import Transitions
from moorage.records import Experiment, Measurement, Params, Trial, check_text, derive_trial_id, utcnow
from moorage.schema import ATTEMPTS, MEASUREMENTS, TRIALS
from moorage.space import param_types
from moorage.statuses import ExperimentStatus, TrialStatus
from moorage.waist import write_id

if TYPE_CHECKING:
    import datetime
    from collections.abc import Sequence

    from moorage.driver import Document


class _Sequence:
    """Places in the queue of trials: nanoseconds of this machine's wall clock, growing within the process."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def take(self, count: int = 1) -> int:
        """The first of ``count`` places in a row."""
        with self._lock:
            first = max(time.time_ns(), self._last + 1)
            self._last = first + count - 1
            return first


places = _Sequence()

LEADING_NOWHERE = (TrialStatus.BROKEN, TrialStatus.PRUNED)
"""The statuses of trials that do not count for ``max_trials``: others take their places."""

HANDING_OUT = (ExperimentStatus.CREATED.value, ExperimentStatus.RUNNING.value)
"""The statuses of an experiment that hands out trials."""


class _Occupied(Exception):
    """Some ids are taken: the transaction is undone, and run again without them."""

    def __init__(self, positions: set[int]) -> None:
        super().__init__()
        self.positions = positions


class Registration(Transitions, Counters):
    """The verbs that register trials."""

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
        reserve: bool = False,
        worker: str | None = None,
        measurements: Iterable[Iterable[Measurement | Mapping[str, object]]] | None = None,
    ) -> list[Trial]:
        """Register a batch of trials in one step; each stands or falls alone.

        The types of the params follow the experiment's space where it tells them. Trials are reserved in the order in
        which they were registered; between machines, by their wall clocks. Each gets the next number of its experiment:
        0, 1, 2, … without gaps or doubles, however many register at once.

        Args:
            experiment: the record or its id.
            trials: records, or dicts of params. A record of any status but reserved will do (one that was evaluated
                elsewhere is registered as completed, with its results).
            uid: the id of the experiment, in place of ``experiment``.
            duplicates: what to do about trials whose id the experiment has already: ``"raise"`` when all others are
                registered, or ``"skip"`` them.
            reserve: whether this worker reserves them in the same step; nobody else sees them pending.
            worker: who reserves them; by default the host's name and the process id.
            measurements: for each trial, in order, those that it has already (for what was evaluated elsewhere), stored
                in the same step; where the backend has no transactions, after it: the same call again finishes what a
                crash has left. Those of a trial that is refused are not stored.

        Returns:
            The trials that were registered, in order, as they were stored.

        Raises:
            DuplicateTrial: some were refused; all others are registered. The error names them in ``refused``.
            TrialLimitReached: the experiment's ``max_trials`` has no room for some; all others are registered. The
                error names them in ``refused``.
            ExperimentNotFound: there is no such experiment.
            FailedUpdate: they shall be reserved, and the experiment hands out nothing any more; nothing was registered.
            InvalidType: something is neither a Trial nor a dict; nothing was registered.
            InvalidArgument: there are not as many lists of measurements as trials, or a measurement belongs to another
                trial already; nothing was registered.
        """
        if not isinstance(duplicates, str) or duplicates not in ("raise", "skip"):
            raise InvalidArgument(f"duplicates must be 'raise' or 'skip', not {shown(duplicates)}")
        if isinstance(trials, (str, bytes, Mapping, Trial)) or not isinstance(trials, Iterable):
            raise InvalidType(f"trials must be a list of Trials or of dicts of params, not {type(trials).__name__}")
        identifier = self._experiment_id(experiment, uid)
        stored = experiment if isinstance(experiment, Experiment) else self._experiment(identifier)
        types = param_types(stored.space)
        given = list(trials)
        first = places.take(max(1, len(given)))
        now = utcnow()
        registered = [_trial_given(one, identifier, types, now) for one in given]
        if reserve:
            registered = [self._reserved(one, worker, now) for one in registered]
        write = write_id()
        documents = [
            mapping.trial_document(one, identifier, sequence=first + place, write=write)
            for place, one in enumerate(registered)
        ]
        if reserve:
            for document in documents:
                document.body.update(self._leases.stamp())
        batch = _Batch(identifier, documents, write, write_id(), *_measured(measurements, registered, identifier))
        for place, figures in batch.figures.items():
            documents[place].body |= {"measured": len(figures), "figures": batch.digests[place]}
        if self._waist.transactional:
            refused, beyond = self._insert_together(batch, reserve=reserve)
        else:
            refused, beyond = self._insert_apart(batch, reserve=reserve)
        left_out = refused | beyond
        kept = [
            attrs.evolve(one, number=cast("int", documents[place].body["number"]))
            for place, one in enumerate(registered)
            if place not in left_out
        ]
        if self._plugins.has_observers:
            for one in kept:
                self._tell_status(identifier, one.id, None, one.status)
        if beyond:
            names = [registered[place].id for place in sorted(beyond)]
            raise TrialLimitReached(
                f"{len(beyond)} of {len(given)} trials were not registered: experiment {identifier!r} is limited to "
                "max_trials that are completed or may still be, and has them; update_experiment(max_trials=…) allows "
                "more",
                refused=names,
            )
        if refused and duplicates == "raise":
            names = [registered[place].id for place in sorted(refused)]
            raise DuplicateTrial(
                f"{len(refused)} of {len(given)} trials are registered already in experiment {identifier!r}, "
                f"such as {registered[min(refused)].params!r:.120} (id {names[0]!r}); the others are registered. "
                "duplicates='skip' leaves them out without an error",
                refused=names,
            )
        return kept

    def _reserved(self, trial: Trial, worker: str | None, now: datetime.datetime) -> Trial:
        if trial.status is not TrialStatus.NEW:
            raise InvalidArgument(f"trial {trial.id!r} is {trial.status}, and only a new one can be reserved at once")
        name = process_name() if worker is None else check_text("worker", worker)
        return attrs.evolve(
            trial, status=TrialStatus.RESERVED, worker=name, token=trial.token + 1, start_time=now, heartbeat=now
        )

    def _insert_together(self, batch: _Batch, *, reserve: bool) -> tuple[set[int], set[int]]:
        """Insert all that can be in one transaction; the positions of taken ids, and of those beyond the limit.

        The experiment's counter is changed first: its row is the lock of all registrations of this experiment, and of
        its deletion.
        """
        refused: set[int] = batch.repeated()

        def steps() -> set[int]:
            if self._waist.repeated and self._find_written(batch):
                return set()
            chosen = [place for place in range(len(batch.documents)) if place not in refused]
            beyond: set[int] = set()
            stored = self._experiment(batch.experiment)
            if stored.max_trials is not None:  # counted while nobody else can register
                self._numbers(batch.experiment, 0, batch.locking)
                refused.update(self._stored_already(batch))  # what is there already takes no room
                chosen = [place for place in chosen if place not in refused]
                beyond = batch.beyond(chosen, self._room(stored, reserve=reserve))
                chosen = [place for place in chosen if place not in beyond]
            elif reserve:
                self._room(stored, reserve=reserve)
            if not chosen:
                return beyond
            first = self._numbers(batch.experiment, len(chosen), batch.write)
            for offset, place in enumerate(chosen):
                batch.documents[place].body["number"] = first + offset
            taken = self._waist.insert(TRIALS, [batch.documents[place] for place in chosen])
            if taken:
                raise _Occupied({chosen[one.position] for one in taken})
            self._insert_figures(batch, chosen)
            if reserve:
                self._begin_attempts([batch.documents[place] for place in chosen], batch.write)
            return beyond

        while True:
            try:
                return refused, self._waist.together(steps)
            except _Occupied as occupied:
                refused |= occupied.positions

    def _insert_apart(self, batch: _Batch, *, reserve: bool) -> tuple[set[int], set[int]]:
        """The same without transactions: the unique key gives each number, so a crash on the way leaves no gap."""
        incarnation = self._incarnation(batch.experiment)
        refused = batch.repeated() | self._stored_already(batch)
        pending = [place for place in range(len(batch.documents)) if place not in refused]
        beyond = batch.beyond(pending, self._room(self._experiment(batch.experiment), reserve=reserve))
        pending = [place for place in pending if place not in beyond]
        self._refuse_foreign(batch, pending)
        inserted: list[int] = []
        gaps: list[int] = []
        while pending:
            first = self._next_free_number(batch.experiment)
            for offset, place in enumerate(pending):
                batch.documents[place].body["number"] = first + offset
            taken = {
                pending[one.position]: one.key
                for one in self._waist.insert(TRIALS, [batch.documents[place] for place in pending])
            }
            for place in pending:
                if taken.get(place) == ("id",):
                    refused.add(place)
                    gaps.append(cast("int", batch.documents[place].body["number"]))
                elif place not in taken:
                    inserted.append(place)
            pending = [place for place, key in taken.items() if key != ("id",)]
        self._insert_figures(batch, [*inserted, *self._of_the_same_call(batch, refused)])
        self._close_gaps(batch, inserted, gaps)
        if self._incarnation(batch.experiment, required=False) != incarnation:
            self._take_back(batch, inserted)
            raise ExperimentNotFound(f"experiment {batch.experiment!r} was deleted meanwhile; nothing was registered")
        room = self._room(self._experiment(batch.experiment), reserve=False)
        if room is not None and room < 0:
            late = [place for place in inserted if batch.counts(place)][room:]
            self._take_back(batch, late)
            beyond |= set(late)
        if reserve:
            self._begin_attempts([batch.documents[place] for place in inserted if place not in beyond], batch.write)
        return refused, beyond

    def _find_written(self, batch: _Batch) -> bool:
        """Whether an earlier try of this batch was committed; its numbers are then taken over."""
        found: dict[str, Document] = {}
        for some in parts([one.id for one in batch.documents]):
            for one in self._waist.find(TRIALS, (Comparison("id", "in", tuple(some)), *equal(write=batch.write))):
                found[one.id] = one
        for one in batch.documents:
            if one.id in found:
                one.body["number"] = found[one.id].body["number"]
        return bool(found)

    def _stored_already(self, batch: _Batch) -> set[int]:
        stored = {
            one.id
            for some in parts([one.id for one in batch.documents])
            for one in self._waist.find(TRIALS, (Comparison("id", "in", tuple(some)),))
        }
        return {place for place, one in enumerate(batch.documents) if one.id in stored}

    def _room(self, experiment: Experiment, *, reserve: bool) -> int | None:
        """How many more trials ``max_trials`` allows; None where there is no bound."""
        if reserve and not hands_out(experiment):
            raise FailedUpdate(f"experiment {experiment.id!r} is {why_not(experiment)} and hands out nothing")
        if experiment.max_trials is None:
            return None
        counts = self._waist.tally(TRIALS, equal(experiment=experiment.id), "status")
        nowhere = sum(counts.get(status.value, 0) for status in LEADING_NOWHERE)
        return experiment.max_trials - (sum(counts.values()) - nowhere)

    def _incarnation(self, experiment: str, *, required: bool = True) -> tuple[object, object] | None:
        """What tells an experiment from another one of the same id, created after it was deleted."""
        try:
            stored = self._experiment_document(experiment)
        except ExperimentNotFound:
            if required:
                raise
            return None
        return stored.body.get("incarnation"), stored.body.get("created")

    def _close_gaps(self, batch: _Batch, inserted: list[int], gaps: Sequence[int]) -> None:
        """Give one's own last trials the numbers of those that somebody else registered in the middle of the batch."""
        for gap in sorted(gaps):
            last = max(inserted, key=lambda place: cast("int", batch.documents[place].body["number"]), default=None)
            if last is None or cast("int", batch.documents[last].body["number"]) < gap:
                return
            document = batch.documents[last]
            unchanged = equal(number=document.body["number"])
            with contextlib.suppress(UniqueViolation):  # somebody else has closed it
                if self._waist.patch_one(TRIALS, document.id, unchanged, {"number": gap}):
                    document.body["number"] = gap

    def _take_back(self, batch: _Batch, positions: Sequence[int]) -> None:
        """Delete those that this batch has inserted; never one of the same id that somebody else registers."""
        if not positions:
            return
        ours = [cast("int", one.body["sequence"]) for one in batch.documents]
        places = (Comparison("sequence", ">=", min(ours)), Comparison("sequence", "<=", max(ours)))
        for some in parts([batch.documents[place].id for place in positions]):
            among = Comparison("id", "in", tuple(some))
            self._waist.delete(TRIALS, (among, *equal(experiment=batch.experiment), *places))
        self._delete_figures(batch, positions)

    def _insert_figures(self, batch: _Batch, positions: Sequence[int]) -> None:
        """Insert the measurements of these trials.

        Raises:
            InvalidArgument: one of them is another trial's.
        """
        figures = [one for place in positions for one in batch.figures.get(place, ())]
        for start in range(0, len(figures), MEASUREMENT_BATCH):
            some = figures[start : start + MEASUREMENT_BATCH]
            if refused := self._waist.insert(MEASUREMENTS, some):
                self._check_owners({some[one.position].id: some[one.position] for one in refused})

    def _refuse_foreign(self, batch: _Batch, positions: Sequence[int]) -> None:
        """The same check before anything is written, where there are no transactions."""
        self._check_owners({one.id: one for place in positions for one in batch.figures.get(place, ())})

    def _check_owners(self, figures: Mapping[str, Document]) -> None:
        for some in parts(list(figures)):
            for stored in self._waist.find(MEASUREMENTS, (Comparison("id", "in", tuple(some)),)):
                ours = figures[stored.id].body
                if (stored.body["experiment"], stored.body["trial"]) != (ours["experiment"], ours["trial"]):
                    raise InvalidArgument(
                        f"measurement {stored.id!r} was added to trial {stored.body['trial']!r} already; make another "
                        f"Measurement for trial {ours['trial']!r}. Nothing was registered"
                    )

    def _of_the_same_call(self, batch: _Batch, refused: Iterable[int]) -> list[int]:
        """The refused ones that a call with the same measurements registered: it may have died before it wrote them."""
        places = {batch.documents[place].id: place for place in refused if place in batch.figures}
        return [
            places[one.id]
            for some in parts(list(places))
            for one in self._waist.find(TRIALS, (Comparison("id", "in", tuple(some)),))
            if one.body.get("figures") == batch.documents[places[one.id]].body["figures"]
        ]

    def _delete_figures(self, batch: _Batch, positions: Iterable[int]) -> None:
        """Delete the measurements of trials that are taken back."""
        names = [one.id for place in positions for one in batch.figures.get(place, ())]
        for some in parts(names):
            self._waist.delete(MEASUREMENTS, (Comparison("id", "in", tuple(some)),))

    def _begin_attempts(self, documents: Sequence[Document], write: str) -> None:
        """Note that the executions of reserved trials begin."""
        self._waist.insert(ATTEMPTS, [mapping.attempt_document(one, write=write) for one in documents])


@attrs.define
class _Batch:
    """Trials that are registered together."""

    experiment: str
    documents: list[Document]
    write: str
    locking: str
    """The id of the change that only locks the counter: each change has one of its own, or a repetition takes the later
    one for done."""
    figures: Mapping[int, Sequence[Document]]
    """The measurements of those that have some, by their positions."""
    digests: Mapping[int, str]
    """What tells them from others."""

    def repeated(self) -> set[int]:
        """The positions of documents whose id an earlier one of the batch has."""
        first: dict[str, int] = {}
        return {place for place, one in enumerate(self.documents) if first.setdefault(one.id, place) != place}

    def beyond(self, positions: Sequence[int], room: int | None) -> set[int]:
        """Those of these positions for which there is no room."""
        return set() if room is None else set([one for one in positions if self.counts(one)][max(0, room) :])

    def counts(self, place: int) -> bool:
        """Whether this one counts for ``max_trials``."""
        return self.documents[place].body["status"] not in LEADING_NOWHERE


def why_not(experiment: Experiment) -> str:
    """Why an experiment hands out nothing, in a word."""
    return "asked to stop" if experiment.stop_requested is not None else str(experiment.status)


def hands_out(experiment: Experiment) -> bool:
    """Whether an experiment hands out trials: it has not ended, and nobody asked it to stop."""
    return experiment.stop_requested is None and experiment.status in HANDING_OUT


def _measured(
    measurements: Iterable[Iterable[Measurement | Mapping[str, object]]] | None,
    trials: Sequence[Trial],
    experiment: str,
) -> tuple[dict[int, list[Document]], dict[int, str]]:
    """The documents of the measurements that trials are registered with, and what tells them from others, by place."""
    if measurements is None:
        return {}, {}
    if isinstance(measurements, (str, bytes, Mapping)) or not isinstance(measurements, Iterable):
        raise InvalidType(f"measurements must be a list for each trial, not {type(measurements).__name__}")
    lists = list(measurements)
    if len(lists) != len(trials):
        raise InvalidArgument(f"there are {len(lists)} lists of measurements for {len(trials)} trials")
    figures: dict[int, list[Document]] = {}
    digests: dict[int, str] = {}
    for place, (trial, some) in enumerate(zip(trials, lists, strict=True)):
        if isinstance(some, (str, bytes, Mapping, Measurement)) or not isinstance(some, Iterable):
            raise InvalidType(f"measurements must be a list for each trial, not {type(some).__name__}")
        given = list(some)
        key = (experiment, trial.id)
        records = [measurement_given(one, key) for one in given]
        digests[place] = digest = _digest(mapping.trial_key(*key), records)
        for position, (one, record) in enumerate(zip(given, records, strict=True)):
            if not isinstance(one, Measurement):  # an id of its own place, so that a repeated call adds nothing
                record = attrs.evolve(record, id=f"{digest}-{position}")
            attempt = record.attempt or trial.token
            document = mapping.measurement_document(record, *key, attempt, position)
            figures.setdefault(place, []).append(document)
    return figures, digests


def _digest(key: str, measurements: Sequence[Measurement]) -> str:
    """What tells these measurements of a trial from others."""
    told = [key, *(repr((one.name, one.step, one.value)) for one in measurements)]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]


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
        return attrs.evolve(given, id=identifier, experiment=experiment, params=params, number=None)
    if not isinstance(given, Mapping):
        raise InvalidType(f"a trial is a Trial or a dict of params, not {type(given).__name__}: {shown(given)}")
    return Trial(params=Params(given, types), experiment=experiment, submit_time=now)
