"""Experiments: the searches that all else belongs to."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, overload

import attrs

from moorage import mapping
from moorage.driver import Document, Refusal
from moorage.errors import (
    DuplicateExperiment,
    FailedUpdate,
    IllegalTransition,
    InvalidArgument,
    MissingArguments,
    UniqueViolation,
)
from moorage.events import ExperimentCreated
from moorage.filters import Comparison, Order, equal
from moorage.protocol.asking import VISIBLE, ExperimentOrId, Query, Row, Selection, field_names, query_filter, select
from moorage.protocol.base import Base
from moorage.protocol.counters import trials_counter
from moorage.protocol.deletion import Deletion
from moorage.protocol.giving import check_fields, fields_given
from moorage.records import Experiment, check_text, utcnow
from moorage.schema import (
    ALGORITHM_LOCKS,
    ALGORITHM_STATE_CHUNKS,
    ATTEMPTS,
    COUNTERS,
    EXPERIMENTS,
    MEASUREMENTS,
    TRIALS,
)
from moorage.statuses import EXPERIMENT_TRANSITIONS, ExperimentStatus, experiment_status
from moorage.waist import write_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_UPDATABLE_EXPERIMENT = tuple(name for name in field_names(Experiment) if name not in ("id", "revision"))


class ReadExperiments(Base):
    """The verbs that read experiments."""

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


class WriteExperiments(ReadExperiments, Deletion):
    """The verbs that create, change and delete experiments."""

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
        write = write_id()
        document = mapping.EXPERIMENTS.document(created, deleting=False, incarnation=write, write=write)
        counter = Document(trials_counter(created.id), {"value": 0, "write": write})

        def insert() -> list[Refusal]:
            refused = self._waist.insert(EXPERIMENTS, [document])
            if not refused:
                self._waist.insert(COUNTERS, [counter])
            return refused

        while refused := self._waist.together(insert):
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
            check_fields(Experiment, fields, known)
            return attrs.evolve(experiment, **fields)  # type: ignore[arg-type]  # checked by the record
        given = fields_given("an experiment", experiment, fields)
        check_fields(Experiment, given, known)
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
        if_revision: int | None = None,
        **fields: object,
    ) -> Experiment:
        """Change fields of an experiment, if it matches ``where``; returns it as this change stored it.

        Args:
            experiment: the record or its id.
            where: what the stored experiment must be like.
            uid: the id, in place of ``experiment``.
            force: allow a status that the table of transitions does not.
            if_revision: the revision that must be stored now.
            **fields: the new values.

        Raises:
            FailedUpdate: the stored experiment does not match ``where`` or ``if_revision``.
            IllegalTransition: from its status the new one cannot be reached.
            DuplicateExperiment: the new name and version are taken.
            ExperimentNotFound: there is no such experiment.
        """
        identifier = self._experiment_id(experiment, uid)
        check_fields(Experiment, fields, _UPDATABLE_EXPERIMENT)
        wanted = (*query_filter(where, EXPERIMENTS), *VISIBLE, *self._revision(if_revision))
        stored = self._experiment(identifier)
        changed = attrs.evolve(stored, **fields)  # type: ignore[arg-type]  # checked by the record
        changes = mapping.EXPERIMENTS.encode({name: getattr(changed, name) for name in fields})
        legal: tuple[str, ...] = ()
        if "status" in fields and not force:
            before = (str(one) for one, after in EXPERIMENT_TRANSITIONS.items() if changed.status in after)
            legal = (*before, changed.status.value)
            wanted += (Comparison("status", "in", legal),)
        try:
            done = self._waist.change_one(EXPERIMENTS, identifier, wanted, changes)
        except UniqueViolation:
            raise DuplicateExperiment(
                f"an experiment {changed.name!r} of version {changed.version} is stored already; choose another"
            ) from None
        if done is not None:
            return mapping.EXPERIMENTS.record(done)
        stored = self._experiment(identifier)
        if legal and stored.status not in legal:
            raise IllegalTransition(
                f"experiment {identifier!r} is {stored.status} and cannot become {changed.status}; force=True repairs"
            )
        raise FailedUpdate(
            f"experiment {identifier!r} is stored (revision {stored.revision}), but does not match where={where!r}"
            + ("" if if_revision is None else f" and if_revision={if_revision}")
        )

    def start_experiment(self, experiment: ExperimentOrId = None, *, uid: str | None = None) -> Experiment:
        """Set it running; the first start is remembered in ``started``.

        Raises:
            IllegalTransition: it is finished.
        """
        stored = self._experiment(self._experiment_id(experiment, uid))
        return self.update_experiment(
            stored.id,
            status=ExperimentStatus.RUNNING,
            started=stored.started or utcnow(),
            ended=None,
            stop_requested=None,
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

    def delete_experiment(
        self, experiment: ExperimentOrId = None, *, uid: str | None = None, if_revision: int | None = None
    ) -> None:
        """Delete an experiment with its trials, measurements, attempts and algorithm lock.

        It is gone for every reader at once; a crash while the rest is removed leaves nothing that is seen, and the next
        deletion of it, or creation of the same name, goes on where it ended.

        Raises:
            ExperimentNotFound: there is no such experiment.
        """
        identifier = self._experiment_id(experiment, uid)
        wanted = self._revision(if_revision)
        write = write_id()

        def mark() -> bool:
            if not self._waist.patch_one(EXPERIMENTS, identifier, wanted, {"deleting": True}, write=write):
                return False
            # Whoever registers trials holds the counter: they are in before this, and deleted too, or they are refused.
            self._waist.delete(COUNTERS, equal(id=trials_counter(identifier)))
            return True

        if not self._waist.together(mark):
            stored = self._experiment_document(identifier)
            raise FailedUpdate(
                f"experiment {identifier!r} has revision {stored.revision}, not {if_revision}; nothing was deleted"
            )
        self._finish_deletion(identifier)

    def _finish_deletion(self, experiment: str) -> None:
        # In small steps first: others who write shall not wait until a hundred thousand trials are gone.
        self._delete_matching(experiment, equal(experiment=experiment))
        for collection in (TRIALS, MEASUREMENTS, ATTEMPTS, ALGORITHM_STATE_CHUNKS):
            self._waist.delete(collection, equal(experiment=experiment))
        self._waist.delete(ALGORITHM_LOCKS, equal(id=experiment))
        self._waist.delete(COUNTERS, equal(id=trials_counter(experiment)))
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


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a process without a name for its user
        return None
