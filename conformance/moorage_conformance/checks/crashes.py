"""Level 3: processes that are killed."""

from __future__ import annotations

import contextlib
import threading
import time
import zlib
from typing import TYPE_CHECKING

from moorage.driver import Document, Increment
from moorage.errors import LockAcquisitionTimeout, MoorageError, ReservationLost
from moorage.filters import equal
from moorage.schema import ALGORITHM_STATE_CHUNKS, SCHEMA
from moorage_conformance import tracing
from moorage_conformance.checking import Unjudged, check
from moorage_conformance.sequences import Judge, body, mirror, perform, progress, same, text
from moorage_conformance.target import ITEMS, NOTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage.driver import Driver
    from moorage_conformance.context import Context
    from moorage_conformance.processes import Process
    from moorage_conformance.worker import Job

_READY_AGAIN = 10.0
"""Seconds after a kill within which another process must have opened the storage and written to it; far too many."""

_SERVER_ENDS = 0.3
"""Seconds in which a server ends, in one way or the other, the write of a client that was killed."""

_PATIENCE = 30.0
"""Seconds to wait for what must happen at some time."""


# Any moment


def writer(job: Job) -> None:
    """Writes until it is killed."""
    driver = job.driver()
    job.ready()
    perform(job, driver, f"{job.arguments['family']}-{job.arguments['number']}")


@contextlib.contextmanager
def _fresh(context: Context, url: str | None = None) -> Iterator[Driver]:
    """A driver that opens the storage as a crash has left it, and closes it again."""
    if "network" in context.conditions:
        time.sleep(_SERVER_ENDS)
    driver = context.target.open(url or context.url)
    try:
        yield driver
    finally:
        driver.close()


def _kill(context: Context, process: Process, *, steps: int = 0) -> list[object]:
    """SIGKILL, at any moment after some of so many steps; what it said, unless it had ended with an error before."""
    for _ in range(context.random.randint(1, steps) if steps else 0):
        process.next()
        process.next()
    time.sleep(context.random.uniform(0, 0.02))
    process.kill()
    process.check()
    return [one for one in process.said if one != "ready"]


@check("CRASH-1", "CRASH-2", limit=300)
def killed_writers_leave_nothing_torn_or_lost(context: Context) -> None:
    """Kills 24 writers at random moments, and compares all documents, counts and indexes with what they were told."""
    context.open().close()
    judge = Judge(context, lost="CRASH-1", torn="CRASH-2")
    kept: tuple[str, int, int] | None = None
    for life in range(12):
        writers = context.start(writer, 2, family=f"f{life}")
        told = [progress(_kill(context, one, steps=12)) for one in writers]
        with _fresh(context) as driver:
            for number, (done, begun) in enumerate(told):
                name = f"f{life}-{number}"
                judge.sequence(driver, name, done, begun, f"after a kill in step {begun} of {name}")
                if kept is None:
                    kept = (name, done, begun)
                else:
                    for one in {document.body["family"] for document in driver.find(ITEMS)}:
                        if str(one).startswith(f"{name}."):
                            driver.delete(ITEMS, equal(family=one))
            if kept is not None:
                judge.sequence(driver, *kept, f"after {life} more kills")


# Every system call


def short_writer(job: Job) -> None:
    """Does a few writes and closes the storage; opens it only after the word to begin where it is to be created."""
    tracing.allow()
    arguments = job.arguments
    driver = None if arguments["create"] else job.driver()
    if driver is None:
        job.driver(url=arguments["before"]).close()
    job.ready()
    driver = driver or job.driver()
    perform(job, driver, arguments["family"], arguments["steps"])
    driver.close()
    job.say("closed")


