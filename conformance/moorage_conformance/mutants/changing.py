"""What is broken in swap, patch, claim and delete."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import attrs

from moorage.driver import Document, Increment, Refusal, changed
from moorage.errors import UniqueViolation
from moorage.filters import Comparison, Order, equal
from moorage_conformance.mutants import Mutation, mutant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.codec import Plain
    from moorage.driver import Changes, Driver
    from moorage.filters import Filter
    from moorage.schema import Collection


# swap


@mutant("SWAP-1", base="memory")
class SwapMerges(Mutation):
    """A swap changes the fields that the new body has, and leaves the others as they were."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        stored = self.inner.get(collection, document.id)
        merged = {**(stored.body if stored is not None else {}), **document.body}
        return self.inner.swap(collection, attrs.evolve(document, body=merged), expected_revision)


@mutant("SWAP-1", base="memory")
class SwapKeepsWhatIsNotDeclared(Mutation):
    """A swap replaces the declared fields alone."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        stored = self.inner.get(collection, document.id)
        rest = {} if stored is None else {name: one for name, one in stored.body.items() if not collection.field(name)}
        return self.inner.swap(collection, attrs.evolve(document, body={**rest, **document.body}), expected_revision)


@mutant("SWAP-1", base="memory")
class SwapCountsTwice(Mutation):
    """A swap makes the revision two more."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        swapped = self.inner.swap(collection, document, expected_revision)
        if swapped:
            self.inner.patch(collection, equal(id=document.id), {})
        return swapped


@mutant("SWAP-1", base="memory")
class SwapOfTheSameBodyFails(Mutation):
    """A swap for the same body returns False, as where MySQL says that no row was changed."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        stored = self.inner.get(collection, document.id)
        swapped = self.inner.swap(collection, document, expected_revision)
        after = self.inner.get(collection, document.id)
        return swapped and stored is not None and after is not None and stored.body != after.body


@mutant("SWAP-1", base="memory")
class SwapStoresTheGivenRevision(Mutation):
    """A swap of a document whose own revision is higher stores that revision."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        swapped = self.inner.swap(collection, document, expected_revision)
        for _ in range(expected_revision + 1, document.revision if swapped else 0):
            self.inner.patch(collection, equal(id=document.id), {})
        return swapped


@mutant("SWAP-2", base="memory")
class SwapIgnoresTheRevision(Mutation):
    """A swap replaces whatever revision is stored."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        stored = self.inner.get(collection, document.id)
        return stored is not None and self.inner.swap(collection, document, stored.revision)


@mutant("SWAP-2", base="memory")
class SwapOfALaterRevision(Mutation):
    """A swap replaces a document whose revision is at most the expected one."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        stored = self.inner.get(collection, document.id)
        if stored is None or stored.revision > expected_revision:
            return False
        return self.inner.swap(collection, document, stored.revision)


@mutant("SWAP-2", base="memory")
class SwapInsertsWhatIsMissing(Mutation):
    """A swap of a document that is missing stores it, as an upsert does."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        if self.inner.get(collection, document.id) is None:
            return not self.inner.insert(collection, [document])
        return self.inner.swap(collection, document, expected_revision)


@mutant("SWAP-2", base="memory")
class SwapSaysTrueOfWhatIsMissing(Mutation):
    """A swap of a document that is missing changes nothing and returns True."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        missing = self.inner.get(collection, document.id) is None
        return self.inner.swap(collection, document, expected_revision) or missing


@mutant("SWAP-2", base="memory")
class RefusedSwapCounts(Mutation):
    """A swap that is refused makes the revision one more."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        if self.inner.swap(collection, document, expected_revision):
            return True
        self.inner.patch(collection, equal(id=document.id), {})
        return False


@mutant("SWAP-3", base="memory")
class SwapIntoATakenKeyIsFalse(Mutation):
    """A swap into a unique key that is taken returns False, as if the revision were another."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        try:
            return self.inner.swap(collection, document, expected_revision)
        except UniqueViolation:
            return False


