"""Level 4: servers that restart, and connections that break, fall silent, or lose what was on its way."""

from __future__ import annotations

import functools
import threading
import time
from typing import TYPE_CHECKING, Any

from moorage.driver import Document, Driver, Increment
from moorage.errors import LockError, MoorageError, OutcomeUnknown, ReservationLost, Unavailable
from moorage.filters import equal
from moorage_conformance.checking import Unjudged, check
from moorage_conformance.target import ITEMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage import Storage
    from moorage_conformance.context import Context
    from moorage_conformance.worker import Job

PATIENCE = 30.0
"""Seconds after which a driver must have found its way back to a server that answers."""

LONGEST = 100.0
"""Seconds after which a call on a silent connection counts as hanging; options of the backend should make it less."""

TRIALS = 25
"""How many trials each worker registers and completes over a bad connection."""

ATTEMPTS = 8
"""Which of the replies of one call are lost, in turn; more than any call should need."""


def _items(count: int, prefix: str = "i") -> list[Document]:
    return [
        Document(
            f"{prefix}{place:03}",
            {"family": "f", "name": f"{prefix}{place}", "flag": True, "place": place, "amount": 0},
        )
        for place in range(count)
    ]


def _patiently(operation: Callable[[], Any], seconds: float = PATIENCE) -> tuple[Any, MoorageError | None]:
    """Repeat until it succeeds; the last of the errors that say that the server is out of reach, where time is up."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return operation(), None
        except (Unavailable, OutcomeUnknown) as error:
            if time.monotonic() > deadline:
                return None, error
            time.sleep(0.05)


def _verbs(driver: Driver) -> dict[str, Callable[[str], object]]:
    """Each primitive that writes, on a document of its own; each may take effect once only."""
    return {
        "insert": lambda one: driver.insert(ITEMS, [Document(f"new-{one}", {"family": "n", "name": one, "amount": 1})]),
        "swap": lambda one: driver.swap(ITEMS, Document(one, {"family": "f", "name": one, "amount": 1}), 1),
        "patch": lambda one: driver.patch(ITEMS, equal(id=one), {"amount": Increment()}),
        "claim": lambda one: driver.claim(ITEMS, equal(id=one, flag=True), {"flag": False, "amount": Increment()}),
        "delete": lambda one: driver.delete(ITEMS, equal(id=one)),
    }


def _readings(driver: Driver) -> dict[str, Callable[[], object]]:
    """Each primitive that reads."""
    return {
        "find": lambda: driver.find(ITEMS, equal(family="f"), limit=5),
        "get": lambda: driver.get(ITEMS, "i000"),
        "count": lambda: driver.count(ITEMS, equal(family="f")),
        "tally": lambda: driver.tally(ITEMS, equal(family="f"), "tag"),
    }


@check("NETWORK-1", limit=240)
def open_drivers_survive_a_restart(context: Context) -> None:
    """Restarts the server in good order; drivers and storages that were open must go on working."""
    driver, storage = context.open(), context.storage(context.fresh_url())
    driver.insert(ITEMS, _items(5))
    experiment = storage.create_experiment(name="restart")
    trial = storage.register_trial(experiment, {"x": 1.0})
    context.target.hooks.stop_server(kill=False)
    context.target.hooks.start_server()
    for name, reading in _readings(driver).items():
        _, error = _patiently(reading)
        context.require(error is None, "NETWORK-1", f"{name} still fails {PATIENCE:g} s after the restart: {error}")
    for place, (name, verb) in enumerate(_verbs(driver).items()):
        _, error = _patiently(functools.partial(verb, f"i00{place}"))
        context.require(error is None, "NETWORK-1", f"{name} still fails {PATIENCE:g} s after the restart: {error}")
    try:
        reserved = storage.reserve_trial(experiment)
    except MoorageError as error:
        context.fail("NETWORK-1", f"the storage that was open raised {type(error).__name__}: {error}")
    else:
        context.equal("NETWORK-1", reserved and reserved.id, trial.id, "the trial reserved after the restart")


def writer(job: Job) -> None:
    """Inserts and changes documents as long as it may, and says what was acknowledged."""
    driver = job.driver()
    job.ready()
    number = 0
    while not job.stopped.is_set():
        number += 1
        identifier = f"{job.name}-{number}"
        try:
            if driver.insert(ITEMS, [Document(identifier, {"family": job.name, "name": identifier, "amount": 0})]):
                continue
            job.say([identifier, 1])
            if driver.patch(ITEMS, equal(id=identifier), {"amount": Increment()}):
                job.say([identifier, 2])
        except (Unavailable, OutcomeUnknown):
            time.sleep(0.02)
    driver.close()


@check("NETWORK-2", limit=240)
def acknowledged_writes_survive_the_death_of_the_server(context: Context) -> None:
    """Kills the server three times while four processes write; what was acknowledged must be there afterwards."""
    context.open().close()
    processes = context.start(writer, 4)
    for _ in range(3):
        time.sleep(1.0 + context.random.random())
        context.target.hooks.stop_server(kill=True)
        context.target.hooks.start_server()
    time.sleep(1.0)
    for process in processes:
        process.tell("stop")
    said = [one for lines in context.join(processes) for one in lines]
    least = dict[str, int]()
    for identifier, revision in said:
        least[identifier] = max(revision, least.get(identifier, 0))
    if len(least) < 50:
        raise Unjudged(f"too little load: {len(least)} documents were acknowledged, and 50 are needed")
    driver = context.open()
    stored = {one.id: one.revision for one in driver.find(ITEMS)}
    lost = [one for one, revision in least.items() if stored.get(one, 0) < revision]
    context.require(
        not lost, "NETWORK-2", f"{len(lost)} of {len(least)} acknowledged writes are lost, such as {lost[:5]}"
    )


@check("NETWORK-3", limit=300)
def a_lost_reply_is_never_called_unavailable(context: Context) -> None:
    """Loses the first, second, … reply of each primitive that writes, and looks whether it told the truth."""
    direct = context.open()
    with context.proxy() as proxy:
        driver = context.open(proxy.url)
        told = dict[str, set[str]]()
        for name in _verbs(driver):
            for number in range(1, ATTEMPTS + 1):
                identifier = f"{name}-{number}"
                direct.insert(
                    ITEMS, [Document(identifier, {"family": "f", "name": identifier, "flag": True, "amount": 0})]
                )
                _patiently(lambda: driver.get(ITEMS, "nothing"))
                before = proxy.faults
                proxy.lose_reply(number)
                outcome = "done"
                try:
                    _verbs(driver)[name](identifier)
                except Unavailable:
                    outcome = "unavailable"
                except OutcomeUnknown:
                    outcome = "unknown"
                proxy.break_at_random(0)
                if proxy.faults == before:
                    break  # it needs no more replies than that
                told.setdefault(name, set()).add(outcome)
                _look(context, direct, name, identifier, outcome)
        if not told:
            raise Unjudged("no reply was lost: do the calls go over the host and port of the URL?")


def _look(context: Context, direct: Driver, name: str, identifier: str, outcome: str) -> None:
    """Whether what the call said fits what is stored."""
    if outcome == "unavailable":
        time.sleep(0.3)  # what was on its way may arrive late
    stored = direct.get(ITEMS, f"new-{identifier}" if name == "insert" else identifier)
    happened = stored is None if name == "delete" else stored is not None and stored.body.get("amount") != 0
    if outcome == "unavailable":
        context.require(not happened, "NETWORK-3", f"{name} raised Unavailable, and has happened")
    if outcome == "done":
        context.require(happened, "NETWORK-3", f"{name} returned, and has not happened")
    if stored is not None and happened:
        context.equal("NETWORK-3", stored.body.get("amount"), 1, f"the amount after one {name} whose reply was lost")


def swapper(job: Job) -> None:
    """Reads and swaps documents over a bad connection, and records it."""
    driver = job.driver()
    keys, recorder = [f"k{number}" for number in range(job.arguments["keys"])], job.recorder
    job.ready()
    for number in range(job.arguments["operations"]):
        key = job.random.choice(keys)
        try:
            found = recorder.run(key, "get", (), functools.partial(driver.get, ITEMS, key), _told)
            if found is None:
                continue
            value, expected = f"{job.name}-{number}", found.revision
            document = Document(key, {"family": "f", "name": key, "note": value})
            swap = functools.partial(driver.swap, ITEMS, document, expected)
            recorder.run(key, "swap", (value, expected), swap)
        except (Unavailable, OutcomeUnknown):
            time.sleep(0.01)
    driver.close()


def _told(document: Document | None) -> object:
    return None if document is None else [document.body.get("note"), document.revision]


@check("NETWORK-3", limit=300)
def answers_are_right_where_connections_break(context: Context) -> None:
    """Four processes read and swap over connections that break at random; the history must be linearizable."""
    direct, keys = context.open(), 8
    recorder = context.recorder("setup")
    for number in range(keys):
        document = Document(f"k{number}", {"family": "f", "name": f"k{number}", "note": "first"})
        insert = functools.partial(direct.insert, ITEMS, [document])
        recorder.run(document.id, "insert", ("first",), insert, lambda refused: not refused)
    with context.proxy() as proxy:
        processes = context.start(swapper, 4, url=proxy.url, record=True, keys=keys, operations=120)
        proxy.break_at_random(0.02)
        context.join(processes)
        if proxy.faults < 5:
            raise Unjudged(f"too little load: {proxy.faults} connections broke, and 5 are needed")
    context.judge("register", "NETWORK-3")


@check("NETWORK-4", limit=300)
def lost_connections_are_made_anew(context: Context) -> None:
    """Cuts all connections ten times; the same driver must get through again each time, without being opened anew."""
    with context.proxy() as proxy:
        driver = context.open(proxy.url)
        driver.insert(ITEMS, _items(3))
        for number in range(10):
            proxy.cut()
            for name, reading in _readings(driver).items():
                _, error = _patiently(reading)
                context.require(error is None, "NETWORK-4", f"{name} still fails {PATIENCE:g} s after a cut: {error}")
            proxy.cut()
            _, error = _patiently(functools.partial(driver.patch, ITEMS, equal(id="i000"), {"place": number}))
            context.require(error is None, "NETWORK-4", f"patch still fails {PATIENCE:g} s after a cut: {error}")
        context.equal("NETWORK-4", driver.count(ITEMS), 3, "the number of documents after ten cuts")


@check("NETWORK-5", limit=LONGEST + 120)
def a_silent_connection_ends_with_an_error(context: Context) -> None:
    """Lets every connection fall silent during each primitive at once; each must end with an error in its time."""
    with context.proxy() as proxy:
        direct = context.open()
        direct.insert(ITEMS, _items(6))
        names = [*_readings(direct), *_verbs(direct), "open"]
        drivers = {name: context.open(proxy.url) for name in names}
        for driver in drivers.values():
            driver.get(ITEMS, "i000")
        proxy.stall()
        found: dict[str, str] = {}

        def call(name: str, driver: Driver) -> None:
            try:
                if name == "open":
                    context.open(proxy.url).get(ITEMS, "i000")
                elif name in _readings(driver):
                    _readings(driver)[name]()
                else:
                    _verbs(driver)[name](f"i00{list(_verbs(driver)).index(name)}")
                found[name] = "answered"
            except (Unavailable, OutcomeUnknown):
                found[name] = "ended"
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"

        threads = [threading.Thread(target=call, args=one, daemon=True) for one in drivers.items()]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + LONGEST
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        told = dict(found)
        proxy.cut()
        proxy.flow()
    hanging = sorted(set(names) - set(told))
    context.require(not hanging, "NETWORK-5", f"{', '.join(hanging)} still waits after {LONGEST:g} s of silence")
    wrong = {name: what for name, what in told.items() if what != "ended"}
    context.require(not wrong, "NETWORK-5", f"on a silent connection Unavailable or OutcomeUnknown is due, not {wrong}")


@check("NETWORK-6", limit=300)
def a_server_out_of_reach_is_unavailable(context: Context) -> None:
    """Takes the server away; opening and every primitive must raise Unavailable, and work again when it is back."""
    with context.proxy() as proxy:
        driver = context.open(proxy.url)
        driver.insert(ITEMS, _items(6))
        proxy.refuse()
        with context.raises("NETWORK-6", Unavailable, "opening a storage whose server is gone"):
            context.open(proxy.url)
        calls: dict[str, Callable[[], object]] = dict(_readings(driver))
        for place, (name, verb) in enumerate(_verbs(driver).items()):
            calls[name] = functools.partial(verb, f"i00{place}")
        first, *_ = calls
        for name, call in calls.items():
            try:
                call()
            except Unavailable:
                continue
            except OutcomeUnknown:
                # The connection of before was still there to send it on; there can be no further one.
                with context.raises("NETWORK-6", Unavailable, f"{name} without a connection"):
                    call()
            except Exception as other:
                context.fail("NETWORK-6", f"{name} raised {type(other).__name__} without a server: {other}")
            else:
                context.fail("NETWORK-6", f"{name} returned without a server (the first call was {first})")
        proxy.listen()
        _, error = _patiently(lambda: driver.count(ITEMS))
        context.require(
            error is None, "NETWORK-6", f"count still fails {PATIENCE:g} s after the server is back: {error}"
        )


def tuner(job: Job) -> None:
    """Registers, reserves and completes trials, and counts in the algorithm's state, over a bad connection."""
    storage = job.storage(lock_ttl=10.0, heartbeat_timeout=300.0)
    experiment = job.arguments["experiment"]
    job.ready()
    for number in range(job.arguments["trials"]):
        for what, step in _steps(storage, experiment, job.name, number):
            try:
                told = step()
            except (Unavailable, OutcomeUnknown):
                job.say([what, "unknown", None])
                continue
            except (ReservationLost, LockError) as error:
                job.say([what, type(error).__name__, str(error)])
                continue
            job.say([what, "done", told])
    storage.close()


