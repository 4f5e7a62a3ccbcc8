"""What is broken in setting up, opening, closing, errors and capabilities."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

import attrs

from moorage.driver import Capability, Document, Driver, Instant
from moorage.errors import SchemaMismatch, StorageClosed, StorageError, StorageReadOnly
from moorage.plugins import plugins
from moorage.schema import Schema
from moorage_conformance.mutants import Mutation, mutant
from moorage_conformance.target import ITEMS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from moorage.driver import Changes, Refusal
    from moorage.filters import Filter, Order
    from moorage.schema import Collection
    from moorage.url import StorageURL

_LEAKED: list[object] = []
"""What leaks must not be freed by the garbage collector."""


# Setting up


@mutant("SETUP-1", base="memory")
class SetupDropsDocuments(Mutation):
    """Whoever sets up creates the collections anew, and what they held is gone."""

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        self.inner.setup(schema, upgrade=upgrade)
        for collection in schema.collections:
            self.inner.delete(collection, ())


@mutant("SETUP-1", base="memory")
class SetupTouchesDocuments(Mutation):
    """Setting up again writes every document anew, so that its revision grows."""

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        self.inner.setup(schema, upgrade=upgrade)
        for collection in schema.collections:
            self.inner.patch(collection, (), {})


@mutant("SETUP-1", base="memory")
class SetupOnlyOnce(Mutation):
    """A driver that was set up once sets up nothing more, not even collections that are new to it."""

    done = False

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        if not self.done:
            self.inner.setup(schema, upgrade=upgrade)
            self.done = True


@mutant("SETUP-2", base="memory")
class SetupTakesAnyVersion(Mutation):
    """A storage of another version is used as if it were of this one."""

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        with contextlib.suppress(SchemaMismatch):
            self.inner.setup(schema, upgrade=upgrade)


@mutant("SETUP-2", base="memory")
class UpgradeTakesNewerVersions(Mutation):
    """An upgrade of a storage that is newer succeeds."""

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        try:
            self.inner.setup(schema, upgrade=upgrade)
        except SchemaMismatch:
            if not upgrade:
                raise


@mutant("SETUP-2", base="memory")
class MismatchNamesVersionsTheWrongWay(Mutation):
    """The error of another version names the stored one as supported, and the supported one as stored."""

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        try:
            self.inner.setup(schema, upgrade=upgrade)
        except SchemaMismatch as error:
            raise SchemaMismatch(str(error), stored=error.supported, supported=error.stored) from error


@mutant("SETUP-2", base="memory")
class RefusalAfterDropping(Mutation):
    """A storage of another version is refused after the collections that changed were dropped."""

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        try:
            self.inner.setup(schema, upgrade=upgrade)
        except SchemaMismatch:
            self.inner.delete(ITEMS, ())
            raise


class _Upgrading(Mutation):
    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        try:
            self.inner.setup(schema)
        except SchemaMismatch as error:
            if not upgrade or error.stored > error.supported:
                raise
            self.upgrade(schema, error.stored)

    def upgrade(self, schema: Schema, stored: int) -> None:
        self.inner.setup(schema, upgrade=True)


@mutant("SETUP-3", base="memory")
class UpgradeRecordsNoVersion(_Upgrading):
    """An upgrade creates what is new, and leaves the version as it was."""

    def upgrade(self, schema: Schema, stored: int) -> None:
        self.inner.setup(Schema(version=stored, collections=schema.collections))


@mutant("SETUP-3", base="memory")
class UpgradeEmptiesNewFields(_Upgrading):
    """The new fields are null in all documents, whatever these held under that name before."""

    def upgrade(self, schema: Schema, stored: int) -> None:
        super().upgrade(schema, stored)
        collection = schema.collections[0]
        names = {one.name for one in collection.fields} - {one.name for one in ITEMS.fields}
        self.inner.patch(collection, (), dict.fromkeys(names))


@mutant("SETUP-3", base="memory")
class UpgradeDropsChangedCollections(_Upgrading):
    """An upgrade creates a collection that has new fields anew, without its documents."""

    def upgrade(self, schema: Schema, stored: int) -> None:
        super().upgrade(schema, stored)
        self.inner.delete(schema.collections[0], ())


# Opening


class _Deferring(Mutation):
    """Does some writes only when it is called the next time; what waits at the end is lost."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.waiting: Callable[[], object] | None = None

    def flush(self) -> None:
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting()

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        self.flush()
        return self.inner.insert(collection, documents)

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        self.flush()
        return self.inner.find(collection, where, order, limit)

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        self.flush()
        return self.inner.swap(collection, document, expected_revision)


