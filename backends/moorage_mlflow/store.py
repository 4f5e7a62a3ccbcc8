"""The same verbs on MLflow's own SQL store, in this process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tenacity

from moorage import forks
from moorage.errors import (
    ConfigurationError,
    MoorageError,
    OutcomeUnknown,
    StorageDamaged,
    StorageReadOnly,
    Unavailable,
)
from moorage_mlflow.link import CREATION, Found, Link, Refused, from_server, search_filter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from moorage_mlflow.picture import Metric

T = TypeVar("T")

_LOCK_KEY = 4_812_099_315
_CREATION = 120
"""Seconds to wait for another process that creates MLflow's tables."""

_DAMAGED = ("malformed", "not a database", "Could not decode")
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EEXIST)


class _Connections:
    """The connections of MLflow, which all stores of this process share, across a fork.

    A fork copies SQLite's notes on the locks that this process holds, but not the locks. A child that opened the same
    file would wait for a lock that nobody has, or write without one. So nothing is open while the process forks.
    """

    def __init__(self) -> None:
        self.calls = forks.Calls()
        self.is_broken = False
        self._is_quiet = True
        forks.watch(self)

    def before_fork(self) -> None:
        """Wait a little for the calls of other threads, and close the connections."""
        self._is_quiet = self.calls.hold()
        for engine in self._engines():
            engine.dispose(close=self._is_quiet)

    def after_fork_in_parent(self) -> None:
        """Let calls begin again."""
        self.calls.release()

    def after_fork_in_child(self) -> None:
        """Begin anew; where a call was under way, files stay out of reach."""
        self.calls.reset()
        self.is_broken = self.is_broken or not self._is_quiet

    def _engines(self) -> list[Any]:
        module = sys.modules.get("mlflow.store.tracking.sqlalchemy_store")
        return [] if module is None else list(module.SqlAlchemyStore._engine_map.values())


_connections = _Connections()


def exists(file: Path, shown: str) -> bool:
    """Whether there is a file.

    Raises:
        ConfigurationError: there cannot be one of this name.
    """
    try:
        return file.exists()
    except OSError as error:
        raise ConfigurationError(f"{shown:.200} cannot be opened: {error.strerror}; choose another path") from error


