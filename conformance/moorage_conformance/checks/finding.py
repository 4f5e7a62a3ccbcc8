"""Level 1: find, get, count and tally, by every kind of value.

What must be found is computed by `moorage.filters.matches`, and for the cases that backends are known to get wrong it
is written down here as well, so that a fault of the reference does not hide the same fault of a backend.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

import attrs

from moorage.driver import Document
from moorage.errors import shown
from moorage.filters import Comparison, Order, equal, matches
from moorage_conformance.checking import check
from moorage_conformance.target import ITEMS, NOTES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from moorage.codec import Plain
    from moorage.driver import Driver
    from moorage.filters import Filter, Operator
    from moorage_conformance.context import Context

Body: TypeAlias = "dict[str, Plain]"

TEXTS = (
    "", " ", "  ", "\t", "\n", "\x1f", "0", "00", "1", "10", "9", "A", "a", "a\x1f", "a ", "a!", "aa", "AB", "ab",
    "a b", " a", "b", "null", "None", "true", "ss", "ß", "á", "a\u0301", "\u0131", "\u0130", "i", "I", "K", "\u212a",
    "ﬁ", "fi", "é", "e", "ª", "\u200b", "\ufeff", "\ud7ff", "\ue000", "\ufffd", "\uffff", "\U00010000", "\U0001f40b",
    "\U0010ffff",
)  # fmt: skip
"""Texts that some database, collation or encoding takes for each other or orders otherwise."""

INTEGERS = (
    0, 1, -1, 2, 9, 10, 255, 2**31 - 1, 2**31, -(2**31) - 1, 2**53 - 1, 2**53, 2**53 + 1, -(2**53), -(2**53) - 1,
    2**63 - 2, 2**63 - 1, -(2**63), -(2**63) + 1,
)  # fmt: skip

FLOATS = (
    0.0, 0.1, math.nextafter(0.1, 1), math.nextafter(0.1, 0), 0.3, 0.1 + 0.2, 0.5, 1.0, math.nextafter(1, 2), -1.0, 1.5,
    -1.5, 2.0, 10.0, 9.0, 5e-324, -5e-324, 1e-300, 2.0**53 - 1, 2.0**53, 2.0**53 + 2, 2.0**63, -(2.0**63), 1e300,
    sys.float_info.max, math.nextafter(sys.float_info.max, 0), -sys.float_info.max,
)  # fmt: skip

TIMES = (
    "0001-01-01T00:00:00.000000+00:00",
    "1969-12-31T23:59:59.999999+00:00",
    "1970-01-01T00:00:00.000000+00:00",
    "2026-02-28T23:59:59.999998+00:00",
    "2026-02-28T23:59:59.999999+00:00",
    "2026-03-01T00:00:00.000000+00:00",
    "9999-12-31T23:59:59.999999+00:00",
)

STORED: Mapping[str, tuple[Plain, ...]] = {
    "tag": TEXTS,
    "note": TEXTS,
    "place": INTEGERS,
    "score": FLOATS,
    "flag": (True, False),
    "moment": TIMES,
}
"""What the documents of `_one_value_each` hold, by field."""

MIXED: tuple[Plain, ...] = (
    None, True, False, 0, 1, -1, 2, 1.5, -1.5, 0.1, 2**53 + 1, 2.0**53, 2**63 - 1, "", "0", "1", "1.0", "1.5", "true",
    "null", "None", "a", "A", "é", "\uffff", "\U00010000", [], [1], [1, 2], ["a"], [None], {}, {"a": 1}, {"a": None},
    {"b": 1}, {"$gt": ""}, {"$ne": None}, "{}", "[]", "[1]",
)  # fmt: skip
"""What the documents of `_mixed` hold at ``data.v``; one document has nothing there."""


@attrs.frozen
class Shelf:
    """Documents that are stored, and questions about them."""

    context: Context
    driver: Driver
    documents: tuple[Document, ...]

    @classmethod
    def fill(cls, context: Context, bodies: Mapping[str, Body]) -> Shelf:
        """Store bodies under ids in a fresh storage."""
        driver = context.open()
        documents = tuple(Document(identifier, body) for identifier, body in bodies.items())
        refused = driver.insert(ITEMS, documents)
        context.require(not refused, context.check.requirements[0], f"documents were refused: {shown(refused)}")
        return cls(context, driver, documents)

    def matching(self, where: Filter) -> list[Document]:
        """Those that the reference finds."""
        return [one for one in self.documents if matches(where, one.id, one.revision, one.body)]

    def ask(self, requirement: str, *where: Comparison, expected: Iterable[str] | None = None) -> None:
        """Find by a filter; what must be found are these ids, or what the reference finds."""
        wanted = [one.id for one in self.matching(where)] if expected is None else expected
        found = [one.id for one in self.driver.find(ITEMS, where)]
        self.compare(requirement, told(where), found, wanted)

    def compare(self, requirement: str, what: str, found: Iterable[str], wanted: Iterable[str]) -> None:
        """Both must be the same ids, each as often."""
        missing, surplus = Counter(list(wanted)), Counter(list(found))
        wrong = {"does not find": missing - surplus, "wrongly finds": surplus - missing}
        parts = [f"{verb} {self._listed(some)}" for verb, some in wrong.items() if some]
        self.context.require(not parts, requirement, f"{what}: {', and '.join(parts)}")

    def _listed(self, identifiers: Counter[str]) -> str:
        bodies = {one.id: one.body for one in self.documents}
        told = [f"{shown(name)} {shown(bodies.get(name))}" for name in sorted(identifiers.elements())[:2]]
        return f"{identifiers.total()}, such as {'; '.join(told)}"


def told(where: Filter, order: Sequence[Order] = (), limit: int | None = None) -> str:
    """A question, for a message."""
    text = " and ".join(f"{shown(one.field)} {one.operator} {shown(one.value)}" for one in where) or "everything"
    if order:
        text += " by " + ", ".join(f"{one.field}{' descending' if one.descending else ''}" for one in order)
    return text if limit is None else f"{text}, limit {limit}"


def _one_value_each(context: Context) -> Shelf:
    """A document for each value of each field, and one with none of them."""
    bodies: dict[str, Body] = {
        f"{field}{place}": {field: value} for field, values in STORED.items() for place, value in enumerate(values)
    }
    return Shelf.fill(context, {**bodies, "none": {}, "null": dict.fromkeys(STORED)})


def _mixed(context: Context) -> Shelf:
    """Documents with values of all kinds in JSON, at ``data.v``."""
    bodies: dict[str, Body] = {f"v{place}": {"data": {"v": value}} for place, value in enumerate(MIXED)}
    return Shelf.fill(context, {**bodies, "empty": {"data": {}}, "list": {"data": [{"v": 1}]}, "none": {}})


def _code_points(text: str) -> list[int]:
    return [ord(sign) for sign in text]


def _where(field: str, operator: Operator, value: Plain | tuple[Plain, ...]) -> Comparison:
    return Comparison(field, operator, value)


def _drawn(context: Context, values: Mapping[str, Sequence[Plain]]) -> Body:
    """A body with a random value of each field."""
    return {field: context.random.choice(some) for field, some in values.items()}


def _placed(values: Sequence[Plain], wanted: Plain) -> int:
    """The position of a value of the same type."""
    return next(place for place, one in enumerate(values) if type(one) is type(wanted) and one == wanted)


# Comparisons


@check("FIND-1")
def equality_is_exact_in_declared_fields(context: Context) -> None:
    """Asks each declared field for each of its values, its neighbours and null, by = and !=."""
    shelf = _one_value_each(context)
    for field, values in STORED.items():
        for place, value in enumerate(values):
            same = {f"{field}{other}" for other, one in enumerate(values) if one == value}
            shelf.ask("FIND-1", _where(field, "=", value), expected=same)
            if place % 3 == 0 or field == "flag":
                everything = {one.id for one in shelf.documents}
                shelf.ask("FIND-1", _where(field, "!=", value), expected=everything - same)
        present = {f"{field}{place}" for place in range(len(values))}
        shelf.ask("FIND-1", _where(field, "=", None), expected={one.id for one in shelf.documents} - present)
        shelf.ask("FIND-1", _where(field, "!=", None), expected=present)
    nearly: dict[str, tuple[Plain, ...]] = {
        "tag": ("aA", "Ab", "a  ", "null ", "İ ", "e\u0301"),
        "note": ("aA", "a" * 300, "True", "e\u0301"),
        "place": (1.0, 1.5, 2.0**53, 2.0**63, -(2.0**63), 2**53 + 2, 3, 1e300),
        "score": (1, 2**53, 2**53 + 1, 2**63, 2**63 - 1, 0, -0.0, 1.4999999999999998, 3, -1),
        "moment": ("2026-02-28T23:59:59.999997+00:00", "1970-01-01T00:00:00.000001+00:00"),
        "data": (None, {}, []),
    }
    for field, others in nearly.items():
        for value in others:
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                continue
            shelf.ask("FIND-1", _where(field, "=", value))
            shelf.ask("FIND-1", _where(field, "!=", value))


@check("FIND-1")
def membership_is_exact(context: Context) -> None:
    """Asks for one of several values: none, one, null, values of other kinds, repeated ones, and 500."""
    shelf = _one_value_each(context)
    everything = {one.id for one in shelf.documents}
    for field, values in STORED.items():
        present = {f"{field}{place}" for place in range(len(values))}
        shelf.ask("FIND-1", _where(field, "in", ()), expected=())
        shelf.ask("FIND-1", _where(field, "in", (None,)), expected=everything - present)
        shelf.ask("FIND-1", _where(field, "in", (None, *values)), expected=everything)
        shelf.ask("FIND-1", _where(field, "in", values), expected=present)
        shelf.ask("FIND-1", _where(field, "in", (values[0], values[0])), expected={f"{field}0"})
        for size in (1, 2, 3, 7):
            chosen = tuple(context.random.choices([*values, None], k=size))
            shelf.ask("FIND-1", _where(field, "in", chosen))
    shelf.ask(
        "FIND-1",
        _where("place", "in", (1, "1", None, True, 2.0, 1.5, [])),
        expected={"place1", "place3"} | {one for one in everything if not one.startswith("place")},
    )
    shelf.ask("FIND-1", _where("tag", "in", ("a", "b", "a", 1, True, "Ab")), expected={"tag12", "tag21"})
    shelf.ask("FIND-1", _where("flag", "in", (1, 0, "true")), expected=())
    many = [str(number) for number in range(-250, 250)]
    shelf.ask("FIND-1", _where("tag", "in", tuple(many)), expected={"tag6", "tag8", "tag9", "tag10"})
    shelf.ask("FIND-1", _where("place", "in", tuple(range(-489, 11))), expected={f"place{one}" for one in range(6)})
    halves = tuple(one / 2 for one in range(-400, 100))
    shelf.ask("FIND-1", _where("score", "in", halves))
    identifiers = [
        *(f"tag{place}" for place in range(1, 480)),
        "tag0",
        "TAG0",
        "none",
        *(f"x{one}" for one in range(17)),
    ]
    shelf.ask("FIND-1", _where("id", "in", tuple(identifiers)))


@check("FIND-1")
def equality_is_exact_inside_json(context: Context) -> None:
    """Asks a path into JSON for values of all kinds, by =, != and in."""
    shelf = _mixed(context)
    for value in MIXED:
        shelf.ask("FIND-1", _where("data.v", "=", value))
        shelf.ask("FIND-1", _where("data.v", "!=", value))
    null = {"v0", "empty", "list", "none"}
    everything = {one.id for one in shelf.documents}
    shelf.ask("FIND-1", _where("data.v", "=", None), expected=null)
    shelf.ask("FIND-1", _where("data.v", "!=", None), expected=everything - null)
    one, text = f"v{_placed(MIXED, 1)}", f"v{_placed(MIXED, 'a')}"
    shelf.ask("FIND-1", _where("data.v", "=", 1), expected={one})
    shelf.ask("FIND-1", _where("data.v", "=", 1.0), expected={one})
    shelf.ask("FIND-1", _where("data.v", "!=", 1), expected=everything - {one})
    shelf.ask("FIND-1", _where("data.v", "=", "a"), expected={text})
    shelf.ask("FIND-1", _where("data.v", "in", ()), expected=())
    shelf.ask("FIND-1", _where("data.v", "in", (None, 1, "a")), expected={one, text} | null)
    shelf.ask("FIND-1", _where("data.v", "in", (1.0, 2**53, "A ", [1, 2, 3])), expected={one, "v11"})
    for number in (2**53 + 1, 2**53, 2**53 + 2, 2**63 - 1, 2.0**63, 0.1, math.nextafter(0.1, 1), -1.5):
        shelf.ask("FIND-1", _where("data.v", "=", number))
    for size in (1, 2, 5, 9):
        shelf.ask("FIND-1", _where("data.v", "in", tuple(context.random.choices(MIXED, k=size))))
    shelf.ask("FIND-1", _where("data", "=", None), expected={"none"})
    shelf.ask("FIND-1", _where("data", "!=", None), expected=everything - {"none"})


@check("FIND-2")
def bounds_are_kept_in_declared_fields(context: Context) -> None:
    """Asks each declared field for what is below and above bounds that are stored, or next to what is stored."""
    shelf = _one_value_each(context)
    bounds: dict[str, tuple[Plain, ...]] = {
        "place": (
            0, 1, 5, 2**53, 2**53 + 1, -(2**53), 2**63 - 1, -(2**63), 0.0, 0.5, -0.5, 2.0**53, 2.0**63, -(2.0**63),
            1e300, -5e-324,
        ),
        "score": (
            0.0, -0.0, 0.1, math.nextafter(0.1, 1), math.nextafter(0.5, 0), 1.0, math.nextafter(1, 0), 5e-324,
            sys.float_info.max, -sys.float_info.max, 1, -1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63),
        ),
        "tag": ("", " ", "a", "a ", "A", "B", "á", "~", "\ue000", "\U00010000"),
        "note": ("", "a", "aaaa" * 100, "Z", "\uffff"),
        "moment": (TIMES[0], TIMES[3], TIMES[4], "2026-02-28T23:59:59.999999+00:01", TIMES[6]),
        "flag": (True,),
    }  # fmt: skip
    operators: tuple[Operator, ...] = ("<", "<=", ">", ">=")
    for field, values in bounds.items():
        for value, operator in itertools.product((*values, None), operators):
            shelf.ask("FIND-2", _where(field, operator, value))
    places: dict[Operator, set[int]] = {"<": {-1, 0}, "<=": {-1, 0, 1}, ">": {1, 2}, ">=": {0, 1, 2}}
    for operator, expected in places.items():
        near = (
            _where("place", ">", -2),
            _where("place", "<", 3),
            _where("place", operator, 0 if ">=" in operator else 1),
        )
        if operator == ">":
            near = (*near[:2], _where("place", ">", 0))
        names = {f"place{INTEGERS.index(one)}" for one in expected}
        shelf.ask("FIND-2", *near, expected=names)
    for field in bounds:
        for operator in operators:
            shelf.ask("FIND-2", _where(field, operator, None), expected=())


@check("FIND-2")
def bounds_are_kept_inside_json(context: Context) -> None:
    """Asks a path into JSON, where values of all kinds are, for what is below and above bounds."""
    shelf = _mixed(context)
    bounds: tuple[Plain, ...] = (
        None, 0, 1, 1.5, -1.5, 0.1, math.nextafter(0.1, 0), 2**53, 2**53 + 1, 2**63 - 1, 1e300, "", "0", "1", "a", "zz",
        "\uffff", "\U0010ffff", True, False, [], [1], {}, {"a": 1},
    )  # fmt: skip
    operators: tuple[Operator, ...] = ("<", "<=", ">", ">=")
    for value, operator in itertools.product(bounds, operators):
        shelf.ask("FIND-2", _where("data.v", operator, value))
    numbers = {name: f"v{_placed(MIXED, name)}" for name in (0, -1, -1.5, 0.1)}
    shelf.ask("FIND-2", _where("data.v", "<", 0.1), expected={numbers[one] for one in (0, -1, -1.5)})
    shelf.ask("FIND-2", _where("data.v", "<=", 0.1), expected=set(numbers.values()))
    shelf.ask("FIND-2", _where("data.v", ">", 2**53 + 1), expected={f"v{_placed(MIXED, 2**63 - 1)}"})
    shelf.ask("FIND-2", _where("data.v", "<=", ""), expected={f"v{_placed(MIXED, '')}"})


@check("FIND-3")
def every_comparison_counts(context: Context) -> None:
    """Asks for random combinations of up to five comparisons, contradictory and repeated ones among them, and none."""
    stored: dict[str, tuple[Plain, ...]] = {
        "family": ("f", "g", None),
        "tag": ("a", "b", "", None),
        "place": (None, *range(6)),
        "score": (None, -0.5, 0.0, 0.5, 1.5),
        "flag": (None, True, False),
        "data": (None, {"v": 1}, {"v": "a", "w": 2}, {"v": None}),
    }
    bodies = {f"d{number:03}": _drawn(context, stored) for number in range(160)}
    shelf = Shelf.fill(context, bodies)
    shelf.ask("FIND-3", expected=bodies)
    possible: list[tuple[str, list[Plain]]] = [
        ("family", ["f", "g", None, "h"]),
        ("tag", ["a", "b", "", None]),
        ("place", [0, 2, 3, 5, None, 2.5]),
        ("score", [-0.5, 0.0, 0.25, 1.5, None]),
        ("flag", [True, False, None]),
        ("data.v", [1, "a", None]),
        ("id", ["d000", "d080", "d159"]),
        ("revision", [0, 1, 2]),
    ]
    operators: list[Operator] = ["=", "=", "!=", "<", "<=", ">", ">="]
    for _ in range(120):
        where: list[Comparison] = []
        for _ in range(context.random.randint(2, 5)):
            field, values = context.random.choice(possible)
            if context.random.random() < 0.15:
                where.append(_where(field, "in", tuple(context.random.choices(values, k=2))))
            else:
                where.append(_where(field, context.random.choice(operators), context.random.choice(values)))
        shelf.ask("FIND-3", *where)
    for where in (
        [*equal(family="f", flag=True), _where("place", ">=", 2), _where("place", "<", 5)],
        [*equal(family="f", flag=True), _where("place", "<", 5), _where("place", ">=", 2), _where("place", "!=", 3)],
        [_where("place", "=", 1), _where("place", "=", 2)],
        [_where("place", ">", 3), _where("place", "<", 3)],
        [_where("tag", "=", "a"), _where("score", ">", -0.5), _where("score", "<=", 0.5)],
        [_where("tag", "=", None), _where("tag", "!=", None)],
        [_where("tag", "in", ("a", "b")), _where("tag", "!=", "a")],
        [_where("data.v", "=", 1), _where("data.v", "=", "a")],
        [_where("data.v", "=", "a"), _where("data.w", "=", 2), _where("family", "=", "f")],
        [_where("id", "=", "d080"), _where("tag", "!=", bodies["d080"]["tag"])],
        [_where("id", "=", "d080"), _where("tag", "=", bodies["d080"]["tag"]), _where("revision", "=", 1)],
    ):
        shelf.ask("FIND-3", *where)


@check("FIND-4")
def kinds_are_told_apart_in_declared_fields(context: Context) -> None:
    """Compares booleans, numbers and texts with values of another kind that databases take for the same."""
    shelf = _one_value_each(context)
    everything = {one.id for one in shelf.documents}
    for field, value in (
        ("flag", 1), ("flag", 0), ("flag", 1.0), ("flag", "true"), ("flag", "1"), ("flag", ""), ("place", True),
        ("place", False), ("place", "1"), ("place", ""), ("place", "0"), ("score", True), ("score", False),
        ("score", "0.5"), ("tag", 1), ("tag", 0), ("tag", True), ("tag", 10.0), ("note", 0), ("note", 1),
        ("note", False), ("moment", 0), ("moment", 1970), ("id", 1), ("id", True), ("revision", "1"),
        ("revision", True),
    ):  # fmt: skip
        shelf.ask("FIND-4", _where(field, "=", value), expected=())
        shelf.ask("FIND-4", _where(field, "!=", value), expected=everything)
        shelf.ask("FIND-4", _where(field, "in", (value,)), expected=())
        shelf.ask("FIND-4", _where(field, "<=", value), expected=())
        shelf.ask("FIND-4", _where(field, ">=", value), expected=())


@check("FIND-4")
def kinds_are_told_apart_inside_json(context: Context) -> None:
    """Compares booleans, numbers, texts, lists and null inside JSON with values of another kind."""
    shelf = _mixed(context)
    literal: tuple[tuple[Plain, set[str]], ...] = (
        (True, {f"v{_placed(MIXED, True)}"}),
        (False, {f"v{_placed(MIXED, False)}"}),
        (1, {f"v{_placed(MIXED, 1)}"}),
        (0, {f"v{_placed(MIXED, 0)}"}),
        ("1", {f"v{_placed(MIXED, '1')}"}),
        ("0", {f"v{_placed(MIXED, '0')}"}),
        ("true", {f"v{_placed(MIXED, 'true')}"}),
        ("null", {f"v{_placed(MIXED, 'null')}"}),
        ("", {f"v{_placed(MIXED, '')}"}),
        ("[1]", {f"v{_placed(MIXED, '[1]')}"}),
        ("{}", {f"v{_placed(MIXED, '{}')}"}),
        ([], {f"v{_placed(MIXED, [])}"}),
        ({}, {f"v{_placed(MIXED, {})}"}),
    )
    everything = {one.id for one in shelf.documents}
    for value, expected in literal:
        shelf.ask("FIND-4", _where("data.v", "=", value), expected=expected)
        shelf.ask("FIND-4", _where("data.v", "!=", value), expected=everything - expected)
        shelf.ask("FIND-4", _where("data.v", "in", (value, "x")), expected=expected)
    booleans, numbers = {f"v{_placed(MIXED, one)}" for one in (True, False)}, ("v3", "v4")
    for operator in ("<", "<=", ">", ">="):
        for value in (0, 1, "0", ""):
            found = {one.id for one in shelf.driver.find(ITEMS, (Comparison("data.v", operator, value),))}
            context.require(not found & booleans, "FIND-4", f"data.v {operator} {value!r} finds a boolean")
            if isinstance(value, str):
                context.require(found.isdisjoint(numbers), "FIND-4", f"data.v {operator} {value!r} finds a number")


_NAMES = (
    "a.b", ".", "..", "a.", ".a", "a..b", "", " ", "'", '"', "''", '"a"', "`", "\\", "\\.", "\\u0061", "$", "$set",
    "$.a", "$gt", "a$b", "[0]", "a[0]", "[*]", "*", "**", "?", "@", "#", "%", "_", "%s", ":x", "{", "{}", "0", "1",
    "-1", "00", "length", "id", "revision", "data", "v", "/", "a/b", "a b", "a\tb", "\n",
    "\x01", "é", "e\u0301", "É", "\u200b", "\U0001f40b", "\uffff", "--", ";", "null", "true", "__proto__",
    "constructor", "k" * 300, "->", "->>'$.a'", "))", "\ufeff", "'] = 1 OR 1 = 1 --",
)  # fmt: skip

_PATHS: tuple[tuple[str, Plain, Plain], ...] = (
    ("data.a.b.c", {"a": {"b": {"c": 1}}}, 1),
    ("data.a.b.c", {"a": {"b.c": 2}}, 2),
    ("data.a.b.c", {"a.b.c": 3}, 3),
    ("data.a.b.c", {"a.b.c": 4, "a": {"b.c": 5, "b": {"c": 6}}}, 4),
    ("data.a.b.c", {"a": {"b": {"c": 7}, "b.c": 8}}, 8),
    ("data.a.b.c", {"a.b.c": None, "a": {"b": {"c": 9}}}, 9),
    ("data.a.b.c", {"a.b": {"c": 10}}, 10),
    ("data.a.b.c", {"a": {"b": [{"c": 11}]}}, None),
    ("data.a.b.c", {"a": [{"b": {"c": 12}}]}, None),
    ("data.a.b.c", [{"a": {"b": {"c": 13}}}], None),
    ("data.a.b.c", {"a": {"b": "c"}}, None),
    ("data.a.b.c", {"a": {"b": {"c": None}}}, None),
    ("data.a.b.c", {"A": {"b": {"c": 14}}}, None),
    ("data.a.b.c", {"a": {"b": {"C": 15}}}, None),
    ("data.a.b.c", {"a": {"b": {"c": {"c": 16}}}}, {"c": 16}),
    ("data.a.0", {"a": ["x", "y"]}, None),
    ("data.a.0", {"a": {"0": "z"}}, "z"),
    ("data.0", [21, 22], None),
    ("data.0", {"0": 23}, 23),
    ("data.0", {"00": 24}, None),
    ("data.", {"": 31}, 31),
    ("data.", {"": {"": 32}}, {"": 32}),
    ("data..", {"": {"": 33}}, 33),
    ("data..", {".": 34, "": {"": 35}}, 34),
    ("data..x", {"": {"x": 36}}, 36),
    ("data..x", {".x": 37}, 37),
    ("data.x.", {"x": {"": 38}}, 38),
    ("data.x.", {"x.": 39}, 39),
    ("data.x.", {"x": 40}, None),
    ("data.data", {"data": 41}, 41),
    ("data.data.data", {"data": {"data": 42}}, 42),
    ("data.labels", {"labels": 43}, 43),
    ("labels.data", {"labels": 44}, None),
)
"""A path, what is stored in ``data``, and what is there."""


@check("FIND-5")
def paths_reach_into_json(context: Context) -> None:
    """Asks for values behind paths: nested, dotted, empty, numeric, through lists, and such as do not exist."""
    shelf = Shelf.fill(context, {f"p{place}": {"data": data} for place, (_, data, _) in enumerate(_PATHS)})
    for path in dict.fromkeys(path for path, _, _ in _PATHS):
        shelf.ask("FIND-5", _where(path, "=", None))
        shelf.ask("FIND-5", _where(path, "!=", None))
    for place, (path, _, value) in enumerate(_PATHS):
        where = (_where("id", "=", f"p{place}"), _where(path, "=", value))
        shelf.ask("FIND-5", *where, expected={f"p{place}"})
        shelf.ask("FIND-5", _where("id", "=", f"p{place}"), _where(path, "!=", value), expected=())
        if value is not None:
            shelf.ask("FIND-5", _where(path, "=", value))
            shelf.ask("FIND-5", _where(path, "in", (value,)))
    for path in ("data.a.b.c", "data.x.", "data.0"):
        for operator in ("<", ">="):
            shelf.ask("FIND-5", Comparison(path, operator, 30))


_READINGS: tuple[tuple[str, Plain, tuple[Plain, ...]], ...] = (
    ("data.a.b.c", {"a.b.c": 1, "a": {"b.c": 2, "b": {"c": 3}}, "a.b": {"c": 4}}, (1, 2, 3, 4)),
    ("data.a.b.c", {"a.b": {"c": {"d": 5}, "c.d": 6}, "a": {"b": 7}}, ({"d": 5},)),
    ("data.a.b", {"a.b": None, "a": {"b": 8}}, (None, 8)),
    ("data.a.b", {"a.b": "t", "a": {"b": True}}, ("t", True)),
    ("data..", {".": 9, "": {"": 10}}, (9, 10)),
    ("labels.x.y", {"x": {"y": 2.5}, "x.y": 1.5}, (2.5, 1.5)),
)
"""A path, what is stored in its field, and all that is there."""


@check("FIND-5")
def paths_are_read_in_every_way(context: Context) -> None:
    """Asks for each of the values of a path that can be read in several ways, and for what none of them is."""
    bodies: dict[str, Body] = {
        f"w{place}": {path.partition(".")[0]: stored} for place, (path, stored, _) in enumerate(_READINGS)
    }
    shelf = Shelf.fill(context, bodies)
    for place, (path, _, values) in enumerate(_READINGS):
        mine = _where("id", "=", f"w{place}")
        for value in values:
            shelf.ask("FIND-5", mine, _where(path, "=", value), expected={f"w{place}"})
            shelf.ask("FIND-5", mine, _where(path, "in", (value, "nothing")), expected={f"w{place}"})
            shelf.ask("FIND-5", mine, _where(path, "!=", value), expected=())
        shelf.ask("FIND-5", mine, _where(path, "!=", "nothing"), expected={f"w{place}"})
    shelf.ask("FIND-5", _where("data.a.b.c", "<", 2), expected={"w0"})
    shelf.ask("FIND-5", _where("data.a.b.c", ">=", 4), expected={"w0"})
    shelf.ask("FIND-5", _where("data.a.b.c", ">", 4), expected=())
    shelf.ask("FIND-5", _where("labels.x.y", ">", 2), expected={"w5"})


@check("FIND-12")
def names_stand_for_keys_as_they_are_stored(context: Context) -> None:
    """Asks for values behind keys that the codec escapes, and behind those that an earlier release stored as pairs."""
    names = ("~", "~x", "~~", "~=1", "~dict", "~x.y", "x.~y", "1", "-1.5", "true", "null")
    keys: tuple[str, ...] = ("~~", "~~x", "~~~", "~~=1", "~~dict", "~~x.y", "x.~y", "~=1", "~=-1.5", "~=true", "~=null")
    bodies: dict[str, Body] = {f"one{place}": {"data": {key: place}} for place, key in enumerate(keys)}
    bodies |= {f"deep{place}": {"labels": {"in": {key: {"~~": place}}}} for place, key in enumerate(keys)}
    old: tuple[Plain, ...] = ("~", "~x", "~~", "~=1", "~dict", "~x.y", "x.~y", 1, -1.5, True, None)
    bodies |= {f"old{place}": {"data": {"~dict": [[key, {"v": place}], ["b", 0]]}} for place, key in enumerate(old)}
    bodies["tuple"] = {"data": {'~={"~tuple":[1,"a"]}': "inside"}}
    shelf = Shelf.fill(context, bodies)
    for place, name in enumerate(names):
        shelf.ask("FIND-12", _where(f"data.{name}", "=", place), expected={f"one{place}"})
        shelf.ask("FIND-12", _where(f"data.{name}.v", "=", place), expected={f"old{place}"})
        shelf.ask("FIND-12", _where(f"data.{name}.v", ">=", place), _where("data.b", "=", 0), expected={f"old{place}"})
        shelf.ask("FIND-12", _where(f"labels.in.{name}.~", "in", (place, "x")), expected={f"deep{place}"})
    shelf.ask("FIND-12", _where('data.{"~tuple":[1,"a"]}', "=", "inside"), expected={"tuple"})
    shelf.ask("FIND-12", _where("data.~~x", "!=", None), expected=())


@check("FIND-13")
def tags_compare_as_what_they_stand_for(context: Context) -> None:
    """Compares infinities, large integers, times, sets and such, as the codec stores them."""
    values: dict[str, Plain] = {
        "nan": {"~float": "nan"},
        "inf": {"~float": "inf"},
        "least": {"~float": "-inf"},
        "large": {"~int": hex(2**70)},
        "one": 1,
        "most": sys.float_info.max,
        "text": {"~text": "YQBi"},  # a, NUL, b
        "time": {"~time": "2026-03-01T00:00:00.000000+00:00"},
        "set": {"~set": ["b", "a", 1]},
        "tuple": {"~tuple": [1, {"~float": "inf"}]},
        "old": {"~dict": [["~x", 1], ["y", {"~set": [2, 1]}]]},
    }
    shelf = Shelf.fill(context, {name: {"data": {"v": value}} for name, value in values.items()})
    everything = set(values)

    def ask(operator: Operator, value: Plain | tuple[Plain, ...], expected: set[str]) -> None:
        shelf.ask("FIND-13", _where("data.v", operator, value), expected=expected)

    for name, value in values.items():
        ask("=", value, {name})
        ask("in", (value, "nothing"), {name})
        ask("!=", value, everything - {name})
    ask("=", {"~set": [1, "a", "b"]}, {"set"})
    ask("=", {"~frozenset": [1, "a", "b"]}, set())
    ask("=", {"y": {"~set": [1, 2]}, "~~x": 1}, {"old"})
    ask(">", 1, {"inf", "large", "most"})
    ask(">", sys.float_info.max, {"inf"})
    ask("<=", 1, {"least", "one"})
    ask("<", {"~float": "inf"}, {"least", "large", "one", "most"})
    ask(">=", {"~int": hex(2**70)}, {"inf", "large", "most"})
    ask("=", 2.0**70, {"large"})
    ask(">", "a", {"text"})
    ask("<", "ab", {"text", "time"})
    ask(">", "2026-02", {"text", "time"})
    ask("<", {"~time": "2026-03-01T00:00:00.000001+00:00"}, {"time"})


@check("FIND-5")
def paths_reach_keys_of_any_signs(context: Context) -> None:
    """Asks for values behind keys of dots, quotes, dollars, wildcards, digits and such, last and within."""
    bodies: dict[str, Body] = {f"last{place}": {"data": {name: place}} for place, name in enumerate(_NAMES)}
    bodies |= {f"deep{place}": {"data": {"in": {name: place}}} for place, name in enumerate(_NAMES)}
    inner = [name for name in _NAMES if "." not in name]
    bodies |= {f"within{place}": {"labels": {name: {"x": place}}} for place, name in enumerate(inner)}
    shelf = Shelf.fill(context, bodies)
    for place, name in enumerate(_NAMES):
        shelf.ask("FIND-5", _where(f"data.{name}", "=", place), expected={f"last{place}"})
        shelf.ask("FIND-5", _where(f"data.in.{name}", "!=", None), expected={f"deep{place}"})
    for place, name in enumerate(inner):
        shelf.ask("FIND-5", _where(f"labels.{name}.x", "in", (place, "x")), expected={f"within{place}"})


@check("FIND-6")
def texts_are_compared_by_code_point(context: Context) -> None:
    """Asks a short text, a long text and a text in JSON for what is below and above each of many texts."""
    bodies: dict[str, Body] = {
        f"t{place}": {"tag": text, "note": text, "data": {"v": text}} for place, text in enumerate(TEXTS)
    }
    shelf = Shelf.fill(context, {**bodies, "none": {}})
    ordered = sorted(range(len(TEXTS)), key=lambda place: _code_points(TEXTS[place]))
    for rank, place in enumerate(ordered):
        below = {f"t{one}" for one in ordered[:rank]}
        above = {f"t{one}" for one in ordered[rank + 1 :]}
        shelf.ask("FIND-6", _where("tag", "<", TEXTS[place]), expected=below)
        shelf.ask("FIND-6", _where("tag", ">=", TEXTS[place]), expected={*above, f"t{place}"})
        if rank % 3 == 0 or ord(max(TEXTS[place], default="a")) > 0x7F:
            shelf.ask("FIND-6", _where("note", ">", TEXTS[place]), expected=above)
            shelf.ask("FIND-6", _where("data.v", "<=", TEXTS[place]), expected={*below, f"t{place}"})


@check("FIND-7")
def ids_and_revisions_are_compared(context: Context) -> None:
    """Compares ids of all sorts and revisions by every operator; keys of the body with these names change nothing."""
    names = (
        "a", "A", "a ", "á", "a\u0301", "ab", "0", "00", "1", "10", "9", "%", "a%", "_", "'", "\\", "id", "null", "a.b",
        "ß", "ss", "\ufffd", "\uffff", "\U00010000", "x" * 600, "x" * 599 + "y", "x" * 599, "\U0001f40b" * 600,
    )  # fmt: skip
    bodies: dict[str, Body] = {
        name: {"place": place, "id": names[place - 1], "revision": 7} for place, name in enumerate(names)
    }
    shelf = Shelf.fill(context, bodies)
    for name in names:
        shelf.ask("FIND-7", _where("id", "=", name), expected={name})
    operators: tuple[Operator, ...] = ("!=", "<", "<=", ">", ">=")
    for name, operator in itertools.product(
        ("", "a", "A", "b", "1", "\uffff", "\U0001f40b", "x" * 599, "x" * 600), operators
    ):
        shelf.ask("FIND-7", _where("id", operator, name))
    shelf.ask("FIND-7", _where("id", "=", None), expected=())
    shelf.ask("FIND-7", _where("id", "!=", None), expected=names)
    shelf.ask(
        "FIND-7", _where("id", "in", ("a", "b", None, 1, "\uffff", "a\u0301")), expected={"a", "\uffff", "a\u0301"}
    )
    shelf.ask("FIND-7", _where("id", "=", "a"), _where("id", "=", "ab"), expected=())
    shelf.ask("FIND-7", _where("id", ">", "0"), _where("id", "<", "9"), expected={"00", "1", "10"})
    shelf.ask("FIND-7", _where("revision", "=", 7), expected=())
    shelf.ask("FIND-7", _where("revision", "=", 1), expected=names)
    driver = shelf.driver
    for size in (2, 5, 9):
        driver.patch(ITEMS, (_where("place", "<", size),), {"note": "changed"})
    revised = Shelf(context, driver, tuple(driver.find(ITEMS)))
    counted = Counter(one.revision for one in revised.documents)
    context.equal("FIND-7", counted, {1: len(names) - 9, 2: 4, 3: 3, 4: 2}, "how often each revision is stored")
    for value in (0, 1, 2, 3, 4, 5, 2.0, 2.5, None, 2**63 - 1, -1):
        for operator in ("=", "!=", "<", "<=", ">", ">="):
            revised.ask("FIND-7", Comparison("revision", operator, value))
    revised.ask(
        "FIND-7", _where("revision", "in", (2, 4, 9, None)), expected=[names[one] for one in (0, 1, 5, 6, 7, 8)]
    )
    revised.ask("FIND-7", _where("id", "=", "a"), _where("revision", "=", 4), expected={"a"})
    revised.ask("FIND-7", _where("id", "=", "a"), _where("revision", "=", 3), expected=())


@check("FIND-8")
def limits_are_kept(context: Context) -> None:
    """Asks for at most so many of the documents that match, with and without an order, in fields and inside JSON."""
    places = list(range(120))
    context.random.shuffle(places)
    bodies: dict[str, Body] = {
        f"l{place:03}": {"family": "f", "flag": place % 3 == 0, "place": place, "data": {"v": place % 4}}
        for place in places
    }
    shelf = Shelf.fill(context, bodies)
    filters: tuple[Filter, ...] = (
        (),
        equal(family="f"),
        equal(family="f", flag=True),
        (_where("data.v", "=", 3),),
        (_where("data.v", "=", 3), *equal(flag=False)),
        (_where("place", ">", 100), _where("data.v", "!=", None)),
        (_where("place", ">", 117),),
        equal(family="g"),
    )
    orders = ((), (Order("place"),), (Order("place", descending=True),), (Order("id"),))
    for where, order in itertools.product(filters, orders):
        matching = [one.id for one in shelf.matching(where)]
        for limit in (0, 1, 2, 7, len(matching), len(matching) + 1, 1000):
            found = [one.id for one in shelf.driver.find(ITEMS, where, order, limit)]
            what = told(where, order, limit)
            if order:
                expected = sorted(matching, reverse=order[0].descending)[:limit]
                context.equal("FIND-8", found, expected, what)
                continue
            context.equal("FIND-8", len(found), min(limit, len(matching)), f"{what}: how many are found")
            context.require(set(found) <= set(matching), "FIND-8", f"{what}: finds what does not match")
            context.require(len(set(found)) == len(found), "FIND-8", f"{what}: finds a document twice")


_COMMANDS = (
    "'", '"', "''", "' OR '1'='1", '" OR ""="', "'; DROP TABLE items; --", "x'); DELETE FROM items; --", "\\", "\\'",
    '\\"', "\\\\", "a\\", "%", "_", "a%", "%a%", "*", "a*", "?", "a?", "[a-z]", "^a", ".*", "a|b", "(", ")", "()", "$1",
    "$ne", "${x}", "#{x}", "{{x}}", ":p", ":p0", ":1", "@p", "%s", "%(x)s", "%d", "?1", "?0", "--", "/*", "*/", ";",
    "#", "NULL", "null", "nil", "true", "false", "NaN", "DEFAULT", "CURRENT_TIMESTAMP", "0x41", "x'41'", "E'\\n'",
    "$$a$$", "`", "`id`", '"id"', "[id]", "items", "\r\nSET x 1\r\n", "*3\r\n$3\r\nDEL\r\n", "redis.call('FLUSHALL')",
    "]]", "\n", '{"$ne": null}', '{"$gt": ""}', "$where", "function() { return true }", "<script>", "&amp;", "+", "a b",
    "\x1a",
)  # fmt: skip
"""Texts that a backend that builds commands from values would run, or match as patterns."""


@check("FIND-9", limit=300.0)
def values_are_never_commands(context: Context) -> None:
    """Finds, changes and deletes by texts that some database would run as a command or match as a pattern."""
    bodies: dict[str, Body] = {
        text: {"family": text, "name": text, "note": text, "data": {"v": text}} for text in _COMMANDS
    }
    for plain in ("a", "ab", "abc", "a\\x", "id", "1", "0", "A", "xay"):
        bodies[plain] = {"family": plain, "name": plain, "note": plain, "data": {"v": plain}}
    operators: tuple[Plain, ...] = ({"$gt": ""}, {"$ne": None}, {"$exists": True}, {"$regex": "."}, {"$in": ["a"]})
    for place, value in enumerate(operators):
        bodies[f"operator{place}"] = {"data": {"v": value}}
    shelf = Shelf.fill(context, bodies)
    for text in _COMMANDS:
        shelf.ask("FIND-9", _where("family", "=", text), expected={text})
        shelf.ask("FIND-9", _where("note", "in", (text, "no such text")), expected={text})
        shelf.ask("FIND-9", _where("data.v", "=", text), expected={text})
        shelf.ask("FIND-9", _where("id", "=", text), expected={text})
        shelf.ask("FIND-9", _where("family", ">=", text), _where("name", "<=", text), expected={text})
    for place, value in enumerate(operators):
        shelf.ask("FIND-9", _where("data.v", "=", value), expected={f"operator{place}"})
    driver = shelf.driver
    for text in _COMMANDS[::3]:
        patched = driver.patch(ITEMS, (*equal(family=text, note=text), _where("data.v", "=", text)), {"tag": text})
        context.equal("FIND-9", patched, 1, f"how many are changed by {shown(text)}")
        shelf.compare("FIND-9", f"tag = {shown(text)}", [one.id for one in driver.find(ITEMS, equal(tag=text))], [text])
        context.equal("FIND-9", driver.count(ITEMS, equal(tag=text)), 1, f"how many have the tag {shown(text)}")
    for text in _COMMANDS[1::3]:
        context.equal("FIND-9", driver.delete(ITEMS, equal(note=text)), 1, f"how many are deleted by {shown(text)}")
    left = set(bodies) - set(_COMMANDS[1::3])
    shelf.compare("FIND-9", "everything, after deletions", [one.id for one in driver.find(ITEMS)], left)


# Order


def _sort_key(document: Document, field: str) -> tuple[bool, Plain]:
    value = document.id if field == "id" else document.body.get(field)
    return value is not None, 0 if value is None else value


def _sorted_keys(documents: Iterable[Document], order: Sequence[Order]) -> list[tuple[tuple[bool, Plain], ...]]:
    """What each document is ordered by, in the order asked for; equals look alike."""
    found = [tuple(_sort_key(one, by.field) for by in order) for one in documents]
    for place in reversed(range(len(order))):
        found.sort(key=lambda key: key[place], reverse=order[place].descending)
    return found


def _ask_in_order(
    shelf: Shelf, requirement: str, order: Sequence[Order], where: Filter = (), limit: int | None = None
) -> None:
    """Find in order; documents that are equal in it may change places."""
    found = shelf.driver.find(ITEMS, where, order, limit)
    keys = [tuple(_sort_key(one, by.field) for by in order) for one in found]
    expected = _sorted_keys(shelf.matching(where), order)[:limit]
    what = told(where, order, limit)
    for place, (key, wanted) in enumerate(zip(keys, expected, strict=False)):
        if key != wanted:
            values, others = ([shown(value) if there else "null" for there, value in one] for one in (wanted, key))
            shelf.context.fail(requirement, f"{what}: expected {', '.join(values)} at {place}, got {', '.join(others)}")
    if limit is None:
        shelf.compare(requirement, what, [one.id for one in found], [one.id for one in shelf.matching(where)])
    shelf.context.equal(requirement, len(found), len(expected), f"{what}: how many are found")


def _scattered(context: Context) -> Shelf:
    """Documents with few values of each field, in many combinations, some null."""
    values: dict[str, tuple[Plain, ...]] = {
        "family": ("f", "g", None),
        "tag": ("a", "b", "B", None),
        "place": (None, *range(-2, 5)),
        "amount": (None, 9, 10, 100),
        "score": (None, -0.5, 0.5, 1.5, 10.5),
        "flag": (True, False, None),
        "moment": (None, *TIMES),
        "note": (None, "", "x", "X", "xx"),
    }
    return Shelf.fill(context, {f"o{number:03}": _drawn(context, values) for number in range(150)})


_SORTABLE = ("id", "family", "tag", "note", "place", "amount", "score", "flag", "moment")


def up(field: str) -> Order:
    """Ascending."""
    return Order(field)


def down(field: str) -> Order:
    """Descending."""
    return Order(field, descending=True)


@check("ORDER-1")
def documents_come_in_order(context: Context) -> None:
    """Asks for one field, several fields and mixed directions, with filters and limits that suit an index or do not."""
    shelf = _scattered(context)
    for field, direction in itertools.product(_SORTABLE, (up, down)):
        _ask_in_order(shelf, "ORDER-1", [direction(field)], (_where(field, "!=", None),))
    present = (_where("place", "!=", None), _where("tag", "!=", None), _where("score", "!=", None))
    orders = (
        [up("tag"), up("score")],
        [down("tag"), down("score")],
        [up("tag"), down("score")],
        [down("tag"), up("score")],
        [up("tag"), down("score"), up("place")],
        [up("tag"), down("score"), up("place"), down("id")],
        [down("score"), up("id")],
        [up("place"), up("tag"), up("id")],
        [down("place"), down("id")],
        [up("id")],
        [down("id")],
        [up("score"), down("tag"), down("id")],
    )
    for order in orders:
        _ask_in_order(shelf, "ORDER-1", order, present)
        _ask_in_order(shelf, "ORDER-1", order, (*present, *equal(family="f", flag=True)))
        _ask_in_order(shelf, "ORDER-1", order, (*present, *equal(family="f")), 5)
        _ask_in_order(shelf, "ORDER-1", order, (*present, *equal(tag="a")), 3)
    for _ in range(30):
        fields = context.random.sample(_SORTABLE, context.random.randint(2, 4))
        order = [Order(field, descending=context.random.random() < 0.5) for field in fields]
        where = tuple(_where(field, "!=", None) for field in fields)
        _ask_in_order(shelf, "ORDER-1", order, where, context.random.choice([None, 1, 4, 20]))
    claimed = shelf.driver.claim(ITEMS, equal(family="f", flag=True), {"note": "claimed"}, [down("place"), up("id")])
    first = _sorted_keys(shelf.matching(equal(family="f", flag=True)), [down("place"), up("id")])[0]
    context.require(claimed is not None, "ORDER-1", "a claim in order finds nothing")
    assert claimed is not None
    context.equal("ORDER-1", claimed.id, first[1][1], "the first in order, as a claim takes it")


@check("ORDER-2")
def null_comes_first(context: Context) -> None:
    """Orders by each field where it is null in some documents: null first ascending, last descending."""
    shelf = _scattered(context)
    driver = shelf.driver
    for field in _SORTABLE[1:]:
        nulls = sum(one.body[field] is None for one in shelf.documents)
        for descending in (False, True):
            found = [one.body.get(field) is None for one in driver.find(ITEMS, (), [Order(field, descending)])]
            null_at = [place for place, is_null in enumerate(found) if is_null]
            first = len(shelf.documents) - nulls if descending else 0
            what = f"{told((), [Order(field, descending)])}: the first of {nulls} nulls, and how many follow it at once"
            together = sum(place < null_at[0] + nulls for place in null_at) if null_at else 0
            context.equal("ORDER-2", (null_at[:1], together), ([first], nulls), what)
            _ask_in_order(shelf, "ORDER-2", [Order(field, descending)], limit=nulls + 2)
            _ask_in_order(shelf, "ORDER-2", [Order(field, descending), Order("id", descending)])
            _ask_in_order(shelf, "ORDER-2", [Order(field, descending), Order("id", not descending)], equal(family="f"))
    for first, second in ((False, False), (True, True), (False, True), (True, False)):
        order = [Order("place", first), Order("score", second)]
        _ask_in_order(shelf, "ORDER-2", order)
        _ask_in_order(shelf, "ORDER-2", order, equal(family="f", flag=True))
        _ask_in_order(shelf, "ORDER-2", order, equal(family="f"), 12)
        _ask_in_order(shelf, "ORDER-2", [Order("place", first)], equal(family="g", flag=None))
        _ask_in_order(shelf, "ORDER-2", [Order("place", first)], (_where("tag", "in", ("a", None)),), 30)
    missing = [Document("missing", {"family": "h"}), Document("present", {"family": "h", "place": -(2**63), "tag": ""})]
    driver.insert(ITEMS, missing)
    for field, descending in itertools.product(("place", "tag"), (False, True)):
        found_ids = [one.id for one in driver.find(ITEMS, equal(family="h"), [Order(field, descending)])]
        expected_ids = ["present", "missing"] if descending else ["missing", "present"]
        context.equal("ORDER-2", found_ids, expected_ids, told((), [Order(field, descending)]))


@check("ORDER-3")
def values_are_ordered_by_their_kind(context: Context) -> None:
    """Orders numbers near the ends of precision, texts of all planes, and times, and finds them in known order."""
    by_code_point = sorted(TEXTS, key=_code_points)
    values: dict[str, Sequence[Plain]] = {
        "place": sorted(INTEGERS),
        "score": sorted(FLOATS),
        "tag": by_code_point,
        "note": by_code_point,
        "moment": sorted(TIMES),
        "flag": (False, True),
    }
    bodies: dict[str, Body] = {}
    for field, ordered in values.items():
        for place, value in enumerate(ordered):
            bodies[f"{field}{place}"] = {field: value, "family": field}
    names = list(bodies)
    context.random.shuffle(names)
    shelf = Shelf.fill(context, {name: bodies[name] for name in names})
    for field, ordered in values.items():
        for descending in (False, True):
            expected = [f"{field}{place}" for place in range(len(ordered))]
            expected = expected[::-1] if descending else expected
            order = [Order(field, descending)]
            for limit in (None, len(ordered) // 2):
                found = [one.id for one in shelf.driver.find(ITEMS, equal(family=field), order, limit)]
                wrong = next((place for place, name in enumerate(found) if name != expected[place]), None)
                if wrong is not None:
                    context.fail(
                        "ORDER-3",
                        f"{told((), order, limit)}: expected {shown(bodies[expected[wrong]][field])} at {wrong}, "
                        f"got {shown(bodies[found[wrong]][field])}",
                    )
                context.equal("ORDER-3", len(found), len(expected[:limit]), f"{told((), order, limit)}: how many")
    identifiers = [text for text in by_code_point if text]
    shelf.driver.insert(ITEMS, [Document(name, {"family": "ids"}) for name in identifiers])
    for descending in (False, True):
        found = [one.id for one in shelf.driver.find(ITEMS, equal(family="ids"), [Order("id", descending)])]
        context.equal("ORDER-3", found, identifiers[::-1] if descending else identifiers, "ids in order")


# get, count, tally


@check("GET-1")
def get_returns_the_document_of_an_id(context: Context) -> None:
    """Gets each document by its id, and nothing by ids that are only alike, gone, or of another collection."""
    names = ["a", "B", "c ", "á", "x" * 600, "%", "*", "it's", "1", "\U0001f40b", "a.b", "a/b", "~", "null"]
    driver = context.open()
    documents = {name: Document(name, {"place": place, "loose": [name]}) for place, name in enumerate(names)}
    driver.insert(ITEMS, list(documents.values()))
    driver.insert(NOTES, [Document("note", {"title": "t"}), Document("a", {"title": "a"})])
    for name, document in documents.items():
        found = driver.get(ITEMS, name)
        context.require(found is not None, "GET-1", f"get of the id {shown(name)} returns None")
        assert found is not None
        context.equal("GET-1", (found.id, found.revision), (name, 1), f"id and revision of {shown(name)}")
        for field in ("place", "loose"):
            context.equal("GET-1", found.body.get(field), document.body[field], f"{field} of {shown(name)}")
    alike = [
        "A",
        "b",
        "c",
        "C ",
        " a",
        "a ",
        "a\u0301",
        "x" * 599,
        "x" * 599 + "X",
        "_",
        "%%",
        "",
        "its",
        "01",
        "a.",
        "b.a",
    ]
    for name in (*alike, "note", "NULL", "None", "no such id"):
        context.equal("GET-1", driver.get(ITEMS, name), None, f"get of the id {shown(name)}, which is not there")
    other = driver.get(NOTES, "a")
    context.equal("GET-1", other and other.body.get("title"), "a", "the document of the same id in another collection")
    driver.patch(ITEMS, equal(id="B"), {"place": 99})
    changed = driver.get(ITEMS, "B")
    context.equal(
        "GET-1", changed and (changed.revision, changed.body["place"]), (2, 99), "a document that was changed"
    )
    driver.delete(ITEMS, equal(id="a"))
    context.equal("GET-1", driver.get(ITEMS, "a"), None, "get of the id 'a', which was deleted")
    context.require(driver.get(NOTES, "a") is not None, "GET-1", "a deletion in one collection is seen in another")


_FAMILIES: tuple[Plain, ...] = ("f", "F", "g", "", None)
_TAGS: tuple[Plain, ...] = ("a", "A", "a ", "", None, "á")


def _families(context: Context) -> dict[str, Body]:
    """Bodies for counting: each family with each tag, seven times."""
    values: dict[str, tuple[Plain, ...]] = {
        "place": (None, 0, 1, 2),
        "score": (None, 0.0, 0.5, 1.0),
        "flag": (None, True, False),
        "note": (None, "1", "true", "n"),
        "moment": (None, *TIMES[:3]),
        "data": (None, {"v": 1}, {"v": "1"}, [1]),
        "labels": ({}, [], {"a": 1}),
    }
    bodies: dict[str, Body] = {}
    for number in range(210):
        family, tag = _FAMILIES[number % 5], _TAGS[number // 5 % 6]
        bodies[f"c{number:03}"] = {**_drawn(context, values), "family": family, "tag": tag, "amount": number}
    return bodies


def _changed_in_all_ways(shelf: Shelf) -> Shelf:
    """The same after patches, claims, swaps, deletions and more inserts."""
    driver = shelf.driver
    driver.patch(ITEMS, (*equal(family="f", tag="a"), _where("amount", "<", 120)), {"tag": "moved"})
    driver.patch(ITEMS, equal(family="g"), {"tag": None})
    driver.delete(ITEMS, equal(family="F", tag="A"))
    for _ in range(3):
        driver.claim(ITEMS, equal(family="f", tag=""), {"family": "claimed"}, [Order("amount")])
    for one in driver.find(ITEMS, equal(family="f", tag="a "), limit=4):
        driver.swap(ITEMS, Document(one.id, {**one.body, "family": "swapped"}), one.revision)
    driver.insert(ITEMS, [Document(f"late{place}", {"family": "f", "tag": "late", "flag": True}) for place in range(5)])
    return Shelf(shelf.context, driver, tuple(driver.find(ITEMS)))


@check("COUNT-1", limit=300.0)
def counts_are_those_of_the_documents(context: Context) -> None:
    """Counts by many filters, by family and tag above all, before and after changes of every sort."""
    shelf = Shelf.fill(context, _families(context))
    filters: list[Filter] = [equal(family=family, tag=tag) for family in (*_FAMILIES, "no") for tag in (*_TAGS, "no")]
    filters += [equal(family=family) for family in (*_FAMILIES, "claimed", "swapped")]
    filters += [equal(family="f", tag="moved"), equal(family="f", tag="late"), equal(tag="late", family="f")]
    filters += [
        (),
        equal(tag="a"),
        equal(flag=True),
        equal(flag=None),
        equal(id="c007"),
        equal(id="no"),
        (_where("tag", "!=", "a"),),
        (_where("tag", "in", ("a", "", None)),),
        (_where("tag", "in", ()),),
        (*equal(family="f"), _where("tag", "in", ("a", "A", "late"))),
        (*equal(family="f"), _where("tag", "!=", "a")),
        (*equal(family="f", tag="a"), _where("place", ">", 0)),
        (*equal(family="f", tag="a"), _where("data.v", "=", 1)),
        (*equal(family="f", tag="a"), *equal(family="g")),
        (*equal(family="f", tag="a"), *equal(tag="A")),
        (*equal(family="f", tag="a"), *equal(family="f")),
        (_where("data.v", "=", 1),),
        (_where("data.v", "!=", 1),),
        (_where("place", ">=", 1), _where("place", "<", 2)),
        (_where("revision", "=", 1),),
        (_where("id", "in", tuple(f"c{number:03}" for number in range(0, 500, 2))),),
    ]
    for current in (shelf, None):
        now = current or _changed_in_all_ways(shelf)
        for where in filters:
            context.equal(
                "COUNT-1", now.driver.count(ITEMS, where), len(now.matching(where)), f"the count of {told(where)}"
            )
    context.equal("COUNT-1", shelf.driver.count(NOTES), 0, "the count of an empty collection")
    again = context.open()
    for where in filters[:8]:
        context.equal("COUNT-1", again.count(ITEMS, where), len(now.matching(where)), f"reopened, {told(where)}")
    shelf.driver.delete(ITEMS, ())
    for where in ((), equal(family="f"), equal(family="f", tag="a")):
        context.equal(
            "COUNT-1", shelf.driver.count(ITEMS, where), 0, f"after all were deleted, the count of {told(where)}"
        )


def _tallied(documents: Collection[Document], field: str) -> dict[tuple[bool, Plain], int]:
    """What a tally must say; a boolean is not the number that it equals."""
    values = (one.body.get(field) for one in documents)
    return dict(Counter((isinstance(one, bool), one) for one in values if not isinstance(one, (list, dict))))


@check("TALLY-1", limit=300.0)
def tallies_count_by_value(context: Context) -> None:
    """Tallies fields of every kind, with the filter that the schema declares and others, before and after changes."""
    shelf = Shelf.fill(context, _families(context))
    filters: list[Filter] = [
        *(equal(family=family) for family in (*_FAMILIES, "no", "claimed", "swapped")),
        (),
        equal(flag=True),
        (*equal(family="f"), _where("place", ">", 0)),
        (*equal(family="f"), _where("data.v", "=", 1)),
        (*equal(family="f"), _where("tag", "!=", "a")),
        (*equal(family="f"), *equal(tag="a")),
        (*equal(family="f"), *equal(family="g")),
        (_where("family", "in", ("f", "g")),),
        (_where("family", "!=", "f"),),
        (_where("id", "<", "c100"),),
    ]
    for current in (shelf, None):
        now = current or _changed_in_all_ways(shelf)
        for where in filters:
            _check_tally(now, where, "tag")
        for field in ("place", "score", "flag", "note", "moment", "family", "data", "labels"):
            for where in ((), equal(family="f"), (_where("place", ">=", 1),)):
                _check_tally(now, where, field)
    driver = shelf.driver
    context.equal("TALLY-1", driver.tally(NOTES, (), "title"), {}, "the tally of an empty collection")
    large = (2**53, 2**53 + 1, 2**53 + 1, 2**63 - 1, 2**63 - 2, -(2**63))
    near: list[Body] = [{"place": one, "score": 0.1} for one in large]
    near += [{"score": one} for one in (math.nextafter(0.1, 1), 0.0, -0.0)]
    driver.insert(ITEMS, [Document(f"near{place}", {"family": "near", **body}) for place, body in enumerate(near)])
    places = {2**53: 1, 2**53 + 1: 2, 2**63 - 1: 1, 2**63 - 2: 1, -(2**63): 1, None: 3}
    scores = {0.1: 6, math.nextafter(0.1, 1): 1, 0.0: 2}
    context.equal("TALLY-1", driver.tally(ITEMS, equal(family="near"), "place"), places, "the tally of large integers")
    context.equal("TALLY-1", driver.tally(ITEMS, equal(family="near"), "score"), scores, "the tally of near floats")
    late = equal(family="f", tag="late")
    driver.patch(ITEMS, late, {"tag": "gone"})
    tally = driver.tally(ITEMS, equal(family="f"), "tag")
    context.equal(
        "TALLY-1", (tally.get("gone"), "late" in tally), (5, False), "the tally after all of a tag were changed"
    )
    driver.delete(ITEMS, equal(family="f", tag="gone"))
    context.require(
        "gone" not in driver.tally(ITEMS, equal(family="f"), "tag"), "TALLY-1", "a tag of which all are gone is tallied"
    )
    driver.delete(ITEMS, ())
    for field in ("tag", "flag", "place"):
        context.equal(
            "TALLY-1", driver.tally(ITEMS, equal(family="f"), field), {}, f"the tally of {field} when all are gone"
        )


def _check_tally(shelf: Shelf, where: Filter, field: str) -> None:
    found = shelf.driver.tally(ITEMS, where, field)
    counted: dict[tuple[bool, Plain], int] = {(isinstance(value, bool), value): count for value, count in found.items()}
    expected = _tallied(shelf.matching(where), field)
    wrong = [
        f"{shown(one[1])}: {counted.get(one, 'nothing')} instead of {expected.get(one, 'nothing')}"
        for one in {**counted, **expected}
        if counted.get(one) != expected.get(one)
    ]
    shelf.context.require(not wrong, "TALLY-1", f"the tally of {field} for {told(where)} has {'; '.join(wrong[:3])}")