@mutant("SWAP-3", base="memory")
class SwapNamesTheId(Mutation):
    """A swap into a unique key that is taken names the id as the key."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        try:
            return self.inner.swap(collection, document, expected_revision)
        except UniqueViolation:
            raise UniqueViolation(("id",)) from None


@mutant("SWAP-3", base="memory")
class RefusedSwapClearsTheKey(Mutation):
    """A swap into a unique key that is taken stores the other fields before it raises."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        try:
            return self.inner.swap(collection, document, expected_revision)
        except UniqueViolation as error:
            rest = {name: one for name, one in document.body.items() if name not in error.key}
            stored = self.inner.get(collection, document.id)
            kept = {} if stored is None else {name: stored.body.get(name) for name in error.key}
            self.inner.swap(collection, attrs.evolve(document, body={**kept, **rest}), expected_revision)
            raise


@mutant("SWAP-3", base="memory")
class SwapIntoItsOwnKeyIsRefused(Mutation):
    """A swap that keeps the unique key is refused, because the key is taken (by the document itself)."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        for key in collection.unique:
            values = {name: document.body.get(name) for name in key}
            if None not in values.values() and self.inner.find(collection, equal(**values)):
                raise UniqueViolation(key)
        return self.inner.swap(collection, document, expected_revision)


# patch


@mutant("PATCH-1", base="memory")
class PatchOfTheFirstHundred(Mutation):
    """A patch changes no more than a hundred documents."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        names = tuple(one.id for one in self.inner.find(collection, where, limit=100))
        return self.inner.patch(collection, (*where, Comparison("id", "in", names)), changes)


@mutant("PATCH-1", base="memory")
class PatchIgnoresPaths(Mutation):
    """A patch changes documents that do not meet the comparisons inside JSON."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        return self.inner.patch(collection, tuple(one for one in where if not one.is_path), changes)


@mutant("PATCH-1", base="memory")
class PatchCountsWhatDiffers(Mutation):
    """A patch returns how many documents have got other values, and not how many matched, as MySQL does."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        before = self.inner.find(collection, where)
        self.inner.patch(collection, where, changes)
        after = {one.id: one.body for one in self.inner.find(collection)}
        return sum(one.body != after[one.id] for one in before)


@mutant("PATCH-1", base="memory")
class PatchOfTheSameValuesKeepsTheRevision(Mutation):
    """A patch leaves the revision of documents that have the new values already."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        found = self.inner.find(collection, where)
        fresh = tuple(one.id for one in found if changed(one.body, changes) != one.body)
        self.inner.patch(collection, (*where, Comparison("id", "in", fresh)), changes)
        return len(found)


@mutant("PATCH-1", base="memory")
class PatchMergesJson(Mutation):
    """A patch merges a dict into the one that is stored, as MongoDB does with dotted keys."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        found = self.inner.find(collection, where)
        for one in found:
            merged = dict(changes)
            for name, value in changes.items():
                stored = one.body.get(name)
                if isinstance(value, dict) and isinstance(stored, dict):
                    merged[name] = {**stored, **value}
            self.inner.patch(collection, equal(id=one.id), merged)
        return len(found)


@mutant("PATCH-1", base="memory")
class PatchSkipsNull(Mutation):
    """A patch does not set a field to null."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        return self.inner.patch(collection, where, {name: one for name, one in changes.items() if one is not None})


@mutant("PATCH-1", base="memory")
class PatchDropsWhatIsNotDeclared(Mutation):
    """A patch writes back the declared fields alone."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        found = self.inner.find(collection, where)
        for one in found:
            body = {name: value for name, value in one.body.items() if collection.field(name) is not None}
            self.inner.swap(collection, Document(one.id, changed(body, changes)), one.revision)
        return len(found)


