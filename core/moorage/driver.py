"""The narrow waist: what a backend does for the core, in documents and nothing else.

A backend subclasses `Driver` and fills in six primitives. Seven more have defaults made of those; an override buys
speed and never meaning. Rules of experiments and trials belong above; facts of one database belong below.

What every driver promises:

- a document that was acknowledged is seen by whoever reads next, in any process (`Capability.SHARED`);
- a failed write leaves nothing behind that a reader could see;
- errors are translated: `Unavailable` where nothing was written and the same call may work later, `OutcomeUnknown`
  where it may have been written, `StorageFull`, `StorageDamaged`, `StorageReadOnly`, `SchemaMismatch`. The core
  retries the first and resolves the second; a driver does neither;
- methods may be called from any thread. After a fork the child opens what it needs anew.
"""

from __future__ import annotations

import abc
import enum
from collections import Counter
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import attrs

from moorage.errors import Unsupported
from moorage.filters import Comparison, Filter, Order, equal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from moorage.codec import Plain
    from moorage.schema import Collection, Schema


class Capability(enum.StrEnum):
    """What a driver declares, and is held to. What it does not declare refuses with `Unsupported`."""

    SHARED = "shared"
    """Many processes may use the same storage at once."""
    DURABLE = "durable"
    """An acknowledged write survives the death of the machine, not only of the process."""
    TRANSACTIONS = "transactions"
    """`Driver.transaction` makes several primitives one atomic step."""
    SERVER_CLOCK = "server_clock"
    """`Driver.now` is one clock for all who use this storage."""


@attrs.define
class Document:
    """What a driver stores.

    A declared field that is absent and one that is null are the same, and may come back as either.

    Attributes:
        id: at most 600 characters, unique in its collection.
        body: str, 64-bit int, finite float, bool, None, list, and dict with str keys, to any depth; texts hold
            neither NUL nor lone surrogates. A driver keeps the order of keys and never shares a body with its caller.
        revision: 1 when inserted, one more with each change.
    """

    id: str
    body: dict[str, Plain]
    revision: int = 1


@attrs.frozen
class Refusal:
    """A document that was not inserted.

    Attributes:
        position: its place in the batch.
        id: its id.
        key: the unique key that it breaks, ``("id",)`` or one that the collection declares.
    """

    position: int
    id: str
    key: tuple[str, ...]


@attrs.frozen
class Increment:
    """A change: add ``by`` to an integer field (null counts as 0); the sum must fit in 64 bits."""

    by: int = 1


@attrs.frozen
class Instant:
    """A reading of the clock that all users of a storage share.

    Attributes:
        clock: which clock it is; readings of different clocks cannot be compared (after a reboot, say).
        seconds: since some fixed moment of that clock; never goes back.
    """

    clock: str
    seconds: float


Changes: TypeAlias = "Mapping[str, Plain | Increment]"


def changed(body: Mapping[str, Plain], changes: Changes) -> dict[str, Plain]:
    """A copy of a body with changes applied; the reference for every driver."""
    result = dict(body)
    for name, value in changes.items():
        if isinstance(value, Increment):
            stored = result.get(name)
            result[name] = (stored if isinstance(stored, int) else 0) + value.by
        else:
            result[name] = value
    return result


class Driver(abc.ABC):
    """One open storage, as a backend carries it.

    Attributes:
        capabilities: what this driver declares, from the moment when it is opened; may depend on how it was.
    """

    capabilities: frozenset[Capability] = frozenset()
    name: ClassVar[str] = "driver"

    @abc.abstractmethod
    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        """Create what is missing; safe for many processes at once and cheap when nothing is.

        Args:
            schema: the collections and the version of their declaration.
            upgrade: bring an older storage to this version (new collections, fields and indexes) and record it.

        Raises:
            SchemaMismatch: the storage has another version (an older one only where ``upgrade`` is false).
            StorageDamaged: what is there is not a Moorage storage.
        """

    @abc.abstractmethod
    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        """Insert documents with revision 1; each stands or falls alone, in the order given.

        A driver that sends them in several writes raises `OutcomeUnknown` where a later one fails: some are stored.

        Returns:
            Those refused, each with the unique key that it breaks; a document that repeats an earlier one of the same
            batch is refused like any other.
        """

    @abc.abstractmethod
    def find(
        self,
        collection: Collection,
        where: Filter = (),
        order: Sequence[Order] = (),
        limit: int | None = None,
    ) -> list[Document]:
        """The documents that meet every comparison, in order; without an order, in any.

        A single document is read whole, never torn. The answer need not be one snapshot of many documents.
        """

    @abc.abstractmethod
    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        """Replace the body of the document of this id if its revision is the expected one (compare-and-set).

        The stored revision becomes ``expected_revision + 1``; ``document.revision`` is ignored. Linearizable per
        document.

        Returns:
            Whether it was replaced; False where it is missing or has another revision.

        Raises:
            UniqueViolation: the new body breaks a declared unique key.
        """

    @abc.abstractmethod
    def delete(self, collection: Collection, where: Filter) -> int:
        """Delete the documents that match; how many went. Each goes whole or not at all."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free what this driver opened, and nothing else; calling it twice is fine."""

    def get(self, collection: Collection, identifier: str) -> Document | None:
        """The document of this id, or None."""
        found = self.find(collection, equal(id=identifier), limit=1)
        return found[0] if found else None

    def count(self, collection: Collection, where: Filter = ()) -> int:
        """How many documents match."""
        return len(self.find(collection, where))

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        """How many of the documents that match have each value of a declared field, no list or dict; no zeros.

        Each document is counted once, however many change meanwhile: counts of one answer add up.
        """
        values = [one.body.get(field) for one in self.find(collection, where)]
        return dict(Counter(value for value in values if not isinstance(value, (list, dict))))

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        """Change declared fields of every document that matches; how many were changed.

        Atomic per document: a document is changed only if it matches at that moment, and its revision grows by one.
        Where an error is raised, some of them may have been changed.

        Raises:
            UniqueViolation: a change breaks a declared unique key.
        """
        return sum(
            self._patch_one(collection, found, where, changes) is not None for found in self.find(collection, where)
        )

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        """Change the first document that matches and return it as changed; None only where none matches.

        However many callers there are, each match is handed to one of them, provided that the changes make it match no
        more. One that another call is changing at that moment may be passed over for the next.
        """
        while True:
            found = self.find(collection, where, order, limit=16)
            for one in found:
                if (taken := self._patch_one(collection, one, where, changes)) is not None:
                    return taken
            if not found:
                return None

    def _patch_one(self, collection: Collection, found: Document, where: Filter, changes: Changes) -> Document | None:
        """Patch one document by compare-and-set; None where it matches no longer."""
        current: Document | None = found
        while current is not None:
            after = Document(current.id, changed(current.body, changes), current.revision + 1)
            if self.swap(collection, after, current.revision):
                return after
            again = self.find(collection, (Comparison("id", "=", found.id), *where), limit=1)
            current = again[0] if again else None
        return None

    def transaction(self) -> AbstractContextManager[None]:
        """Make the primitives called inside, by this thread, one atomic step; an exception undoes them all.

        Raises:
            Unsupported: the driver does not declare `Capability.TRANSACTIONS`.
        """
        raise Unsupported(f"the {self.name} backend has no transactions")

    def now(self) -> Instant:
        """The clock that all users of this storage share: it never goes back, and no client's wall clock moves it.

        Raises:
            Unsupported: the driver does not declare `Capability.SERVER_CLOCK`.
        """
        raise Unsupported(f"the {self.name} backend has no clock that its users share")