def _steps(storage: Storage, experiment: str, name: str, number: int) -> Iterator[tuple[str, Callable[[], object]]]:
    def register() -> object:
        return storage.register_trial(experiment, {"x": float(number), "who": name}).id

    def work() -> object:
        trial = storage.reserve_trial(experiment, worker=name)
        if trial is None:
            return None
        storage.push_trial_results(trial, {"objective": trial.params["x"]}, status="completed")
        return [trial.id, trial.token]

    def count() -> object:
        with storage.acquire_algorithm_lock(experiment, timeout=120) as algorithm:
            state = algorithm.state if isinstance(algorithm.state, dict) else {"count": 0}
            algorithm.set_state({"count": state["count"] + 1})
        return None

    yield "register", register
    yield "work", work
    yield "count", count


@check("NETWORK-7", limit=400)
def calls_take_effect_once_where_replies_are_lost(context: Context) -> None:
    """Four workers tune over connections that break at random; afterwards every trial and every count must add up."""
    storage = context.storage()
    experiment = storage.create_experiment(name="lost replies")
    storage.initialize_algorithm_lock(experiment, {})
    with context.proxy() as proxy:
        processes = context.start(tuner, 4, url=proxy.url, experiment=experiment.id, trials=TRIALS)
        proxy.break_at_random(0.03)
        said = context.join(processes)
        if proxy.faults < 3:
            raise Unjudged(f"too little load: {proxy.faults} connections broke, and 3 are needed")
    told = [line for lines in said for line in lines]
    wrong = [one for one in told if one[1] not in ("done", "unknown")]
    context.require(
        not wrong, "NETWORK-7", f"{len(wrong)} calls failed though nobody disturbed them, such as {wrong[:2]}"
    )
    registered = [one[2] for one in told if one[0] == "register" and one[1] == "done"]
    stored = {one.id: one for one in storage.fetch_trials(experiment)}
    context.require(
        set(registered) <= set(stored), "NETWORK-7", f"{len(set(registered) - set(stored))} registered trials are lost"
    )
    context.require(
        len(stored) <= 4 * TRIALS, "NETWORK-7", f"{len(stored)} trials are stored, and {4 * TRIALS} were registered"
    )
    worked = [tuple(one[2]) for one in told if one[0] == "work" and one[1] == "done" and one[2]]
    again = sorted({trial for trial, _ in worked if sum(trial == other for other, _ in worked) > 1})
    context.require(not again, "NETWORK-7", f"{len(again)} trials were completed by two workers, such as {again[:3]}")
    for identifier, token in worked:
        trial = stored[identifier]
        context.equal("NETWORK-7", str(trial.status), "completed", f"the status of the completed trial {identifier}")
        context.equal("NETWORK-7", trial.objective, trial.params["x"], f"the objective of trial {identifier}")
        context.equal("NETWORK-7", trial.token, token, f"the token of trial {identifier}, reserved once")
    unknown = sum(one[0] == "work" and one[1] == "unknown" for one in told)
    stuck = [one.id for one in stored.values() if str(one.status) == "reserved"]
    context.require(
        len(stuck) <= unknown,
        "NETWORK-7",
        f"{len(stuck)} trials are reserved and nobody was told so ({unknown} calls have an unknown outcome)",
    )
    done = sum(one[0] == "count" and one[1] == "done" for one in told)
    unknown = sum(one[0] == "count" and one[1] == "unknown" for one in told)
    state = storage.get_algorithm_lock_info(experiment).state
    counted = state["count"] if isinstance(state, dict) else 0
    context.require(
        isinstance(counted, int) and done <= counted <= done + unknown,
        "NETWORK-7",
        f"the count in the algorithm's state is {counted}: {done} increments were acknowledged, {unknown} are unknown",
    )


