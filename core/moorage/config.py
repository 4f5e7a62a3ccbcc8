"""Where the storage is: an argument, an environment variable, a configuration file, or the embedded default.

The first of these that says something wins:

1. the ``url`` given to `connect` (a URL, a table such as ``{"type": "sqlite", "path": "hpo.db"}``), or ``profile``;
2. ``MOORAGE_STORAGE`` (a URL), or ``MOORAGE_PROFILE`` (the name of a profile);
3. ``moorage.toml``, or the table ``[tool.moorage]`` of ``pyproject.toml``, in the working directory or the nearest
   folder above that has one. Relative paths in it are relative to its folder;
4. ``sqlite:///moorage.db``.

A configuration table has a ``url``, or a ``type`` with the fields of that backend, and options beside it. Tables under
``profiles`` are chosen by name. ``${NAME}`` stands for an environment variable, so that no secret is in the file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, overload
from urllib.parse import quote

import attrs

from moorage.errors import ConfigurationError, InvalidType
from moorage.filters import suggest
from moorage.plugins import plugins
from moorage.protocol import Storage
from moorage.protocol.base import StorageOptions
from moorage.protocol.storage import ReadOnlyStorage
from moorage.schema import SCHEMA
from moorage.url import StorageURL

if TYPE_CHECKING:
    from moorage.driver import Driver
    from moorage.schema import Schema

DEFAULT_URL = "sqlite:///moorage.db"
URL_VARIABLE = "MOORAGE_STORAGE"
PROFILE_VARIABLE = "MOORAGE_PROFILE"
STORAGE_OPTIONS = tuple(StorageOptions.__annotations__)
_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@attrs.frozen(kw_only=True)
class Settings:
    """What a storage is opened with.

    Attributes:
        url: where it is.
        options: options of the backend and of the storage.
        source: who said so, for people to read.
    """

    url: StorageURL
    options: Mapping[str, object]
    source: str


def _expanded(value: object, source: str, *, in_url: bool = False) -> object:
    if isinstance(value, Mapping):
        return {name: _expanded(one, source, in_url=name == "url") for name, one in value.items()}
    if not isinstance(value, str):
        return value
    whole = _NAME.fullmatch(value) is not None

    def replace(found: re.Match[str]) -> str:
        name = found.group(1)
        if name not in os.environ:
            raise ConfigurationError(f"{source} refers to ${{{name}}}, and that environment variable is not set")
        text = os.environ[name]
        return quote(text, safe="") if in_url and not whole else text

    return _NAME.sub(replace, value)


def _read_toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def find_file(start: Path | None = None) -> tuple[Path, dict[str, object]] | None:
    """The nearest configuration file, from the working directory upwards, and its table."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        own = folder / "moorage.toml"
        if own.is_file():
            return own, _read_toml(own)
        project = folder / "pyproject.toml"
        if project.is_file():
            tool = _read_toml(project).get("tool")
            table = tool.get("moorage") if isinstance(tool, dict) else None
            if isinstance(table, dict):
                return project, table
    return None


def _of_profile(path: Path, table: Mapping[str, object], profile: str | None) -> Mapping[str, object]:
    profiles = table.get("profiles", {})
    if not isinstance(profiles, Mapping):
        raise ConfigurationError(f"profiles of {path} must be a table of tables")
    common = {name: value for name, value in table.items() if name != "profiles"}
    if profile is None:
        return common
    if profile not in profiles:
        known = ", ".join(profiles) or "none"
        raise ConfigurationError(
            f"{path} has no profile {profile!r}.{suggest(profile, list(profiles))} There are: {known}"
        )
    chosen = profiles[profile]
    if not isinstance(chosen, Mapping):
        raise ConfigurationError(f"profile {profile!r} of {path} must be a table")
    # A profile says where the storage is by itself; only options are common to all.
    options = {name: value for name, value in common.items() if name in STORAGE_OPTIONS}
    return {**options, **chosen}


def _of_table(table: Mapping[str, object], source: str, base: Path | None) -> Settings:
    fields = dict(cast("Mapping[str, object]", _expanded(dict(table), source)))
    url, kind = fields.pop("url", None), fields.pop("type", None)
    if url is not None and kind is not None:
        raise ConfigurationError(f"{source} has both a url and a type: one of them says where the storage is")
    if isinstance(url, str):
        return Settings(url=attrs.evolve(StorageURL.parse(url), base=base), options=fields, source=source)
    if not isinstance(kind, str):
        raise ConfigurationError(
            f'{source} must say where the storage is: url = "sqlite:///hpo.db", or type = "sqlite" and path = "hpo.db"'
        )
    backend = plugins().backend(kind)
    options = {option.name for option in backend.options} | set(STORAGE_OPTIONS)
    if backend.url is None:
        raise ConfigurationError(f"the {backend.name} backend is configured by a url, as in {backend.example}")
    places = {name: value for name, value in fields.items() if name not in options}
    text = backend.url(places)
    rest = {name: value for name, value in fields.items() if name in options}
    return Settings(url=attrs.evolve(StorageURL.parse(text), base=base), options=rest, source=source)


