"""The JSON file's files: written in pieces, shared by a group, replaced in use, torn by a power failure, and long."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from moorage.driver import Increment
from moorage.errors import MoorageError, OutcomeUnknown, StorageDamaged
from moorage.filters import equal
from moorage_json import disk, reading, snapshot
from test_json import THINGS, beside, fill, ids, open_and_read, open_driver, thing
from test_json_crashes import in_child

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage_json.driver import JSONDriver


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.json"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks damaged is looked at again, in case that somebody folds; here nobody does."""
    monkeypatch.setattr(reading, "_PATIENCE", 4)


# Writes that the system cuts short


@pytest.mark.parametrize("most", [1, 3, 100])
def test_a_write_may_take_many_calls(path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(reading, "_SMALLEST_FOLD", 1)
    write, pwrite = os.write, os.pwrite
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data[:most])))
    monkeypatch.setattr(os, "pwrite", lambda file, data, place: pwrite(file, bytes(data[:most]), place))
    expected = []
    for turn in range(3):
        driver = open_driver(path)
        for place in range(4):
            driver._file._reader.fold_at = 0
            driver.insert(THINGS, [thing(f"{turn} {place}", extra=["é" * 50])])
            expected.append(f"{turn} {place}")
        assert ids(driver) == expected
        driver.close()
        assert open_and_read(path) == expected
    assert beside(path) == ["runs.json"]


def test_a_write_that_never_gets_on_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = open_driver(path)
    driver.insert(THINGS, [thing("a")])
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", lambda *_: 0)
        with pytest.raises(OutcomeUnknown):
            driver.insert(THINGS, [thing("b")])
    driver.insert(THINGS, [thing("c")])
    driver.close()
    assert open_and_read(path) == ["a", "c"]


# Whose the files are

OWNER, COLLEAGUE, TEAM, OWN = 61001, 61002, 62000, 62001
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can be several users")


def become(user: int, *groups: int) -> None:
    os.setgroups(groups)
    os.setgid(groups[0])
    os.setuid(user)
    os.umask(0o077)


def owned(path: Path) -> dict[str, tuple[int, int, str]]:
    found = {one.name: one.stat() for one in path.parent.iterdir()}
    return {name: (one.st_uid, one.st_gid, oct(one.st_mode & 0o777)) for name, one in found.items()}


def folding_writer(path: Path, name: str) -> JSONDriver:
    driver = open_driver(path)
    for place in range(4):
        driver._file._reader.fold_at = 0
        driver.insert(THINGS, [thing(f"{name} {place}")])
    return driver


