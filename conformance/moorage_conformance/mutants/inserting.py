"""What is broken in inserting, ids and unique keys."""

from __future__ import annotations

import abc
import contextlib
import unicodedata
from typing import TYPE_CHECKING

import attrs

from moorage.driver import Document, Driver, Refusal
from moorage.filters import equal
from moorage_conformance.mutants import Mutation, mutant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.codec import Plain
    from moorage.driver import Changes
    from moorage.filters import Filter, Order
    from moorage.schema import Collection


@mutant("INSERT-1", base="memory")
class RevisionsOfTheCaller(Mutation):
    """An inserted document begins with the revision that the caller gave it."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        refused = self.inner.insert(collection, documents)
        taken = {one.position for one in refused}
        for position, one in enumerate(documents):
            if position not in taken:
                for _ in range(1, min(one.revision, 9)):
                    self.inner.patch(collection, equal(id=one.id), {})
        return refused


@mutant("INSERT-1", base="memory")
class OnlyDeclaredFields(Mutation):
    """What a body holds besides the declared fields is not stored."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        declared = {field.name for field in collection.fields}
        kept = [
            Document(one.id, {name: value for name, value in one.body.items() if name in declared}) for one in documents
        ]
        return self.inner.insert(collection, kept)


@mutant("INSERT-2", base="memory")
class TakenIdsAreOverwritten(Mutation):
    """A document whose id is taken replaces the stored one."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        refused = self.inner.insert(collection, documents)
        for one in refused:
            if one.key == ("id",):
                self.inner.delete(collection, equal(id=one.id))
                self.inner.insert(collection, [documents[one.position]])
        return refused


@mutant("INSERT-2", base="memory")
class TheSameAgainIsNoDuplicate(Mutation):
    """A document is not refused where the stored one of that id has the same body."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        before = {one.id: one.body for one in self.inner.find(collection)}

        def same(refusal: Refusal) -> bool:
            given = documents[refusal.position].body
            return all(before.get(refusal.id, {}).get(name) == value for name, value in given.items())

        return [one for one in self.inner.insert(collection, documents) if not same(one)]


@mutant("INSERT-2", base="memory")
class RefusalsNameTheDeclaredKeyFirst(Mutation):
    """A document that breaks its id and a unique key of another document is named with that key."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        found: list[Refusal] = []
        for one in self.inner.insert(collection, documents):
            body = documents[one.position].body
            for fields in collection.unique:
                key = {name: body.get(name) for name in fields}
                taken = self.inner.find(collection, equal(**key)) if None not in key.values() else []
                if any(other.id != one.id for other in taken):
                    one = attrs.evolve(one, key=fields)
            found.append(one)
        return found


@mutant("INSERT-3", base="memory")
class RefusalsNameTheId(Mutation):
    """Whatever key a document breaks, it is named with its id."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        return [attrs.evolve(one, key=("id",)) for one in self.inner.insert(collection, documents)]


@mutant("INSERT-3", base="memory")
class TakenKeysAreSwallowed(Mutation):
    """A document that breaks a unique key is left out without a word."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        return [one for one in self.inner.insert(collection, documents) if one.key == ("id",)]


@mutant("INSERT-3", base="memory")
class TakenKeysReplace(Mutation):
    """A document that breaks a unique key takes the place of the stored one, as by REPLACE INTO."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        refused = self.inner.insert(collection, documents)
        for one in refused:
            if one.key != ("id",):
                body = documents[one.position].body
                self.inner.delete(collection, equal(**{name: body[name] for name in one.key}))
                self.inner.insert(collection, [documents[one.position]])
        return refused