@mutant("PATCH-1", base="memory")
class PatchLeavesTheIndex(Mutation):
    """A patch does not change the index of tags, so the old tag still finds the document."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._tags: dict[str, Plain] = {}

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        if "tag" in changes:
            for one in self.inner.find(collection, where):
                self._tags.setdefault(one.id, one.body.get("tag"))
        return self.inner.patch(collection, where, changes)

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        tags = [one for one in where if one.field == "tag" and one.operator == "="]
        if not tags:
            return self.inner.find(collection, where, order, limit)
        rest = tuple(one for one in where if one not in tags)
        found = self.inner.find(collection, rest, order)
        return [one for one in found if self._tags.get(one.id, one.body.get("tag")) == tags[0].value][:limit]


@mutant("PATCH-2", base="memory")
class IncrementUntilNothingMatches(Mutation):
    """A patch goes on as long as something matches, so what still matches is incremented again."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        count = self.inner.patch(collection, where, changes)
        fields = [name for name, one in changes.items() if isinstance(one, Increment) and one.by > 0]
        while any(one.field in fields and one.operator == "<" for one in where):
            if not self.inner.patch(collection, where, changes):
                break
        return count


@mutant("PATCH-2", base="memory")
class IncrementOfNullIsNull(Mutation):
    """Null stays null when it is incremented, as in SQL."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        found = self.inner.find(collection, where)
        for one in found:
            known = {
                name: value
                for name, value in changes.items()
                if not (isinstance(value, Increment) and one.body.get(name) is None)
            }
            self.inner.patch(collection, equal(id=one.id), known)
        return len(found)


@mutant("PATCH-2", base="memory")
class ClaimedIncrementSets(Mutation):
    """An increment by a claim sets the field."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        values = {name: one.by if isinstance(one, Increment) else one for name, one in changes.items()}
        return self.inner.claim(collection, where, values, order)


@mutant("PATCH-2", base="memory")
class IncrementByOne(Mutation):
    """An increment adds 1, whatever it says."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        ones = {name: Increment() if isinstance(one, Increment) else one for name, one in changes.items()}
        return self.inner.patch(collection, where, ones)


@mutant("PATCH-2", base="memory")
class IncrementThroughFloats(Mutation):
    """An increment adds floats, so sums beyond 2^53 are not exact."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        found = self.inner.find(collection, where)
        for one in found:
            values = changed(one.body, changes)
            summed = {
                name: _as_float(values[name]) if isinstance(change, Increment) else change
                for name, change in changes.items()
            }
            self.inner.patch(collection, equal(id=one.id), summed)
        return len(found)


def _as_float(value: Plain) -> Plain:
    return max(-(2**63), min(2**63 - 1, int(float(value)))) if isinstance(value, int) else value


@mutant("PATCH-3", base="memory")
class PatchIntoATakenKeyIsStored(Mutation):
    """A patch into a unique key that is taken is stored all the same."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        try:
            return self.inner.patch(collection, where, changes)
        except UniqueViolation:
            rest = {name: one for name, one in changes.items() if all(name not in key for key in collection.unique)}
            return self.inner.patch(collection, where, rest)


@mutant("PATCH-3", base="memory")
class RefusedPatchChanges(Mutation):
    """A patch into a unique key that is taken raises, and has made the revision one more."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        try:
            return self.inner.patch(collection, where, changes)
        except UniqueViolation:
            self.inner.patch(collection, where, {})
            raise


@mutant("PATCH-3", base="memory")
class PatchIntoATakenKeyIsNone(Mutation):
    """A patch into a unique key that is taken changes nothing, and says so without an error."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        try:
            return self.inner.patch(collection, where, changes)
        except UniqueViolation:
            return 0


@mutant("PATCH-3", base="memory")
class ClaimIntoATakenKeyIsNone(Mutation):
    """A claim into a unique key that is taken returns None."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        try:
            return self.inner.claim(collection, where, changes, order)
        except UniqueViolation:
            return None


@mutant("PATCH-3", base="memory")
class RefusedClaimChanges(Mutation):
    """A claim into a unique key that is taken raises, and has stored the changes of other fields."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        try:
            return self.inner.claim(collection, where, changes, order)
        except UniqueViolation as error:
            rest = {name: one for name, one in changes.items() if name not in error.key}
            self.inner.claim(collection, where, rest, order)
            raise


# claim


@mutant("CLAIM-1", base="memory")
class ClaimTakesTheLast(Mutation):
    """A claim takes the last match."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        backwards = [Order(one.field, not one.descending) for one in order]
        return self.inner.claim(collection, where, changes, backwards)


