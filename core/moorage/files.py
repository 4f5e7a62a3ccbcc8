"""What backends that keep a file on this machine ask of its URL, its disk and its kernel."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from moorage.errors import ConfigurationError
from moorage.plugins import Option
from moorage.url import check_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moorage.url import StorageURL

FILE_OPTIONS = (
    Option(
        name="durability",
        default="full",
        choices=("full", "fast"),
        help="full: a write survives a power failure; fast: it survives the death of the process",
    ),
    Option(name="busy_timeout", kind=float, default=60.0, help="how long to wait while others write, in seconds"),
    Option(name="network", kind=bool, default=False, help="use the file although it is on a network file system"),
)
"""The options of a backend that keeps one file."""

NETWORK_FILE_SYSTEMS = frozenset(
    (
        *("9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"),
        *("orangefs", "pvfs2", "smb2", "smb3", "smbfs"),
        *("fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    )
)
"""What `file_system` calls those on which locks of several machines cannot be trusted."""


def file_url(backend: str, fields: Mapping[str, object], example: str, scheme: str | None = None) -> str:
    """The URL of a configuration with the field ``path``.

    Args:
        backend: its name.
        fields: of the configuration.
        example: of a path, for the message.
        scheme: where it is not the backend's name.

    Raises:
        ConfigurationError: there is no path, or something else.
    """
    check_fields(backend, fields, ("path",))
    path = fields.get("path")
    if not path:
        raise ConfigurationError(f'the {backend} backend needs a path: {{"type": "{backend}", "path": "{example}"}}')
    return f"{scheme or backend}:///{quote(str(path), safe='/:~ ')}"


def path_of(url: StorageURL, suffix: str) -> str:
    """The absolute path that a URL names; links are followed, and ``~`` is the user's folder.

    Args:
        url: relative ones are relative to its base.
        suffix: of files of this kind, for the message.

    Raises:
        ConfigurationError: it names a host or a user, or no file.
    """
    example = f"write {url.scheme}:///relative{suffix} or {url.scheme}:////absolute{suffix}"
    if url.host is not None or url.username is not None:
        raise ConfigurationError(f"{url} names a host, and a file has none; {example}")
    path = url.path[1:]
    if not path or path.endswith("/"):
        raise ConfigurationError(f"{url} names no file; {example}")
    return str(((url.base or Path()) / Path(path).expanduser()).resolve())


def boot_clock() -> str | None:
    """The id of this boot of the machine; None where there is none, or no clock that counts from it."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return None
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def file_system(path: str, mounts: str = "/proc/self/mountinfo") -> str | None:
    """The kind of file system that a path is on; None where that cannot be told."""
    try:
        lines = Path(mounts).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    best, kind = "", None
    for line in lines:
        fields, _, rest = line.partition(" - ")
        parts = fields.split(" ")
        if len(parts) < 5 or not rest:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), parts[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, rest.split(" ")[0]
    return kind