class StoreLink(Link):
    """MLflow's store in a SQL database, opened in this process.

    Args:
        uri: as MLflow takes it.
        shown: the same without secrets.
        file: the file of a SQLite database.
        artifacts: where MLflow keeps the files of runs; this backend writes none.
        read_only: create nothing, not even the tables of MLflow.
    """

    def __init__(self, uri: str, shown: str, *, file: Path | None, artifacts: str, read_only: bool) -> None:
        self.shown = shown
        self._uri, self._file, self._artifacts, self._read_only = uri, file, artifacts, read_only
        self._store = self._open()

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        if self._file is not None and _connections.is_broken:
            raise Unavailable(
                f"{self.shown} was in use when this process was forked, and SQLite's locks do not survive that: start "
                "worker processes with the spawn method, or fork while no other thread uses the storage"
            )
        with _connections.calls.running():
            yield

    def _open(self) -> Any:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        if self._file is not None:
            self._check(self._file)
        with self._running():
            try:
                with self._first_use(SqlAlchemyStore):
                    store = SqlAlchemyStore(self._uri, self._artifacts)
                self._tune(store.engine)
            except BaseException as error:
                # What cannot be used may be replaced by something that can.
                if (engine := SqlAlchemyStore._engine_map.get(self._uri)) is not None:
                    engine.dispose()
                if isinstance(error, (MoorageError, ModuleNotFoundError)) or not isinstance(error, Exception):
                    raise
                raise self._unusable(error) from error
        return store

    def _check(self, file: Path) -> None:
        """Refuse a file that cannot be opened at once; MLflow would try it again for minutes."""
        if not exists(file, self.shown):
            if self._read_only:
                raise StorageDamaged(f"{self.shown} does not exist, and it was opened read-only")
            if not file.parent.is_dir():
                raise ConfigurationError(f"the folder of {self.shown} does not exist; create it first")
        elif not file.is_file():
            raise ConfigurationError(f"{self.shown} is no file; choose another path")
        elif not os.access(file, os.R_OK):
            raise StorageReadOnly(f"{self.shown} cannot be read by this user; check its permissions")

    def _unusable(self, error: Exception) -> MoorageError:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        if (known := from_server(text, self.shown, writing=False)) is not None:
            return known
        if self._file is not None and self._file.exists():
            return StorageDamaged(f"{self.shown} cannot be opened as a store of MLflow: {text:.200}")
        return Unavailable(f"{self.shown} cannot be opened as a store of MLflow: {text:.200}")

    @contextlib.contextmanager
    def _first_use(self, stores: Any) -> Iterator[None]:
        """One process at a time: MLflow's migrations fail when two meet in a fresh database."""
        if self._is_complete(stores):
            yield
            return
        if self._read_only:
            raise StorageDamaged(f"{self.shown} is no store of MLflow, and it was opened read-only")
        if self._file is None:
            with self._alone_with(stores._get_or_create_engine(self._uri)):
                yield
            return
        with self._alone_beside(self._file):
            if not self._file.exists():
                self._create(self._file, stores)
            yield

    def _is_complete(self, stores: Any) -> bool:
        """Whether all tables are there, and the experiment that MLflow puts into fresh ones."""
        from mlflow.store.db import utils

        # An engine for a file that is missing creates it.
        if self._file is not None and not (self._file.exists() and self._file.stat().st_size):
            return False
        engine = stores._get_or_create_engine(self._uri)
        if not utils._all_tables_exist(engine):
            return False
        with engine.connect() as connection:
            return connection.exec_driver_sql("SELECT 1 FROM experiments LIMIT 1").scalar() is not None

    @contextlib.contextmanager
    def _alone_beside(self, file: Path) -> Iterator[None]:
        with file.with_name(f"{file.name}.first-use").open("w") as guard:
            retrying = tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(BlockingIOError),
                wait=tenacity.wait_fixed(0.05),
                stop=tenacity.stop_after_delay(_CREATION),
            )
            try:
                retrying(fcntl.flock, guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except tenacity.RetryError as error:
                raise Unavailable(
                    f"{self.shown}: another process has been creating MLflow's tables for {_CREATION} s; "
                    "if it is stopped, end it and try again"
                ) from error
            yield
            Path(guard.name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone_with(self, engine: Any) -> Iterator[None]:
        take, give = {
            "postgresql": ("SELECT pg_advisory_lock(%d)", "SELECT pg_advisory_unlock(%d)"),
            "mysql": (f"SELECT GET_LOCK('%d', {_CREATION})", "SELECT RELEASE_LOCK('%d')"),
        }.get(engine.dialect.name, ("SELECT %d", "SELECT %d"))
        with engine.connect() as connection:
            connection.exec_driver_sql(take % _LOCK_KEY)
            try:
                yield
            finally:
                connection.exec_driver_sql(give % _LOCK_KEY)

    def _create(self, file: Path, stores: Any) -> None:
        """Make a fresh file, whole or not at all.

        MLflow makes its tables in many steps, and refuses what is left of them when they were cut short. So they are
        made in a file beside, which gets its name in the end; where the disk knows no links, they are made in place.
        """
        from sqlalchemy import event

        beside = file.with_name(f"{file.name}.first-use.db")
        parts = [beside, *(beside.with_name(f"{beside.name}-{kind}") for kind in ("journal", "wal", "shm"))]
        for one in parts:
            one.unlink(missing_ok=True)
        uri = f"sqlite:///{beside}"
        try:
            engine = stores._get_or_create_engine(uri)
            event.listen(engine, "connect", _hasten)
            engine.dispose()
            self._tune(stores(uri, self._artifacts).engine)
            engine.dispose()
            _synchronize(beside)
            try:
                os.link(beside, file)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return
            _synchronize(file.parent)
        finally:
            if (engine := stores._engine_map.pop(uri, None)) is not None:
                engine.dispose()
            for one in parts:
                one.unlink(missing_ok=True)

    def _tune(self, engine: Any) -> None:
        """A write-ahead log, so that readers and the writer do not wait for each other."""
        if engine.dialect.name != "sqlite":
            return
        with engine.connect() as connection:
            if not self._read_only and connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            self.durable = connection.exec_driver_sql("PRAGMA synchronous").scalar() >= 2  # FULL

    def _call(self, action: Callable[[Any], T], *, writing: bool) -> T:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self._running():
                return action(self._store)
        except MlflowException as error:
            message, code = str(error.message), str(error.error_code)
            if (known := self._known(message, writing=writing)) is not None:
                raise known from error
            if code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"):
                kind = OutcomeUnknown if writing else Unavailable
                raise kind(f"{self.shown} failed: {message:.200}") from error
            raise Refused(code, message) from error
        except SQLAlchemyError as error:
            if (known := self._known(str(error), writing=writing)) is not None:
                raise known from error
            raise (OutcomeUnknown if writing else Unavailable)(f"{self.shown} failed: {error!s:.200}") from error

    def _known(self, message: str, *, writing: bool) -> MoorageError | None:
        """What an error of the database means, where its text says something that is known."""
        if "readonly database" in message or "read-only" in message:
            return StorageReadOnly(f"{self.shown} cannot be written by this user")
        if any(word in message for word in _DAMAGED):
            return StorageDamaged(f"{self.shown} is damaged: {message:.200}")
        return from_server(message, self.shown, writing=writing)

    def create_experiment(self, name: str, tags: Mapping[str, str]) -> str:
        """See `Link.create_experiment`."""
        from mlflow.entities import ExperimentTag

        given = [ExperimentTag(key, value) for key, value in tags.items()]
        return str(self._call(lambda store: store.create_experiment(name, tags=given), writing=True))

    def experiment(self, name: str) -> Found | None:
        """See `Link.experiment`."""
        found = self._call(lambda store: store.get_experiment_by_name(name), writing=False)
        if found is None:
            return None
        return Found(str(found.experiment_id), found.lifecycle_stage == "active", dict(found.tags))

    def rename_experiment(self, identifier: str, name: str) -> None:
        """See `Link.rename_experiment`."""
        self._call(lambda store: store.rename_experiment(identifier, name), writing=True)

    def tag_experiment(self, identifier: str, name: str, value: str) -> None:
        """See `Link.tag_experiment`."""
        from mlflow.entities import ExperimentTag

        self._call(lambda store: store.set_experiment_tag(identifier, ExperimentTag(name, value)), writing=True)

    def delete_experiment(self, identifier: str) -> None:
        """See `Link.delete_experiment`."""
        self._call(lambda store: store.delete_experiment(identifier), writing=True)

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str], start: int) -> str:
        """See `Link.create_run`."""
        from mlflow.entities import RunTag

        given = [RunTag(key, value) for key, value in {**tags, CREATION: secrets.token_hex(8)}.items()]
        created = self._call(
            lambda store: store.create_run(experiment, tags.get("mlflow.user", ""), start, given, name), writing=True
        )
        return str(created.info.run_id)

    def params(self, run: str) -> dict[str, str] | None:
        """See `Link.params`."""
        try:
            return dict(self._call(lambda store: store.get_run(run), writing=False).data.params)
        except Refused as error:
            if error.code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def log_param(self, run: str, name: str, value: str) -> None:
        """See `Link.log_param`."""
        from mlflow.entities import Param

        self._call(lambda store: store.log_param(run, Param(name, value)), writing=True)

    def log_batch(
        self,
        run: str,
        *,
        params: Mapping[str, str] | None = None,
        metrics: Sequence[Metric] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """See `Link.log_batch`."""
        from mlflow.entities import Metric as Entity
        from mlflow.entities import Param, RunTag

        self._call(
            lambda store: store.log_batch(
                run,
                [Entity(one.name, one.value, one.time, one.step) for one in metrics],
                [Param(key, value) for key, value in (params or {}).items()],
                [RunTag(key, value) for key, value in (tags or {}).items()],
            ),
            writing=True,
        )

    def update_run(self, run: str, status: str, end: int | None) -> None:
        """See `Link.update_run`."""
        from mlflow.entities import RunStatus

        self._call(lambda store: store.update_run_info(run, RunStatus.from_string(status), end, None), writing=True)

    def delete_run(self, run: str) -> None:
        """See `Link.delete_run`."""
        self._call(lambda store: store.delete_run(run), writing=True)

    def find_runs(self, experiment: str, tag: str, value: str) -> list[str]:
        """See `Link.find_runs`."""
        from mlflow.entities import ViewType

        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        found = self._call(
            lambda store: store.search_runs(
                [experiment], search_filter(tag, value), ViewType.ACTIVE_ONLY, max_results=100, order_by=order
            ),
            writing=False,
        )
        return [str(one.info.run_id) for one in found]

    def store_kind(self) -> str | None:
        """See `Link.store_kind`."""
        return "SqlStore"

    def close(self) -> None:
        """See `Link.close`."""
        with _connections.calls.running():
            self._store.engine.dispose()


def _hasten(connection: Any, _: object) -> None:
    """MLflow's tables take a thousand commits; of a file that has no name yet nothing need survive."""
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA journal_mode = MEMORY")


def _synchronize(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
