"""Announces the MongoDB backend; imports nothing of pymongo until a storage is opened."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from moorage.errors import ConfigurationError
from moorage.plugins import Backend, Option, hookimpl
from moorage.url import authority, check_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymongo import MongoClient

    from moorage.plugins import OptionValue
    from moorage.url import StorageURL
    from moorage_mongodb.driver import MongoDriver

_FIELDS = ("host", "port", "user", "password", "database", "srv")
_PASSED_ON = (
    Option(name="appName", default="moorage", help="how the server's log calls the connection"),
    Option(name="authMechanism", help="as in MongoDB's URLs: SCRAM-SHA-256, MONGODB-X509, …"),
    Option(name="authSource", help="the database that knows the user, where it is not the one of the URL"),
    Option(name="compressors", help="zstd, snappy or zlib, where they are installed"),
    Option(name="directConnection", kind=bool, help="talk to this one server, whatever replica set it belongs to"),
    Option(name="maxPoolSize", kind=int, default=100, help="how many connections one process may have to a server"),
    Option(name="replicaSet", help="the name of the replica set"),
    Option(name="tls", kind=bool, help="encrypt; the server's certificate is checked"),
    Option(name="tlsCAFile", help="file with the certificates of trusted authorities"),
    Option(name="tlsCertificateKeyFile", help="file with the client's certificate and private key"),
)


def _open(url: StorageURL, options: Mapping[str, OptionValue], read_only: bool) -> MongoDriver:
    from moorage_mongodb.driver import MongoDriver, UnkeptOutcomes

    database = url.path.removeprefix("/")
    if not database:
        raise ConfigurationError(f"{url} names no database: write mongodb://host/database")
    settings: dict[str, Any] = {
        option.name: options[option.name] for option in _PASSED_ON if options[option.name] is not None
    }
    patience = round(_seconds("connect_timeout", options, least=0.001) * 1000)
    settings |= {"connectTimeoutMS": patience, "serverSelectionTimeoutMS": patience}
    settings |= {"username": url.username} if url.username else {}
    settings |= {"password": url.password} if url.password else {}
    make = functools.partial(_client, url, f"{url.host or 'localhost'}/{quote(database, safe='')}", settings)

    def driver(retry: bool) -> MongoDriver:
        return MongoDriver(
            functools.partial(make, retry),
            database,
            prefix=str(options["prefix"]),
            timeout=_seconds("timeout", options, least=0),
            read_only=read_only,
            shown=str(url),
        )

    try:
        return driver(options["retryWrites"] is not False)
    except UnkeptOutcomes:
        if options["retryWrites"]:
            raise
        return driver(False)


def _client(url: StorageURL, place: str, settings: Mapping[str, Any], retry: bool) -> MongoClient[Any]:
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    try:
        return MongoClient(f"{url.scheme}://{place}", retryWrites=retry, **settings)
    except (PyMongoError, ValueError) as error:
        raise ConfigurationError(f"{url} cannot be used: {error}") from error


def _seconds(name: str, options: Mapping[str, OptionValue], *, least: float) -> float:
    value = options[name]
    if not isinstance(value, float) or not least <= value < 1e6:
        raise ConfigurationError(f"option {name!r} takes a number of seconds, at least {least:g}, not {value!r}")
    return value


def _erase(url: StorageURL, options: Mapping[str, OptionValue]) -> None:
    driver = _open(url, options, False)
    try:
        driver.erase()
    finally:
        driver.close()


def _url(fields: Mapping[str, object]) -> str:
    check_fields("mongodb", fields, _FIELDS)
    if not fields.get("database"):
        raise ConfigurationError("the mongodb backend needs a database, as well as host, port, user and password")
    scheme = "mongodb+srv" if fields.get("srv") else "mongodb"
    return f"{scheme}://{authority(fields, 'localhost')}/{quote(str(fields['database']), safe='')}"


@hookimpl
def moorage_backends() -> list[Backend]:
    """MongoDB: a replica set, of one member or more, or a sharded cluster."""
    return [
        Backend(
            name="mongodb",
            schemes=("mongodb", "mongodb+srv"),
            description="a MongoDB replica set or sharded cluster",
            open=_open,
            options=(
                Option(
                    name="prefix",
                    default="",
                    help="what the names of all collections begin with; one for each storage in a database",
                ),
                Option(
                    name="timeout",
                    kind=float,
                    default=30.0,
                    help="how long a call may wait for the server, retries included, in seconds; 0 for ever",
                ),
                Option(
                    name="connect_timeout",
                    kind=float,
                    default=10.0,
                    help="how long to look for the primary, and to wait for a connection, in seconds",
                ),
                Option(
                    name="retryWrites",
                    kind=bool,
                    help="MongoDB's retryable writes; by default on, wherever the server keeps their outcomes",
                ),
                *_PASSED_ON,
            ),
            extra="moorage[mongodb]",
            example="mongodb://user:password@host:27017/database?replicaSet=rs0",
            url=_url,
            level=4,
            erase=_erase,
        )
    ]
