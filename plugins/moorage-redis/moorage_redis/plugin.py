"""Announces the Redis backend; imports nothing of redis-py until a storage is opened."""

from __future__ import annotations

import contextlib
import functools
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from moorage.errors import ConfigurationError
from moorage.plugins import CONNECT_TIMEOUT, TIMEOUT, Backend, Option, hookimpl
from moorage.url import authority, check_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moorage.plugins import OptionValue
    from moorage.url import StorageURL

    from moorage_redis.driver import RedisDriver

_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_FIELDS = ("host", "port", "user", "password", "database", "socket", "tls")


def _place(url: StorageURL, options: Mapping[str, OptionValue]) -> dict[str, object]:
    """Where the server is, in the words of redis-py."""
    if url.scheme == "redis+unix":
        if url.host or not url.path.strip("/"):
            raise ConfigurationError(f"a Unix socket is redis+unix:///run/redis.sock, not {url}")
        return {"path": url.path, "db": options["db"] or 0}
    try:
        parts = urlsplit(f"//{url.host or 'localhost'}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"the host of {url} cannot be read: {error}") from None
    number = url.path.strip("/")
    if number and not (number.isascii() and number.isdigit()):
        raise ConfigurationError(f"Redis numbers its databases, as in redis://host:6379/0, so {url} names none")
    if number and options["db"] not in (None, int(number)):
        raise ConfigurationError(f"{url} names database {number}, and the option db says {options['db']}")
    return {"host": host or "localhost", "port": port or 6379, "db": int(number or options["db"] or 0)}


def _open(url: StorageURL, options: Mapping[str, OptionValue], read_only: bool) -> RedisDriver:
    from redis import Connection, SSLConnection, UnixDomainSocketConnection
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from moorage_redis.driver import RedisDriver
    from moorage_redis.link import Link

    namespace = str(options["namespace"])
    if not _NAMESPACE.fullmatch(namespace):
        raise ConfigurationError(
            f"option 'namespace' takes at most 100 of the characters A-Z a-z 0-9 _ . -, not {namespace!r:.80}"
        )
    kinds = {"redis": Connection, "rediss": SSLConnection, "redis+unix": UnixDomainSocketConnection}
    settings: dict[str, object] = {
        **_place(url, options),
        "username": url.username or None,
        "password": url.password or None,
        "socket_timeout": options["timeout"] or None,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    if url.scheme != "redis+unix":
        settings |= {"socket_connect_timeout": options["connect_timeout"] or None, "socket_keepalive": True}
    if url.scheme == "rediss":
        settings |= {
            "ssl_ca_certs": options["ssl_ca"],
            "ssl_certfile": options["ssl_cert"],
            "ssl_keyfile": options["ssl_key"],
        }
    return RedisDriver(Link(functools.partial(kinds[url.scheme], **settings), str(url)), namespace, read_only=read_only)


def _erase(url: StorageURL, options: Mapping[str, OptionValue]) -> None:
    with contextlib.closing(_open(url, options, read_only=False)) as driver:
        driver.erase()


def _url(fields: Mapping[str, object]) -> str:
    check_fields("redis", fields, _FIELDS)
    if fields.get("socket"):
        credentials = authority({**fields, "host": None, "port": None})
        return f"redis+unix://{credentials}{quote(str(fields['socket']))}?db={fields.get('database') or 0}"
    scheme = "rediss" if fields.get("tls") else "redis"
    return f"{scheme}://{authority({'port': 6379, **fields}, 'localhost')}/{fields.get('database') or 0}"


@hookimpl
def moorage_backends() -> list[Backend]:
    """Redis, over TCP, TLS or a Unix socket."""
    return [
        Backend(
            name="redis",
            schemes=("redis", "rediss", "redis+unix"),
            description="a Redis server",
            open=_open,
            options=(
                Option(name="namespace", default="moorage", help="what all keys begin with; one for each storage"),
                Option(name="db", kind=int, help="the number of the database, where the URL does not say it"),
                CONNECT_TIMEOUT,
                TIMEOUT,
                Option(name="ssl_ca", help="file with the certificates of trusted authorities"),
                Option(name="ssl_cert", help="file with the client's certificate"),
                Option(name="ssl_key", help="file with the client's private key"),
            ),
            example="redis://:password@host:6379/0?namespace=moorage",
            url=_url,
            level=4,
            erase=_erase,
        )
    ]