def cut_off(job: Job) -> None:
    """Writes without end, until it is killed."""
    driver = job.driver()
    job.ready()
    while True:
        driver.claim(ITEMS, equal(family="f", flag=True), {"amount": Increment()})
        driver.patch(ITEMS, equal(family="f"), {"amount": Increment()})


@check("NETWORK-8", limit=300)
def a_call_that_was_cut_off_holds_nothing_up(context: Context) -> None:
    """Lets connections fall silent in the middle of writes and kills their clients; others must get through."""
    driver = context.open()
    driver.insert(ITEMS, _items(5))
    for number in range(4):
        with context.proxy() as proxy:
            process = context.start(cut_off, 1, url=proxy.url)[0]
            time.sleep(0.2 + context.random.random() * 0.3)
            proxy.stall()
            time.sleep(0.05)
            process.kill()
            # The server's end of the connection stays open: nothing tells it that the client is gone.
            calls: dict[str, Callable[[], object]] = {
                "patch": functools.partial(driver.patch, ITEMS, equal(family="f"), {"place": number}),
                "claim": functools.partial(driver.claim, ITEMS, equal(family="f", flag=True), {"amount": 0}),
                "delete": functools.partial(driver.delete, ITEMS, equal(id=f"i00{number}")),
            }
            for name, call in calls.items():
                _, error = _patiently(call)
                context.require(
                    error is None,
                    "NETWORK-8",
                    f"{name} still fails {PATIENCE:g} s after another client was cut off: {error}",
                )