@mutant("INSERT-3", base="memory")
class RefusedDocumentsAreHalfStored(Mutation):
    """A document that breaks a unique key is named, and stored without the fields of the key."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        refused = self.inner.insert(collection, documents)
        for one in refused:
            if one.key != ("id",):
                body = {**documents[one.position].body, **dict.fromkeys(one.key)}
                self.inner.insert(collection, [Document(one.id, body)])
        return refused


class _Refusing(Mutation, abc.ABC):
    """Refuses more documents than the unique keys say."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        stored = self.inner.find(collection)
        keys = ("id",), *collection.unique
        taken = {fields: {self.key(one, fields) for one in stored} - {None} for fields in keys}
        refused: list[Refusal] = []
        for position, one in enumerate(documents):
            for fields in keys:
                key = self.key(one, fields)
                if key is not None and key in taken[fields]:
                    refused.append(Refusal(position, one.id, fields))
                    break
            else:
                refused += [attrs.evolve(two, position=position) for two in self.inner.insert(collection, [one])]
                for fields in keys:
                    taken[fields].add(self.key(one, fields))
        return refused

    @abc.abstractmethod
    def key(self, document: Document, fields: tuple[str, ...]) -> object:
        """What no two documents may have in common; None where it does not matter."""


def _values(document: Document, fields: tuple[str, ...]) -> list[Plain]:
    return [document.id if name == "id" else document.body.get(name) for name in fields]


@mutant("INSERT-3", base="memory")
class KeysAreJoined(_Refusing):
    """The fields of a unique key are joined without anything between them."""

    def key(self, document: Document, fields: tuple[str, ...]) -> object:
        values = _values(document, fields)
        return None if None in values else "".join(map(str, values))


@mutant("INSERT-4", base="memory")
class AllOrNothing(Mutation):
    """Where one document of a batch is refused none is stored."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        refused: list[Refusal] = []
        with contextlib.suppress(InterruptedError), self.inner.transaction():
            refused = self.inner.insert(collection, documents)
            if refused:
                raise InterruptedError
        return refused


@mutant("INSERT-4", base="memory")
class TheLastOfTwoWins(Mutation):
    """Of two documents of a batch that exclude each other the last is stored."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        last = len(documents) - 1
        refused = self.inner.insert(collection, documents[::-1])
        return [attrs.evolve(one, position=last - one.position) for one in refused]


@mutant("INSERT-4", base="memory")
class TheFirstRefusalEndsIt(Mutation):
    """After the first document that is refused no more of the batch are stored, and none is named."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        for position, one in enumerate(documents):
            if refused := self.inner.insert(collection, [one]):
                return [attrs.evolve(refused[0], position=position)]
        return []


@mutant("INSERT-4", base="memory")
class PositionsOfTheParts(Mutation):
    """A batch is sent in parts of 50, and positions are told within the part."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        parts = [documents[start : start + 50] for start in range(0, len(documents), 50)]
        return [one for part in parts for one in self.inner.insert(collection, part)]


@mutant("INSERT-5", base="memory")
class NullsAreEqual(_Refusing):
    """Two unique keys with a null in the same place are in conflict."""

    def key(self, document: Document, fields: tuple[str, ...]) -> object:
        return tuple(map(repr, _values(document, fields)))


@mutant("INSERT-5", base="memory")
class NullIsTheEmptyText(_Refusing):
    """A null in a unique key of two fields is stored, and compared, as the empty text."""

    def key(self, document: Document, fields: tuple[str, ...]) -> object:
        values = _values(document, fields)
        return None if len(values) < 2 or set(values) == {None} else tuple(one or "" for one in values)


class _Folding(_Refusing, abc.ABC):
    """Takes keys for equal that are not."""

    ids = True
    names = True

    def key(self, document: Document, fields: tuple[str, ...]) -> object:
        values = _values(document, fields)
        if None in values:
            return None
        folds = self.ids if fields == ("id",) else self.names
        return tuple(self.fold(one) if folds and isinstance(one, str) else one for one in values)

    @abc.abstractmethod
    def fold(self, text: str) -> str:
        """What is compared."""


@mutant("INSERT-6", base="memory")
class KeysIgnoreCase(_Folding):
    """Unique keys that differ in case are taken for equal."""

    ids = False

    def fold(self, text: str) -> str:
        return text.lower()


@mutant("INSERT-6", base="memory")
class IdsIgnoreCase(_Folding):
    """Ids that differ in the case of their ASCII letters are taken for equal."""

    names = False

    def fold(self, text: str) -> str:
        return text.encode().lower().decode()