@mutant("CLAIM-1", base="memory")
class ClaimInAnyOrder(Mutation):
    """A claim takes the match that was inserted first."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        first = next((one for one in self.inner.find(collection) if one.id in self._matching(collection, where)), None)
        return None if first is None else self.inner.claim(collection, (*where, *equal(id=first.id)), changes)

    def _matching(self, collection: Collection, where: Filter) -> set[str]:
        return {one.id for one in self.inner.find(collection, where)}


@mutant("CLAIM-1", base="memory")
class ClaimByTheFirstField(Mutation):
    """A claim minds the first field of an order alone."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        return self.inner.claim(collection, where, changes, order[:1])


@mutant("CLAIM-1", base="memory")
class ClaimReturnsWhatWasThere(Mutation):
    """A claim returns the document as it was before."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        before = {one.id: one for one in self.inner.find(collection, where)}
        claimed = self.inner.claim(collection, where, changes, order)
        return None if claimed is None else before[claimed.id]


@mutant("CLAIM-1", base="memory")
class ClaimReturnsTheOldRevision(Mutation):
    """A claim returns the document with its changes and the revision from before."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        claimed = self.inner.claim(collection, where, changes, order)
        return None if claimed is None else attrs.evolve(claimed, revision=claimed.revision - 1)


@mutant("CLAIM-1", base="memory")
class ClaimChangesEqualsToo(Mutation):
    """A claim changes all matches that have the same place in its order."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        found = self.inner.find(collection, where, order, 2)
        claimed = self.inner.claim(collection, where, changes, order)
        for one in order[:1]:
            values: list[Any] = [document.body.get(one.field, document.id) for document in found]
            if len(values) == 2 and values[0] == values[1]:
                self.inner.patch(collection, equal(id=found[1].id), changes)
        return claimed


@mutant("CLAIM-2", base="memory")
class ClaimLeavesTheLast(Mutation):
    """A claim returns None when one match is left."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        if self.inner.count(collection, where) == 1:
            return None
        return self.inner.claim(collection, where, changes, order)


@mutant("CLAIM-2", base="memory")
class ClaimLooksAtOnePage(Mutation):
    """A claim makes comparisons inside JSON among the first documents alone."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        declared = tuple(one for one in where if not one.is_path)
        page = tuple(one.id for one in self.inner.find(collection, declared, order, 100))
        return self.inner.claim(collection, (*where, Comparison("id", "in", page)), changes, order)


@mutant("CLAIM-2", base="memory")
class ClaimFallsBack(Mutation):
    """A claim that finds no match takes a document of the same family."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        claimed = self.inner.claim(collection, where, changes, order)
        family = tuple(one for one in where if one.field == "family")
        return claimed or (self.inner.claim(collection, family, changes, order) if family else None)


