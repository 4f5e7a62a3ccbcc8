"""SQLite: one file that many processes of one machine share."""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
import random
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar, cast
from urllib.parse import quote

from moorage import forks
from moorage.codec import dumps
from moorage.driver import Capability, Instant
from moorage.errors import (
    ConfigurationError,
    InvalidArgument,
    OutcomeUnknown,
    StorageClosed,
    StorageDamaged,
    StorageError,
    StorageFull,
    StorageReadOnly,
    Unavailable,
)
from moorage.files import NETWORK_FILE_SYSTEMS, boot_clock, file_system, path_of
from moorage_sql.driver import SQLDriver
from moorage_sql.link import Conflict, Link, MissingTable
from moorage_sql.statements import Flavour
from moorage_sql.tables import ColumnTypes, Naming, tally_name

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from sqlalchemy import BindParameter, ColumnElement
    from sqlalchemy.engine import Dialect
    from sqlalchemy.types import TypeEngine

    from moorage.codec import Plain
    from moorage.plugins import OptionValue
    from moorage.schema import Collection
    from moorage.url import StorageURL
    from moorage_sql.statements import Parameter, Plan
    from moorage_sql.tables import Cell, Row

OLDEST = (3, 35, 0)
"""The first release with RETURNING."""
# All in seconds, and measured with four processes that claim as fast as they can.
_WAIT = (0.0003, 0.0006)
"""Between two attempts of the one at the gate to get the write lock."""
_STAND_BACK = (0.004, 0.008)
"""Before one who has lost the lock goes to the gate."""
_GATE_POLL = (0.0005, 0.004)
"""Between two attempts at the gate, after a long wait and at first."""
_TURN = 0.025
"""How long one who had to wait may write before the next at the gate is let in."""
_YIELD = 0.001
"""How long it then keeps still."""
_WAL_LIMIT = 64 * 2**20

_T = TypeVar("_T")
_RAISED = (sqlite3.Error, OverflowError, UnicodeError)
"""What the sqlite3 module raises for a statement."""

_unsafe_after_fork: set[str] = set()
"""Files that a parent was using at the moment of a fork: SQLite's locks on them are broken in this process."""


class _Types(ColumnTypes):
    def number(self) -> TypeEngine[float]:
        # A column of type REAL turns -0.0 into 0; one without a type keeps what it is given.
        from sqlalchemy.types import UserDefinedType

        class Untyped(UserDefinedType[float]):
            cache_ok = True

            def get_col_spec(self, **_: object) -> str:
                return ""

        return Untyped()


class SQLiteFlavour(Flavour):
    """The SQL of SQLite."""

    lacks_statistics = True
    types = _Types()

    @functools.cached_property
    def _dialect(self) -> Dialect:
        from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

        return SQLiteDialect_pysqlite(dbapi=sqlite3)  # type: ignore[arg-type, no-untyped-call, unused-ignore]

    def dialect(self) -> Dialect:
        """SQLAlchemy's dialect for the sqlite3 module."""
        return self._dialect

    def among(self, column: ColumnElement[object], many: BindParameter[object]) -> ColumnElement[bool]:
        """Members of a JSON list."""
        from sqlalchemy import func, literal_column, select

        return column.in_(select(literal_column("value")).select_from(func.json_each(many)))

    def pack(self, values: list[Cell]) -> Parameter:
        """A JSON list; None for floats, which SQLite does not read exactly from text."""
        return None if any(type(value) is float for value in values) else dumps(cast("list[Plain]", values))


