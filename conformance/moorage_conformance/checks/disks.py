"""Level 3: what reaches the disk, disks that are full, and files that are damaged."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from moorage.codec import dumps
from moorage.driver import Document
from moorage.errors import MoorageError, StorageDamaged
from moorage.filters import Order, equal
from moorage_conformance import tracing
from moorage_conformance.checking import Unjudged, check
from moorage_conformance.sequences import Judge, mirror, state, step
from moorage_conformance.target import ITEMS, NOTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moorage.codec import Plain
    from moorage.driver import Driver
    from moorage_conformance.context import Context
    from moorage_conformance.processes import Process
    from moorage_conformance.sequences import State
    from moorage_conformance.worker import Job

    _Damage: TypeAlias = Callable[[Path], object]

_PATIENCE = 60.0
_FAMILY = "f"


# Flushes

_ROUNDING = 0.0005
"""Seconds."""


def flushed_writer(job: Job) -> None:
    """Writes, and says when each write began and when it was acknowledged."""
    tracing.allow()
    driver = job.driver()
    known = mirror()
    steps = job.arguments["steps"]
    for number in range(-2, steps):
        if number == 0:
            job.ready()
        write = step(_FAMILY, number + 2, known, single=True)
        began = time.time()
        write(driver)
        ended = time.time()
        write(known)
        if number >= 0:
            job.say([began, ended])
    job.say("done")
    job.wait()


def _writers(context: Context, process: Process) -> list[int]:
    """The processes that write the files: the server's, or the one that uses the storage."""
    try:
        return list(context.target.hooks.server_processes())
    except Unjudged:
        if "network" in context.conditions:
            raise
    return [process.pid]


@check("DURABLE-1", limit=180)
def each_write_is_flushed(context: Context) -> None:
    """Watches the system calls of who writes the files: a flush must have ended before each write is acknowledged."""
    context.open()
    (process,) = context.start(flushed_writer, ready=False, steps=18)
    process.next()
    writers = _writers(context, process)
    synchronous = {one: tracing.synchronous_files(one) for one in writers}
    with tracing.flush_trace(writers, context.folder / "flushes.trace") as trace:
        process.tell("go")
        written = [process.next(_PATIENCE) for _ in range(18)]
    process.tell("stop")
    calls = trace.calls()
    flushes = tracing.flushes(calls, synchronous)
    if all(one.is_report or one.result is None for one in calls):
        raise Unjudged("nobody was seen to write; who does it? See moorage_conformance.Hooks.server_processes")

    def is_flushed(began: float, ended: float) -> bool:
        # What was flushed before the first byte was written is not this write.
        begins = (one.began for one in calls if one.name in tracing.SPACE_TAKEN and began <= one.began <= ended)
        since = min(begins, default=began - _ROUNDING)
        return any(since <= one.began and one.ended is not None and one.ended <= ended + _ROUNDING for one in flushes)

    bare = [number for number, (began, ended) in enumerate(written) if not is_flushed(began, ended)]
    context.require(
        not bare,
        "DURABLE-1",
        f"{len(bare)} of {len(written)} writes were acknowledged before anything was flushed, such as number "
        f"{bare[0] if bare else 0}; all of them together flushed {len(flushes)} times",
    )


# A full disk

_READ, _CREATION = -1, -2


def full_writer(job: Job) -> None:
    """Writes and reads on a disk that becomes full, and again when there is room; then tells what came of each call.

    It tells nothing before: that would be a write as well. A file says that it waits for room.
    """
    tracing.allow()
    told: list[list[object]] = []
    known = mirror()
    arguments = job.arguments
    driver = None if arguments["create"] else job.driver()
    if driver is None:
        job.driver(url=arguments["before"]).close()

    def write(number: int) -> None:
        assert driver is not None
        planned = step(_FAMILY, number, known, single=True)
        try:
            planned(driver)
        except MoorageError as error:
            told.append([number, type(error).__name__, str(error)])
        else:
            planned(known)
            told.append([number, "", ""])

    def read() -> None:
        assert driver is not None
        try:
            for one in state(known, _FAMILY).values():
                driver.get(ITEMS, one.id)
        except MoorageError as error:
            told.append([_READ, type(error).__name__, str(error)])

    if driver is not None:
        for number in range(3):
            write(number)
    job.ready()
    if driver is None:
        try:
            driver = job.driver()
        except MoorageError as error:
            told.append([_CREATION, type(error).__name__, str(error)])
    if driver is not None:
        for number in range(3, 9):
            write(number)
            read()
    Path(arguments["waits"]).touch()
    job.wait()
    job.say(told)
    driver = driver or job.driver()
    for number in range(9, 12):
        write(number)
    driver.close()
    job.say(told)
    job.say("closed")


