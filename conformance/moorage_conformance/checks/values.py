"""Level 1: every value comes back as what it was, however it got there and after reopening."""

from __future__ import annotations

import datetime
import importlib.util
import itertools
import math
import struct
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from moorage.codec import dumps
from moorage.driver import Document
from moorage.errors import shown
from moorage.filters import equal
from moorage_conformance.checking import check
from moorage_conformance.target import ITEMS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from moorage.codec import Plain
    from moorage.driver import Driver
    from moorage_conformance.context import Context

Body: TypeAlias = "dict[str, Plain]"

_BATCH = 200


def difference(expected: object, actual: object, path: str = "the value") -> str | None:
    """Where two values differ, in type, sign of zero, and order of keys as well; None where they do not.

    NaN is equal to itself.
    """
    if type(expected) is not type(actual):
        kinds = type(expected).__name__, type(actual).__name__
        return f"{path}: expected {shown(expected)} ({kinds[0]}), got {shown(actual)} ({kinds[1]})"
    if isinstance(expected, Mapping):
        return _keyed_difference(expected, cast("Mapping[object, object]", actual), path)
    if isinstance(expected, (list, tuple)):
        other = cast("Sequence[object]", actual)
        if len(expected) != len(other):
            return f"{path}: expected {len(expected)} elements, got {len(other)}"
        return _first(
            difference(*pair, _inside(path, place)) for place, pair in enumerate(zip(expected, other, strict=True))
        )
    if isinstance(expected, (set, frozenset)):
        unmatched = list(cast("set[object]", actual))
        for one in expected:
            found = next((place for place, other in enumerate(unmatched) if difference(one, other) is None), None)
            if found is None:
                return f"{path}: {shown(one)} is missing"
            del unmatched[found]
        return f"{path}: {shown(unmatched[0])} should not be there" if unmatched else None
    if isinstance(expected, str):
        return _text_difference(expected, cast("str", actual), path)
    return None if _same(expected, actual) else f"{path}: expected {shown(expected)}, got {shown(actual)}"


def _same(expected: Any, actual: Any) -> bool:
    if isinstance(expected, float):
        signs = math.copysign(1, expected) == math.copysign(1, actual)
        return bool(expected == actual and signs) or (math.isnan(expected) and math.isnan(actual))
    if type(expected).__module__ == "numpy":
        alike = expected.dtype == actual.dtype and expected.shape == actual.shape
        return bool(alike and expected.tobytes() == actual.tobytes())
    return bool(expected == actual)


def _keyed_difference(expected: Mapping[Any, object], actual: Mapping[Any, object], path: str) -> str | None:
    for key in expected:
        if key not in actual:
            return f"{path}: the key {shown(key)} is missing"
    for key in actual:
        if key not in expected:
            return f"{path}: there is a key {shown(key)} that was not stored"
    for place, (wanted, found) in enumerate(zip(expected, actual, strict=True)):
        if difference(wanted, found) is not None:
            return f"{path}: key {place} is {shown(found)} instead of {shown(wanted)}"
    return _first(difference(value, actual[key], _inside(path, key)) for key, value in expected.items())


def _inside(path: str, key: object) -> str:
    """A path one step further; of a long one, its beginning and its end."""
    path = path if len(path) < 80 else f"{path[:20]}…{path[-30:]}"
    return f"{path}[{shown(key)}]"


def _text_difference(expected: str, actual: str, path: str) -> str | None:
    if expected == actual:
        return None
    if len(expected) < 40:
        return f"{path}: expected {expected!a}, got {actual[:60]!a}"
    pairs = enumerate(zip(expected, actual, strict=False))
    place = next((place for place, (one, other) in pairs if one != other), min(len(expected), len(actual)))
    part = slice(place, place + 10)
    return (
        f"{path}: {len(expected)} characters came back as {len(actual)}, different from position {place}: "
        f"expected {expected[part]!a}, got {actual[part]!a}"
    )


def _first(differences: Any) -> str | None:
    return next((one for one in differences if one is not None), None)


