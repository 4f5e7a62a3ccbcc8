"""The JSON file: what people read in it, what it costs, and what it says when something is wrong."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tinydb import TinyDB, where

import moorage
from moorage.config import find_settings
from moorage.driver import Capability, Document, Increment
from moorage.errors import (
    ConfigurationError,
    OutcomeUnknown,
    SchemaMismatch,
    StorageClosed,
    StorageDamaged,
    StorageFull,
    StorageReadOnly,
    Unavailable,
)
from moorage.filters import equal
from moorage.plugins import plugins
from moorage.schema import Collection, Field, Schema
from moorage.table import Table
from moorage_json import disk, reading, snapshot
from moorage_json.driver import JSONDriver
from moorage_json.journal import pack
from moorage_json.storage import JournalStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

THINGS = Collection(
    name="things",
    fields=(Field("name", "string"), Field("rank", "integer"), Field("open", "boolean"), Field("extra", "json")),
    unique=(("name",),),
    indexes=(("open", "rank"),),
)
SCHEMA = Schema(version=3, collections=(THINGS,))


def open_driver(path: Path, *, read_only: bool = False, upgrade: bool = False, **options: object) -> JSONDriver:
    settings = find_settings(f"json:///{path}")
    driver = plugins().backend("json").connect(settings.url, options, read_only=read_only)
    assert isinstance(driver, JSONDriver)
    try:
        driver.setup(SCHEMA, upgrade=upgrade)
    except BaseException:
        driver.close()
        raise
    return driver


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.json"


@pytest.fixture
def driver(path: Path) -> Iterator[JSONDriver]:
    opened = open_driver(path)
    yield opened
    opened.close()


def thing(identifier: str, **body: object) -> Document:
    return Document(identifier, body)  # type: ignore[arg-type]


def ids(driver: JSONDriver) -> list[str]:
    return sorted(one.id for one in driver.find(THINGS))


def beside(path: Path) -> list[str]:
    return sorted(one.name for one in path.parent.iterdir())


def fill(path: Path, count: int = 5) -> None:
    driver = open_driver(path)
    driver.insert(THINGS, [thing(f"{place}", name=f"n{place}", rank=place, open=True) for place in range(count)])
    driver.close()


# What people read


def test_after_the_last_close_there_is_one_file_and_tinydb_opens_it(path: Path) -> None:
    first, second = open_driver(path), open_driver(path)
    first.insert(THINGS, [thing("a", name="é", rank=2**60, extra={"x": [1, 1.0, -0.0]}, loose={"z": 1, "a": None})])
    first.close()
    assert beside(path) == ["runs.json", "runs.json-journal", "runs.json-lock"]
    second.close()
    assert beside(path) == ["runs.json"]
    with TinyDB(path) as database:
        assert database.tables() == {"moorage", "things"}
        (found,) = database.table("things").search(where("name") == "é")
    expected = {"id": "a", "revision": 1, "name": "é", "rank": 2**60}
    assert found == {**expected, "extra": {"x": [1, 1.0, -0.0]}, "loose": {"z": 1, "a": None}}
    assert list(found["loose"]) == ["z", "a"]
    text = path.read_text(encoding="utf-8")
    assert '      "extra": {"x": [1, 1.0, -0.0]},\n' in text
    assert json.loads(text)["moorage"]["1"]["schema"] == 3


def test_what_did_not_change_is_written_as_before(path: Path) -> None:
    fill(path)
    before = path.read_text(encoding="utf-8").splitlines()
    driver = open_driver(path)
    driver.patch(THINGS, equal(id="2"), {"rank": 7})
    driver.delete(THINGS, equal(id="1"))
    driver.insert(THINGS, [thing("x", extra=list(range(100)))])
    driver.close()
    after = path.read_text(encoding="utf-8").splitlines()
    gone = {line.strip().split(" ")[0] for line in before if line not in after}
    assert gone == {'"checksum":', '"generation":', '"journal":', '"records":', '"2":', '"id":', '"name":', '"rank":'}
    assert sum(line not in after for line in before) == 9
    numbers = json.loads(path.read_text(encoding="utf-8"))["things"]
    assert {number: one["id"] for number, one in numbers.items()} == {"1": "0", "3": "2", "4": "3", "5": "4", "6": "x"}
    assert max(map(len, after)) < 200


@pytest.mark.parametrize("name", ["id", "revision", "body", "moorage"])
def test_a_body_may_have_any_key(path: Path, name: str) -> None:
    for body in ({name: "mine"}, {name: {"id": 1}, "rank": 1}, {"id": 1, "revision": 2, "body": None}):
        driver = open_driver(path)
        driver.insert(THINGS, [thing("a", **body)])
        for opened in (driver, open_driver(path)):
            found = opened.get(THINGS, "a")
            assert found is not None
            assert {key: value for key, value in found.body.items() if value is not None or key in body} == body
            opened.close()
        driver = open_driver(path)
        found = driver.get(THINGS, "a")
        assert found is not None
        assert found.body[name if name in body else "id"] == body.get(name, 1)
        driver.delete(THINGS, ())
        driver.close()


def test_tinydb_reads_a_storage_in_use_through_ours(driver: JSONDriver, path: Path) -> None:
    driver.insert(THINGS, [thing("a", name="x"), thing("b", name="y")])
    driver.delete(THINGS, equal(id="a"))
    driver.patch(THINGS, equal(id="b"), {"rank": 5})
    with TinyDB(path) as database:
        assert len(database.table("things")) == 0
    with TinyDB(str(path), storage=JournalStorage) as database:
        assert [one["rank"] for one in database.table("things")] == [5]
        database.table("things").update({"rank": 6}, where("name") == "y")
        assert [one.body["rank"] for one in driver.find(THINGS)] == [6]
        driver.insert(THINGS, [thing("c")])
        assert len(database.table("things")) == 2
    ours = JournalStorage(str(path))
    tables = ours.read()
    assert tables is not None
    driver.insert(THINGS, [thing("d")])
    with pytest.raises(Unavailable, match="changed since it was read"):
        ours.write(tables)
    ours.close()
    assert ids(driver) == ["b", "c", "d"]


# What it costs


def test_a_write_is_one_record_and_one_flush(driver: JSONDriver, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    flush = os.fdatasync
    driver.insert(THINGS, [thing("a", open=True, rank=1)])
    monkeypatch.setattr(os, "fdatasync", lambda file: (flushed.append(file), flush(file)))
    journal = Path(f"{path}-journal")
    lines = len(journal.read_bytes().splitlines())
    driver.claim(THINGS, equal(open=True), {"rank": Increment()})
    driver.insert(THINGS, [thing(f"{place}") for place in range(100)])
    with driver.transaction():
        driver.delete(THINGS, equal(id="1"))
        driver.swap(THINGS, thing("a", rank=5), 2)
    assert len(flushed) == len(journal.read_bytes().splitlines()) - lines == 3
    assert driver.claim(THINGS, equal(open=True), {"rank": 1}) is None
    assert driver.delete(THINGS, equal(id="nobody")) == 0
    assert len(flushed) == 3
    fast = open_driver(path, durability="fast")
    for place in range(3):
        fast.insert(THINGS, [thing(f"fast {place}")])
        assert len(flushed) == 4, "once, to say that parts of this journal may be lost"
    fast.close()
    assert Capability.DURABLE in driver.capabilities
    assert Capability.DURABLE not in fast.capabilities


def test_the_work_of_one_call_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: dict[str, int] = {}

    def counted(module: object, name: str, size: Callable[[object, tuple[object, ...]], int]) -> None:
        call = getattr(module, name)

        def run(*arguments: object) -> object:
            result = call(*arguments)
            done[name] = done.get(name, 0) + size(result, arguments)
            return result

        monkeypatch.setattr(module, name, run)

    counted(disk, "read", lambda result, _: len(result))  # type: ignore[arg-type]
    counted(os, "pwrite", lambda result, _: result)  # type: ignore[arg-type, return-value]
    counted(os, "write", lambda result, _: result)  # type: ignore[arg-type, return-value]
    counted(Table, "meets", lambda *_: 1)
    counted(Table, "put", lambda *_: 1)

    def work(count: int) -> dict[str, int]:
        path = tmp_path / f"{count}.json"
        fill(path, count)
        first, second = open_driver(path), open_driver(path)
        for driver in (first, second):
            driver.insert(THINGS, [thing(f"warm {id(driver):09x}"[-9:])])
            driver.count(THINGS, equal(id="0"))
        first.find(THINGS, equal(id="0"))
        done.clear()
        for driver in (first, second):
            driver.claim(THINGS, equal(open=True), {"open": False})
            driver.get(THINGS, "0")
        found = dict(done)
        for driver in (first, second):
            driver.close()
        return found

    few, many = work(10), work(1000)
    assert few["put"] == many["put"] == 3
    assert few["meets"] == many["meets"]
    assert many["read"] <= few["read"] + 20
    assert many["pwrite"] <= few["pwrite"] + 20
    assert "write" not in many


def test_a_fold_is_followed_without_loading_everything(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_SMALLEST_FOLD", 4000)
    writer, reader, viewer = open_driver(path), open_driver(path), open_driver(path, read_only=True)
    loads: list[int] = []
    load = JournalStorage.load
    monkeypatch.setattr(JournalStorage, "load", lambda self: (loads.append(1), load(self))[1])
    generation = writer._file._reader.known.generation
    for place in range(200):
        writer.insert(THINGS, [thing(f"{place:03}", name=f"n{place}", extra=["x" * 50])])
        assert reader.count(THINGS) == viewer.count(THINGS) == place + 1
    assert writer._file._reader.known.generation > generation + 2
    assert loads == []
    assert Path(f"{path}-journal").stat().st_size < 2 * path.stat().st_size + 4000
    reader.insert(THINGS, [thing("late")])
    assert len(ids(writer)) == 201
    for one in (writer, reader, viewer):
        one.close()
    assert beside(path) == ["runs.json"]


def test_who_missed_two_folds_loads_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader, viewer = open_driver(path), open_driver(path), open_driver(path, read_only=True)
    monkeypatch.setattr(reading, "_SMALLEST_FOLD", 1)
    for place in range(9):
        writer.insert(THINGS, [thing(f"{place}")])
        writer._file._reader.fold_at = 0
    expected = ids(writer)
    assert ids(reader) == ids(viewer) == expected
    reader.close()
    writer.close()
    assert beside(path) == ["runs.json"]
    assert ids(viewer) == expected
    fill(path.with_name("other.json"))
    again = open_driver(path)
    again.insert(THINGS, [thing("z")])
    assert ids(viewer) == [*expected, "z"]
    again.close()
    viewer.close()


# Edited by hand


def edit(path: Path, change: Callable[[dict[str, dict[str, dict[str, object]]]], None], *, honest: bool = True) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    if honest:
        del content["moorage"]["1"]["checksum"]
    change(content)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8-sig")


def test_an_edited_file_is_taken_as_it_is_once_its_checksum_is_gone(path: Path) -> None:
    fill(path)
    lines = path.read_text(encoding="utf-8").replace('"name": "n3"', '"name": "renamed"')
    path.write_text(lines, encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(StorageDamaged, match="If you edited it, remove the line with the checksum"):
        open_driver(path)
    assert path.read_bytes() == before
    assert beside(path) == ["runs.json"]
    kept = [line for line in lines.splitlines() if "checksum" not in line]
    path.write_text("\r\n".join(kept), encoding="utf-8")
    driver = open_driver(path)
    found = driver.get(THINGS, "3")
    assert found is not None
    assert found.body["name"] == "renamed"
    driver.patch(THINGS, equal(id="3"), {"rank": 9})
    driver.close()
    assert "checksum" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda all_: all_["things"]["1"].pop("id"), "needs an id"),
        (lambda all_: all_["things"]["1"].update(id="2"), "'2', which another one has"),
        (lambda all_: all_["things"]["1"].update(revision=0), "a revision of 1 or more"),
        (lambda all_: all_["things"]["1"].update(revision=True), "a revision of 1 or more"),
        (lambda all_: all_["things"]["1"].update(rank="7"), "'rank' is of kind integer, and cannot be '7'"),
        (lambda all_: all_["things"]["1"].update(rank=2.0), "'rank' is of kind integer"),
        (lambda all_: all_["things"]["1"].update(open=1), "'open' is of kind boolean"),
        (lambda all_: all_["things"]["1"].update(name="n2"), "the same name as another"),
        (lambda all_: all_["things"]["1"].update(rank=2**63), "beyond 64 bits"),
        (lambda all_: all_["things"]["1"].update(extra=["\0"]), "a text with NUL"),
        (lambda all_: all_["things"]["1"].update(extra={"\ud800": 1}), "half sign"),
        (lambda all_: all_["things"]["1"].update(extra=float("nan")), "NaN is no number"),
        (lambda all_: all_["things"].update(x={"id": "x", "revision": 1}), "needs a whole number"),
        (lambda all_: all_["things"].update({"01": {"id": "x", "revision": 1}}), "needs a whole number"),
        (lambda all_: all_["things"].update({"9": 5}), "no table of documents"),
        (lambda all_: all_.update(notes=[1]), "no table of documents"),
        (lambda all_: all_.update(notes={"1": {"text": "hello"}}), "needs an id"),
        (lambda all_: all_.pop("moorage"), "no Moorage storage"),
        (lambda all_: all_["moorage"]["1"].pop("generation"), "no Moorage storage"),
        (lambda all_: all_["moorage"]["1"].update(records="3"), "not as it was written"),
        (lambda all_: all_["moorage"]["1"].update(journal=3), "not as it was written"),
        (lambda all_: all_["moorage"]["1"].pop("schema"), "names no schema version"),
        (lambda all_: all_["moorage"]["1"].update(schema="3"), "names no schema version"),
    ],
)
def test_an_edit_that_makes_no_sense_is_explained(
    path: Path, change: Callable[[dict[str, dict[str, dict[str, object]]]], None], message: str
) -> None:
    fill(path)
    edit(path, change)
    before = path.read_bytes()
    with pytest.raises(StorageDamaged, match=message):
        open_driver(path)
    assert path.read_bytes() == before
    assert beside(path) == ["runs.json"]


def test_a_document_that_stands_twice_is_noticed(path: Path) -> None:
    fill(path)
    text = path.read_text(encoding="utf-8").replace('"2": {', '"1": {')
    path.write_text("\n".join(line for line in text.splitlines() if "checksum" not in line), encoding="utf-8")
    with pytest.raises(StorageDamaged, match="'1' stands twice"):
        open_driver(path)


def test_a_new_table_with_ids_is_kept(path: Path) -> None:
    fill(path)
    edit(path, lambda content: content.update(notes={"4": {"id": "n", "revision": 1, "text": "hello"}}))
    driver = open_driver(path)
    driver.insert(THINGS, [thing("x")])
    driver.close()
    assert json.loads(path.read_text(encoding="utf-8"))["notes"] == {"4": {"id": "n", "revision": 1, "text": "hello"}}


# Damage


def journaled(path: Path, count: int = 4) -> list[str]:
    """A storage whose last user was killed: each of the documents is a record of its journal."""
    child = os.fork()
    if child == 0:
        try:
            driver = open_driver(path)
            for place in range(count):
                driver.insert(THINGS, [thing(f"{place}", name=f"n{place}")])
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert "runs.json-journal" in beside(path)
    return [f"{place}" for place in range(count)]


def test_a_journal_that_was_cut_off_is_a_prefix_and_is_written_on(path: Path) -> None:
    written = journaled(path, 2)
    journal, whole = Path(f"{path}-journal"), Path(f"{path}-journal").read_bytes()
    snapshot_before = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    for length in range(len(whole) + 1):
        path.write_bytes(snapshot_before)
        journal.write_bytes(whole[:length] + b"\0" * 512 * (length % 7 == 0 and length not in ends))
        expected = written[: max(0, sum(end <= length for end in ends) - 1)]
        with_view = open_driver(path, read_only=True)
        assert ids(with_view) == expected
        with_view.close()
        driver = open_driver(path, durability="fast")
        assert ids(driver) == expected
        driver.insert(THINGS, [thing("new")])
        driver.close()
        driver = open_driver(path)
        assert ids(driver) == [*expected, "new"]
        driver.close()


@pytest.mark.parametrize("flip", [1, 0xFF])
def test_a_journal_that_was_changed_anywhere_is_refused(path: Path, flip: int) -> None:
    journaled(path)
    journal, whole = Path(f"{path}-journal"), Path(f"{path}-journal").read_bytes()
    for place in range(len(whole)):
        journal.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
        with pytest.raises(StorageDamaged, match="damaged at byte"):
            JournalStorage(str(path), read_only=True)._reader._load()
    journal.write_bytes(whole[:-2])
    assert len(open_and_read(path)) == 3
    for rest in (b"\n", b"hello", whole[-30:], b"12 9 [1]"):
        journal.write_bytes(whole + rest)
        if rest == b"12 9 [1]":
            assert len(open_and_read(path)) == 4
            continue
        with pytest.raises(StorageDamaged, match="restore it from a backup"):
            open_and_read(path)


def open_and_read(path: Path) -> list[str]:
    driver = open_driver(path, read_only=True)
    try:
        return ids(driver)
    finally:
        driver.close()


def test_a_snapshot_that_was_cut_short_or_changed_anywhere_is_refused(path: Path) -> None:
    fill(path, 3)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for data in (whole[:place], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]):
            if place == len(whole) - 1 and data == whole[:place]:
                continue
            with pytest.raises(StorageDamaged):
                snapshot.parse(data, "runs.json")
    path.write_bytes(whole.replace(b'"n1"', b'"n9"'))
    with pytest.raises(StorageDamaged, match="not as it was written"):
        open_driver(path)
    path.write_bytes(b"")
    with pytest.raises(StorageDamaged, match="is empty"):
        open_driver(path)
    assert beside(path) == ["runs.json"]


@pytest.mark.parametrize("text", ["hello", "[]", "{}", '{"_default": {"1": {"a": 1}}}', '{"moorage": []}', "[" * 9999])
def test_what_is_no_storage_is_refused_and_stays(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(StorageDamaged):
        moorage.connect(f"json:///{path}")
    assert path.read_text() == text
    assert beside(path) == ["runs.json"]


def test_a_snapshot_and_a_journal_that_do_not_belong_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journaled(path)
    old = path.read_bytes()
    driver = open_driver(path)
    monkeypatch.setattr(reading, "_SMALLEST_FOLD", 1)
    for place in range(9):
        driver._file._reader.fold_at = 0
        driver.insert(THINGS, [thing(f"later {place}")])
    files = {one: one.read_bytes() for one in path.parent.iterdir()}
    driver.close()
    for one, data in files.items():
        one.write_bytes(data)
    path.write_bytes(old)
    with pytest.raises(StorageDamaged, match="one of them comes from a copy"):
        open_driver(path)
    path.unlink()
    with pytest.raises(StorageDamaged, match=r"runs\.json is gone"):
        open_driver(path)
    with pytest.raises(StorageDamaged, match=r"runs\.json is gone"):
        open_driver(path, read_only=True)
    Path(f"{path}-journal").unlink()
    path.write_bytes(old)
    assert open_and_read(path) == []


def test_a_file_that_was_taken_away_or_edited_in_use_is_noticed(driver: JSONDriver, path: Path) -> None:
    driver.insert(THINGS, [thing("a", name="x")])
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(StorageDamaged, match="is gone"):
        driver.insert(THINGS, [thing("b")])
    path.write_bytes(whole.replace(b'"schema": 3', b'"schema": 4'))
    with pytest.raises(StorageDamaged, match="not as it was written"):
        driver.insert(THINGS, [thing("b")])
    path.write_bytes(whole)
    driver.insert(THINGS, [thing("c")])
    assert ids(driver) == ["a", "c"]


# Disks that fail


@pytest.mark.parametrize(
    ("code", "error"), [(errno.EIO, OutcomeUnknown), (errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull)]
)
def test_a_flush_that_fails_leaves_nothing(
    driver: JSONDriver, path: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    other = open_driver(path)
    driver.insert(THINGS, [thing("a", rank=1)])
    seen: list[int] = []

    def fail(_: int) -> None:
        seen.append(other.count(THINGS))
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        with pytest.raises(error):
            driver.insert(THINGS, [thing("b", rank=2)])
        assert ids(driver) == ids(other) == ["a"]
        with pytest.raises(error), driver.transaction():  # noqa: PT012
            driver.patch(THINGS, (), {"rank": 7})
            driver.delete(THINGS, ())
    assert ids(driver) == ids(other) == ["a"]
    driver.insert(THINGS, [thing("c", rank=3)])
    assert ids(driver) == ids(other) == ["a", "c"]
    other.close()


def test_a_fold_that_fails_breaks_no_write(driver: JSONDriver, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.insert(THINGS, [thing("a")])

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(snapshot, "write", fail)
        driver._file._reader.fold_at = 0
        driver.insert(THINGS, [thing("b")])
    assert not Path(f"{path}-new").exists()
    other = open_driver(path)
    other.insert(THINGS, [thing("c")])
    assert ids(driver) == ids(other) == ["a", "b", "c"]
    other.close()


def test_a_full_disk(small_disk: Path) -> None:
    path = small_disk / "runs.json"
    driver, other = open_driver(path), open_driver(path)
    done = 0
    with pytest.raises(StorageFull, match="full"):  # noqa: PT012
        for place in range(1000):
            driver.insert(THINGS, [thing(f"{place}", extra=["x" * 5000])])
            done += 1
    assert done > 50
    assert len(ids(driver)) == len(ids(other)) == done
    with pytest.raises(StorageFull), other.transaction():  # noqa: PT012
        other.delete(THINGS, equal(id="1"))
        other.insert(THINGS, [thing("big", extra=["x" * 2_000_000])])
    other.close()
    driver.close()
    assert len(open_and_read(path)) == done


# Places, options, and ways to open


def test_read_only_creates_nothing_and_sees_what_others_write(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no file"):
        open_driver(path, read_only=True)
    assert beside(path) == []
    fill(path, 1)
    viewer = open_driver(path, read_only=True)
    with pytest.raises(StorageReadOnly, match="read-only"):
        viewer.insert(THINGS, [thing("x")])
    assert beside(path) == ["runs.json"]
    fill_more = open_driver(path)
    fill_more.insert(THINGS, [thing("y")])
    assert ids(viewer) == ["0", "y"]
    with viewer.transaction():
        assert viewer.count(THINGS) == 2
    fill_more.close()
    assert ids(viewer) == ["0", "y"]
    viewer.close()
    assert beside(path) == ["runs.json"]


def test_a_file_system_of_the_network_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moorage_json.driver.file_system", lambda _: "nfs4")
    with pytest.raises(ConfigurationError, match=r"network file system \(nfs4\).*\?network=true"):
        open_driver(path)
    driver = open_driver(path, network=True)
    assert Capability.SERVER_CLOCK not in driver.capabilities
    driver.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("json://host/runs.json", "names a host"),
        ("json:///", "names no file"),
        ("json:///missing/runs.json", "there is no folder"),
        ("json:///.", "is a folder"),
        (f"json:///{'x' * 300}.json", "name another file"),
        ("json:///runs.json?busy_timeout=-1", "0 seconds or more"),
        ("json:///runs.json?durability=none", "must be one of"),
        ({"type": "json"}, "needs a path"),
        ({"type": "json", "path": "a", "host": "b"}, "unknown field 'host'"),
    ],
)
def test_places_that_cannot_be(url: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        moorage.connect(url)  # type: ignore[arg-type, call-overload]
    assert list(Path().iterdir()) == []


def test_a_table_names_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    opened = moorage.connect({"type": "json", "path": "here #1?.json", "durability": "fast"})
    monkeypatch.chdir(tmp_path / "elsewhere")
    opened.create_experiment(name="e")
    opened.close()
    assert (tmp_path / "here #1?.json").is_file()
    assert list(Path().iterdir()) == []


def test_permissions_and_links_stay(path: Path, tmp_path: Path) -> None:
    fill(path)
    path.chmod(0o640)
    link = tmp_path / "link.json"
    link.symlink_to(path)
    driver = open_driver(link)
    driver.insert(THINGS, [thing("x")])
    assert Path(f"{path}-journal").stat().st_mode & 0o777 == 0o640
    driver.close()
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert "x" in open_and_read(path)


def test_another_version_is_refused_and_an_older_one_upgraded(path: Path) -> None:
    fill(path)
    driver = open_driver(path)
    with pytest.raises(SchemaMismatch, match=r"version 3.*supports 2.*newer"):
        driver.setup(Schema(2, (THINGS,)), upgrade=True)
    wider = Collection("things", (*THINGS.fields, Field("loose", "integer")), indexes=(("loose",),))
    with pytest.raises(SchemaMismatch, match=r"version 3.*needs 4.*moorage upgrade"):
        driver.setup(Schema(4, (wider,)))
    driver.setup(SCHEMA)
    driver.insert(THINGS, [thing("x", loose=5)])
    behind = open_driver(path)
    driver.setup(Schema(4, (wider, Collection("others", ()))), upgrade=True)
    assert [one.id for one in driver.find(wider, equal(loose=5))] == ["x"]
    with pytest.raises(SchemaMismatch):
        behind.insert(THINGS, [thing("y")])
    behind.close()
    driver.close()
    assert json.loads(path.read_text())["others"] == {}


def test_what_an_older_release_wrote_is_read_once_it_is_upgraded(path: Path) -> None:
    acknowledged = journaled(path)
    content = json.loads(path.read_text())
    content["moorage"]["1"] = {"generation": 5, "schema": 3}
    path.write_text(json.dumps(content))
    records = [line.split(" ", 2)[2][:-9] for line in Path(f"{path}-journal").read_text().splitlines()]
    head = {"journal": 1, "generation": 5, "snapshot": [1, 2, 3], "rewritten": False}
    packed = [pack(0, head), *(pack(place + 1, json.loads(one)) for place, one in enumerate(records[1:]))]
    Path(f"{path}-journal").write_bytes(b"".join(packed))
    for read_only in (True, False):
        with pytest.raises(SchemaMismatch, match="moorage upgrade"):
            open_driver(path, read_only=read_only)
    driver = open_driver(path, upgrade=True)
    assert ids(driver) == acknowledged
    driver.insert(THINGS, [thing("x")])
    driver.close()
    assert open_and_read(path) == [*acknowledged, "x"]


def test_whoever_holds_the_lock_too_long_is_reported(driver: JSONDriver, path: Path) -> None:
    other = open_driver(path, busy_timeout=0.2)
    with driver.transaction():
        driver.insert(THINGS, [thing("a")])
        with pytest.raises(Unavailable, match=r"held the write lock for 0\.2 s"):
            other.insert(THINGS, [thing("b")])
        assert other.find(THINGS) == []
    assert other.insert(THINGS, [thing("b")]) == []
    said: list[BaseException] = []

    def read() -> None:
        try:
            other.count(THINGS)
        except Unavailable as error:
            said.append(error)

    with other.transaction():
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert "another thread" in str(said[0])
    other.close()


def test_transactions_may_be_nested(driver: JSONDriver, path: Path) -> None:
    with driver.transaction():
        driver.insert(THINGS, [thing("a", name="x"), thing("b", name="y")])
        with pytest.raises(ZeroDivisionError), driver.transaction():  # noqa: PT012
            driver.delete(THINGS, ())
            raise ZeroDivisionError
        driver.patch(THINGS, equal(id="b"), {"name": "z"})
        driver.insert(THINGS, [thing("c", name="y")])
        driver.patch(THINGS, equal(id="a"), {"name": "w"})
        driver.patch(THINGS, equal(id="b"), {"name": "x"})
    with pytest.raises(KeyboardInterrupt), driver.transaction():  # noqa: PT012
        driver.delete(THINGS, ())
        raise KeyboardInterrupt
    other = open_driver(path)
    for one in (driver, other):
        assert {found.id: found.body["name"] for found in one.find(THINGS)} == {"a": "w", "b": "x", "c": "y"}
        refused = one.insert(THINGS, [thing("d", name="w"), thing("e", name="x"), thing("f", name="y")])
        assert [refusal.id for refusal in refused] == ["d", "e", "f"]
    other.close()


def test_what_is_closed_says_so_and_frees_its_files(path: Path) -> None:
    opened = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        driver = open_driver(path)
        driver.insert(THINGS, [thing("a")])
        driver.close()
        driver.close()
    for call in (lambda: driver.count(THINGS), lambda: driver.delete(THINGS, ()), driver.now):
        with pytest.raises(StorageClosed, match="connect again"):
            call()
    forgotten = open_driver(path)
    del forgotten
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


def test_erase_removes_all_that_belongs_to_a_storage_and_nothing_else(path: Path, tmp_path: Path) -> None:
    backend = plugins().backend("json")
    erase = backend.erase
    assert erase is not None

    def erased(name: object) -> None:
        erase(find_settings(f"json:///{name}").url, {})

    journaled(path)
    (tmp_path / "runs.json.mine").write_text("mine")
    erased(path)
    assert beside(path) == ["runs.json.mine"]
    erased(path)
    erased(tmp_path / "runs.json.mine" / "x.json")
    for damaged in (b"", b'{\n  "moor', b'{"moorage": {}, "things": 5}'):
        path.write_bytes(damaged)
        erased(path)
        assert not path.exists()
    for foreign in (b"hello", b"{}", b'{"_default": {}}'):
        path.write_bytes(foreign)
        with pytest.raises(StorageDamaged, match="stays"):
            erased(path)
        assert path.read_bytes() == foreign
    with pytest.raises(ConfigurationError, match="is a folder"):
        erased(tmp_path)