@mutant("OPEN-1", base="sqlite")
class PatchesWaitForTheNextCall(_Deferring):
    """A patch is counted at once and written with the next call, so that one before closing is lost."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        self.flush()
        self.waiting = lambda: self.inner.patch(collection, where, changes)
        return self.inner.count(collection, where)


@mutant("OPEN-1", base="memory")
class DeletionsWaitForTheNextCall(_Deferring):
    """A deletion is counted at once and done with the next call, so that one before closing is forgotten."""

    def delete(self, collection: Collection, where: Filter) -> int:
        self.flush()
        self.waiting = lambda: self.inner.delete(collection, where)
        return self.inner.count(collection, where)


@mutant("OPEN-1", base="sqlite")
class DocumentsOfTheProcess(Mutation):
    """What is inserted is kept by the process and never reaches the file."""

    stores: dict[str, Driver] = {}  # noqa: RUF012

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Driver:
        broken = super().open(url, read_only)
        assert isinstance(broken, DocumentsOfTheProcess)
        backend = plugins().backend("memory")
        name = attrs.evolve(url, scheme="memory", host=Path(url.path).stem, path="")
        capabilities = broken.inner.capabilities
        broken.inner.close()
        broken.inner = backend.connect(name, {}, read_only=read_only)
        broken.capabilities = capabilities
        return broken


@mutant("OPEN-2", base="memory")
class ReadOnlyIsIgnored(Mutation):
    """Who asks for reading only may write."""

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Driver:
        return super().open(url, False)


@mutant("OPEN-2", base="memory")
class ReadOnlyClaims(Mutation):
    """A claim is taken for a read, and is possible read-only."""

    writer: Driver | None = None

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Driver:
        broken = super().open(url, read_only)
        if read_only:
            assert isinstance(broken, ReadOnlyClaims)
            broken.writer = plugins().backend(url.scheme).connect(url, {})
        return broken

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        return (self.writer or self.inner).claim(collection, where, changes, order)


@mutant("OPEN-2", base="memory")
class ReadOnlyRaisesWhatTheLibraryRaises(Mutation):
    """A write that is refused read-only raises PermissionError, as the operating system does."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        try:
            return self.inner.swap(collection, document, expected_revision)
        except StorageReadOnly as error:
            raise PermissionError(str(error)) from None


@mutant("OPEN-3", base="memory")
class OneNamespaceForAll(Mutation):
    """The name of the storage is ignored."""

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Driver:
        return super().open(attrs.evolve(url, host="all"), read_only)


@mutant("OPEN-3", base="memory")
class NamesAreCutOff(Mutation):
    """Only the first ten characters of the name count."""

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Driver:
        return super().open(attrs.evolve(url, host=(url.host or "")[:10]), read_only)


# Closing


@mutant("CLOSE-1", base="memory")
class ClosingTwiceRaises(Mutation):
    """Closing a second time raises StorageClosed."""

    closed = False

    def close(self) -> None:
        if self.closed:
            raise StorageClosed("this storage is closed")
        self.closed = True
        self.inner.close()


@mutant("CLOSE-1", base="memory")
class ClosedDriversGoOn(Mutation):
    """A driver that was closed connects again by itself and goes on working."""

    def close(self) -> None:
        pass


@mutant("CLOSE-1", base="memory")
class ClosedDriversBreak(Mutation):
    """A driver that was closed raises whatever comes of a connection that is not there."""

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        try:
            return self.inner.find(collection, where, order, limit)
        except StorageClosed:
            raise AttributeError("'NoneType' object has no attribute 'execute'") from None