def _cut_off(
    context: Context, role: Callable[[Job], None], most: int, *, steps: int, create: bool = False
) -> Iterator[tuple[str, str, str, list[object]]]:
    """Run a role again and again, each time cut off at another of its system calls.

    The role says that it is ready before what counts, and ``closed`` at its end.

    Args:
        context: of the check.
        role: of a worker; its argument ``family`` is another one each time.
        most: how many cuts, see `tracing.cuts`.
        steps: how many the role does.
        create: whether each run has a storage of its own, which it creates; it has used that of the check before, so
            that what is done at a first use (imports, above all) is not counted.

    Yields:
        What happened, the URL, the family, and what the worker said.
    """

    def run(family: str, inject: dict[str, str]) -> tuple[str, list[object], list[tracing.Call]]:
        url = context.fresh_url() if create else context.url
        (process,) = context.start(
            role, url=url, ready=False, family=family, steps=steps, create=create, before=context.url, stay=None
        )
        process.next()
        output = context.folder / f"{process.name}.trace"
        with tracing.Trace([process.pid], output, tuple(inject) or tracing.WRITES, inject) as trace:
            process.tell("go")
            said = process.join(_PATIENCE)
        return url, [one for one in said if one != "ready"], trace.calls()

    _, said, calls = run("whole", {})
    places = tracing.cuts(calls, most, context.random)
    if "closed" not in said or not places:
        raise Unjudged(f"strace saw no call by which a write reaches a disk or a server (among {len(calls)} calls)")
    cut = 0
    for number, (name, nth) in enumerate(places):
        url, said, _ = run(f"cut{number}", {name: f"signal=KILL:when={nth}"})
        cut += "closed" not in said
        yield f"after a kill at the call {nth} of {name}", url, f"cut{number}", said
    if cut * 2 < len(places):
        raise Unjudged(f"only {cut} of {len(places)} workers came to the call at which they were to be killed")


@check("CRASH-3", limit=300)
def a_kill_at_each_system_call_of_a_write(context: Context) -> None:
    """Kills a writer at the system calls by which its writes reach the disk or the server, one after the other."""
    context.open().close()
    judge = Judge(context, lost="CRASH-3", torn="CRASH-3")
    for what, _, family, said in _cut_off(context, short_writer, 24, steps=6):
        with _fresh(context) as driver:
            judge.sequence(driver, family, *progress(said), what)


@check("CRASH-3", limit=300)
def a_kill_at_each_system_call_of_the_creation(context: Context) -> None:
    """Kills a process at the system calls by which it creates a storage; then that can be created and used."""
    context.open().close()
    judge = Judge(context, lost="CRASH-3", torn="CRASH-3")
    for what, url, family, said in _cut_off(context, short_writer, 10, steps=2, create=True):
        with _fresh(context, url) as driver:
            judge.sequence(driver, family, *progress(said), what)
            context.equal("CRASH-3", driver.insert(ITEMS, [Document("new", {})]), [], f"{what}, inserting")


# At once


def successor(job: Job) -> None:
    """Opens the storage after the word to begin, and writes what the killed one was writing."""
    job.ready()
    driver = job.driver()
    driver.insert(ITEMS, [Document(f"{job.name}", {"family": "successor"})])
    driver.patch(ITEMS, equal(family=job.arguments["family"]), {"amount": Increment()})
    driver.claim(ITEMS, equal(family=job.arguments["family"]), {"flag": None})
    driver.delete(ITEMS, equal(id=job.name))
    driver.close()
    job.say("done")


def sitter(job: Job) -> None:
    """Writes inside a transaction, and stays there."""
    driver = job.driver()
    family = f"{job.arguments['family']}-0.0"
    driver.insert(ITEMS, [Document(f"{family}/{place}", body(family, place, 0)) for place in range(3)])
    job.ready()
    with driver.transaction():
        driver.patch(ITEMS, equal(family=family), {"amount": Increment()})
        driver.insert(ITEMS, [Document(f"{family}/new", {"family": family})])
        job.say("inside")
        threading.Event().wait()


@check("CRASH-4", limit=300)
def others_go_on_at_once(context: Context) -> None:
    """Kills processes in the middle of writes and transactions; another one must be able to write at once."""
    context.open().close()
    for life in range(10):
        role = sitter if "transactions" in context.conditions and life % 4 == 0 else writer
        (after,) = context.start(successor, ready=False, family=f"f{life}-0.0")
        (killed,) = context.start(role, family=f"f{life}")
        after.next()
        if role is sitter:
            killed.next()
        _kill(context, killed, steps=0 if role is sitter else 4)
        after.tell("go")
        what = "a process that opens the storage after a kill"
        began = time.monotonic()
        context.join([after], 1.5 * _READY_AGAIN)
        took = time.monotonic() - began
        context.require(
            took < _READY_AGAIN,
            "CRASH-4",
            f"{what} came to write only after {took:.1f} s, more than {_READY_AGAIN:g} s",
        )


# Transactions


