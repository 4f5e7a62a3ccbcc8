"""Announces the JSON file backend; imports nothing of tinydb until a storage is opened."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from moorage.files import FILE_OPTIONS, file_url
from moorage.plugins import Backend, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moorage.driver import Driver
    from moorage.plugins import OptionValue
    from moorage.url import StorageURL


def _open(url: StorageURL, options: Mapping[str, OptionValue], read_only: bool) -> Driver:
    from moorage_json.driver import JSONDriver

    return JSONDriver(url, options, read_only)


def _erase(url: StorageURL, options: Mapping[str, OptionValue]) -> None:
    from moorage_json.driver import erase

    del options
    erase(url)


@hookimpl
def moorage_backends() -> list[Backend]:
    """The JSON file."""
    return [
        Backend(
            name="json",
            schemes=("json",),
            description="one readable JSON file on a local disk, shared by the processes of one machine",
            open=_open,
            options=FILE_OPTIONS,
            extra="moorage[json]",
            example="json:///runs.json",
            url=functools.partial(file_url, "json", example="runs.json"),
            level=3,
            erase=_erase,
        )
    ]
