"""Where a storage is: its files, the locks on them, and what the errors of the operating system mean.

``runs.json`` is the snapshot, ``runs.json-journal`` the journal, on which whoever writes holds an advisory lock
(``flock``). Whoever has the storage open for writing holds another one, shared, on ``runs.json-lock``; whoever can have
that alone is the last. The kernel frees the locks of a process that dies. (The library filelock opens and closes its
file for each lock, which takes 0.1 ms, asks again only every 50 ms, and cannot let go of what a forked child has
inherited.)
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
from typing import TYPE_CHECKING

from moorage.errors import (
    ConfigurationError,
    MoorageError,
    OutcomeUnknown,
    StorageFull,
    StorageReadOnly,
    Unavailable,
)
from moorage_json import disk

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT = (0.0003, 0.0006)
"""Seconds between two attempts to get a lock: so short that nobody starves, whoever asks again at once."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_WRONG_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Place:
    """The files of one storage, and the locks that this process has on them.

    It is not safe for several threads at once, except for `locked`.

    Args:
        path: of the snapshot.
        busy_timeout: how long to wait for a lock, in seconds.
        read_only: change and create nothing.

    Attributes:
        lock: the journal, open to be written, while this process has its lock, and afterwards.
        is_locked: whether this process has the lock.
    """

    def __init__(self, path: str, *, busy_timeout: float, read_only: bool) -> None:
        if fcntl is None:
            raise ConfigurationError("the JSON file backend needs flock, which Windows lacks; use sqlite:///hpo.db")
        self.path = path
        self.journal = f"{path}-journal"
        self.beside = f"{path}-new"
        self.journal_beside = f"{path}-journal-new"
        self.damaged = f"{path}-journal-damaged"
        self._presence_path = f"{path}-lock"
        self.busy_timeout = busy_timeout
        self.read_only = read_only
        self.lock: int | None = None
        self.is_locked = False
        self._presence: int | None = None
        self._is_alone = False
        self._entering = threading.Lock()

    # The write lock

    @contextlib.contextmanager
    def locked(self, timeout: float | None = None) -> Iterator[None]:
        """Keep all other writers out, in this process and in others.

        Args:
            timeout: how long to wait, in seconds; ``busy_timeout`` where it is None.

        Raises:
            Unavailable: another one has kept the lock for longer.
        """
        try:
            with self.explained():
                self.enter()
                deadline = time.monotonic() + (self.busy_timeout if timeout is None else timeout)
                while True:
                    if self.lock is None:
                        self.lock = self.open_shared(self.journal)
                    self._wait_for(self.lock, fcntl.LOCK_EX, deadline)
                    if self.is_journal(self.lock):
                        break
                    os.close(self.lock)
                    self.lock = None
            self.is_locked = True
            yield
        finally:
            self.is_locked = False
            if self.lock is not None:
                with contextlib.suppress(OSError):
                    fcntl.flock(self.lock, fcntl.LOCK_UN)

    def is_journal(self, file: int) -> bool:
        """Whether an open file is the journal that stands at its path."""
        return self.is_at(file, self.journal)

    @staticmethod
    def is_at(file: int, path: str) -> bool:
        """Whether an open file is the one that stands at a path."""
        return os.fstat(file).st_ino == disk.inode(path)

    def replace_journal(self, file: int) -> None:
        """Put the file beside the journal, which is open and locked here, into its place."""
        before, self.lock = self.lock, file
        try:
            Path(self.journal_beside).replace(self.journal)
        finally:
            if before is not None:
                os.close(before)

    def create_locked(self, path: str) -> int:
        """A new file, owned as the snapshot is, and locked.

        Raises:
            BlockingIOError: another process has locked it meanwhile.
        """
        file = disk.create(path, self.path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(file)
            raise
        return file

    def is_taken(self, path: str) -> bool:
        """Whether somebody has a lock on the file at a path."""
        file = disk.open_to_read(path)
        if file is None:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    # Being there

    def enter(self) -> None:
        """Be one of those who have the storage open, so that nobody takes the journal away."""
        if self._presence is None and not self.read_only:
            with self._entering:
                if self._presence is None:
                    self._presence = self._take_presence()

    def _take_presence(self) -> int:
        deadline = time.monotonic() + self.busy_timeout
        while True:
            file = self.open_shared(self._presence_path)
            try:
                self._wait_for(file, fcntl.LOCK_SH, deadline)
            except BaseException:
                os.close(file)
                raise
            if os.fstat(file).st_ino == disk.inode(self._presence_path):
                return file
            os.close(file)

    def is_last(self) -> bool:
        """Whether nobody else has the storage open; then nobody can open it until `leave`. Call it only to close."""
        if self._presence is None or self._is_alone:
            return self._is_alone
        try:
            fcntl.flock(self._presence, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        self._is_alone = True
        return True

    def remove(self, *paths: str) -> None:
        """Remove files that belong to nobody any more, and the lock; only where alone."""
        for path in (*paths, self.beside, self.journal_beside, self._presence_path):
            Path(path).unlink(missing_ok=True)

    def leave(self) -> None:
        """Close the files that locks are held on; those that a parent process holds stay locked."""
        self.is_locked = False
        for file in (self.lock, self._presence):
            if file is not None:
                os.close(file)
        self.lock = self._presence = None
        self._entering = threading.Lock()
        self._is_alone = False

    # Files

    def open_shared(self, path: str) -> int:
        """A file that all writers share, which is created where it is missing."""
        return disk.create_if_missing(path, self.path)

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
            time.sleep(random.uniform(*WAIT))

    def which(self) -> disk.Identity | None:
        """Which snapshot stands at the path; None where there is none."""
        try:
            return disk.identity(os.stat(self.path))  # noqa: PTH116  (on the way of every call)
        except FileNotFoundError:
            return None

    def flush_folder(self) -> None:
        """Have the disk keep what was created, renamed and removed."""
        disk.flush_folder(self.path)

    @contextlib.contextmanager
    def explained(self, *, writing: bool = False) -> Iterator[None]:
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
