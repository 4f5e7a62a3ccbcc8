"""Discovery: which backends there are, and who is told of events.

A plugin is a module (or any object) under the entry-point group ``moorage`` with functions marked by `hookimpl`. It is
imported whenever a storage is opened, so it should import its database library only inside ``open``.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import threading
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs
import pluggy

from moorage.errors import ConfigurationError, MissingExtra, UnknownBackend
from moorage.filters import suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import typer

    from moorage.driver import Driver
    from moorage.events import Event
    from moorage.url import StorageURL

HOOK_VERSION = 1
"""The version of the hook specifications below; it grows when one of them changes incompatibly."""

GROUP = "moorage"
logger = logging.getLogger("moorage")

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)

OptionValue: TypeAlias = "str | int | float | bool | None"


@attrs.frozen(kw_only=True)
class Option:
    """An option that a backend takes, in the URL's query, a configuration table, or as a keyword.

    Attributes:
        name: how it is written.
        kind: what its text is turned into.
        default: used where it is not given.
        choices: the values allowed; empty for any.
        help: one sentence, with the unit.
    """

    name: str
    kind: type[str | int | float | bool] = str
    default: OptionValue = None
    choices: tuple[OptionValue, ...] = ()
    help: str = ""

    def read(self, value: object) -> OptionValue:
        """The value given for this option, of the right type.

        Raises:
            ConfigurationError: it is of another type, or not one of the choices.
        """
        expected = f"option {self.name!r} takes {self.kind.__name__}, not {value!r}"
        if isinstance(value, str) and self.kind is bool:
            lowered = value.lower()
            if lowered not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
                raise ConfigurationError(f"{expected}; write true or false")
            value = lowered in ("true", "1", "yes", "on")
        elif self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        elif isinstance(value, str) and self.kind is not str:
            try:
                value = self.kind(value)
            except ValueError:
                raise ConfigurationError(expected) from None
        if value is not None and type(value) is not self.kind:
            raise ConfigurationError(expected)
        if self.choices and value not in self.choices:
            raise ConfigurationError(
                f"option {self.name!r} must be one of {', '.join(map(repr, self.choices))}, not {value!r}"
            )
        return value


CONNECT_TIMEOUT = Option(
    name="connect_timeout", kind=float, default=10.0, help="how long to wait for a connection, in seconds"
)
"""What a backend with a server calls it, so that all are configured alike."""

TIMEOUT = Option(name="timeout", kind=float, default=30.0, help="how long to wait for a reply, in seconds; 0 for ever")
"""What a backend with a server calls it, so that all are configured alike."""


@attrs.frozen(kw_only=True)
class Backend:
    """A backend, as its plugin announces it.

    Attributes:
        name: short, as in ``{"type": name}`` of a configuration.
        schemes: the URL schemes that it carries.
        description: one line for ``moorage backends``.
        open: opens a driver. Called with the URL, the options (one value for each of `options`), and whether only reads
            are wanted. Where a library is missing it lets the ImportError through.
        options: what it takes besides a URL.
        extra: how pip calls what it needs, as in ``moorage[mysql]``; None where it needs nothing more.
        example: a URL to show.
        url: builds the URL from the fields of a configuration table that are no options (``path``, ``host``, …).
        level: the level of the conformance suite that it declares, see ``conformance/SPEC.md``.
        erase: removes the whole storage that a URL (with options) names, whether it exists or not; nobody may have it
            open. None where only the user can.
    """

    name: str
    schemes: tuple[str, ...]
    description: str
    open: Callable[[StorageURL, Mapping[str, OptionValue], bool], Driver]
    options: tuple[Option, ...] = ()
    extra: str | None = None
    example: str = ""
    url: Callable[[Mapping[str, object]], str] | None = None
    level: Literal[1, 2, 3, 4] = 1
    erase: Callable[[StorageURL, Mapping[str, OptionValue]], None] | None = None

    def read_options(self, given: Mapping[str, object]) -> dict[str, OptionValue]:
        """One value for each option, checked.

        Raises:
            ConfigurationError: an unknown option, or a value of the wrong type.
        """
        known = {option.name: option for option in self.options}
        for name in given:
            if name not in known:
                listed = ", ".join(sorted(known)) or "none"
                raise ConfigurationError(
                    f"unknown option {name!r} for the {self.name} backend.{suggest(name, list(known))} "
                    f"Its options are: {listed}"
                )
        return {name: option.read(given[name]) if name in given else option.default for name, option in known.items()}

    def connect(self, url: StorageURL, given: Mapping[str, object], *, read_only: bool = False) -> Driver:
        """Open a driver; options given as keywords win over those of the URL.

        Raises:
            MissingExtra: a library is missing; the message says what to install.
            ConfigurationError: an option is unknown or wrong.
        """
        options = self.read_options({**url.query, **given})
        try:
            return self.open(url, options, read_only)
        except ModuleNotFoundError as error:
            package = f'"{self.extra}"' if self.extra else str(error.name)
            raise MissingExtra(
                f"the {self.name} backend needs {error.name!r}, which is not installed: pip install {package}"
            ) from error


class HookSpecifications:
    """What a plugin may implement (`HOOK_VERSION` 1); each function is optional."""

    @hookspec
    def moorage_backends(self) -> list[Backend]:  # type: ignore[empty-body]
        """The backends that this plugin brings."""

    @hookspec
    def moorage_event(self, event: Event) -> None:
        """Told of what happened, after it was stored.

        Called in the thread that made the change. A failure is logged and never breaks the write; a slow observer slows
        the writer down.
        """

    @hookspec
    def moorage_commands(self, app: typer.Typer) -> None:
        """Add commands to the command line. Import what they need only when one of them runs."""


@attrs.frozen
class BrokenPlugin:
    """A plugin that could not be used.

    Attributes:
        name: of its entry point.
        module: what the entry point names.
        reason: the error, on one line.
    """

    name: str
    module: str
    reason: str


class Plugins:
    """The plugins of this process."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(GROUP)
        self.manager.add_hookspecs(HookSpecifications)
        self.broken: list[BrokenPlugin] = []
        self._backends: dict[str, Backend] | None = None
        self._lock = threading.Lock()

    def register(self, plugin: object, name: str | None = None) -> None:
        """Add a plugin by hand: an observer of this process, or a backend in a test."""
        with self._lock:
            self.manager.register(plugin, name)
            self._backends = None

    def unregister(self, plugin: object) -> None:
        """Take a plugin out again."""
        with self._lock:
            self.manager.unregister(plugin)
            self._backends = None

    def discover(self) -> None:
        """Import what the entry points name; one that fails is noted in `broken`."""
        for entry in importlib.metadata.entry_points(group=GROUP):
            if self.manager.has_plugin(entry.name):
                continue
            try:
                self.manager.register(entry.load(), entry.name)
            except Exception as error:  # whatever a stranger's module raises while it is imported
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                self.broken.append(BrokenPlugin(entry.name, entry.value, reason))
                logger.warning("plugin %s (%s) cannot be used: %s", entry.name, entry.value, reason)

    @property
    def backends(self) -> dict[str, Backend]:
        """The installed backends by URL scheme; where two carry the same scheme, the first wins."""
        with self._lock:
            if self._backends is None:
                found: dict[str, Backend] = {}
                for plugin in self.manager.get_plugins():
                    for scheme, backend in self._backends_of(plugin):
                        found.setdefault(scheme, backend)
                self._backends = found
            return self._backends

    def _backends_of(self, plugin: object) -> list[tuple[str, Backend]]:
        announce = getattr(plugin, "moorage_backends", None)
        if announce is None:
            return []
        try:
            return [(scheme, backend) for backend in announce() for scheme in backend.schemes]
        except Exception as error:  # as above: a stranger's code
            name = self.manager.get_name(plugin) or repr(plugin)
            self.broken.append(BrokenPlugin(name, type(plugin).__name__, f"{type(error).__name__}: {error}"))
            logger.warning("plugin %s does not announce its backends: %s", name, error)
            return []

    def backend(self, scheme: str) -> Backend:
        """The backend of a URL scheme, or of this name.

        Raises:
            UnknownBackend: there is none; the message lists what is installed.
        """
        backends = self.backends
        found = backends.get(scheme) or next((one for one in backends.values() if one.name == scheme), None)
        if found is None:
            broken = "".join(f" The plugin {one.name!r} is broken ({one.reason})." for one in self.broken)
            raise UnknownBackend(
                f"no installed backend carries {scheme}://.{suggest(scheme, list(backends))} "
                f"Installed: {', '.join(sorted(backends))}.{broken}"
            )
        return found

    def tell(self, event: Event) -> None:
        """Tell every observer; whatever one raises is logged."""
        for implementation in self.manager.hook.moorage_event.get_hookimpls():
            try:
                implementation.function(event)
            except Exception:  # an observer never breaks a write
                logger.exception("observer %s failed on %s", implementation.plugin_name, type(event).__name__)

    def extend(self, app: typer.Typer) -> None:
        """Let every plugin add its commands; one that fails is noted in `broken`."""
        for implementation in self.manager.hook.moorage_commands.get_hookimpls():
            try:
                implementation.function(app)
            except Exception as error:  # a stranger's code
                name = implementation.plugin_name
                self.broken.append(BrokenPlugin(name, str(implementation.plugin), f"{type(error).__name__}: {error}"))
                logger.warning("plugin %s does not add its commands: %s", name, error)

    @property
    def has_observers(self) -> bool:
        """Whether anybody wants to be told of events."""
        return bool(self.manager.hook.moorage_event.get_hookimpls())


@functools.cache
def plugins() -> Plugins:
    """The plugins of this process, discovered at the first call."""
    found = Plugins()
    found.discover()
    return found
