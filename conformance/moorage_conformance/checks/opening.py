"""Level 1: setting up, opening, closing, what errors show, and what is declared."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote

import attrs

from moorage.config import find_settings, open_driver
from moorage.driver import Capability, Document, Driver, Increment
from moorage.errors import (
    MoorageError,
    SchemaMismatch,
    StorageClosed,
    StorageReadOnly,
    Unsupported,
)
from moorage.filters import Comparison, Order, equal
from moorage.schema import Collection, Field, Schema
from moorage.url import StorageURL
from moorage_conformance.checking import Unjudged, check
from moorage_conformance.comparing import canonical_set, difference
from moorage_conformance.target import ITEMS, ITEMS_SCHEMA, NOTES, PLACE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from moorage_conformance.comparing import Canonical
    from moorage_conformance.context import Context
    from moorage_conformance.worker import Job

NEWER_ITEMS = attrs.evolve(
    ITEMS,
    fields=(*ITEMS.fields, Field("colour", "string"), Field("weight", "integer"), Field("extra", "json")),
    indexes=(*ITEMS.indexes, ("colour", "place"), ("amount",)),
    tallies=(*ITEMS.tallies, ("colour",)),
)
ADDED = Collection(name="added", fields=(Field("title", "string"),), unique=(("title",),), indexes=(("title",),))
NEWER_SCHEMA = Schema(version=2, collections=(NEWER_ITEMS, NOTES, ADDED))

_ITEMS = [
    Document(
        f"i{place}",
        {
            "family": "f",
            "name": f"n{place}",
            "tag": f"t{place % 3}",
            "note": "ein Text\nmit é",
            "place": place,
            "amount": place * 10,
            "score": place / 8,
            "flag": place % 2 == 0,
            "moment": f"2024-05-0{place % 9 + 1}T00:00:00.000001+00:00",
            "data": {"a": {"b": place}},
            "labels": ["x", place],
            "undeclared": {"kept": [place]},
            # Declared by the newer schema, and stored before it was.
            "colour": "red" if place % 2 else "green",
        },
    )
    for place in range(20)
]
_NOTES = [Document(f"i{place}", {"title": f"t{place}", "place": place}) for place in range(5)]


def _fill(driver: Driver) -> None:
    driver.insert(ITEMS, _ITEMS)
    driver.insert(NOTES, _NOTES)


_Stored: TypeAlias = "tuple[list[Canonical], list[Canonical]]"


def _stored(driver: Driver, items: Collection = ITEMS) -> _Stored:
    return canonical_set(items, driver.find(items)), canonical_set(NOTES, driver.find(NOTES))


def _expected() -> _Stored:
    return canonical_set(ITEMS, _ITEMS), canonical_set(NOTES, _NOTES)


def _same(context: Context, requirement: str, actual: _Stored, expected: _Stored, what: str) -> None:
    for one, other in zip(actual, expected, strict=True):
        found = difference(one, other)
        context.require(not found, requirement, f"{what}: {found}")


# Setting up


@check("SETUP-1")
def setting_up_again_loses_nothing(context: Context) -> None:
    """Sets up one collection, then all, and again by the same and by other drivers, with documents in it."""
    first = context.open(schema=Schema(version=1, collections=(ITEMS,)))
    first.insert(ITEMS, _ITEMS)
    first.setup(ITEMS_SCHEMA)
    refused = first.insert(NOTES, _NOTES)
    context.equal("SETUP-1", refused, [], "what a collection refused that was set up after the others")
    for driver in (first, first, context.open(), context.open()):
        driver.setup(ITEMS_SCHEMA)
        _same(context, "SETUP-1", _stored(driver), _expected(), "what is stored after setting up again")
    refused = first.insert(ITEMS, [Document("new", {"family": "f", "name": "n3"}), Document("i4", {})])
    context.equal("SETUP-1", [one.key for one in refused], [("family", "name"), ("id",)], "the unique keys then")


@check("SETUP-2")
def another_version_is_refused(context: Context) -> None:
    """Opens a storage with an older and a newer schema; each must be refused, and leave everything as it was."""

    def refused(schema: Schema, stored: int, what: str, *, upgrade: bool = False) -> None:
        with context.raises("SETUP-2", SchemaMismatch, what) as caught:
            context.open(url, schema=schema, upgrade=upgrade)
        versions = caught[0].stored, caught[0].supported
        context.equal("SETUP-2", versions, (stored, schema.version), f"stored and supported of the error, {what}")

    url = context.url
    _fill(context.open(url))
    refused(NEWER_SCHEMA, 1, "opening a storage of version 1 with version 2")
    _same(context, "SETUP-2", _stored(context.open(url)), _expected(), "what is stored after a refusal")

    url = context.fresh_url()
    newer = context.open(url, schema=NEWER_SCHEMA)
    newer.insert(NEWER_ITEMS, _ITEMS)
    newer.insert(NOTES, _NOTES)
    for upgrade in (False, True):
        what = f"opening a storage of version 2 with version 1{' and upgrade=True' if upgrade else ''}"
        refused(ITEMS_SCHEMA, 2, what, upgrade=upgrade)
    again = context.open(url, schema=NEWER_SCHEMA)
    _same(context, "SETUP-2", _stored(again, NEWER_ITEMS), _expected(), "what is stored after a refusal")
    context.equal("SETUP-2", again.count(NEWER_ITEMS, equal(colour="red")), 10, "documents found by a newer field")


@check("SETUP-3")
def an_upgrade_adds_what_is_new(context: Context) -> None:
    """Upgrades a storage with documents, and uses the new fields, collection and indexes."""
    older = context.open()
    _fill(older)
    older.patch(ITEMS, equal(id="i7"), {"tag": "patched"})
    before = _stored(older)
    older.close()
    for upgrade in (True, False, True):
        driver = context.open(schema=NEWER_SCHEMA, upgrade=upgrade)
        after = _stored(driver, NEWER_ITEMS)
        revisions = {one[0]: one[1] for one in after[0]}
        grown = [(one[0], max(one[1], revisions.get(one[0], 0)), one[2]) for one in before[0]]
        _same(context, "SETUP-3", after, (grown, before[1]), "what is stored after an upgrade")
        context.equal("SETUP-3", driver.count(ADDED), 0, "documents in the new collection")
    with context.raises("SETUP-3", SchemaMismatch, "opening with version 1 after an upgrade to 2"):
        context.open()
    context.equal("SETUP-3", driver.count(NEWER_ITEMS, equal(colour="green")), 10, "documents found by a new field")
    context.equal(
        "SETUP-3", driver.tally(NEWER_ITEMS, (), "colour"), {"red": 10, "green": 10}, "the counts by a new field"
    )
    reds = driver.find(NEWER_ITEMS, equal(colour="red"), [Order("place", descending=True)], 3)
    context.equal("SETUP-3", [one.id for one in reds], ["i19", "i17", "i15"], "documents by a new index")
    changed = driver.patch(NEWER_ITEMS, equal(colour="red"), {"colour": "blue", "weight": 5, "extra": {"a": 1}})
    context.equal("SETUP-3", changed, 10, "documents whose new fields were changed")
    wanted = (*equal(colour="blue", weight=5), Comparison("extra.a", "=", 1))
    context.equal("SETUP-3", driver.count(NEWER_ITEMS, wanted), 10, "documents found by their changed new fields")
    new = Document("new", {"family": "g", "name": "n1", "colour": "red", "weight": 1})
    context.equal("SETUP-3", driver.insert(NEWER_ITEMS, [new]), [], "what was refused of a new document")
    context.equal("SETUP-3", driver.insert(ADDED, [Document("a", {"title": "x"})]), [], "what the new one refused")
    refused = driver.insert(ADDED, [Document("b", {"title": "x"})])
    context.equal("SETUP-3", [one.key for one in refused], [("title",)], "the unique key of the new collection")
    refused = driver.insert(NEWER_ITEMS, [Document("other", {"family": "f", "name": "n1"})])
    context.equal("SETUP-3", [one.key for one in refused], [("family", "name")], "the unique key that was there")


# Opening


def reader(job: Job) -> None:
    """Says what is stored."""
    job.say(_stored(job.driver()))


@check("OPEN-1")
def what_was_acknowledged_is_there_again(context: Context) -> None:
    """Closes right after a write by each primitive, and opens again; at last in another process, if they may share."""
    where = equal(family="f", flag=True)
    writes: Mapping[str, Callable[[Driver], object]] = {
        "insert": lambda one: one.insert(ITEMS, [Document("later", {"family": "g", "name": "n"})]),
        "swap": lambda one: one.swap(ITEMS, Document("i4", {"family": "f", "name": "swapped", "data": {}}), 1),
        "patch": lambda one: one.patch(ITEMS, where, {"note": "patched", "amount": Increment(5)}),
        "claim": lambda one: one.claim(ITEMS, where, {"flag": None, "tag": None}, [Order("place", descending=True)]),
        "delete": lambda one: one.delete(ITEMS, equal(tag="t1", flag=False)),
    }
    reference = open_driver(find_settings("memory://"), schema=ITEMS_SCHEMA)[0]
    driver = context.open()
    for one in (driver, reference):
        _fill(one)
    for name, write in writes.items():
        write(driver)
        driver.close()
        write(reference)
        driver = context.open()
        _same(context, "OPEN-1", _stored(driver), _stored(reference), f"what is stored after {name} and closing")
    driver.close()
    if "shared" in context.conditions:
        said = context.join(context.start(reader, ready=False))[0][0]
        items, notes = ([(one[0], one[1], tuple(map(tuple, one[2]))) for one in part] for part in said)
        _same(context, "OPEN-1", (items, notes), _stored(reference), "what another process finds after closing")


@check("OPEN-2")
def read_only_refuses_writes(context: Context) -> None:
    """Opens a storage read-only, reads by every primitive, and tries to write by each."""
    writer = context.open()
    _fill(writer)
    driver = context.open(read_only=True)
    where, order = equal(family="f", flag=True), [Order("place", descending=True)]
    reads: Mapping[str, Callable[[Driver], object]] = {
        "get": lambda one: canonical_set(ITEMS, filter(None, [one.get(ITEMS, "i3"), one.get(ITEMS, "none")])),
        "find": lambda one: canonical_set(ITEMS, one.find(ITEMS, where, order, 4)),
        "count": lambda one: one.count(ITEMS, where),
        "tally": lambda one: one.tally(ITEMS, equal(family="f"), "tag"),
    }
    for name, read in reads.items():
        context.equal("OPEN-2", read(driver), read(writer), f"the answer of {name}, read-only")
    writes: Mapping[str, Callable[[], object]] = {
        "insert": lambda: driver.insert(ITEMS, [Document("new", {"family": "g"})]),
        "swap": lambda: driver.swap(ITEMS, Document("i3", {"family": "g"}), 1),
        "patch": lambda: driver.patch(ITEMS, where, {"tag": "changed"}),
        "claim": lambda: driver.claim(ITEMS, where, {"flag": False}, order),
        "delete": lambda: driver.delete(ITEMS, where),
    }
    for name, write in writes.items():
        with context.raises("OPEN-2", StorageReadOnly, f"{name}, read-only"):
            write()
    _same(context, "OPEN-2", _stored(writer), _expected(), "what is stored after all writes were refused")
    writer.insert(ITEMS, [Document("later", {"family": "g"})])
    context.require(driver.get(ITEMS, "later"), "OPEN-2", "what is written later is not found by a read-only driver")


@check("OPEN-3")
def names_do_not_see_each_other(context: Context) -> None:
    """Fills storages whose names begin alike with the same ids and keys, and changes one of them."""
    template = context.target.url
    name = f"ns{secrets.token_hex(4)}"
    urls = [template.replace(PLACE, one) for one in (name, f"{name}1", f"{name}_items")]
    drivers: list[Driver] = []
    try:
        drivers += [context.open(one) for one in urls]
        for number, driver in enumerate(drivers):
            found = [one.id for one in driver.find(ITEMS)]
            context.equal("OPEN-3", found, [], "documents in a storage that nobody has written to")
            bodies = [{**one.body, "note": f"of storage {number}"} for one in _ITEMS]
            documents = [Document(one.id, body) for one, body in zip(_ITEMS, bodies, strict=True)]
            context.equal("OPEN-3", driver.insert(ITEMS, documents), [], "what was refused because of another storage")
            context.equal("OPEN-3", driver.insert(NOTES, _NOTES), [], "what was refused because of another storage")
        before = [_stored(driver) for driver in drivers]
        drivers[0].patch(ITEMS, (), {"tag": "patched"})
        while drivers[0].claim(ITEMS, equal(flag=True), {"flag": False}) is not None:
            pass
        drivers[0].delete(ITEMS, (Comparison("place", "<", 10),))
        drivers[0].delete(NOTES, ())
        for number in (1, 2):
            _same(
                context, "OPEN-3", _stored(drivers[number]), before[number], "what another storage has after a change"
            )
            context.equal("OPEN-3", drivers[number].count(ITEMS, equal(family="f")), 20, "its documents, counted")
            tallied = drivers[number].tally(ITEMS, equal(family="f"), "tag")
            context.equal("OPEN-3", tallied, {"t0": 7, "t1": 7, "t2": 6}, "its documents, counted by value")
        context.equal("OPEN-3", drivers[0].count(ITEMS), 10, "documents of the storage that was changed")
        drivers[0].close()
        _same(context, "OPEN-3", _stored(drivers[1]), before[1], "what a storage has after another was closed")
    finally:
        for driver in drivers:
            driver.close()
        for url in urls:
            context.target.hooks.discard(url)


# Closing


@check("CLOSE-1")
def closing_twice_is_harmless(context: Context) -> None:
    """Closes a driver three times, and calls every primitive of it after that."""
    other = context.open()
    driver = context.open()
    _fill(driver)
    for _ in range(3):
        try:
            driver.close()
        except Exception as error:
            context.fail("CLOSE-1", f"closing again raised {type(error).__name__}: {error}")
    where = equal(family="f")
    calls: Mapping[str, Callable[[], object]] = {
        "setup": lambda: driver.setup(ITEMS_SCHEMA),
        "insert": lambda: driver.insert(ITEMS, [Document("new", {})]),
        "find": lambda: driver.find(ITEMS, where),
        "get": lambda: driver.get(ITEMS, "i1"),
        "count": lambda: driver.count(ITEMS, where),
        "tally": lambda: driver.tally(ITEMS, where, "tag"),
        "swap": lambda: driver.swap(ITEMS, Document("i1", {}), 1),
        "patch": lambda: driver.patch(ITEMS, where, {"tag": "changed"}),
        "claim": lambda: driver.claim(ITEMS, where, {"flag": None}),
        "delete": lambda: driver.delete(ITEMS, where),
    }
    for name, call in calls.items():
        with context.raises("CLOSE-1", StorageClosed, f"{name} after closing"):
            call()
    if Capability.TRANSACTIONS in driver.capabilities:
        with context.raises("CLOSE-1", StorageClosed, "a transaction after closing"), driver.transaction():
            driver.find(ITEMS)
    _same(context, "CLOSE-1", _stored(other), _expected(), "what another driver finds after that")


_ROUNDS = 12


def _descriptors() -> int | None:
    folder = next((one for one in (Path("/proc/self/fd"), Path("/dev/fd")) if one.is_dir()), None)
    return None if folder is None else len(list(folder.iterdir()))


@check("CLOSE-2")
def closing_frees_files_and_threads(context: Context) -> None:
    """Opens, uses in two threads, and closes many times; neither threads nor files nor connections may pile up."""

    def use() -> None:
        driver = context.target.open(context.url)
        try:
            driver.insert(ITEMS, [Document(secrets.token_hex(8), {"family": "f", "flag": True})])
            thread = threading.Thread(target=driver.claim, args=(ITEMS, equal(flag=True), {"flag": False}))
            thread.start()
            thread.join()
            driver.find(ITEMS, equal(flag=True))
        finally:
            driver.close()

    for _ in range(2):  # what is opened once and shared is no leak
        use()
    files, threads = _descriptors(), set(threading.enumerate())
    for _ in range(_ROUNDS):
        use()
    patience = time.monotonic() + 5
    while len(set(threading.enumerate()) - threads) >= _ROUNDS // 2 and time.monotonic() < patience:
        time.sleep(0.05)  # some end a little later
    left = len(set(threading.enumerate()) - threads)
    context.require(left < _ROUNDS // 2, "CLOSE-2", f"{left} threads are left of {_ROUNDS} drivers that were closed")
    if files is None:
        raise Unjudged("this system does not tell which files a process has open")
    more = (_descriptors() or 0) - files
    context.require(
        more < _ROUNDS // 2,
        "CLOSE-2",
        f"{more} more files or connections are open after {_ROUNDS} drivers were opened and closed",
    )


# Errors


@contextlib.contextmanager
def _removed(path: Path) -> Iterator[Path]:
    try:
        yield path
    finally:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@check("ERROR-1")
def what_cannot_be_opened_is_reported(context: Context) -> None:
    """Opens places where no storage can be: a folder, below a file, a missing folder, a name that is too long."""

    def try_to_open(name: str, what: str, *, read_only: bool = False) -> None:
        url = context.target.url.replace(PLACE, name)
        try:
            driver = context.target.open(url, read_only=read_only)
        except MoorageError:
            return
        except Exception as error:
            context.fail("ERROR-1", f"{what}: expected a MoorageError, got {type(error).__name__}: {error}")
        driver.close()
        context.target.hooks.discard(url)

    def place(name: str) -> Path:
        url = StorageURL.parse(context.target.url.replace(PLACE, name))
        return Path(url.path.removeprefix("/"))

    name = f"ns{secrets.token_hex(5)}"
    if place(name) == place(f"{name}x") or not place(name).parent.is_dir():
        raise Unjudged(f"the path of the URL must hold {PLACE}, in a folder that exists")
    try_to_open("x" * 300, "a file whose name is too long")
    try_to_open(name, "a storage that is not there, read-only", read_only=True)
    with _removed(place(name)) as folder:
        folder.mkdir()
        (folder / "file").write_text("not a storage", encoding="utf-8")
        try_to_open(name, "a folder in place of a file")
    with _removed(place(f"{name}/inner").parent) as file:
        try_to_open(f"{name}/inner", "a file in a folder that is not there")
        if file.is_dir():  # made by the backend
            shutil.rmtree(file)
        file.write_text("not a folder", encoding="utf-8")
        try_to_open(f"{name}/inner", "a file below a file")
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        with _removed(place(f"{name}/inner").parent) as locked:
            locked.mkdir(mode=0o500)
            try_to_open(f"{name}/inner", "a file in a folder that may not be written")


def _with_password(url: str, password: str, *, host: str | None = None) -> str:
    scheme, _, rest = url.partition("://")
    ends = [rest.index(mark) for mark in "/?#" if mark in rest]
    place, tail = rest[: min(ends, default=len(rest))], rest[min(ends, default=len(rest)) :]
    credentials, _, real = place.rpartition("@")
    return f"{scheme}://{credentials.partition(':')[0]}:{password}@{host or real}{tail}"


def _write_read_only(context: Context, url: str) -> None:
    context.open(url, read_only=True).insert(ITEMS, [Document("b", {})])


@check("ERROR-2")
def the_password_is_never_shown(context: Context) -> None:
    """Provokes errors with the right password and a wrong one, and looks for both in all that is raised and shown."""
    parsed = StorageURL.parse(context.url)
    password = parsed.password or ""
    first, second = f"Zq{secrets.token_hex(6)}", f"Xw{secrets.token_hex(6)}"
    hidden = {first, second}
    if len(password) >= 6 and password not in str(parsed):
        hidden |= {password, quote(password, safe=""), quote(password)}

    def look(text: str, what: str) -> None:
        if any(one in text for one in hidden):
            for one in hidden:
                text = text.replace(one, "<the password>")
            line = next(line for line in text.splitlines() if "<the password>" in line)
            context.fail("ERROR-2", f"{what} shows the password: {line.strip()[:300]}")

    def provoke(what: str, call: Callable[[], object]) -> None:
        try:
            result = call()
        except Exception as error:
            # The whole chain, because that is what a user sees.
            look("\n".join([*traceback.format_exception(error), repr(error), str(error)]), what)
        else:
            if isinstance(result, Driver):
                look(f"{result!r} {result}", what)

    wrong = f"{first}%2F{second}"
    nowhere = "127.0.0.1:1"
    more = "&" if "?" in context.url else "?"
    driver = context.open()
    driver.insert(ITEMS, [Document("a", {})])
    provoke("the repr of a driver", lambda: driver)
    provoke("the error of a wrong password", lambda: context.open(_with_password(context.url, wrong)))
    for one in (password and quote(password, safe=""), wrong):
        url = _with_password(context.url, one)
        reading = context.url if one != wrong else url
        provoke("the error of a wrong option", functools.partial(context.open, f"{url}{more}no_such_option=1"))
        provoke("the error of a wrong version", functools.partial(context.open, url, schema=NEWER_SCHEMA))
        absent = _with_password(context.url, one, host=nowhere)
        provoke("the error of a server that is not there", functools.partial(context.open, absent))
        provoke("the repr of a read-only driver", functools.partial(context.open, reading, read_only=True))
        provoke("the error of a read-only driver", functools.partial(_write_read_only, context, reading))
    driver.close()
    provoke("the repr of a closed driver", lambda: driver)
    provoke("the error of a closed driver", lambda: driver.find(ITEMS))
    provoke("the error of a closed driver", lambda: driver.insert(ITEMS, [Document("b", {})]))
    if password not in hidden:
        raise Unjudged("the password of the URL is too short, or part of the rest of it, to be told apart in a message")


# What is declared


@check("CAPABILITY-1")
def capabilities_stay_the_same(context: Context) -> None:
    """Opens the URL several times, and looks at what each driver declares before, during and after its use."""
    declared: list[object] = []
    for number in range(4):
        driver = context.open()
        for moment in ("after opening", "after writing", "after closing"):
            found: object = driver.capabilities
            context.require(
                isinstance(found, frozenset) and all(isinstance(one, Capability) for one in found),
                "CAPABILITY-1",
                f"the capabilities are {found!r:.200}, and not a frozenset of Capability",
            )
            declared.append(found)
            context.equal("CAPABILITY-1", found, declared[0], f"the capabilities {moment}, opening {number + 1}")
            if moment == "after opening":
                driver.insert(ITEMS, [Document(f"i{number}", {})])
            elif moment == "after writing":
                driver.close()


@check("CAPABILITY-2")
def what_is_not_declared_refuses(context: Context) -> None:
    """Calls `transaction` and `now` of a driver that does not declare them."""
    driver = context.open()
    if Capability.TRANSACTIONS not in driver.capabilities:
        with context.raises("CAPABILITY-2", Unsupported, "an undeclared transaction"), driver.transaction():
            driver.insert(ITEMS, [Document("a", {})])
        context.equal("CAPABILITY-2", driver.find(ITEMS), [], "what an undeclared transaction has written")
    if Capability.SERVER_CLOCK not in driver.capabilities:
        with context.raises("CAPABILITY-2", Unsupported, "an undeclared clock"):
            driver.now()