def body_difference(expected: Mapping[str, Plain], actual: Mapping[str, Plain]) -> str | None:
    """Where a body of `ITEMS` came back changed, as far as a driver must not.

    A declared field that is absent is null; a number field may come back as an int, and without the sign of zero. The
    order of the outermost keys does not count.
    """
    kinds = {field.name: field.kind for field in ITEMS.fields}
    for name in {*expected, *actual}:
        if name not in kinds and name not in expected:
            return f"there is a key {shown(name)} that was not stored"
        if name not in kinds and name not in actual:
            return f"the key {shown(name)} is missing"
        wanted, found = expected.get(name), actual.get(name)
        if kinds.get(name) == "number" and isinstance(wanted, float) and type(found) in (int, float):
            found = wanted if found == wanted else found
        if type(wanted) is type(found) and dumps(wanted) == dumps(found):  # the same text is the same value
            continue
        if (how := difference(wanted, found, shown(name))) is not None:
            return how
    return None


# There and back, in each way in which a value gets into a storage


def _keeps(context: Context, requirement: str, bodies: Sequence[Body]) -> None:
    """Store bodies by insert, swap, patch and claim, and see them come back: at once, and after reopening."""
    driver = context.open()
    declared = {field.name for field in ITEMS.fields}
    stored: dict[str, Body] = {}
    ways = [("insert", "patch", ("swap", "claim")[place % 2]) for place in range(len(bodies))]
    documents = [Document(f"insert{place}", body) for place, body in enumerate(bodies)]
    documents += [
        Document(f"{way}{place}", {"note": "before"}) for place, (_, *others) in enumerate(ways) for way in others
    ]
    for start in range(0, len(documents), _BATCH):
        refused = driver.insert(ITEMS, documents[start : start + _BATCH])
        context.require(not refused, requirement, f"values were refused: {shown(refused)}")
    for place, body in enumerate(bodies):
        stored[f"insert{place}"] = body
        changes = {field: value for field, value in body.items() if field in declared}
        after: Body = {"note": "before", **changes}
        if "swap" in ways[place]:
            stored[f"swap{place}"] = body
            swapped = driver.swap(ITEMS, Document(f"swap{place}", body), 1)
            context.require(swapped, requirement, "by swap: it returns False")
        elif changes:
            stored[f"claim{place}"] = after
            claimed = driver.claim(ITEMS, equal(id=f"claim{place}"), changes)
            how = body_difference(after, claimed.body) if claimed is not None else "it returns None"
            context.require(how is None, requirement, f"as a claim returns it: {how}")
        if changes:
            stored[f"patch{place}"] = after
            patched = driver.patch(ITEMS, equal(id=f"patch{place}"), changes)
            context.equal(requirement, patched, 1, "how many a patch has changed")
    _are_kept(context, requirement, driver, stored)
    driver.close()
    _are_kept(context, requirement, context.open(), stored, "after reopening, ")


def _are_kept(context: Context, requirement: str, driver: Driver, stored: Mapping[str, Body], when: str = "") -> None:
    found = {one.id: one for one in driver.find(ITEMS)}
    for name, body in stored.items():
        context.require(name in found, requirement, f"{when}the document {name} is gone")
        how = body_difference(body, found[name].body)
        context.require(how is None, requirement, f"{when}by {name.rstrip('0123456789')}: {how}")
    for name in context.random.sample(sorted(stored), min(5, len(stored))):
        document = driver.get(ITEMS, name)
        how = body_difference(stored[name], document.body) if document is not None else "it is None"
        context.require(how is None, requirement, f"{when}by get: {how}")


NASTY_KEYS = (
    "", " ", "$set", "$", "$ref", "a.b", ".", "a.", "~", "~tag", "~float", "~dict", "id", "_id", "ID", "Id", "revision",
    "body", "__proto__", "constructor", "__class__", "toString", "0", "10", "9", "-1", "1.0", "null", "true", "'", '"',
    "\\", "\\u0000", "\n", "\x01", "\x7f", "é", "e\u0301", "É", "\u2028", "\ufeff", "\uffff", "\U0001f40b", "%s", "%",
    "*", "{", "[", "NOTE", "Note", "note ", "a" * 300, "\U0001f40b" * 1000, "<a>", "@type", "#", ":p", "?", ";", "--",
    "\t",
)  # fmt: skip
"""Keys that are not declared, and that some database gives a meaning of its own."""

