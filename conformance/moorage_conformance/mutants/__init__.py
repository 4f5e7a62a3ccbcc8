"""Broken backends: at least one for each MUST, each with one deliberate fault that a check of it must find.

A suite proves something only if its checks have been seen to fail. A module here is found by itself; what it registers
with `mutant` is part of the self-test. A mutant is opened by URL like any other backend, so worker processes can use it
as well: ``mutant+sqlite:////tmp/{ns}.db?mutant=double-claim``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
import re
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import attrs

from moorage.driver import Document, Driver, Instant, Refusal
from moorage.errors import InvalidArgument, StorageDamaged
from moorage.plugins import Backend, Option, hookimpl, plugins
from moorage_conformance.specification import requirement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from moorage.driver import Changes
    from moorage.filters import Filter, Order
    from moorage.plugins import OptionValue
    from moorage.schema import Collection, Schema
    from moorage.url import StorageURL

Base: TypeAlias = Literal["memory", "sqlite", "loopback"]
M = TypeVar("M", bound="type[Driver]")


class Mutation(Driver):
    """A driver that hands each call to a correct one; a mutant overrides what it breaks.

    Args:
        inner: the correct one.
    """

    name = "mutant"

    def __init__(self, inner: Driver) -> None:
        self.inner = inner
        self.capabilities = inner.capabilities

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Driver:
        """Open the correct driver and break it.

        Args:
            url: of the correct one.
            read_only: as it was asked for.
        """
        return cls(plugins().backend(url.scheme).connect(url, {}, read_only=read_only))

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        """See `Driver.setup`."""
        self.inner.setup(schema, upgrade=upgrade)

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        """See `Driver.insert`."""
        return self.inner.insert(collection, documents)

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        """See `Driver.find`."""
        return self.inner.find(collection, where, order, limit)

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        """See `Driver.swap`."""
        return self.inner.swap(collection, document, expected_revision)

    def delete(self, collection: Collection, where: Filter) -> int:
        """See `Driver.delete`."""
        return self.inner.delete(collection, where)

    def close(self) -> None:
        """See `Driver.close`."""
        self.inner.close()

    def get(self, collection: Collection, identifier: str) -> Document | None:
        """See `Driver.get`."""
        return self.inner.get(collection, identifier)

    def count(self, collection: Collection, where: Filter = ()) -> int:
        """See `Driver.count`."""
        return self.inner.count(collection, where)

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        """See `Driver.tally`."""
        return self.inner.tally(collection, where, field)

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        """See `Driver.patch`."""
        return self.inner.patch(collection, where, changes)

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        """See `Driver.claim`."""
        return self.inner.claim(collection, where, changes, order)

    def transaction(self) -> AbstractContextManager[None]:
        """See `Driver.transaction`."""
        return self.inner.transaction()

    def now(self) -> Instant:
        """See `Driver.now`."""
        return self.inner.now()


@attrs.frozen(kw_only=True)
class Mutant:
    """One broken backend.

    Attributes:
        name: of its class, in lower case with dashes.
        breaks: the requirement that it breaks.
        base: the backend that was right before: one process in memory, many processes on SQLite, or many on a server.
        kind: the class that opens it.
        description: what is wrong with it.
        password: whether its URL has a user and a password.
    """

    name: str
    breaks: str
    base: Base
    kind: Any = attrs.field(repr=False)
    description: str
    password: bool = False


_mutants: dict[str, Mutant] = {}


def mutant(breaks: str, *, base: Base, password: bool = False) -> Callable[[M], M]:
    """Register a class as a backend that breaks a requirement; its docstring says how.

    Args:
        breaks: the number of the requirement.
        base: the backend that was right before.
        password: whether its URL has a user and a password; its ``open`` takes them out where the base knows none.
    """
    requirement(breaks)

    def register(kind: M) -> M:
        name = re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()
        if name in _mutants and _mutants[name].kind.__module__ != kind.__module__:
            raise InvalidArgument(f"there are two mutants {name!r}")
        description = " ".join((kind.__doc__ or "").split())
        _mutants[name] = Mutant(
            name=name, breaks=breaks, base=base, kind=kind, description=description, password=password
        )
        return kind

    return register


@functools.cache
def mutants() -> Mapping[str, Mutant]:
    """All mutants by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(_mutants)


def _inner(url: StorageURL) -> StorageURL:
    return attrs.evolve(url, scheme=url.scheme.removeprefix("mutant+"), query={})


def _open(url: StorageURL, options: Mapping[str, OptionValue], read_only: bool) -> Driver:
    opened: Driver = mutants()[str(options["mutant"])].kind.open(_inner(url), read_only)
    return opened


def _erase(url: StorageURL, options: Mapping[str, OptionValue]) -> None:
    inner = attrs.evolve(_inner(url), username=None, password=None)
    backend = plugins().backend(inner.scheme)
    if backend.erase is not None:
        with contextlib.suppress(StorageDamaged):  # one that keeps its documents in a way of its own
            backend.erase(inner, backend.read_options({}))


@hookimpl
def moorage_backends() -> list[Backend]:
    """The mutants, each under the scheme of what it was made of."""
    return [
        Backend(
            name=f"mutant+{base}",
            schemes=(f"mutant+{base}",),
            description="broken on purpose, to test the conformance suite",
            open=_open,
            options=(Option(name="mutant", help="which one"),),
            level=level,
            erase=_erase,
        )
        for base, level in _LEVELS.items()
    ]


_LEVELS: Mapping[Base, Literal[1, 2, 3, 4]] = {"memory": 1, "sqlite": 3, "loopback": 4}
