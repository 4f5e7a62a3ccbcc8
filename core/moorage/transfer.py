"""Whole storages as text, and from one database to another, without loss and in pages.

A *dump* is JSON Lines: a header that names the format and the schema, one line for each document, and a trailer with
counts and a digest. A dump without its trailer is incomplete, and says so when it is read. Documents travel as the
driver keeps them, so whatever can be stored comes back exactly.

Each line of a document is canonical: the same document gives the same bytes on every backend. The *digest* is the sum
of the SHA-256 of these lines modulo 2**256; it does not depend on their order, and two storages with the same content
have the same one.

Documents are read in order of their id, in pages after the last id seen, so memory does not grow with their number.
What is written meanwhile may or may not be included. Parts come before the wholes that they belong to, so that an
experiment is never seen before its trials have arrived.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import TYPE_CHECKING, cast

import attrs

from moorage.codec import dumps
from moorage.driver import Document
from moorage.errors import ConflictingArguments, SchemaMismatch, StorageDamaged
from moorage.filters import Comparison, Order
from moorage.records import utcnow
from moorage.schema import (
    ALGORITHM_LOCKS,
    ALGORITHM_STATE_CHUNKS,
    ATTEMPTS,
    BENCHMARKS,
    COUNTERS,
    EXPERIMENTS,
    MEASUREMENTS,
    RESOURCES,
    SCHEMA,
    TRIALS,
    Collection,
)
from moorage.waist import IN_LIMIT, Waist

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import BinaryIO, TypeAlias

    from moorage.codec import Plain
    from moorage.protocol import ReadOnlyStorage, Storage

    Progress: TypeAlias = Callable[[int], None]
    """Called with how many more documents are done."""

FORMAT = 1
"""The version of the format of a dump."""

COLLECTIONS: tuple[Collection, ...] = (
    MEASUREMENTS,
    ATTEMPTS,
    ALGORITHM_STATE_CHUNKS,
    ALGORITHM_LOCKS,
    TRIALS,
    COUNTERS,
    EXPERIMENTS,
    RESOURCES,
    BENCHMARKS,
)
"""All collections, parts before wholes: the order in which they are copied."""

_BY_NAME = {collection.name: collection for collection in COLLECTIONS}
_PLACE = {collection.name: place for place, collection in enumerate(COLLECTIONS)}
_LARGEST_PAGE = 1000
_PAGE_BYTES = 4 * 2**20
_NAMED_CONFLICTS = 20
_MODULUS = 2**256
_ID_LIMIT = 600
_FORMER_NAME = "holdfast"
"""What Moorage was called when schema 1 was written."""


@attrs.define
class _Tally:
    """Counts and digest of the documents seen so far."""

    counts: dict[str, int] = attrs.field(factory=dict)
    total: int = 0

    def add(self, collection: str, line: bytes) -> None:
        self.counts[collection] = self.counts.get(collection, 0) + 1
        self.total += int.from_bytes(hashlib.sha256(line).digest(), "big")

    @property
    def documents(self) -> int:
        return sum(self.counts.values())

    @property
    def digest(self) -> str:
        return f"{self.total % _MODULUS:064x}"


@attrs.frozen(kw_only=True)
class Written:
    """What a dump holds.

    Attributes:
        counts: documents by collection.
        digest: of all of them.
        resumed: how many of them an earlier, interrupted dump had written.
    """

    counts: Mapping[str, int]
    digest: str
    resumed: int = 0

    @property
    def documents(self) -> int:
        """How many documents there are in all."""
        return sum(self.counts.values())


@attrs.frozen(kw_only=True)
class Conflict:
    """A document that was not stored, because another one is in its place.

    Attributes:
        collection: its name.
        id: of the document.
        reason: what is in its place.
    """

    collection: str
    id: str
    reason: str


@attrs.frozen(kw_only=True)
class Loaded:
    """What became of the documents that were loaded or copied.

    Attributes:
        inserted: how many are new, by collection.
        present: how many were stored already, and equal.
        conflicting: how many were not stored because of what is there.
        conflicts: the first of those.
        digest: of all documents read.
    """

    inserted: Mapping[str, int]
    present: int
    conflicting: int
    conflicts: tuple[Conflict, ...]
    digest: str

    @property
    def documents(self) -> int:
        """How many documents were inserted."""
        return sum(self.inserted.values())


def _canonical(collection: Collection, document: Document) -> bytes:
    """The line of a document, without its end.

    Declared fields that are null are left out, because a backend may or may not keep them apart from missing ones. So
    is the sign of a zero to order by, which some databases drop; what a record is made of has it elsewhere.
    """
    body: dict[str, Plain] = {}
    for name in sorted(document.body):
        value = document.body[name]
        field = collection.field(name)
        if field is not None and value is None:
            continue
        if field is not None and field.kind == "number" and isinstance(value, (int, float)):
            value = float(value) + 0.0
        body[name] = value
    return dumps({"collection": collection.name, "id": document.id, "body": body}).encode()


def _pages(waist: Waist, collection: Collection, after: str = "") -> Iterator[list[tuple[Document, bytes]]]:
    """The documents of a collection with their lines, in order of id; pages shrink where documents are large."""
    limit = 100
    while True:
        where = (Comparison("id", ">", after),) if after else ()
        found = waist.find(collection, where, [Order("id")], limit)
        if not found:
            return
        page = [(one, _canonical(collection, one)) for one in found]
        yield page
        if len(found) < limit:
            return
        after = found[-1].id
        each = max(1, sum(len(line) for _, line in page) // len(page))
        limit = max(1, min(_LARGEST_PAGE, _PAGE_BYTES // each))


def _waist(storage: ReadOnlyStorage) -> Waist:
    return Waist(storage.driver, retry_timeout=30)


def digest(storage: ReadOnlyStorage, *, progress: Progress | None = None) -> str:
    """The digest of everything stored: 64 hexadecimal digits, the same on every backend for the same content."""
    tally = _Tally()
    waist = _waist(storage)
    for collection in COLLECTIONS:
        for page in _pages(waist, collection):
            for _, line in page:
                tally.add(collection.name, line)
            if progress is not None:
                progress(len(page))
    return tally.digest


def count(storage: ReadOnlyStorage) -> dict[str, int]:
    """How many documents each collection has."""
    waist = _waist(storage)
    return {collection.name: waist.count(collection) for collection in SCHEMA.collections}


# Dump


def dump(storage: ReadOnlyStorage, stream: BinaryIO, *, progress: Progress | None = None) -> Written:
    """Write everything stored to a stream of bytes.

    Args:
        storage: what is read.
        stream: where to; it is flushed, and not closed.
        progress: called with how many more documents are written.

    Raises:
        OSError: the stream cannot be written.
        StorageError: the storage cannot be read.
    """
    header: dict[str, Plain] = {
        "moorage": "dump",
        "format": FORMAT,
        "schema": SCHEMA.version,
        "created": utcnow().isoformat(timespec="seconds"),
    }
    stream.write(dumps(header).encode() + b"\n")
    return _dump(storage, stream, _Tally(), None, progress)


def resume(storage: ReadOnlyStorage, stream: BinaryIO, *, progress: Progress | None = None) -> Written:
    """Go on with a dump that was interrupted, after its last complete line.

    Args:
        storage: the one that was dumped.
        stream: the file, open for reading and writing (``r+b``); a torn last line is cut off.
        progress: called with how many more documents are in the file.

    Raises:
        StorageDamaged: the file is no dump, or is damaged elsewhere than at its end.
        SchemaMismatch: it was written by another version.
    """
    tally = _Tally()
    last: tuple[str, str] | None = None
    stream.seek(0)
    end = 0
    for number, raw in enumerate(stream, 1):
        if not raw.endswith(b"\n"):
            break
        line = raw[:-1]
        if number == 1:
            _check_header(line, same=True)
        else:
            entry = _parse(line, number)
            if "digest" in entry:
                _check_trailer(entry, tally)
                return Written(counts=tally.counts, digest=tally.digest, resumed=tally.documents)
            collection, document = _document(entry, number)
            tally.add(collection.name, line)
            last = (collection.name, document.id)
        end += len(raw)
    stream.seek(end)
    stream.truncate()
    if end == 0:
        return dump(storage, stream, progress=progress)
    if progress is not None:
        progress(tally.documents)
    return _dump(storage, stream, tally, last, progress)


def _dump(
    storage: ReadOnlyStorage,
    stream: BinaryIO,
    tally: _Tally,
    last: tuple[str, str] | None,
    progress: Progress | None,
) -> Written:
    resumed = tally.documents
    waist = _waist(storage)
    for place, collection in enumerate(COLLECTIONS):
        if last is not None and place < _PLACE[last[0]]:
            continue
        after = last[1] if last is not None and collection.name == last[0] else ""
        for page in _pages(waist, collection, after):
            for _, line in page:
                tally.add(collection.name, line)
            stream.write(b"".join(line + b"\n" for _, line in page))
            if progress is not None:
                progress(len(page))
    counts = cast("Plain", dict(tally.counts))
    stream.write(dumps({"counts": counts, "digest": tally.digest}).encode() + b"\n")
    stream.flush()
    return Written(counts=tally.counts, digest=tally.digest, resumed=resumed)


# Load


def load(storage: Storage, stream: Iterable[bytes], *, progress: Progress | None = None) -> Loaded:
    """Store the documents of a dump; nothing that is stored already is changed.

    Loading the same dump again goes on where an earlier run ended: what is stored and equal is passed over. A document
    whose place is taken by another one is a conflict; all others are stored nevertheless.

    Args:
        storage: where to.
        stream: the lines of the dump, as a file opened in binary mode gives them.
        progress: called with how many more documents are done.

    Raises:
        StorageDamaged: the stream is no dump, is damaged, or ends without the trailer. What came before is stored.
        SchemaMismatch: it was written by a newer Moorage.
    """
    loader = _Loader(_waist(storage), progress)
    tally = _Tally()
    complete = False
    number = 0
    for number, raw in enumerate(stream, 1):
        line = raw.rstrip(b"\r\n")
        if complete:
            if line:
                raise StorageDamaged(f"line {number} of the dump comes after its trailer")
            continue
        if number == 1:
            loader.numbered = _check_header(line) > 1
            continue
        try:
            entry = _parse(line, number)
        except StorageDamaged:
            if raw.endswith(b"\n"):
                raise
            break  # the torn last line of an incomplete dump
        if "digest" in entry:
            loader.flush()
            _check_trailer(entry, tally)
            complete = True
            continue
        collection, document = _document(entry, number)
        tally.add(collection.name, line)
        loader.add(collection, document, line)
    loader.flush()
    if not complete:
        reason = "it is empty" if number == 0 else f"it ends without its trailer, after {number} lines"
        raise StorageDamaged(
            f"the dump is incomplete: {reason}. {loader.summary()}; complete the file (dump --resume) and load it again"
        )
    storage.number_trials()
    return loader.result(tally)


def copy(source: ReadOnlyStorage, destination: Storage, *, progress: Progress | None = None) -> Loaded:
    """Store all documents of one storage in another one; nothing that is stored there is changed.

    Copying again goes on where an earlier run ended; see `load`.

    Args:
        source: what is read.
        destination: where to.
        progress: called with how many more documents are done.

    Raises:
        ConflictingArguments: both are the same storage.
    """
    if source.driver is destination.driver:
        raise ConflictingArguments("a storage cannot be copied to itself")
    loader = _Loader(_waist(destination), progress)
    tally = _Tally()
    waist = _waist(source)
    for collection in COLLECTIONS:
        for page in _pages(waist, collection):
            for document, line in page:
                tally.add(collection.name, line)
                loader.add(collection, document, line)
            loader.flush()
    return loader.result(tally)


class _Loader:
    """Inserts documents in batches, and tells those that are stored already from conflicts."""

    def __init__(self, waist: Waist, progress: Progress | None) -> None:
        self._waist = waist
        self._progress = progress
        self._collection: Collection | None = None
        self._batch: list[tuple[Document, bytes]] = []
        self._bytes = 0
        self._inserted: dict[str, int] = {}
        self._present = 0
        self._conflicting = 0
        self._conflicts: list[Conflict] = []
        self.numbered = True
        """Whether what is loaded has numbers; otherwise those that trials have got since make no conflict."""

    def add(self, collection: Collection, document: Document, line: bytes) -> None:
        if collection is not self._collection:
            self.flush()
            self._collection = collection
        body: dict[str, Plain] = {field.name: None for field in collection.fields}
        self._batch.append((Document(document.id, {**body, **document.body}), line))
        self._bytes += len(line)
        if len(self._batch) >= _LARGEST_PAGE or self._bytes >= _PAGE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Store what was added."""
        if self._collection is None or not self._batch:
            return
        collection, batch = self._collection, self._batch
        self._batch, self._bytes = [], 0
        refused = self._waist.insert(collection, [document for document, _ in batch])
        stored = self._stored(collection, [batch[one.position][0] for one in refused])
        for one in refused:
            document, line = batch[one.position]
            if stored.get(document.id) == line or (collection is COUNTERS and self._count_on(document)):
                self._present += 1
            elif document.id in stored:
                self._conflict(collection, document, "another document with this id is stored")
            else:
                named = ", ".join(f"{name} {document.body.get(name)!r}" for name in one.key)
                self._conflict(collection, document, f"another document with the same {named} is stored")
        if inserted := len(batch) - len(refused):
            self._inserted[collection.name] = self._inserted.get(collection.name, 0) + inserted
        if self._progress is not None:
            self._progress(len(batch))

    def _count_on(self, counter: Document) -> bool:
        """Let a counter that is stored already go on where the further one of the two is."""
        value = cast("int", counter.body["value"])
        self._waist.patch_one(COUNTERS, counter.id, (Comparison("value", "<", value),), {"value": value})
        return True

    def _stored(self, collection: Collection, given: list[Document]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        by_id = {one.id: one for one in given}
        identifiers = list(by_id)
        for start in range(0, len(identifiers), IN_LIMIT):
            among = Comparison("id", "in", tuple(identifiers[start : start + IN_LIMIT]))
            for one in self._waist.find(collection, (among,)):
                if collection is TRIALS and not self.numbered:
                    one.body |= {"number": None, "write": by_id[one.id].body.get("write")}
                found[one.id] = _canonical(collection, one)
        return found

    def _conflict(self, collection: Collection, document: Document, reason: str) -> None:
        self._conflicting += 1
        if len(self._conflicts) < _NAMED_CONFLICTS:
            self._conflicts.append(Conflict(collection=collection.name, id=document.id, reason=reason))

    def summary(self) -> str:
        return f"{sum(self._inserted.values())} documents were stored, {self._present} were there already"

    def result(self, tally: _Tally) -> Loaded:
        return Loaded(
            inserted=self._inserted,
            present=self._present,
            conflicting=self._conflicting,
            conflicts=tuple(self._conflicts),
            digest=tally.digest,
        )


# Lines


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
_SUSPICIOUS = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|[0-9]{19}|[eE]\+?[0-9]{3}")
"""What a line contains that may hold a value which databases do not keep; few lines do, so few are looked through."""


def _check_plain(value: object) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_plain(name)
            _check_plain(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner)
    elif isinstance(value, str):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"a text holds NUL or a lone surrogate: {value!r:.60}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number is too large for a float")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"an integer has more than 64 bits: {value!r:.60}")


