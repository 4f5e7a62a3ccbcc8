"""Announces the SQL backends; imports nothing of SQLAlchemy until a storage is opened."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING
from urllib.parse import quote

from moorage.errors import ConfigurationError
from moorage.files import FILE_OPTIONS, file_url
from moorage.plugins import CONNECT_TIMEOUT, Backend, Option, hookimpl
from moorage.url import authority, check_fields
from moorage_sql.tables import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from moorage.driver import Driver
    from moorage.plugins import OptionValue
    from moorage.url import StorageURL


def _open_sqlite(url: StorageURL, options: Mapping[str, OptionValue], read_only: bool) -> Driver:
    from moorage_sql.sqlite import SQLiteDriver

    return SQLiteDriver(url, options, read_only)


def _open_postgresql(url: StorageURL, options: Mapping[str, OptionValue], read_only: bool) -> Driver:
    from moorage_sql.postgresql import PostgreSQLDriver

    return PostgreSQLDriver(url, options, read_only)


def _open_mysql(url: StorageURL, options: Mapping[str, OptionValue], read_only: bool) -> Driver:
    from moorage_sql.mysql import MySQLDriver

    return MySQLDriver(url, options, read_only)


def _erase_sqlite(url: StorageURL, options: Mapping[str, OptionValue]) -> None:
    from moorage_sql.sqlite import erase

    del options
    erase(url)


def _erase_postgresql(url: StorageURL, options: Mapping[str, OptionValue]) -> None:
    from moorage_sql.postgresql import PostgreSQLDriver

    with contextlib.closing(PostgreSQLDriver(url, options, read_only=False)) as driver:
        driver.erase()


def _erase_mysql(url: StorageURL, options: Mapping[str, OptionValue]) -> None:
    from moorage_sql.mysql import MySQLDriver

    with contextlib.closing(MySQLDriver(url, options, read_only=False)) as driver:
        driver.erase()


def _server_url(type_: str, scheme: str) -> Callable[[Mapping[str, object]], str]:
    known = ("host", "port", "user", "password", "database")

    def build(fields: Mapping[str, object]) -> str:
        check_fields(type_, fields, known)
        if not fields.get("database"):
            raise ConfigurationError(f"the {type_} backend needs a database, as well as host, port, user and password")
        return f"{scheme}://{authority(fields)}/{quote(str(fields['database']), safe='')}"

    return build


_PREFIX = Option(
    name="prefix",
    default=PREFIX,
    help="what the names of all tables begin with; storages of different prefixes share a database without noticing",
)
_STATEMENT_TIMEOUT = Option(
    name="statement_timeout",
    kind=float,
    default=60.0,
    help="how long a statement may take before it is given up, in seconds; 0 for ever",
)


@hookimpl
def moorage_backends() -> list[Backend]:
    """SQLite, PostgreSQL, and MySQL with MariaDB."""
    return [
        Backend(
            name="sqlite",
            schemes=("sqlite",),
            description="one SQLite file on a local disk, shared by the processes of one machine",
            open=_open_sqlite,
            options=FILE_OPTIONS,
            example="sqlite:///hpo.db",
            url=functools.partial(file_url, "sqlite", example="hpo.db"),
            level=3,
            erase=_erase_sqlite,
        ),
        Backend(
            name="postgresql",
            schemes=("postgresql", "postgresql+psycopg"),
            description="a PostgreSQL server",
            open=_open_postgresql,
            options=(
                _PREFIX,
                CONNECT_TIMEOUT,
                _STATEMENT_TIMEOUT,
                Option(name="sslmode", help="as in libpq: disable, prefer, require, verify-ca, verify-full"),
                Option(name="sslrootcert", help="file with the certificates of trusted authorities"),
                Option(name="sslcert", help="file with the client's certificate"),
                Option(name="sslkey", help="file with the client's private key"),
                Option(name="application_name", default="moorage", help="how the server lists the connection"),
                Option(name="options", help="command-line options for the server, as in libpq"),
            ),
            extra="moorage[postgresql]",
            example="postgresql+psycopg://user:password@host:5432/database",
            url=_server_url("postgresql", "postgresql+psycopg"),
            level=4,
            erase=_erase_postgresql,
        ),
        Backend(
            name="mysql",
            schemes=("mysql", "mysql+pymysql", "mariadb", "mariadb+pymysql"),
            description="a MySQL or MariaDB server",
            open=_open_mysql,
            options=(
                _PREFIX,
                CONNECT_TIMEOUT,
                _STATEMENT_TIMEOUT,
                Option(name="ssl_ca", help="file with the certificates of trusted authorities"),
                Option(name="ssl_cert", help="file with the client's certificate"),
                Option(name="ssl_key", help="file with the client's private key"),
                Option(name="unix_socket", help="path of the server's socket, instead of host and port"),
                Option(
                    name="charset",
                    default="utf8mb4",
                    choices=("utf8mb4",),
                    help="the character set of the connection; only utf8mb4 keeps every text",
                ),
            ),
            extra="moorage[mysql]",
            example="mysql+pymysql://user:password@host:3306/database",
            url=_server_url("mysql", "mysql+pymysql"),
            level=4,
            erase=_erase_mysql,
        ),
    ]