def find_settings(url: object = None, profile: str | None = None) -> Settings:
    """What `connect` would open; see the module for the order in which it looks.

    Raises:
        ConfigurationError: something that was found is wrong; the message names its source.
    """
    if isinstance(url, str):
        return Settings(url=StorageURL.parse(url), options={}, source="the argument")
    if isinstance(url, Mapping):
        return _of_table(url, "the configuration given", None)
    if url is not None:
        raise InvalidType(f"a storage is given as a URL or a dict, not {type(url).__name__}")
    if profile is None and (text := os.environ.get(URL_VARIABLE)):
        return Settings(url=StorageURL.parse(text), options={}, source=f"the environment variable {URL_VARIABLE}")
    profile = profile or os.environ.get(PROFILE_VARIABLE) or None
    found = find_file()
    if found is not None:
        path, table = found
        chosen = _of_profile(path, table, profile)
        source = f"{path}" if profile is None else f"profile {profile!r} of {path}"
        return _of_table(chosen, source, path.parent)
    if profile is not None:
        raise ConfigurationError(
            f"profile {profile!r} was asked for, and no moorage.toml, nor a pyproject.toml with [tool.moorage], is "
            f"in {Path.cwd()} or above"
        )
    return Settings(url=StorageURL.parse(DEFAULT_URL), options={}, source="the default")


def open_driver(
    settings: Settings, *, read_only: bool = False, upgrade: bool = False, schema: Schema = SCHEMA
) -> tuple[Driver, StorageOptions]:
    """Open the driver of these settings with its collections in place, and sort out the options of the storage.

    Raises:
        UnknownBackend: no plugin carries the scheme; the message lists what is installed.
        MissingExtra: a library is missing; the message says how to install it.
        SchemaMismatch: the storage has another version of the schema.
    """
    backend = plugins().backend(settings.url.scheme)
    known = {option.name for option in backend.options}
    query = {name: value for name, value in settings.url.query.items() if name not in STORAGE_OPTIONS}
    own: dict[str, object] = {
        name: value
        for name, value in {**settings.url.query, **settings.options}.items()
        if name in STORAGE_OPTIONS and name not in known
    }
    rest = {name: value for name, value in settings.options.items() if name not in own}
    for name in rest:
        if name not in known:
            listed = ", ".join(sorted({*known, *STORAGE_OPTIONS}))
            raise ConfigurationError(
                f"unknown option {name!r} for {settings.url}.{suggest(name, [*known, *STORAGE_OPTIONS])} "
                f"The options are: {listed}"
            )
    options = cast("StorageOptions", {name: _number(name, value) for name, value in own.items()})
    driver = backend.connect(attrs.evolve(settings.url, query=query), rest, read_only=read_only)
    try:
        driver.setup(schema, upgrade=upgrade)
    except BaseException:
        driver.close()
        raise
    return driver, options


def _number(name: str, value: object) -> float:
    try:
        return float(value) if isinstance(value, str) else cast("float", value)
    except ValueError:
        raise ConfigurationError(f"option {name!r} takes a number of seconds, not {value!r}") from None


@overload
def connect(
    url: str | Mapping[str, object] | None = None,
    *,
    profile: str | None = None,
    read_only: Literal[False] = False,
    **options: object,
) -> Storage: ...
@overload
def connect(
    url: str | Mapping[str, object] | None = None,
    *,
    profile: str | None = None,
    read_only: Literal[True],
    **options: object,
) -> ReadOnlyStorage: ...
def connect(
    url: str | Mapping[str, object] | None = None,
    *,
    profile: str | None = None,
    read_only: bool = False,
    **options: object,
) -> Storage | ReadOnlyStorage:
    """Open a storage; what is missing in it is created.

    Args:
        url: a URL, or a table such as ``{"type": "sqlite", "path": "hpo.db"}``; by default see `moorage.config`.
        profile: a profile of the configuration file.
        read_only: open the database itself read-only, wherever it can be; nothing is created.
        **options: ``lock_ttl`` (60 s), ``heartbeat_timeout`` (120 s, the default of new experiments),
            ``retry_timeout`` (30 s), and those of the backend, see ``moorage backends``.

    Raises:
        ConfigurationError: the URL, an option or a configuration file is wrong.
        UnknownBackend: no installed plugin carries the scheme.
        MissingExtra: a library is missing; the message says how to install it.
        StorageError: the database cannot be opened.
    """
    settings = find_settings(url, profile)
    settings = attrs.evolve(settings, options={**settings.options, **options})
    driver, storage_options = open_driver(settings, read_only=read_only)
    try:
        return (ReadOnlyStorage if read_only else Storage)(driver, **storage_options)
    except BaseException:
        driver.close()
        raise