def _fill(
    context: Context, url: str, name: str, inject: dict[str, str], *, create: bool
) -> tuple[list[list[object]], list[list[object]], list[tracing.Call]]:
    """Run a writer on a disk that becomes full; what it told before there was room, all that it told, and its calls.

    One that is to create the storage has used that of the check before: what is done at a first use is not counted.
    """
    waits = context.folder / f"{name}.waits"
    (process,) = context.start(full_writer, url=url, ready=False, create=create, before=context.url, waits=str(waits))
    process.next()
    with tracing.Trace([process.pid], context.folder / f"{name}.trace", tracing.SPACE_TAKEN, inject) as trace:
        process.tell("go")
        deadline = time.monotonic() + _PATIENCE
        while not waits.exists() and process.running:
            context.require(time.monotonic() < deadline, "FULL-1", f"on a full disk a writer hangs for {_PATIENCE:g} s")
            time.sleep(0.005)
    process.tell("room")
    said = [one for one in process.join(_PATIENCE) if one != "ready"]
    context.require("closed" in said, "FULL-1", "a writer died on a full disk")
    return said[0], said[1], trace.calls()


def _full_from(calls: Sequence[tracing.Call], place: int) -> dict[str, str]:
    """What makes all calls that take space fail from that place on."""
    before = [call.name for call in calls[:place]]
    return {name: f"error=ENOSPC:when={before.count(name) + 1}+" for name in tracing.SPACE_TAKEN}


@check("FULL-1", limit=300)
def a_full_disk_refuses_writes(context: Context) -> None:
    """Makes the system calls of a writer fail for want of space, from one of them on; later there is room again."""
    judge = Judge(context, lost="FULL-1", torn="FULL-1")
    _, _, calls = _fill(context, context.fresh_url(), "whole", {}, create=False)
    calls = [one for one in calls if not one.is_report]
    if not calls:
        raise Unjudged("strace saw no call by which a write takes space")
    first = context.random.random()
    for number in range(8):
        url = context.fresh_url()
        place = int((number + first) * len(calls) / 8) if number else 0
        full, told, tried = _fill(context, url, f"full{number}", _full_from(calls, place), create=False)
        if all(one.result != -1 for one in tried):
            raise Unjudged(f"no call failed on a disk that is full from call {place} of {len(calls)} on")
        _judge_filled(context, judge, url, full, told[len(full) :])


@check("FULL-1", limit=180)
def a_full_disk_refuses_a_new_storage(context: Context) -> None:
    """Creates a storage on a disk that becomes full meanwhile; where there is room again it can be created and used."""
    context.open().close()
    judge = Judge(context, lost="FULL-1", torn="FULL-1")
    _, _, calls = _fill(context, context.fresh_url(), "whole", {}, create=True)
    calls = [one for one in calls if not one.is_report]
    if not calls:
        raise Unjudged("strace saw no call by which a new storage takes space")
    for number in range(4):
        url = context.fresh_url()
        place = int(number**2 * len(calls) / 32)
        full, told, _ = _fill(context, url, f"full{number}", _full_from(calls, place), create=True)
        _judge_filled(context, judge, url, full, told[len(full) :])


def _judge_filled(
    context: Context, judge: Judge, url: str, full: list[list[object]], later: list[list[object]]
) -> None:
    """What was acknowledged is stored, nothing of what was refused is, and later writes are not refused."""
    for one, error, said in full:
        if error and one != _CREATION:
            what = "a read" if one == _READ else f"write {one}"
            context.require(
                error == "StorageFull" and one != _READ,
                "FULL-1",
                f"{what} on a full disk raised {error}: {said!s:.300}",
            )
    for one, error, said in later:
        context.equal("FULL-1", error, "", f"write {one} when there was room again ({said!s:.200})")
    known = mirror()
    states: list[State] = [{}]
    for number, error, _ in (*full, *later):
        if not error:
            assert isinstance(number, int)
            step(_FAMILY, number, known, single=True)(known)
            states.append(state(known, _FAMILY))
    driver = context.target.open(url)
    try:
        judge.family(driver, _FAMILY, states, len(states) - 1, "after the disk was full")
    finally:
        driver.close()


# Damaged files

_ORDER = [Order("place")]