def _transact(driver: Driver, family: str, number: int) -> Iterator[None]:
    """What belongs together in one transaction, step by step."""
    driver.insert(ITEMS, [Document(f"{family}/{number}{part}", body(family, number * 2, number)) for part in "a"])
    yield
    driver.insert(NOTES, [Document(f"{family}/{number}", {"title": f"{family}/{number}", "text": text(family, 5000)})])
    yield
    driver.patch(ITEMS, equal(family=family, place=number * 2 - 2), {"amount": number, "tag": "patched"})
    yield
    driver.delete(ITEMS, equal(family=family, place=number * 2 - 4))
    yield
    driver.delete(NOTES, equal(title=f"{family}/{number - 3}"))
    yield


def transactor(job: Job) -> None:
    """Does transaction after transaction, and says before and after each; stays inside the one that it is told."""
    tracing.allow()
    driver = job.driver()
    family, stay, steps = job.arguments["family"], job.arguments["stay"], job.arguments["steps"]
    job.ready()
    number = 0
    while steps is None or number < steps:
        job.say([number, False])
        with driver.transaction():
            for place, _ in enumerate(_transact(driver, family, number)):
                if stay == [number, place]:
                    job.say("inside")
                    threading.Event().wait()
        job.say([number, True])
        number += 1
    driver.close()
    job.say("closed")


def _contents(driver: Driver, family: str) -> dict[str, Document]:
    items = {f"items {one.id}": one for one in driver.find(ITEMS, equal(family=family))}
    notes = {f"notes {one.id}": one for one in driver.find(NOTES) if one.id.startswith(f"{family}/")}
    return items | notes


def _judge_transactions(context: Context, driver: Driver, family: str, said: list[object], what: str) -> None:
    done, begun = progress(said)
    known = mirror()
    states = [_contents(known, family)]
    for number in range(begun):
        for _ in _transact(known, family, number):
            pass
        states.append(_contents(known, family))
    stored = _contents(driver, family)

    def differing(expected: dict[str, Document]) -> list[str]:
        return sorted(one for one in {*stored, *expected} if not same(stored.get(one), expected.get(one)))

    undone, whole = differing(states[done]), differing(states[-1])
    context.require(
        not undone or not whole,
        "CRASH-5",
        f"{what}, {done} transactions were acknowledged and {begun} begun, but {undone[:3]} are not as before the last "
        f"one, and {whole[:3]} not as after it",
    )


@check("CRASH-5", limit=300)
def a_kill_in_a_transaction(context: Context) -> None:
    """Kills processes inside and at the ends of their transactions; each is done whole or not at all."""
    context.open().close()
    for life in range(10):
        stay = [life, context.random.randrange(5)] if life % 3 == 0 else None
        (process,) = context.start(transactor, family=f"f{life}", stay=stay, steps=None)
        while stay is not None and process.next() != "inside":
            pass
        said = _kill(context, process, steps=8 if stay is None else 0)
        with _fresh(context) as driver:
            _judge_transactions(context, driver, f"f{life}", said, "after a kill")


@check("CRASH-5", limit=300)
def a_kill_at_each_system_call_of_a_transaction(context: Context) -> None:
    """Kills a process at the system calls of its transactions; each is done whole or not at all."""
    context.open().close()
    for what, _, family, said in _cut_off(context, transactor, 12, steps=4):
        with _fresh(context) as driver:
            _judge_transactions(context, driver, family, said, what)


# Trials

_HEARTBEAT_TIMEOUT = 2.0
_CLOCKS = 0.05
"""Seconds by which two clocks of one machine may differ over such a time."""


def trial_worker(job: Job) -> None:
    """Reserves a trial and gives heartbeats; tells of each when it was sent, so the storage took it no earlier."""
    storage = job.storage()
    job.ready()
    sent = time.monotonic()
    trial = storage.reserve_trial(job.arguments["experiment"])
    job.say([trial and trial.id, sent])
    while trial is not None and job.arguments["beats"]:
        time.sleep(job.random.uniform(0.05, 0.3))
        sent = time.monotonic()
        try:
            storage.update_heartbeat(trial)
        except ReservationLost:
            break
        job.say([trial.id, sent])
    threading.Event().wait()


def trial_waiter(job: Job) -> None:
    """Asks for trials until it is stopped; completes each that it gets, and says when it got it."""
    storage = job.storage()
    job.ready()
    while not job.stopped.is_set():
        trial = storage.reserve_trial(job.arguments["experiment"])
        if trial is not None:
            job.say([trial.id, trial.token, time.monotonic()])
            storage.push_trial_results(trial, {"objective": 1.0}, status="completed")
        time.sleep(0.01)


