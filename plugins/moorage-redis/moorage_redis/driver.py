"""The driver: each primitive of the waist is a read, or one script that nothing can interrupt.

Keys, all of which begin with the namespace: ``schema`` holds the version, ``documents:<collection>`` every document by
its id, and ``<version>:<collection>:…`` what is derived from them: indexes, unique keys and tallies.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeVar, cast

from moorage.codec import dumps
from moorage.driver import Capability, Document, Driver, Instant, Refusal
from moorage.errors import (
    ConfigurationError,
    OutcomeUnknown,
    StorageDamaged,
    StorageReadOnly,
    Unavailable,
    UniqueViolation,
)
from moorage.filters import Comparison, Filter, Order, matches
from moorage.schema import Schema

from moorage_redis.layout import (
    Layout,
    Lookup,
    Request,
    from_sort_key,
    identifier_of,
    read_document,
    sort_key,
    tests_of,
    write_document,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from moorage.codec import Plain
    from moorage.driver import Changes
    from moorage.schema import Collection

    from moorage_redis.layout import Scalar
    from moorage_redis.link import Link, Reply

T = TypeVar("T")

_BATCH = 250
"""How many documents one call to Redis touches at the most: nobody else is served meanwhile."""
_BATCH_CHARACTERS = 1 << 20
_DURABLE = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}


class RedisDriver(Driver):
    """One namespace of a Redis server."""

    name = "redis"

    def __init__(self, link: Link, namespace: str, *, read_only: bool) -> None:
        """Ask the server what it is, and declare what it promises.

        Raises:
            ConfigurationError: it is a cluster, or a cache that forgets what it was given.
        """
        self._link = link
        self._namespace = namespace
        self._read_only = read_only
        self._state = ""
        self._layouts: dict[str, Layout] = {}
        self._latest = 0.0
        self.capabilities = self._inspected()

    def _inspected(self) -> frozenset[Capability]:
        shown, facts = self._link.shown, self._link.facts()
        if (mode := facts.get("redis_mode", "standalone")) != "standalone":
            raise ConfigurationError(
                f"{shown} is a Redis {mode}, and one step of Moorage spans several keys: use a single server"
            )
        if (policy := facts.get("maxmemory_policy", "noeviction")) != "noeviction":
            raise ConfigurationError(
                f"{shown} forgets keys when its memory is full (maxmemory-policy {policy}), and a forgotten key is a "
                "lost trial: set maxmemory-policy to noeviction, or use another server"
            )
        declared = {Capability.SHARED, Capability.SERVER_CLOCK}
        return frozenset(declared | {Capability.DURABLE} if _DURABLE.items() <= facts.items() else declared)

    def close(self) -> None:
        """See `Driver.close`."""
        self._link.close()

    # The schema

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        """See `Driver.setup`; one GET where nothing is missing.

        The state of the schema is its version, or, during an upgrade, ``old>new``. Whoever was opened under another
        state is refused by every write and by every lookup in an index.
        """
        wanted = str(schema.version)
        while (state := self._stored_state()) != wanted:
            if not state:
                self._create(wanted)
                continue
            old, _, target = state.partition(">")
            if not all(part.isdecimal() for part in (old, target or old)):
                raise StorageDamaged(f"{self._shown} is not a Moorage storage: its schema is {state[:80]!r}")
            self._check_version(int(old), int(target or old), schema, upgrade=upgrade)
            if self._read_only:
                raise StorageReadOnly(f"{self._shown} was opened read-only and cannot be upgraded")
            self._upgrade(schema, state)
        self._state = wanted
        self._layouts = {one.name: Layout(one, self._namespace, wanted) for one in schema.collections}

    @property
    def _shown(self) -> str:
        return f"{self._link.shown} (namespace {self._namespace})"

    def _stored_state(self) -> str:
        stored = self._link.ask(("GET", f"{self._namespace}:schema"))[0]
        return cast("bytes", stored or b"").decode(errors="replace")

    def _check_version(self, old: int, target: int, schema: Schema, *, upgrade: bool = False) -> None:
        schema.accepts(target if target > schema.version else old, self._link.shown, upgrade=upgrade)

    def _create(self, wanted: str) -> None:
        """Write the version into a namespace that has nothing else."""
        if self._read_only:
            raise StorageDamaged(f"{self._shown} holds no Moorage storage, and it was opened read-only")
        found = next(self._keys(f"{self._namespace}:*"), None)
        if found is not None and not self._stored_state():  # which another process may have written meanwhile
            key = found.decode(errors="replace")
            raise StorageDamaged(
                f"{self._shown} has the key {key!r:.80} and no schema: it is not a Moorage storage. Choose another "
                "namespace, or delete those keys"
            )
        if found is None:
            self._advance("", wanted)

    def _advance(self, state: str, following: str) -> bool:
        """Step from one state of the schema to the next; whether it still was in the first."""
        spec = dumps({"schema": f"{self._namespace}:schema", "state": state})
        return self._link.write(spec, dumps({"action": "advance", "to": following})) == 1

    def _keys(self, pattern: str) -> Iterator[bytes]:
        cursor = b"0"
        while True:
            page = self._link.ask(("SCAN", cursor, "MATCH", pattern, "COUNT", 1000))[0]
            cursor, keys = cast("tuple[bytes, list[bytes]]", page)
            yield from keys
            if cursor == b"0":
                return

    def _upgrade(self, schema: Schema, state: str) -> None:
        """Derive all indexes anew, beside the old ones; others who upgrade at the same time do the same."""
        old, wanted = state.partition(">")[0], str(schema.version)
        during = f"{old}>{wanted}"
        if state != during and not self._advance(state, during):
            return
        for collection in schema.collections:
            layout = Layout(collection, self._namespace, during)
            cursor = b"0"
            while True:
                page = self._link.ask(("HSCAN", layout.documents, cursor, "COUNT", _BATCH))[0]
                cursor, flat = cast("tuple[bytes, list[bytes]]", page)
                found = [(read_document(key.decode(), text), text.decode()) for key, text in _pairs(flat)]
                for part in _parts(found, _BATCH):
                    request: Request = {"action": "reindex", "documents": [layout.entries(one) for one, _ in part]}
                    refused = self._link.write(layout.spec, dumps(cast("Plain", request)), *(text for _, text in part))
                    if refused == b"schema":
                        return
                    for key in cast("list[int]", refused):
                        names = ", ".join(collection.unique[key - 1])
                        raise StorageDamaged(
                            f"{self._shown} cannot be upgraded: two documents of {collection.name} share ({names})"
                        )
                if cursor == b"0":
                    break
        if self._advance(during, wanted):
            self._remove_keys(kept=(f"{wanted}:", "documents:", "schema"))

    def _remove_keys(self, kept: Sequence[str]) -> None:
        """Remove all keys of the namespace but those that go on like this."""
        staying = tuple(f"{self._namespace}:{one}".encode() for one in kept)
        for keys in _parts([key for key in self._keys(f"{self._namespace}:*") if not key.startswith(staying)], _BATCH):
            self._link.ask(("UNLINK", *keys), writing=True)

    def erase(self) -> None:
        """Remove all keys of the namespace.

        The schema goes first: what is left where this is cut short is no storage, and the next call removes it.
        """
        self._link.ask(("UNLINK", f"{self._namespace}:schema"), writing=True)
        self._remove_keys(kept=())

    def _layout(self, collection: Collection) -> Layout:
        layout = self._layouts.get(collection.name)
        if layout is None or (layout.collection is not collection and layout.collection != collection):
            layout = self._layouts[collection.name] = Layout(collection, self._namespace, self._state)
        return layout

    def _check_state(self, state: str) -> None:
        if not state:
            raise StorageDamaged(f"{self._shown} is gone: its schema was deleted, or the server came back empty")
        if state != self._state:
            old, _, target = state.partition(">")
            self._check_version(int(old), int(target or old), Schema(int(self._state or 0), ()))

    # Reading

    def get(self, collection: Collection, identifier: str) -> Document | None:
        """See `Driver.get`; one HGET."""
        text = self._link.ask(("HGET", self._layout(collection).documents, identifier))[0]
        return None if text is None else read_document(identifier, cast("bytes", text))

    def find(
        self,
        collection: Collection,
        where: Filter = (),
        order: Sequence[Order] = (),
        limit: int | None = None,
    ) -> list[Document]:
        """See `Driver.find`; an index narrows down what is read, and each document is compared here.

        Without a limit, all that match from the beginning to the end of the call are in the answer.
        """
        if limit is not None and limit <= 0:
            return []
        layout = self._layout(collection)
        lookup = layout.look_up(where, order, limited=limit is not None)
        found: list[Document] = []
        for identifiers in self._candidates(lookup, limit if lookup.ordered else None):
            texts = cast("list[bytes | None]", self._link.ask(("HMGET", layout.documents, *identifiers))[0])
            for identifier, text in zip(identifiers, texts, strict=True):
                if text is None:
                    continue
                document = read_document(identifier, text)
                if matches(where, identifier, document.revision, document.body):
                    found.append(document)
                    if lookup.ordered and len(found) == limit:
                        return found
        if not lookup.ordered:
            for one in reversed(order):
                found.sort(key=lambda document: sort_key(_value(document, one.field)), reverse=one.descending)
        return found[:limit]

    def _candidates(self, lookup: Lookup, limit: int | None) -> Iterator[Sequence[str]]:
        """Ids of all that may match, in batches; read bit by bit where there is a limit."""
        if lookup.identifiers is not None:
            yield from _parts(lookup.identifiers, _BATCH)
            return
        command = "ZREVRANGEBYLEX" if lookup.backwards else "ZRANGEBYLEX"
        for lower, upper in lookup.ranges:
            bounds = [f"[{lower}".encode(), f"({upper}".encode()]
            start, end = reversed(bounds) if lookup.backwards else bounds
            page = limit or -1
            while True:
                reply = self._read_index(command, lookup.index, start, end, "LIMIT", 0, page)
                members = cast("list[bytes]", reply)
                for part in _parts(members, _BATCH):
                    yield [identifier_of(member) for member in part]
                if limit is None or len(members) < page:
                    break
                start, page = b"(" + members[-1], _BATCH

    def _read_index(self, command: str, *arguments: str | bytes | int) -> Reply:
        """Read from an index, or a tally, of the schema that this driver was opened under."""
        state, reply = self._link.ask(("GET", f"{self._namespace}:schema"), (command, *arguments))
        if state != self._state.encode():
            self._check_state(cast("bytes", state or b"").decode(errors="replace"))
        return reply

    def count(self, collection: Collection, where: Filter = ()) -> int:
        """See `Driver.count`; from a tally or an index, wherever one tells."""
        layout = self._layout(collection)
        counted = layout.tally(where)
        if counted is not None:
            return sum(self._tally(counted).values())
        lookup = layout.look_up(where)
        if not lookup.exact:
            return len(self.find(collection, where))
        return sum(
            cast("int", self._read_index("ZLEXCOUNT", lookup.index, f"[{lower}", f"({upper}"))
            for lower, upper in lookup.ranges
        )

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        """See `Driver.tally`; one HGETALL where the collection declares such a tally."""
        counted = self._layout(collection).tally(where, field)
        return super().tally(collection, where, field) if counted is None else dict(self._tally(counted))

    def _tally(self, counted: tuple[str, Filter]) -> Counter[Scalar]:
        key, wanted = counted
        counts: Counter[Scalar] = Counter()
        for last, count in _pairs(cast("list[bytes]", self._read_index("HGETALL", key))):
            value = from_sort_key(last.decode())
            if matches(tuple(Comparison("last", one.operator, one.value) for one in wanted), "", 0, {"last": value}):
                counts[value] += int(count)
        return counts

    # Writing

    def _write(self, layout: Layout, request: Request, texts: Sequence[str] = ()) -> Reply:
        if self._read_only:
            raise StorageReadOnly(f"{self._shown} was opened read-only")
        reply = self._link.write(layout.spec, dumps(cast("Plain", request)), *texts)
        if reply == b"schema":
            self._check_state(self._stored_state())
            raise Unavailable(f"{self._shown} was just being upgraded")
        return reply

    def _write_each(self, layout: Layout, requests: Iterable[tuple[Request, Sequence[str]]]) -> Iterator[Reply]:
        """Several writes; where one after the first is refused, not all of them are undone."""
        for number, (request, texts) in enumerate(requests):
            try:
                yield self._write(layout, request, texts)
            except Unavailable as error:
                if not number:
                    raise
                raise OutcomeUnknown(f"some documents were written, and then: {error}") from error

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        """See `Driver.insert`; one script for each batch."""
        layout = self._layout(collection)
        keys = (("id",), *collection.unique)
        batches = list(_batches([(one, write_document(one, 1)) for one in documents]))
        requests: list[tuple[Request, Sequence[str]]] = [
            ({"action": "insert", "documents": [layout.entries(one) for one, _ in part]}, [text for _, text in part])
            for part in batches
        ]
        refused: list[Refusal] = []
        start = 0
        for part, reply in zip(batches, self._write_each(layout, requests), strict=True):
            places = cast("list[int]", reply)
            for place, key in zip(places[::2], places[1::2], strict=True):
                refused.append(Refusal(start + place, part[place][0].id, keys[key]))
            start += len(part)
        return refused

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        """See `Driver.swap`; one script."""
        layout = self._layout(collection)
        request: Request = {
            "action": "swap",
            "documents": [layout.entries(document)],
            "expected": str(expected_revision),
        }
        reply = cast("int", self._write(layout, request, [write_document(document, expected_revision + 1)]))
        self._check_unique(collection, -reply)
        return reply == 1

    def _check_unique(self, collection: Collection, broken: int) -> None:
        if broken > 0:
            raise UniqueViolation(collection.unique[broken - 1])

    def _matching(self, lookup: Lookup) -> list[str]:
        """The ids of all that may match."""
        return [identifier for part in self._candidates(lookup, None) for identifier in part]

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        """See `Driver.patch`; scripts compare and change, unless the filter takes more than equality."""
        layout = self._layout(collection)
        tests, made = tests_of(where), layout.changes(changes)
        if tests is None or made is None:
            return super().patch(collection, where, changes)
        requests: list[tuple[Request, Sequence[str]]] = [
            ({"action": "patch", "ids": part, "tests": tests, **made}, ())
            for part in _parts(self._matching(layout.look_up(where)), _BATCH)
        ]
        done = 0
        for reply in self._write_each(layout, requests):
            count, broken, *left = cast("list[int]", reply)
            self._check_unique(collection, broken)
            done += count
            if left:  # sums that only Python can do
                names = tuple(cast("bytes", one).decode() for one in left)
                done += super().patch(collection, (Comparison("id", "in", names), *where), changes)
        return done

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        """See `Driver.claim`; one script, where an index has the order and the filter takes equality alone."""
        layout = self._layout(collection)
        lookup = layout.look_up(where, order, limited=True)
        tests, made = tests_of(where), layout.changes(changes)
        if tests is None or made is None or not lookup.ordered:
            return super().claim(collection, where, changes, order)
        request: Request = {
            "action": "claim",
            "tests": tests,
            "index": lookup.index,
            "ranges": lookup.ranges,
            "backwards": lookup.backwards,
            **made,
        }
        reply = self._write(layout, request)
        if isinstance(reply, int):
            self._check_unique(collection, -reply)
            return super().claim(collection, where, changes, order)
        if not reply:
            return None
        identifier, text = cast("list[bytes]", reply)
        return read_document(identifier.decode(), text)

    def delete(self, collection: Collection, where: Filter) -> int:
        """See `Driver.delete`; scripts compare and delete, unless the filter takes more than equality."""
        layout = self._layout(collection)
        tests = tests_of(where)
        if tests is not None:
            identifiers = self._matching(layout.look_up(where))
            return self._delete(layout, [{"ids": part, "tests": tests} for part in _parts(identifiers, _BATCH)])
        gone, wanted = 0, where
        while found := self.find(collection, wanted):
            names, revisions = [one.id for one in found], [str(one.revision) for one in found]
            pairs = zip(_parts(names, _BATCH), _parts(revisions, _BATCH), strict=True)
            gone += self._delete(layout, [{"ids": some, "revisions": same, "tests": []} for some, same in pairs])
            wanted = (Comparison("id", "in", tuple(names)), *where)  # for those that were changed meanwhile
        return gone

    def _delete(self, layout: Layout, requests: Sequence[Request]) -> int:
        replies = self._write_each(layout, [({"action": "delete", **one}, ()) for one in requests])
        return sum(cast("list[int]", list(replies)))

    def now(self) -> Instant:
        """See `Driver.now`; TIME of the server, and never less than this driver has said before."""
        seconds, microseconds = cast("list[bytes]", self._link.ask(("TIME",))[0])
        reading = max(self._latest, int(seconds) + int(microseconds) / 1e6)
        self._latest = reading
        return Instant("redis", reading)


def _value(document: Document, field: str) -> Plain:
    own: dict[str, Plain] = {"id": document.id, "revision": document.revision}
    return own[field] if field in own else document.body.get(field)


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _parts(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _batches(documents: Sequence[tuple[Document, str]]) -> Iterator[list[tuple[Document, str]]]:
    """Documents with their texts, in batches that are not too large."""
    batch: list[tuple[Document, str]] = []
    characters = 0
    for one in documents:
        if batch and (len(batch) == _BATCH or characters + len(one[1]) > _BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(one)
        characters += len(one[1])
    if batch:
        yield batch
