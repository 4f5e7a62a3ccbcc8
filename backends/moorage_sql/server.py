"""What PostgreSQL and MySQL have in common: a connection over a network, which may break, and a clock."""

from __future__ import annotations

import abc
import contextlib
import random
import re
import select
import threading
import time
from typing import TYPE_CHECKING, ClassVar, Protocol, cast
from urllib.parse import unquote

import attrs

from moorage import forks
from moorage.driver import Instant
from moorage.errors import ConfigurationError, InvalidArgument, OutcomeUnknown, StorageClosed, Unavailable, shown
from moorage_sql.driver import SQLDriver
from moorage_sql.link import Link
from moorage_sql.tables import PREFIX, SCHEMA_ROW, Naming

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from moorage.plugins import OptionValue
    from moorage.url import StorageURL
    from moorage_sql.statements import Condition, Flavour, Parameter, Plan
    from moorage_sql.tables import Row

LONGEST_PAUSE = 10
"""Seconds between two statements of one transaction after which the server ends it: its client is cut off or paused."""

_CLOCK_AGE = 60.0
_CLOCK_SAMPLES = 3
_RETRY = (0.0005, 0.004)
_LONGEST_PREFIX = 30
_PREFIX = re.compile(rf"[a-z0-9_]{{0,{_LONGEST_PREFIX}}}")


class Cursor(Protocol):
    """What is used of a DBAPI cursor."""

    @property
    def rowcount(self) -> int:
        """How many rows the last statement changed."""

    def execute(self, sql: str, arguments: Sequence[Parameter] | None = None, /) -> object:
        """Run a statement."""

    def executemany(self, sql: str, arguments: Sequence[Sequence[Parameter]], /) -> object:
        """Run a statement for each row of parameters."""

    def fetchall(self) -> Sequence[Row]:
        """The rows of the last statement."""


class Connection(Protocol):
    """What is used of a DBAPI connection."""

    def cursor(self) -> Cursor:
        """A new cursor."""

    def close(self) -> None:
        """Close it."""


