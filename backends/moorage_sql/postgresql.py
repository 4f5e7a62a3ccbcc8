"""PostgreSQL."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, cast

import psycopg
from psycopg.types.numeric import Int8Dumper

from moorage.driver import Capability
from moorage.errors import (
    ConfigurationError,
    InvalidArgument,
    OutcomeUnknown,
    StorageDamaged,
    StorageError,
    StorageFull,
    StorageReadOnly,
    Unavailable,
)
from moorage_sql.link import Conflict, MissingTable
from moorage_sql.server import LONGEST_PAUSE, ServerDriver, ServerLink, hosts, seconds
from moorage_sql.statements import Flavour
from moorage_sql.tables import ColumnTypes, Naming, tally_name

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from sqlalchemy import BindParameter, ColumnElement, Index, Table
    from sqlalchemy.engine import Dialect

    from moorage.driver import Changes, Document
    from moorage.filters import Order
    from moorage.plugins import OptionValue
    from moorage.schema import Collection, Kind
    from moorage.url import StorageURL
    from moorage_sql.link import Link
    from moorage_sql.server import Connection
    from moorage_sql.statements import Condition, Parameter, Plan
    from moorage_sql.tables import Cell, Row

OLDEST = 12
SHARDS = 32
"""Each group of a tally has so many rows; a session adds to one of them, so that few wait for each other."""
_ROWS = 1000
"""So many rows are inserted by one statement."""
_TRIGGER_EVENTS = ("insert", "update", "delete")


class PostgreSQLFlavour(Flavour):
    """The SQL of PostgreSQL."""

    booleans_are_integers = False
    guidance = "range"
    types = ColumnTypes(collation="C")

    @functools.cached_property
    def _dialect(self) -> Dialect:
        from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

        return PGDialect_psycopg(dbapi=psycopg, paramstyle="format")  # type: ignore[arg-type, no-untyped-call, unused-ignore]

    def dialect(self) -> Dialect:
        """SQLAlchemy's dialect for psycopg."""
        return self._dialect

    def order(self, column: ColumnElement[object], *, descending: bool) -> ColumnElement[object]:
        """PostgreSQL takes null for the largest value unless it is told otherwise."""
        return column.desc().nulls_last() if descending else column.asc().nulls_first()

    def among(self, column: ColumnElement[object], many: BindParameter[object]) -> ColumnElement[bool]:
        """Members of an array."""
        from sqlalchemy import any_, bindparam
        from sqlalchemy.dialects.postgresql import ARRAY

        array = bindparam(many.key, type_=ARRAY(column.type))
        return column == any_(array)

    def pack(self, values: list[Cell]) -> Parameter:
        """An array."""
        return values

    def index(self, name: str, table: Table, fields: Sequence[str], *, unique: bool) -> Index:
        """An index with null first, as in the order that is asked for."""
        from sqlalchemy import Index

        if unique:
            return super().index(name, table, fields, unique=True)
        return Index(name, *(table.c[field].asc().nulls_first() for field in fields))


class PostgreSQLLink(ServerLink):
    """One thread's connection to PostgreSQL."""

    errors = (psycopg.Error, *ServerLink.errors)
    protects_statements = True

    _driver: PostgreSQLDriver

    def _open(self) -> Connection:
        try:
            connection = psycopg.connect(**self._driver.arguments, autocommit=True)  # type: ignore[arg-type]
        except psycopg.Error as error:
            raise self._driver.refused(error) from error
        try:
            connection.adapters.register_dumper(int, Int8Dumper)
            self._driver.prepare(connection)
        except psycopg.Error as error:
            connection.close()
            raise self._meaning(error, writing=False, arguments=()) from error
        except BaseException:
            connection.close()
            raise
        return cast("Connection", connection)

    def _socket(self) -> int | None:
        return cast("psycopg.Connection", self._connection).fileno()

    def _is_lost(self, error: BaseException) -> bool:
        connection = cast("psycopg.Connection | None", self._connection)
        return connection is None or connection.closed or connection.broken

    def _translate(self, error: BaseException, *, writing: bool) -> Exception:
        return self._driver.translate(error, writing=writing)

    def stream(self, sql: str, arguments: Sequence[Parameter]) -> Generator[Row]:
        """See `Link.stream`."""
        cursor = cast("psycopg.Cursor[Row]", self._ready())
        with self._guarded(writing=False):
            rows = cast("Generator[Row]", cursor.stream(sql, arguments or None))
            with contextlib.closing(rows):
                yield from rows


