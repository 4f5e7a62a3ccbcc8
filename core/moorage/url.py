"""Where a storage is: a URL, taken apart once and shown without its secrets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import attrs

from moorage.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_SECRET = re.compile(r"pass|secret|token|key|credential", re.IGNORECASE)
_MASK = "***"


@attrs.frozen(kw_only=True)
class StorageURL:
    """``scheme://user:password@host:port/path?option=value``.

    Attributes:
        scheme: which backend, in lower case.
        username: decoded, or None.
        password: decoded, or None; never part of a repr.
        host: as written, or None; several hosts separated by commas stay one text.
        path: decoded, all that follows the host, with its leading slash.
        query: options of the backend.
        raw: the URL as it was given; never part of a repr.
        base: the folder that a relative path is relative to; None for the working directory.
    """

    scheme: str
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    host: str | None = None
    path: str = ""
    query: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    raw: str = attrs.field(default="", repr=False, eq=False)
    base: Path | None = attrs.field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> StorageURL:
        """Take a URL apart.

        Raises:
            ConfigurationError: it has no scheme, or a query that cannot be read.
        """
        scheme, separator, rest = text.partition("://")
        if not separator or not _SCHEME.fullmatch(scheme.lower()):
            raise ConfigurationError(
                f"{mask(text)!r} is not a storage URL; it should look like sqlite:///hpo.db or "
                "postgresql+psycopg://user@host/database"
            )
        parts = urlsplit(f"x://{rest}")
        if parts.fragment:
            parts = urlsplit(f"x://{rest.replace('#', '%23')}")
        credentials, at, host = parts.netloc.rpartition("@")
        username, colon, password = credentials.partition(":")
        try:
            query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        except ValueError as error:
            raise ConfigurationError(f"the options of {mask(text)!r} cannot be read: {error}") from None
        return cls(
            scheme=scheme.lower(),
            username=unquote(username) if at else None,
            password=unquote(password) if colon else None,
            host=host or None,
            path=unquote(parts.path),
            query=query,
            raw=text,
        )

    def __str__(self) -> str:
        """The URL with its password, and options that look like secrets, masked."""
        credentials = ""
        if self.username is not None:
            credentials = quote(self.username, safe="") + (f":{_MASK}" if self.password is not None else "") + "@"
        shown = {name: _MASK if _SECRET.search(name) else value for name, value in self.query.items()}
        query = f"?{urlencode(shown, safe='*/')}" if shown else ""
        return f"{self.scheme}://{credentials}{self.host or ''}{quote(self.path, safe='/:~ {}')}{query}"


def check_fields(backend: str, fields: Mapping[str, object], known: Sequence[str]) -> None:
    """Refuse a field of a configuration that the backend does not have.

    Raises:
        ConfigurationError: there is one; the message names those that are known.
    """
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise ConfigurationError(
            f"unknown field {unknown[0]!r} for the {backend} backend. Its fields are: {', '.join(known)}"
        )


def authority(fields: Mapping[str, object], host: str = "") -> str:
    """``user:password@host:port`` for a URL, quoted; from the fields ``user``, ``password``, ``host`` and ``port``.

    Args:
        fields: what is absent, None or empty is left out.
        host: where the fields name none.
    """
    user, password = (quote(str(fields.get(name) or ""), safe="") for name in ("user", "password"))
    credentials = f"{user}:{password}@" if password else f"{user}@" if user else ""
    host = str(fields.get("host") or host)
    if host.startswith("/"):  # the folder of a socket
        host = quote(host, safe="")
    elif host.count(":") > 1 and not host.startswith("[") and "," not in host:
        host = f"[{host}]"
    port = f":{fields['port']}" if fields.get("port") is not None else ""
    return f"{credentials}{host}{port}"


def mask(text: str) -> str:
    """Any text that may be a URL, with what looks like a secret masked."""
    text = re.sub(r"(://[^:/@\s]*):[^/\s]*@", rf"\1:{_MASK}@", text)
    return re.sub(
        r"([?&][^=&\s]*(?:pass|secret|token|key|credential)[^=&\s]*=)[^&\s]*",
        rf"\1{_MASK}",
        text,
        flags=re.IGNORECASE,
    )