class ServerLink(Link):
    """One thread's connection to a server: opened when needed, dropped when it breaks.

    A single statement is sent without BEGIN and COMMIT; the server commits it by itself.
    """

    errors: ClassVar[tuple[type[Exception], ...]] = (OSError, UnicodeError)
    """What a statement raises."""
    begin_statement = "BEGIN"
    protects_statements = False
    """Whether a statement that fails spoils its transaction, unless a savepoint protects it."""

    def __init__(self, driver: ServerDriver) -> None:
        super().__init__()
        self._driver = driver
        self._connection: Connection | None = None
        self._cursor: Cursor | None = None
        self._poll: select.poll | None = None
        self._closed = False

    @abc.abstractmethod
    def _open(self) -> Connection:
        """A new connection, with its session set up; raises translated errors."""

    @abc.abstractmethod
    def _socket(self) -> int | None:
        """The file descriptor of the connection, if it is known."""

    @abc.abstractmethod
    def _is_lost(self, error: BaseException) -> bool:
        """Whether an error means that the connection is gone."""

    @abc.abstractmethod
    def _translate(self, error: BaseException, *, writing: bool) -> Exception:
        """What an error means that the server answered."""

    def _ready(self) -> Cursor:
        """A cursor of a connection that was not closed by the server, as far as can be told without asking it."""
        if self.depth:
            self.check_transaction()
        elif self._poll is not None and self._poll.poll(0):
            self.drop()
        if self._cursor is None:
            self.open()
        return cast("Cursor", self._cursor)

    def open(self) -> None:
        """See `Link.open`."""
        if self._closed:
            raise StorageClosed(f"the storage {self._driver.shown} is closed")
        with self._driver.opening():
            self._connection = self._open()
        self._cursor = self._connection.cursor()
        socket = self._socket()
        if socket is not None and hasattr(select, "POLLRDHUP"):
            self._poll = select.poll()
            self._poll.register(socket, select.POLLRDHUP)

    def drop(self) -> None:
        """Give the connection up; the next call opens another."""
        connection, self._connection, self._cursor, self._poll = self._connection, None, None, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    def close(self) -> None:
        """See `Link.close`."""
        self._closed = True
        self.drop()

    @contextlib.contextmanager
    def _guarded(self, *, writing: bool, arguments: Sequence[Parameter] = ()) -> Iterator[None]:
        """Translate what a statement raises; an interrupted one costs the connection."""
        try:
            yield
        except self.errors as error:
            raise self.failed(self._meaning(error, writing=writing, arguments=arguments)) from error
        except BaseException as error:
            self.drop()
            if self.depth:
                self.broken = error
            raise

    def _meaning(self, error: BaseException, *, writing: bool, arguments: Sequence[Parameter]) -> Exception:
        shown, said = self._driver.shown, self._driver.without_secrets(error)
        if isinstance(error, UnicodeError):
            return InvalidArgument(f"{shown}: a text cannot be stored: {said}")
        if isinstance(error, OSError) or self._is_lost(error):
            self.drop()
            size = sum(len(one) for one in arguments if isinstance(one, str))
            limit = self._driver.largest_statement
            if limit is not None and size > limit:
                return InvalidArgument(
                    f"{shown}: a document of {size} characters is more than the server takes in one statement "
                    f"({limit} bytes): {said}"
                )
            # What was written in a transaction that did not reach its COMMIT is certainly undone.
            if writing and not self.depth:
                return OutcomeUnknown(f"{shown}: the connection was lost while writing: {said}")
            return Unavailable(f"{shown}: the connection was lost: {said}")
        return self._translate(error, writing=writing)

    def read(self, sql: str, arguments: Sequence[Parameter] = ()) -> list[Row]:
        """See `Link.read`."""
        with self.lock:
            cursor = self._ready()
            with self._guarded(writing=False):
                cursor.execute(sql, arguments or None)
                return list(cursor.fetchall())

    def write(self, sql: str, arguments: Sequence[Parameter], *, risky: bool = False) -> int:
        """See `Link.write`."""
        with self.lock, self._protected(risky=risky):
            cursor = self._ready()
            with self._guarded(writing=True, arguments=arguments):
                cursor.execute(sql, arguments or None)
                return cursor.rowcount

    def write_returning(self, sql: str, arguments: Sequence[Parameter], *, risky: bool = False) -> list[Row]:
        """See `Link.write_returning`."""
        with self.lock, self._protected(risky=risky):
            cursor = self._ready()
            with self._guarded(writing=True, arguments=arguments):
                cursor.execute(sql, arguments or None)
                return list(cursor.fetchall())

    def _protected(self, *, risky: bool) -> contextlib.AbstractContextManager[None]:
        if risky and self.depth and self.protects_statements:
            return self.atomic()
        return _UNPROTECTED

    def _write_each(self, sql: str, rows: Sequence[Sequence[Parameter]]) -> None:
        cursor = self._ready()
        with self._guarded(writing=True, arguments=max(rows, key=_size)):
            cursor.executemany(sql, rows)

    def command(self, sql: str) -> None:
        """See `Link.command`."""
        with self.lock:
            cursor = self._ready()
            with self._guarded(writing=True):
                cursor.execute(sql)

    def begin(self) -> None:
        """See `Link.begin`."""
        cursor = self._ready()
        with self._guarded(writing=False):
            cursor.execute(self.begin_statement)

    def commit(self) -> None:
        """See `Link.commit`."""
        if self._cursor is None:
            raise Unavailable(f"{self._driver.shown}: the connection was lost, and the transaction with it")
        with self._guarded(writing=True):
            self._cursor.execute("COMMIT")

    def rollback(self) -> None:
        """See `Link.rollback`."""
        if self._cursor is not None:
            try:
                self._cursor.execute("ROLLBACK")
            except Exception:  # whatever it was, a closed connection undoes the transaction
                self.drop()