def _digest(document: Document) -> str:
    present: dict[str, Plain] = {name: one for name, one in sorted(document.body.items()) if one is not None}
    return hashlib.sha256(dumps([document.id, document.revision, present]).encode()).hexdigest()


def damage_reader(job: Job) -> None:
    """Opens the storage each time that it is told to, reads in several ways, and tells what came of it."""
    job.ready()
    while job.wait() == "look":
        errors: list[list[object]] = []
        found: dict[str, object] = {}
        driver: Driver | None = None
        try:
            driver = job.driver()
        except Exception as error:
            job.say({"opened": False, "errors": [_described("opening", error)], "found": {}})
            continue
        ways: dict[str, Callable[[Driver], list[Document]]] = {
            "items": lambda one: one.find(ITEMS),
            "family": lambda one: one.find(ITEMS, equal(family=_FAMILY), _ORDER),
            "flagged": lambda one: one.find(ITEMS, equal(family=_FAMILY, flag=True), _ORDER),
            "notes": lambda one: one.find(NOTES, order=_ORDER),
        }
        for name, way in ways.items():
            try:
                found[name] = [_digest(one) for one in way(driver)]
            except Exception as error:
                errors.append(_described(f"reading {name}", error))
        try:
            found["count"] = driver.count(ITEMS, equal(family=_FAMILY))
            found["tally"] = sum(driver.tally(ITEMS, equal(family=_FAMILY), "tag").values())
        except Exception as error:
            errors.append(_described("counting", error))
        try:
            driver.close()
        except Exception as error:
            errors.append(_described("closing", error))
        job.say({"opened": True, "errors": errors, "found": found})


def _described(what: str, error: Exception) -> list[object]:
    kind = "damaged" if isinstance(error, StorageDamaged) else "other" if isinstance(error, MoorageError) else "stray"
    return [what, kind, f"{type(error).__name__}: {error!s:.300}"]


