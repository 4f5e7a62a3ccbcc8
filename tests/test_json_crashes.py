"""The JSON file when processes are killed, forked, and many: nothing is lost, and nobody waits for the dead."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from moorage.driver import Increment
from moorage.errors import Unavailable
from moorage.filters import equal
from moorage_json import reading
from moorage_json.place import Place
from test_json import THINGS, beside, ids, open_and_read, open_driver, thing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CALLS = ("open", "write", "pwrite", "fsync", "fdatasync", "ftruncate", "replace", "unlink", "fchmod")
"""By which anything of it reaches the disk."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.json"


def in_child(work: Callable[[Callable[[str], None]], None]) -> tuple[list[str], int]:
    """What a child said before it ended or was killed, and how it ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            work(lambda text: (os_write(writer, f"{text}\n".encode()), None)[1])
            os._exit(0)
        except BaseException as error:
            os_write(writer, f"{error!r}\n".encode())
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as lines:
        said = lines.read().split("\n")[:-1]
    return said, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


os_write = os.write


def killed_at(number: int, *, half: bool) -> None:
    """Kill this process at its so-manieth call; what it writes then is written by half."""
    counter = itertools.count(1)

    def deadly(name: str) -> Callable[..., object]:
        call = getattr(os, name)

        def run(*arguments: object, **options: object) -> object:
            if next(counter) == number:
                try:
                    if half and name in ("write", "pwrite"):
                        data = bytes(arguments[1])  # type: ignore[call-overload]
                        call(arguments[0], data[: len(data) // 2], *arguments[2:])
                    elif half:
                        call(*arguments, **options)
                finally:
                    os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return run

    for name in CALLS:
        setattr(os, name, deadly(name))


@pytest.mark.parametrize("half", [False, True])
def test_a_kill_at_any_call_of_writes_folds_and_closing(
    path: Path, monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    monkeypatch.setattr(reading, "_SMALLEST_FOLD", 1)

    def work(say: Callable[[str], None], number: int) -> None:
        killed_at(number, half=half)
        driver = open_driver(path)
        for place in range(2):
            driver._file._reader.fold_at = 0 if place else 10**6
            with driver.transaction():
                driver.insert(THINGS, [thing(f"{number:03} {place} a", name=f"{number} {place} a")])
                driver.insert(THINGS, [thing(f"{number:03} {place} b", name=f"{number} {place} b")])
            say(f"{number:03} {place}")
        driver.close()

    stored: list[str] = []
    for number in itertools.count(1):
        said, code = in_child(lambda say, number=number: work(say, number))  # type: ignore[misc]
        assert code in (0, -signal.SIGKILL), said
        found = open_and_read(path) if path.exists() else []
        assert set(stored) <= set(found)
        new = [one for one in found if one not in stored]
        acknowledged = [f"{one} {half}" for one in said for half in "ab"]
        assert new[: len(acknowledged)] == acknowledged
        assert len(new) - len(acknowledged) in (0, 2), "half a transaction"
        driver = open_driver(path)
        assert ids(driver) == found
        again = [thing(f"again {one}", name=f"{int(one[:3])} {one[4:]}") for one in new]
        assert len(driver.insert(THINGS, again)) == len(new), "a unique key is free that should be taken"
        assert driver.insert(THINGS, [thing(f"{number:03} z", name=f"{number} z")]) == []
        driver.close()
        assert beside(path) == ["runs.json"]
        stored = open_and_read(path)
        assert stored == sorted([*found, f"{number:03} z"])
        if code == 0:
            break
    assert number > 30


def test_a_killed_holder_of_the_lock_leaves_it_free(path: Path) -> None:
    driver = open_driver(path, busy_timeout=5.0)
    driver.insert(THINGS, [thing("a")])

    def hold(say: Callable[[str], None]) -> None:
        holder = open_driver(path)
        with holder.transaction():
            holder.delete(THINGS, ())
            say("held")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(hold) == (["held"], -signal.SIGKILL)
    impatient = open_driver(path, busy_timeout=0.0)
    impatient.insert(THINGS, [thing("b")])
    assert ids(driver) == ids(impatient) == ["a", "b"]
    impatient.close()
    driver.close()
    assert beside(path) == ["runs.json"]


def test_parent_and_child_go_on_after_a_fork(path: Path) -> None:
    driver = open_driver(path)
    driver.insert(THINGS, [thing("n", rank=0)])
    done = threading.Event()

    def count() -> None:
        while not done.is_set():
            driver.patch(THINGS, equal(id="n"), {"rank": Increment()})

    threads = [threading.Thread(target=count) for _ in range(2)]
    for one in threads:
        one.start()

    def work(say: Callable[[str], None]) -> None:
        for _ in range(20):
            assert driver.patch(THINGS, equal(id="n"), {"rank": Increment()}) == 1
            say("one")
        driver.close()

    said = [in_child(work) for _ in range(5)]
    done.set()
    for one in threads:
        one.join()
    assert said == [(["one"] * 20, 0)] * 5
    found = driver.get(THINGS, "n")
    assert found is not None
    assert found.body["rank"] == found.revision - 1 >= 100
    driver.close()
    assert beside(path) == ["runs.json"]


def test_a_child_of_a_transaction_leaves_it_to_its_parent(path: Path) -> None:
    driver = open_driver(path, busy_timeout=0.1)
    driver.insert(THINGS, [thing("a")])

    def work(say: Callable[[str], None]) -> None:
        try:
            driver.insert(THINGS, [thing("late")])
        except Unavailable:
            say("refused")
        say(",".join(ids(driver)))

    with driver.transaction():
        driver.insert(THINGS, [thing("b")])
        assert in_child(work) == (["refused", "a"], 0)
    assert ids(driver) == ["a", "b"]
    driver.close()


def test_a_living_child_does_not_keep_the_lock_of_its_dead_parent(path: Path) -> None:
    open_driver(path).close()
    reader, writer = os.pipe()
    living, told = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            os.close(writer)
            driver = open_driver(path)
            with driver.transaction():
                if os.fork() == 0:
                    os.write(told, b"x")
                    os.read(reader, 1)
                    os._exit(0)
                os.read(living, 1)
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1]) == -signal.SIGKILL
    try:
        driver = open_driver(path, busy_timeout=0.0)
        driver.insert(THINGS, [thing("a")])
        driver.close()
        assert beside(path) == ["runs.json"]
    finally:
        for file in (writer, reader, living, told):
            os.close(file)


def test_who_waited_for_a_lock_that_was_removed_takes_the_new_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_driver(path).close()
    wait, lock = Place._wait_for, path.with_name("runs.json-lock")
    removed: list[Path] = []

    def late(self: Place, file: int, how: int, deadline: float) -> None:
        wait(self, file, how, deadline)
        if not removed:
            removed.append(lock)
            lock.unlink()

    monkeypatch.setattr(Place, "_wait_for", late)
    driver = open_driver(path)
    presence = driver._file._place._presence
    assert presence is not None
    assert os.fstat(presence).st_ino == lock.stat().st_ino
    driver.close()


def test_many_open_write_fold_and_close_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_SMALLEST_FOLD", 2000)
    open_driver(path).close()

    def work(who: int) -> int:
        for turn in range(6):
            driver = open_driver(path, durability="fast")
            for place in range(5):
                assert driver.insert(THINGS, [thing(f"{who} {turn} {place}", open=True, extra=["x" * 50])]) == []
            taken = driver.claim(THINGS, equal(open=True), {"open": False, "name": f"{who} {turn}"})
            assert taken is not None
            driver.close()
        return 0

    children = []
    for who in range(4):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = work(who)
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert beside(path) == ["runs.json"]
    stored = json.loads(path.read_text())["things"].values()
    assert len(stored) == 4 * 6 * 5
    assert Counter(one["open"] for one in stored) == {False: 24, True: 96}
    assert len({one["name"] for one in stored if not one["open"]}) == 24
