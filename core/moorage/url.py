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
_PORT = re.compile(r"[0-9]{1,5}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HARMLESS = re.compile(r"[\w./~ -]{1,80}")
_SECRETS = "pass|pwd|secret|token|key|credential|properties|private|signature"
_SECRET = re.compile(_SECRETS, re.IGNORECASE)
_MASK = "***"
_ENCODE = (
    "In a user or password every special character must be percent-encoded (%2F for /, %3F for ?, %23 for #, %40 for "
    "@, %5B for [, %3A for :, %25 for %); urllib.parse.quote(password, safe='') does it"
)


class _Unreadable(ValueError):
    """What is wrong with a URL, in words that hold nothing of it."""


@attrs.frozen(kw_only=True, repr=False)
class StorageURL:
    """``scheme://user:password@host:port/path?option=value``.

    Attributes:
        scheme: which backend, in lower case.
        username: decoded, or None.
        password: decoded, or None; never shown.
        host: as written, or None; several hosts separated by commas stay one text.
        path: decoded, all that follows the host, with its leading slash.
        query: options of the backend.
        raw: the URL as it was given; never shown.
        base: the folder that a relative path is relative to; None for the working directory.
    """

    scheme: str
    username: str | None = None
    password: str | None = None
    host: str | None = None
    path: str = ""
    query: Mapping[str, str] = attrs.field(factory=dict)
    raw: str = attrs.field(default="", eq=False)
    base: Path | None = None

    @classmethod
    def parse(cls, text: str) -> StorageURL:
        """Take a URL apart.

        Whatever is wrong, the error shows no part of the text that could be a secret: an unquoted ``/``, ``?`` or ``[``
        in a password moves the borders of all parts, so nothing is known of them until all of them make sense.

        Raises:
            ConfigurationError: it has no scheme, or a part that cannot be read; the message says what to encode.
        """
        scheme, separator, rest = text.partition("://")
        scheme = scheme.lower()
        if not separator or not _SCHEME.fullmatch(scheme):
            told = f"{text!r} is" if _HARMLESS.fullmatch(text) else "what was given is"
            raise ConfigurationError(
                f"{told} not a storage URL; it should look like sqlite:///hpo.db or "
                "postgresql+psycopg://user@host/database"
            )
        wrong = None
        try:
            parsed = cls._parse(text, scheme, rest)
        except ValueError as error:  # one of urllib's may hold the text, and so may whatever comes with it
            wrong = str(error) if type(error) is _Unreadable else "its parts cannot be told apart"
        if wrong is not None:
            raise ConfigurationError(f"this {scheme}:// URL cannot be read: {wrong}. {_ENCODE}")
        return parsed

    @classmethod
    def _parse(cls, text: str, scheme: str, rest: str) -> StorageURL:
        if _CONTROL.search(rest):
            raise _Unreadable("it holds a control character, such as a line end")
        parts = urlsplit(f"x://{rest}")
        if parts.fragment or rest.endswith("#"):
            parts = urlsplit(f"x://{rest.replace('#', '%23')}")
        credentials, at, host = parts.netloc.rpartition("@")
        if parts.netloc and "@" in f"{parts.path}?{parts.query}":
            raise _Unreadable("there is an '@' behind the first '/' or '?' that follows '//'")
        for one in host.split(","):
            _, colon, port = one.rpartition("]")[2].partition(":")
            if colon and not _PORT.fullmatch(port):
                raise _Unreadable("what should be a port, behind the ':' of the host, is no number")
        username, colon, password = credentials.partition(":")
        try:
            query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        except ValueError:
            raise _Unreadable("what follows the '?' is not of the form name=value&name=value") from None
        return cls(
            scheme=scheme,
            username=unquote(username) if at else None,
            password=unquote(password) if colon else None,
            host=host or None,
            path=unquote(parts.path),
            query=query,
            raw=text,
        )

    def __repr__(self) -> str:
        """As `__str__` shows it."""
        return f"StorageURL({str(self)!r})"

    def __str__(self) -> str:
        """The URL with its password, and options that look like secrets, masked."""
        credentials = ""
        if self.username is not None:
            credentials = quote(self.username, safe="") + (f":{_MASK}" if self.password is not None else "") + "@"
        shown = {name: _MASK if _SECRET.search(name) else value for name, value in self.query.items()}
        query = f"?{urlencode(shown, safe='*/')}" if shown else ""
        path = self.path
        if self.host is None:  # user:password@host behind one slash too many
            path = re.sub(r":.*@", f":{_MASK}@", path, flags=re.DOTALL)
        return f"{self.scheme}://{credentials}{self.host or ''}{quote(path, safe='/:~ {}*@')}{query}"


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
    """Any text that may hold URLs, with what looks like a secret masked: more rather than less."""
    text = re.sub(r"(:///*[^:/@\s]*):[^\s]*@", rf"\1:{_MASK}@", text)
    return re.sub(rf"([?&][^=&\s]*(?:{_SECRETS})[^=&\s]*=)[^&\s]*", rf"\1{_MASK}", text, flags=re.IGNORECASE)