class _Damaged:
    """A storage whose files can be damaged again and again.

    Attributes:
        files: those that are not empty.
        moments: what was stored after each write.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        driver = context.open()
        known = mirror()
        self.moments: list[dict[str, list[str]]] = []
        for number in range(40):
            note = Document(f"note{number}", {"title": f"note {number}", "text": "x" * 200, "place": number})
            for write in (step(_FAMILY, number, known, single=True), lambda one, note=note: one.insert(NOTES, [note])):
                write(driver)
                write(known)
                self.moments.append(_read(known))
        driver.close()
        found = context.target.hooks.files(context.url)
        self.files = [one for one in found if one.stat().st_size]
        if not self.files:
            raise Unjudged("nobody tells which files the storage is in; see moorage_conformance.Hooks.files")
        self._kept = context.folder / "kept"
        self._kept.mkdir()
        for number, file in enumerate(found):
            shutil.copyfile(file, self._kept / f"{number}")
        self._found = found
        (self._process,) = context.start(damage_reader)

    def restore(self) -> None:
        """All files as they were, and no others."""
        for one in self._context.target.hooks.files(self._context.url):
            if one not in self._found:
                one.unlink()
        for number, one in enumerate(self._found):
            if one.is_dir():
                shutil.rmtree(one)
            shutil.copyfile(self._kept / f"{number}", one)

    def look(self) -> dict[str, object]:
        """What a process finds that opens the storage now."""
        self._process.tell("look")
        seen: dict[str, object] = self._process.next(_PATIENCE)
        return seen


def _read(driver: Driver) -> dict[str, list[str]]:
    return {
        "items": sorted(_digest(one) for one in driver.find(ITEMS)),
        "notes": sorted(_digest(one) for one in driver.find(NOTES)),
    }


def _damages(context: Context, file: Path) -> dict[str, _Damage]:
    """Ways to damage a file, by what a reader of the report would call them."""
    size = file.stat().st_size
    chance = context.random
    found: dict[str, _Damage] = {}

    def cut(length: int) -> _Damage:
        return lambda path: path.write_bytes(path.read_bytes()[:length])

    def overwrite(start: int, data: bytes) -> _Damage:
        return lambda path: path.write_bytes(
            (content := path.read_bytes())[:start] + data + content[start + len(data) :]
        )

    def replace(data: bytes) -> _Damage:
        return lambda path: path.write_bytes(data)

    for length in sorted({15, 100, size // 10, size // 3, size // 2, chance.randrange(1, size), size - 1}):
        if 0 < length < size:
            found[f"cut short to {length} of {size} bytes"] = cut(length)
    for length in (16, 100, 4096):
        found[f"its first {length} bytes overwritten"] = overwrite(0, chance.randbytes(min(length, size)))
    blocks = range(4096, size - 4095, 4096)
    for start in sorted(chance.sample(blocks, min(30, len(blocks)))):
        found[f"the 4096 bytes at {start} of {size} overwritten"] = overwrite(start, chance.randbytes(4096))
    found["overwritten as a whole"] = replace(chance.randbytes(size))
    found["full of zeros"] = replace(bytes(size))
    found["replaced by a text"] = replace(b"learning_rate,loss\n0.1,0.5\n" * 200)
    found["replaced by other JSON"] = replace(b'{"trials": [], "version": 3, "name": "something else"}\n')
    return found


@check("DAMAGE-1", limit=300)
def a_damaged_file_is_not_taken_for_a_good_one(context: Context) -> None:
    """Cuts short, overwrites and replaces files of a storage; then reads all that it still gives."""
    damaged = _Damaged(context)
    last = damaged.moments[-1]
    seen = damaged.look()
    context.equal("DAMAGE-1", seen["errors"], [], "the errors of opening and reading what is not damaged")
    for file in damaged.files:
        for what, damage in _damages(context, file).items():
            damaged.restore()
            damage(file)
            _judge_damaged(context, damaged, f"with {file.name} {what}", damaged.look())
        damaged.restore()
        file.unlink()
        file.mkdir()
        seen = damaged.look()
        context.require(
            not seen["opened"] and all(one[1] != "stray" for one in seen["errors"]),  # type: ignore[attr-defined]
            "DAMAGE-1",
            f"with {file.name} replaced by a folder, opening gave {seen['errors'] or 'no error'}",
        )
        damaged.restore()
    context.equal("DAMAGE-1", sorted(damaged.look()["found"]["items"]), last["items"], "what is stored in the end")  # type: ignore[index]


def _judge_damaged(context: Context, damaged: _Damaged, what: str, seen: dict[str, object]) -> None:
    errors, found = seen["errors"], seen["found"]
    assert isinstance(errors, list)
    assert isinstance(found, dict)
    for where, kind, said in errors:
        context.require(kind == "damaged", "DAMAGE-1", f"{what}, {where} raised {said}")
    for name, plural in (("items", "items"), ("family", "items"), ("flagged", "items"), ("notes", "notes")):
        written = {one for moment in damaged.moments for one in moment[plural]}
        foreign = set(found.get(name, [])) - written
        context.require(not foreign, "DAMAGE-1", f"{what}, {len(foreign)} documents were found that nobody wrote")
    if errors:
        return
    read = {name: sorted(found[name]) for name in ("items", "notes")}
    context.require(read["items"], "DAMAGE-1", f"{what}, the storage is taken for an empty one")
    context.require(
        read in damaged.moments,
        "DAMAGE-1",
        f"{what}, {len(read['items'])} and {len(read['notes'])} documents were found without an error, and never were "
        "these stored at the same time",
    )
    for name in ("family", "count", "tally"):
        counted = found[name] if isinstance(found[name], int) else len(found[name])
        context.equal("DAMAGE-1", counted, len(read["items"]), f"{what}, the number of documents by {name}")


@check("DAMAGE-2", limit=300)
def what_cannot_be_opened_stays(context: Context) -> None:
    """Opens a storage whose files are damaged; where it is refused, the files are as they were, byte by byte."""
    damaged = _Damaged(context)
    refused = 0
    for file in damaged.files:
        ways = {name: way for name, way in _damages(context, file).items() if " bytes at " not in name}
        for what, damage in ways.items():
            damaged.restore()
            damage(file)
            before = {one: one.read_bytes() for one in damaged.files}
            if damaged.look()["opened"]:
                continue
            refused += 1
            for one, content in before.items():
                after = one.read_bytes() if one.is_file() else None
                context.require(
                    after == content,
                    "DAMAGE-2",
                    f"with {file.name} {what}, the storage was refused, and {one.name} is "
                    f"{'gone' if after is None else 'changed'}",
                )
        damaged.restore()
        file.unlink()
        file.mkdir()
        (file / "mine").write_text("mine")
        damaged.look()
        context.require((file / "mine").is_file(), "DAMAGE-2", f"a folder in the place of {file.name} was emptied")
        damaged.restore()
    if not refused:
        raise Unjudged("nothing that was done to the files kept the storage from being opened")
