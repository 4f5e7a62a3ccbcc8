"""Announces the MLflow backends; imports nothing of MLflow."""

from __future__ import annotations

import contextlib
import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from moorage.errors import ConfigurationError
from moorage.files import file_url, path_of
from moorage.plugins import CONNECT_TIMEOUT, TIMEOUT, Backend, Option, hookimpl
from moorage.url import authority, check_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moorage.plugins import OptionValue
    from moorage.url import StorageURL
    from moorage_mlflow.driver import MLflowDriver
    from moorage_mlflow.link import Link

_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_SERVER_FIELDS = ("host", "port", "user", "password", "path", "tls")
_DATABASES = (
    "mlflow+postgresql",
    "mlflow+postgresql+psycopg",
    "mlflow+postgresql+psycopg2",
    "mlflow+mysql",
    "mlflow+mysql+pymysql",
)


def _driver(link: Link, options: Mapping[str, OptionValue], read_only: bool) -> MLflowDriver:
    from moorage_mlflow.driver import MLflowDriver, Settings

    return MLflowDriver(
        link,
        Settings(
            namespace=str(options["namespace"]),
            read_only=read_only,
            timeout=cast("float", options.get("timeout") or 30.0),
            waiting=bool(options["waiting"]),
            repair_after=cast("float", options["repair_after"]),
            settle=cast("float", options["settle"]),
        ),
    )


def _check(options: Mapping[str, OptionValue]) -> None:
    if not _NAMESPACE.fullmatch(str(options["namespace"])):
        raise ConfigurationError(
            "option 'namespace' takes at most 100 of the characters A-Z a-z 0-9 _ . -, not "
            f"{options['namespace']!r:.80}"
        )


def _open_server(url: StorageURL, options: Mapping[str, OptionValue], read_only: bool) -> MLflowDriver:
    import ssl

    from moorage_mlflow.link import ServerLink, address, authorization

    _check(options)
    if not url.host:
        raise ConfigurationError(f"the URL of an MLflow server needs a host, as in mlflow+http://host:5000, not {url}")
    secure = url.scheme == "mlflow+https"
    context = None
    if secure:
        try:
            context = ssl.create_default_context(cafile=cast("str | None", options["ssl_ca"]))
        except OSError as error:
            raise ConfigurationError(f"option 'ssl_ca': {options['ssl_ca']!r} cannot be read: {error}") from error
    link = ServerLink(
        address(url.host, url.path, secure=secure),
        str(url).partition("?")[0],
        context=context,
        authorization=authorization(url.username, url.password),
        connect_timeout=cast("float", options["connect_timeout"]) or None,
        timeout=cast("float", options["timeout"]) or None,
    )
    return _driver(link, options, read_only)


def _open_store(url: StorageURL, options: Mapping[str, OptionValue], read_only: bool) -> MLflowDriver:
    from moorage_mlflow.store import StoreLink

    _check(options)
    shown = str(url).partition("?")[0]
    uri = url.raw.partition("?")[0].partition("+")[2]
    file = None
    if url.scheme == "mlflow+sqlite":
        file = _file(url)
        uri = f"sqlite:///{file}"
    artifacts = str(options["artifacts"] or (file.parent / "mlartifacts" if file is not None else "mlartifacts"))
    return _driver(StoreLink(uri, shown, file=file, artifacts=artifacts, read_only=read_only), options, read_only)


def _file(url: StorageURL) -> Path:
    if url.path == "/:memory:":
        raise ConfigurationError(f"an MLflow store in SQLite needs a file, as in mlflow+sqlite:///mlflow.db, not {url}")
    return Path(path_of(url, ".db"))


def _erase_server(url: StorageURL, options: Mapping[str, OptionValue]) -> None:
    with contextlib.closing(_open_server(url, options, read_only=False)) as driver:
        driver.erase()


def _erase_store(url: StorageURL, options: Mapping[str, OptionValue]) -> None:
    from moorage_mlflow.store import exists

    if url.scheme == "mlflow+sqlite" and not exists(_file(url), str(url)):
        return
    with contextlib.closing(_open_store(url, options, read_only=False)) as driver:
        driver.erase()


def _server_url(fields: Mapping[str, object]) -> str:
    check_fields("mlflow", fields, _SERVER_FIELDS)
    scheme = "mlflow+https" if fields.get("tls") else "mlflow+http"
    path = quote(str(fields.get("path") or "").strip("/"), safe="/")
    return f"{scheme}://{authority(fields, 'localhost')}{f'/{path}' if path else ''}"


_COMMON = (
    Option(name="namespace", default="moorage", help="which storage of this MLflow; each has a ledger of its own"),
    Option(
        name="waiting",
        kind=bool,
        default=False,
        help="show trials that wait for their first start, too, as scheduled runs",
    ),
    Option(
        name="repair_after",
        kind=float,
        default=10.0,
        help="after how long a process shows in MLflow what others left undone, in seconds",
    ),
    Option(
        name="settle",
        kind=float,
        default=30.0,
        help="how long closing waits until MLflow shows what this process has changed, in seconds",
    ),
)


@hookimpl
def moorage_backends() -> list[Backend]:
    """An MLflow tracking server, and an MLflow store in this process."""
    return [
        Backend(
            name="mlflow",
            schemes=("mlflow+http", "mlflow+https"),
            description="an MLflow tracking server with a SQL database",
            open=_open_server,
            options=(
                *_COMMON,
                CONNECT_TIMEOUT,
                TIMEOUT,
                Option(name="ssl_ca", help="file with the certificates of trusted authorities"),
            ),
            example="mlflow+http://host:5000",
            url=_server_url,
            level=4,
            erase=_erase_server,
        ),
        Backend(
            name="mlflow-store",
            schemes=("mlflow+sqlite", *_DATABASES),
            description="an MLflow store in a SQL database, opened in this process",
            open=_open_store,
            options=(*_COMMON, Option(name="artifacts", help="where MLflow keeps the files of runs; none are written")),
            extra="moorage[mlflow]",
            example="mlflow+sqlite:///mlflow.db",
            url=functools.partial(file_url, "mlflow-store", example="mlflow.db", scheme="mlflow+sqlite"),
            level=3,
            erase=_erase_store,
        ),
    ]
