"""What only shows when calls of several kinds come together."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeVar, cast

from moorage.driver import Document, Driver, Increment, Refusal
from moorage.errors import UniqueViolation
from moorage.filters import Comparison, Order, equal
from moorage.schema import TRIALS
from moorage_conformance.mutants import Mutation, mutant
from moorage_conformance.target import ITEMS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from moorage.codec import Plain
    from moorage.driver import Changes
    from moorage.filters import Filter
    from moorage.schema import Collection


V = TypeVar("V")


# Of the primitives


@mutant("DRIVER-1", base="memory")
class ClaimForgetsTheThirdComparison(Mutation):
    """A claim with an order regards no more than two comparisons."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        return self.inner.claim(collection, where[:2], changes, order)


@mutant("DRIVER-1", base="memory")
class LimitBeforeTheSecondOrder(Mutation):
    """With a limit, documents are cut off after they are sorted by the first field, and before they are by the next."""

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        if limit is None or len(order) < 2:
            return self.inner.find(collection, where, order, limit)
        cut = self.inner.find(collection, where, [order[0], Order("id", not order[-1].descending)], limit)
        kept = {one.id for one in cut}
        return [one for one in self.inner.find(collection, where, order) if one.id in kept]


@mutant("DRIVER-1", base="memory")
class LimitLeavesOutNull(Mutation):
    """With a limit, documents are read from an index in which those are missing whose field is null."""

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        if limit is not None and order:
            where = (*where, Comparison(order[0].field, "!=", None))
        return self.inner.find(collection, where, order, limit)


@mutant("DRIVER-1", base="memory")
class KeysGivenUpByPatchesStayTaken(Mutation):
    """A unique key that a document gave up for null, by a patch or a claim, stays taken."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.taken: set[tuple[str, tuple[Plain, ...]]] = set()

    def remember(self, collection: Collection, found: Sequence[Document], changes: Changes) -> None:
        for fields in collection.unique:
            for one in found:
                key = tuple(one.body.get(name) for name in fields)
                if None not in key and any(name in changes and changes[name] is None for name in fields):
                    self.taken.add((collection.name, key))

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        self.remember(collection, self.inner.find(collection, where), changes)
        return self.inner.patch(collection, where, changes)

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        self.remember(collection, self.inner.find(collection, where, order, 1), changes)
        return self.inner.claim(collection, where, changes, order)

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        refused: list[Refusal] = []
        for position, one in enumerate(documents):
            keys = {fields: tuple(one.body.get(name) for name in fields) for fields in collection.unique}
            broken = next((fields for fields, key in keys.items() if (collection.name, key) in self.taken), None)
            if broken is not None and self.inner.get(collection, one.id) is None:
                refused.append(Refusal(position, one.id, broken))
            else:
                refused += [Refusal(position, two.id, two.key) for two in self.inner.insert(collection, [one])]
        return refused


@mutant("DRIVER-1", base="memory")
class UndoLosesWhatWasInsertedAgain(Mutation):
    """Where a transaction that is undone deleted a document and inserted its id again, the first one stays away."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.gone: set[str] = set()
        self.again: set[str] = set()

    def delete(self, collection: Collection, where: Filter) -> int:
        if collection == ITEMS:
            self.gone |= {one.id for one in self.inner.find(collection, where)}
        return self.inner.delete(collection, where)

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        if collection == ITEMS:
            self.again |= self.gone & {one.id for one in documents}
        return self.inner.insert(collection, documents)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self.gone.clear()
        self.again.clear()
        try:
            with self.inner.transaction():
                yield
        except BaseException:
            for one in self.again:
                self.inner.delete(ITEMS, equal(id=one))
            raise


