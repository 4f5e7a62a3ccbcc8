"""What every room of the protocol stands on: the open driver, and which record is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypedDict, cast

from moorage import mapping
from moorage.driver import Capability, Document, Driver
from moorage.errors import (
    ConflictingArguments,
    ExperimentNotFound,
    InvalidArgument,
    InvalidType,
    MissingArguments,
    TrialNotFound,
    Unsupported,
    shown,
)
from moorage.filters import Comparison, Filter, Order, equal
from moorage.keeper import Keeper
from moorage.leases import Leases
from moorage.lock import AlgorithmLocks
from moorage.plugins import plugins
from moorage.protocol.asking import VISIBLE, ExperimentOrId, T, TrialOrId
from moorage.records import Experiment, Trial, check_integer, check_number, check_text
from moorage.schema import EXPERIMENTS, SCHEMA, TRIALS, Collection
from moorage.waist import Waist

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from moorage.events import Event


class StorageOptions(TypedDict, total=False):
    """What a storage is opened with, besides its driver; in seconds."""

    lock_ttl: float
    heartbeat_timeout: float
    retry_timeout: float


class Base:
    """An open storage, without a verb yet.

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

    def _experiment_document(self, identifier: str) -> Document:
        document = self._waist.get(EXPERIMENTS, identifier)
        if document is None or document.body.get("deleting"):
            raise ExperimentNotFound(f"no experiment with the id {identifier!r} is stored")
        return document

    def _experiment(self, identifier: str) -> Experiment:
        return mapping.EXPERIMENTS.record(self._experiment_document(identifier))

    def _require_experiment(self, identifier: str) -> None:
        """An experiment that is deleted is gone for every reader, whatever a crash may have left of it."""
        if not self._waist.count(EXPERIMENTS, (*equal(id=identifier), *VISIBLE)):
            raise ExperimentNotFound(f"no experiment with the id {identifier!r} is stored")

    @staticmethod
    def _revision(expected: int | None) -> Filter:
        """The comparison of ``if_revision``."""
        return () if expected is None else equal(revision=check_integer("if_revision", expected, least=1))

    def _trial_document(self, experiment: str, trial: str) -> Document:
        document = self._waist.get(TRIALS, mapping.trial_key(experiment, trial))
        if document is None:
            raise TrialNotFound(f"experiment {experiment!r} has no trial {trial!r}")
        return document

    def _iterate(
        self, collection: Collection, wanted: Filter, field: str, size: int, build: Callable[[Document], T]
    ) -> Iterator[T]:
        """Documents in order of a field, page by page; those where it is null come first."""
        yield from (build(one) for one in self._waist.find(collection, (*wanted, *equal(**{field: None}))))
        after: Filter = (Comparison(field, "!=", None),)
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

    def is_empty(self) -> bool:
        """Whether nothing at all is stored."""
        return not any(self._waist.find(collection, limit=1) for collection in SCHEMA.collections)
