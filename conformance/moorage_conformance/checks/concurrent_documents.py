"""Level 2: many processes at work on the same documents."""

from __future__ import annotations

import bisect
import contextlib
import functools
import json
import os
import random
import select
import signal
import threading
import time
import traceback
import warnings
from collections import Counter, defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from moorage.driver import Capability, Document, Increment
from moorage.errors import ExperimentNotFound, Unavailable
from moorage.filters import Comparison, Order, equal
from moorage_conformance.checking import Unjudged, Violation, check
from moorage_conformance.target import ITEMS, NOTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage.codec import Plain
    from moorage.driver import Driver
    from moorage_conformance.context import Context
    from moorage_conformance.processes import Process
    from moorage_conformance.worker import Job

P = ParamSpec("P")
T = TypeVar("T")

SECONDS = 20.0
"""How long a worker goes on at the most; with a slow backend it does less in it."""

_SLOT_SECONDS = 5.0
"""For how long processes try to keep step, at each of several paces."""

_PATIENCE = 30.0
"""How long a call is repeated that a driver refuses for the moment; as long as the core does it by default."""

_FORK_SECONDS = 30.0
"""After how long a child that says nothing counts as hanging."""


def rounds(count: int, seconds: float = SECONDS) -> Iterator[int]:
    """Numbers up to a count; they end early when the time is over."""
    deadline = time.monotonic() + seconds
    for number in range(count):
        if time.monotonic() > deadline:
            break
        yield number