@mutant("CLOSE-2", base="memory")
class LeakOfConnections(Mutation):
    """The connection that opening made stays open after closing."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        _LEAKED.append(socket.socketpair())


@mutant("CLOSE-2", base="memory")
class LeakOfThreads(Mutation):
    """The thread that opening started never ends."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        threading.Thread(target=threading.Event().wait, daemon=True).start()


@mutant("CLOSE-2", base="sqlite")
class LeakOfFilesOfOtherThreads(Mutation):
    """Each thread opens a file of its own, and closing closes that of the thread which closes."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.opened: dict[int, int] = {}

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        self.opened.setdefault(threading.get_ident(), os.open(os.devnull, os.O_RDONLY))
        return self.inner.claim(collection, where, changes, order)

    def close(self) -> None:
        mine = self.opened.pop(threading.get_ident(), None)
        if mine is not None:
            os.close(mine)
        self.inner.close()


# Errors


@mutant("ERROR-1", base="sqlite")
class ErrorsOfTheOperatingSystem(Mutation):
    """The file is touched before anything else, and what that raises comes through."""

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Driver:
        if not read_only:
            Path(url.path.removeprefix("/")).touch()
        return super().open(url, read_only)


@mutant("ERROR-1", base="sqlite")
class ErrorsOfTheLibrary(Mutation):
    """What cannot be opened is reported by the library below, in its own words."""

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Driver:
        try:
            return super().open(url, read_only)
        except (StorageError, ValueError) as error:
            raise RuntimeError(f"unable to open database file: {error}") from None


class _Secretive(Mutation):
    """Is opened by a URL with a user and a password, of which the driver below knows nothing."""

    url: StorageURL

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Self:
        opened = super().open(attrs.evolve(url, username=None, password=None), read_only)
        assert isinstance(opened, cls)
        opened.url = url
        return opened


@mutant("ERROR-2", base="memory", password=True)
class PasswordInTheRepr(_Secretive):
    """The repr of the driver shows the URL as it was given."""

    def __repr__(self) -> str:
        return f"<driver of {self.url.raw}>"


@mutant("ERROR-2", base="memory", password=True)
class PasswordInAnError(_Secretive):
    """The error of a storage of another version names the URL as it was given."""

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        try:
            self.inner.setup(schema, upgrade=upgrade)
        except SchemaMismatch as error:
            message = f"{self.url.raw} has another version"
            raise SchemaMismatch(message, stored=error.stored, supported=error.supported) from None


@mutant("ERROR-2", base="memory", password=True)
class PasswordInACause(_Secretive):
    """The error is clean, and the library's error that caused it, which is printed with it, shows the password."""

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        try:
            return self.inner.find(collection, where, order, limit)
        except StorageClosed as error:
            cause = ConnectionError(f"no connection: user={self.url.username} password={self.url.password}")
            raise StorageClosed(str(error)) from cause


# Capabilities


@mutant("CAPABILITY-1", base="memory")
class CapabilitiesAreWords(Mutation):
    """The capabilities are words, and not members of Capability."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.capabilities = frozenset(str(one.value) for one in inner.capabilities)  # type: ignore[misc]


@mutant("CAPABILITY-1", base="memory")
class CapabilitiesChangeFromTimeToTime(Mutation):
    """Every second driver declares no transactions."""

    opened = 0

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        type(self).opened += 1
        if self.opened % 2:
            self.capabilities = inner.capabilities - {Capability.TRANSACTIONS}


@mutant("CAPABILITY-1", base="memory")
class CapabilitiesAreFoundOutLater(Mutation):
    """A driver declares its clock only after it has written something."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.capabilities = inner.capabilities - {Capability.SERVER_CLOCK}

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        self.capabilities = self.inner.capabilities
        return self.inner.insert(collection, documents)


@mutant("CAPABILITY-2", base="memory")
class TransactionsOfNothing(Mutation):
    """A driver that declares no transactions has a `transaction` that does nothing, instead of refusing."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.capabilities = inner.capabilities - {Capability.TRANSACTIONS}

    def transaction(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


@mutant("CAPABILITY-2", base="memory")
class ClockOfNobody(Mutation):
    """A driver that declares no clock tells the time of this process, instead of refusing."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.capabilities = inner.capabilities - {Capability.SERVER_CLOCK}

    def now(self) -> Instant:
        return self.inner.now()
