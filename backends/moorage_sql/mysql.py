"""MySQL and MariaDB.

Counts are not kept by triggers here: creating one needs a privilege that users of a shared server seldom have (error
1419), so documents are counted through the index.

A column has no negative zero here: a declared field of kind ``number`` that holds -0.0 comes back as 0.0, its equal.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from typing import TYPE_CHECKING, cast

import pymysql
import pymysql.cursors
from pymysql.constants import CLIENT

from moorage.codec import loads
from moorage.driver import Capability, Document, changed
from moorage.errors import (
    ConfigurationError,
    InvalidArgument,
    StorageDamaged,
    StorageError,
    StorageFull,
    StorageReadOnly,
    Unavailable,
)
from moorage.filters import equal
from moorage_sql.link import Conflict, MissingTable
from moorage_sql.server import LONGEST_PAUSE, ServerDriver, ServerLink, hosts, seconds
from moorage_sql.statements import Flavour
from moorage_sql.tables import ColumnTypes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from sqlalchemy import BindParameter, ColumnElement
    from sqlalchemy.engine import Dialect
    from sqlalchemy.types import TypeEngine

    from moorage.driver import Changes
    from moorage.filters import Order
    from moorage.plugins import OptionValue
    from moorage.url import StorageURL
    from moorage_sql.link import Link
    from moorage_sql.server import Connection
    from moorage_sql.statements import Condition, Parameter, Plan
    from moorage_sql.tables import Cell, Row

OLDEST_MYSQL = (8, 0, 17)
OLDEST_MARIADB = (10, 6, 0)
"""The first releases with SKIP LOCKED and a collation by code point without padding."""


class _Types(ColumnTypes):
    def text(self) -> TypeEngine[str]:
        from sqlalchemy.dialects.mysql import LONGTEXT

        return LONGTEXT(collation=self.collation)


class MySQLFlavour(Flavour):
    """The SQL of MySQL and MariaDB."""

    guidance = "hint"
    quotation_mark = "`"

    def __init__(self, *, mariadb: bool) -> None:
        """Choose the collation, which each of the two calls otherwise."""
        from sqlalchemy.engine import make_url

        collation = "utf8mb4_nopad_bin" if mariadb else "utf8mb4_0900_bin"
        options = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": collation}
        self.types = _Types(collation, {**options, **{f"mariadb{k[5:]}": v for k, v in options.items()}})
        dialect = make_url("mariadb+pymysql://" if mariadb else "mysql+pymysql://").get_dialect()
        make = cast("Callable[..., Dialect]", dialect)
        self._dialect = make(dbapi=pymysql, paramstyle="format")

    def dialect(self) -> Dialect:
        """SQLAlchemy's dialect for pymysql."""
        return self._dialect

    def among(self, column: ColumnElement[object], many: BindParameter[object]) -> ColumnElement[bool]:
        """Members of a list, which pymysql writes out."""
        return cast("ColumnElement[bool]", column.op("IN", is_comparison=True)(many))

    def pack(self, values: list[Cell]) -> Parameter:
        """A list."""
        return values


class MySQLLink(ServerLink):
    """One thread's connection to MySQL or MariaDB."""

    errors = (pymysql.Error, *ServerLink.errors)
    begin_statement = "START TRANSACTION"

    _driver: MySQLDriver

    def _open(self) -> Connection:
        try:
            connection = pymysql.connect(**self._driver.arguments)  # type: ignore[call-overload]
        except (pymysql.Error, OSError) as error:
            raise self._driver.refused(error) from error
        try:
            self._driver.prepare(connection)
        except (pymysql.Error, OSError) as error:
            connection.close()
            raise self._meaning(error, writing=False, arguments=()) from error
        except BaseException:
            connection.close()
            raise
        return cast("Connection", connection)

    def _socket(self) -> int | None:
        socket = getattr(self._connection, "_sock", None)
        return None if socket is None else cast("int", socket.fileno())

    def _is_lost(self, error: BaseException) -> bool:
        code = _code(error)
        return code in _LOST or (isinstance(error, pymysql.InterfaceError) and code == 0)

    def _translate(self, error: BaseException, *, writing: bool) -> Exception:
        if _code(error) in _CLOSING:
            self.drop()
        return self._driver.translate(error)

    def stream(self, sql: str, arguments: Sequence[Parameter]) -> Generator[Row]:
        """See `Link.stream`."""
        self._ready()
        connection = cast("pymysql.Connection[pymysql.cursors.Cursor]", self._connection)
        with self._guarded(writing=False), connection.cursor(pymysql.cursors.SSCursor) as cursor:
            cursor.execute(sql, arguments or None)
            yield from cast("Iterator[Row]", cursor)


