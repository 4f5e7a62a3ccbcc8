"""What is asked of files: all of a read and of a write, which file stands at a path, and whose it is."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from pathlib import Path
from typing import TypeAlias

Identity: TypeAlias = "tuple[int, ...]"
"""Which file it is, and in which state: its inode, size, and time of change."""

_GROUP, _OTHERS = 0o070, 0o007
_ACCESS_LIST = "system.posix_acl_access"
_PATIENCE, _PAUSE = 30, 0.001
"""How often, and after how many seconds, a file is asked for again that its creator is just about to share."""


def identity(status: os.stat_result) -> Identity:
    """Of a file whose status this is."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def inode(path: str) -> int | None:
    """The number of the file at a path; None where there is none."""
    try:
        return os.stat(path).st_ino  # noqa: PTH116  (on the way of every call)
    except FileNotFoundError:
        return None


def open_to_read(path: str) -> int | None:
    """A file, open; None where there is none."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def read(file: int, start: int, end: int) -> bytes:
    """The bytes between two places, or up to the end of the file, however many calls that takes."""
    parts: list[bytes] = []
    while start < end and (part := os.pread(file, end - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def write(file: int, data: bytes | bytearray, place: int | None = None) -> None:
    """Write all of it, at a place or where the file is, however many calls that takes.

    Raises:
        OSError: as ``os.write`` does; some of it may have been written.
    """
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            count = os.write(file, view[done:]) if place is None else os.pwrite(file, view[done:], place + done)
            if not count:
                raise OSError(errno.EIO, "nothing could be written")
            done += count


def flush(file: int) -> None:
    """Have the disk keep the data of a file, and its length; nobody needs the rest after a power failure."""
    getattr(os, "fdatasync", os.fsync)(file)


def flush_folder(path: str) -> None:
    """Have the disk keep which files are in the folder of this one."""
    folder = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def create(path: str, like: str) -> int:
    """A new, empty file in the place of any that is there, open for reading and writing, owned as another one is."""
    Path(path).unlink(missing_ok=True)  # what a crash left may be of somebody else, whose name it would go on with
    return create_if_missing(path, like)


def create_if_missing(path: str, like: str) -> int:
    """A file, open for reading and writing; created where it is missing, and then owned as another one is."""
    for left in reversed(range(_PATIENCE)):
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            try:
                file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                continue
        except PermissionError:  # perhaps of somebody who is just about to share it
            if not left or not os.access(like, os.W_OK):
                raise
            time.sleep(_PAUSE)
            continue
        try:
            own_like(file, like)
        except BaseException:
            os.close(file)
            raise
        return file
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def own_like(file: int, path: str) -> None:
    """Give a file of this user the owner, the group, the permissions and the access list of the one at a path.

    As far as this user may: only the superuser gives files away. Where the group cannot be kept, it gets no more than
    everybody, since what one group may do is not another's.
    """
    try:
        wanted = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return
    has, user = os.fstat(file), os.geteuid()
    if user not in (0, has.st_uid):
        return
    mode = stat.S_IMODE(wanted.st_mode) & 0o777
    if has.st_uid != wanted.st_uid:
        with contextlib.suppress(OSError):
            os.fchown(file, wanted.st_uid, -1)
    if has.st_gid != wanted.st_gid:
        try:
            os.fchown(file, -1, wanted.st_gid)
        except OSError:
            mode = mode & ~_GROUP | (mode & _OTHERS) << 3
    if stat.S_IMODE(has.st_mode) != mode:
        os.fchmod(file, mode)
    with contextlib.suppress(OSError, AttributeError):  # a system without them
        if _ACCESS_LIST in os.listxattr(path):
            os.setxattr(file, _ACCESS_LIST, os.getxattr(path, _ACCESS_LIST))