def patiently(call: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """Repeat what a driver refuses as `Unavailable`, for then nothing was written and the core would repeat it."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return call(*arguments, **keywords)
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.001, 0.02))


def slots(count: int, seconds: float) -> Iterator[int]:
    """Numbers that come to all processes of the machine at the same moments; who is slow misses some."""
    first = int(time.monotonic() / seconds)
    number = first
    while number < first + count:
        number = max(number + 1, int(time.monotonic() / seconds))
        time.sleep(max(0.0, number * seconds - time.monotonic()))
        yield number


def in_step(count: int) -> Iterator[int]:
    """The numbers below a count, each once: most of them to all processes at the same moments, and then the rest.

    Where a call takes long the moments are farther apart: whoever is late meets nobody, and behind the first of those
    who merely follow each other there is nothing left to win.
    """
    done: set[int] = set()
    for seconds in (0.01, 0.1, 0.5):
        if len(done) > count / 2:
            break
        for slot in slots(min(count - 1, int(_SLOT_SECONDS / seconds)), seconds):
            if (number := slot % count) not in done:
                done.add(number)
                yield number
    for number in rounds(count):
        if number not in done:
            done.add(number)
            yield number


def enough(count: int, least: int, what: str) -> None:
    """Without enough of something a run means nothing.

    Raises:
        Unjudged: there was less.
    """
    if count < least:
        raise Unjudged(f"too little load: {count} {what}, and {least} are needed")


# Reads after writes


def register_user(job: Job) -> None:
    """Reads and changes documents as the model of a register knows them.

    Where ``own`` it changes one document of its own only, and reads those of all.
    """
    driver = job.driver()
    names = [f"d{number}" for number in range(job.arguments["documents"])]
    own = names[job.arguments["number"] % len(names)] if job.arguments["own"] else None
    known: dict[str, int] = {}

    def look(name: str) -> None:
        found = job.recorder.run(name, "get", (), partial(patiently, driver.get, ITEMS, name), told=_as_register)
        known[name] = 0 if found is None else found.revision

    def write(name: str, tag: str) -> None:
        document = Document(name, {"family": "r", "tag": tag})
        expected = known.get(name, 0)
        if expected:
            swapped = job.recorder.run(
                name, "swap", (tag, expected), partial(patiently, driver.swap, ITEMS, document, expected)
            )
            known[name] = expected + 1 if swapped else expected
            return
        refused = job.recorder.run(
            name,
            "insert",
            (tag,),
            partial(patiently, driver.insert, ITEMS, [document]),
            told=lambda found: not found,
        )
        if not refused:
            known[name] = 1

    job.ready()
    for number in rounds(job.arguments["operations"]):
        choice = job.random.random()
        if own is not None and choice < 0.8:
            look(job.random.choice(names))
            continue
        name = own or job.random.choice(names)
        if choice > 0.98:
            job.recorder.run(name, "delete", (), partial(patiently, driver.delete, ITEMS, equal(id=name)))
            known[name] = 0
        elif own is None and (choice < 0.4 or name not in known):
            look(name)
        else:
            write(name, f"{job.name}.{number}")
    driver.close()


def _as_register(found: Document | None) -> object:
    return None if found is None else [found.body.get("tag"), found.revision]


@check("SHARED-1")
def reads_by_id_follow_writes(context: Context) -> None:
    """Four processes change a document each and read those of all; the answers must fit one order of events."""
    context.open()
    context.join(context.start(register_user, 4, record=True, documents=4, own=True, operations=300))
    context.judge("register", "SHARED-1")


def announcer(job: Job) -> None:
    """The first processes write, and note when each write was acknowledged; the others read by every primitive."""
    driver = job.driver()
    writers = job.arguments["writers"]
    number = job.arguments["number"]
    job.ready()
    if number < writers:
        acknowledged: list[int] = []
        for place in rounds(job.arguments["rounds"]):
            body: dict[str, Plain] = {"family": f"w{number}", "tag": "t", "flag": True, "place": place, "amount": place}
            patiently(driver.insert, ITEMS, [Document(f"w{number}.{place}", body)])
            patiently(driver.patch, ITEMS, equal(id=f"w{number}.0"), {"amount": place})
            acknowledged.append(time.monotonic_ns())
        job.say({"writer": number, "acknowledged": acknowledged})
        driver.close()
        return
    seen: list[tuple[int, int, str, int]] = []
    for _ in rounds(10**6):
        if job.stopped.is_set():
            break
        time.sleep(0.002)
        one = job.random.randrange(writers)
        for name, read in _READS.items():
            began = time.monotonic_ns()
            seen.append((began, one, name, patiently(read, driver, one)))
    job.say({"seen": seen})
    driver.close()


def _get_last(driver: Driver, writer: int) -> int:
    found = driver.get(ITEMS, f"w{writer}.0")
    return -1 if found is None else cast("int", found.body.get("amount") or 0)


def _find_last(driver: Driver, writer: int) -> int:
    found = driver.find(ITEMS, equal(family=f"w{writer}", flag=True), [Order("place", descending=True)], 1)
    return cast("int", found[0].body["place"]) if found else -1


def _count_last(driver: Driver, writer: int) -> int:
    return driver.count(ITEMS, equal(family=f"w{writer}")) - 1


def _tally_last(driver: Driver, writer: int) -> int:
    return driver.tally(ITEMS, equal(family=f"w{writer}"), "tag").get("t", 0) - 1


_READS: dict[str, Callable[[Driver, int], int]] = {
    "get": _get_last,
    "find": _find_last,
    "count": _count_last,
    "tally": _tally_last,
}


@check("SHARED-1")
def every_read_follows_acknowledged_writes(context: Context) -> None:
    """Two processes write; what they have been told is stored must be seen by each get, find, count and tally after."""
    context.open()
    written, said = while_others_write(context, context.start(announcer, 4, writers=2, rounds=150), 2)
    acknowledged = {one["writer"]: one["acknowledged"] for lines in written for one in lines}
    midway = 0
    for began, writer, read, value in (one for lines in said for line in lines for one in line["seen"]):
        due = bisect.bisect_left(acknowledged[writer], began) - 1
        midway += 0 <= due < len(acknowledged[writer]) - 1
        context.require(
            value >= due,
            "SHARED-1",
            f"a {read} saw write {value} of a process, and write {due} was acknowledged before",
        )
    enough(midway, 50, "reads while others wrote")


# Setting up, opening, forking


def founder(job: Job) -> None:
    """Sets up storages that others set up at the same moment, and leaves a document in each."""
    for url in job.arguments["urls"]:
        job.ready()
        driver = job.driver(url=url)
        patiently(driver.insert, ITEMS, [Document(job.name, {"family": "f", "name": job.name})])
        patiently(driver.insert, NOTES, [Document(job.name, {"title": job.name})])
        driver.close()


@check("SHARED-2")
def many_set_up_the_same_storage(context: Context) -> None:
    """Six processes set up the same empty storage at once, several times; all must succeed and find what all wrote."""
    urls = [context.fresh_url() for _ in range(4)]
    processes = context.start(founder, 6, ready=False, urls=urls)
    for _ in urls:
        for process in processes:
            process.next()
        for process in processes:
            process.tell("go")
    context.join(processes)
    names = sorted(one.name for one in processes)
    for url in urls:
        driver = context.open(url)
        for collection in (ITEMS, NOTES):
            found = sorted(one.id for one in driver.find(collection))
            context.equal("SHARED-2", found, names, f"the processes whose {collection.name} are stored")
        driver.close()


def _work_after_fork(driver: Driver, side: str, count: int) -> None:
    """What both sides do after a fork: every primitive, each time with a known answer."""
    for number in range(count):
        name = f"{side}.{number}"
        refused = patiently(driver.insert, ITEMS, [Document(name, {"family": side, "name": name, "place": 1})])
        _expect(refused, [], "the insertion of a new document was refused")
        swapped = Document(name, {"family": side, "name": name, "tag": name, "place": 2})
        _expect(patiently(driver.swap, ITEMS, swapped, 1), True, "a swap of one's own document")
        patiently(driver.patch, ITEMS, equal(id="shared"), {"amount": Increment()})
        found = patiently(driver.get, ITEMS, name)
        told = None if found is None else (found.id, found.revision, found.body.get("tag"))
        _expect(told, (name, 2, name), "what a get of one's own document returned")
        mine = patiently(driver.count, ITEMS, equal(family=side))
        _expect(mine, number + 1, "the count of one's own documents")
        claimed = patiently(driver.claim, ITEMS, equal(family=side, place=2), {"place": 3})
        _expect(None if claimed is None else claimed.id, name, "the claim of one's own document")
        if Capability.TRANSACTIONS in driver.capabilities:

            def together() -> None:
                with driver.transaction():
                    driver.patch(ITEMS, equal(id="shared"), {"amount": Increment()})

            patiently(together)


def _expect(actual: object, expected: object, what: str) -> None:
    if actual != expected:
        raise Violation("SHARED-3", f"{what}: expected {expected!r}, got {actual!r:.200}")


def fork(child: Callable[[], None]) -> tuple[int, int]:
    """Fork a child that does something and says how it went; its id and the pipe on which it says so."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that this process has threads is what is tested
        process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    # One that hangs does not outlive a parent that is killed by much.
    signal.alarm(int(2 * _FORK_SECONDS))
    told = ""
    try:
        child()
    except BaseException as error:
        told = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"[:4000]
    os.write(writing, json.dumps(told).encode())
    os._exit(0)


def await_child(process: int, pipe: int) -> None:
    """Wait for a child of `fork`.

    Raises:
        Violation: it hangs, or has died, or something was wrong.
    """
    try:
        if not select.select([pipe], [], [], _FORK_SECONDS)[0]:
            os.kill(process, signal.SIGKILL)
            raise Violation("SHARED-3", f"a forked child did not come to an end within {_FORK_SECONDS:g} s")
        told = os.read(pipe, 65536)
    finally:
        os.close(pipe)
        os.waitpid(process, 0)
    if not told:
        raise Violation("SHARED-3", "a forked child died")
    if error := json.loads(told):
        raise Violation("SHARED-3", f"in a forked child: {error}")


def needs_fork() -> None:
    """Say so where this system cannot fork.

    Raises:
        Unjudged: it cannot.
    """
    if not hasattr(os, "fork"):
        raise Unjudged("this system has no fork")


def forker(job: Job) -> None:
    """Forks with the driver open, again and again; both sides go on, and the child closes what it has."""
    driver = job.driver()
    patiently(driver.insert, ITEMS, [Document("shared", {"family": "s", "amount": 0})])
    job.ready()
    for turn in rounds(job.arguments["forks"]):
        side = f"{job.name}.{turn}"

        def child(side: str = side) -> None:
            try:
                _work_after_fork(driver, f"child.{side}", job.arguments["writes"])
            finally:
                driver.close()

        started = fork(child)
        try:
            _work_after_fork(driver, f"parent.{side}", job.arguments["writes"])
        finally:
            await_child(*started)
        for family in (f"child.{side}", f"parent.{side}"):
            stored = patiently(driver.count, ITEMS, equal(family=family))
            _expect(stored, job.arguments["writes"], "documents of one side that are there after both have written")
        job.say("forked")
    driver.close()


@check("SHARED-3", limit=240.0)
def parent_and_child_use_the_same_driver(context: Context) -> None:
    """Two processes fork with a driver open; parents and children call every primitive, and get their own answers."""
    needs_fork()
    driver = context.open()
    writes = 12
    said = context.join(context.start(forker, 2, forks=4, writes=writes))
    forks = sum(one == "forked" for lines in said for one in lines)
    enough(forks, 2, "forks")
    shared = driver.get(ITEMS, "shared")
    steps = 2 if Capability.TRANSACTIONS in driver.capabilities else 1
    amount = None if shared is None else shared.body.get("amount")
    context.equal("SHARED-3", amount, forks * 2 * writes * steps, "the sum of what parents and children have added")


def busy_forker(job: Job) -> None:
    """Forks while threads of the parent are busy with the same driver."""
    driver = job.driver()
    over = threading.Event()
    failed: list[str] = []

    def busy(number: int) -> None:
        place = 0
        while not over.is_set():
            place += 1
            name = f"{job.name}.busy{number}.{place}"
            try:
                patiently(driver.insert, ITEMS, [Document(name, {"family": "busy", "name": name})])
            except Exception as error:
                failed.append(f"{type(error).__name__}: {error}")
                return

    # A module that a thread imports during a fork can never be imported by the child, whatever the driver does.
    _work_after_fork(driver, f"{job.name}.before", 1)
    job.ready()
    threads = [threading.Thread(target=busy, args=(number,)) for number in range(2)]
    for one in threads:
        one.start()
    try:
        for turn in rounds(job.arguments["forks"]):
            side = f"{job.name}.{turn}"
            started = fork(functools.partial(_work_after_fork, driver, f"child.{side}", 3))
            try:
                _work_after_fork(driver, f"parent.{side}", 3)
            finally:
                await_child(*started)
    finally:
        over.set()
        for one in threads:
            one.join(_FORK_SECONDS)
    _expect(failed, [], "errors in threads of the parent while it forked")
    driver.close()


@check("SHARED-3", limit=240.0)
def a_fork_finds_other_threads_at_work(context: Context) -> None:
    """A process forks while its threads write through the same driver; neither side may hang or fail."""
    needs_fork()
    driver = context.open()
    driver.insert(ITEMS, [Document("shared", {"family": "s", "amount": 0})])
    context.join(context.start(busy_forker, 1, forks=5))


def visitor(job: Job) -> None:
    """Opens the storage, writes and reads, and closes it, again and again."""
    job.ready()
    for number in rounds(job.arguments["visits"]):
        with job.storage() as storage:
            registered = storage.register_trials(uid="visited", trials=[{"x": f"{job.name}.{number}"}])
            seen = storage.get_trial(registered[0].id, "visited").params["x"]
        if seen != f"{job.name}.{number}":
            raise Violation("SHARED-4", f"a trial was registered with x = {job.name}.{number}, and read with {seen!r}")
        job.say(seen)


@check("SHARED-4")
def short_visits_of_many_processes_succeed(context: Context) -> None:
    """Six processes open a storage, write to it and close it, many times; no call may fail, and all must be there."""
    with context.storage() as storage:
        storage.create_experiment(id="visited", name="visited")
    said = [one for lines in context.join(context.start(visitor, 6, visits=25)) for one in lines]
    with context.storage() as storage:
        stored = sorted(str(one.params["x"]) for one in storage.fetch_trials(uid="visited"))
    context.equal("SHARED-4", stored, sorted(said), "the trials that were registered")
    enough(len(said), 30, "visits")


def resident(job: Job) -> None:
    """Reads and writes all the time while others come and go."""
    storage = job.storage()
    job.ready()
    for number in rounds(10**6):
        if job.stopped.is_set():
            break
        storage.register_trials(uid="visited", trials=[{"x": f"{job.name}.{number}"}])
        with contextlib.suppress(ExperimentNotFound):
            storage.get_experiment(uid="nobody")
        job.say(f"{job.name}.{number}")
    storage.close()


@check("SHARED-4")
def residents_are_not_disturbed_by_visitors(context: Context) -> None:
    """Two processes keep the storage open and write while four others come and go; no call of any may fail."""
    with context.storage() as storage:
        storage.create_experiment(id="visited", name="visited")
    residents = context.start(resident, 2)
    said = context.join(context.start(visitor, 4, visits=15))
    for one in residents:
        one.tell("stop")
    said += context.join(residents)
    with context.storage() as storage:
        stored = storage.count_trials(uid="visited")
    context.equal("SHARED-4", sum(stored.values()), sum(map(len, said)), "the number of trials that were registered")
    enough(sum(map(len, said)), 30, "registrations")


# Compare-and-set, increments, claims


@check("SWAP-4")
def swaps_are_linearizable(context: Context) -> None:
    """Four processes get, insert, swap and delete three documents; the answers must fit one order of events."""
    context.open()
    context.join(context.start(register_user, 4, record=True, documents=3, own=False, operations=250))
    context.judge("register", "SWAP-4")


def swapper(job: Job) -> None:
    """Adds one to counters by reading and swapping; says how often it was told to have done so, and how often not."""
    driver = job.driver()
    job.ready()
    done: Counter[str] = Counter()
    refused = 0
    for _ in rounds(job.arguments["rounds"]):
        name = f"c{job.random.randrange(job.arguments['counters'])}"
        found = patiently(driver.get, ITEMS, name)
        if found is None:
            raise Violation("SWAP-5", f"document {name!r} is gone, and nobody has deleted it")
        after = Document(name, {**found.body, "amount": int(found.body["amount"]) + 1})  # type: ignore[arg-type]
        if patiently(driver.swap, ITEMS, after, found.revision):
            done[name] += 1
        else:
            refused += 1
    job.say({"done": done, "refused": refused})
    driver.close()


@check("SWAP-5")
def counters_by_swap_lose_nothing(context: Context) -> None:
    """Four processes add one to two counters by get and swap; each must end as the number of successful swaps."""
    driver = context.open()
    driver.insert(ITEMS, [Document(f"c{number}", {"family": "c", "amount": 0}) for number in range(2)])
    said = [one for lines in context.join(context.start(swapper, 4, counters=2, rounds=200)) for one in lines]
    done: Counter[str] = sum((Counter(one["done"]) for one in said), Counter())
    for name in ("c0", "c1"):
        found = driver.get(ITEMS, name)
        amount, revision = (None, 0) if found is None else (found.body.get("amount"), found.revision)
        context.equal("SWAP-5", amount, done[name], f"the counter {name}, after as many swaps were told to be done")
        context.equal("SWAP-5", revision, done[name] + 1, f"the revision of the counter {name}")
    enough(done.total(), 50, "swaps were done")
    enough(sum(one["refused"] for one in said), 5, "swaps were refused, as others were faster")


def incrementer(job: Job) -> None:
    """Adds to counters by patch, and reads them."""
    driver = job.driver()
    job.ready()
    for _ in rounds(job.arguments["operations"]):
        name = f"c{job.random.randrange(job.arguments['counters'])}"
        if job.random.random() < 0.25:
            job.recorder.run(
                name,
                "get",
                (),
                partial(patiently, driver.get, ITEMS, name),
                told=lambda found: None if found is None else found.body.get("amount"),
            )
            continue
        by = job.random.randint(1, 9)
        changed = job.recorder.run(
            name,
            "add",
            (by,),
            partial(patiently, driver.patch, ITEMS, equal(id=name), {"amount": Increment(by), "tag": job.name}),
            told=lambda _: None,
        )
        if changed != 1:
            raise Violation("PATCH-4", f"a patch by id says that it has changed {changed} documents, and it is one")
    driver.close()


@check("PATCH-4")
def increments_add_up(context: Context) -> None:
    """Four processes add to two counters by patch and read them; each sum that is read must be explained."""
    driver = context.open()
    driver.insert(ITEMS, [Document(f"c{number}", {"family": "c", "amount": 0}) for number in range(2)])
    context.join(context.start(incrementer, 4, record=True, counters=2, operations=250))
    context.join(context.start(incrementer, 1, record=True, counters=2, operations=20))
    context.judge("counter", "PATCH-4")


def group_incrementer(job: Job) -> None:
    """Adds one to all documents of a family at once; says how often."""
    driver = job.driver()
    job.ready()
    done = 0
    for number in rounds(job.arguments["rounds"]):
        mark = f"{job.name}.{number}"
        # With a mark of its own, a patch that changed only some of them before it was refused can be repeated.
        where = (*equal(family="g"), Comparison("write", "!=", mark))
        patiently(driver.patch, ITEMS, where, {"amount": Increment(), "write": mark})
        done += 1
    job.say(done)
    driver.close()


@check("PATCH-4")
def increments_of_many_documents_add_up(context: Context) -> None:
    """Four processes add one to the same eight documents by one patch each time; none may be lost or done twice."""
    driver = context.open()
    driver.insert(ITEMS, [Document(f"g{number}", {"family": "g", "place": number}) for number in range(8)])
    said = context.join(context.start(group_incrementer, 4, rounds=50))
    done = sum(one for lines in said for one in lines)
    amounts = sorted({one.body.get("amount") for one in driver.find(ITEMS, equal(family="g"))}, key=str)
    context.equal("PATCH-4", amounts, [done], f"what {done} increments of one by one have come to")
    enough(done, 40, "increments of a family")


def claimer(job: Job) -> None:
    """Claims until nothing matches."""
    driver = job.driver()
    where, order = equal(family="f", flag=True), [Order("place")]
    job.ready()
    over = False
    for _ in rounds(10**6):
        claimed = patiently(driver.claim, ITEMS, where, {"flag": False, "tag": job.name}, order)
        if claimed is None:
            over = True
            break
        if claimed.body.get("tag") != job.name:
            raise Violation("CLAIM-3", f"a claim returned {claimed.id!r} as {claimed.body.get('tag')!r} has claimed it")
        job.say(claimed.id)
    job.say({"over": over})
    driver.close()


@check("CLAIM-3")
def each_match_is_claimed_once(context: Context) -> None:
    """Four processes claim 400 documents; nobody may get one that another got, and none may be left."""
    driver = context.open()
    documents = [Document(f"i{place:03}", {"family": "f", "flag": True, "place": place}) for place in range(400)]
    driver.insert(ITEMS, documents)
    processes = context.start(claimer, 4)
    said = context.join(processes)
    claimed = {
        process.name: [one for one in lines if isinstance(one, str)]
        for process, lines in zip(processes, said, strict=True)
    }
    times = Counter(one for lines in claimed.values() for one in lines)
    twice = sorted(one for one, count in times.items() if count > 1)
    context.require(not twice, "CLAIM-3", f"{len(twice)} documents were claimed more than once, such as {twice[:5]}")
    for name, lines in claimed.items():
        stored = sorted(one.id for one in driver.find(ITEMS, equal(family="f", tag=name)))
        context.equal("CLAIM-3", stored, sorted(lines), f"the documents that are stored as claimed by {name}")
    if any({"over": True} in lines for lines in said):
        context.equal("CLAIM-3", sorted(times), [one.id for one in documents], "the claimed documents")
    enough(times.total(), 100, "claims")
    enough(sum(bool(lines) for lines in claimed.values()), 2, "processes have claimed something")


def borrower(job: Job) -> None:
    """Claims one of few documents and gives it back later."""
    driver = job.driver()
    number = job.arguments["number"]
    where, order = equal(family="p", flag=True), [Order("place")]

    def add(name: str, call: Callable[[], object]) -> None:
        job.recorder.run("pool", "add", (name,), call, told=lambda _: None)

    mine = Document(f"i{number}", {"family": "p", "flag": True, "place": number})
    held: list[str] = []
    job.ready()
    add(mine.id, partial(patiently, driver.insert, ITEMS, [mine]))
    for _ in rounds(job.arguments["rounds"]):
        if held and job.random.random() < 0.5:
            name = held.pop()
            add(name, partial(patiently, driver.patch, ITEMS, equal(id=name), {"flag": True}))
            continue
        claimed = job.recorder.run(
            "pool",
            "claim",
            (),
            partial(patiently, driver.claim, ITEMS, where, {"flag": False, "tag": job.name}, order),
            told=lambda found: None if found is None else found.id,
        )
        if claimed is not None:
            held.append(claimed.id)
    driver.close()


def toucher(job: Job) -> None:
    """Changes the documents that others claim, and takes none."""
    driver = job.driver()
    job.ready()
    for _ in rounds(10**6):
        if job.stopped.is_set():
            break
        patiently(driver.patch, ITEMS, equal(family="p"), {"score": 1.0, "tag": "touched"})
    driver.close()


@check("CLAIM-4")
def claims_find_nothing_only_where_nothing_is(context: Context) -> None:
    """Four processes claim and give back four documents that a fifth changes; each None must have been true once."""
    context.open()
    touching = context.start(toucher)
    context.join(context.start(borrower, 4, record=True, rounds=200))
    for one in touching:
        one.tell("stop")
    context.join(touching)
    context.judge("claim", "CLAIM-4")


def lonely_claimer(job: Job) -> None:
    """The first process claims a document and gives it back; the others change it, and take it never."""
    driver = job.driver()
    number = job.arguments["number"]
    where = equal(family="q", flag=True)
    job.ready()
    if number:
        for turn in rounds(10**6):
            if job.stopped.is_set():
                break
            patiently(driver.patch, ITEMS, equal(id="one"), {"amount": Increment()})
            found = patiently(driver.get, ITEMS, "one")
            if found is not None and number == 2:
                after = Document("one", {**found.body, "tag": f"{turn}"})
                patiently(driver.swap, ITEMS, after, found.revision)
        driver.close()
        return
    claims = 0
    for _ in rounds(job.arguments["rounds"]):
        if patiently(driver.claim, ITEMS, where, {"flag": False}, [Order("place")]) is None:
            raise Violation("CLAIM-4", "a claim returned None, and a document matched that no one else claims")
        claims += 1
        patiently(driver.patch, ITEMS, equal(id="one"), {"flag": True})
    job.say(claims)
    driver.close()


@check("CLAIM-4")
def a_document_that_others_change_is_claimed(context: Context) -> None:
    """One process claims a document that two others keep changing; as nobody else claims, it must get it each time."""
    driver = context.open()
    driver.insert(ITEMS, [Document("one", {"family": "q", "flag": True, "place": 0, "amount": 0})])
    processes = context.start(lonely_claimer, 3, rounds=250)
    said = context.join(processes[:1])
    for one in processes[1:]:
        one.tell("stop")
    context.join(processes[1:])
    enough(sum(said[0]), 40, "claims")


# Inserting and deleting the same


def inserter(job: Job) -> None:
    """Inserts what all others insert: the same ids, and other ids with the same unique keys; says what was stored."""
    driver = job.driver()
    job.ready()
    stored: list[str] = []
    tried: list[int] = []
    for number in in_step(job.arguments["rounds"]):
        batch = [
            Document(f"same{number}", {"family": "id", "tag": job.name}),
            Document(f"{job.name}.{number}", {"family": "key", "name": f"same{number}", "tag": job.name}),
        ]
        batches = [[one] for one in batch] if number % 3 else [batch]
        for some in batches:
            refused = patiently(driver.insert, ITEMS, some)
            wrong = [
                one for one in refused if one.key != (("id",) if one.id.startswith("same") else ("family", "name"))
            ]
            if wrong:
                raise Violation("INSERT-9", f"an insertion was refused for a key that is not taken: {wrong}")
            gone = {one.position for one in refused}
            stored += [one.id for place, one in enumerate(some) if place not in gone]
        tried.append(number)
    job.say({"stored": stored, "tried": tried})
    driver.close()


@check("INSERT-9")
def one_of_many_insertions_is_stored(context: Context) -> None:
    """Four processes insert the same ids and unique keys; of each one must be told so, and what it wrote be there."""
    driver = context.open()
    processes = context.start(inserter, 4, rounds=150)
    said = context.join(processes)
    winners: dict[tuple[str, str], list[str]] = defaultdict(list)
    for process, lines in zip(processes, said, strict=True):
        for name in lines[0]["stored"]:
            kind = "id" if name.startswith("same") else "key"
            winners[kind, name if kind == "id" else f"same{name.rpartition('.')[2]}"].append(process.name)
    stored: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in driver.find(ITEMS):
        kind = str(one.body.get("family"))
        stored[kind, str(one.id if kind == "id" else one.body.get("name"))].append(str(one.body.get("tag")))
    tried = sorted({number for lines in said for number in lines[0]["tried"]})
    for kind in ("id", "key"):
        for number in tried:
            told, there = winners[kind, f"same{number}"], stored[kind, f"same{number}"]
            what = f"who was told that the document with the {'' if kind == 'id' else 'unique '}{kind} is stored"
            context.require(len(told) == 1, "INSERT-9", f"{what}: expected one process, got {told}")
            context.equal("INSERT-9", there, told, "whose document is stored")
    enough(len(tried), 30, "ids")
    enough(len({one for told in winners.values() for one in told}), 2, "processes were first at something")


def deleter(job: Job) -> None:
    """Deletes what all others delete, by id and by family; says how many of each were counted."""
    driver = job.driver()
    job.ready()
    counted: dict[str, int] = {}
    for number in in_step(job.arguments["documents"]):
        counted[f"d{number}"] = patiently(driver.delete, ITEMS, equal(id=f"d{number}"))
        if number < job.arguments["groups"]:
            counted[f"g{number}"] = patiently(driver.delete, ITEMS, equal(family=f"g{number}"))
    job.say(counted)
    driver.close()


@check("DELETE-3")
def a_deletion_is_counted_once(context: Context) -> None:
    """Four processes delete the same documents, one by one and in groups; each must be counted exactly once."""
    driver = context.open()
    singles, groups, members = 200, 60, 4
    documents = [Document(f"d{number}", {"family": "d"}) for number in range(singles)]
    documents += [
        Document(f"g{number}.{member}", {"family": f"g{number}", "place": member})
        for number in range(groups)
        for member in range(members)
    ]
    driver.insert(ITEMS, documents)
    processes = context.start(deleter, 4, documents=singles, groups=groups)
    said = [lines[0] for lines in context.join(processes)]
    active: set[int] = set()
    for name in {one for counted in said for one in counted}:
        counts = [counted.get(name, 0) for counted in said]
        active |= {place for place, count in enumerate(counts) if count}
        there = 1 if name.startswith("d") else members
        context.equal("DELETE-3", sum(counts), there, f"how many deletions were counted of {there} documents ({name})")
    context.equal(
        "DELETE-3", driver.count(ITEMS), len(documents) - sum(sum(one.values()) for one in said), "what is left"
    )
    enough(max(len(counted) for counted in said), 50, "deletions")
    enough(len(active), 2, "processes have deleted something")


# Whole documents, whole counts, whole transactions


def _body(name: str, number: int) -> dict[str, Any]:
    """A body of which every part tells the number of its write."""
    return {
        "family": "w",
        "name": name,
        "tag": f"t{number}",
        "note": f"{number} " * 4000,
        "place": number,
        "amount": number,
        "score": float(number),
        "data": {"number": number, "numbers": [number] * 300},
        "labels": [number, [number]],
    }


def while_others_write(
    context: Context, processes: list[Process], writers: int
) -> tuple[list[list[Any]], list[list[Any]]]:
    """Wait for the first processes, and then stop the others; what those and these have said."""
    written = context.join(processes[:writers])
    for one in processes[writers:]:
        one.tell("stop")
    return written, context.join(processes[writers:])


def whole_document(job: Job) -> None:
    """The first processes write a document each, by swap and by patch; the others read them."""
    driver = job.driver()
    writers, number = job.arguments["writers"], job.arguments["number"]
    job.ready()
    if number < writers:
        name = f"d{number}"
        writes = 0
        for turn in rounds(job.arguments["writes"]):
            body = _body(name, turn + 1)
            if turn % 2:
                patiently(driver.patch, ITEMS, equal(id=name), body)
            else:
                found = patiently(driver.get, ITEMS, name)
                revision = 0 if found is None else found.revision
                patiently(driver.swap, ITEMS, Document(name, body), revision)
            writes += 1
        job.say(writes)
        driver.close()
        return
    reads = 0
    for turn in rounds(10**6):
        if job.stopped.is_set():
            break
        name = f"d{job.random.randrange(writers)}"
        if turn % 2:
            found = patiently(driver.get, ITEMS, name)
            documents = [] if found is None else [found]
        else:
            documents = patiently(driver.find, ITEMS, equal(family="w"))
        if not documents:
            raise Violation("FIND-10", f"document {name!r} is gone while it is written, and nobody deletes it")
        for one in documents:
            wanted = _body(one.id, int(one.body.get("place") or 0))  # type: ignore[arg-type]
            differ = sorted(key for key, value in wanted.items() if one.body.get(key) != value)
            if differ:
                raise Violation(
                    "FIND-10",
                    f"a document was read in parts: its place is of write {wanted['place']}, and others are its "
                    f"{', '.join(differ)} (tag {one.body.get('tag')!r})",
                )
        reads += 1
    job.say(reads)
    driver.close()


@check("FIND-10")
def documents_are_read_whole(context: Context) -> None:
    """Two processes rewrite large documents while three read them; all parts must be of the same write."""
    driver = context.open()
    driver.insert(ITEMS, [Document(f"d{number}", _body(f"d{number}", 0)) for number in range(2)])
    written, said = while_others_write(context, context.start(whole_document, 5, writers=2, writes=120), 2)
    enough(sum(one for lines in said for one in lines), 60, "reads")
    enough(sum(one for lines in written for one in lines), 30, "writes")


def mover(job: Job) -> None:
    """The first processes move documents from one value to another; the others count them by value."""
    driver = job.driver()
    movers, number, total = job.arguments["movers"], job.arguments["number"], job.arguments["documents"]
    job.ready()
    if number < movers:
        moves = 0
        for _ in rounds(job.arguments["moves"]):
            before, after = job.random.sample(("a", "b", "c"), 2)
            choice, place = job.random.random(), job.random.randrange(total)
            if choice < 0.3:
                where = (*equal(family="t", tag=before), Comparison("place", ">=", place))
                patiently(driver.patch, ITEMS, where, {"tag": after, "flag": after == "a"})
            elif choice < 0.7:
                patiently(driver.patch, ITEMS, equal(id=f"t{place}"), {"tag": after, "flag": after == "a"})
            else:
                where = equal(family="t", tag=before)
                patiently(driver.claim, ITEMS, where, {"tag": after, "flag": after == "a"})
            moves += 1
        job.say(moves)
        driver.close()
        return
    counts = 0
    for turn in rounds(10**6):
        if job.stopped.is_set():
            break
        field = "flag" if turn % 4 == 3 else "tag"
        counted = patiently(driver.tally, ITEMS, equal(family="t"), field)
        if sum(counted.values()) != total:
            raise Violation(
                "TALLY-2", f"{total} documents are there all the time, and a tally of {field} counts {counted}"
            )
        counts += 1
    job.say(counts)
    driver.close()


@check("TALLY-2")
def counts_by_value_add_up(context: Context) -> None:
    """Two processes move 120 documents between values while two count them by value; each answer must add up."""
    driver = context.open()
    documents = [
        Document(f"t{number}", {"family": "t", "tag": "abc"[number % 3], "flag": False, "place": number})
        for number in range(120)
    ]
    driver.insert(ITEMS, documents)
    processes = context.start(mover, 4, movers=2, documents=120, moves=150)
    moved, said = while_others_write(context, processes, 2)
    enough(sum(one for lines in said for one in lines), 60, "counts")
    enough(sum(one for lines in moved for one in lines), 30, "moves")


class _Undone(Exception):
    """Leaves a transaction."""


def transactor(job: Job) -> None:
    """The first processes change several documents in transactions, some of which they leave; the others read."""
    driver = job.driver()
    writers, number = job.arguments["writers"], job.arguments["number"]
    job.ready()
    if number < writers:
        _transact(job, driver)
        return
    reads = 0

    def amount(name: str) -> int:
        found = patiently(driver.get, ITEMS, name)
        value = None if found is None else found.body.get("amount")
        if not isinstance(value, int) or value < 0:
            raise Violation("TRANSACTION-3", f"what an undone transaction wrote was seen: an amount of {value!r}")
        return value

    for turn in rounds(10**6):
        if job.stopped.is_set():
            break
        first, second = ("left", "right") if turn % 2 else ("right", "left")
        # Both have the same amount in every state, and grow; so what is read later cannot be less.
        earlier, later = amount(first), amount(second)
        if later < earlier:
            raise Violation(
                "TRANSACTION-3",
                f"a part of a transaction was seen: {first!r} was {earlier}, and after that {second!r} was {later}",
            )
        earlier = amount(first)
        notes = patiently(driver.count, NOTES)
        if notes < earlier:
            raise Violation(
                "TRANSACTION-3",
                f"a part of a transaction was seen: {earlier} were counted, and after that {notes} of their documents "
                "were there",
            )
        later = amount(second)
        if later < notes:
            raise Violation(
                "TRANSACTION-3",
                f"a part of a transaction was seen: {notes} documents were there, and after that only {later} counted",
            )
        reads += 1
    job.say(reads)
    driver.close()


def _transact(job: Job, driver: Driver) -> None:
    done = 0

    def together(turn: int, *, undo: bool) -> None:
        with driver.transaction():
            driver.patch(ITEMS, equal(id="left"), {"amount": -1 if undo else Increment()})
            driver.insert(NOTES, [Document(f"{job.name}.{turn}", {"title": f"{job.name}.{turn}", "place": turn})])
            driver.patch(ITEMS, equal(id="right"), {"amount": -1 if undo else Increment()})
            if undo:
                raise _Undone

    for turn in rounds(job.arguments["transactions"]):
        if turn % 4 == 3:
            with contextlib.suppress(_Undone):
                patiently(together, turn, undo=True)
        else:
            patiently(together, turn, undo=False)
            done += 1
    job.say(done)
    driver.close()


@check("TRANSACTION-3")
def transactions_are_seen_whole(context: Context) -> None:
    """Two processes change three documents in each transaction, or undo it; two others may never see a part of one."""
    driver = context.open()
    driver.insert(ITEMS, [Document(name, {"family": "x", "amount": 0}) for name in ("left", "right")])
    processes = context.start(transactor, 4, writers=2, transactions=120)
    written, said = while_others_write(context, processes, 2)
    done = sum(one for lines in written for one in lines)
    stored = [
        None if one is None else one.body.get("amount")
        for one in (driver.get(ITEMS, "left"), driver.get(ITEMS, "right"))
    ]
    context.equal("TRANSACTION-3", [*stored, driver.count(NOTES)], [done] * 3, "what all transactions have come to")
    enough(sum(one for lines in said for one in lines), 60, "reads")
    enough(done, 30, "transactions")


# Fairness


def hasty_writer(job: Job) -> None:
    """Writes at full speed for some seconds; says how often."""
    driver = job.driver()
    patiently(driver.insert, ITEMS, [Document(job.name, {"family": "h", "amount": 0})])
    job.ready()
    deadline = time.monotonic() + job.arguments["seconds"]
    written = 0
    while time.monotonic() < deadline:
        patiently(driver.patch, ITEMS, equal(id=job.name), {"amount": Increment()})
        written += time.monotonic() < deadline
    job.say(written)
    driver.close()


@check("FAIR-1")
def writers_at_full_speed_share(context: Context) -> None:
    """Four processes write at full speed for five seconds; the slowest must come to a fifth of the mean."""
    context.open()
    written = [lines[0] for lines in context.join(context.start(hasty_writer, 4, seconds=5.0))]
    mean = sum(written) / len(written)
    enough(int(mean), 20, "writes of each process on average")
    context.require(
        min(written) >= mean / 5,
        "FAIR-1",
        f"of four processes that write at full speed, one wrote {min(written)} times and the mean is {mean:.0f}: "
        f"{sorted(written)}",
    )
