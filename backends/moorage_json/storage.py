"""The file and its journal, as a storage of tinydb that many processes may use at once and that no crash damages.

The *snapshot* is whole, readable, and only ever replaced by a complete new one. While the storage is in use, its
*journal* stands beside it, to which each write appends one record. Records are numbered for as long as the storage
lives. From time to time the journal is *folded*: a new snapshot is written, while others go on writing, and then put
into its place together with a journal of what was written meanwhile. The snapshot says up to which record of which
journal it holds everything, and a journal which one it continues, so that whatever a crash or a copy leaves is told
apart.

With ``durable=False`` a power failure may leave any part of the journal unwritten, also one before others. Who writes
like that says so in the journal first, where the disk has it; then what comes after such a hole counts as lost, and
elsewhere it is damage.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import attrs
from tinydb.storages import Storage

from moorage.errors import MoorageError, OutcomeUnknown, Unavailable
from moorage_json import disk, journal, snapshot
from moorage_json.place import Place
from moorage_json.reading import MARK, Reader
from moorage_json.snapshot import HEAD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from moorage.codec import Plain
    from moorage_json.disk import Identity
    from moorage_json.reading import Change, Reading
    from moorage_json.snapshot import Snapshot, Stored

Tables: TypeAlias = "Iterable[tuple[str, Iterable[tuple[str, Stored]]]]"
"""All documents, by table and number, in the order in which they are to be written."""

logger = logging.getLogger("moorage")

FAR_BEHIND = 2**16
"""How many bytes of the journal may be read while others wait."""
_FORMAT = 2
_PARTING = 5.0
"""Seconds to wait for the lock when a snapshot has been written: without it, the fold was in vain."""
_URGENT = 4
"""How many times longer than usual the journal gets before a fold that somebody has begun is taken over."""


class JournalStorage(Storage):
    """One storage, open; `tinydb.TinyDB` takes the class, and a driver its methods.

    It is not safe for several threads at once, except for those that wait in `locked`.

    Args:
        path: of the snapshot.
        durable: whether a write is flushed to the disk before it is acknowledged.
        busy_timeout: how long to wait for a lock, in seconds.
        read_only: change and create nothing.
    """

    def __init__(self, path: str, *, durable: bool = True, busy_timeout: float = 60.0, read_only: bool = False) -> None:
        super().__init__()
        self.path = os.fspath(path)
        self.durable = durable
        self._place = Place(self.path, busy_timeout=busy_timeout, read_only=read_only)
        self._reader = Reader(self._place)
        self._beside: int | None = None

    def load(self) -> tuple[Snapshot, list[Change]] | None:
        """See `Reader.load`."""
        return self._reader.load()

    def news(self, limit: int | None = None) -> list[Change] | None:
        """See `Reader.news`."""
        return self._reader.news(limit)

    def forget(self) -> None:
        """See `Reader.forget`."""
        self._reader.forget()

    # As tinydb calls it

    def read(self) -> dict[str, dict[str, Any]] | None:
        """All tables with all that was acknowledged: by name, and then by number; None where there is no file."""
        found = self.load()
        if found is None:
            return None
        content, changes = found
        numbers = {
            name: {document.get("id"): number for number, document in documents.items()}
            for name, documents in content.tables.items()
        }
        for name, change in changes:
            documents, known = content.tables.setdefault(name, {}), numbers.setdefault(name, {})
            if isinstance(change, str):
                documents.pop(known.pop(change, ""), None)
            else:
                number = known.setdefault(change["id"], str(max(map(int, known.values()), default=0) + 1))
                documents[number] = change
        return {HEAD: {"1": content.head}, **content.tables}

    def write(self, data: Mapping[str, Mapping[Any, Mapping[str, Any]]]) -> None:
        """Replace all tables.

        Raises:
            Unavailable: others have changed something since this storage was last read; read it again.
        """
        tables = {name: {str(number): dict(one) for number, one in many.items()} for name, many in data.items()}
        head = tables.pop(HEAD, {}).get("1", {})
        with self.locked():
            if self.news() != [] and Path(self.path).exists():
                self.forget()
                raise Unavailable(f"{self.path} was changed since it was read; read it again")
            self.rewrite(head, ((name, many.items()) for name, many in tables.items()))

    def close(self) -> None:
        """Let go of the files; whoever is the last removes the lock, and the journal where it has been folded."""
        with contextlib.suppress(OSError, MoorageError):
            if self._place.is_last():
                is_folded = self.news() == [] and not self.has_records
                self._place.remove(*([self._place.journal] if is_folded else []))
        self.forget()
        self.release()

    def release(self) -> None:
        """Close the files that locks are held on; those that a parent process holds stay locked."""
        if self._beside is not None:
            os.close(self._beside)
            self._beside = None
        self._place.leave()

    def is_last(self) -> bool:
        """Whether nobody else has the storage open; then nobody can open it until `close`. Call it only to close."""
        return self._place.is_last()

    # Writing

    def locked(self, timeout: float | None = None) -> AbstractContextManager[None]:
        """Keep all other writers out, in this process and in others.

        Args:
            timeout: how long to wait, in seconds; ``busy_timeout`` where it is None.

        Raises:
            Unavailable: another one has kept the lock for longer.
        """
        return self._place.locked(timeout)

    def append(self, changes: Sequence[Change]) -> None:
        """Write changes as one record, all or nothing. Only where locked, and after `news`.

        Raises:
            StorageFull: there is no room; nothing was written.
            OutcomeUnknown: the disk failed, or the file was replaced meanwhile.
        """
        if not self._place.is_locked:
            raise Unavailable(
                f"{self.path}: this process was forked in the middle of a write, which its parent goes on with"
            )
        with self._place.explained(writing=True):
            if self._reader.reading is None or self._reader.reading.is_idle:
                self._start_journal()
            reading, lock = cast("Reading", self._reader.reading), cast("int", self._place.lock)
            if self._reader.lost:
                self._keep_damaged()
            if not self.durable and not reading.may_have_holes:
                self._write(reading, lock, MARK, durable=True)
                reading.may_have_holes = True
            self._write(reading, lock, [list(change) for change in changes], durable=self.durable)
            if not self._place.is_journal(lock) or self._place.which() != self._reader.known.snapshot:
                self.forget()
                raise OutcomeUnknown(f"{self.path}: the file, or its journal, was replaced while it was written to")
            self._reader.meet()

    def _write(self, reading: Reading, lock: int, content: Plain, *, durable: bool) -> None:
        record = journal.pack(self._reader.known.position + 1, content)
        if os.fstat(lock).st_size > reading.end:
            os.ftruncate(lock, reading.end)
        try:
            disk.write(lock, record, reading.end)
            if durable:
                disk.flush(lock)
        except OSError:
            # Others may have seen it, and see at their next look that it is gone.
            try:
                os.ftruncate(lock, reading.end)
            except OSError as error:
                self.forget()
                raise OutcomeUnknown(f"{self._place.journal}: {error.strerror}") from error
            raise
        reading.end += len(record)
        reading.checksum = record[-journal.CHECKSUM :]
        self._reader.known.position += 1

    def _start_journal(self) -> None:
        """A journal that continues the snapshot, in the place of one that does not, or was created to lock it."""
        known = self._reader.known
        file = self._new_journal(known.generation, cast("Identity", known.snapshot), known.folded, b"")
        self._place.replace_journal(file)
        self._place.flush_folder()
        if self.news() != []:
            raise AssertionError

    def _new_journal(self, generation: int, identity: Identity, position: int, tail: bytes) -> int:
        """A journal beside the one that is there, which continues a snapshot; open and locked."""
        known = self._reader.known
        head: Stored = {
            "journal": _FORMAT,
            "id": secrets.token_hex(8),
            "storage": known.storage,
            "after": known.basis,
            "generation": generation,
            "snapshot": list(identity),
            "fast": not self.durable,
        }
        file = self._place.create_locked(self._place.journal_beside)
        try:
            disk.write(file, journal.pack(position, head) + tail)
            os.fsync(file)
        except BaseException:
            os.close(file)
            raise
        return file

    def _keep_damaged(self) -> None:
        """Put the journal aside as it is, before what follows the damage is overwritten."""
        file = disk.create(self._place.damaged, self.path)
        try:
            disk.write(file, Path(self._place.journal).read_bytes())
            os.fsync(file)
        finally:
            os.close(file)
        logger.warning("the journal is kept as it was found: %s", self._place.damaged)
        self._reader.lost = ""

    # Folding

    @property
    def is_due(self) -> bool:
        """Whether the journal is so long that folding it costs each of its records next to nothing."""
        return self._reader.reading is not None and self._reader.reading.end > self._reader.fold_at

    @property
    def is_far_behind(self) -> bool:
        """Whether so much was written since the last look that nobody should wait while it is read."""
        reading = self._reader.reading
        return reading is None or os.fstat(reading.file).st_size > reading.end + FAR_BEHIND

    @property
    def has_records(self) -> bool:
        """Whether the journal holds anything that the snapshot lacks."""
        return self._reader.known.position > self._reader.known.folded

    def begin_fold(self) -> bool:
        """Get ready to `fold`, unless somebody else is about it. Only where locked, and after `news`."""
        with self._place.explained(writing=True):
            self._end_fold()
            reading = cast("Reading", self._reader.reading)
            if reading.end <= _URGENT * self._reader.fold_at and self._place.is_taken(self._place.beside):
                return False
            self._beside = self._place.create_locked(self._place.beside)
            return True

    def fold(self, head: Mapping[str, Plain], tables: Tables, apply: Callable[[Change], None]) -> None:
        """Replace the snapshot and its journal; others write meanwhile, and are held up for a moment at the end.

        Call it after `begin_fold`, without the lock, and with nothing read since.

        Args:
            head: what the storage must know of itself.
            tables: all documents as they are known here.
            apply: takes what others have written meanwhile.

        Raises:
            StorageFull: there is no room; all is as before.
        """
        reading = cast("Reading", self._reader.reading)
        self._reader.fold_at = 2 * max(
            reading.end, self._reader.fold_at
        )  # where this fails, it is not tried again too soon
        position, end = self._reader.known.position, reading.end
        with self._folding():
            status = self._write_snapshot(head, tables)
            with self.locked(_PARTING):
                news = self.news()
                if news is None:
                    self.forget()
                    return
                for change in news:
                    apply(change)
                if self._place.is_at(cast("int", self._beside), self._place.beside):
                    self._install(status, position, disk.read(reading.file, end, reading.end))

    def rewrite(self, head: Mapping[str, Plain], tables: Tables) -> None:
        """Replace the snapshot by what neither it nor the journal told; all read it again. Only where locked."""
        with self._folding():
            self._beside = self._place.create_locked(self._place.beside)
            known = self._reader.known = attrs.evolve(self._reader.known, basis=secrets.token_hex(8))
            known.storage = known.storage or secrets.token_hex(8)
            try:
                status = self._write_snapshot(head, tables)
                self._install(status, known.position, b"")
            except BaseException:
                self.forget()
                raise

    def fold_last(self, head: Mapping[str, Plain], tables: Tables) -> None:
        """Replace the snapshot, and leave no journal. Only where locked, after `news`, and by the last who is there."""
        with self._folding():
            self._beside = self._place.create_locked(self._place.beside)
            status = self._write_snapshot(head, tables)
            self._install(status, self._reader.known.position, None)

    @contextlib.contextmanager
    def _folding(self) -> Iterator[None]:
        with self._place.explained(writing=True):
            try:
                yield
            finally:
                self._end_fold()

    def _end_fold(self) -> None:
        """Let others fold; what was written beside and is not in its place is removed."""
        file, self._beside = self._beside, None
        if file is not None:
            with contextlib.suppress(OSError):
                if self._place.is_at(file, self._place.beside):
                    Path(self._place.beside).unlink()
            os.close(file)

    def _write_snapshot(self, head: Mapping[str, Plain], tables: Tables) -> os.stat_result:
        """Write beside the snapshot what is to take its place."""
        file, known = cast("int", self._beside), self._reader.known
        of_storage: Stored = {"storage": known.storage, "journal": known.basis, "records": known.position}
        others = {key: value for key, value in head.items() if key not in ("generation", *of_storage)}
        snapshot.write(file, {"generation": known.generation + 1, **others, **of_storage}, tables)
        os.fsync(file)
        return os.fstat(file)

    def _install(self, status: os.stat_result, position: int, tail: bytes | None) -> None:
        """Put the snapshot that was written beside into its place, and a journal that begins with a tail, or none."""
        identity, generation = disk.identity(status), self._reader.known.generation + 1
        if self._reader.lost:
            self._keep_damaged()
        file = None if tail is None else self._new_journal(generation, identity, position, tail)
        try:
            Path(self._place.beside).replace(self.path)
            self._place.flush_folder()
        except BaseException:
            if file is not None:
                os.close(file)
            raise
        if file is None:
            Path(self._place.journal).unlink(missing_ok=True)
        else:
            self._place.replace_journal(file)
        self._place.flush_folder()
        self._reader.known.snapshot = self._reader.known.snapshot or identity
        if file is not None and self.news() != []:
            self.forget()
