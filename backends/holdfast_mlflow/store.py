"""The same verbs on MLflow's own SQL store, in this process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.errors import (
    ConfigurationError,
    HoldfastError,
    OutcomeUnknown,
    StorageDamaged,
    StorageReadOnly,
    Unavailable,
)
from holdfast_mlflow.link import CREATION, Found, Link, Refused, from_server, search_filter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from holdfast_mlflow.picture import Metric

T = TypeVar("T")

_LOCK_KEY = 4_812_099_315
_engines_of = os.getpid()


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
        self._lock = threading.Lock()
        self._process = 0
        self._store: Any = None
        self._open()

    def _open(self) -> Any:
        """The store of this process; after a fork a new one, because connections do not survive it."""
        global _engines_of  # MLflow keeps its engines in a global, too
        with self._lock:
            if self._process == os.getpid():
                return self._store
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
            from sqlalchemy.exc import SQLAlchemyError

            if self._file is not None and not exists(self._file, self.shown):
                if self._read_only:
                    raise StorageDamaged(f"{self.shown} does not exist, and it was opened read-only")
                if not self._file.parent.is_dir():
                    raise ConfigurationError(f"the folder of {self.shown} does not exist; create it first")
            if _engines_of != os.getpid():
                for engine in SqlAlchemyStore._engine_map.values():
                    engine.dispose(close=False)
                SqlAlchemyStore._engine_map.clear()
                _engines_of = os.getpid()
            try:
                with self._first_use(SqlAlchemyStore):
                    self._store = SqlAlchemyStore(self._uri, self._artifacts)
                self._tune(self._store.engine)
            except HoldfastError:
                raise
            except ModuleNotFoundError:
                raise
            except (SQLAlchemyError, OSError) as error:
                raise self._unusable(error) from error
            except Exception as error:  # MLflow's own, or Alembic's
                raise self._unusable(error) from error
            self._process = os.getpid()
            return self._store

    def _unusable(self, error: Exception) -> HoldfastError:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        if (known := from_server(text, self.shown, writing=False)) is not None:
            return known
        if self._file is not None and self._file.exists():
            return StorageDamaged(f"{self.shown} cannot be opened as a store of MLflow: {text:.200}")
        return Unavailable(f"{self.shown} cannot be opened as a store of MLflow: {text:.200}")

    @contextlib.contextmanager
    def _first_use(self, stores: Any) -> Iterator[None]:
        """One process at a time: MLflow's migrations fail when two meet in a fresh database."""
        from mlflow.store.db import utils

        if self._file is not None:
            if self._file.exists() and self._file.stat().st_size:
                with self._file.open("rb") as opened:
                    if opened.read(16) != b"SQLite format 3\0":
                        raise StorageDamaged(f"{self.shown} is not a SQLite database; nothing was changed")
                engine = stores._get_or_create_engine(self._uri)
                if utils._all_tables_exist(engine):
                    yield
                    return
            if self._read_only:
                raise StorageDamaged(f"{self.shown} is no store of MLflow, and it was opened read-only")
            with self._file.with_name(f"{self._file.name}.first-use").open("w") as guard:
                fcntl.flock(guard, fcntl.LOCK_EX)
                yield
                Path(guard.name).unlink(missing_ok=True)
            return
        engine = stores._get_or_create_engine(self._uri)
        if utils._all_tables_exist(engine):
            yield
            return
        if self._read_only:
            raise StorageDamaged(f"{self.shown} is no store of MLflow, and it was opened read-only")
        take, give = {
            "postgresql": ("SELECT pg_advisory_lock(%d)", "SELECT pg_advisory_unlock(%d)"),
            "mysql": ("SELECT GET_LOCK('%d', 120)", "SELECT RELEASE_LOCK('%d')"),
        }.get(engine.dialect.name, ("SELECT %d", "SELECT %d"))
        with engine.connect() as connection:
            connection.exec_driver_sql(take % _LOCK_KEY)
            try:
                yield
            finally:
                connection.exec_driver_sql(give % _LOCK_KEY)

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

        store = self._open()
        try:
            return action(store)
        except MlflowException as error:
            message, code = str(error.message), str(error.error_code)
            if "readonly database" in message or "read-only" in message:
                raise StorageReadOnly(f"{self.shown} cannot be written by this user") from error
            if "malformed" in message or "not a database" in message:
                raise StorageDamaged(f"{self.shown} is damaged: {message:.200}") from error
            if (known := from_server(message, self.shown, writing=writing)) is not None:
                raise known from error
            if code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"):
                kind = OutcomeUnknown if writing else Unavailable
                raise kind(f"{self.shown} failed: {message:.200}") from error
            raise Refused(code, message) from error
        except SQLAlchemyError as error:
            if (known := from_server(str(error), self.shown, writing=writing)) is not None:
                raise known from error
            raise (OutcomeUnknown if writing else Unavailable)(f"{self.shown} failed: {error!s:.200}") from error

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
        with self._lock:
            if self._store is not None and self._process == os.getpid():
                self._store.engine.dispose()
            self._store, self._process = None, 0