class PostgreSQLDriver(ServerDriver):
    """A Moorage storage in a PostgreSQL database."""

    name = "postgresql"
    clock_query = "SELECT extract(epoch FROM clock_timestamp())"

    def __init__(self, url: StorageURL, options: Mapping[str, OptionValue], read_only: bool) -> None:
        """Connect.

        Raises:
            ConfigurationError: the URL, the user, the password or the database is wrong.
            Unavailable: the server does not answer.
        """
        super().__init__(PostgreSQLFlavour(), url, options, read_only=read_only)
        names, ports = hosts(url)
        patience = max(1, round(seconds("connect_timeout", options["connect_timeout"])))
        arguments: dict[str, object] = {
            "host": ",".join(names) or None,
            "port": ",".join(ports) if any(ports) else None,
            "user": url.username,
            "password": url.password,
            "dbname": self.database,
            "connect_timeout": patience,
            "keepalives": 1,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "client_encoding": "utf8",
        }
        if self.statement_timeout:
            arguments["tcp_user_timeout"] = round(self.statement_timeout * 1000)
        for name in ("sslmode", "sslrootcert", "sslcert", "sslkey", "application_name", "options"):
            arguments[name] = options[name]
        self.arguments = {name: value for name, value in arguments.items() if value is not None}
        self._durable = True
        self._link().open()
        capabilities = {Capability.SHARED, Capability.TRANSACTIONS, Capability.SERVER_CLOCK}
        if self._durable:
            capabilities.add(Capability.DURABLE)
        self.capabilities = frozenset(capabilities)

    def _connect(self) -> Link:
        return PostgreSQLLink(self)

    def prepare(self, connection: psycopg.Connection) -> None:
        """Set up a new session."""
        timeout = str(round(self.statement_timeout * 1000))
        row = connection.execute(
            "SELECT set_config('statement_timeout', %s, false), "
            "set_config('idle_in_transaction_session_timeout', %s, false), "
            "set_config('default_transaction_isolation', 'read committed', false), "
            "set_config('default_transaction_read_only', %s, false), "
            "current_setting('synchronous_commit'), current_setting('fsync'), current_setting('server_encoding')",
            (timeout, str(LONGEST_PAUSE * 1000), "on" if self.read_only else "off"),
        ).fetchone()
        synchronous, flushed, encoding = cast("tuple[str, ...]", row)[4:]
        self._durable = synchronous != "off" and flushed == "on"
        if connection.info.server_version < OLDEST * 10000:
            raise ConfigurationError(
                f"{self.shown}: Moorage needs PostgreSQL {OLDEST} or newer, and this is "
                f"{connection.info.server_version // 10000}"
            )
        if encoding != "UTF8":
            raise ConfigurationError(
                f"{self.shown}: the database has the encoding {encoding}, which cannot keep every text; create "
                "one with ENCODING 'UTF8'"
            )

    def refused(self, error: psycopg.Error) -> Exception:
        """Why no connection was made; libpq tells only in words."""
        said = self.without_secrets(error)
        state = error.sqlstate or ""
        wrong = (
            "authentication failed",
            "no password supplied",
            "no pg_hba.conf entry",
            "does not exist",
            "is not permitted to log in",
            "permission denied for database",
            "invalid connection option",
            "root certificate file",
            "certificate verify failed",
            "invalid sslmode",
            "does not support SSL",
        )
        if state[:2] in ("28", "3D") or any(words in said for words in wrong):
            return ConfigurationError(f"{self.shown} cannot be opened: {said}")
        return Unavailable(f"{self.shown} does not answer: {said}")

    def translate(self, error: BaseException, *, writing: bool) -> Exception:
        """What an error of psycopg means."""
        said = f"{self.shown}: {self.without_secrets(error)}"
        if not isinstance(error, psycopg.Error):
            return StorageError(said)
        state = error.sqlstate
        if state is None:
            if isinstance(error, (psycopg.DataError, psycopg.ProgrammingError, psycopg.InterfaceError)):
                return InvalidArgument(said)
            return StorageError(said)
        if state == "23505":
            return Conflict(error.diag.constraint_name)
        if state in _BY_STATE:
            return _BY_STATE[state](said)
        if state in ("58030", "58P01", "58P02"):
            return OutcomeUnknown(said) if writing else Unavailable(said)
        kind = _BY_CLASS.get(state[:2])
        return kind(said) if kind is not None else StorageError(f"{said} ({state})")

    def _insert_many(self, link: Link, plan: Plan, rows: Sequence[Sequence[Parameter]]) -> None:
        # A statement for each row would also make the triggers count each by itself.
        sql, numbers = self._insert_arrays(plan)
        with contextlib.nullcontext() if len(rows) <= _ROWS else link.atomic():
            for start in range(0, len(rows), _ROWS):
                columns: list[list[Cell]] = [list(column) for column in zip(*rows[start : start + _ROWS], strict=True)]
                for place in numbers:
                    columns[place] = [None if one is None else float(cast("float", one)) for one in columns[place]]
                link.write(sql, columns, risky=True)

    def _insert_arrays(self, plan: Plan) -> tuple[str, tuple[int, ...]]:
        """A statement that takes an array for each column, and the positions of those that hold floats."""
        dialect = self.flavour.dialect()
        quote = dialect.identifier_preparer.quote
        columns = plan.table.columns
        listed = ", ".join(quote(column.name) for column in columns)
        kinds = plan.format.kinds
        arrays = ", ".join(f"%s::{_ARRAYS.get(_kind(kinds, column.name), 'text')}[]" for column in columns)
        numbers = tuple(place for place, column in enumerate(columns) if kinds.get(column.name) == "number")
        table = quote(plan.table.name)
        return f"INSERT INTO {table} ({listed}) SELECT * FROM unnest({arrays})", numbers

    def _claim(
        self,
        plan: Plan,
        made: tuple[object, list[Parameter]],
        condition: Condition,
        changes: Changes,
        order: Sequence[Order],
    ) -> Document | None:
        statement = plan.claim(made[0], condition.shape, order, locking="skip")
        arguments = statement.arguments(made[1] + condition.values)
        risky = bool(plan.collection.unique)
        link = self._link()
        deadline = self._patience()
        while True:
            rows = link.write_returning(statement.sql, arguments, risky=risky)
            if rows:
                return plan.format.read(rows[0])
            if not self._still_waits(link, plan, condition, deadline):
                return None

    # The catalogue

    @contextlib.contextmanager
    def _exclusive(self, link: Link) -> Iterator[None]:
        with link.atomic():
            link.read("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (self.naming.schema,))
            yield

    def _tables(self, link: Link) -> set[str]:
        rows = link.read("SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()")
        return {cast("str", name) for (name,) in rows}

    def _columns(self, link: Link, table: str) -> set[str]:
        rows = link.read(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema() "
            "AND table_name = %s",
            (table,),
        )
        return {cast("str", name) for (name,) in rows}

    def _indexes(self, link: Link, table: str) -> set[str]:
        rows = link.read(
            "SELECT indexname FROM pg_indexes WHERE schemaname = current_schema() AND tablename = %s", (table,)
        )
        return {cast("str", name) for (name,) in rows}

    def _drop_tally(self, link: Link, naming: Naming, collection: Collection, fields: tuple[str, ...]) -> None:
        quote = self.flavour.dialect().identifier_preparer.quote
        for event in _TRIGGER_EVENTS:
            name = naming.trigger(tally_name(collection, fields), event)
            link.command(f"DROP FUNCTION IF EXISTS {quote(name)}() CASCADE")
        link.command(f"DROP TABLE {quote(naming.tally(collection, fields))}")

    def _create_tally(self, link: Link, plan: Plan, fields: tuple[str, ...]) -> None:
        collection = plan.collection
        quote = self.flavour.dialect().identifier_preparer.quote
        table, tally = quote(plan.table.name), quote(self.naming.tally(collection, fields))
        names = [quote(name) for name in fields]
        listed = ", ".join(names)
        triggers = {
            event: quote(self.naming.trigger(tally_name(collection, fields), event)) for event in _TRIGGER_EVENTS
        }
        columns = ", ".join(f'{name} VARCHAR(255) COLLATE "C" NOT NULL' for name in names)
        complete = " AND ".join(f"change.{name} IS NOT NULL" for name in names)
        changed = ", ".join(f"change.{name}" for name in names)
        old, new = (", ".join(f"{row}.{name}" for name in names) for row in ("OLD", "NEW"))
        link.command(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
        link.command(
            f"CREATE TABLE {tally} ({columns}, shard SMALLINT NOT NULL, total BIGINT NOT NULL, "
            f"PRIMARY KEY ({listed}, shard))"
        )
        # The groups are touched in order, so that two sessions that share a shard do not lock each other out. Rows that
        # come or go together are counted together; an update is counted row by row, because only so can a trigger
        # leave out, at no cost, those that change nothing of the group.
        body = (
            "CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN "
            f"INSERT INTO {tally} AS kept ({listed}, shard, total) "
            f"SELECT {changed}, pg_backend_pid() % {SHARDS}, {{sum}} FROM {{source}} AS change {{names}}"
            f"WHERE {complete} {{group}}ORDER BY {changed} "
            f"ON CONFLICT ({listed}, shard) DO UPDATE SET total = kept.total + excluded.total; "
            "RETURN NULL; END $body$"
        )
        values = f"(VALUES ({old}, -1), ({new}, 1))"
        for event, parts in {
            "insert": {"sum": "count(*)", "source": "new_rows", "names": "", "group": f"GROUP BY {changed} "},
            "delete": {"sum": "-count(*)", "source": "old_rows", "names": "", "group": f"GROUP BY {changed} "},
            "update": {"sum": "change.step", "source": values, "names": f"({listed}, step) ", "group": ""},
        }.items():
            link.command(body.format(name=triggers[event], **parts))
        link.command(
            f"CREATE TRIGGER {triggers['insert']} AFTER INSERT ON {table} REFERENCING NEW TABLE AS new_rows "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {triggers['insert']}()"
        )
        link.command(
            f"CREATE TRIGGER {triggers['delete']} AFTER DELETE ON {table} REFERENCING OLD TABLE AS old_rows "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {triggers['delete']}()"
        )
        link.command(
            f"CREATE TRIGGER {triggers['update']} AFTER UPDATE OF {listed} ON {table} FOR EACH ROW "
            f"WHEN (({old}) IS DISTINCT FROM ({new})) EXECUTE FUNCTION {triggers['update']}()"
        )
        kept = " AND ".join(f"{name} IS NOT NULL" for name in names)
        link.command(f"INSERT INTO {tally} SELECT {listed}, 0, count(*) FROM {table} WHERE {kept} GROUP BY {listed}")

    def _drop_functions(self, link: Link, names: Sequence[str]) -> None:
        triggers: list[Cell] = [self.naming.trigger(name, event) for name in names for event in _TRIGGER_EVENTS]
        functions = link.read(
            "SELECT routine_name FROM information_schema.routines WHERE routine_schema = current_schema() "
            "AND data_type = 'trigger' AND routine_name = ANY(%s)",
            (triggers,),
        )
        quote = self.flavour.dialect().identifier_preparer.quote
        for (name,) in functions:
            link.command(f"DROP FUNCTION {quote(cast('str', name))}()")


def _kind(kinds: Mapping[str, Kind], column: str) -> Kind:
    return "integer" if column == "revision" else kinds.get(column, "text")


_ARRAYS: dict[Kind, str] = {"integer": "bigint", "number": "double precision", "boolean": "boolean"}
_BY_STATE: dict[str, type[StorageError | InvalidArgument | ConfigurationError]] = {
    "25006": StorageReadOnly,
    "42501": StorageReadOnly,
    "42P01": MissingTable,
    "42703": StorageDamaged,
    "53100": StorageFull,
    "54000": InvalidArgument,
    "54023": InvalidArgument,
    "55P03": Unavailable,
    "57014": Unavailable,
    "57P01": Unavailable,
    "57P02": Unavailable,
    "57P03": Unavailable,
    "XX001": StorageDamaged,
    "XX002": StorageDamaged,
}
_BY_CLASS: dict[str, type[StorageError | InvalidArgument | ConfigurationError]] = {
    "08": Unavailable,
    "22": InvalidArgument,
    "23": InvalidArgument,
    "28": ConfigurationError,
    "3D": ConfigurationError,
    "40": Unavailable,
    "53": Unavailable,
}