class MySQLDriver(ServerDriver):
    """A Moorage storage in a MySQL or MariaDB database."""

    name = "mysql"
    has_tallies = False
    clock_query = "SELECT timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6)) / 1000000"

    def __init__(self, url: StorageURL, options: Mapping[str, OptionValue], read_only: bool) -> None:
        """Connect.

        Raises:
            ConfigurationError: the URL, the user, the password or the database is wrong.
            Unavailable: the server does not answer.
        """
        super().__init__(MySQLFlavour(mariadb=True), url, options, read_only=read_only)
        timeout = self.statement_timeout
        names, ports = hosts(url)
        if len(names) > 1:
            raise ConfigurationError(f"{url} names several hosts, and MySQL takes one")
        arguments: dict[str, object] = {
            "host": names[0] if names else "localhost",
            "port": int(ports[0]) if ports and ports[0] else 3306,
            "user": url.username,
            "password": url.password,
            "database": self.database,
            "connect_timeout": max(1, round(seconds("connect_timeout", options["connect_timeout"]))),
            "read_timeout": timeout + 5 if timeout else None,
            "write_timeout": timeout + 5 if timeout else None,
            "charset": options["charset"],
            "client_flag": CLIENT.FOUND_ROWS,
            "autocommit": True,
        }
        for name in ("ssl_ca", "ssl_cert", "ssl_key", "unix_socket"):
            arguments[name] = options[name]
        self.arguments = {name: value for name, value in arguments.items() if value is not None}
        self._durable = True
        self._mariadb: bool | None = None
        self._link().open()
        capabilities = {Capability.SHARED, Capability.TRANSACTIONS, Capability.SERVER_CLOCK}
        if self._durable:
            capabilities.add(Capability.DURABLE)
        self.capabilities = frozenset(capabilities)

    def _connect(self) -> Link:
        return MySQLLink(self)

    def prepare(self, connection: pymysql.Connection[pymysql.cursors.Cursor]) -> None:
        """Set up a new session."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT version(), @@innodb_flush_log_at_trx_commit, @@innodb_flush_method, @@max_allowed_packet"
            )
            version, flush, method, packet = cast("tuple[str, int, str | None, int]", cursor.fetchone())
            self._check_version(version)
            self._durable = flush == 1 and (method or "").lower() != "nosync"
            self.largest_statement = packet
            timeout = self.statement_timeout
            settings = ["sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'"]
            if self._mariadb:
                settings.append(f"idle_transaction_timeout = {LONGEST_PAUSE}")
            if timeout:
                settings.append(f"innodb_lock_wait_timeout = {max(1, round(timeout))}")
                if self._mariadb:
                    settings.append(f"max_statement_time = {timeout:f}")
                else:
                    settings.append(f"max_execution_time = {round(timeout * 1000)}")
            cursor.execute("SET " + ", ".join(f"SESSION {one}" for one in settings))
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            if self.read_only:
                cursor.execute("SET SESSION TRANSACTION READ ONLY")

    def _check_version(self, text: str) -> None:
        if self._mariadb is not None:
            return
        mariadb = "mariadb" in text.lower()
        # Old MariaDB releases say 5.5.5- first, for the sake of old clients.
        found = re.match(r"(?:5\.5\.5-)?(\d+)\.(\d+)\.(\d+)", text)
        version = tuple(map(int, found.groups())) if found else (0, 0, 0)
        oldest = OLDEST_MARIADB if mariadb else OLDEST_MYSQL
        if version < oldest:
            raise ConfigurationError(
                f"{self.shown}: Moorage needs MySQL {'.'.join(map(str, OLDEST_MYSQL))} or MariaDB "
                f"{'.'.join(map(str, OLDEST_MARIADB))} or newer, and this is {text}"
            )
        self._mariadb = mariadb
        if not mariadb:
            self.flavour = MySQLFlavour(mariadb=False)

    def refused(self, error: BaseException) -> Exception:
        """Why no connection was made."""
        said = self.without_secrets(error)
        if _code(error) in _WRONG:
            return ConfigurationError(f"{self.shown} cannot be opened: {said}")
        if isinstance(error, RuntimeError) or "cryptography" in said:
            return ConfigurationError(f"{self.shown} cannot be opened: {said}")
        return Unavailable(f"{self.shown} does not answer: {said}")

    def translate(self, error: BaseException) -> Exception:
        """What an error of pymysql means."""
        said = f"{self.shown}: {self.without_secrets(error)}"
        code = _code(error)
        if code in (1062, 1586):
            index = re.search(r"for key '([^']*)'$", str(error.args[1]))
            return Conflict(index[1].rpartition(".")[2] if index else None)
        for codes, kind in _BY_CODE.items():
            if code in codes:
                return kind(said)
        if isinstance(error, (pymysql.DataError, pymysql.ProgrammingError)) and not code:
            return InvalidArgument(said)
        return StorageError(said)

    def _claim(
        self,
        plan: Plan,
        made: tuple[object, list[Parameter]],
        condition: Condition,
        changes: Changes,
        order: Sequence[Order],
    ) -> Document | None:
        link = self._link()
        deadline = self._patience()
        lock = plan.lock_first(condition.shape, order)
        arguments = lock.arguments(condition.values)
        while True:
            with link.atomic():
                rows = link.read(lock.sql, arguments)
                if rows:
                    found = plan.format.read(rows[0])
                    one = plan.condition(equal(id=found.id))
                    patch = plan.patch(made[0], one.shape)
                    link.write(patch.sql, patch.arguments(made[1] + one.values))
                    body = changed(found.body, changes)
                    for name, value in changes.items():
                        if plan.format.kinds[name] == "json" and value is not None:
                            place = list(changes).index(name)
                            body[name] = loads(cast("str", made[1][place]))
                    return Document(found.id, body, found.revision + 1)
            if not self._still_waits(link, plan, condition, deadline):
                return None

    # The catalogue

    @contextlib.contextmanager
    def _exclusive(self, link: Link) -> Iterator[None]:
        # Tables are created outside of transactions here, so a lock by name keeps others away.
        storage = f"{self.database}\0{self.naming.prefix}"
        name = "moorage_" + hashlib.sha256(storage.encode()).hexdigest()[:32]
        wait = round(self.statement_timeout) or 3600
        if link.read("SELECT get_lock(%s, %s)", (name, wait))[0][0] != 1:
            raise Unavailable(f"{self.shown}: another process has been creating tables for {wait} s")
        try:
            yield
        finally:
            link.read("SELECT release_lock(%s)", (name,))

    def _rename(self, link: Link, tables: Sequence[tuple[str, str]]) -> None:
        quote = self.flavour.dialect().identifier_preparer.quote
        moves = ", ".join(f"{quote(old)} TO {quote(new)}" for old, new in tables)
        link.command(f"RENAME TABLE {moves}")  # all of them or none

    def _drop_index(self, link: Link, table: str, name: str) -> None:
        quote = self.flavour.dialect().identifier_preparer.quote
        link.command(f"DROP INDEX {quote(name)} ON {quote(table)}")

    def _tables(self, link: Link) -> set[str]:
        rows = link.read("SELECT table_name FROM information_schema.tables WHERE table_schema = database()")
        return {cast("str", name) for (name,) in rows}

    def _columns(self, link: Link, table: str) -> set[str]:
        rows = link.read(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = database() AND table_name = %s",
            (table,),
        )
        return {cast("str", name) for (name,) in rows}

    def _indexes(self, link: Link, table: str) -> set[str]:
        rows = link.read(
            "SELECT DISTINCT index_name FROM information_schema.statistics "
            "WHERE table_schema = database() AND table_name = %s",
            (table,),
        )
        return {cast("str", name) for (name,) in rows}


def _code(error: BaseException) -> int:
    first = error.args[0] if error.args else 0
    return first if isinstance(first, int) else 0


_LOST = frozenset({1927, 2006, 2013, 2014, 2027, 2055})
_CLOSING = frozenset({1053, 1153})
"""Answers after which the server closes the connection."""
_WRONG = frozenset({1044, 1045, 1049, 1129, 1130, 1131, 1251, 1275, 1698, 2026, 2049, 2054, 2059, 3118, 3159})
_BY_CODE: dict[frozenset[int], type[StorageError | InvalidArgument | ConfigurationError]] = {
    frozenset({1020, 1040, 1053, 1203, 1205, 1213, 1226, 1317, 1614, 1969, 2002, 2003, 3024, 3572}): Unavailable,
    frozenset({3, 1021, 1114}): StorageFull,
    frozenset({1048, 1071, 1118, 1153, 1264, 1265, 1292, 1300, 1301, 1366, 1367, 1406, 1690, 3854}): InvalidArgument,
    frozenset({1142, 1143, 1227, 1290, 1792, 1836}): StorageReadOnly,
    frozenset({1146}): MissingTable,
    frozenset({1054, 126, 127, 145, 1034, 1035}): StorageDamaged,
    _WRONG: ConfigurationError,
}
