"""What is read of a snapshot and its journal, and how others who write and fold are followed."""

from __future__ import annotations

import logging
import os
import random
import time
from typing import TYPE_CHECKING, TypeAlias, cast

import attrs

from moorage.errors import StorageDamaged
from moorage_json import disk, journal, snapshot
from moorage_json.place import WAIT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moorage.codec import Plain
    from moorage_json.disk import Identity
    from moorage_json.place import Place
    from moorage_json.snapshot import Snapshot, Stored

Change: TypeAlias = "tuple[str, Stored | str]"
"""The name of a table, with a document as it is now, or with the id of one that is gone."""

logger = logging.getLogger("moorage")

MARK: Stored = {"fast": True}
"""The record after which parts of the journal may be lost in a power failure."""
_LONGEST_HEAD = 4096
_PATIENCE = 40
"""How often a reader without a lock looks again while others fold."""
_SMALLEST_FOLD = 2**20


class _Unsettled(StorageDamaged):
    """What is damage, unless somebody folds the journal in this moment."""


@attrs.define
class Known:
    """How far this process has read.

    Attributes:
        storage: the id of the storage; None where an older release wrote it.
        generation: of the snapshot; for people.
        position: the number of the last record.
        basis: the id of the journal that this record is in, or was.
        folded: up to which record the snapshot holds everything.
        snapshot: which file the snapshot is; None where nothing was read.
    """

    storage: str | None = None
    generation: int = 0
    position: int = 0
    basis: str | None = None
    folded: int = 0
    snapshot: Identity | None = None


@attrs.define
class Reading:
    """The journal that is being read. It stays open, so that no other file can have its number.

    Attributes:
        file: it, open.
        inode: its number.
        id: what it is called; None in one of an older release.
        after: what the one before was called.
        is_idle: whether nothing is in it that the snapshot has not, and nothing will be written to it.
        end: how many bytes were read.
        checksum: the last of them.
        may_have_holes: whether parts of it may be lost in a power failure.
    """

    file: int
    inode: int
    id: str | None = None
    after: str | None = None
    is_idle: bool = True
    end: int = 0
    checksum: bytes = b""
    may_have_holes: bool = False


@attrs.define
class _Met:
    """How far this process has seen the storage come, whatever is there now.

    Attributes:
        storage: its id.
        position: the number of the last record.
        unsure: the journal in which that was seen without the lock: who wrote it may have taken it back.
    """

    storage: str | None = None
    position: int = 0
    unsure: str | None = None