@mutant("CLAIM-2", base="memory")
class ClaimReturnsWhatItTookLast(Mutation):
    """A claim that finds no match returns the one that it took last."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._last: Document | None = None

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        claimed = self.inner.claim(collection, where, changes, order)
        self._last = claimed or self._last
        return self._last


# delete


@mutant("DELETE-1", base="memory")
class DeleteSaysWhatThereWas(Mutation):
    """A deletion returns how many documents there were, matching or not."""

    def delete(self, collection: Collection, where: Filter) -> int:
        there = self.inner.count(collection)
        return there if self.inner.delete(collection, where) else 0


@mutant("DELETE-1", base="memory")
class DeleteOfTheFirstHundred(Mutation):
    """A deletion removes no more than a hundred documents."""

    def delete(self, collection: Collection, where: Filter) -> int:
        names = tuple(one.id for one in self.inner.find(collection, where, limit=100))
        return self.inner.delete(collection, (*where, Comparison("id", "in", names)))


@mutant("DELETE-1", base="memory")
class DeleteIgnoresPaths(Mutation):
    """A deletion removes documents that do not meet the comparisons inside JSON, where others narrow it."""

    def delete(self, collection: Collection, where: Filter) -> int:
        declared = tuple(one for one in where if not one.is_path)
        return self.inner.delete(collection, declared or where)


@mutant("DELETE-1", base="memory")
class DeleteOfOne(Mutation):
    """A deletion by a comparison other than equality removes one document too few."""

    def delete(self, collection: Collection, where: Filter) -> int:
        if any(one.operator in (">=", "<=") for one in where):
            names = tuple(one.id for one in self.inner.find(collection, where)[1:])
            return self.inner.delete(collection, (Comparison("id", "in", names),))
        return self.inner.delete(collection, where)


@mutant("DELETE-1", base="memory")
class DeleteAcrossCollections(Mutation):
    """A deletion by id removes the document of this id from other collections as well."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._collections: dict[str, Collection] = {}

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        self._collections[collection.name] = collection
        return self.inner.insert(collection, documents)

    def delete(self, collection: Collection, where: Filter) -> int:
        gone = self.inner.delete(collection, where)
        for other in self._collections.values():
            if other.name != collection.name and where and all(one.field == "id" for one in where):
                self.inner.delete(other, where)
        return gone


@mutant("DELETE-2", base="memory")
class DeletedKeysStayTaken(Mutation):
    """The unique keys of deleted documents stay taken."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._gone: set[tuple[Any, ...]] = set()

    def delete(self, collection: Collection, where: Filter) -> int:
        for one, key in itertools.product(self.inner.find(collection, where), collection.unique):
            values = tuple(one.body.get(name) for name in key)
            if None not in values:
                self._gone.add((collection.name, *values))
        return self.inner.delete(collection, where)

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        refused, kept = [], []
        for place, one in enumerate(documents):
            taken = next(
                (key for key in collection.unique if (collection.name, *map(one.body.get, key)) in self._gone), None
            )
            if taken is None:
                kept.append(one)
            else:
                refused.append(Refusal(place, one.id, taken))
        return refused or self.inner.insert(collection, kept)


@mutant("DELETE-2", base="memory")
class DeletedIdsStayTaken(Mutation):
    """A deletion leaves a mark behind, and the id cannot be used again."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._gone: set[tuple[str, str]] = set()

    def delete(self, collection: Collection, where: Filter) -> int:
        self._gone |= {(collection.name, one.id) for one in self.inner.find(collection, where)}
        return self.inner.delete(collection, where)

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        refused = [
            Refusal(place, one.id, ("id",))
            for place, one in enumerate(documents)
            if (collection.name, one.id) in self._gone
        ]
        return refused or self.inner.insert(collection, documents)


@mutant("DELETE-2", base="memory")
class RevisionsGoOnAfterADeletion(Mutation):
    """A document that takes the id of a deleted one goes on with its revision."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._revisions: dict[tuple[str, str], int] = {}

    def delete(self, collection: Collection, where: Filter) -> int:
        for one in self.inner.find(collection, where):
            self._revisions[collection.name, one.id] = one.revision
        return self.inner.delete(collection, where)

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        refused = self.inner.insert(collection, documents)
        for one in documents:
            for _ in range(self._revisions.pop((collection.name, one.id), 0)):
                self.inner.patch(collection, equal(id=one.id), {})
        return refused


@mutant("DELETE-2", base="memory")
class DeletedFieldsComeBack(Mutation):
    """A document that takes the id of a deleted one has what was not declared of its body."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._rest: dict[tuple[str, str], dict[str, Plain]] = {}

    def delete(self, collection: Collection, where: Filter) -> int:
        for one in self.inner.find(collection, where):
            rest = {name: value for name, value in one.body.items() if collection.field(name) is None}
            self._rest[collection.name, one.id] = rest
        return self.inner.delete(collection, where)

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        again = [
            attrs.evolve(one, body={**self._rest.get((collection.name, one.id), {}), **one.body}) for one in documents
        ]
        return self.inner.insert(collection, again)