@pytest.fixture
def shared(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A storage of one user and a group, in a folder into which all may write."""
    monkeypatch.setattr(reading, "_SMALLEST_FOLD", 1)
    for folder in (path.parent, *path.parent.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o755)
    path.parent.chmod(0o777)
    fill(path, 1)
    os.chown(path, OWNER, TEAM)
    path.chmod(0o660)
    return path


@only_root
def test_colleagues_share_a_file_whoever_folds_it(shared: Path) -> None:
    def work(say: Callable[[str], None], user: int) -> None:
        become(user, OWN, TEAM)
        driver = folding_writer(shared, str(user))
        say(json.dumps([one[1:] for one in owned(shared).values()]))
        driver.close()

    for user in (OWNER, COLLEAGUE, OWNER, COLLEAGUE):
        said, code = in_child(lambda say, user=user: work(say, user + len(ids_of(shared)) * 10))  # type: ignore[misc]
        assert code == 0, said
        assert json.loads(said[0]) == [[TEAM, "0o660"]] * 3
        assert owned(shared) == {"runs.json": (shared.stat().st_uid, TEAM, "0o660")}
    assert len(ids_of(shared)) == 17


def ids_of(path: Path) -> list[str]:
    return [str(one["id"]) for one in json.loads(path.read_text())["things"].values()]


@only_root
def test_the_superuser_gives_the_file_back(shared: Path) -> None:
    driver = folding_writer(shared, "root")
    assert set(owned(shared).values()) == {(OWNER, TEAM, "0o660")}
    driver.close()
    assert owned(shared) == {"runs.json": (OWNER, TEAM, "0o660")}


@only_root
def test_a_group_that_cannot_be_kept_does_not_pass_its_rights_to_another(shared: Path) -> None:
    def work(say: Callable[[str], None]) -> None:
        become(OWNER, OWN)
        folding_writer(shared, "x").close()
        say("done")

    shared.chmod(0o664)
    assert in_child(work) == (["done"], 0)
    assert owned(shared) == {"runs.json": (OWNER, OWN, "0o644")}


@only_root
def test_colleagues_have_it_open_at_once(shared: Path) -> None:
    def work(say: Callable[[str], None]) -> None:
        become(COLLEAGUE, TEAM)
        folding_writer(shared, "colleague").close()
        say("done")

    def hold(say: Callable[[str], None]) -> None:
        become(OWNER, TEAM)
        driver = folding_writer(shared, "owner")
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setgroups([TEAM]) if os.geteuid() == 0 else None
                code = 0
            finally:
                os._exit(code)
        os.close(read)
        os.close(write)
        os.waitpid(child, 0)
        say(",".join(sorted({one[2] for one in owned(shared).values()})))
        driver.close()

    driver = open_driver(shared)
    assert in_child(work) == (["done"], 0)
    assert in_child(hold) == (["0o660"], 0)
    driver.insert(THINGS, [thing("z")])
    assert len(ids(driver)) == 10
    driver.close()


@only_root
@pytest.mark.skipif(shutil.which("setfacl") is None, reason="setfacl is missing")
def test_an_access_list_is_kept(shared: Path) -> None:
    if os.system(f"setfacl -m u:{COLLEAGUE}:rw {shared} 2>/dev/null"):
        pytest.skip("this file system has no access lists")
    folding_writer(shared, "root").close()
    assert f"user:{COLLEAGUE}:rw" in os.popen(f"getfacl -cn {shared} 2>/dev/null").read()


# Files that are taken away or replaced


def aged(path: Path) -> None:
    """A storage, and beside it what it was before."""
    fill(path, 1)
    shutil.copy(path, path.with_name("old"))
    driver = open_driver(path)
    driver.patch(THINGS, (), {"rank": 7})
    driver.close()


def another(path: Path, generations: int = 1) -> Path:
    place = path.with_name("another.json")
    for turn in range(generations):
        driver = open_driver(place)
        driver.insert(THINGS, [thing(f"other {turn}")])
        driver.close()
    return place


def replace_by_another(path: Path, generations: int, *, journal: bool) -> None:
    another(path, generations).replace(path)
    if journal:
        Path(f"{path}-journal").unlink()


def replace_by_older(path: Path, *, journal: bool) -> None:
    path.with_name("old").replace(path)
    if journal:
        Path(f"{path}-journal").unlink()


def begin_anew(path: Path) -> None:
    for one in path.parent.glob("runs.json*"):
        one.unlink()
    driver = open_driver(path)
    driver.insert(THINGS, [thing("new")])
    driver.close()


TAMPERING: dict[str, Callable[[Path], object]] = {
    "the file removed": lambda path: path.unlink(),
    "the file moved": lambda path: path.rename(f"{path}.old"),
    "the journal removed": lambda path: Path(f"{path}-journal").unlink(),
    "the journal emptied": lambda path: os.truncate(f"{path}-journal", 0),
    "both removed": lambda path: (path.unlink(), Path(f"{path}-journal").unlink()),
    "all removed": lambda path: [one.unlink() for one in path.parent.glob("runs.json*")],
    "all removed and begun anew": begin_anew,
    "replaced by one of the same age": lambda path: replace_by_another(path, 1, journal=False),
    "replaced by one of the same age, the journal removed": lambda path: replace_by_another(path, 1, journal=True),
    "replaced by one that is older in generations": lambda path: replace_by_another(path, 9, journal=False),
    "replaced by one of more generations, the journal removed": lambda path: replace_by_another(path, 9, journal=True),
    "replaced by an older copy": lambda path: replace_by_older(path, journal=False),
    "replaced by an older copy, the journal removed": lambda path: replace_by_older(path, journal=True),
    "replaced by nothing": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize("how", TAMPERING)
def test_nothing_is_acknowledged_into_a_file_that_is_not_there_any_more(
    path: Path, how: str, folds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_SMALLEST_FOLD", 1 if folds else 2**20)
    aged(path)
    drivers = {"writer": open_driver(path), "other": open_driver(path)}
    drivers["view"] = open_driver(path, read_only=True)
    acknowledged = ["0"]
    for place in range(5):
        if folds:
            drivers["writer"]._file._reader.fold_at = 0
        drivers["writer"].insert(THINGS, [thing(f"a{place}")])
        drivers["other"].insert(THINGS, [thing(f"b{place}")])
        acknowledged += [f"a{place}", f"b{place}"]
    assert ids(drivers["view"]) == sorted(acknowledged)
    for driver in drivers.values():
        assert len(ids(driver)) == 11
    TAMPERING[how](path)
    for round_ in range(2):
        for name, driver in drivers.items():
            with pytest.raises(StorageDamaged, match=r"runs\.json"):
                print(name, round_, ids(driver))
            if name != "view":
                with pytest.raises(StorageDamaged, match=r"runs\.json"):
                    driver.insert(THINGS, [thing(f"late {name} {round_}")])
    for driver in drivers.values():
        driver.close()


@pytest.mark.parametrize("durability", ["full", "fast"])
@pytest.mark.parametrize("how", TAMPERING)
def test_a_file_that_goes_in_the_middle_of_a_write_takes_no_acknowledgement_with_it(
    path: Path, how: str, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    aged(path)
    driver = open_driver(path, durability=durability)
    driver.insert(THINGS, [thing("a")])
    pwrite, done = os.pwrite, []

    def tampering(*arguments: object) -> int:
        count = pwrite(*arguments)  # type: ignore[arg-type]
        if not done:
            done.append(True)
            with monkeypatch.context() as patched:
                patched.setattr(os, "pwrite", pwrite)
                TAMPERING[how](path)
        return count

    monkeypatch.setattr(os, "pwrite", tampering)
    if how == "the journal emptied":  # what is written is there, after a hole that makes it unreadable
        driver.insert(THINGS, [thing("b")])
    else:
        with pytest.raises(OutcomeUnknown, match="was replaced while it was written to"):
            driver.insert(THINGS, [thing("b")])
    assert done
    with pytest.raises(StorageDamaged):
        ids(driver)
    driver.close()


def test_what_was_taken_away_may_be_put_back(path: Path) -> None:
    driver = open_driver(path)
    driver.insert(THINGS, [thing("a")])
    for name in ("runs.json", "runs.json-journal"):
        path.with_name(name).rename(path.with_name("aside"))
        with pytest.raises(StorageDamaged):
            ids(driver)
        with pytest.raises(StorageDamaged):
            driver.insert(THINGS, [thing("b")])
        path.with_name("aside").rename(path.with_name(name))
        driver.insert(THINGS, [thing(f"after {name}")])
    driver.close()
    assert open_and_read(path) == ["a", "after runs.json", "after runs.json-journal"]


def test_a_new_date_changes_nothing(path: Path) -> None:
    drivers = [open_driver(path), open_driver(path), open_driver(path, read_only=True)]
    drivers[0].insert(THINGS, [thing("a")])
    for turn in range(3):
        os.utime(path, (turn, turn))
        assert [ids(one) for one in drivers] == [[*map(str, range(turn)), "a"]] * 3
        drivers[turn % 2].insert(THINGS, [thing(f"{turn}")])
    for one in drivers:
        one.close()


def test_a_copy_of_one_storage_is_not_taken_for_the_other(path: Path) -> None:
    """Both have the same past, and as many generations; only what came since tells them apart."""
    fill(path, 1)
    copied = path.with_name("copy.json")
    shutil.copy(path, copied)
    for one, name in ((path, "here"), (copied, "there")):
        in_child(lambda _, one=one, name=name: (open_driver(one).insert(THINGS, [thing(name)]), os._exit(0)))  # type: ignore[misc]
    folded = open_driver(copied)
    folded.close()
    assert open_and_read(copied) == ["0", "there"]
    shutil.copy(copied, path)
    with pytest.raises(StorageDamaged, match="do not belong together"):
        open_driver(path)
    Path(f"{path}-journal").unlink()
    assert open_and_read(path) == ["0", "there"]


# After a power failure

BLOCK = 512


def journal_of_the_killed(path: Path, *durabilities: str) -> list[str]:
    """What writers, all of which are killed, have acknowledged."""

    def work(say: Callable[[str], None]) -> None:
        drivers = [open_driver(path, durability=one) for one in durabilities]
        for place in range(12):
            drivers[place % len(drivers)].insert(THINGS, [thing(f"{place:02}", extra=["x" * random.randrange(600)])])
            say(f"{place:02}")
        os._exit(0)

    return in_child(work)[0]


@pytest.mark.parametrize("durabilities", [("fast",), ("full", "fast"), ("fast", "full")])
def test_a_fast_journal_opens_whatever_a_power_failure_left_of_it(
    path: Path, durabilities: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    acknowledged = journal_of_the_killed(path, *durabilities)
    whole, journal = path.read_bytes(), Path(f"{path}-journal")
    torn = journal.read_bytes()
    certain = torn.index(b'"fast":true')  # the disk has all up to the end of the record that says so
    certain = torn.index(b"\n", certain) + 1
    blocks = range(-(-certain // BLOCK), len(torn) // BLOCK + 1)
    chance = random.Random(5)
    patterns = [{one} for one in blocks] + [set(chance.sample(list(blocks), len(blocks) // 2)) for _ in range(20)]
    lost = 0
    for number, missing in enumerate(patterns):
        left = bytearray(torn)
        for block in missing:
            left[block * BLOCK : (block + 1) * BLOCK] = bytes(len(left[block * BLOCK : (block + 1) * BLOCK]))
        if number % 3 == 0:
            del left[certain + chance.randrange(len(left) - certain) :]
        for one in path.parent.glob("runs.json*"):
            one.unlink()
        path.write_bytes(whole)
        journal.write_bytes(left)
        caplog.clear()
        found = open_and_read(path)
        assert found == acknowledged[: len(found)]
        was_torn = "power failure" in caplog.text
        lost += was_torn
        driver = open_driver(path, durability=("fast", "full")[number % 2])
        assert ids(driver) == found
        driver.insert(THINGS, [thing("later")])
        assert ("runs.json-journal-damaged" in beside(path)) == was_torn
        if was_torn:
            assert Path(f"{journal}-damaged").read_bytes() == left
        driver.close()
        assert open_and_read(path) == [*found, "later"]
    assert lost > 5


def test_a_durable_journal_with_a_hole_is_refused(path: Path) -> None:
    journal_of_the_killed(path, "full")
    journal = Path(f"{path}-journal")
    data = bytearray(journal.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 16] = bytes(16)
    journal.write_bytes(data)
    for read_only in (True, False):
        with pytest.raises(StorageDamaged, match="damaged at byte"):
            open_driver(path, read_only=read_only)
    assert journal.read_bytes() == data


def test_after_a_fold_a_durable_journal_is_strict_again(path: Path) -> None:
    fill(path, 1)
    fast = open_driver(path, durability="fast")
    fast.insert(THINGS, [thing("a")])
    full = open_driver(path)
    full.insert(THINGS, [thing("b")])
    fast.close()
    full._file._reader.fold_at = 0
    full.insert(THINGS, [thing("c")])
    assert b"fast" in Path(f"{path}-journal").read_bytes()
    assert b'"fast":true' not in Path(f"{path}-journal").read_bytes()
    full.close()


@pytest.mark.parametrize("zeros", [1, 5, 15])
def test_the_last_write_may_be_torn_at_the_edge_of_a_block(path: Path, zeros: int) -> None:
    acknowledged = journal_of_the_killed(path, "full")
    journal = Path(f"{path}-journal")
    data = journal.read_bytes()
    last = data[:-1].rindex(b"\n") + 1
    for torn in (data[:-zeros] + bytes(zeros), data[:last] + bytes(zeros) + data[last + zeros :]):
        journal.write_bytes(torn)
        assert open_and_read(path) == acknowledged[:-1]


# Nobody waits for who reads or writes at length


def missing_two_folds(path: Path) -> tuple[JSONDriver, JSONDriver]:
    late, busy = open_driver(path), open_driver(path, busy_timeout=0.0)
    late.insert(THINGS, [thing("first")])
    for place in range(4):
        busy._file._reader.fold_at = 0
        busy.insert(THINGS, [thing(f"missed {place}")])
    return late, busy


@pytest.mark.parametrize("case", ["opening", "opening for the first write", "missed two folds", "far behind"])
def test_others_write_while_one_reads_all_of_it(path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_SMALLEST_FOLD", 1)
    fill(path, 20)
    late, busy = missing_two_folds(path)
    if case == "far behind":
        assert len(ids(late)) == 25
        monkeypatch.setattr("moorage_json.driver.FAR_BEHIND", 100)
        monkeypatch.setattr("moorage_json.storage.FAR_BEHIND", 100)
        busy.insert(THINGS, [thing(f"much {place}") for place in range(20)])
    counter = itertools.count()
    written: list[str] = []

    def writing() -> None:
        name = f"meanwhile {next(counter):03}"
        busy.insert(THINGS, [thing(name)])  # which would not wait for the lock
        written.append(name)

    parse, unpack = snapshot.parse, reading.journal.unpack
    with monkeypatch.context() as patched:

        def parsing(*arguments: object) -> object:
            with patched.context() as whole:
                whole.setattr(snapshot, "parse", parse)
                writing()
            return parse(*arguments)  # type: ignore[arg-type]

        def unpacking(data: bytes, number: int) -> object:
            if len(data) > 500:
                with patched.context() as whole:
                    whole.setattr(reading.journal, "unpack", unpack)
                    writing()
            return unpack(data, number)

        patched.setattr(snapshot, "parse", parsing)
        patched.setattr(reading.journal, "unpack", unpacking)
        if case.startswith("opening"):
            late.close()
            late = open_driver(path)
        late.insert(THINGS, [thing("late")])
    assert len(written) >= 1
    assert set(written) | {"late", "first"} <= set(ids(late))
    assert ids(late) == ids(busy)
    late.close()
    busy.close()
    assert beside(path) == ["runs.json"]


@pytest.mark.parametrize("others", [1, 3])
def test_others_write_while_one_folds(path: Path, others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(path, 20)
    monkeypatch.setattr(reading, "_SMALLEST_FOLD", 1)
    drivers = [open_driver(path) for _ in range(others + 1)]
    view = open_driver(path, read_only=True)
    drivers[0].delete(THINGS, equal(id="19"))
    write, loads = snapshot.write, Counter[str]()
    expected = ids(view)
    parse = snapshot.parse
    monkeypatch.setattr(snapshot, "parse", lambda *arguments: (loads.update(["x"]), parse(*arguments))[1])

    def writing(*arguments: object) -> None:
        for place, one in enumerate(drivers[1:]):
            for turn in range(3):
                one.patch(THINGS, equal(id=f"{turn}"), {"rank": Increment()})
                one.insert(THINGS, [thing(f"meanwhile {place} {turn} {len(expected)}")])
                expected.append(f"meanwhile {place} {turn} {len(expected)}")
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshot, "write", writing)
    generation = drivers[0]._file._reader.known.generation
    for turn in range(3):
        for one in drivers:
            one._file._reader.fold_at = 2**20
        drivers[0]._file._reader.fold_at = 0
        drivers[0].insert(THINGS, [thing(f"folded {turn}")])
        expected.append(f"folded {turn}")
        for one in (*drivers, view):
            assert ids(one) == sorted(expected)
    assert drivers[0]._file._reader.known.generation == generation + 3
    assert not loads, "all could follow"
    found = [one.get(THINGS, "1") for one in drivers]
    assert {one.body["rank"] for one in found if one is not None} == {1 + 3 * others}
    monkeypatch.setattr(snapshot, "write", write)
    for one in (*drivers, view):
        one.close()
    assert open_and_read(path) == sorted(expected)
    assert beside(path) == ["runs.json"]


def test_a_kill_while_one_folds_and_others_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each call of the fold by which anything reaches the disk, with a write by another just before it."""
    monkeypatch.setattr(reading, "_SMALLEST_FOLD", 1)
    fill(path, 3)
    for number in itertools.count():
        before = open_and_read(path)
        other = open_driver(path)

        def work(say: Callable[[str], None], number: int = number, other: JSONDriver = other) -> None:
            folder = open_driver(path)
            calls = itertools.count()

            def deadly(module: object, name: str) -> None:
                call = getattr(module, name)

                def run(*arguments: object, **options: object) -> object:
                    if next(calls) == number:
                        if not folder._file._place.is_locked:
                            other.insert(THINGS, [thing(f"other {number}")])
                            say(f"other {number}")
                        os.kill(os.getpid(), 9)
                    return call(*arguments, **options)

                monkeypatch.setattr(module, name, run)

            folder.insert(THINGS, [thing(f"before {number}")])
            say(f"before {number}")
            folder._file._reader.fold_at = 0
            append = folder._file.append

            def appended(changes: object) -> None:
                append(changes)  # type: ignore[arg-type]
                for name in ("write", "pwrite", "fsync", "replace", "unlink", "open"):
                    deadly(os, name)

            folder._file.append = appended  # type: ignore[method-assign]
            say(f"folder {number}")
            folder.insert(THINGS, [thing(f"folder {number}")])
            os._exit(0)

        said, code = in_child(work)
        assert code in (0, -9), said
        assert ids(other) == sorted([*before, *said])
        assert open_and_read(path) == sorted([*before, *said])
        other._file._reader.fold_at = 0
        other.insert(THINGS, [thing(f"after {number}")])
        assert ids(other) == sorted([*before, *said, f"after {number}"])
        other.close()
        assert beside(path) == ["runs.json"]
        assert open_and_read(path) == sorted([*before, *said, f"after {number}"])
        if code == 0:
            break
    assert number > 8


def test_a_fold_that_stands_still_is_taken_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_SMALLEST_FOLD", 2000)
    stopped, other = open_driver(path), open_driver(path)
    write = snapshot.write

    def standing(*arguments: object) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(snapshot, "write", write)
            for place in range(200):
                other.insert(THINGS, [thing(f"{place:03}", extra=["x" * 100])])
        write(*arguments)  # type: ignore[arg-type]

    generation = stopped._file._reader.known.generation
    monkeypatch.setattr(snapshot, "write", standing)
    stopped._file._reader.fold_at = 0
    stopped.insert(THINGS, [thing("a")])
    assert other._file._reader.known.generation > generation
    assert len(ids(stopped)) == len(ids(other)) == 201
    monkeypatch.setattr(snapshot, "write", write)
    stopped.close()
    other.close()
    assert len(open_and_read(path)) == 201
    assert beside(path) == ["runs.json"]


def test_an_error_is_moorages_whatever_is_done_to_the_folder(path: Path) -> None:
    driver = open_driver(path)
    driver.insert(THINGS, [thing("a")])
    shutil.rmtree(path.parent)
    for call in (lambda: ids(driver), lambda: driver.insert(THINGS, [thing("b")])):
        with pytest.raises(MoorageError):
            call()
    driver.close()


def test_what_disk_reads_and_writes_is_all_of_it(tmp_path: Path) -> None:
    file = disk.create(str(tmp_path / "x"), str(tmp_path / "none"))
    disk.write(file, b"hello")
    disk.write(file, b"J", 0)
    assert disk.read(file, 0, 99) == b"Jello"
    os.close(file)
