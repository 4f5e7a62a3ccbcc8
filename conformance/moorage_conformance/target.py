"""What is tested: a URL with a place for names, what the author can do with the server or the files, and exemptions."""

from __future__ import annotations

import importlib
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import attrs

from moorage.config import find_settings, open_driver
from moorage.driver import Capability
from moorage.errors import ConfigurationError, MoorageError
from moorage.plugins import plugins
from moorage.schema import Collection, Field, Schema
from moorage_conformance.checking import Unjudged, Violation
from moorage_conformance.specification import requirement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moorage.driver import Driver
    from moorage.plugins import Backend
    from moorage.url import StorageURL

PLACE = "{ns}"
"""What stands in the URL for the name of a fresh namespace."""

ITEMS = Collection(
    name="items",
    fields=(
        Field("family", "string"),
        Field("name", "string"),
        Field("tag", "string"),
        Field("note", "text"),
        Field("place", "integer"),
        Field("amount", "integer"),
        Field("score", "number"),
        Field("flag", "boolean"),
        Field("moment", "time"),
        Field("data", "json"),
        Field("labels", "json"),
        Field("write", "string", public=False),
    ),
    unique=(("family", "name"),),
    indexes=(("family", "flag", "place"), ("family", "place"), ("tag", "score")),
    tallies=(("family", "tag"),),
)
"""A collection with a field of each kind, and more than one of some; the checks of the driver use it."""

NOTES = Collection(
    name="notes",
    fields=(Field("title", "string"), Field("text", "text"), Field("place", "integer")),
    unique=(("title",),),
    indexes=(("place",),),
)
"""A second collection, with ids and keys of its own."""

ITEMS_SCHEMA = Schema(version=1, collections=(ITEMS, NOTES))


class Hooks:
    """What the suite cannot do without the author of a backend; each method is optional.

    A requirement whose check needs a method that is not there is unknown, unless the backend need not meet it.
    """

    def stop_server(self, *, kill: bool) -> None:
        """Stop the server: in good order, or by kill -9 where ``kill``."""
        _missing("stop_server")

    def start_server(self) -> None:
        """Start the server again, at the same address and with its data; return when it answers."""
        _missing("start_server")

    def server_processes(self) -> Sequence[int]:
        """The ids of the processes that write what the server keeps."""
        _missing("server_processes")

    def files(self, url: str) -> Sequence[Path]:
        """The files in which the storage at this URL is kept, while nobody has it open.

        By default those whose path begins with the URL's.
        """
        path = Path(find_settings(url).url.path.removeprefix("/"))
        return sorted(one for one in path.parent.glob(f"{path.name}*") if one.is_file())

    def discard(self, url: str) -> None:
        """Remove the storage at this URL.

        By default by the ``erase`` of the backend; without one it stays behind.
        """
        settings = find_settings(url)
        backend = plugins().backend(settings.url.scheme)
        if backend.erase is not None:
            query = dict(settings.url.query)
            backend.erase(settings.url, backend.read_options(query))


def _missing(name: str) -> NoReturn:
    raise Unjudged(f"this needs the hook {name}; see moorage_conformance.Hooks")


@attrs.frozen(kw_only=True)
class Target:
    """What is tested.

    Attributes:
        url: of the storage, with ``{ns}`` where the name of a namespace goes.
        hooks: what only its author can do.
        exemptions: by the number of a requirement a link that says why it is not met. It must fail, and the level that
            it belongs to is not reached.
        plugins: modules that each process registers before it opens the URL.
    """

    url: str
    hooks: Hooks = attrs.field(factory=Hooks)
    exemptions: Mapping[str, str] = attrs.field(factory=dict)
    plugins: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        register(self.plugins)
        if PLACE not in self.url:
            raise ConfigurationError(
                f"the URL {self.parsed} needs {PLACE} where the name of a fresh namespace goes, as in "
                "sqlite:////tmp/{ns}.db or postgresql://host:5432/database?prefix={ns}_"
            )
        for name, link in self.exemptions.items():
            requirement(name)
            if "://" not in link:
                raise ConfigurationError(f"the exemption of {name} needs a link that says why, not {link!r:.80}")

    @property
    def parsed(self) -> StorageURL:
        """The URL, taken apart; shown without its secrets."""
        return find_settings(self.url).url

    @property
    def backend(self) -> Backend:
        """Which carries the URL."""
        return plugins().backend(self.parsed.scheme)

    def fresh(self) -> str:
        """The URL of a namespace that nobody has used."""
        return self.url.replace(PLACE, f"ns{secrets.token_hex(5)}")

    def open(
        self, url: str, *, schema: Schema = ITEMS_SCHEMA, read_only: bool = False, upgrade: bool = False
    ) -> Driver:
        """A driver, set up."""
        return open_driver(find_settings(url), read_only=read_only, upgrade=upgrade, schema=schema)[0]

    def conditions(self) -> frozenset[str]:
        """Which conditions of the specification the backend meets; opens a storage of its own to see.

        Raises:
            MoorageError: it cannot be opened, and the backend says why.
            Violation: opening it raised something else.
        """
        url = self.fresh()
        try:
            driver = self.open(url)
        except MoorageError:
            raise
        except Exception as error:
            raise Violation("SETUP-1", f"opening a storage raised {type(error).__name__}: {error}") from error
        capabilities = driver.capabilities
        driver.close()
        self.hooks.discard(url)
        found = {str(one) for one in capabilities if isinstance(one, Capability)}
        parsed = self.parsed
        if parsed.host is None and Capability.SHARED in capabilities:
            found.add("local")
        if parsed.host is not None and parsed.host.rpartition(":")[2].isdecimal():
            found.add("network")
        if parsed.password:
            found.add("password")
        return frozenset(found)


def register(modules: Sequence[str]) -> None:
    """Register modules as plugins of this process, each once."""
    for name in modules:
        module = importlib.import_module(name)
        if not plugins().manager.is_registered(module):
            plugins().register(module, name)
