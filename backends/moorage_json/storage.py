"""The file and its journal, as a storage of tinydb that many processes may use at once and that no crash damages.

``runs.json`` is the *snapshot*: whole, readable, and only ever replaced by a complete new one. While the storage is in
use, ``runs.json-journal`` stands beside it, to which each write appends one record; from time to time it is *folded*:
a new snapshot takes its place, and an empty journal. Both carry a generation, so that whatever a crash leaves is told
apart: a journal belongs to the snapshot of its own generation, and one that is older by one is in the snapshot already.

Who writes holds an advisory lock (``flock``) on the journal. Who has the storage open for writing holds another one,
shared, on ``runs.json-lock``; whoever can have that alone is the last, folds the journal, and removes both files. The
kernel frees the locks of a process that dies. (The library filelock opens and closes its file for each lock, which
takes 0.1 ms, asks again only every 50 ms, and cannot let go of what a forked child has inherited.)
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from tinydb.storages import Storage

from moorage.errors import (
    ConfigurationError,
    MoorageError,
    OutcomeUnknown,
    StorageDamaged,
    StorageFull,
    StorageReadOnly,
    Unavailable,
)
from moorage_json import journal, snapshot
from moorage_json.snapshot import HEAD, Snapshot, Stored

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from moorage.codec import Plain

Change: TypeAlias = "tuple[str, Stored | str]"
"""The name of a table, with a document as it is now, or with the id of one that is gone."""

_WAIT = (0.0003, 0.0006)
"""Seconds between two attempts to get a lock: so short that nobody starves, whoever asks again at once."""
_PATIENCE = 40
"""How often a reader without a lock looks again while others fold."""
_SMALLEST_FOLD = 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_WRONG_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

_Identity: TypeAlias = "tuple[int, ...]"
"""Which snapshot it is: its inode, size, and time of change."""


class _Unsettled(StorageDamaged):
    """What is damage, unless somebody folds the journal in this moment."""


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
        if fcntl is None:
            raise ConfigurationError("the JSON file backend needs flock, which Windows lacks; use sqlite:///hpo.db")
        super().__init__()
        self.path = os.fspath(path)
        self.durable = durable
        self.busy_timeout = busy_timeout
        self.read_only = read_only
        self.generation = 0
        self._journal = f"{self.path}-journal"
        self._presence_path = f"{self.path}-lock"
        self._presence: int | None = None
        self._entering = threading.Lock()
        self._is_alone = False
        self._locked = False
        self._lock: int | None = None
        self._file: int | None = None
        self.forget()

    def forget(self) -> None:
        """Let `news` say that all must be loaded again."""
        if self._file is not None:
            os.close(self._file)
        self._file = None
        self._snapshot: _Identity | None = None
        self._inode: int | None = None
        self._end, self._number, self._checksum = 0, 0, b""
        self._fold_at = _SMALLEST_FOLD

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
            self.fold(head, ((name, many.items()) for name, many in tables.items()), is_rewritten=True)

    def close(self) -> None:
        """Let go of the files; whoever is the last removes the lock, and the journal where it has been folded."""
        with contextlib.suppress(OSError, MoorageError):
            if self.is_last():
                beside = [f"{self.path}-new", f"{self._journal}-new", self._presence_path]
                if self.news() == [] and not self.has_records:
                    beside.insert(0, self._journal)
                for path in beside:
                    Path(path).unlink(missing_ok=True)
        self.forget()
        self.release()

    def release(self) -> None:
        """Close the files that locks are held on; those that a parent process holds stay locked."""
        self._locked = False
        for file in (self._lock, self._presence):
            if file is not None:
                os.close(file)
        self._lock = self._presence = None
        self._entering = threading.Lock()
        self._is_alone = False

    # What there is

    def load(self) -> tuple[Snapshot, list[Change]] | None:
        """All that is stored: the snapshot, and the changes since; None where there is nothing. Then `news` goes on.

        Raises:
            StorageDamaged: something is there that was never written like that.
        """
        with self._explained():
            self._enter()
            for left in reversed(range(_PATIENCE)):
                try:
                    return self._load()
                except _Unsettled as error:
                    if self._locked or not left:
                        raise StorageDamaged(str(error)) from None
                    time.sleep(random.uniform(*_WAIT) * (_PATIENCE - left))
        raise AssertionError

    def _load(self) -> tuple[Snapshot, list[Change]] | None:
        self.forget()
        head: Stored | None = None
        if (file := self._open(self._journal)) is not None:
            self._file, self._inode = file, os.fstat(file).st_ino
            records = self._read_journal(file)
            head = cast("Stored", records.pop(0)) if records else None
        if (file := self._open(self.path)) is None:
            if head is not None:
                raise _Unsettled(
                    f"{self.path} is gone, and {self._journal} is there: restore the one, or remove the other as well"
                )
            return None
        try:
            status = os.fstat(file)
            data = _read(file, 0, status.st_size)
        finally:
            os.close(file)
        content = snapshot.parse(data, self.path)
        generation = cast("int", content.head["generation"])
        if head is None or head["generation"] == generation - 1:  # what was folded already
            records = []
            self._leave_journal()
        elif head["generation"] != generation:
            raise _Unsettled(
                f"{self.path} is of generation {generation}, and {self._journal} of {head['generation']}: one of them "
                "comes from a copy. Put back the one that belongs to the other, or remove the journal to use the file "
                "without what was written last"
            )
        self.generation = generation
        self._snapshot = _identity(status)
        self._set_fold_limit(status.st_size)
        return content, _changes(records)

    def news(self) -> list[Change] | None:
        """What was written since the last `load` or `news`; None where all must be loaded again.

        Without the lock this is what was acknowledged when the call began, or more.
        """
        with self._explained():
            self._enter()
            if self._snapshot is None:
                return None
            found: list[Change] = []
            while True:
                now = _inode(self._journal)
                if self._file is not None:
                    try:
                        found += _changes(self._read_journal(self._file))
                    except _Unsettled:  # or a write that failed was undone; `load` will tell
                        return None
                if now == self._inode:
                    # Under the lock it shows whether a crash came in the way of a fold, or somebody edited the file.
                    return None if self._locked and self._which() != self._snapshot else found
                if now is None or not self._follow():
                    return None

    def _read_journal(self, file: int) -> list[Plain]:
        """The records that are new."""
        known = len(self._checksum)
        data = _read(file, self._end - known, os.fstat(file).st_size)
        if known and data[:known] != self._checksum:
            raise _Unsettled(f"{self._journal}: a record was taken back")
        records, length = journal.unpack(data[known:], self._number)
        rest = data[known + length :]
        if rest and not journal.is_cut_off(rest):
            raise _Unsettled(
                f"{self._journal} is damaged at byte {self._end + length}, behind {self._number + len(records)} good "
                "records: restore it from a backup, or remove it to use the file without what was written last"
            )
        if length:
            self._step(length, len(records), data[known + length - journal.CHECKSUM : known + length])
        return records

    def _step(self, length: int, count: int, checksum: bytes) -> None:
        self._end += length
        self._number += count
        self._checksum = checksum

    def _leave_journal(self) -> None:
        """Read no more of the journal that is there: it holds nothing that the snapshot has not."""
        if self._file is not None:
            os.close(self._file)
        self._file = None
        self._end, self._number, self._checksum = 0, 0, b""

    def _follow(self) -> bool:
        """Go on with the journal that has taken the place of the one read so far; whether it continues that one."""
        file = self._open(self._journal)
        if file is None:
            return False
        expected = self.generation + (self._file is not None)
        self._leave_journal()
        self._file = file
        self._inode = os.fstat(file).st_ino
        # Whatever follows the head is read next.
        data = _read(file, 0, 4096)
        records, length = journal.unpack(data[: data.find(b"\n") + 1], 0)
        if not records:
            if data:
                return False
            self._leave_journal()  # one that was created to lock it
            return expected == self.generation
        head = cast("Stored", records[0])
        if head["generation"] != expected or head["rewritten"]:
            return False
        self._step(length, 1, data[length - journal.CHECKSUM : length])
        self.generation = expected
        identity = cast("list[int]", head["snapshot"])
        self._snapshot = tuple(identity)
        self._set_fold_limit(identity[1])
        return True

    # Writing

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other writers out, in this process and in others.

        Raises:
            Unavailable: another one has kept the lock for longer than ``busy_timeout``.
        """
        try:
            with self._explained():
                self._enter()
                deadline = time.monotonic() + self.busy_timeout
                while True:
                    if self._lock is None:
                        self._lock = os.open(self._journal, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, self._mode())
                    self._wait_for(self._lock, fcntl.LOCK_EX, deadline)
                    if os.fstat(self._lock).st_ino == _inode(self._journal):
                        break
                    os.close(self._lock)
                    self._lock = None
            self._locked = True
            yield
        finally:
            self._locked = False
            if self._lock is not None:
                with contextlib.suppress(OSError):
                    fcntl.flock(self._lock, fcntl.LOCK_UN)

    def append(self, changes: Sequence[Change]) -> None:
        """Write changes as one record, all or nothing. Only where locked, and after `news`.

        Raises:
            StorageFull: there is no room; nothing was written.
            OutcomeUnknown: the disk failed.
        """
        if not self._locked or self._lock is None:
            raise Unavailable(
                f"{self.path}: this process was forked in the middle of a write, which its parent goes on with"
            )
        if self._file is None:
            with self._explained(writing=True):
                self._start_journal(self._begin_journal(self.generation, cast("_Identity", self._snapshot)))
                self._flush_folder()
            if self.news() != []:
                raise AssertionError
        record = journal.pack(self._number, [list(change) for change in changes])
        with self._explained(writing=True):
            if os.fstat(self._lock).st_size > self._end:
                os.ftruncate(self._lock, self._end)
            try:
                done = 0
                while done < len(record):
                    done += os.pwrite(self._lock, record[done:], self._end + done)
                if self.durable:
                    _flush(self._lock)
            except OSError:
                # Others may have seen it, and see at their next look that it is gone.
                try:
                    os.ftruncate(self._lock, self._end)
                except OSError as error:
                    self.forget()
                    raise OutcomeUnknown(f"{self._journal}: {error.strerror}") from error
                raise
        self._step(len(record), 1, record[-journal.CHECKSUM :])

    @property
    def is_due(self) -> bool:
        """Whether the journal is so long that folding it costs each of its records next to nothing."""
        return self._end > self._fold_at

    @property
    def has_records(self) -> bool:
        """Whether the journal holds anything that the snapshot lacks."""
        return self._number > 1

    def fold(
        self,
        head: Mapping[str, Plain],
        tables: Iterable[tuple[str, Iterable[tuple[str, Stored]]]],
        *,
        is_last: bool = False,
        is_rewritten: bool = False,
    ) -> None:
        """Replace the snapshot, and begin a new journal. Only where locked.

        Args:
            head: what the storage must know of itself.
            tables: all documents, by table and number, in the order in which they are to be written.
            is_last: remove the journal instead.
            is_rewritten: whether the tables are others than the snapshot and its journal tell, so that all must read
                them again.

        Raises:
            StorageFull: there is no room; all is as before.
        """
        self._fold_at = 2 * max(self._end, self._fold_at)  # where this fails, it is not tried again too soon
        generation = self.generation + 1
        beside = f"{self.path}-new"
        beginning: int | None = None
        with self._explained(writing=True):
            try:
                file = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, self._mode())
                try:
                    os.fchmod(file, self._mode(of=file))
                    snapshot.write(file, {"generation": generation, **_without(head, "generation")}, tables)
                    os.fsync(file)
                    status = os.fstat(file)
                finally:
                    os.close(file)
                if not is_last:
                    beginning = self._begin_journal(generation, _identity(status), is_rewritten=is_rewritten)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(beside).unlink()
                raise
            self.forget()
            Path(beside).replace(self.path)
            self._flush_folder()
            if beginning is not None:
                self._start_journal(beginning)
            else:
                Path(self._journal).unlink(missing_ok=True)
            self._flush_folder()
        if is_rewritten:
            return
        self.generation = generation
        self._snapshot = _identity(status)
        self._set_fold_limit(status.st_size)
        if self.news() != []:
            raise AssertionError

    def _begin_journal(self, generation: int, identity: _Identity, *, is_rewritten: bool = False) -> int:
        """A journal of nothing but its head, beside the one that is there, and locked."""
        file = os.open(f"{self._journal}-new", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, self._mode())
        try:
            os.fchmod(file, self._mode(of=file))
            head: Stored = {"journal": 1, "generation": generation, "snapshot": list(identity)}
            snapshot.write_all(file, journal.pack(0, {**head, "rewritten": is_rewritten}))
            os.fsync(file)
            self._wait_for(file, fcntl.LOCK_EX, 0)
        except BaseException:
            os.close(file)
            raise
        return file

    def _start_journal(self, file: int) -> None:
        before, self._lock = self._lock, file
        try:
            Path(f"{self._journal}-new").replace(self._journal)
        finally:
            if before is not None:
                os.close(before)

    # Being there

    def _enter(self) -> None:
        """Be one of those who have the storage open, so that nobody takes the journal away."""
        if self._presence is None and not self.read_only:
            with self._entering:
                if self._presence is None:
                    self._presence = self._take_presence()

    def _take_presence(self) -> int:
        deadline = time.monotonic() + self.busy_timeout
        while True:
            file = os.open(self._presence_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, self._mode())
            try:
                self._wait_for(file, fcntl.LOCK_SH, deadline)
            except BaseException:
                os.close(file)
                raise
            if os.fstat(file).st_ino == _inode(self._presence_path):
                return file
            os.close(file)

    def is_last(self) -> bool:
        """Whether nobody else has the storage open; then nobody can open it until `close`. Call it only to close."""
        if self._presence is None or self._is_alone:
            return self._is_alone
        try:
            fcntl.flock(self._presence, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        self._is_alone = True
        return True

    # Files

    def _wait_for(self, file: int, how: int, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(file, how | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Unavailable(
                        f"{self.path}: another process has held the write lock for {self.busy_timeout:g} s; is one "
                        "stopped in the middle of a write?"
                    ) from None
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    raise ConfigurationError(
                        f"{self.path}: its file system has no locks ({error.strerror}); use a local disk"
                    ) from error
                raise
            else:
                return
            time.sleep(random.uniform(*_WAIT))

    def _set_fold_limit(self, size: int) -> None:
        self._fold_at = max(_SMALLEST_FOLD, size)

    def _mode(self, of: int | None = None) -> int:
        """The permissions of the snapshot; where there is none, those of a new file."""
        try:
            return Path(self.path).stat().st_mode & 0o666
        except OSError:
            return 0o666 if of is None else os.fstat(of).st_mode & 0o777

    def _open(self, path: str) -> int | None:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None

    def _which(self) -> _Identity | None:
        try:
            return _identity(os.stat(self.path))  # noqa: PTH116  (on the way of every write)
        except FileNotFoundError:
            return None

    def _flush_folder(self) -> None:
        folder = os.open(Path(self.path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _explained(self, *, writing: bool = False) -> Iterator[None]:
        """Say what an error of the operating system means."""
        try:
            yield
        except MoorageError:
            raise
        except OSError as error:
            raise self._explain(error, writing=writing) from error

    def _explain(self, error: OSError, *, writing: bool) -> MoorageError:
        said = f"{self.path}: {error.strerror}"
        if error.errno in _FULL:
            return StorageFull(error.errno, f"{said}: the disk or the quota is full")
        if error.errno in _DENIED:
            return StorageReadOnly(
                f"{said}: this user may not {'read it' if self.read_only else 'write it, or not in its folder'}"
            )
        if error.errno in _WRONG_PATH:
            folder = Path(self.path).parent
            if not folder.is_dir():
                return ConfigurationError(f"{self.path}: there is no folder {str(folder)!r}; create it first")
            return ConfigurationError(f"{said}; name another file")
        return OutcomeUnknown(said) if writing else Unavailable(said)


def _identity(status: os.stat_result) -> _Identity:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino  # noqa: PTH116  (on the way of every call)
    except FileNotFoundError:
        return None


def _read(file: int, start: int, end: int) -> bytes:
    parts: list[bytes] = []
    while start < end and (part := os.pread(file, end - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def _flush(file: int) -> None:
    # What changes besides the data and the length is of no use after a power failure.
    getattr(os, "fdatasync", os.fsync)(file)


def _changes(records: Sequence[Plain]) -> list[Change]:
    return [cast("Change", tuple(change)) for record in cast("list[list[list[Plain]]]", records) for change in record]


def _without(head: Mapping[str, Plain], name: str) -> Stored:
    return {key: value for key, value in head.items() if key != name}