@check("CRASH-6", limit=240)
def trials_of_killed_workers_are_handed_out_once(context: Context) -> None:
    """Kills workers that hold trials while others wait: each trial goes to one of them, once, after its timeout."""
    storage = context.storage()
    experiment = storage.create_experiment(name="crash", heartbeat_timeout=_HEARTBEAT_TIMEOUT)
    storage.register_trials(experiment, [{"x": float(number)} for number in range(6)])
    silent = context.start(trial_worker, 2, experiment=experiment.id, beats=False)
    beating = context.start(trial_worker, 4, experiment=experiment.id, beats=True)
    workers = [*silent, *beating]
    for one in workers:
        one.next()
    held = [str(one.said[1][0]) for one in workers]
    context.equal("CRASH-6", len(set(held) - {"None"}), 6, "the trials reserved by six workers")
    waiters = context.start(trial_waiter, 3, experiment=experiment.id)
    *doomed, alive = workers
    for one in doomed:
        time.sleep(context.random.uniform(0, 0.2))
        _kill(context, one)
    lost = {str(one.said[-1][0]) for one in doomed}
    missing = lost
    deadline = time.monotonic() + _HEARTBEAT_TIMEOUT + _PATIENCE
    while missing and time.monotonic() < deadline:
        time.sleep(0.05)
        missing = lost - {one[0] for waiter in waiters for one in waiter.said if one != "ready"}
    context.require(
        not missing,
        "CRASH-6",
        f"{len(missing)} of {len(doomed)} trials of killed workers were not handed out again within {_PATIENCE:g} s "
        "after their heartbeat had run out",
    )
    time.sleep(_HEARTBEAT_TIMEOUT / 2)
    for waiter in waiters:
        waiter.tell("stop")
    handed = [one for said in context.join(waiters, _PATIENCE) for one in said]
    for worker in (*doomed, alive):
        worker.check()
        signs = [(one[0], one[1]) for one in worker.said if one != "ready"]
        trial = signs[0][0]
        got = [one for one in handed if one[0] == trial]
        if worker is not alive or got:
            context.equal("CRASH-6", len(got), 1, f"how often trial {trial} was handed to workers that waited")
            context.equal("CRASH-6", got[0][1], 2, "the fencing token of a trial that is handed out a second time")
        for _, _, moment in got:
            waited = moment - max(sent for _, sent in signs if sent <= moment)
            context.require(
                waited >= _HEARTBEAT_TIMEOUT - _CLOCKS,
                "CRASH-6",
                f"trial {trial} was handed out {waited:.2f} s after its worker's last acknowledged sign of life, and "
                f"its timeout is {_HEARTBEAT_TIMEOUT:g} s",
            )


# The algorithm lock

_TTL = 1.5


def state_saver(job: Job) -> None:
    """Saves one state after the other, says before and after each, and stays in the lock where it is told so."""
    storage = job.storage(lock_ttl=_TTL)
    first, stay, size = job.arguments["first"], job.arguments["stay"], job.arguments["size"]
    job.ready()
    number = first
    while True:
        with storage.acquire_algorithm_lock(job.arguments["experiment"], timeout=_PATIENCE) as algorithm:
            job.say([number, False])
            algorithm.set_state(_numbered(number, size))
            if number - first == stay:
                job.say("inside")
                threading.Event().wait()
        job.say([number, True])
        number += 1


def _numbered(number: int, size: int) -> dict[str, object]:
    data = text(f"state {number}", size)
    return {"number": number, "data": data, "sum": zlib.crc32(data.encode())}


def _number_of(context: Context, requirement: str, state: object, what: str) -> int:
    """The number of a state that is whole; 0 before the first."""
    if state is None:
        return 0
    context.require(isinstance(state, dict), requirement, f"{what} is a {type(state).__name__}")
    assert isinstance(state, dict)
    number, data = state.get("number"), str(state.get("data"))
    context.require(
        isinstance(number, int)
        and state.get("sum") == zlib.crc32(data.encode())
        and data == text(f"state {number}", len(data) - 40),
        requirement,
        f"{what} is not whole: it says that it has the number {number!r:.20}, and its {len(data)} characters are not "
        "those that were saved under it",
    )
    assert isinstance(number, int)
    return number


