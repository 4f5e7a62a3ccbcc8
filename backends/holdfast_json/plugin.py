"""Announces the JSON file backend; imports nothing of tinydb until a storage is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from holdfast.errors import ConfigurationError
from holdfast.plugins import Backend, Option, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.driver import Driver
    from holdfast.plugins import OptionValue
    from holdfast.url import StorageURL


def _open(url: StorageURL, options: Mapping[str, OptionValue], read_only: bool) -> Driver:
    from holdfast_json.driver import JSONDriver

    return JSONDriver(url, options, read_only)


def _erase(url: StorageURL, options: Mapping[str, OptionValue]) -> None:
    from holdfast_json.driver import erase

    del options
    erase(url)


def _url(fields: Mapping[str, object]) -> str:
    unknown = sorted(set(fields) - {"path"})
    if unknown:
        raise ConfigurationError(f"unknown field {unknown[0]!r} for the json backend. Its field is: path")
    path = fields.get("path")
    if not path:
        raise ConfigurationError('the json backend needs a path: {"type": "json", "path": "runs.json"}')
    return f"json:///{quote(str(path), safe='/:~ ')}"


@hookimpl
def holdfast_backends() -> list[Backend]:
    """The JSON file."""
    return [
        Backend(
            name="json",
            schemes=("json",),
            description="one readable JSON file on a local disk, shared by the processes of one machine",
            open=_open,
            options=(
                Option(
                    name="durability",
                    default="full",
                    choices=("full", "fast"),
                    help="full: a write survives a power failure; fast: it survives the death of the process",
                ),
                Option(
                    name="busy_timeout",
                    kind=float,
                    default=60.0,
                    help="how long to wait while others write, in seconds",
                ),
                Option(
                    name="network",
                    kind=bool,
                    default=False,
                    help="use the file although it is on a network file system",
                ),
            ),
            extra="holdfast[json]",
            example="json:///runs.json",
            url=_url,
            level=3,
            erase=_erase,
        )
    ]