class ServerDriver(SQLDriver):
    """A Moorage storage in a database of a server."""

    clock_query = ""
    """Asks the server for its time, in seconds."""

    def __init__(
        self, flavour: Flavour, url: StorageURL, options: Mapping[str, OptionValue], *, read_only: bool
    ) -> None:
        """Take the URL apart.

        Raises:
            ConfigurationError: it names no database, or an option has a value that it cannot have.
        """
        self._secret = url.password or ""
        self.database = url.path.strip("/")
        if not self.database:
            raise ConfigurationError(f"{url} names no database; write {url.scheme}://user:password@host/database")
        self.statement_timeout = seconds("statement_timeout", options["statement_timeout"])
        self.largest_statement: int | None = None
        self._offset: float | None = None
        self._measured = 0.0
        self._latest = 0.0
        self._clock_mutex = threading.Lock()
        self._opening = forks.Calls()
        naming = Naming(_prefix(options["prefix"]))
        if naming.prefix != PREFIX:
            url = attrs.evolve(url, query={**url.query, "prefix": naming.prefix})
        super().__init__(flavour, shown=str(url), read_only=read_only, naming=naming)

    def without_secrets(self, error: BaseException) -> str:
        """The text of an error, on one line."""
        said = " ".join(str(error).split())
        return said.replace(self._secret, "***") if self._secret else said

    # Opening a connection takes locks of the TLS library, and a child never gets one that another thread held.

    def opening(self) -> contextlib.AbstractContextManager[None]:
        """Around the opening of a connection; a fork waits for its end, and it for the end of a fork."""
        return self._opening.running()

    def before_fork(self) -> None:
        """Wait a little for connections that are being opened."""
        self._opening.hold()

    def after_fork_in_parent(self) -> None:
        """Let them be opened again."""
        self._opening.release()

    def after_fork_in_child(self) -> None:
        """See `SQLDriver.after_fork_in_child`."""
        super().after_fork_in_child()
        self._clock_mutex = threading.Lock()
        self._opening.reset()

    def now(self) -> Instant:
        """The server's clock: measured once a minute against a local one that no change of the wall clock moves."""
        with self._clock_mutex:
            if self._offset is None or _local_clock() - self._measured > _CLOCK_AGE:
                self._measure_clock()
            self._latest = max(self._latest, _local_clock() + cast("float", self._offset))
            return Instant("server", self._latest)

    def _measure_clock(self) -> None:
        link = self._link()
        best = float("inf")
        for _ in range(_CLOCK_SAMPLES):
            before = _local_clock()
            seconds = float(cast("float", link.read(self.clock_query)[0][0]))
            after = _local_clock()
            if after - before < best:
                best = after - before
                self._offset = seconds - (before + after) / 2
        self._measured = _local_clock()

    def _still_waits(self, link: Link, plan: Plan, condition: Condition, deadline: float) -> bool:
        """After a claim that skipped what others had locked: whether there is anything left to wait for.

        Pauses for a moment where there is.
        """
        statement = plan.exists(condition.shape)
        if not link.read(statement.sql, statement.arguments(condition.values)):
            return False
        if time.monotonic() >= deadline:
            raise Unavailable(
                f"{self.shown}: others have kept all matching {plan.collection.name} locked for "
                f"{self.statement_timeout:g} s; is a transaction stuck?"
            )
        time.sleep(random.uniform(*_RETRY))
        return True

    def erase(self) -> None:
        """Drop the tables of this storage, and what was created with them; whatever else is there stays.

        One transaction on PostgreSQL. On MySQL, where a call was cut short, the next one drops the rest.

        Raises:
            StorageError: something else depends on a table, such as a view or a foreign key.
        """
        link = self._link()
        with self._exclusive(link):
            tables = self._tables(link)
            stored = self._versions(link) if self.naming.schema in tables else None
            if stored is None:
                return
            names = sorted(stored.keys() - {SCHEMA_ROW})
            existing = sorted(tables.intersection(map(self.naming.table, names)))
            if existing:
                quote = self.flavour.dialect().identifier_preparer.quote
                link.command(f"DROP TABLE {', '.join(map(quote, existing))}")
            self._drop_functions(link, names)
            # It names the others, and MariaDB drops what it can of a list even where it fails.
            link.command(f"DROP TABLE {self._schema_table}")

    def _drop_functions(self, link: Link, names: Sequence[str]) -> None:
        """Drop what tallies of these names have besides tables and triggers."""

    def _patience(self) -> float:
        """When to give up waiting for others, on the monotonic clock."""
        return time.monotonic() + (self.statement_timeout or float("inf"))


def seconds(name: str, value: object) -> float:
    """The value of an option that is a time.

    Raises:
        ConfigurationError: it is negative.
    """
    given = float(cast("float", value))
    if given < 0:
        raise ConfigurationError(f"option {name!r} must be 0 seconds or more, not {given:g}")
    return given


def _prefix(value: object) -> str:
    given = str(value or "")
    # Capitals are refused because MySQL does not tell table names apart by them on every system.
    if not _PREFIX.fullmatch(given):
        raise ConfigurationError(
            f"option 'prefix' takes at most {_LONGEST_PREFIX} of the characters a-z 0-9 _, not {shown(given)}"
        )
    return given


def hosts(url: StorageURL) -> tuple[list[str], list[str]]:
    """The hosts of a URL, decoded, and a port for each (empty where none is written).

    Raises:
        ConfigurationError: a port is not a number.
    """
    names: list[str] = []
    ports: list[str] = []
    for one in (url.host or "").split(",") if url.host else []:
        found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(.*))?", one)
        port = (found[2] or "") if found else ""
        if found is None or (port and not (port.isdecimal() and 0 < int(port) < 65536)):
            raise ConfigurationError(f"{url}: {one!r} should be a host, or host:port with a port from 1 to 65535")
        names.append(unquote(found[1]).strip("[]"))
        ports.append(port)
    return names, ports


def _size(row: Sequence[Parameter]) -> int:
    return sum(len(one) for one in row if isinstance(one, str))


def _local_clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


_UNPROTECTED: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