class Reader:
    """A storage, as far as this process has read it.

    It is not safe for several threads at once.

    Attributes:
        known: how far that is.
        reading: the journal.
        lost: what the last `load` had to leave out, for people.
        fold_at: how long the journal may be before folding it costs each of its records next to nothing, in bytes.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._path = place.path
        self.known = Known()
        self.reading: Reading | None = None
        self.lost = ""
        self.fold_at = _SMALLEST_FOLD
        self._met = _Met()

    def forget(self) -> None:
        """Let `news` say that all must be loaded again."""
        self._leave_journal()
        self.known = Known()
        self.fold_at = _SMALLEST_FOLD

    def load(self) -> tuple[Snapshot, list[Change]] | None:
        """All that is stored: the snapshot, and the changes since; None where there is nothing. Then `news` goes on.

        Raises:
            StorageDamaged: something is there that was never written like that, or that is not what this process read
                before.
        """
        with self._place.explained():
            self._place.enter()
            for left in reversed(range(_PATIENCE)):
                is_final = self._place.is_locked or not left
                try:
                    found = self._load(is_final=is_final)
                except _Unsettled as error:
                    if is_final:
                        raise StorageDamaged(str(error)) from None
                    time.sleep(random.uniform(*WAIT) * (_PATIENCE - left))
                else:
                    self._recognize()
                    if self.lost:
                        logger.warning("%s", self.lost)
                    return found
        raise AssertionError

    def _load(self, *, is_final: bool = False) -> tuple[Snapshot, list[Change]] | None:
        """As `load`; ``is_final`` where what looks like a hole in the journal will not be filled by anybody."""
        self.forget()
        self.lost = ""
        head = self._open_journal()
        file = disk.open_to_read(self._path)
        if file is None:
            if head:
                raise _Unsettled(
                    f"{self._path} is gone, and {self._place.journal} is there: restore the one, or remove the other "
                    "as well"
                )
            return None
        try:
            status = os.fstat(file)
            data = disk.read(file, 0, status.st_size)
        finally:
            os.close(file)
        content = snapshot.parse(data, self._path)
        self.known = _known(content.head, status)
        try:
            changes = self._continue(head, is_final=is_final)
        except BaseException:
            self.forget()
            raise
        self.fold_at = max(_SMALLEST_FOLD, status.st_size)
        return content, changes

    def _open_journal(self) -> Stored:
        """Begin to read the journal; what its head says, or nothing where it has none (yet)."""
        self._leave_journal()
        file = disk.open_to_read(self._place.journal)
        if file is None:
            return {}
        reading = self.reading = Reading(file, os.fstat(file).st_ino)
        data = disk.read(file, 0, _LONGEST_HEAD)
        found = journal.first(data)
        if found is None:
            if data and not journal.is_cut_off(data):
                raise _Unsettled(self._damaged(0, 0))
            return {}
        head, number, length = cast("tuple[Stored, int, int]", found)
        reading.id, reading.after = cast("str | None", head.get("id")), cast("str | None", head.get("after"))
        reading.is_idle = False
        reading.end, reading.checksum = length, data[length - journal.CHECKSUM : length]
        reading.may_have_holes = head.get("fast") is True
        return {**head, "position": number}

    def _leave_journal(self) -> None:
        if self.reading is not None:
            os.close(self.reading.file)
            self.reading = None

    def _continue(self, head: Stored, *, is_final: bool) -> list[Change]:
        """The changes in the journal with this head that the snapshot, which was just read, has not."""
        known, reading = self.known, self.reading
        if not head or reading is None:  # one that was created to lock it
            known.position = known.folded
            return []
        if head.get("journal") == 1:
            is_ours = head["generation"] == known.generation
            reading.is_idle = head["generation"] == known.generation - 1
        else:
            is_ours = head["storage"] == known.storage and (
                head["id"] == known.basis or (head["after"], head["position"]) == (known.basis, known.folded)
            )
        if not is_ours and not reading.is_idle:
            raise _Unsettled(
                f"{self._path} (generation {known.generation}) and {self._place.journal} (generation "
                f"{head['generation']}) do not belong together: one of them comes from a copy. Put back the one that "
                "belongs to the other, or remove the journal to use the file without what was written last"
            )
        known.position = known.folded if reading.is_idle else cast("int", head["position"])
        changes = self._read_on(is_final=is_final, after=known.folded)
        if known.position < known.folded:  # its end did not survive a power failure, and is not needed
            reading.is_idle = True
            known.position = known.folded
        elif not reading.is_idle:
            known.basis = reading.id
        return changes

    def _recognize(self) -> None:
        """Whether what was loaded is what this process knows, and goes on from there."""
        met, known, reading = self._met, self.known, self.reading
        if known.snapshot is None:
            if met.storage is not None or met.position:
                raise StorageDamaged(f"{self._path} was deleted or moved away while it was in use")
            return
        if met.storage not in (None, known.storage):
            self.forget()
            raise StorageDamaged(
                f"{self._path} is another storage than before: it was replaced while it was in use. Put back the one "
                "that was there, or connect again to use this one"
            )
        missing = met.position - known.position
        if missing == 1 and met.unsure is not None and reading is not None:
            missing -= met.unsure in (reading.id, reading.after)
        if missing > 0:
            self.forget()
            raise StorageDamaged(
                f"{self._path} lacks {missing} write{'s' if missing > 1 else ''} that this process has seen: the file, "
                "or its journal, was removed or replaced by an older one while it was in use. Put it back, or connect "
                "again to go on without what is missing"
            )
        self._met = _Met(known.storage)
        self.meet()

    def meet(self) -> None:
        """Remember how far the storage has come."""
        known, met = self.known, self._met
        met.storage = known.storage
        if self._place.is_locked:
            met.position, met.unsure = known.position, None
        elif known.position > met.position:
            met.position, met.unsure = known.position, known.basis

    def news(self, limit: int | None = None) -> list[Change] | None:
        """What was written since the last `load` or `news`; None where all must be loaded again.

        Without the lock this is what was acknowledged when the call began, or more.

        Args:
            limit: None is returned as well where more bytes than these would have to be read.
        """
        with self._place.explained():
            self._place.enter()
            if self.known.snapshot is None:
                return None
            found: list[Change] = []
            while True:
                now = disk.inode(self._place.journal)
                reading = self.reading
                if reading is not None:
                    if limit is not None and os.fstat(reading.file).st_size - reading.end > limit:
                        return None
                    try:
                        found += self._read_on()
                    except _Unsettled:  # or a write that failed was undone; `load` will tell
                        return None
                if now == (None if reading is None else reading.inode):
                    if not self._is_in_place():
                        return None
                    self.meet()
                    return found
                if now is None or (followed := self._follow()) is None:
                    return None
                found += followed

    def _is_in_place(self) -> bool:
        """Whether the snapshot that stands at the path is the one that was read, or was made of what was read.

        The latter where somebody folds, or was killed over it.
        """
        if self._place.which() == self.known.snapshot:
            return True
        file = disk.open_to_read(self._path)
        if file is None:
            return False
        try:
            new = _known(snapshot.peek(file), os.fstat(file))
        finally:
            os.close(file)
        known = self.known
        if None in (new.storage, new.basis) or (new.storage, new.basis) != (known.storage, known.basis):
            return False
        if not known.folded <= new.folded <= known.position:
            return False
        known.folded, known.generation, known.snapshot = new.folded, new.generation, new.snapshot
        return True

    def _read_on(self, *, is_final: bool = False, after: int = 0) -> list[Change]:
        """The changes of the records that are new, without those up to a number."""
        reading = self.reading
        if reading is None or reading.is_idle:
            return []
        known = len(reading.checksum)
        data = disk.read(reading.file, reading.end - known, os.fstat(reading.file).st_size)
        if data[:known] != reading.checksum:
            raise _Unsettled(f"{self._place.journal}: a record was taken back")
        first = self.known.position + 1
        records, length = journal.unpack(data[known:], first)
        reading.may_have_holes = reading.may_have_holes or MARK in records
        rest = data[known + length :]
        if rest and not journal.is_cut_off(rest):
            said = self._damaged(reading.end + length, self.known.position + len(records))
            if not (is_final and reading.may_have_holes):
                raise _Unsettled(f"{said}: restore it from a backup, or remove it to use the file without it")
            self.lost = f"{said}, as by a power failure (durability=fast): what was written after them is lost"
        if length:
            reading.end += length
            reading.checksum = data[known + length - journal.CHECKSUM : known + length]
            self.known.position += len(records)
        return _changes(records[max(0, after + 1 - first) :])

    def _damaged(self, place: int, count: int) -> str:
        return f"{self._place.journal} is damaged at byte {place}, behind {count} good records"

    def _follow(self) -> list[Change] | None:
        """Go on with the journal that stands at its path now; None where it does not continue the one read so far."""
        before = self.known
        try:
            head = self._open_journal()
        except _Unsettled:
            return None
        reading = self.reading
        if not head or reading is None:  # one that was created to lock it
            return [] if before.position == before.folded else None
        position = cast("int", head["position"])
        continues = (head.get("storage"), head.get("after")) == (before.storage, before.basis)
        if before.basis is None or not continues or not before.folded <= position <= before.position:
            return None
        identity = cast("list[int]", head["snapshot"])
        self.known = Known(
            storage=before.storage,
            generation=cast("int", head["generation"]),
            position=position,
            basis=reading.id,
            folded=position,
            snapshot=tuple(identity),
        )
        try:
            changes = self._read_on(after=before.position)
        except _Unsettled:
            return None
        self.fold_at = max(_SMALLEST_FOLD, identity[1])
        return changes if self.known.position >= before.position else None


def _known(head: Mapping[str, Plain], status: os.stat_result) -> Known:
    """What the head of a snapshot says."""
    position = cast("int", head.get("records", 0))
    return Known(
        storage=cast("str | None", head.get("storage")),
        generation=cast("int", head.get("generation", 0)),
        position=position,
        basis=cast("str | None", head.get("journal")),
        folded=position,
        snapshot=disk.identity(status),
    )


def _changes(records: Sequence[Plain]) -> list[Change]:
    lists = (one for one in records if isinstance(one, list))
    return [cast("Change", tuple(cast("list[Plain]", change))) for record in lists for change in record]