@check("CRASH-7", limit=240)
def the_lock_of_a_killed_holder(context: Context) -> None:
    """Kills holders of the algorithm lock, inside it and between; the next one gets it, with the state saved last."""
    storage = context.storage(lock_ttl=_TTL)
    experiment = storage.create_experiment(name="crash").id
    with storage.acquire_algorithm_lock(experiment, timeout=_PATIENCE):
        pass
    number = 0
    for life in range(6):
        stay = context.random.randrange(4) if life % 2 == 0 else None
        (process,) = context.start(state_saver, experiment=experiment, first=number + 1, stay=stay, size=4_000)
        while stay is not None and process.next() != "inside":
            pass
        done, begun = progress(_kill(context, process, steps=8 if stay is None else 0))
        done, begun = max(done - 1, number), max(begun - 1, number)
        try:
            with storage.acquire_algorithm_lock(experiment, timeout=_PATIENCE) as algorithm:
                found = _number_of(context, "CRASH-7", algorithm.state, "the state after a kill")
        except LockAcquisitionTimeout as error:
            context.fail("CRASH-7", f"{_PATIENCE:g} s after its holder was killed the lock is not free: {error}")
        context.require(
            done <= found <= begun,
            "CRASH-7",
            f"after a kill the state has the number {found}: {done} was saved last, and {begun} was to be the next",
        )
        number = found


_MEGABYTES = 8_000_000


def state_reader(job: Job) -> None:
    """Reads the state again and again until it is stopped; says its number, or what is wrong with it."""
    storage = job.storage(lock_ttl=_TTL)
    job.ready()
    last = None
    while not job.stopped.is_set():
        state = storage.get_algorithm_lock_info(job.arguments["experiment"]).state
        assert state is None or isinstance(state, dict)
        number = state and state["number"]
        if state and state["data"] != text(f"state {number}", len(state["data"]) - 40):
            job.say(f"a state of number {number} that is not whole")
        elif number != last:
            job.say(number)
        last = number


@check("CRASH-8", limit=300)
def a_large_state_is_whole_after_a_kill(context: Context) -> None:
    """Kills processes while they save a state of 8 MB; others read the old or the new one, and no rest stays behind."""
    storage = context.storage(lock_ttl=_TTL)
    experiment = storage.create_experiment(name="crash").id
    with storage.acquire_algorithm_lock(experiment, timeout=_PATIENCE) as algorithm:
        began = time.monotonic()
        algorithm.set_state(_numbered(1, _MEGABYTES))
    lasts = time.monotonic() - began
    (reader,) = context.start(state_reader, experiment=experiment)
    number, cut = 1, 0
    for _ in range(6):
        (process,) = context.start(state_saver, experiment=experiment, first=number + 1, stay=None, size=_MEGABYTES)
        process.next()
        process.next()
        time.sleep(context.random.uniform(0, 1.5 * lasts))
        done, begun = progress(_kill(context, process))
        done, begun = max(done - 1, number), max(begun - 1, number)
        cut += done < begun
        try:
            state = storage.get_algorithm_lock_info(experiment).state
        except MoorageError as error:
            context.fail("CRASH-8", f"after a kill the state cannot be read: {type(error).__name__}: {error}")
        found = _number_of(context, "CRASH-8", state, "what a reader got after a kill")
        context.require(
            done <= found <= begun,
            "CRASH-8",
            f"after a kill the state has the number {found}: {done} was saved last, and {begun} was to be the next",
        )
        number = found
    reader.tell("stop")
    (seen,) = context.join([reader], _PATIENCE)
    context.equal("CRASH-8", [one for one in seen if isinstance(one, str)], [], "what a reader saw meanwhile")
    number += 1
    try:
        with storage.acquire_algorithm_lock(experiment, timeout=_PATIENCE) as algorithm:
            algorithm.set_state(_numbered(number, _MEGABYTES))
    except MoorageError as error:
        context.fail("CRASH-8", f"after the kills the next state cannot be saved: {type(error).__name__}: {error}")
    state = storage.get_algorithm_lock_info(experiment).state
    context.equal("CRASH-8", _number_of(context, "CRASH-8", state, "the next state"), number, "the next state's number")
    parts = context.open(schema=SCHEMA).find(ALGORITHM_STATE_CHUNKS)
    context.equal(
        "CRASH-8", len({one.body["token"] for one in parts}), 1, "the states whose parts are stored after the next save"
    )
    if cut < 2:
        raise Unjudged(f"only {cut} of 6 processes were killed while they saved a state")
