"""What holds other values, besides lists and dicts: tuples, sets, and those of `collections`."""

from __future__ import annotations

import collections
import functools
import sys
from typing import TYPE_CHECKING, Any, cast

from moorage.codec.text import dumps
from moorage.errors import EncodingError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TypeAlias

    from moorage.codec.text import Plain

    Encode: TypeAlias = Callable[[object, int], Plain]
    Decode: TypeAlias = Callable[[Plain], object]

_FACTORIES: Mapping[str, Callable[[], object] | None] = {
    "None": None,
    **{kind.__name__: kind for kind in (bool, bytes, dict, float, frozenset, int, list, set, str, tuple)},
    "OrderedDict": collections.OrderedDict,
}
"""What a `collections.defaultdict` may make its values with."""


def _encode_tuple(value: object, left: int, encode: Encode) -> Plain:
    return {"~tuple": encode(list(cast("tuple[object, ...]", value)), left - 1)}


def _encode_set(value: object, left: int, encode: Encode) -> Plain:
    members = [encode(one, left - 2) for one in cast("Iterable[object]", value)]
    members.sort(key=dumps)  # the same set is stored as the same text by every process
    return {"~set" if type(value) is set else "~frozenset": cast("Plain", members)}


def _encode_ordered(value: object, left: int, encode: Encode) -> Plain:
    return {"~ordered": encode(dict(cast("Mapping[object, object]", value)), left - 1)}


def _encode_default(value: object, left: int, encode: Encode) -> Plain:
    given = cast("collections.defaultdict[object, object]", value)
    name = next((name for name, factory in _FACTORIES.items() if factory is given.default_factory), None)
    if name is None:
        raise EncodingError(
            f"a defaultdict whose values are made by {shown(given.default_factory)} cannot be stored: that would have "
            f"to be brought back. It may be one of {', '.join(_FACTORIES)}; convert it to a dict otherwise"
        )
    return {"~default": {"factory": name, "items": encode(dict(given), left - 2)}}


CONTAINERS: dict[type, Callable[[object, int, Encode], Plain]] = {
    tuple: _encode_tuple,
    set: _encode_set,
    frozenset: _encode_set,
    collections.OrderedDict: _encode_ordered,
    collections.defaultdict: _encode_default,
}
"""How containers of exactly these types are encoded."""


def is_named_tuple(kind: type) -> bool:
    """Whether a class was made by `collections.namedtuple` or `typing.NamedTuple`."""
    return kind.__bases__ == (tuple,) and isinstance(kind.__dict__.get("_fields"), tuple)


def encode_named_tuple(value: object, left: int, encode: Encode) -> Plain:
    """A named tuple, with its fields by name so that paths lead to them."""
    kind = type(value)
    names = cast("tuple[str, ...]", kind.__dict__["_fields"])
    items: dict[object, object] = dict(zip(names, cast("tuple[object, ...]", value), strict=True))
    return {"~named": {"type": f"{kind.__module__}:{kind.__qualname__}", "items": encode(items, left - 2)}}


def _named_class(told: str, fields: tuple[str, ...]) -> type:
    """The class itself where it is imported, which imports nothing and runs nothing; one like it elsewhere."""
    module, _, qualified = told.partition(":")
    found: object = sys.modules.get(module)
    for name in qualified.split("."):
        found = getattr(found, "__dict__", {}).get(name)
    if isinstance(found, type) and is_named_tuple(found) and found.__dict__["_fields"] == fields:
        return found
    return _like(module, qualified, fields)


@functools.lru_cache(maxsize=256)
def _like(module: str, qualified: str, fields: tuple[str, ...]) -> type:
    name = qualified.rpartition(".")[2]
    made: type = collections.namedtuple(name, fields, rename=True)  # type: ignore[misc]  # noqa: PYI024
    if made.__dict__["_fields"] != fields:
        raise ValueError(f"{fields} are no fields of a named tuple")
    made.__module__, made.__qualname__ = module, qualified  # by which it is stored again
    return made


def _mapping(content: Plain, decode: Decode) -> dict[object, object]:
    items = decode(content)
    if not isinstance(items, dict):
        raise TypeError(f"{type(items).__name__} is no mapping")
    return items


def _decode_default(content: Plain, decode: Decode) -> object:
    parts = cast("dict[str, Plain]", content)
    return collections.defaultdict(_FACTORIES[cast("str", parts["factory"])], _mapping(parts["items"], decode))


def _decode_named(content: Plain, decode: Decode) -> object:
    parts = cast("dict[str, Plain]", content)
    items = cast("dict[str, object]", _mapping(parts["items"], decode))
    kind = _named_class(cast("str", parts["type"]), tuple(items))
    return tuple.__new__(kind, items.values())


def _each(content: Plain, decode: Decode) -> list[Any]:
    if type(content) is not list:
        raise TypeError(f"{type(content).__name__} is no list")
    return cast("list[Any]", decode(content))


DECODERS: dict[str, Callable[[Plain, Decode], object]] = {
    "~tuple": lambda content, decode: tuple(_each(content, decode)),
    "~set": lambda content, decode: set(_each(content, decode)),
    "~frozenset": lambda content, decode: frozenset(_each(content, decode)),
    "~dict": lambda content, decode: dict(_each(content, decode)),
    "~ordered": lambda content, decode: collections.OrderedDict(_mapping(content, decode)),
    "~default": _decode_default,
    "~named": _decode_named,
}