CONTROLS = "".join(map(chr, [*range(1, 0x20), *range(0x7F, 0xA0)]))
PLANES = "".join(chr(plane << 16 | place) for plane in range(17) for place in (0x41, 0x1234, 0xFFFD))

SHORT_TEXTS = (
    "", " ", "  ", "\t", "\n", "\r", "\r\n", "\n\r", "\v", "\f", " a ", "a ", " a", "a\n", "\na", "a\r\nb\rc\nd\n\n",
    "\x01", "\x1a", "\x1b[0m", "\x7f", "\x85", "\xa0", "\xad", "\u061c", "\u200b", "\u200d", "\u200e", "\u202e",
    "\u2028\u2029", "\u3000", "\ufeff", "\ufeffa", "a\ufeff", "\ufffd", "\ufffe", "\uffff", "\ue000", "\ufdd0",
    "\ud7ff", "\U00010000", "\U0001f40b", "\U0001ffff", "\U000f0000", "\U0010ffff", "é", "e\u0301", "e\u0301\u0327",
    "\u212b", "\u00c5", "ﬁ", "ß", "ẞ", "\u0131", "\u0130", "한", "\u1112\u1161\u11ab",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467", "🇳🇱", "مرحبا", "日本語", "\\", "\\\\", "\\n", "\\u0000", "\\x00",
    "\\ud800", "\\0", "&#0;", "'", "''", '"', '""', "`", "%", "%%", "%s", "%(x)s", ":x", "?", "$1", "{", "{}", "[]",
    '""', "null", "NULL", "None", "nil", "true", "NaN", "Infinity", "0", "1", "1.0", "01", "1e5", "0x10", "-0", "1_000",
    "2020-01-01T00:00:00", "~time", "~", "$set", "<a>&amp;</a>", "--", "x" * 255, "\U0001f40b" * 255, "\u0301" * 255,
)  # fmt: skip


def _random_text(chosen: random.Random, length: int) -> str:
    """Signs of all planes, without NUL and surrogates."""
    signs: list[str] = []
    while len(signs) < length:
        number = chosen.choice((chosen.randint(1, 0x7F), chosen.randint(1, 0xFFFF), chosen.randint(1, 0x10FFFF)))
        if not 0xD800 <= number < 0xE000:
            signs.append(chr(number))
    return "".join(signs)


def _text_bodies(texts: Sequence[str], key: Callable[[str], str] = str) -> list[Body]:
    """Each text in a short field, a long one, JSON, and what is not declared, as a value and as a key."""
    declared = {field.name for field in ITEMS.fields}
    return [
        {
            "tag": text if len(text) <= 255 else None,
            "note": text,
            "data": {"in": [text], key(text): text},
            "loose": {"in": [text]},
            **({key(text): text} if key(text) not in declared else {}),
        }
        for text in texts
    ]


@check("VALUE-1", limit=300.0)
def texts_come_back(context: Context) -> None:
    """Stores texts of all planes, controls, line ends, spaces at both ends, and such as look like something else."""
    random_texts = [_random_text(context.random, context.random.choice((1, 3, 30, 255))) for _ in range(20)]
    bodies = _text_bodies([*SHORT_TEXTS, *random_texts])
    bodies += _text_bodies([CONTROLS, PLANES, f" {CONTROLS} ", *(f" {sign}" for sign in "\x1c\x1d\x1e\x1f")])
    _keeps(context, "VALUE-1", bodies)