@mutant("DRIVER-1", base="memory")
class SwapForgetsTheIndex(Mutation):
    """A document that was swapped is not found by an index on `flag` until it is changed again."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.missing: dict[str, int] = {}

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        done = self.inner.swap(collection, document, expected_revision)
        if done:
            self.missing[document.id] = expected_revision + 1
        return done

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        if not any(one.field == "flag" and one.operator == "=" for one in where):
            return self.inner.find(collection, where, order, limit)
        found = self.inner.find(collection, where, order)
        return [one for one in found if self.missing.get(one.id) != one.revision][:limit]


# Of the overrides


@mutant("DRIVER-2", base="memory")
class CountForgetsTheRevision(Mutation):
    """`count` disregards comparisons of the revision, and is right otherwise."""

    def count(self, collection: Collection, where: Filter = ()) -> int:
        return self.inner.count(collection, tuple(one for one in where if one.field != "revision"))


@mutant("DRIVER-2", base="memory")
class TallyForgetsNull(Mutation):
    """`tally` leaves out null where it is asked for the documents of one family."""

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        found = self.inner.tally(collection, where, field)
        if [one.field for one in where] == ["family"]:
            found.pop(None, None)
        return found


@mutant("DRIVER-2", base="memory")
class PatchCountsWhatIsDifferent(Mutation):
    """`patch` does not count documents which had these values before, as MySQL's affected rows."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        before = self.inner.find(collection, where)
        changed = self.inner.patch(collection, where, changes)
        return changed - sum(
            all(one.body.get(name) == value for name, value in changes.items()) for one in before if changed
        )


@mutant("DRIVER-2", base="memory")
class ClaimReturnsIncrementsLate(Mutation):
    """`claim` returns a field that was null, and was incremented, as null."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        before = {one.id: one for one in self.inner.find(collection, where)}
        claimed = self.inner.claim(collection, where, changes, order)
        if claimed is not None:
            for name, value in changes.items():
                if isinstance(value, Increment) and before[claimed.id].body.get(name) is None:
                    claimed.body[name] = None
        return claimed


@mutant("DRIVER-2", base="memory")
class GetTrimsIds(Mutation):
    """`get` takes an id with a space at its end for the one without."""

    def get(self, collection: Collection, identifier: str) -> Document | None:
        return self.inner.get(collection, identifier) or self.inner.get(collection, identifier.rstrip())


# Of what the storage protocol needs


@mutant("STORAGE-1", base="memory")
class TrialsAreClaimedByTheirIds(Mutation):
    """A claim of a trial disregards the place in the queue, and goes by the id."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        return self.inner.claim(collection, where, changes, [Order("id")] if collection == TRIALS else order)


@mutant("STORAGE-1", base="memory")
class CountsAreRememberedTooLong(Mutation):
    """Counts by status are remembered until the next trial comes or goes, whatever changes in between."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.counts: dict[str, dict[str | float | bool | None, int]] = {}

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        if collection == TRIALS:
            self.counts.clear()
        return self.inner.insert(collection, documents)

    def delete(self, collection: Collection, where: Filter) -> int:
        self.counts.clear()
        return self.inner.delete(collection, where)

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        key = repr((collection.name, where, field))
        if key not in self.counts:
            self.counts[key] = self.inner.tally(collection, where, field)
        return dict(self.counts[key])


@mutant("PATCH-3", base="memory")
class TakenKeysMatchNothing(Mutation):
    """A patch into a unique key that is taken changes nothing, and says so by the number alone."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        try:
            return self.inner.patch(collection, where, changes)
        except UniqueViolation:
            return 0


@mutant("STORAGE-1", base="memory")
class PatchesLeaveNullOut(Mutation):
    """A patch leaves a field as it is where the new value is null."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        return self.inner.patch(
            collection, where, {name: value for name, value in changes.items() if value is not None}
        )


@mutant("STORAGE-1", base="memory")
class LongTextsAreCut(Mutation):
    """Of a text only the first 16383 characters are stored."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        return self.inner.insert(collection, [Document(one.id, _cut(one.body)) for one in documents])

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        return self.inner.patch(collection, where, _cut(changes))


def _cut(body: Mapping[str, V]) -> dict[str, V]:
    return {name: cast("V", value[:16383]) if isinstance(value, str) else value for name, value in body.items()}


@mutant("STORAGE-1", base="memory")
class ObjectivesAreOrderedAsTexts(Mutation):
    """Trials are ordered by their objective as by text, so that -1 comes after 0.5 and 1e300 before 2."""

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        if not order or order[0].field != "objective":
            return self.inner.find(collection, where, order, limit)
        found = self.inner.find(collection, where, order[1:])
        found.sort(
            key=lambda one: "" if (value := one.body.get("objective")) is None else str(abs(value)),  # type: ignore[arg-type]
            reverse=order[0].descending,
        )
        return found[:limit]