class SQLiteLink(Link):
    """One thread's connection to an SQLite file.

    Every write is ``BEGIN IMMEDIATE``, the statement, ``COMMIT``: SQLite's deferred transactions fail at once where
    another one has written in between. SQLite does not queue those who wait for the write lock, and its own busy
    handler lets some of them starve, so whoever finds the lock taken first takes a *gate*, a lock file beside the
    database. It only decides who asks next; without it everything still holds.
    """

    def __init__(self, driver: SQLiteDriver) -> None:
        super().__init__()
        self._driver = driver
        self._connection: sqlite3.Connection | None = None
        self.gate: int | None = None
        self._has_gate = fcntl is not None and not driver.read_only
        self._turn_ends = math.inf
        self._identity: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None
        self._execute: Callable[..., sqlite3.Cursor] = self._open_and_execute

    # The connection

    def open(self) -> None:
        """See `Link.open`."""
        with self.lock:
            if self._connection is None:
                self._open()

    def _open(self) -> None:
        driver = self._driver
        driver.check_file()
        deadline = time.monotonic() + driver.busy_timeout
        while True:
            connection: sqlite3.Connection | None = None
            try:
                connection = sqlite3.connect(
                    driver.uri,
                    timeout=0,
                    isolation_level=None,
                    check_same_thread=False,
                    cached_statements=256,
                    uri=True,
                )
                driver.prepare(connection)
            except BaseException as error:
                if connection is not None:
                    connection.close()
                if not isinstance(error, sqlite3.Error):
                    raise
                if not _is_busy(error) or time.monotonic() >= deadline:
                    raise self.translate(error, writing=False) from error
                time.sleep(random.uniform(0.001, 0.01))
            else:
                break
        self._connection = connection
        self._execute = connection.execute
        self._identity, self._log = driver.identity(), None

    def _open_and_execute(self, sql: str, arguments: Sequence[Parameter] = ()) -> sqlite3.Cursor:
        """Stands in for `sqlite3.Connection.execute` until the connection is open."""
        self._open()
        return self._execute(sql, arguments)

    def pause(self) -> None:
        """Close the connection; the next call opens another."""
        connection, self._connection = self._connection, None
        self._execute = self._open_and_execute
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """See `Link.close`."""
        with contextlib.suppress(sqlite3.Error):
            self.pause()
        self._execute = self._driver.refuse
        self.close_gate()

    # Statements

    def read(self, sql: str, arguments: Sequence[Parameter] = ()) -> list[Row]:
        """See `Link.read`."""
        self._stand_aside()
        with self.lock:
            try:
                rows: list[Row] = self._execute(sql, arguments).fetchall()
            except _RAISED as error:
                if not _is_busy(error):
                    raise self._failed(error, writing=False) from error
            else:
                if not self.depth:
                    self._check_file()
                return rows
            # Only without WAL, or while SQLite recovers a file after a crash.
            self.check_transaction()
            return self._patiently(lambda: self._execute(sql, arguments).fetchall())

    def stream(self, sql: str, arguments: Sequence[Parameter]) -> Generator[Row]:
        """See `Link.stream`; other statements may run meanwhile."""
        cursor: sqlite3.Cursor | None = None
        try:
            cursor = self._patiently(lambda: self._execute(sql, arguments))
            yield from cursor
        except _RAISED as error:
            raise self._failed(error, writing=False) from error
        finally:
            if cursor is not None:
                cursor.close()

    def write(self, sql: str, arguments: Sequence[Parameter], *, risky: bool = False) -> int:
        """See `Link.write`; SQLite undoes a statement that fails by itself."""
        return self._write(sql, arguments, _count)

    def write_returning(self, sql: str, arguments: Sequence[Parameter], *, risky: bool = False) -> list[Row]:
        """See `Link.write_returning`."""
        return self._write(sql, arguments, _rows)

    def _write(self, sql: str, arguments: Sequence[Parameter], take: Callable[[sqlite3.Cursor], _T]) -> _T:
        """Run a statement, in a transaction of its own where there is none, and take what it gives."""
        self._stand_aside()
        with self.lock:
            if self.depth:
                self.check_transaction()
                try:
                    return take(self._execute(sql, arguments))
                except _RAISED as error:
                    raise self._failed(error, writing=True) from error
            done = ready = False
            try:
                self.begin()
                taken = take(self._execute(sql, arguments))
                ready = True
                self._execute("COMMIT")
                done = True
            except BaseException as error:
                if not self._leave(error, ready=ready):
                    raise
            finally:
                if not done:  # where leaving was interrupted; otherwise there is nothing to undo
                    self.rollback()
            self._check_file()
            return taken

    def atomic(self) -> AbstractContextManager[None]:
        """See `Link.atomic`."""
        self._stand_aside()
        return super().atomic()

    def _stand_aside(self) -> None:
        """Let another thread fork first, which would hardly ever find the lock of a busy link free."""
        if self._driver.is_forking and not self.depth:
            self._driver.wait_for_fork()

    def _write_each(self, sql: str, rows: Sequence[Sequence[Parameter]]) -> None:
        connection = self._connection
        if connection is None:
            self._driver.refuse(sql)
        try:
            connection.executemany(sql, rows)
        except _RAISED as error:
            raise self._failed(error, writing=True) from error

    def command(self, sql: str) -> None:
        """See `Link.command`."""
        with self.lock:
            try:
                self._execute(sql)
            except _RAISED as error:
                raise self._failed(error, writing=True) from error

    def begin(self) -> None:
        """Take the write lock, waiting for it as long as the option ``busy_timeout`` says."""
        now = time.monotonic()
        if now > self._turn_ends:
            self._end_turn()
        try:
            self._execute("BEGIN" if self._driver.read_only else "BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if self._connection is not None and self._connection.in_transaction:
                # An interrupt right after the start of a transaction has left it open.
                self.rollback()
            elif not _is_busy(error):
                raise self.translate(error, writing=False) from error
        else:
            return
        self._wait_for_write_lock()

    def _check_file(self) -> None:
        """Acknowledge nothing that went into a file which is not the one of this path any more.

        It is looked at after the commit: so what is acknowledged was in the file at its path, at a moment after that.

        Raises:
            StorageDamaged: the file, or its log, was moved, deleted or replaced.
        """
        log = self._driver.log_identity()
        if self._log is None:
            self._log = log
        if self._driver.identity() == self._identity and log == self._log:
            return
        raise StorageDamaged(
            f"{self._driver.path} was moved, deleted or replaced while it was in use, and what is written now would be "
            "lost; open the storage again"
        )

    def commit(self) -> None:
        """See `Link.commit`."""
        try:
            self._execute("COMMIT")
        except BaseException as error:
            if not self._leave(error, ready=True):
                raise
        self._check_file()

    def rollback(self) -> None:
        """See `Link.rollback`."""
        self._leave_gate()
        connection = self._connection
        if connection is None or not connection.in_transaction:
            return
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                self.pause()

    def _leave(self, error: BaseException, *, ready: bool) -> bool:
        """Undo a transaction that failed; raises the translation of what the database said.

        Whatever interrupts this, nothing is held afterwards: neither the transaction nor the gate.

        Args:
            error: what was raised.
            ready: whether only the commit was missing.

        Returns:
            Whether it was committed after all: without WAL readers keep a commit waiting.
        """
        try:
            return self._commit_or_undo(error, ready=ready)
        finally:
            self.rollback()

    def _commit_or_undo(self, error: BaseException, *, ready: bool) -> bool:
        if ready and _is_busy(error) and self._connection is not None and self._connection.in_transaction:
            self._patiently(lambda: self._execute("COMMIT"))
            return True
        self.rollback()
        if isinstance(error, _RAISED):
            raise self.translate(error, writing=True) from error
        return False

    # Waiting

    def _patiently(self, call: Callable[[], _T]) -> _T:
        deadline = time.monotonic() + self._driver.busy_timeout
        while True:
            try:
                return call()
            except _RAISED as error:
                if not _is_busy(error) or time.monotonic() >= deadline:
                    raise self._failed(error, writing=False) from error
            time.sleep(random.uniform(*_WAIT))

    def _wait_for_write_lock(self) -> None:
        deadline = time.monotonic() + self._driver.busy_timeout
        try:
            # Neither closing the storage nor a fork shall wait for one who waits.
            self.lock.release()
            self._pass_gate(deadline)
            while not self._try_begin():
                if time.monotonic() >= deadline:
                    raise Unavailable(
                        f"{self._driver.shown}: another process has held the write lock for "
                        f"{self._driver.busy_timeout:g} s; is one stopped in the middle of a transaction?"
                    )
                time.sleep(random.uniform(*_WAIT))
        finally:
            self._leave_gate()
            if not self.lock._is_owned():  # type: ignore[attr-defined]  # what `threading.Condition` asks
                self.lock.acquire()
        self._turn_ends = time.monotonic() + _TURN

    def _try_begin(self) -> bool:
        """Whether the transaction has begun; the lock of the link is then held, so that nobody closes it."""
        self.lock.acquire()
        begun = False
        try:
            self._execute("BEGIN IMMEDIATE")
            begun = True
        except sqlite3.Error as error:
            if not _is_busy(error):
                raise self.translate(error, writing=False) from error
        finally:
            if not begun:
                self.lock.release()
        return begun

    def _pass_gate(self, deadline: float) -> None:
        """Wait at the gate; it may be that it cannot be had, and is not held then."""
        began = time.monotonic()
        # Whoever has just lost the lock lets those go first who wait already.
        time.sleep(min(random.uniform(*_STAND_BACK), self._driver.busy_timeout))
        while self._has_gate:
            held = self._try_gate()
            now = time.monotonic()
            if held or now >= deadline:
                return
            # The longer the wait so far, the more often it is tried: this comes near to a queue.
            time.sleep(max(_GATE_POLL[0], _GATE_POLL[1] - (now - began) / 10))

    def _try_gate(self) -> bool:
        try:
            if self.gate is None:
                self.gate = os.open(f"{self._driver.path}-gate", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(self.gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            self._has_gate = False
            return False
        return True

    def _leave_gate(self) -> None:
        if self.gate is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(self.gate, fcntl.LOCK_UN)

    def close_gate(self) -> None:
        """Close the file of the gate; what another process holds of it stays as it is."""
        gate, self.gate = self.gate, None
        if gate is not None:
            with contextlib.suppress(OSError):
                os.close(gate)

    def _end_turn(self) -> None:
        """After writing for a while since the last wait: let the one at the gate in, if there is one."""
        self._turn_ends = math.inf
        if not self._has_gate:
            return
        try:
            if not self._try_gate():
                time.sleep(_YIELD)
        finally:
            self._leave_gate()

    # Errors

    def _failed(self, error: BaseException, *, writing: bool) -> BaseException:
        return self.failed(self.translate(error, writing=writing))

    def translate(self, error: BaseException, *, writing: bool) -> Exception:
        """What an error of the sqlite3 module means."""
        shown = self._driver.shown
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:
            if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
                return StorageClosed(f"the storage {shown} is closed")
            if str(error).startswith("Could not decode to UTF-8"):
                return StorageDamaged(f"{shown} holds a text that is none: restore the file from a backup")
            if isinstance(error, (sqlite3.Error, OverflowError, UnicodeError)):
                return InvalidArgument(f"SQLite cannot store a value: {error}")
            return StorageError(f"{shown}: {error}")
        extended, primary = getattr(error, "sqlite_errorname", ""), code & 0xFF
        said = f"{shown}: {error} ({extended})"
        if extended in ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"):
            fields = tuple(one.rpartition(".")[2] for one in str(error).partition(": ")[2].split(", "))
            return Conflict(fields=fields)
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT):
            return Unavailable(said)
        if primary == sqlite3.SQLITE_FULL:
            return StorageFull(errno.ENOSPC, f"{said}: the disk or the quota is full")
        if primary == sqlite3.SQLITE_IOERR:
            if extended in ("SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_SHMOPEN") and self._driver.is_disk_full():
                return StorageFull(errno.ENOSPC, f"{said}: the disk or the quota is full")
            return OutcomeUnknown(said) if writing else Unavailable(said)
        if primary == sqlite3.SQLITE_NOTADB:
            return StorageDamaged(f"{self._driver.path} is not an SQLite database")
        if primary == sqlite3.SQLITE_CORRUPT:
            return StorageDamaged(f"{said}: the file is damaged; restore it from a backup, or try `sqlite3 .recover`")
        if extended == "SQLITE_READONLY_DBMOVED":
            return StorageDamaged(f"{said}: the file was moved or deleted while it was in use")
        if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
            return self._driver.explain_access(said)
        if primary in (sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH):
            return InvalidArgument(said)
        if str(error).startswith("no such table"):
            return MissingTable(f"{said}: is this a Moorage storage, and was it set up?")
        if str(error).startswith(("no such column", "table ")):
            return StorageDamaged(f"{said}: the table is not the one that this release of Moorage made")
        return StorageError(said)


class SQLiteDriver(SQLDriver):
    """A Moorage storage in one SQLite file."""

    name = "sqlite"

    def __init__(self, url: StorageURL, options: Mapping[str, OptionValue], read_only: bool) -> None:
        """Open the file; it is created where it is missing, unless only reads are wanted.

        Raises:
            ConfigurationError: the URL names no usable file, or one on a network file system.
            StorageDamaged: the file is no SQLite database.
        """
        if sqlite3.sqlite_version_info < OLDEST:
            raise ConfigurationError(
                f"Moorage needs SQLite {'.'.join(map(str, OLDEST))} or newer, and this Python has "
                f"{sqlite3.sqlite_version}"
            )
        super().__init__(_flavour, shown=str(url), read_only=read_only)
        self.path = _path(url)
        self.network = bool(options["network"])
        self.durable = options["durability"] == "full"
        self.busy_timeout = float(cast("float", options["busy_timeout"]))
        if self.busy_timeout < 0:
            raise ConfigurationError(f"option 'busy_timeout' must be 0 seconds or more, not {self.busy_timeout:g}")
        mode = "ro" if read_only else "rwc"
        self.uri = f"file:{quote(self.path)}?mode={mode}"
        self._log = f"{self.path}-wal"
        self._held: list[SQLiteLink] = []
        self._is_quiet = True
        self.is_forking = False
        self._boot = None if self.network else boot_clock()
        capabilities = {Capability.SHARED, Capability.TRANSACTIONS}
        if self.durable:
            capabilities.add(Capability.DURABLE)
        if self._boot is not None:
            capabilities.add(Capability.SERVER_CLOCK)
        self.capabilities = frozenset(capabilities)
        if not self.network:
            kind = file_system(self.path)
            if kind in NETWORK_FILE_SYSTEMS:
                raise ConfigurationError(
                    f"{self.path} is on a network file system ({kind}), where SQLite cannot keep processes apart: a "
                    "database would be damaged. Use a local disk or a server (postgresql://, mysql://), or add "
                    "?network=true if only one machine uses it and its locks can be trusted"
                )
        self._link().open()

    def refuse(self, sql: str, arguments: Sequence[Parameter] = ()) -> NoReturn:
        """Stands in for `sqlite3.Connection.execute` after the storage was closed."""
        del sql, arguments
        raise StorageClosed(f"the storage {self.shown} is closed")

    def check_file(self) -> None:
        """Refuse a path that cannot be opened, and say why."""
        if self.path in _unsafe_after_fork:
            raise Unavailable(
                f"{self.path} was in the middle of a transaction when this process was forked, and SQLite's locks do "
                "not survive that: start worker processes with the spawn method, or fork outside of transactions"
            )
        try:
            exists = Path(self.path).exists()
        except OSError as error:  # such as a name that is too long
            raise ConfigurationError(f"{self.shown} cannot be opened: {error.strerror}") from error
        if not exists:
            folder = Path(self.path).parent
            if not folder.is_dir():
                raise ConfigurationError(f"{self.shown}: there is no folder {str(folder)!r}; create it first")
            if self.read_only:
                raise ConfigurationError(f"{self.shown}: there is no file {self.path!r}, so it cannot be read")
        elif Path(self.path).is_dir():
            raise ConfigurationError(f"{self.shown}: {self.path!r} is a folder; name a file in it")

    def identity(self) -> tuple[int, int] | None:
        """Which file it is that has this name now."""
        return _identity(self.path)

    def log_identity(self) -> tuple[int, int] | None:
        """Which file is its write-ahead log now, where it has one; it stays the same while a connection is open."""
        return None if self.network else _identity(self._log)

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Set up a new connection."""
        execute = connection.execute
        if self.read_only:
            execute("SELECT count(*) FROM sqlite_master").fetchall()
            return
        # WAL needs memory that all users of a file share, which a network does not give them.
        mode = "DELETE" if self.network else "WAL"
        execute(f"PRAGMA journal_mode = {mode}").fetchall()
        execute(f"PRAGMA synchronous = {'FULL' if self.durable else 'NORMAL'}")
        execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}").fetchall()

    def explain_access(self, said: str) -> StorageError | ConfigurationError:
        """Why a file cannot be opened or written."""
        path, folder = Path(self.path), Path(self.path).parent
        if path.exists() and not os.access(path, os.R_OK):
            return StorageReadOnly(f"{said}: this user may not read {self.path!r}")
        if not os.access(folder, os.W_OK):
            if self.read_only:
                return StorageReadOnly(
                    f"{said}: to read it SQLite needs {path.name}-shm beside it, and this user cannot create that in "
                    f"{str(folder)!r}; open it once as a user who may, or copy the file"
                )
            return StorageReadOnly(f"{said}: this user may not write in the folder {str(folder)!r}")
        if path.exists() and not os.access(path, os.W_OK):
            return StorageReadOnly(f"{said}: this user may not write {self.path!r}")
        if self.is_disk_full():
            return StorageFull(errno.ENOSPC, f"{said}: the disk or the quota is full")
        return StorageReadOnly(said)

    def is_disk_full(self) -> bool:
        """Whether there is no space left where the file is."""
        try:
            status = os.statvfs(Path(self.path).parent)
        except (OSError, AttributeError):
            return False
        return status.f_bavail == 0

    def _connect(self) -> Link:
        return SQLiteLink(self)

    # A fork copies SQLite's own notes on which locks this process holds, but not the locks. A child that opened the
    # same file would trust them, and could lose writes. So nothing is open while the process forks.

    def before_fork(self) -> None:
        """Close the connections that are not in a transaction, waiting a little for those in use."""
        self._held = []
        self.is_forking = True
        deadline = time.monotonic() + forks.PATIENCE
        # With the mutex held no other thread can add a connection.
        self._is_quiet = self._mutex.acquire(timeout=forks.PATIENCE)
        for link in list(self._links):
            assert isinstance(link, SQLiteLink)  # noqa: S101  (for the type checker)
            if not link.lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                continue
            self._held.append(link)
            if not link.depth:
                with contextlib.suppress(sqlite3.Error):
                    link.pause()

    def after_fork_in_parent(self) -> None:
        """Let the threads go on."""
        for link in self._held:
            link.lock.release()
        self._held = []
        self.is_forking = False
        if self._is_quiet:
            self._mutex.release()

    def wait_for_fork(self) -> None:
        """Wait until the thread that forks has done so."""
        with self._mutex:
            pass

    def after_fork_in_child(self) -> None:
        """Forget the parent's connections; if one was in a transaction, this file stays out of reach."""
        free = [link for link in self._held if not link.depth]
        if not self._is_quiet or len(free) < len(list(self._links)):
            _unsafe_after_fork.add(self.path)
        self._held = []
        self.is_forking = False
        for link in list(self._links):
            cast("SQLiteLink", link).close_gate()
        super().after_fork_in_child()

    def now(self) -> Instant:
        """The kernel's clock since boot, with the id of that boot."""
        if self._boot is None:
            return super().now()
        return Instant(self._boot, time.clock_gettime(time.CLOCK_BOOTTIME))

    # The catalogue

    def _exclusive(self, link: Link) -> AbstractContextManager[None]:
        return link.atomic()

    def _tables(self, link: Link) -> set[str]:
        rows = link.read("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        return {cast("str", name) for (name,) in rows}

    def _columns(self, link: Link, table: str) -> set[str]:
        return {cast("str", name) for (name,) in link.read("SELECT name FROM pragma_table_info(?)", (table,))}

    def _indexes(self, link: Link, table: str) -> set[str]:
        rows = link.read("SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ?", (table,))
        return {cast("str", name) for (name,) in rows}

    def _drop_tally(self, link: Link, naming: Naming, collection: Collection, fields: tuple[str, ...]) -> None:
        quoted = self.flavour.dialect().identifier_preparer.quote
        for event in ("insert", "update", "delete"):
            link.command(f"DROP TRIGGER IF EXISTS {quoted(naming.trigger(tally_name(collection, fields), event))}")
        link.command(f"DROP TABLE {quoted(naming.tally(collection, fields))}")

    def _create_tally(self, link: Link, plan: Plan, fields: tuple[str, ...]) -> None:
        collection = plan.collection
        quoted = self.flavour.dialect().identifier_preparer.quote
        table, tally = quoted(plan.table.name), quoted(self.naming.tally(collection, fields))
        names = [quoted(name) for name in fields]
        listed = ", ".join(names)

        def complete(row: str) -> str:
            return " AND ".join(f"{row}.{name} IS NOT NULL" for name in names)

        def add(row: str) -> str:
            values = ", ".join(f"{row}.{name}" for name in names)
            return (
                f"INSERT INTO {tally} ({listed}, total) SELECT {values}, 1 WHERE {complete(row)} "
                f"ON CONFLICT ({listed}) DO UPDATE SET total = total + 1;"
            )

        def take(row: str) -> str:
            same = " AND ".join(f"{name} = {row}.{name}" for name in names)
            return f"UPDATE {tally} SET total = total - 1 WHERE {same};"

        changed = " OR ".join(f"old.{name} IS NOT new.{name}" for name in names)
        gone = " AND ".join(f"{name} = old.{name}" for name in names)
        columns = ", ".join(f"{name} VARCHAR(255) NOT NULL" for name in names)
        link.command(f"CREATE TABLE {tally} ({columns}, total BIGINT NOT NULL, PRIMARY KEY ({listed})) WITHOUT ROWID")
        trigger = functools.partial(self.naming.trigger, tally_name(collection, fields))
        link.command(f"CREATE TRIGGER {quoted(trigger('insert'))} AFTER INSERT ON {table} BEGIN {add('new')} END")
        link.command(
            f"CREATE TRIGGER {quoted(trigger('update'))} AFTER UPDATE OF {listed} ON {table} WHEN {changed} "
            f"BEGIN {take('old')} {add('new')} END"
        )
        link.command(
            f"CREATE TRIGGER {quoted(trigger('delete'))} AFTER DELETE ON {table} "
            f"BEGIN {take('old')} DELETE FROM {tally} WHERE {gone} AND total = 0; END"
        )
        link.command(
            f"INSERT INTO {tally} SELECT {listed}, count(*) FROM {table} WHERE {complete(table)} GROUP BY {listed}"
        )


def _path(url: StorageURL) -> str:
    if url.path == "/:memory:":
        raise ConfigurationError(
            f"{url}: an SQLite database in memory belongs to a single connection; use memory:// instead"
        )
    return path_of(url, ".db")


def erase(url: StorageURL) -> None:
    """Remove the file of a storage, and those that belong to it; that there is none is fine.

    Raises:
        ConfigurationError: the URL names no file.
        StorageDamaged: the file is there, and it is no Moorage storage.
        StorageReadOnly: this user may not remove it.
    """
    path = Path(_path(url))
    if path.is_dir():
        raise ConfigurationError(f"{url}: {str(path)!r} is a folder; name a file in it")
    if path.exists() and not _may_be_storage(path):
        raise StorageDamaged(f"{path} is not a Moorage storage, so it stays; remove it yourself if you mean it")
    # The database goes first: SQLite takes nothing from a log that stands beside an empty one.
    for suffix in ("", "-wal", "-shm", "-journal", "-gate"):
        try:
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise StorageReadOnly(f"{path}{suffix} cannot be removed: {error.strerror}") from error


def _may_be_storage(path: Path) -> bool:
    """Whether a file is an SQLite database that is empty, or damaged, or has the tables of Moorage."""
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", timeout=0, uri=True)
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        return getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_NOTADB
    finally:
        if connection is not None:
            connection.close()
    naming = Naming()
    return not tables or not tables.isdisjoint((naming.schema, naming.former.schema))


def _count(cursor: sqlite3.Cursor) -> int:
    return cursor.rowcount


def _rows(cursor: sqlite3.Cursor) -> list[Row]:
    return cursor.fetchall()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  (on the way of every write)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_busy(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (5, 6)


_flavour = SQLiteFlavour()