@check("VALUE-1", limit=300.0)
def long_texts_come_back(context: Context) -> None:
    """Stores texts as long as some limit of a database, and of a million characters of one byte and of four."""
    limits = (256, 1000, 4000, 8191, 8192, 16_383, 32_767, 65_535, 65_536, 70_000)
    texts = [_random_text(context.random, 100) * (limit // 100) + "x" * (limit % 100) for limit in limits]
    _keeps(context, "VALUE-1", [{"note": text, "data": {"v": text}, "loose": text} for text in texts])
    million = "0123456789" * 99_999 + " é\u2028\uffff\r\n\U0001f40b\t  "
    longest: dict[str, Body] = {
        "note": {"note": million},
        "data": {"data": {"v": [million]}},
        "loose": {"loose": million},
        "astral": {"note": "\U0001f40b" * 1_000_000},
    }
    driver = context.open(context.fresh_url())
    for name, body in longest.items():
        driver.insert(ITEMS, [Document(name, body)])
    driver.insert(ITEMS, [Document("patched", {}), Document("swapped", {})])
    driver.patch(ITEMS, equal(id="patched"), {"note": million})
    driver.swap(ITEMS, Document("swapped", {"loose": [million]}), 1)
    longest |= {"patched": {"note": million}, "swapped": {"loose": [million]}}
    for name, body in longest.items():
        found = driver.get(ITEMS, name)
        how = body_difference(body, found.body) if found is not None else "it is gone"
        context.require(how is None, "VALUE-1", f"a million characters: {how}")


@check("VALUE-1", limit=300.0)
def keys_come_back(context: Context) -> None:
    """Stores undeclared keys and keys inside JSON that some database gives a meaning of its own, and long ones."""
    bodies: list[Body] = [
        {"data": {key: place}, key: place, "loose": {key: {key: key}}} for place, key in enumerate(NASTY_KEYS)
    ]
    bodies.append({key: key for key in NASTY_KEYS})
    bodies.append({"data": {key: [key] for key in NASTY_KEYS}, "labels": dict.fromkeys(NASTY_KEYS)})
    bodies += [
        {"loose": {_random_text(context.random, 12): 1 for _ in range(20)}},
        {_random_text(context.random, 12): 1},
    ]
    _keeps(context, "VALUE-1", bodies)


@check("VALUE-2", limit=300.0)
def integers_come_back(context: Context) -> None:
    """Stores integers of 64 bits, near every power of two that some type ends at, in fields, JSON and elsewhere."""
    powers = (7, 8, 15, 16, 24, 31, 32, 52, 53, 54, 60, 62, 63)
    numbers = {0, *(sign * (2**power + step) for power in powers for sign in (1, -1) for step in (-1, 0, 1))}
    numbers |= {10**power for power in range(19)} | {-(10**power) for power in range(19)}
    numbers |= {context.random.randrange(-(2**63), 2**63) for _ in range(30)}
    numbers |= {context.random.choice((1, -1)) * (2**53 + context.random.randrange(2**20)) for _ in range(10)}
    fitting = sorted(number for number in numbers if -(2**63) <= number < 2**63)
    bodies: list[Body] = [
        {"place": one, "amount": other, "data": {"v": one, "w": [other]}, "loose": one, "list": [[other]]}
        for one, other in zip(fitting, reversed(fitting), strict=True)
    ]
    _keeps(context, "VALUE-2", bodies)


def _floats(chosen: random.Random) -> list[float]:
    """Finite floats: the ends, neighbours, such as decimal text gets wrong, and random bits."""
    curated = [
        0.1, 1 / 3, 0.1 + 0.2, 2 / 3, math.pi, math.e, 4.35, 1.1, 0.5, -0.1, 1e-7, 1.5e-5, 123456.789, 1e15 + 0.3,
        5e-324, -5e-324, 1e-323, 2.2250738585072014e-308, math.nextafter(2.2250738585072014e-308, 0),
        2.2250738585072011e-308, sys.float_info.max, -sys.float_info.max, math.nextafter(sys.float_info.max, 0), 1e22,
        1e23, 8.41e21, 9.5e-3, 5.7e17, 1e16, 1e21, 2.0**53 + 2, 2.0**63, -(2.0**63), 2.0**64, 2.0**1023,
        1.7976931348623155e308, 9007199254740993.0, 123456789012345680.0, 6.02214076e23, 3.4028235e38, 3.4028236e38,
        1.401298464324817e-45, 1e308, 1e-308, 1.0000000000000002, 0.9999999999999999, 4.9406564584124654e-324, 1e-5,
        16777217.0,
    ]  # fmt: skip
    near = [
        math.nextafter(one, towards) for one in (1.0, 0.1, 1e10, 1e-10, 2.0**53) for towards in (-math.inf, math.inf)
    ]
    drawn = [struct.unpack("<d", chosen.randbytes(8))[0] for _ in range(60)]
    ordinary = [chosen.random() * 10 ** chosen.randint(-8, 8) for _ in range(20)]
    return [one for one in (*curated, *near, *drawn, *ordinary) if math.isfinite(one)]


@check("VALUE-3", limit=300.0)
def floats_come_back(context: Context) -> None:
    """Stores subnormal, largest, neighbouring and random floats, in fields, JSON and elsewhere."""
    floats = _floats(context.random)
    bodies: list[Body] = [
        {"score": one, "data": {"v": one, "w": [other]}, "loose": one, "list": [[-other]]}
        for one, other in zip(floats, reversed(floats), strict=True)
    ]
    _keeps(context, "VALUE-3", bodies)


@check("VALUE-4", limit=300.0)
def kinds_come_back(context: Context) -> None:
    """Stores equal values of different types, negative zero, and null, in JSON and in what is not declared."""
    alike: list[Plain] = [
        0, 0.0, -0.0, False, None, "", [], {}, 1, 1.0, True, "1", "true", [1], [True], [1.0], -1, -1.0, 10.0, 10, 1e16,
        10**16, 1e22, -1e22, 2.0**53, 2**53, 2.0**63, 1e300, 100.0, [None], [None, None], {"a": None}, {"a": [None]},
        [[], {}, None], [0, 0.0, -0.0, False, None], [-0.0], {"z": -0.0}, [[-0.0, 0.0]],
        {"1": 1, "1.0": 1.0, "True": True},
    ]  # fmt: skip
    bodies: list[Body] = [{"data": {"v": value, "w": [value]}, "loose": value, "list": [value]} for value in alike]
    bodies.append({"flag": True, "data": alike, "labels": {str(place): value for place, value in enumerate(alike)}})
    bodies.append({"flag": False, **{f"k{place}": value for place, value in enumerate(alike)}})
    bodies.append(
        {"one": 1, "float": 1.0, "true": True, "null": None, "minus": -0.0, "zero": 0, "nought": 0.0, "no": False}
    )
    bodies += [
        {"loose": None},
        {"loose": None, "data": {"v": None}},
        {"data": [None]},
        {"data": [-0.0]},
        {"loose": -0.0},
    ]
    for _ in range(20):
        mixed: list[Plain] = context.random.choices(alike, k=8)
        bodies.append({"data": mixed, "loose": {str(one): value for one, value in enumerate(mixed)}})
    _keeps(context, "VALUE-4", bodies)


def _nested(depth: int, wrap: Callable[[Plain, int], Plain], innermost: Plain) -> Plain:
    """Lists and dicts around a value, ``depth`` of them with those that it is itself."""
    value = innermost
    for level in range(depth - 1 if isinstance(innermost, (list, dict)) else depth):
        value = wrap(value, level)
    return value


_LEAVES: tuple[Plain, ...] = (None, True, 0, 1.5, -0.0, "", "é", [], {}, [[]], {"": {}}, {"a": []})


def _random_shape(chosen: random.Random, left: int) -> Plain:
    """A random tree of lists and dicts."""
    kind = chosen.random()
    if left == 0 or kind < 0.3:
        return chosen.choice(_LEAVES)
    if kind < 0.6:
        return [_random_shape(chosen, left - 1) for _ in range(chosen.randrange(4))]
    keys = [
        chosen.choice(NASTY_KEYS) if chosen.random() < 0.5 else _random_text(chosen, 4)
        for _ in range(chosen.randrange(5))
    ]
    return {key: _random_shape(chosen, left - 1) for key in keys}


@check("VALUE-5", limit=300.0)
def shapes_come_back(context: Context) -> None:
    """Stores lists and dicts to a depth of 90, empty, long, wide, and with keys in an order that is not sorted."""
    wraps: tuple[Callable[[Plain, int], Plain], ...] = (
        lambda value, level: [value],
        lambda value, level: {"a": value},
        lambda value, level: [value] if level % 2 else {"k": value},
        lambda value, level: {"before": [], "in": value, "after": {}},
        lambda value, level: [None, [], value, {}, level],
    )
    innermost: tuple[Plain, ...] = ([], {}, 1, "x")
    shapes: list[Plain] = [
        _nested(depth, wrap, last) for depth, wrap, last in itertools.product((90, 33, 65), wraps[:3], innermost[:2])
    ]
    shapes += [_nested(90, wrap, last) for wrap in wraps for last in innermost]
    shapes += [
        [],
        {},
        [[]],
        [{}],
        {"a": []},
        {"a": {}},
        [[], []],
        [[[]], {}],
        {"": []},
        {"": {"": {"": {}}}},
        [[], [[]], [[], []]],
    ]
    orders = [
        ["b", "a", "c"], ["10", "9", "1", "0", "-1"], ["z", "y", "x", "aa", "B", "b", "A"], ["2", "b", "1", "a"],
        ["b", "", "a"], ["long" * 20, "l", "longer"], ["é", "e", "z", "\U0001f40b", "\uffff"], list(NASTY_KEYS),
        list(reversed(NASTY_KEYS)),
    ]  # fmt: skip
    for keys in orders:
        shapes.append({key: place for place, key in enumerate(keys)})
        shapes.append([{"in": {key: {key: []} for key in keys}}])
    many = [f"{chr(97 + place % 26)}{place}" for place in range(2000)]
    context.random.shuffle(many)
    shapes += [
        {key: place for place, key in enumerate(many)},
        list(range(20_000, 0, -1)),
        [[place] for place in range(3000)],
    ]
    shapes += [shape for _ in range(30) if isinstance(shape := [_random_shape(context.random, 6)], list)]
    bodies: list[Body] = [
        {"data": shape, **({"loose": shape} if place % 2 else {"labels": shape, "more": [1]})}
        for place, shape in enumerate(shapes)
    ]
    _keeps(context, "VALUE-5", bodies)


# Through the storage protocol


def _moments() -> list[datetime.datetime]:
    utc = datetime.UTC
    return [
        datetime.datetime(1, 1, 1, tzinfo=utc),
        datetime.datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=utc),
        datetime.datetime(2026, 3, 29, 1, 30, 0, 1, tzinfo=utc),
        datetime.datetime(2026, 10, 25, 2, 30, 0, 123_456, tzinfo=utc),
        datetime.datetime(2038, 1, 19, 3, 14, 8, 999_999, tzinfo=utc),
        datetime.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=utc),
    ]