def _parse(line: bytes, number: int) -> dict[str, Plain]:
    try:
        entry = _decoder.decode(line.decode())
        if _SUSPICIOUS.search(line):
            _check_plain(entry)
    except (ValueError, RecursionError) as error:
        raise StorageDamaged(f"line {number} of the dump cannot be read: {error}") from None
    if not isinstance(entry, dict):
        raise StorageDamaged(f"line {number} of the dump is not an object: {line[:60]!r}")
    return entry


def _check_header(line: bytes, *, same: bool = False) -> int:
    """The version of the schema that a dump was written with."""
    try:
        header = _parse(line, 1)
    except StorageDamaged:
        header = {}
    version, schema = header.get("format"), header.get("schema")
    if (
        "dump" not in (header.get("moorage"), header.get(_FORMER_NAME))
        or not isinstance(version, int)
        or not isinstance(schema, int)
    ):
        raise StorageDamaged("this is not a dump: its first line is no header of one")
    if version > FORMAT or schema > SCHEMA.version:
        raise SchemaMismatch(
            f"this dump was written by a newer Moorage (format {version}, schema {schema}); this release reads format "
            f"{FORMAT} and schema {SCHEMA.version}: upgrade Moorage",
            stored=schema,
            supported=SCHEMA.version,
        )
    if same and (version, schema) != (FORMAT, SCHEMA.version):
        raise SchemaMismatch(
            f"this dump was begun by an older Moorage (format {version}, schema {schema}) and cannot be continued; "
            "write a new one",
            stored=schema,
            supported=SCHEMA.version,
        )
    return schema


def _check_trailer(entry: Mapping[str, Plain], tally: _Tally) -> None:
    if entry.get("counts") != tally.counts or entry.get("digest") != tally.digest:
        raise StorageDamaged(
            f"the dump is damaged: its trailer tells of {entry.get('counts')} with the digest {entry.get('digest')}, "
            f"and it holds {tally.counts} with {tally.digest}"
        )


def _document(entry: Mapping[str, Plain], number: int) -> tuple[Collection, Document]:
    name, identifier, body = entry.get("collection"), entry.get("id"), entry.get("body")
    collection = _BY_NAME.get(name) if isinstance(name, str) else None
    if collection is None:
        raise StorageDamaged(f"line {number} of the dump names an unknown collection: {name!r:.80}")
    if not isinstance(identifier, str) or not 0 < len(identifier) <= _ID_LIMIT or not isinstance(body, dict):
        raise StorageDamaged(f"line {number} of the dump is no document: it needs an id and a body")
    return collection, Document(identifier, body)
