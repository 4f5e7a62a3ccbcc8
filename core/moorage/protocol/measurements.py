"""Measurements: the figures that a trial reports on its way."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from moorage import mapping
from moorage.errors import ConflictingArguments, InvalidArgument, InvalidType, MissingArguments, shown
from moorage.filters import Comparison, Filter, Order, equal
from moorage.protocol.asking import ExperimentOrId, Query, TrialOrId, many_objects, parts, query_filter
from moorage.protocol.attempts import WriteAttempts
from moorage.protocol.base import Base
from moorage.protocol.giving import check_fields
from moorage.records import Experiment, Measurement, Trial, check_text, measured
from moorage.schema import MEASUREMENTS
from moorage.waist import write_id

if TYPE_CHECKING:
    from moorage.driver import Document

MEASUREMENT_BATCH = 5000
"""How many measurements go to the driver at once."""


class ReadMeasurements(Base):
    """The verb that reads measurements."""

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

        For each trial in order of name, step, attempt and writing; trials in the order given (those of an experiment by
        id).

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
        order = [
            Order("trial"),
            Order("name"),
            Order("step"),
            Order("attempt"),
            Order("sequence"),
            Order("time"),
            Order("id"),
        ]
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


class WriteMeasurements(WriteAttempts, ReadMeasurements):
    """The verb that adds measurements."""

    def add_measurements(
        self,
        trial: TrialOrId = None,
        measurements: Iterable[Measurement | Mapping[str, object]] = (),
        *,
        experiment_uid: Experiment | str | None = None,
        uid: str | None = None,
        token: int | None = None,
    ) -> int:
        """Add measurements of a trial, one or thousands in one round trip; how many.

        The trial admits them first, under its reservation, and counts them: so none is stored that somebody added whose
        reservation had ended, and the order of writing is known without any clock.

        Args:
            trial: the record or its id. Given a reserved trial, only the holder of that reservation succeeds.
            measurements: records, or dicts as in ``{"name": "loss", "step": 3, "value": 0.7}``.
            experiment_uid: the experiment of a trial given by id.
            uid: the id, in place of ``trial``.
            token: of the reservation, for a caller who has only the id; only its holder succeeds then.

        Raises:
            EncodingError: the metadata of a measurement cannot be stored.
            ReservationLost: the trial was taken over, or recovered.
            TrialNotFound: there is no such trial.
            InvalidArgument: a measurement of this id belongs to another trial; all others were added.
        """
        experiment, identifier = self._trial_key(trial, uid, experiment_uid)
        if isinstance(measurements, (str, bytes, Mapping, Measurement)) or not isinstance(measurements, Iterable):
            raise InvalidType(
                f"measurements must be a list of Measurements or dicts, not {type(measurements).__name__}"
            )
        key = (experiment, identifier)
        documents = [
            mapping.measurement_document(measurement_given(one, key), experiment, identifier, 0) for one in measurements
        ]
        self._insert_measurements(key, self._fence(trial, token=token), documents)
        return len(documents)

    def _insert_measurements(self, key: tuple[str, str], fence: Filter, documents: Sequence[Document]) -> Document:
        """Insert measurements of a trial that admits them; the trial as it was then.

        They belong to the attempt during which, or after which, the trial admits them, whatever the caller knows of it.
        """

        def insert(some: Sequence[Document], write: str) -> tuple[Document, list[Document]]:
            held = self._hold(key, fence, len(some), write)
            first = cast("int", held.body["measured"]) - len(some)
            for offset, one in enumerate(some):
                one.body["attempt"] = held.body["token"]
                one.body["sequence"] = first + offset
            refused = (self._waist.get(MEASUREMENTS, one.id) for one in self._waist.insert(MEASUREMENTS, some))
            return held, [one for one in refused if one and (one.body["experiment"], one.body["trial"]) != key]

        foreign: list[Document] = []
        for start in range(0, max(1, len(documents)), MEASUREMENT_BATCH):
            some = documents[start : start + MEASUREMENT_BATCH]
            held, others = self._waist.together(functools.partial(insert, some, write_id()), settled=False)
            foreign += others
        if foreign:  # raised when all is done, so that a backend with transactions keeps the others, too
            raise InvalidArgument(
                f"measurement {foreign[0].id!r} was added to trial {foreign[0].body['trial']!r} already; "
                f"make another Measurement for trial {key[1]!r}"
            )
        return held


def measurement_given(given: Measurement | Mapping[str, object], key: tuple[str, str]) -> Measurement:
    """The record of a measurement of this trial, told by the ids of its experiment and itself."""
    if isinstance(given, Measurement):
        if given.experiment not in (None, key[0]) or given.trial not in (None, key[1]):
            raise ConflictingArguments(
                f"measurement {given.id!r} names trial {given.trial!r} of experiment {given.experiment!r}, "
                f"and is added to trial {key[1]!r} of experiment {key[0]!r}"
            )
        return given
    if not isinstance(given, Mapping):
        raise InvalidType(f"a measurement is a Measurement or a dict, not {type(given).__name__}: {shown(given)}")
    check_fields(Measurement, given, ("name", "value", "step", "time", "metadata"))
    if "name" not in given or "value" not in given:
        raise MissingArguments(f"a measurement needs a name and a value: {shown(dict(given))}")
    return Measurement(**{**given, "value": measured(given["value"])})  # type: ignore[arg-type]  # checked by the record