def _special_values() -> dict[str, object]:
    """Values that no database keeps by itself, by a name."""
    first, *moments = _moments()
    values: dict[str, object] = {
        "nan": math.nan,
        "infinity": math.inf,
        "minus infinity": -math.inf,
        "minus zero": -0.0,
        "integers": [2**63, -(2**63) - 1, 2**64, 2**200, -(10**400), 2**63 - 1],
        "bytes": [b"", b"\0", bytes(range(256)), b"plain"],
        "tuples": [(), (1,), ((), (None,)), (1, 1.0, True, "1", [1], (2, (3,)))],
        "sets": [set(), {1, "a", None, (1, 2)}, frozenset(), frozenset({b"x", 2.5}), {frozenset({1})}],
        "times": [first, *moments],
        "in all": [math.nan, (math.inf, {"deep": [{"deeper": (b"\xff", {2**70}, moments[0])}]}), -math.inf],
        "tags": [{"~float": "nan"}, {"~": 1}, {"~tuple": [1]}, {"~unknown": None, "b": 2}],
        "keys": {1: "int", (1, 2): "tuple", None: "null", "1": "text", b"b": "bytes"},
    }
    if importlib.util.find_spec("numpy") is not None:
        import numpy as np

        values["numpy"] = [
            np.array([[1.5, math.nan], [-0.0, math.inf]]),
            np.arange(6, dtype=np.int8).reshape(2, 3),
            np.array([], dtype=np.float32),
            np.array(["a", "\U0001f40b"]),
            np.float32(0.1),
            np.int64(-1),
            np.uint64(2**64 - 1),
            np.bool_(True),
            np.array([1 + 2j]),
        ]
    return values


