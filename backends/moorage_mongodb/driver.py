"""The driver: each primitive of the waist is one command, and MongoDB decides who wins.

A write is acknowledged when a majority of the replica set has it in its journal. What is read of one id is
linearizable: the primary makes sure that it still is one. What is read of several documents is one snapshot.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar, cast

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference, ReturnDocument
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from moorage.driver import Capability, Document, Driver, Instant, Refusal, changed
from moorage.errors import (
    ConfigurationError,
    InvalidArgument,
    OutcomeUnknown,
    StorageDamaged,
    StorageReadOnly,
    Unavailable,
    UniqueViolation,
)
from moorage.filters import Comparison, Filter, Order, equal, matches
from moorage_mongodb.documents import CODEC, Layout, read_document
from moorage_mongodb.link import DUPLICATE_KEY, Link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pymongo import MongoClient
    from pymongo.collection import Collection as Remote
    from pymongo.synchronous.cursor import Cursor

    from moorage.codec import Plain
    from moorage.driver import Changes
    from moorage.schema import Collection, Schema
    from moorage_mongodb.documents import Condition, Stored

T = TypeVar("T")

SCHEMA_COLLECTION = "moorage_schema"
_SCHEMA_ID = "schema"
_OLDEST_WIRE_VERSION = 13  # MongoDB 5.0: snapshots outside of transactions
_WRITE = WriteConcern(w="majority", j=True)
_LINEARIZABLE, _SNAPSHOT = ReadConcern("linearizable"), ReadConcern("snapshot")
_PATIENCE = 100
_BATCH = 1000
_BATCH_BYTES = 1 << 24
_ALL = 1_000_000
_FORBIDDEN = frozenset(' ./\\"$*<>:|?\0')
_LARGEST_INTEGER = 2**63 - 1
_NULL = 10
_NAMESPACE_EXISTS = 48
_CLOCK_AGE, _CLOCK_SAMPLES = 60.0, 3

if hasattr(time, "CLOCK_BOOTTIME"):

    def _local_clock() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:  # pragma: no cover - systems without it
    _local_clock = time.monotonic


class UnkeptOutcomes(ConfigurationError):
    """The client repeats writes, and this server does not remember what became of the first attempt."""


class MongoDriver(Driver):
    """One storage in a database of MongoDB: all collections whose names begin with a prefix.

    ``Storage(driver)`` takes it, after ``driver.setup(moorage.schema.SCHEMA)``.
    """

    name = "mongodb"
    capabilities = frozenset({Capability.SHARED, Capability.DURABLE, Capability.SERVER_CLOCK})

    def __init__(
        self,
        client: MongoClient[Any] | Callable[[], MongoClient[Any]],
        database: str,
        *,
        prefix: str = "",
        timeout: float = 30.0,
        read_only: bool = False,
        shown: str = "",
    ) -> None:
        """Ask the server what it is.

        Args:
            client: a client, which stays the caller's and is never closed here; or a function that makes one, which
                each process calls for itself and which `close` closes.
            database: the name of the database.
            prefix: what the names of all collections begin with.
            timeout: how long one call may wait for the server, retries included, in seconds; 0 for ever.
            read_only: refuse every write.
            shown: what messages call the storage.

        Raises:
            ConfigurationError: no replica set, or too old a server; a name that MongoDB does not take.
            UnkeptOutcomes: the client repeats writes, and the server does not keep their outcomes.
            Unavailable: the server does not answer.
        """
        self.shown = shown or f"mongodb://…/{database}"
        if not 0 < len(database.encode()) < 64 or not _FORBIDDEN.isdisjoint(database):
            raise ConfigurationError(
                f"a database of MongoDB is called by 1 to 63 bytes without spaces and {''.join(sorted(_FORBIDDEN))!r}, "
                f"not {database!r:.120}"
            )
        if not prefix.isprintable() or "$" in prefix or prefix.startswith((".", "system.")) or len(prefix) > 100:
            raise ConfigurationError(
                f"option 'prefix' takes at most 100 characters without $, and no dot in front, not {prefix!r:.120}"
            )
        self._link = Link(client, timeout=timeout, shown=self.shown)
        self._database = database
        self._prefix = prefix
        self._read_only = read_only
        self._layouts: dict[str, Layout] = {}
        self._clock = threading.Lock()
        self._measured = self._latest = float("-inf")
        self._offset = 0.0
        try:
            self._inspect()
        except BaseException:
            self._link.close()
            raise

    def _inspect(self) -> None:
        hello = self._link.hello()
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise ConfigurationError(
                f"{self.shown} is a standalone server, which can neither repeat a write safely nor read a snapshot. "
                "Make it a replica set of one: start mongod with --replSet rs0, and call rs.initiate() once"
            )
        self._largest = int(hello.get("maxBsonObjectSize", 1 << 24))
        if hello.get("maxWireVersion", 0) < _OLDEST_WIRE_VERSION:
            raise ConfigurationError(f"{self.shown} is older than MongoDB 5.0")
        self._is_mongodb = self._recognized()
        if self._link.retries_writes and not self._is_mongodb:
            raise UnkeptOutcomes(
                f"{self.shown} is not MongoDB itself, and may repeat a write that was done already: "
                "set retryWrites=false"
            )

    def _recognized(self) -> bool:
        """Whether the server is MongoDB itself, by two facts that others do not claim of themselves."""
        info = self._link.build_info()
        return "wiredTiger" in info.get("storageEngines", ()) or info.get("javascriptEngine") == "mozjs"

    def close(self) -> None:
        """See `Driver.close`; a client that was given stays open."""
        self._link.close()

    # Collections

    def _layout(self, collection: Collection) -> Layout:
        layout = self._layouts.get(collection.name)
        if layout is None or (layout.collection is not collection and layout.collection != collection):
            layout = self._layouts[collection.name] = Layout(collection)
        return layout

    def _remote(self, client: MongoClient[Any], name: str, concern: ReadConcern = _LINEARIZABLE) -> Remote[Stored]:
        return client[self._database].get_collection(
            self._prefix + name,
            codec_options=CODEC,
            read_preference=ReadPreference.PRIMARY,
            write_concern=_WRITE,
            read_concern=concern,
        )

    def _must_write(self) -> None:
        if self._read_only:
            raise StorageReadOnly(f"{self.shown} was opened read-only")

    # The schema

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        """See `Driver.setup`; one read where nothing is missing.

        The schema's document comes first and names each collection once its indexes are there, so that whoever finds
        the work half done finishes it.
        """
        stored = self._stored_schema()
        if not self._missing(stored, schema, upgrade=upgrade):
            return
        if self._read_only:
            raise StorageDamaged(
                f"{self.shown} holds no complete Moorage storage, and it was opened read-only; open it once for writing"
            )
        if stored is None:
            stored = self._found(schema)
        for collection in self._missing(stored, schema, upgrade=upgrade):
            self._create(collection, schema.version, anew=collection.name not in stored["collections"])
        with self._link.calling(writing=True) as client:
            self._remote(client, SCHEMA_COLLECTION).update_one(
                {"_id": _SCHEMA_ID}, {"$max": {"version": schema.version}}
            )

    def _stored_schema(self) -> Stored | None:
        with self._link.calling() as client:
            return self._remote(client, SCHEMA_COLLECTION).find_one({"_id": _SCHEMA_ID})

    def _missing(self, stored: Stored | None, schema: Schema, *, upgrade: bool) -> Sequence[Collection]:
        """The collections that a stored schema does not have at this version."""
        if stored is None:
            return schema.collections
        version, created = stored.get("version"), stored.get("collections")
        if not isinstance(version, int) or not isinstance(created, dict):
            raise StorageDamaged(f"{self.shown} is not a Moorage storage: its schema is {stored!r:.200}")
        if not schema.accepts(version, self.shown, upgrade=upgrade):
            return [one for one in schema.collections if created.get(one.name) != schema.version] or schema.collections
        return tuple(one for one in schema.collections if one.name not in created)

    def _found(self, schema: Schema) -> Stored:
        """Write the schema's document, where nothing is that belongs to somebody else."""
        with self._link.calling() as client:
            names = set(client[self._database].list_collection_names())
        taken = sorted(names.intersection(self._prefix + one.name for one in schema.collections))
        if taken and self._stored_schema() is None:  # which another process may have written meanwhile
            raise StorageDamaged(
                f"{self.shown} has a collection {taken[0]!r} already, and no schema: it is not a Moorage storage. Use "
                "another database, or the option prefix"
            )
        with self._link.calling(writing=True) as client:
            self._written_once(
                lambda: self._remote(client, SCHEMA_COLLECTION).insert_one(
                    {"_id": _SCHEMA_ID, "version": schema.version, "collections": {}}
                )
            )
        stored = self._stored_schema()
        if stored is None:
            raise Unavailable(f"{self.shown} was erased while it was being created")
        return stored

    @staticmethod
    def _written_once(write: Callable[[], object]) -> None:
        """Write what another process may have written first."""
        try:
            write()
        except DuplicateKeyError:
            return

    def _create(self, collection: Collection, version: int, *, anew: bool) -> None:
        layout = self._layout(collection)
        with self._link.calling(writing=True, several=True) as client:
            remote = self._remote(client, collection.name)
            for field in () if anew else collection.fields:  # null may be stored, from before a field was declared
                remote.update_many({field.name: {"$type": _NULL}}, {"$unset": {field.name: ""}})
            try:
                if indexes := layout.indexes():
                    remote.create_indexes(indexes)
                else:
                    self._create_plain(client, collection)
            except OperationFailure as error:
                if error.code != DUPLICATE_KEY:
                    raise
                raise StorageDamaged(
                    f"{self.shown} cannot be upgraded: documents of {collection.name} share a key that is to be unique"
                ) from error
            self._remote(client, SCHEMA_COLLECTION).update_one(
                {"_id": _SCHEMA_ID}, {"$set": {f"collections.{collection.name}": version}}
            )

    def _create_plain(self, client: MongoClient[Any], collection: Collection) -> None:
        name = self._prefix + collection.name
        if name not in client[self._database].list_collection_names():
            try:
                client[self._database].create_collection(name, check_exists=False)
            except OperationFailure as error:
                if error.code != _NAMESPACE_EXISTS:
                    raise

    def erase(self) -> None:
        """Drop the collections of this storage; others in the same database stay."""
        self._must_write()
        stored = self._stored_schema()
        if stored is None:
            return
        with self._link.calling(writing=True, several=True) as client:
            database = client[self._database].with_options(write_concern=_WRITE)
            for name in stored.get("collections", ()):
                database.drop_collection(self._prefix + name)
            database.drop_collection(self._prefix + SCHEMA_COLLECTION)  # last: it names the others

    # Reading

    def get(self, collection: Collection, identifier: str) -> Document | None:
        """See `Driver.get`; linearizable."""
        with self._link.calling() as client:
            stored = self._remote(client, collection.name).find_one({"_id": identifier})
        return None if stored is None else read_document(stored)

    def find(
        self,
        collection: Collection,
        where: Filter = (),
        order: Sequence[Order] = (),
        limit: int | None = None,
    ) -> list[Document]:
        """See `Driver.find`; linearizable where the filter names an id, and one snapshot elsewhere."""
        layout = self._layout(collection)
        condition = layout.condition(where)
        if condition.never or (limit is not None and limit <= 0):
            return []
        with self._link.calling() as client:
            cursor = self._remote(client, collection.name, _concern(condition)).find(condition.query)
            if order:
                cursor.sort(layout.sort(order))
            if limit is None:
                cursor.batch_size(_ALL)  # up to 16 MB come at once, and in one moment
            elif not condition.residual:
                cursor.limit(limit)
        found: list[Document] = []
        with cursor:
            for document in self._documents(cursor):
                if matches(condition.residual, document.id, document.revision, document.body):
                    found.append(document)
                    if len(found) == limit:
                        break
        return found

    def _documents(self, cursor: Cursor[Stored]) -> Iterator[Document]:
        """What a cursor finds; each round trip has the whole deadline."""
        while True:
            with self._link.calling():
                part = cursor.to_list(_BATCH)
            yield from map(read_document, part)
            if len(part) < _BATCH:
                return

    def count(self, collection: Collection, where: Filter = ()) -> int:
        """See `Driver.count`; one snapshot."""
        condition = self._layout(collection).condition(where)
        if condition.never:
            return 0
        if condition.residual:
            return len(self.find(collection, where))
        with self._link.calling() as client:
            return self._remote(client, collection.name, _concern(condition)).count_documents(condition.query)

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        """See `Driver.tally`; one aggregation of one snapshot."""
        layout = self._layout(collection)
        condition = layout.condition(where)
        if condition.never:
            return {}
        if condition.residual or layout.kinds.get(field, "json") == "json":
            return super().tally(collection, where, field)
        pipeline = [{"$match": condition.query}, {"$group": {"_id": f"${field}", "count": {"$sum": 1}}}]
        with self._link.calling() as client:
            found = list(self._remote(client, collection.name, _SNAPSHOT).aggregate(pipeline))
        return {one["_id"]: one["count"] for one in found}

    # Writing

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        """See `Driver.insert`; one command for each batch."""
        self._must_write()
        refused: list[Refusal] = []
        for start, part in self._batches(collection, documents):
            try:
                refused += self._insert(collection, documents, start, part)
            except Unavailable as error:
                if not start:
                    raise
                raise OutcomeUnknown(f"some documents were written, and then: {error}") from error
        return sorted(refused, key=lambda one: one.position)

    def _batches(
        self, collection: Collection, documents: Sequence[Document]
    ) -> Iterator[tuple[int, list[RawBSONDocument]]]:
        """Documents that are not too large together, and of which none shares a key with another.

        MongoDB may insert the documents of one command in any order.
        """
        layout = self._layout(collection)
        start, size = 0, 0
        part: list[RawBSONDocument] = []
        keys: set[tuple[object, ...]] = set()
        for place, document in enumerate(documents):
            raw = self._encoded(layout.write(document, 1))
            own = {("id", document.id), *_keys(collection, document.body)}
            if part and (len(part) == _BATCH or size + len(raw.raw) > _BATCH_BYTES or not own.isdisjoint(keys)):
                yield start, part
                start, size, part, keys = place, 0, [], set()
            part.append(raw)
            size += len(raw.raw)
            keys |= own
        if part:
            yield start, part

    def _encoded(self, stored: Stored) -> RawBSONDocument:
        """A document in the form in which it is sent.

        Raises:
            InvalidArgument: it is too large for this server.
        """
        with self._link.calling():
            raw = bson.encode(stored, codec_options=CODEC)
        if len(raw) > self._largest:
            raise InvalidArgument(
                f"the document {stored['_id']!r:.80} is too large for {self.shown}: {len(raw)} bytes, where "
                f"{self._largest} are the most. Store large values elsewhere, and here where they are"
            )
        return RawBSONDocument(raw)

    def _insert(
        self, collection: Collection, documents: Sequence[Document], start: int, part: list[RawBSONDocument]
    ) -> list[Refusal]:
        refused: list[Refusal] = []
        left = list(range(len(part)))
        for _ in range(_PATIENCE):
            places, left = left, []
            with self._link.calling(writing=True) as client:
                remote = cast("Remote[Any]", self._remote(client, collection.name))
                try:
                    remote.insert_many([part[place] for place in places], ordered=False)
                except BulkWriteError as error:
                    details = error.details
                else:
                    return refused
            for failed in details["writeErrors"]:
                if failed["code"] != DUPLICATE_KEY or details.get("writeConcernErrors"):
                    alone = len(documents) == 1
                    raise self._link.translated(
                        OperationFailure(str(failed["errmsg"]), failed["code"]), writing=True, several=not alone
                    )
            if details.get("writeConcernErrors"):
                raise OutcomeUnknown(f"{self.shown}: {details['writeConcernErrors'][0].get('errmsg')!s:.500}")
            taken = [start + places[failed["index"]] for failed in details["writeErrors"]]
            present = self._present(collection, [documents[place].id for place in taken])
            for place in taken:
                document = documents[place]
                key = ("id",) if document.id in present else self._broken(collection, document.id, document.body)
                if key is None:  # what was in the way is gone
                    left.append(place - start)
                else:
                    refused.append(Refusal(place, document.id, key))
            if not left:
                return refused
        raise OutcomeUnknown(f"{self.shown}: others keep taking a unique key and leaving it")

    def _present(self, collection: Collection, identifiers: Sequence[str]) -> set[str]:
        with self._link.calling() as client:
            remote = self._remote(client, collection.name)
            return {one["_id"] for one in remote.find({"_id": {"$in": identifiers}}, {"_id": 1})}

    def _broken(self, collection: Collection, identifier: str, body: dict[str, Plain]) -> tuple[str, ...] | None:
        """The unique key of a document that another document has; None where it has none.

        The server's own words on this differ from release to release.
        """
        for fields in collection.unique:
            values = {name: body.get(name) for name in fields}
            if None not in values.values():
                others = (*equal(**values), Comparison("id", "!=", identifier))
                with self._link.calling() as client:
                    query = self._layout(collection).condition(others).query
                    if self._remote(client, collection.name).find_one(query, {"_id": 1}) is not None:
                        return fields
        return None

    def _enforced(self, write: Callable[[], T], broken: Callable[[], tuple[str, ...] | None]) -> T:
        """Write, and name the unique key that this breaks; again where what was in the way is gone."""
        for _ in range(_PATIENCE):
            try:
                return write()
            except DuplicateKeyError:
                if (key := broken()) is not None:
                    raise UniqueViolation(key) from None
        raise Unavailable(f"{self.shown}: others keep taking a unique key and leaving it")

    def _surely(self, write: Callable[[], T], collection: Collection, condition: Condition) -> T:
        """Write; again where nothing was written though something matches.

        A server may pass over a document that another one is writing to at that moment.
        """
        while not (done := write()):
            with self._link.calling() as client:
                if self._remote(client, collection.name).find_one(condition.query, {"_id": 1}) is None:
                    break
        return done

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        """See `Driver.swap`; one replacement that names the revision."""
        self._must_write()
        if expected_revision >= _LARGEST_INTEGER:
            return False
        stored = cast("Stored", self._encoded(self._layout(collection).write(document, expected_revision + 1)))

        def write() -> bool:
            with self._link.calling(writing=True) as client:
                wanted = {"_id": document.id, "revision": expected_revision}
                return self._remote(client, collection.name).replace_one(wanted, stored).matched_count == 1

        return self._enforced(write, lambda: self._broken(collection, document.id, document.body))

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        """See `Driver.patch`; one update, on MongoDB itself.

        Other servers may pass over one of several documents, or take ``{"x": 1}`` and ``{"x": 1.0}`` for no change.
        Where the server refuses it for a moment, as it does in a conflict with another one, some may be changed.
        """
        self._must_write()
        layout = self._layout(collection)
        condition, update = layout.condition(where), layout.update(changes)
        if condition.never:
            return 0
        one = condition.identifier is not None
        if condition.residual or not (self._is_mongodb or (one and _is_scalar(changes))):
            return super().patch(collection, where, changes)

        def write() -> int:
            with self._link.calling(writing=True) as client:
                remote = self._remote(client, collection.name)
                return (remote.update_one if one else remote.update_many)(condition.query, update).matched_count

        def write_named() -> int:
            return self._enforced(write, lambda: self._broken_by(collection, where, changes))

        return self._surely(write_named, collection, condition) if one else write_named()

    def _broken_by(
        self,
        collection: Collection,
        where: Filter,
        changes: Changes,
        order: Sequence[Order] = (),
        limit: int | None = None,
    ) -> tuple[str, ...] | None:
        seen: set[tuple[object, ...]] = set()
        for one in self.find(collection, where, order, limit):
            after = changed(one.body, changes)
            for fields, *values in _keys(collection, after):
                if (fields, *values) in seen:  # by another that would be changed as well
                    return cast("tuple[str, ...]", fields)
                seen.add((fields, *values))
            if (key := self._broken(collection, one.id, after)) is not None:
                return key
        return None

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        """See `Driver.claim`; one ``find_one_and_update``."""
        self._must_write()
        layout = self._layout(collection)
        condition, update = layout.condition(where), layout.update(changes)
        if condition.residual or not (self._is_mongodb or _is_scalar(changes)):
            return super().claim(collection, where, changes, order)
        if condition.never:
            return None
        sort = layout.sort(order) or None

        def write() -> Stored | None:
            with self._link.calling(writing=True) as client:
                return self._remote(client, collection.name).find_one_and_update(
                    condition.query, update, sort=sort, return_document=ReturnDocument.AFTER
                )

        def write_named() -> Stored | None:
            return self._enforced(write, lambda: self._broken_by(collection, where, changes, order, 1))

        taken = self._surely(write_named, collection, condition)
        return None if taken is None else read_document(taken)

    def delete(self, collection: Collection, where: Filter) -> int:
        """See `Driver.delete`; one command, unless something is to be compared here."""
        self._must_write()
        condition = self._layout(collection).condition(where)
        if condition.never:
            return 0
        one = condition.identifier is not None
        if condition.residual or not (one or self._is_mongodb):
            return self._delete_found(collection, where)

        def write() -> int:
            with self._link.calling(writing=True, several=not one) as client:
                remote = self._remote(client, collection.name)
                return (remote.delete_one if one else remote.delete_many)(condition.query).deleted_count

        return self._surely(write, collection, condition) if one else write()

    def _delete_found(self, collection: Collection, where: Filter) -> int:
        gone = 0
        wanted = where
        try:
            while found := self.find(collection, wanted):
                for start in range(0, len(found), _BATCH):
                    exactly = [{"_id": one.id, "revision": one.revision} for one in found[start : start + _BATCH]]
                    with self._link.calling(writing=True, several=True) as client:
                        gone += self._remote(client, collection.name).delete_many({"$or": exactly}).deleted_count
                wanted = (Comparison("id", "in", tuple(one.id for one in found)), *where)  # those changed meanwhile
        except Unavailable as error:
            if not gone:
                raise
            raise OutcomeUnknown(f"some documents were deleted, and then: {error}") from error
        return gone

    # The clock

    def now(self) -> Instant:
        """See `Driver.now`: the primary's, measured once a minute against a local one that no wall clock moves."""
        with self._clock:
            if _local_clock() - self._measured > _CLOCK_AGE:
                self._measure()
            self._latest = max(self._latest, _local_clock() + self._offset)
            return Instant("mongodb", self._latest)

    def _measure(self) -> None:
        best = float("inf")
        for _ in range(_CLOCK_SAMPLES):
            before = _local_clock()
            moment = self._link.hello()["localTime"]
            after = _local_clock()
            if after - before < best:
                best = after - before
                self._offset = moment.timestamp() - (before + after) / 2
        self._measured = _local_clock()


def _is_scalar(changes: Changes) -> bool:
    return not any(isinstance(value, (list, dict)) for value in changes.values())


def _concern(condition: Condition) -> ReadConcern:
    return _SNAPSHOT if condition.identifier is None else _LINEARIZABLE


def _keys(collection: Collection, body: dict[str, Plain]) -> Iterator[tuple[object, ...]]:
    """The values of the unique keys of a document, each with what tells the keys apart."""
    for fields in collection.unique:
        values = [body.get(name) for name in fields]
        if None not in values:
            yield (fields, *map(_hashable, values))


def _hashable(value: Plain) -> object:
    return repr(value) if isinstance(value, (list, dict)) else value