@mutant("INSERT-6", base="memory")
class KeysIgnoreAccents(_Folding):
    """Unique keys are compared by a collation without accents."""

    ids = False

    def fold(self, text: str) -> str:
        return "".join(one for one in unicodedata.normalize("NFD", text) if not unicodedata.combining(one))


@mutant("INSERT-6", base="memory")
class KeysIgnoreSpacesAtTheEnd(_Folding):
    """Unique keys are padded with spaces, so that those at the end do not count."""

    ids = False

    def fold(self, text: str) -> str:
        return text.rstrip(" ")


@mutant("INSERT-6", base="memory")
class IdsAreNormalized(_Folding):
    """Ids of the same normal form are taken for equal."""

    names = False

    def fold(self, text: str) -> str:
        return unicodedata.normalize("NFC", text)


@mutant("INSERT-6", base="memory")
class KeysAreCutOff(_Folding):
    """Only the first 191 characters of a text count in a unique key."""

    ids = False

    def fold(self, text: str) -> str:
        return text[:191]


@mutant("INSERT-7", base="memory")
class BatchesAreCutOff(Mutation):
    """Of a batch only the first 1000 documents are stored."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        return self.inner.insert(collection, documents[:1000])


@mutant("INSERT-7", base="memory")
class LongTextsAreCutOff(Mutation):
    """Of a text only the first 65535 bytes are stored."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        cut = [
            Document(one.id, {name: _cut(value) for name, value in one.body.items()}, one.revision) for one in documents
        ]
        return self.inner.insert(collection, cut)


def _cut(value: Plain) -> Plain:
    return value.encode()[:65535].decode(errors="ignore") if isinstance(value, str) else value


@mutant("INSERT-7", base="memory")
class LongIdsAreCutOff(_Folding):
    """Ids of which the first 255 characters are the same are taken for equal."""

    names = False

    def fold(self, text: str) -> str:
        return text[:255]


@mutant("INSERT-8", base="memory")
class GivenBodiesAreCached(Mutation):
    """What was inserted is kept, as it was given, for the next `get`."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.cache: dict[tuple[str, str], Document] = {}

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        refused = self.inner.insert(collection, documents)
        self.cache |= {(collection.name, one.id): one for one in documents}
        return refused

    def get(self, collection: Collection, identifier: str) -> Document | None:
        stored = self.inner.get(collection, identifier)
        cached = self.cache.get((collection.name, identifier))
        if stored is not None and cached is not None and stored.revision == 1:
            stored.body = cached.body
        return stored


@mutant("INSERT-8", base="memory")
class ReturnedBodiesAreCached(Mutation):
    """A document that was found is kept, as it was returned, for the next `find`."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.cache: dict[tuple[str, str, int], dict[str, Plain]] = {}

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        found = self.inner.find(collection, where, order, limit)
        for one in found:
            one.body = self.cache.setdefault((collection.name, one.id, one.revision), one.body)
        return found


@mutant("INSERT-8", base="memory")
class ListsAreShared(Mutation):
    """The copy of a body that is inserted is not deep: its lists are still those of the caller."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.shared: dict[tuple[str, str], dict[str, Plain]] = {}

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        self.shared |= {(collection.name, one.id): dict(one.body) for one in documents}
        return self.inner.insert(collection, documents)

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        found = self.inner.find(collection, where, order, limit)
        for one in found:
            shared = self.shared.get((collection.name, one.id), {})
            one.body |= {name: shared[name] for name in shared if one.revision == 1 and isinstance(shared[name], list)}
        return found


@mutant("INSERT-8", base="memory")
class PatchedBodiesAreShared(Mutation):
    """What a patch stores is still the list or dict of the caller."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.shared: dict[str, Changes] = {}

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        self.shared |= {one.id: changes for one in self.inner.find(collection, where)}
        return self.inner.patch(collection, where, changes)

    def get(self, collection: Collection, identifier: str) -> Document | None:
        stored = self.inner.get(collection, identifier)
        if stored is not None and stored.revision == 2:
            for name, value in self.shared.get(identifier, {}).items():
                if isinstance(value, dict):
                    stored.body[name] = value
        return stored
