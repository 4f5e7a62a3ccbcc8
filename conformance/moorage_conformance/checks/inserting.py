"""Level 1: inserting, ids and unique keys."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, cast

from moorage.driver import Document, Refusal
from moorage.filters import Order, equal
from moorage_conformance.checking import check
from moorage_conformance.comparing import canonical, canonical_set, difference
from moorage_conformance.target import ITEMS, NOTES

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from moorage.codec import Plain
    from moorage.driver import Driver
    from moorage_conformance.context import Context

_KEY = ("family", "name")

# Texts that careless comparisons take for each other: case, accents, normal forms, width, spaces, signs, numbers.
ALIKE = (
    *("a", "A", "á", "à", "ä", "ａ", "ª", "Á", "a ", " a", "a  ", "a\t", "a\n", "\ta", "a\u00a0", "a\u200b", "\ufeffa"),  # noqa: RUF001
    *("é", unicodedata.normalize("NFD", "é"), "É", "e", "E", "ß", "ss", "SS", "ẞ", "ﬁ", "fi", "ı", "i", "I", "İ"),  # noqa: RUF001
    *("Å", "\u212b", "A\u030a", "Ω", "\u2126", "ö", "o\u0308", "oe", "ø", "æ", "ae", "ñ", "n", "σ", "ς", "Σ"),  # noqa: RUF001
    *(
        "1",
        "01",
        "1.0",
        "1 ",
        "\u0661",
        "①",
        "true",
        "True",
        "null",
        "None",
        "NULL",
        "a-b",
        "a_b",
        "a%b",
        "ab",
        "a\u00adb",
    ),
    *("가", unicodedata.normalize("NFD", "가"), "\U0001f600", "\U0001f601", "か", "カ", "ｶ", "が", "か\u3099"),
    *("'", "''", '"', "\\", "\\\\", "a\\", "%", "_", "a'b", "a''b", "a\u0300\u0316", "a\u0316\u0300"),
)


def _stored(context: Context, requirement: str, driver: Driver, expected: Iterable[Document], what: str) -> None:
    found = difference(canonical_set(ITEMS, driver.find(ITEMS)), canonical_set(ITEMS, expected))
    context.require(not found, requirement, f"{what}: {found}")


def _refusals(context: Context, requirement: str, refused: Sequence[Refusal], *expected: Refusal, what: str) -> None:
    told = sorted((one.position, one.id, tuple(one.key)) for one in refused)
    wanted = sorted((one.position, one.id, one.key) for one in expected)
    context.require(told == wanted, requirement, f"{what}: expected the refusals {wanted}, got {told}")


@check("INSERT-1")
def an_inserted_document_is_found(context: Context) -> None:
    """Inserts documents of different revisions and bodies, and reads each by `get`, by `find`, and by a new driver."""
    driver = context.open()
    bodies: list[dict[str, Plain]] = [
        {},
        {"family": "f", "name": "n", "tag": "t", "note": "text", "place": -3, "amount": 2**40, "score": 0.1},
        {"flag": True, "moment": "2024-05-01T10:00:00.123456+00:00", "data": {"b": [1, {"a": None}], "a": ""}},
        {"flag": False, "labels": ["x", "y"], "beyond": {"kept": [True, 1, 1.0]}, "more": "text"},
        {"family": None, "place": None, "data": None, "flag": None},
    ]
    documents = [
        Document(f"i{place}-{revision}", {**body, "amount": place * 100 + revision}, revision)
        for place, body in enumerate(bodies)
        for revision in (0, 1, 2, 7, 2**31)
    ]
    for one in documents[:5]:
        _refusals(context, "INSERT-1", driver.insert(ITEMS, [one]), what="inserting a document")
    rest = [Document(one.id, {**one.body, "name": one.id}, one.revision) for one in documents[5:]]
    _refusals(context, "INSERT-1", driver.insert(ITEMS, rest), what="inserting a batch")
    expected = [Document(one.id, one.body, 1) for one in (*documents[:5], *rest)]
    for reader in (driver, context.open()):
        _stored(context, "INSERT-1", reader, expected, "what is stored after inserting")
        for one in expected:
            found = reader.get(ITEMS, one.id)
            context.require(found is not None, "INSERT-1", f"get finds no document {one.id!r} after it was inserted")
            wrong = difference([canonical(ITEMS, cast("Document", found))], [canonical(ITEMS, one)])
            context.require(not wrong, "INSERT-1", f"what get returns after inserting: {wrong}")
    first = expected[0]
    context.equal("INSERT-1", driver.count(ITEMS, equal(id=first.id, revision=1)), 1, "documents of revision 1")
    swapped = driver.swap(ITEMS, Document(first.id, {}), 1)
    context.require(swapped, "INSERT-1", "an inserted document cannot be swapped as revision 1")


@check("INSERT-2")
def a_taken_id_is_refused(context: Context) -> None:
    """Inserts ids that are taken, with equal and with other bodies, before and after the stored one has changed."""
    driver = context.open()
    stored = Document("a", {"family": "f", "name": "n", "note": "first", "data": {"x": 1}})
    other = Document("b", {"family": "f", "name": "m"})
    driver.insert(ITEMS, [stored, other])
    taken = (
        Document("a", dict(stored.body)),
        Document("a", {"family": "g", "name": "n", "note": "second"}),
        Document("a", {"family": "f", "name": "m"}),  # breaks the key of the other one as well
        Document("a", {}, 5),
    )
    for one in taken:
        refused = driver.insert(ITEMS, [one])
        _refusals(context, "INSERT-2", refused, Refusal(0, "a", ("id",)), what="inserting an id that is taken")
        _stored(context, "INSERT-2", driver, [stored, other], "after an id was refused")
    driver.patch(ITEMS, equal(id="a"), {"note": "patched"})
    patched = Document("a", {**stored.body, "note": "patched"}, 2)
    _refusals(
        context, "INSERT-2", driver.insert(ITEMS, [stored]), Refusal(0, "a", ("id",)), what="inserting it after a patch"
    )
    _stored(context, "INSERT-2", driver, [patched, other], "after an id was refused")
    context.equal("INSERT-2", driver.insert(NOTES, [Document("a", {})]), [], "what another collection refuses")


@check("INSERT-3")
def a_taken_key_is_refused(context: Context) -> None:
    """Inserts documents with a unique key that is taken, and looks for what is left of them."""
    driver = context.open()
    stored = Document("a", {"family": "f", "name": "n", "tag": "t", "place": 1})
    driver.insert(ITEMS, [stored])
    refused = driver.insert(ITEMS, [Document("b", {"family": "f", "name": "n", "tag": "u", "place": 2, "flag": True})])
    _refusals(context, "INSERT-3", refused, Refusal(0, "b", _KEY), what="inserting a unique key that is taken")
    _stored(context, "INSERT-3", driver, [stored], "after a unique key was refused")
    context.equal("INSERT-3", driver.get(ITEMS, "b"), None, "the refused document, by its id")
    context.equal("INSERT-3", driver.count(ITEMS, equal(family="f")), 1, "documents counted")
    context.equal("INSERT-3", driver.tally(ITEMS, equal(family="f"), "tag"), {"t": 1}, "documents counted by a value")
    found = driver.find(ITEMS, equal(family="f", flag=True), [Order("place")])
    context.equal("INSERT-3", found, [], "the refused document, by an index")
    context.equal("INSERT-3", driver.claim(ITEMS, equal(tag="u"), {"tag": None}), None, "the refused document, claimed")
    near = [
        Document("c", {"family": "f", "name": "m"}),
        Document("d", {"family": "g", "name": "n"}),
        Document("e", {"family": "fn", "name": ""}),
        Document("f", {"family": "", "name": "fn"}),
    ]
    _refusals(context, "INSERT-3", driver.insert(ITEMS, near), what="inserting keys of which a part is taken")
    _refusals(context, "INSERT-3", driver.insert(ITEMS, [Document("b", {"family": "h"})]), what="the refused id again")
    driver.patch(ITEMS, equal(id="c"), {"name": "moved"})
    driver.swap(ITEMS, Document("d", {"family": "g", "name": "swapped"}), 1)
    driver.claim(ITEMS, equal(id="e"), {"name": "claimed"})
    for family, name in (("f", "moved"), ("g", "swapped"), ("fn", "claimed")):
        refused = driver.insert(ITEMS, [Document("z", {"family": family, "name": name})])
        what = "inserting a unique key that a document was changed to"
        _refusals(context, "INSERT-3", refused, Refusal(0, "z", _KEY), what=what)
    given_up = [Document(f"{one.id}2", one.body) for one in (near[0], near[1], near[2])]
    _refusals(context, "INSERT-3", driver.insert(ITEMS, given_up), what="inserting unique keys that were given up")
    driver.insert(NOTES, [Document("a", {"title": "t"})])
    refused = driver.insert(NOTES, [Document("b", {"title": "t"})])
    _refusals(context, "INSERT-3", refused, Refusal(0, "b", ("title",)), what="a unique key of one field that is taken")


def _batch(random: random.Random, count: int) -> list[Document]:
    """Documents of which many exclude each other."""
    found: list[Document] = []
    for place in range(count):
        body: dict[str, Plain] = {"place": place, "tag": f"t{place % 4}"}
        if random.random() < 0.8:
            body["family"] = random.choice(("f", "g"))
        if random.random() < 0.8:
            body["name"] = f"n{random.randrange(count // 4)}"
        found.append(Document(f"i{random.randrange(count)}", body))
    return found


def _insert(stored: dict[str, Document], batch: Sequence[Document]) -> list[Refusal]:
    """What is refused of a batch; all else is added to what is stored."""
    refused: list[Refusal] = []
    for position, one in enumerate(batch):
        keys = {(two.body.get("family"), two.body.get("name")) for two in stored.values()}
        key = one.body.get("family"), one.body.get("name")
        if one.id in stored:
            refused.append(Refusal(position, one.id, ("id",)))
        elif None not in key and key in keys:
            refused.append(Refusal(position, one.id, _KEY))
        else:
            stored[one.id] = one
    return refused


@check("INSERT-4")
def each_of_a_batch_stands_or_falls_alone(context: Context) -> None:
    """Inserts batches in which documents exclude each other and stored ones, and compares with one after the other."""
    driver = context.open()
    first, second = Document("a", {"family": "f", "name": "n", "place": 1}), Document("a", {"place": 2})
    third, fourth = Document("b", {"family": "f", "name": "n", "place": 3}), Document("c", {"place": 4})
    refused = driver.insert(ITEMS, [first, second, third, fourth])
    expected = Refusal(1, "a", ("id",)), Refusal(2, "b", _KEY)
    _refusals(context, "INSERT-4", refused, *expected, what="inserting documents that exclude each other")
    _stored(context, "INSERT-4", driver, [first, fourth], "of documents that exclude each other")
    stored = {"a": first, "c": fourth}
    for round_, size in enumerate((1, 2, 5, 20, 60, 200)):
        batch = _batch(context.random, size + 4)
        wanted = _insert(stored, batch)
        refused = driver.insert(ITEMS, batch)
        _refusals(context, "INSERT-4", refused, *wanted, what=f"batch {round_ + 1}, of {len(batch)}")
        _stored(context, "INSERT-4", driver, stored.values(), f"after batch {round_ + 1}, of {len(batch)}")
    refused = driver.insert(ITEMS, list(stored.values()))
    told = {(one.position, one.id, tuple(one.key)) for one in refused}
    everything = {(position, identifier, ("id",)) for position, identifier in enumerate(stored)}
    context.require(told == everything, "INSERT-4", f"of {len(stored)} stored documents {len(told)} were refused again")


@check("INSERT-5")
def null_is_never_in_conflict(context: Context) -> None:
    """Inserts many documents with the same nulls in their unique keys, and keys that look like null."""
    driver = context.open()
    bodies: Sequence[dict[str, Plain]] = (
        {"family": "f", "name": None},
        {"family": "f"},
        {"family": None, "name": "n"},
        {"name": "n"},
        {"family": None, "name": None},
        {},
    )
    documents = [Document(f"{copy}-{place}", body) for copy in range(3) for place, body in enumerate(bodies)]
    documents += [
        Document(f"text-{place}", {"family": family, "name": name})
        for place, (family, name) in enumerate(
            (("f", ""), ("", "n"), ("", ""), ("f", "null"), ("f", "None"), ("f", "n"))
        )
    ]
    context.random.shuffle(documents)
    _refusals(context, "INSERT-5", driver.insert(ITEMS, documents[:12]), what="inserting keys with a null in a batch")
    for one in documents[12:]:
        _refusals(context, "INSERT-5", driver.insert(ITEMS, [one]), what="inserting a key with a null")
    _stored(context, "INSERT-5", driver, documents, "keys with a null")
    notes = [Document(f"n{place}", {"title": None, "place": place}) for place in range(3)]
    context.equal("INSERT-5", driver.insert(NOTES, notes), [], "what is refused of keys of one field that is null")
    refused = driver.insert(ITEMS, [Document("again", {"family": "f", "name": ""})])
    _refusals(context, "INSERT-5", refused, Refusal(0, "again", _KEY), what="inserting the empty text again")


@check("INSERT-6")
def keys_are_compared_exactly(context: Context) -> None:
    """Inserts ids and unique keys that differ in case, accents, normal form, spaces or their last character only."""
    driver = context.open()
    long = ["x" * 254 + end for end in ("a", "A", "b", " ", "")] + ["\U0001f600" * 255, "\U0001f600" * 254]
    texts = [*ALIKE, *long]
    documents = [Document(f"i{place}", {"family": "f", "name": text}) for place, text in enumerate(texts)]
    documents += [Document(f"j{place}", {"family": text, "name": "n"}) for place, text in enumerate(texts)]
    documents += [Document(text, {"place": place}) for place, text in enumerate(texts)]
    context.random.shuffle(documents)
    for refusal in driver.insert(ITEMS, documents):
        body = documents[refusal.position].body
        taken = (refusal.id,) if tuple(refusal.key) == ("id",) else (body.get("family"), body.get("name"))
        context.fail("INSERT-6", f"{taken!a:.200} was refused by the key {refusal.key}, and nothing is equal to it")
    _stored(context, "INSERT-6", driver, documents, "texts that differ a little")
    for one in documents:
        found = driver.get(ITEMS, one.id)
        context.require(
            found is not None and difference([canonical(ITEMS, found)], [canonical(ITEMS, one)]) == "",
            "INSERT-6",
            f"get({one.id!a:.100}) returns {found.id if found else None!a:.100}",
        )
    again = [Document(f"again-{one.id}"[:300], one.body) for one in documents if "name" in one.body]
    refused = driver.insert(ITEMS, again)
    missing = sorted(set(range(len(again))) - {one.position for one in refused})
    if missing:
        key = again[missing[0]].body["family"], again[missing[0]].body["name"]
        context.fail("INSERT-6", f"the unique key {key!a:.200} was taken twice")


@check("INSERT-7")
def large_things_are_stored(context: Context) -> None:
    """Inserts 5000 documents at once, bodies of a million characters, and ids of 600 characters."""
    driver = context.open()
    many = [
        Document(f"i{place}", {"family": "f", "name": f"n{place}", "place": place, "tag": f"t{place % 7}"})
        for place in range(5000)
    ]
    refused = driver.insert(ITEMS, many)
    context.equal("INSERT-7", refused, [], "what is refused of 5000 documents")
    _stored(context, "INSERT-7", driver, many, "of 5000 documents")
    again = [Document(f"j{place}", one.body if place % 100 == 0 else {}) for place, one in enumerate(many)]
    told = sorted(one.position for one in driver.insert(ITEMS, again))
    context.equal("INSERT-7", told, list(range(0, 5000, 100)), "positions of those refused of another 5000")
    driver.delete(ITEMS, ())

    letters = [context.random.choice("abcdefghij é\n\U0001f600\\\"'") for _ in range(1000)]
    text = "".join(letters) * 1000
    ids = [base * 600 for base in ("x", "é", "\U0001f600")]
    ids += [one[:-1] + "y" for one in ids]
    large = [
        Document("text", {"note": text}),
        Document("beyond", {"beyond": text}),
        Document("json", {"data": {"a": [text[:500_000], {"b": text[500_000:]}]}}),
        Document("list", {"labels": cast("Plain", [*range(200_000)])}),
        *(Document(one, {"family": "g", "name": f"long{place}"}) for place, one in enumerate(ids)),
    ]
    for one in large:
        context.equal("INSERT-7", driver.insert(ITEMS, [one]), [], f"what is refused of {one.id[:10]!a}")
    _stored(context, "INSERT-7", driver, large, "of large documents")
    for identifier in ids:
        found = driver.get(ITEMS, identifier)
        context.require(found and found.id == identifier, "INSERT-7", f"get finds no id of 600 {identifier[0]!a}")
        refused = driver.insert(ITEMS, [Document(identifier, {})])
        told_keys = [tuple(one.key) for one in refused]
        context.equal("INSERT-7", told_keys, [("id",)], f"the refusal of a second id of 600 {identifier[0]!a}")


@check("INSERT-8")
def nothing_is_shared_with_the_caller(context: Context) -> None:
    """Changes bodies after they were given and after they were returned, and reads again."""
    driver = context.open()

    def body(place: int) -> dict[str, Plain]:
        return {
            "family": "f",
            "name": f"n{place}",
            "place": place,
            "data": {"list": [1, {"deep": "value"}], "text": "a"},
            "labels": ["x", ["y"]],
            "beyond": {"deep": [{"value": 1}]},
        }

    def spoil(document: Document | None, what: str) -> None:
        context.require(document is not None, "INSERT-8", f"{what} returned no document")
        given = cast("Document", document)
        for value in list(given.body.values()):
            _spoil(value)
        given.body["note"] = "spoilt"
        given.body["place"] = -1
        given.body.pop("family", None)
        given.revision = 99

    def unspoilt(what: str) -> None:
        _stored(context, "INSERT-8", driver, expected.values(), f"after the caller changed {what}")
        for identifier, one in expected.items():
            found = driver.get(ITEMS, identifier)
            wrong = difference([canonical(ITEMS, found)] if found else [], [canonical(ITEMS, one)])
            context.require(not wrong, "INSERT-8", f"after the caller changed {what}, by get: {wrong}")

    expected = {f"i{place}": Document(f"i{place}", body(place)) for place in range(3)}
    given = [Document(f"i{place}", body(place)) for place in range(3)]
    driver.insert(ITEMS, given)
    for one in given:
        spoil(one, "the caller")
    unspoilt("what it had inserted")

    swapped = Document("i0", {**body(0), "tag": "swapped"})
    expected["i0"] = Document("i0", {**body(0), "tag": "swapped"}, 2)
    driver.swap(ITEMS, swapped, 1)
    spoil(swapped, "the caller")
    unspoilt("what it had swapped in")

    changes: dict[str, Plain] = {"data": {"patched": [1, [2]]}}
    expected["i1"] = Document("i1", {**body(1), "data": {"patched": [1, [2]]}}, 2)
    driver.patch(ITEMS, equal(id="i1"), changes)
    _spoil(changes)
    unspoilt("the changes of a patch")

    changes = {"labels": [["claimed"], {"a": 1}]}
    expected["i2"] = Document("i2", {**body(2), "labels": [["claimed"], {"a": 1}]}, 2)
    claimed = driver.claim(ITEMS, equal(id="i2"), changes)
    spoil(claimed, "claim")
    _spoil(changes)
    unspoilt("a claimed document and the changes of the claim")

    reads: Mapping[str, Callable[[], Sequence[Document | None]]] = {
        "get": lambda: [driver.get(ITEMS, "i0"), driver.get(ITEMS, "i1")],
        "find": lambda: driver.find(ITEMS, equal(family="f"), [Order("place")]),
        "find by id": lambda: driver.find(ITEMS, equal(id="i2")),
    }
    for name, read in reads.items():
        for found in read():
            spoil(found, name)
        unspoilt(f"what {name} had returned")


def _spoil(value: Plain) -> None:
    if isinstance(value, list):
        for one in value:
            _spoil(one)
        value.append("spoilt")
    elif isinstance(value, dict):
        for one in value.values():
            _spoil(one)
        value["spoilt"] = True
