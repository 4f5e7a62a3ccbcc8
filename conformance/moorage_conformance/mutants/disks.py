"""What is broken where writes reach the disk, where it is full, and where files are damaged."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from moorage.driver import Capability, Document
from moorage.errors import MoorageError, OutcomeUnknown, StorageDamaged, StorageFull
from moorage.plugins import plugins
from moorage_conformance.mutants import Mutation, mutant
from moorage_conformance.mutants.crashes import PlainFile, path_of
from moorage_conformance.target import NOTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.driver import Changes, Driver, Refusal
    from moorage.filters import Filter, Order
    from moorage.schema import Collection, Schema
    from moorage.url import StorageURL


# Flushes


@mutant("DURABLE-1", base="sqlite")
class FlushesNowAndThen(Mutation):
    """It declares that writes are durable, and leaves it to the database's checkpoints to flush them."""

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Driver:
        inner = plugins().backend(url.scheme).connect(url, {"durability": "fast"}, read_only=read_only)
        opened = cls(inner)
        opened.capabilities = inner.capabilities | {Capability.DURABLE}
        return opened


@mutant("DURABLE-1", base="sqlite")
class NeverFlushes(PlainFile):
    """It declares that writes are durable, and replaces its file by one that was never flushed."""

    capabilities = frozenset({Capability.SHARED, Capability.DURABLE})

    def save(self, stored: dict[str, dict[str, Document]]) -> None:
        beside = Path(f"{self.path}-new")
        beside.write_bytes(self.pack(stored))
        beside.replace(self.path)


@mutant("DURABLE-1", base="sqlite")
class FlushesAfterwards(NeverFlushes):
    """It declares that writes are durable, and flushes them in a thread, which nobody waits for."""

    def save(self, stored: dict[str, dict[str, Document]]) -> None:
        super().save(stored)
        threading.Timer(0.3, self._flush).start()

    def _flush(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            file = os.open(self.path, os.O_RDONLY)
            os.fsync(file)
            os.close(file)


@mutant("DURABLE-1", base="sqlite")
class FlushesFirst(PlainFile):
    """It flushes the file of the last write, and then writes the next one."""

    capabilities = frozenset({Capability.SHARED, Capability.DURABLE})

    def save(self, stored: dict[str, dict[str, Document]]) -> None:
        beside = Path(f"{self.path}-new")
        with beside.open("wb") as file:
            os.fsync(file.fileno())
            file.write(self.pack(stored))
        beside.replace(self.path)


# A full disk


@mutant("FULL-1", base="sqlite")
class FullDiskIsOverlooked(Mutation):
    """What cannot be written on a full disk is acknowledged all the same."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        try:
            return self.inner.insert(collection, documents)
        except StorageFull:
            return []

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        try:
            return self.inner.swap(collection, document, expected_revision)
        except StorageFull:
            return True


@mutant("FULL-1", base="sqlite")
class FullDiskIsUnknown(Mutation):
    """On a full disk an insert raises OutcomeUnknown, though it was undone."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        try:
            return self.inner.insert(collection, documents)
        except StorageFull as error:
            raise OutcomeUnknown(str(error)) from error


@mutant("FULL-1", base="sqlite")
class FullDiskKeepsHalf(Mutation):
    """A document is stored, and then a copy of it; where there is no room for the copy, the document stays."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        refused = self.inner.insert(collection, documents)
        for one in documents:
            self.inner.insert(NOTES, [Document(f"copy of {one.id}", {"text": str(one.body) * 3})])
        return refused

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        patched = self.inner.patch(collection, where, changes)
        self.inner.insert(NOTES, [Document(f"patch {os.urandom(8).hex()}", {"text": str(changes) * 3})])
        return patched


@mutant("FULL-1", base="sqlite")
class FullDiskLosesAll(PlainFile):
    """All documents are in one file, which is emptied before it is written anew."""

    def save(self, stored: dict[str, dict[str, Document]]) -> None:
        content = self.pack(stored)
        try:
            self.path.write_bytes(content)
        except OSError as error:
            raise StorageFull(error.errno, f"{self.path}: {error.strerror}") from error


# Damaged files


@mutant("DAMAGE-1", base="sqlite")
class DamagedIsCreatedAnew(Mutation):
    """A file that is damaged is removed, and an empty storage is created in its place."""

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Driver:
        try:
            return super().open(url, read_only)
        except StorageDamaged:
            path_of(url).unlink()
            return super().open(url, read_only)


@mutant("DAMAGE-1", base="sqlite")
class DamagedDocumentsAreLeftOut(Mutation):
    """Where the file is damaged, nothing is found, and no error is raised."""

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        try:
            return self.inner.find(collection, where, order, limit)
        except StorageDamaged:
            return []


@mutant("DAMAGE-1", base="sqlite")
class UnreadableIsEmpty(PlainFile):
    """A file that holds no JSON is taken for one that holds nothing."""

    def load(self) -> dict[str, dict[str, Document]]:
        try:
            return super().load()
        except StorageDamaged:
            return {}


@mutant("DAMAGE-1", base="sqlite")
class DamagedRaisesSomethingElse(PlainFile):
    """Of a file that is damaged the error of the library below is raised."""

    def load(self) -> dict[str, dict[str, Document]]:
        try:
            return super().load()
        except StorageDamaged as error:
            raise error.__cause__ or error from None


@mutant("DAMAGE-2", base="sqlite")
class DamagedIsMovedAway(Mutation):
    """A file that is damaged is refused, and renamed."""

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Driver:
        try:
            return super().open(url, read_only)
        except StorageDamaged:
            path = path_of(url)
            path.rename(f"{path}-damaged")
            raise


@mutant("DAMAGE-2", base="sqlite")
class OpeningMarksTheFile(Mutation):
    """Opening writes its mark into the file, and looks at what it is afterwards."""

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Driver:
        path = path_of(url)
        if path.is_file() and path.stat().st_size:
            with path.open("r+b") as file:
                file.write(b"SQLite format 3\0")
        return super().open(url, read_only)


@mutant("DAMAGE-2", base="sqlite")
class RefusedAndEmptied(PlainFile):
    """A storage is set up by writing it anew, and then refused if it had not been one."""

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        try:
            super().setup(schema, upgrade=upgrade)
        except MoorageError:
            self.save({one.name: {} for one in schema.collections})
            raise