@check("VALUE-6")
def values_come_back_through_the_storage(context: Context) -> None:
    """Stores NaN, infinities, large integers, bytes, tuples, sets and times wherever the protocol takes them."""
    values, moments = _special_values(), _moments()
    numbers = {
        "objective": math.nan,
        "worst": math.inf,
        "best": -math.inf,
        "minus": -0.0,
        "third": 1 / 3,
        "huge": 1e308,
    }
    plain = {name: value for name, value in values.items() if name != "numpy"}
    statistics = {f"statistic {name}": value for name, value in plain.items()}
    storage = context.storage()
    experiment = storage.create_experiment(
        name="values", metadata=values, algorithm={"options": values}, created=moments[2]
    )
    params = {**plain, "real": 0.1, "whole": 2**63, "time": moments[3], "nothing": None}
    storage.register_trials(experiment, [params])
    trial = storage.reserve_trial(experiment, worker="w")
    context.require(trial is not None, "VALUE-6", "a trial with special values is not handed out")
    assert trial is not None
    results = [
        *(
            {"name": name, "type": "objective" if name == "objective" else "statistic", "value": one}
            for name, one in numbers.items()
        ),
        *({"name": name, "type": "statistic", "value": one} for name, one in statistics.items()),
    ]
    storage.push_trial_results(trial, results, status="completed")
    measured = [math.nan, math.inf, -math.inf, -0.0, 1 / 3, 5e-324]
    storage.add_measurements(
        storage.get_trial(trial.id, experiment),
        [
            {"name": "loss", "step": step, "value": value, "time": moments[step % len(moments)]}
            for step, value in enumerate(measured)
        ],
    )
    resource = storage.add_resource(name="r", labels=values)
    benchmark = storage.create_benchmark(name="b", metadata=values, targets=[values], algorithms=list(plain.values()))
    with storage.acquire_algorithm_lock(experiment, timeout=30) as held:
        held.set_state(values)
    with storage.acquire_algorithm_lock(experiment, timeout=30) as held:
        _comes_back(context, "the state of the algorithm", values, held.state)
        held.set_state([values, "x" * 100_000, values])
    before = (storage.get_trial(trial.id, experiment), storage.get_experiment(uid=experiment.id))
    storage.close()

    again = context.storage()
    stored = again.get_experiment(uid=experiment.id)
    _comes_back(context, "the metadata of an experiment", values, dict(stored.metadata))
    _comes_back(context, "the algorithm of an experiment", values, dict(stored.algorithm)["options"])
    _comes_back(context, "when an experiment was created", moments[2], stored.created)
    _comes_back(context, "the experiment before and after reopening", before[1].created, stored.created)
    found = again.get_trial(trial.id, experiment)
    _comes_back(context, "the params of a trial", dict(trial.params), dict(found.params))
    for name, value in plain.items():
        _comes_back(context, f"the param {name!r}", value, found.params[name])
    for name, value in {**numbers, **statistics}.items():
        _comes_back(context, f"the result {name!r}", value, found.results[name])
    for name in ("submit_time", "start_time", "end_time"):
        _comes_back(context, f"the {name} of a trial", getattr(before[0], name), getattr(found, name))
    _comes_back(context, "the submit_time of a trial", trial.submit_time, found.submit_time)
    measurements = sorted(again.fetch_measurements(found), key=lambda one: one.step)
    _comes_back(context, "measurements", measured, [one.value for one in measurements])
    _comes_back(
        context, "the times of measurements", [moments[step % len(moments)] for step in range(len(measured))],
        [one.time for one in measurements],
    )  # fmt: skip
    labels = next(one for one in again.fetch_resources() if one.id == resource.id).labels
    _comes_back(context, "the labels of a resource", values, dict(labels))
    kept = next(one for one in again.fetch_benchmark() if one.id == benchmark.id)
    _comes_back(context, "the targets of a benchmark", [values], kept.targets)
    _comes_back(context, "the metadata of a benchmark", values, dict(kept.metadata))
    with again.acquire_algorithm_lock(experiment, timeout=30) as held:
        _comes_back(context, "a large state of the algorithm", [values, "x" * 100_000, values], held.state)
        _comes_back(context, "the configuration of the algorithm", values, cast("Any", held.configuration)["options"])


def _comes_back(context: Context, what: str, expected: object, actual: object) -> None:
    how = difference(expected, actual, what)
    context.require(how is None, "VALUE-6", str(how))
