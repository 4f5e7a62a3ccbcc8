"""Level 1: swap, patch, claim and delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from moorage.driver import Document, Increment, changed
from moorage.errors import UniqueViolation, shown
from moorage.filters import Comparison, Order, equal, matches
from moorage_conformance.checking import check
from moorage_conformance.checks.finding import told
from moorage_conformance.checks.values import body_difference
from moorage_conformance.target import ITEMS, NOTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from moorage.codec import Plain
    from moorage.driver import Changes, Driver
    from moorage.filters import Filter
    from moorage_conformance.context import Context

Body: TypeAlias = "dict[str, Plain]"


_LOOKUPS: tuple[Filter, ...] = (
    equal(family="f"),
    equal(family="f", name="n1"),
    equal(family="f", flag=True),
    equal(family="f", flag=False, place=7),
    (*equal(family="g"), Comparison("place", ">=", 3)),
    equal(tag="t1"),
    equal(tag="new"),
    equal(tag=None),
    (*equal(tag="t2"), Comparison("score", "<", 5.5)),
    (Comparison("revision", ">", 1),),
)
"""Filters that an index serves; what they find must follow every change."""


@attrs.define
class Ledger:
    """What a driver must hold, kept up by hand next to what it was told."""

    context: Context
    driver: Driver
    documents: dict[str, Document]

    @classmethod
    def open(cls, context: Context, documents: Iterable[Document]) -> Ledger:
        """Store documents in a fresh storage."""
        ledger = cls(context, context.open(), {})
        ledger.insert(*documents)
        return ledger

    def insert(self, *documents: Document) -> None:
        """Store more."""
        refused = self.driver.insert(ITEMS, documents)
        self.context.require(not refused, self._first, f"documents were refused: {shown(refused)}")
        self.documents |= {one.id: Document(one.id, dict(one.body), 1) for one in documents}

    @property
    def _first(self) -> str:
        return self.context.check.requirements[0]

    def matching(self, where: Filter) -> list[str]:
        """The ids of those that match."""
        return [one.id for one in self.documents.values() if matches(where, one.id, one.revision, one.body)]

    def put(self, identifier: str, body: Body) -> None:
        """A change of one document."""
        self.documents[identifier] = Document(identifier, body, self.documents[identifier].revision + 1)

    def verify(self, requirement: str, when: str) -> None:
        """What is stored is exactly what is in this ledger: ids, bodies and revisions."""
        found = {one.id: one for one in self.driver.find(ITEMS)}
        missing, surplus = sorted(self.documents.keys() - found), sorted(found.keys() - self.documents)
        self.context.require(
            not missing, requirement, f"{when}, {len(missing)} documents are gone, such as {missing[:1]}"
        )
        self.context.require(not surplus, requirement, f"{when}, {len(surplus)} are there again, such as {surplus[:1]}")
        for name, expected in self.documents.items():
            self.same(requirement, f"{when}, the document {shown(name)}", expected, found[name])
        for where in self.context.random.sample(_LOOKUPS, 2):
            names = sorted(one.id for one in self.driver.find(ITEMS, where))
            self.context.equal(
                requirement, names, sorted(self.matching(where)), f"{when}, what is found by {told(where)}"
            )

    def same(self, requirement: str, what: str, expected: Document, actual: Document | None) -> None:
        """Both are the same, in body and revision."""
        self.context.require(actual is not None, requirement, f"{what} is not there")
        assert actual is not None
        self.context.equal(requirement, actual.id, expected.id, f"{what}: its id")
        how = body_difference(expected.body, actual.body)
        self.context.require(how is None, requirement, f"{what}: {how}")
        self.context.equal(requirement, actual.revision, expected.revision, f"{what}: its revision")


def _full(place: int, **more: Plain) -> Body:
    """A body with each field, and with keys that are not declared."""
    return {
        "family": "f" if place % 2 else "g",
        "name": f"n{place}",
        "tag": f"t{place % 3}",
        "note": f"note {place}",
        "place": place,
        "amount": place * 10,
        "score": place / 4,
        "flag": place % 2 == 0,
        "moment": f"2026-01-01T00:00:{place % 60:02}.000001+00:00",
        "data": {"v": place, "w": {"x": [place]}},
        "labels": ["a", place],
        "loose": {"kept": place},
        "also loose": None,
        **more,
    }


def _documents(count: int) -> list[Document]:
    return [Document(f"i{place}", _full(place)) for place in range(count)]


# swap


@check("SWAP-1")
def swap_replaces_the_whole_body(context: Context) -> None:
    """Swaps bodies for such with more, fewer, other and the same fields, and compares all documents."""
    ledger = Ledger.open(context, _documents(6))
    driver = ledger.driver
    driver.insert(NOTES, [Document("i1", {"title": "i1"})])
    bodies: list[Body] = [
        {"place": 1, "data": {"w": 2}},
        {},
        _full(1),
        _full(1),
        {"also loose": [None], "flag": False, "score": 0.5},
        {"other": 1},
        {"other": 1},
        {"family": None, "note": "", "labels": []},
        {"family": "f", "name": "n1"},
        _full(99),
    ]
    for turn, body in enumerate(bodies):
        revision = ledger.documents["i1"].revision
        given = Document("i1", body, (0, revision + 5, 1, revision)[turn % 4])
        context.equal("SWAP-1", driver.swap(ITEMS, given, revision), True, f"what swap {turn + 1} returns")
        ledger.put("i1", body)
        ledger.same("SWAP-1", f"after swap {turn + 1}, get", ledger.documents["i1"], driver.get(ITEMS, "i1"))
    for revision in range(len(bodies) + 1, len(bodies) + 15):
        body = {"place": revision}
        context.equal(
            "SWAP-1", driver.swap(ITEMS, Document("i1", body), revision), True, f"a swap of revision {revision}"
        )
        ledger.put("i1", body)
    ledger.verify("SWAP-1", "after swaps of one of them")
    context.equal("SWAP-1", driver.find(ITEMS, equal(tag="t1", id="i1")), [], "what is found by a field that is gone")
    context.equal(
        "SWAP-1", [one.id for one in driver.find(ITEMS, equal(place=24))], ["i1"], "what is found by a new field"
    )
    other = driver.get(NOTES, "i1")
    context.equal(
        "SWAP-1",
        other and (other.revision, other.body["title"]),
        (1, "i1"),
        "the document of this id in another collection",
    )
    driver.close()
    ledger.driver = context.open()
    ledger.verify("SWAP-1", "after reopening")


@check("SWAP-2")
def swap_expects_the_revision(context: Context) -> None:
    """Swaps documents that are missing, deleted, or of another revision, and compares what is stored."""
    ledger = Ledger.open(context, _documents(4))
    driver = ledger.driver
    new: Body = {"place": -1, "other": True}
    for revision in (2, 5):
        driver.swap(ITEMS, Document("i2", {"place": revision}), ledger.documents["i2"].revision)
        ledger.put("i2", {"place": revision})
    driver.patch(ITEMS, equal(id="i3"), {"place": 7})
    ledger.put("i3", {**ledger.documents["i3"].body, "place": 7})
    driver.delete(ITEMS, equal(id="i0"))
    del ledger.documents["i0"]
    wrong = {"i1": (0, 2, 3, -1, 2**40), "i2": (1, 2, 4, 0, 2**63 - 1), "i3": (1, 3)}
    wrong |= dict.fromkeys(("i0", "missing", "I1", "i1 ", "i", "í1"), (0, 1, 2))
    for name, revisions in wrong.items():
        for revision in revisions:
            what = f"a swap of {shown(name)} that expects revision {revision}"
            for given in (revision, 1):
                context.equal("SWAP-2", driver.swap(ITEMS, Document(name, new, given), revision), False, what)
        ledger.verify("SWAP-2", f"after swaps of {shown(name)} that return False")
    context.equal(
        "SWAP-2", driver.swap(NOTES, Document("i1", {"title": "x"}), 1), False, "a swap in another collection"
    )
    context.equal("SWAP-2", driver.find(NOTES), [], "what is in the other collection")
    context.equal("SWAP-2", driver.find(ITEMS, equal(place=-1)), [], "what is found of bodies that were not stored")
    context.equal("SWAP-2", driver.count(ITEMS, equal(place=-1)), 0, "how many there are of them")


@check("SWAP-3")
def swap_keeps_unique_keys(context: Context) -> None:
    """Swaps documents into keys that are taken, free, their own, null, and only alike."""
    ledger = Ledger.open(
        context, [Document(name, {"family": "f", "name": name, "place": 1}) for name in ("a", "b", "c")]
    )
    driver = ledger.driver
    ledger.insert(Document("null", {"family": "f", "name": None}), Document("none", {}))
    for name, revision in (("b", 1), ("null", 1), ("none", 1)):
        with context.raises("SWAP-3", UniqueViolation, f"a swap of {name!r} into the key of 'a'") as caught:
            driver.swap(ITEMS, Document(name, {"family": "f", "name": "a", "place": 2}), revision)
        context.equal("SWAP-3", caught[0].key, ("family", "name"), "the key that is named")
        ledger.verify("SWAP-3", f"after a swap of {name!r} into a key that is taken")
    context.equal("SWAP-3", driver.find(ITEMS, equal(place=2)), [], "what is found of the refused bodies")
    allowed: tuple[tuple[str, Body], ...] = (
        ("a", {"family": "f", "name": "a", "place": 3}),
        ("b", {"family": "f", "name": "A"}),
        ("b", {"family": "f", "name": "a "}),
        ("b", {"family": "F", "name": "a"}),
        ("b", {"family": None, "name": "a"}),
        ("b", {"family": "f", "name": None}),
        ("c", {"family": "f", "name": "b"}),
        ("b", {"family": "f", "name": "c"}),
    )
    for name, body in allowed:
        revision = ledger.documents[name].revision
        swapped = driver.swap(ITEMS, Document(name, body), revision)
        context.equal(
            "SWAP-3", swapped, True, f"a swap of {name!r} into the free key {shown(tuple(body.values())[:2])}"
        )
        ledger.put(name, body)
    ledger.verify("SWAP-3", "after swaps into free keys")
    with context.raises("SWAP-3", UniqueViolation, "a swap into a key that another document was swapped into"):
        driver.swap(ITEMS, Document("a", {"family": "f", "name": "b"}), 2)
    driver.insert(NOTES, [Document("x", {"title": "x"}), Document("y", {"title": "y", "place": 1})])
    with context.raises("SWAP-3", UniqueViolation, "a swap into a taken key of another collection") as caught:
        driver.swap(NOTES, Document("y", {"title": "x"}), 1)
    context.equal("SWAP-3", caught[0].key, ("title",), "the key that is named")
    kept = driver.get(NOTES, "y")
    context.equal("SWAP-3", kept and (kept.revision, kept.body["place"]), (1, 1), "the document that was not swapped")
    ledger.verify("SWAP-3", "at the end")


# patch

_FILTERS: tuple[Filter, ...] = (
    equal(id="i3"),
    equal(family="f", flag=False),
    equal(family="f"),
    (Comparison("place", ">=", 10), Comparison("place", "<", 20)),
    (Comparison("data.v", "=", 5),),
    (Comparison("data.v", ">", 25), *equal(family="g")),
    (Comparison("tag", "!=", "t1"),),
    (Comparison("id", "in", ("i1", "i2", "i99", "no")),),
    (Comparison("note", "=", None),),
    (Comparison("revision", "=", 1),),
    (Comparison("revision", ">", 2), Comparison("tag", "=", "t1")),
    (Comparison("score", "<=", 1.25),),
    equal(id="no such id"),
    (Comparison("tag", "in", ()),),
    (),
)

_CHANGES: tuple[Changes, ...] = (
    {"tag": "new"},
    {"place": -5, "note": None, "score": 0.5},
    {"data": {"other": 1}},
    {"data": None, "labels": []},
    {"labels": {"in": {"x": None}}, "flag": None},
    {"flag": True, "moment": "2030-01-01T00:00:00.000001+00:00"},
    {"amount": 3, "tag": "t1"},
    {"amount": None},
    {"family": "f"},
)


@check("PATCH-1", limit=300.0)
def patch_changes_the_matching_documents_alone(context: Context) -> None:
    """Patches by many filters, with values of every kind, and compares all documents, whether they matched or not."""
    ledger = Ledger.open(context, _documents(40))
    ledger.insert(Document("bare", {}), Document("loose", {"loose": [1], "data.v": 5}))
    for turn, where in enumerate(_FILTERS):
        changes = dict(_CHANGES[turn % len(_CHANGES)])
        if "family" in changes and not where:
            changes = {"tag": "all"}
        _patch(ledger, where, changes)
        _patch(ledger, where, changes)
        ledger.verify("PATCH-1", f"after a patch of {told(where)} with {shown(changes)}")
    for _ in range(15):
        _patch(ledger, context.random.choice(_FILTERS), context.random.choice(_CHANGES))
    ledger.verify("PATCH-1", "after random patches")


def _patch(ledger: Ledger, where: Filter, changes: Changes) -> None:
    names = ledger.matching(where)
    for name in names:
        ledger.put(name, changed(ledger.documents[name].body, changes))
    count = ledger.driver.patch(ITEMS, where, changes)
    ledger.context.equal("PATCH-1", count, len(names), f"what a patch of {told(where)} with {shown(changes)} returns")


@check("PATCH-1", limit=300.0)
def patch_changes_many_documents(context: Context) -> None:
    """Patches some hundred documents at once, twice with the same values, and counts those that were changed."""
    count = 330
    ledger = Ledger.open(
        context, [Document(f"m{place}", {"place": place, "data": {"v": place % 2}}) for place in range(count)]
    )
    for where in ((), (Comparison("place", "<", 300),), (Comparison("data.v", "=", 1),)):
        _patch(ledger, where, {"tag": "t"})
        ledger.verify("PATCH-1", f"after a patch of {len(ledger.matching(where))} documents")
    context.equal("PATCH-1", ledger.driver.count(ITEMS, equal(tag="t")), count, "how many have the new value")


@check("PATCH-2")
def increments_add_to_what_is_stored(context: Context) -> None:
    """Increments integers, null and absent fields by positive, negative and large numbers, by patch and by claim."""
    stored: dict[str, Plain] = {
        "zero": 0, "one": 1, "minus": -7, "null": None, "large": 2**53, "negative": -(2**53) - 1, "huge": 2**63 - 10,
        "least": -(2**63) + 10, "int32": 2**31 - 1,
    }  # fmt: skip
    ledger = Ledger.open(context, [Document(name, {"place": value, "amount": 5}) for name, value in stored.items()])
    ledger.insert(Document("absent", {"amount": 5}))
    driver = ledger.driver
    names = [*stored, "absent"]
    for by in (1, 1, 7, -3, 0, -6, 9, -9):
        changes: Changes = {"place": Increment(by)}
        if by > 1:
            changes = {"place": Increment(by), "amount": Increment(-1), "tag": f"by {by}"}
        for name in names:
            ledger.put(name, changed(ledger.documents[name].body, changes))
        context.equal("PATCH-2", driver.patch(ITEMS, (), changes), len(names), f"how many are incremented by {by}")
        ledger.verify("PATCH-2", f"after an increment by {by}")
    steps = {"zero": 2**53 + 1, "one": -(2**40), "minus": 2**62, "null": 2**63 - 1, "absent": -(2**63), "large": 2**53}
    for name, by in steps.items():
        body = ledger.documents[name].body
        place = body.get("place") or 0
        assert isinstance(place, int)
        by = max(min(by, 2**63 - 1 - place), -(2**63) - place)
        ledger.put(name, {**body, "place": place + by})
        driver.patch(ITEMS, equal(id=name), {"place": Increment(by)})
        ledger.same("PATCH-2", f"{name!r}, incremented by {by}", ledger.documents[name], driver.get(ITEMS, name))
    for name in ("int32", "huge", "least"):
        ledger.put(name, changed(ledger.documents[name].body, {"amount": Increment(4), "place": Increment(0)}))
        claimed = driver.claim(ITEMS, equal(id=name), {"amount": Increment(4), "place": Increment(0)})
        ledger.same("PATCH-2", f"{name!r}, incremented by a claim", ledger.documents[name], claimed)
    driver.patch(ITEMS, equal(id="one"), {"amount": None})
    driver.patch(ITEMS, equal(id="one"), {"amount": Increment(-2)})
    body = {**ledger.documents["one"].body, "amount": -2}
    ledger.put("one", body)
    ledger.put("one", body)
    ledger.verify("PATCH-2", "at the end")
    ledger.insert(*(Document(f"step{place}", {"family": "steps", "place": place}) for place in range(60)))
    for by, bound in ((1, 50), (-2, 30), (10, 40)):
        where = (*equal(family="steps"), Comparison("place", "<" if by > 0 else ">", bound))
        names = ledger.matching(where)
        for name in names:
            ledger.put(name, changed(ledger.documents[name].body, {"place": Increment(by)}))
        count = driver.patch(ITEMS, where, {"place": Increment(by)})
        context.equal("PATCH-2", count, len(names), f"how many are incremented once by {by} where {told(where)}")
        ledger.verify("PATCH-2", f"after an increment by {by} where {told(where)}")
    for place in range(1, 26):
        driver.patch(NOTES, equal(id="counter"), {"place": Increment()})
        if place == 5:
            driver.insert(NOTES, [Document("counter", {"title": "c"})])
    counter = driver.get(NOTES, "counter")
    context.equal(
        "PATCH-2", counter and (counter.body["place"], counter.revision), (20, 21), "a counter of 20 increments"
    )


@check("PATCH-3")
def patch_and_claim_keep_unique_keys(context: Context) -> None:
    """Patches and claims documents into keys that are taken, free, their own, null, and only alike."""
    ledger = Ledger.open(
        context, [Document(name, {"family": "f", "name": name, "place": 1}) for name in ("a", "b", "c")]
    )
    driver = ledger.driver
    ledger.insert(Document("null", {"family": "f"}), Document("other", {"family": "g", "name": "a"}))
    taken: tuple[tuple[str, Changes], ...] = (
        ("b", {"name": "a", "place": 2}),
        ("null", {"name": "a", "place": Increment(2)}),
        ("other", {"family": "f", "tag": "x"}),
        ("other", {"tag": "x", "family": "f", "name": "c"}),
    )
    for name, changes in taken:
        what = f"{shown(name)} into a taken key, by {shown(changes)}"
        with context.raises("PATCH-3", UniqueViolation, f"a patch of {what}") as caught:
            driver.patch(ITEMS, equal(id=name), changes)
        context.equal("PATCH-3", caught[0].key, ("family", "name"), "the key that is named")
        ledger.verify("PATCH-3", f"after a patch of {what}")
        with context.raises("PATCH-3", UniqueViolation, f"a claim of {what}") as caught:
            driver.claim(ITEMS, equal(id=name), changes, [Order("place")])
        context.equal("PATCH-3", caught[0].key, ("family", "name"), "the key that is named")
        ledger.verify("PATCH-3", f"after a claim of {what}")
    allowed: tuple[tuple[str, Changes], ...] = (
        ("a", {"name": "a", "place": 3}),
        ("b", {"name": "A"}),
        ("b", {"name": "a "}),
        ("b", {"name": None}),
        ("null", {"name": "b"}),
        ("other", {"family": None}),
        ("other", {"name": "b"}),
        ("c", {"name": "free"}),
        ("other", {"family": "f", "name": "c"}),
    )
    for turn, (name, changes) in enumerate(allowed):
        ledger.put(name, changed(ledger.documents[name].body, changes))
        if turn % 2:
            claimed = driver.claim(ITEMS, equal(id=name), changes)
            ledger.same("PATCH-3", f"{shown(name)}, claimed into a free key", ledger.documents[name], claimed)
        else:
            context.equal(
                "PATCH-3", driver.patch(ITEMS, equal(id=name), changes), 1, f"a patch into a free key: {shown(changes)}"
            )
    ledger.verify("PATCH-3", "after patches into free keys")
    driver.insert(NOTES, [Document(f"n{place}", {"title": f"t{place}", "place": 1}) for place in range(3)])
    with context.raises("PATCH-3", UniqueViolation, "a patch of three documents into one key") as caught:
        driver.patch(NOTES, equal(place=1), {"title": "same"})
    context.equal("PATCH-3", caught[0].key, ("title",), "the key that is named")
    titles = [one.body["title"] for one in driver.find(NOTES)]
    context.require(
        titles.count("same") <= 1, "PATCH-3", f"a patch into one key is stored {titles.count('same')} times"
    )


# claim


def _key(document: Document, field: str) -> Any:
    return document.id if field == "id" else document.body[field]


def _first(ledger: Ledger, where: Filter, order: Sequence[Order]) -> list[str]:
    """The ids of the matches in order, without a null in what they are ordered by."""
    found = [ledger.documents[name] for name in ledger.matching(where)]
    for one in reversed(order):
        found.sort(key=lambda document: _key(document, one.field), reverse=one.descending)
    return [document.id for document in found]


@check("CLAIM-1")
def claim_takes_the_first_match(context: Context) -> None:
    """Claims documents until none is left, and compares their order, their changes and what is stored."""
    places = list(range(30))
    context.random.shuffle(places)
    ledger = Ledger.open(context, [Document(f"i{place:02}", _full(place, flag=True, family="f")) for place in places])
    ledger.insert(
        *(Document(f"x{place}", _full(100 + place, flag=place == 1, family="fg"[place % 2])) for place in range(6))
    )
    where, order = equal(family="f", flag=True), [Order("place")]
    for place in range(30):
        changes: Changes = {"flag": False, "tag": f"t{place}", "amount": place, "data": {"claimed": place}}
        claimed = ledger.driver.claim(ITEMS, where, changes, order)
        context.require(claimed is not None, "CLAIM-1", f"nothing was claimed while {30 - place} documents match")
        assert claimed is not None
        context.equal("CLAIM-1", claimed.id, f"i{place:02}", "the claimed document")
        ledger.put(claimed.id, changed(ledger.documents[claimed.id].body, changes))
        ledger.same("CLAIM-1", f"the claimed document {claimed.id}", ledger.documents[claimed.id], claimed)
        stored = ledger.driver.get(ITEMS, claimed.id)
        ledger.same("CLAIM-1", f"what is stored of {claimed.id}", ledger.documents[claimed.id], stored)
    ledger.verify("CLAIM-1", "after 30 claims")


@check("CLAIM-1")
def claim_follows_the_order(context: Context) -> None:
    """Claims in ascending, descending and mixed orders, by paths into JSON, with null, and without an order."""
    choice = context.random.choice
    ledger = Ledger.open(
        context,
        [
            Document(
                f"i{place:03}",
                _full(place, name=None, tag=choice("abc"), score=choice([0.5, 1.5, -1.0]), data={"v": place % 25}),
            )
            for place in range(120)
        ],
    )
    down = True
    cases: tuple[tuple[Filter, tuple[Order, ...]], ...] = (
        (equal(family="f"), (Order("place"),)),
        (equal(family="f"), (Order("place", down),)),
        (equal(family="f", flag=False), (Order("place", down), Order("id"))),
        (equal(tag="a"), (Order("score"), Order("place", down))),
        (equal(tag="a"), (Order("score", down), Order("place"))),
        ((), (Order("tag", down), Order("score"), Order("id", down))),
        ((), (Order("id", down),)),
        ((Comparison("data.v", "=", 24),), (Order("place"),)),
        ((Comparison("data.v", "=", 24),), (Order("place", down),)),
        ((Comparison("place", ">", 60), Comparison("place", "<=", 90)), (Order("score"), Order("id"))),
        ((Comparison("id", "in", ("i007", "i070", "i100")),), (Order("id", down),)),
        ((Comparison("revision", "=", 1),), (Order("id"),)),
    )
    for where, order in cases:
        for turn in range(3):
            wanted = _first(ledger, where, order)
            changes: Changes = {"note": f"claimed {turn}", "labels": [turn]}
            claimed = ledger.driver.claim(ITEMS, where, changes, order)
            what = f"a claim of {told(where, order)}"
            context.require(claimed is not None, "CLAIM-1", f"{what} returns None, and {len(wanted)} match")
            assert claimed is not None
            context.equal("CLAIM-1", claimed.id, wanted[0], what)
            ledger.put(claimed.id, changed(ledger.documents[claimed.id].body, changes))
            ledger.same("CLAIM-1", what, ledger.documents[claimed.id], claimed)
        ledger.verify("CLAIM-1", f"after claims of {told(where)}")
    claimed = ledger.driver.claim(ITEMS, equal(family="f", tag="b"), {"note": "any"})
    context.require(claimed is not None, "CLAIM-1", "a claim without an order returns None, and some match")
    assert claimed is not None
    context.require(
        claimed.id in ledger.matching(equal(family="f", tag="b")), "CLAIM-1", "a claim takes what does not match"
    )
    ledger.put(claimed.id, {**ledger.documents[claimed.id].body, "note": "any"})
    ledger.insert(Document("null", {"family": "h"}), Document("low", {"family": "h", "place": -(2**63)}))
    for descending, name in ((False, "null"), (True, "low")):
        claimed = ledger.driver.claim(ITEMS, equal(family="h"), {"note": "h"}, [Order("place", descending)])
        context.equal("CLAIM-1", claimed and claimed.id, name, f"a claim where one is null, descending: {descending}")
        ledger.put(name, {**ledger.documents[name].body, "note": "h"})
    ledger.verify("CLAIM-1", "after all claims")


@check("CLAIM-2", limit=300.0)
def claim_returns_none_only_where_nothing_matches(context: Context) -> None:
    """Claims in an empty storage, without a match, to the last match of filters, and a match behind hundreds."""
    ledger = Ledger.open(context, ())
    driver = ledger.driver
    context.equal("CLAIM-2", driver.claim(ITEMS, (), {"tag": "x"}), None, "a claim in an empty storage")
    context.equal("CLAIM-2", driver.claim(ITEMS, equal(id="a"), {"tag": "x"}, [Order("id")]), None, "a claim of no id")
    count = 300
    ledger.insert(
        *(
            Document(
                f"i{place:03}", {"family": "f", "flag": place % 3 == 0, "place": place, "data": {"v": place // 299}}
            )
            for place in range(count)
        )
    )
    nothing: tuple[Filter, ...] = (
        equal(family="g"),
        equal(family="F", flag=True),
        equal(flag=None),
        equal(id="i1"),
        (Comparison("place", ">", 299),),
        (Comparison("data.v", "=", 2),),
        (Comparison("data.w", "!=", None),),
        (Comparison("tag", "in", ()),),
        (Comparison("place", "=", 1), Comparison("place", "=", 2)),
    )
    orders: tuple[tuple[Order, ...], ...] = ((), (Order("place"),), (Order("id", descending=True),))
    for where in nothing:
        for order in orders:
            claimed = driver.claim(ITEMS, where, {"tag": "wrong", "amount": Increment()}, order)
            context.equal("CLAIM-2", claimed, None, f"a claim of {told(where)}, which nothing matches")
    ledger.verify("CLAIM-2", "after claims that matched nothing")
    behind = driver.claim(ITEMS, (Comparison("data.v", "=", 1),), {"tag": "found"}, [Order("place")])
    context.equal("CLAIM-2", behind and behind.id, "i299", "a claim of the only match, behind 299 others")
    ledger.put("i299", {**ledger.documents["i299"].body, "tag": "found"})
    emptied: tuple[tuple[Filter, Changes, tuple[Order, ...]], ...] = (
        ((*equal(family="f", flag=True), Comparison("place", ">=", 240)), {"flag": False}, (Order("place"),)),
        ((*equal(family="f", flag=True), Comparison("place", "<", 30)), {"flag": None}, ()),
        ((Comparison("place", "<", 5),), {"place": None}, (Order("place", descending=True),)),
        ((Comparison("data.v", "=", 1),), {"data": {"v": 3}}, (Order("id"),)),
        ((Comparison("id", "in", ("i100", "i101", "i102")), *equal(tag=None)), {"tag": "t"}, (Order("id"),)),
        (equal(id="i200", revision=1), {"tag": "once"}, ()),
    )
    for where, changes, order in emptied:
        left = set(ledger.matching(where))
        while left:
            claimed = driver.claim(ITEMS, where, changes, order)
            context.require(
                claimed is not None,
                "CLAIM-2",
                f"a claim of {told(where)} returns None while {len(left)} match: {shown(left)}",
            )
            assert claimed is not None
            context.require(claimed.id in left, "CLAIM-2", f"a claim of {told(where)} returns {claimed.id} again")
            left.remove(claimed.id)
            ledger.put(claimed.id, changed(ledger.documents[claimed.id].body, changes))
        for _ in range(2):
            context.equal(
                "CLAIM-2",
                driver.claim(ITEMS, where, changes, order),
                None,
                f"a claim when none of {told(where)} is left",
            )
    driver.delete(ITEMS, equal(id="i050"))
    del ledger.documents["i050"]
    context.equal(
        "CLAIM-2", driver.claim(ITEMS, equal(id="i050"), {"tag": "x"}), None, "a claim of a document that was deleted"
    )
    ledger.verify("CLAIM-2", "at the end")


# delete


@check("DELETE-1", limit=300.0)
def delete_removes_the_matching_documents_alone(context: Context) -> None:
    """Deletes by many filters, twice each, and compares what is left, its revisions, and the numbers returned."""
    ledger = Ledger.open(context, _documents(400))
    driver = ledger.driver
    driver.insert(NOTES, [Document("i3", {"title": "i3"}), Document("i40", {"title": "i40"})])
    filters: tuple[Filter, ...] = (
        equal(id="i3"),
        equal(id="I4"),
        equal(id="i 4"),
        (Comparison("data.v", "=", 40),),
        (Comparison("data.w.x", "!=", None), *equal(note="note 41")),
        (Comparison("data.v", "<", 45), *equal(family="g", tag="t1")),
        equal(family="f", name="n43"),
        (Comparison("id", "in", ("i50", "i51", "i3", "no", "i52")),),
        equal(note=None),
        (Comparison("note", "=", "note%"),),
        (Comparison("tag", "in", ()),),
        (Comparison("place", ">", 60), Comparison("place", "<", 60)),
        (Comparison("place", ">=", 60), Comparison("place", "<", 65), *equal(flag=True)),
        (Comparison("revision", "!=", 1),),
        (Comparison("score", "<", 2.5), *equal(family="g", tag="t0")),
        (Comparison("place", ">=", 100),),
    )
    driver.patch(ITEMS, equal(tag="t2", family="g"), {"amount": -1})
    for name in ledger.matching(equal(tag="t2", family="g")):
        ledger.put(name, changed(ledger.documents[name].body, {"amount": -1}))
    for where in filters:
        names = ledger.matching(where)
        for expected in (len(names), 0):
            context.equal(
                "DELETE-1", driver.delete(ITEMS, where), expected, f"what a deletion of {told(where)} returns"
            )
        for name in names:
            del ledger.documents[name]
        ledger.verify("DELETE-1", f"after a deletion of {told(where)}")
    context.equal("DELETE-1", driver.find(ITEMS, equal(family="f", name="n43")), [], "what is found by a deleted key")
    context.equal("DELETE-1", driver.get(ITEMS, "i3"), None, "get of a deleted document")
    context.equal("DELETE-1", driver.delete(ITEMS, ()), len(ledger.documents), "what a deletion of everything returns")
    context.equal("DELETE-1", driver.find(ITEMS), [], "what is left of it")
    context.equal("DELETE-1", driver.delete(ITEMS, ()), 0, "what a deletion of nothing returns")
    context.equal("DELETE-1", sorted(one.id for one in driver.find(NOTES)), ["i3", "i40"], "the other collection")
    driver.close()
    context.equal("DELETE-1", context.open().find(ITEMS), [], "what is there after reopening")


@check("DELETE-2")
def deletion_frees_ids_and_keys(context: Context) -> None:
    """Deletes documents of several revisions, and inserts others with their ids and their unique keys."""
    ledger = Ledger.open(context, _documents(12))
    driver = ledger.driver
    for where in (equal(id="i1"), equal(id="i1"), equal(family="g")):
        for name in ledger.matching(where):
            ledger.put(name, changed(ledger.documents[name].body, {"amount": -1}))
        driver.patch(ITEMS, where, {"amount": -1})
    for turn, where in enumerate((equal(id="i1"), equal(family="g"), (Comparison("data.v", ">", 8),), ())):
        gone = {name: ledger.documents.pop(name) for name in ledger.matching(where)}
        driver.delete(ITEMS, where)
        for name, document in gone.items():
            key = {one: document.body.get(one) for one in ("family", "name")}
            fresh: tuple[Document, ...] = (
                Document(name, {"place": turn}),
                Document(f"{name} again {turn}", {**key, "tag": "k"}),
            )
            if turn % 2:
                fresh = (Document(name, {**key, "place": turn}, document.revision),)
            refused = driver.insert(ITEMS, fresh)
            context.require(
                not refused,
                "DELETE-2",
                f"after the deletion of {name}, what takes its place is refused: {shown(refused)}",
            )
            ledger.documents |= {one.id: Document(one.id, one.body, 1) for one in fresh}
            for one in fresh:
                ledger.same(
                    "DELETE-2",
                    f"{one.id}, which takes the place of {name}",
                    ledger.documents[one.id],
                    driver.get(ITEMS, one.id),
                )
        ledger.verify("DELETE-2", f"after deletions of {told(where)} and new documents")
    for _ in range(5):
        driver.delete(NOTES, equal(title="t"))
        context.equal(
            "DELETE-2", driver.insert(NOTES, [Document("n", {"title": "t"})]), [], "what is refused after a deletion"
        )
        driver.patch(NOTES, equal(id="n"), {"place": 1})
        stored = driver.get(NOTES, "n")
        context.equal(
            "DELETE-2", stored and stored.revision, 2, "the revision of a document inserted anew and patched once"
        )
    taken = driver.insert(NOTES, [Document("other", {"title": "t"})])
    context.equal("DELETE-2", [one.key for one in taken], [("title",)], "what is refused while the key is taken")
    driver.close()
    ledger.driver = context.open()
    ledger.verify("DELETE-2", "after reopening")
