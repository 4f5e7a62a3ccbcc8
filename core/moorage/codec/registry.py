"""Types of the user's own: an allow-list, by tag and by class."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, TypeVar, cast

import attrs

from moorage.codec import scalars
from moorage.codec.arrays import is_numpy
from moorage.codec.containers import CONTAINERS
from moorage.errors import EncodingError, InvalidArgument, InvalidType, StorageDamaged, shown

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
S = TypeVar("S")

PREFIX = "~:"
"""How the tags of registered types begin, so that none is ever a tag of a later release."""

_TAG = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_PLAIN = frozenset({str, int, float, bool, type(None), list, dict, object})


@attrs.frozen
class Unregistered:
    """A stored value of a type that this process has not registered: the command line's, say.

    It is stored again as it was, so nothing is lost where a record is changed, or copied.

    Attributes:
        tag: under which its type was registered by whoever stored it.
        value: what the registered function made of it.
    """

    tag: str
    value: object


@attrs.frozen
class Registered:
    """How values of one class are stored and brought back."""

    tag: str
    kind: type
    encode: Callable[[object], object]
    decode: Callable[[object], object]

    def encoded(self, value: object) -> object:
        """What is stored in place of a value."""
        try:
            return self.encode(value)
        except Exception as error:
            raise EncodingError(
                f"the function that was registered for {named(self.kind)} could not encode {shown(value)}: {error!r}"
            ) from error

    def decoded(self, content: object) -> object:
        """The value of what was stored in its place."""
        try:
            return self.decode(content)
        except Exception as error:
            raise StorageDamaged(
                f"the function that was registered for the tag {self.tag!r} could not decode {shown(content)}: "
                f"{error!r}"
            ) from error


BY_KIND: dict[type, Registered] = {}
BY_TAG: dict[str, Registered] = {}
_lock = threading.Lock()


def named(kind: type) -> str:
    """A class as messages name it."""
    return f"{kind.__module__}.{kind.__qualname__}"


def register(tag: str, type: type[T], encode: Callable[[T], S], decode: Callable[[S], T]) -> None:  # noqa: A002
    """Let values of a class be stored: in params, results, metadata, labels, and the state of an algorithm.

    Every process that reads them as what they are registers the class as well, before it reads; elsewhere they are
    `Unregistered`. Only instances of exactly this class are taken: a derived class is registered by itself.

    Args:
        tag: what the class is called in the storage, for good: a letter, then up to 63 letters, digits, ``.``, ``_``
            or ``-``.
        type: the class.
        encode: makes of an instance what can be stored: a dict, a list, a text, an array, …
        decode: makes an instance of that again. It is given what anybody wrote who may write to the storage, so it
            must not run it.

    Raises:
        InvalidType: ``type`` is no class, or a function cannot be called.
        InvalidArgument: the tag is no such name; the tag or the class is taken, or the class can be stored anyway.
    """
    if not isinstance(tag, str):
        raise InvalidType(f"tag must be a str, not {tag.__class__.__name__}: {shown(tag)}")
    if not _TAG.fullmatch(tag):
        raise InvalidArgument(
            f"tag must be a letter, followed by up to 63 letters, digits, '.', '_' or '-', not {shown(tag)}"
        )
    kind = cast("object", type)
    if not isinstance(kind, _CLASS):
        raise InvalidType(f"type must be a class, not {shown(kind)}")
    for name, function in (("encode", encode), ("decode", decode)):
        if not callable(function):
            raise InvalidType(f"{name} must be a function, not {shown(function)}")
    if kind in _PLAIN or kind in scalars.ENCODERS or kind in CONTAINERS or is_numpy(kind) or kind is Unregistered:
        raise InvalidArgument(f"{named(kind)} can be stored without being registered")
    one = Registered(tag, kind, cast("Callable[[object], object]", encode), cast("Callable[[object], object]", decode))
    with _lock:
        if tag in BY_TAG:
            raise InvalidArgument(f"the tag {tag!r} is registered already, for {named(BY_TAG[tag].kind)}")
        if kind in BY_KIND:
            raise InvalidArgument(f"{named(kind)} is registered already, under the tag {BY_KIND[kind].tag!r}")
        BY_TAG[tag] = BY_KIND[kind] = one


_CLASS = type
