"""The algorithm lock: it excludes, it frees itself, it keeps states of any size, and a stale holder changes nothing."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import moorage
from doubles import FaultyDriver, OverridingFaultyDriver, in_threads, storage_over
from moorage import Capability, LockedAlgorithmState, Storage, lock
from moorage.errors import (
    AlgorithmLockNotFound,
    DuplicateAlgorithmLock,
    EncodingError,
    ExperimentNotFound,
    InvalidArgument,
    InvalidType,
    LockAcquisitionTimeout,
    LockLost,
    OutcomeUnknown,
    StorageDamaged,
)
from moorage.leases import Leases
from moorage.schema import ALGORITHM_LOCKS, ALGORITHM_STATE_CHUNKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage import Experiment

LARGE = "ä" * 40_000
HUGE = "x" * (3 * 2**19 + 7)


@pytest.fixture
def memory() -> Iterator[Storage]:
    with moorage.connect("memory://") as opened:
        yield opened


@pytest.fixture(autouse=True)
def _threads_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moorage.keeper, "IDLE", 0.01)


@pytest.fixture
def nobody_renews(monkeypatch: pytest.MonkeyPatch) -> None:
    """The background thread renews no lock."""
    monkeypatch.setattr(LockedAlgorithmState, "start_renewing", lambda self: None)


def experiment_of(storage: Storage) -> Experiment:
    return storage.create_experiment(name="e", algorithm={"tpe": {"seed": 1}})


def save(storage: Storage, experiment: Experiment, state: object) -> None:
    with storage.acquire_algorithm_lock(experiment, timeout=10) as algorithm:
        algorithm.set_state(state)


def state_of(storage: Storage, experiment: Experiment) -> object:
    return storage.get_algorithm_lock_info(experiment).state


def chunks_of(storage: Storage) -> int:
    return storage.driver.count(ALGORITHM_STATE_CHUNKS)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Held:
    """A lock that another thread holds until it is told to let go; its error, if there was one."""

    def __init__(self, storage: Storage, experiment: Experiment, state: object = None) -> None:
        self.error: BaseException | None = None
        self.algorithm: LockedAlgorithmState | None = None
        self._let_go = threading.Event()
        self._held = threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(storage, experiment, state))
        self._thread.start()
        assert self._held.wait(30)

    def _hold(self, storage: Storage, experiment: Experiment, state: object) -> None:
        try:
            with storage.acquire_algorithm_lock(experiment, timeout=30) as self.algorithm:
                self._held.set()
                if state is not None:
                    self.algorithm.set_state(state)
                self._let_go.wait(30)
        except BaseException as error:  # for the test to look at
            self.error = error
            self._held.set()

    def let_go(self) -> BaseException | None:
        self._let_go.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.error


# The state


def test_a_lock_is_created_with_the_configuration_and_without_a_state(storage: Storage) -> None:
    experiment = experiment_of(storage)
    with pytest.raises(AlgorithmLockNotFound, match="acquire_algorithm_lock creates one"):
        storage.get_algorithm_lock_info(experiment)
    storage.initialize_algorithm_lock(experiment.id, {"random": {1: (2, np.float32(3))}})
    info = storage.get_algorithm_lock_info(uid=experiment.id)
    assert (info.experiment, info.configuration) == (experiment.id, {"random": {1: (2, np.float32(3))}})
    assert (info.state, info.locked, info.holder, info.token, info.ttl, info.age) == (None, False, None, 0, None, None)
    with pytest.raises(DuplicateAlgorithmLock):
        storage.initialize_algorithm_lock(experiment_id=experiment, algorithm_config={})
    with storage.acquire_algorithm_lock(experiment) as algorithm:
        assert algorithm.configuration == {"random": {1: (2, np.float32(3))}}
        assert algorithm.state is None


def test_acquiring_creates_the_lock_with_the_configuration_of_the_experiment(storage: Storage) -> None:
    experiment = experiment_of(storage)
    with storage.acquire_algorithm_lock(experiment, timeout=60, retry_interval=0.01) as algorithm:
        assert (algorithm.configuration, algorithm.state, algorithm.token) == ({"tpe": {"seed": 1}}, None, 1)
        assert algorithm.locked
        assert not algorithm.lost
        info = storage.get_algorithm_lock_info(experiment)
        assert (info.locked, info.token, info.ttl) == (True, 1, 60.0)
        assert info.age < 60
        assert info.acquired <= info.heartbeat
    assert not algorithm.locked
    assert not storage.get_algorithm_lock_info(experiment).locked


STATES = {
    "none": None,
    "nested": {"a": [1, (2.5, None)], 3: {4, 5}, "nan": float("nan")},
    "text": LARGE,
    "exactly inline": "x" * (16 * 1024 - 2),
    "one more": "x" * (16 * 1024 - 1),
    "two chunks": "x" * (512 * 1024 + 1),
    "megabytes": HUGE,
    "array": np.arange(200_000, dtype=np.float32).reshape(2, -1),
}


@pytest.mark.parametrize("chosen", STATES)
def test_states_of_every_size_come_back(memory: Storage, chosen: str) -> None:
    experiment = experiment_of(memory)
    save(memory, experiment, STATES[chosen])
    with memory.acquire_algorithm_lock(experiment) as algorithm:
        assert repr(algorithm.state) == repr(STATES[chosen])
        assert type(algorithm.state) is type(STATES[chosen])


def test_states_grow_and_shrink_and_leave_nothing_behind(storage: Storage) -> None:
    experiment = experiment_of(storage)
    generator = np.random.default_rng(7).bit_generator.state
    for state, chunks in (
        ({"a": 1}, 0),
        (LARGE, 1),
        (np.arange(300_000.0), 7),
        (LARGE + "2", 1),
        (generator, 0),
        (HUGE, 4),
        (None, 0),
    ):
        save(storage, experiment, state)
        assert chunks_of(storage) == chunks
        stored = state_of(storage, experiment)
        assert np.array_equal(stored, state) if isinstance(state, np.ndarray) else stored == state
        with storage.acquire_algorithm_lock(experiment) as algorithm:
            assert type(algorithm.state) is type(state)


def test_a_state_stays_where_nothing_is_set(storage: Storage) -> None:
    experiment = experiment_of(storage)
    save(storage, experiment, {"a": [1]})
    with storage.acquire_algorithm_lock(experiment) as algorithm:
        algorithm.state["a"].append(2)
    assert state_of(storage, experiment) == {"a": [1]}


def test_changes_in_place_after_set_state_do_not_count(memory: Storage) -> None:
    experiment = experiment_of(memory)
    with memory.acquire_algorithm_lock(experiment) as algorithm:
        state = {"a": [1]}
        algorithm.set_state(state)
        assert algorithm.state == {"a": [1]}
        state["a"].append(2)
    assert state_of(memory, experiment) == {"a": [1]}


def test_reset_forgets(memory: Storage) -> None:
    experiment = experiment_of(memory)
    save(memory, experiment, {"a": [1]})
    with memory.acquire_algorithm_lock(experiment) as algorithm:
        algorithm.state["a"].append(2)
        algorithm.set_state({"a": "other"})
        algorithm.reset()
        assert algorithm.state == {"a": [1]}
    assert state_of(memory, experiment) == {"a": [1]}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_saves_nothing_and_releases(storage: Storage, error: type[BaseException]) -> None:
    experiment = experiment_of(storage)
    save(storage, experiment, {"a": [1]})

    def spoil() -> None:
        with storage.acquire_algorithm_lock(experiment) as algorithm:
            algorithm.state["a"].append(2)
            algorithm.set_state(LARGE)
            raise error("mine")

    with pytest.raises(error, match="mine") as caught:
        spoil()
    assert not hasattr(caught.value, "__notes__")
    info = storage.get_algorithm_lock_info(experiment)
    assert (info.state, info.locked) == ({"a": [1]}, False)
    assert chunks_of(storage) == 0


def test_a_state_that_cannot_be_stored_raises_and_releases(storage: Storage) -> None:
    experiment = experiment_of(storage)
    save(storage, experiment, 1)

    def set_wrong() -> None:
        with storage.acquire_algorithm_lock(experiment) as algorithm:
            algorithm.set_state(2)
            algorithm.set_state(object())

    def release_wrong() -> None:
        with storage.acquire_algorithm_lock(experiment):
            storage.release_algorithm_lock(experiment, object())

    for wrong in (set_wrong, release_wrong):
        with pytest.raises(EncodingError, match="object"):
            wrong()
        info = storage.get_algorithm_lock_info(experiment)
        assert (info.state, info.locked) == (1, False)
    with pytest.raises(EncodingError):
        storage.initialize_algorithm_lock(storage.create_experiment(name="other"), object())


# Exclusion


def test_one_holder_at_a_time_and_no_update_is_lost(storage: Storage) -> None:
    experiment = experiment_of(storage)
    inside: list[int] = []

    def count(place: int) -> None:
        for _ in range(5):
            with storage.acquire_algorithm_lock(experiment, timeout=60) as algorithm:
                inside.append(place)
                assert len(inside) == 1
                algorithm.set_state((algorithm.state or 0) + 1)
                inside.remove(place)

    in_threads(4, count)
    info = storage.get_algorithm_lock_info(experiment)
    assert (info.state, info.token) == (20, 20)


def test_another_thread_waits_for_the_lock(storage: Storage) -> None:
    experiment = experiment_of(storage)
    with storage.acquire_algorithm_lock(experiment) as algorithm:
        waiting = threading.Thread(target=save, args=(storage, experiment, "second"))
        waiting.start()
        wait_until(lambda: storage.driver.find(ALGORITHM_LOCKS)[0].body.get("queue") is not None)
        algorithm.set_state("first")
        assert waiting.is_alive()
    waiting.join(30)
    assert state_of(storage, experiment) == "second"


def test_waiting_ends_and_the_message_names_the_holder(storage: Storage) -> None:
    experiment = experiment_of(storage)
    with storage.acquire_algorithm_lock(experiment):
        holder = storage.get_algorithm_lock_info(experiment).holder
        for timeout in (0, 0.02):
            with pytest.raises(LockAcquisitionTimeout) as caught:
                storage.acquire_algorithm_lock(experiment, timeout=timeout).__enter__()
            message = str(caught.value)
            assert f"was not free within {timeout:g} s" in message
            assert holder in message
            assert "its lease is 60.0 s" in message
            assert "moorage unlock" in message
            assert isinstance(caught.value, TimeoutError)
    with storage.acquire_algorithm_lock(experiment, timeout=0):
        pass


def test_locks_of_experiments_are_separate(storage: Storage) -> None:
    first, second = experiment_of(storage), storage.create_experiment(name="other")
    with (
        storage.acquire_algorithm_lock(first, timeout=1) as one,
        storage.acquire_algorithm_lock(second, timeout=1) as other,
    ):
        one.set_state(1)
        other.set_state(2)
    assert (state_of(storage, first), state_of(storage, second)) == (1, 2)


def test_releasing_early(storage: Storage) -> None:
    experiment = experiment_of(storage)
    with storage.acquire_algorithm_lock(experiment) as algorithm:
        algorithm.set_state("set")
        storage.release_algorithm_lock(experiment, "released")
        assert not algorithm.locked
        with storage.acquire_algorithm_lock(experiment, timeout=1) as inner:
            assert inner.state == "released"
        with pytest.raises(LockLost, match="was released before"):
            algorithm.release()
        with pytest.raises(LockLost, match="is not held by this storage; break_algorithm_lock"):
            storage.release_algorithm_lock(experiment)
    with storage.acquire_algorithm_lock(experiment) as algorithm:
        algorithm.set_state("set")
        storage.release_algorithm_lock(uid=experiment.id)
    assert state_of(storage, experiment) == "set"


def test_a_contender_is_served_against_one_who_always_comes_back(storage: Storage) -> None:
    experiment = experiment_of(storage)
    served = threading.Event()
    cycles: list[int] = []

    def greedy() -> None:
        while not served.is_set():
            with storage.acquire_algorithm_lock(experiment, timeout=30) as algorithm:
                cycles.append(algorithm.token)

    thread = threading.Thread(target=greedy)
    thread.start()
    try:
        for _ in range(3):
            wait_until(lambda: len(cycles) > 2)
            before = len(cycles)
            with storage.acquire_algorithm_lock(experiment, timeout=30):
                after = len(cycles)
            assert after - before < 100
    finally:
        served.set()
        thread.join(30)


def queue_of(storage: Storage) -> list[str]:
    return str(storage.driver.find(ALGORITHM_LOCKS)[0].body.get("queue") or "").split()


def test_who_waits_is_served_in_the_order_of_coming(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "COURTESY", 60)  # a busy machine keeps nobody from its turn
    experiment = experiment_of(storage)
    served: list[int] = []

    def contend(number: int) -> None:
        with storage.acquire_algorithm_lock(experiment, timeout=60):
            served.append(number)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    with storage.acquire_algorithm_lock(experiment):
        for number, thread in enumerate(threads):
            thread.start()
            wait_until(lambda: len(queue_of(storage)) == number + 1)  # noqa: B023
    for thread in threads:
        thread.join(60)
    assert served == list(range(8))
    assert queue_of(storage) == []


def test_the_dead_in_the_queue_hold_nobody_up_for_longer_than_one_would(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = experiment_of(storage)
    storage.initialize_algorithm_lock(experiment)
    waits: list[float] = []
    monkeypatch.setattr(lock, "COURTESY", 0.05)
    watch = Leases.watch

    def counted(self: Leases, key: str, sign: object) -> float:
        waits.append(watch(self, key, sign))
        return waits[-1]

    monkeypatch.setattr(Leases, "watch", counted)
    dead = [f"{number:08x}" for number in range(5)]
    storage.driver.patch(ALGORITHM_LOCKS, (), {"queue": " ".join(dead)})
    with storage.acquire_algorithm_lock(experiment, timeout=60):
        assert queue_of(storage) == []
    assert [wait for wait in waits if wait >= 0.05] == waits[-1:]


def test_a_full_queue_is_waited_for(memory: Storage) -> None:
    experiment = experiment_of(memory)
    with memory.acquire_algorithm_lock(experiment):
        full = " ".join(f"{number:08x}" for number in range(lock.PLACES))
        assert len(full) <= 255
        memory.driver.patch(ALGORITHM_LOCKS, (), {"queue": full})
        with (
            pytest.raises(LockAcquisitionTimeout),
            memory.acquire_algorithm_lock(experiment, timeout=0.2),
        ):
            pass
        assert queue_of(memory) == full.split()
        thread = threading.Thread(target=save, args=(memory, experiment, "saved"))
        thread.start()
        memory.driver.patch(ALGORITHM_LOCKS, (), {"queue": full[9:]})
        wait_until(lambda: len(queue_of(memory)) == lock.PLACES)
        assert queue_of(memory)[:-1] == full[9:].split()
        memory.driver.patch(ALGORITHM_LOCKS, (), {"queue": queue_of(memory)[-1]})
    thread.join(30)
    assert state_of(memory, experiment) == "saved"


def test_who_waits_in_vain_leaves_the_queue_to_the_others(storage: Storage) -> None:
    experiment = experiment_of(storage)
    with storage.acquire_algorithm_lock(experiment):
        storage.driver.patch(ALGORITHM_LOCKS, (), {"queue": "00000000"})
        with (
            pytest.raises(LockAcquisitionTimeout),
            storage.acquire_algorithm_lock(experiment, timeout=0.1),
        ):
            pass
        assert queue_of(storage) == ["00000000"]


def test_who_is_interrupted_leaves_the_queue(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = experiment_of(storage)
    queues: list[list[str]] = []

    def interrupt(seconds: float) -> None:
        queues.append(queue_of(storage))
        raise KeyboardInterrupt

    with storage.acquire_algorithm_lock(experiment):
        storage.driver.patch(ALGORITHM_LOCKS, (), {"queue": "00000000"})
        with monkeypatch.context() as patched:
            patched.setattr(lock.time, "sleep", interrupt)
            with pytest.raises(KeyboardInterrupt), storage.acquire_algorithm_lock(experiment):
                pass
        assert queue_of(storage) == ["00000000"]
    assert [len(queue) for queue in queues] == [2]


def test_an_interrupt_is_not_hidden_by_a_queue_that_is_gone(memory: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = experiment_of(memory)

    def interrupt(seconds: float) -> None:
        memory.delete_algorithm_lock(experiment)
        raise KeyboardInterrupt

    memory.acquire_algorithm_lock(experiment).__enter__()
    monkeypatch.setattr(lock.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught, memory.acquire_algorithm_lock(experiment):
        pass
    assert "has no algorithm lock" in "".join(caught.value.__notes__)


def test_wrong_arguments(memory: Storage) -> None:
    experiment = experiment_of(memory)
    for fields in ({"timeout": "1"}, {"timeout": None}, {"timeout": float("nan")}, {"timeout": -5}, {"timeout": True}):
        with pytest.raises((InvalidArgument, InvalidType), match="timeout"):
            memory.acquire_algorithm_lock(experiment, **fields)
    for interval in (0, -1, "1", float("inf")):
        with pytest.raises((InvalidArgument, InvalidType), match="retry_interval"):
            memory.acquire_algorithm_lock(experiment, retry_interval=interval)
    with pytest.raises(ExperimentNotFound):
        memory.acquire_algorithm_lock("nobody").__enter__()
    for verb in (memory.get_algorithm_lock_info, memory.break_algorithm_lock):
        with pytest.raises(AlgorithmLockNotFound, match="has no algorithm lock"):
            verb(experiment)
    assert memory.delete_algorithm_lock(experiment) is False


# Loss


def test_a_broken_lock_is_lost_and_the_state_stays(storage: Storage) -> None:
    experiment = experiment_of(storage)
    save(storage, experiment, "before")
    held = Held(storage, experiment, state=LARGE)
    assert storage.break_algorithm_lock(experiment) is True
    assert storage.break_algorithm_lock(experiment) is False
    save(storage, experiment, "after")
    error = held.let_go()
    assert isinstance(error, LockLost)
    assert "The stored state is untouched" in str(error)
    assert (state_of(storage, experiment), chunks_of(storage)) == ("after", 0)


def test_a_stale_holder_releases_nobody_elses_lock(storage: Storage) -> None:
    experiment = experiment_of(storage)
    stale = Held(storage, experiment, state="stale")
    storage.break_algorithm_lock(experiment)
    with storage.acquire_algorithm_lock(experiment, timeout=5) as algorithm:
        assert isinstance(stale.let_go(), LockLost)
        info = storage.get_algorithm_lock_info(experiment)
        assert (info.locked, info.token) == (True, algorithm.token)
        assert algorithm.locked
        algorithm.set_state("mine")
    assert state_of(storage, experiment) == "mine"


def test_the_users_exception_survives_a_lost_lock(memory: Storage) -> None:
    experiment = experiment_of(memory)

    def lose_and_fail() -> None:
        with memory.acquire_algorithm_lock(experiment):
            memory.break_algorithm_lock(experiment)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        lose_and_fail()
    assert "was lost" in caught.value.__notes__[0]


@pytest.mark.usefixtures("nobody_renews")
def test_a_holder_that_does_not_renew_is_succeeded_and_changes_nothing(storage_url: str) -> None:
    with moorage.connect(storage_url, lock_ttl=0.2) as storage:
        experiment = experiment_of(storage)
        save(storage, experiment, "before")
        dead = Held(storage, experiment, state=LARGE)
        save(storage, experiment, "successor")
        assert dead.algorithm.lost
        assert not dead.algorithm.locked
        assert isinstance(dead.let_go(), LockLost)
        assert (state_of(storage, experiment), chunks_of(storage)) == ("successor", 0)


@pytest.mark.usefixtures("nobody_renews")
def test_a_holder_that_does_not_renew_knows_it_even_if_nobody_else_came() -> None:
    with moorage.connect("memory://", lock_ttl=0.05) as storage:
        experiment = experiment_of(storage)

        def linger() -> None:
            with storage.acquire_algorithm_lock(experiment) as algorithm:
                algorithm.set_state("late")
                wait_until(lambda: algorithm.lost)

        with pytest.raises(LockLost):
            linger()
        info = storage.get_algorithm_lock_info(experiment)
        assert (info.state, info.locked) == (None, False)


def test_a_holder_that_renews_keeps_the_lock_beyond_its_ttl(storage_url: str) -> None:
    with moorage.connect(storage_url, lock_ttl=0.3) as storage:
        experiment = experiment_of(storage)
        with storage.acquire_algorithm_lock(experiment) as algorithm:
            first = storage.get_algorithm_lock_info(experiment).heartbeat
            with pytest.raises(LockAcquisitionTimeout):
                storage.acquire_algorithm_lock(experiment, timeout=0.5).__enter__()
            assert storage.get_algorithm_lock_info(experiment).heartbeat > first
            algorithm.set_state("kept")
        assert state_of(storage, experiment) == "kept"


def test_the_background_renewal_notices_a_loss() -> None:
    with moorage.connect("memory://", lock_ttl=0.3) as storage:
        experiment = experiment_of(storage)
        held = Held(storage, experiment)
        storage.break_algorithm_lock(experiment)
        with storage.acquire_algorithm_lock(experiment):
            wait_until(lambda: held.algorithm.lost)
        assert isinstance(held.let_go(), LockLost)


def test_a_lock_that_was_deleted_is_lost_and_its_holder_spoils_nothing(storage: Storage) -> None:
    experiment = experiment_of(storage)
    stale = Held(storage, experiment, state=LARGE + "stale")
    assert storage.delete_algorithm_lock(experiment) is True
    save(storage, experiment, LARGE + "new")
    assert isinstance(stale.let_go(), LockLost)
    assert state_of(storage, experiment) == LARGE + "new"
    assert chunks_of(storage) == 1


# Without a clock that all users share


def test_without_a_shared_clock_a_dead_holder_is_succeeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LockedAlgorithmState, "start_renewing", lambda self: None)
    driver = FaultyDriver(without=[Capability.SERVER_CLOCK])
    dead, alive = storage_over(driver, lock_ttl=0.1), storage_over(driver, lock_ttl=0.1)
    experiment = experiment_of(dead)
    acquisition = dead.acquire_algorithm_lock(experiment)
    acquisition.__enter__().set_state("dead")
    with pytest.raises(LockAcquisitionTimeout):
        alive.acquire_algorithm_lock(experiment, timeout=0.02).__enter__()
    save(alive, experiment, "alive")
    with pytest.raises(LockLost):
        acquisition.__exit__(None, None, None)
    assert state_of(alive, experiment) == "alive"


def test_without_a_shared_clock_a_lock_that_is_renewed_is_never_stolen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both clocks are turned by hand; whoever watches sees a renewal before each look."""
    now = [0.0]
    monkeypatch.setattr(moorage.leases, "elapsed", lambda: now[0])
    monkeypatch.setattr(moorage.lock, "elapsed", lambda: now[0])
    monkeypatch.setattr(LockedAlgorithmState, "start_renewing", lambda self: None)
    driver = FaultyDriver(without=[Capability.SERVER_CLOCK])
    holder, other = storage_over(driver, lock_ttl=10), storage_over(driver, lock_ttl=10)
    experiment = experiment_of(holder)
    with holder.acquire_algorithm_lock(experiment) as algorithm:
        for _ in range(6):
            now[0] += 9
            assert algorithm._renew()
            with pytest.raises(LockAcquisitionTimeout):
                other.acquire_algorithm_lock(experiment, timeout=0).__enter__()
            assert not algorithm.lost
        algorithm.set_state("kept")
    assert state_of(other, experiment) == "kept"


# Crashes and lost replies


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("written", [1, 2, 3])
def test_what_a_crash_between_chunks_and_swap_leaves_is_swept_by_the_next_save(written: int) -> None:
    driver = OverridingFaultyDriver()
    storage = storage_over(driver, lock_ttl=0.05)
    experiment = experiment_of(storage)
    save(storage, experiment, LARGE)
    left = [written]

    def crash(verb: str, collection: str) -> None:
        if collection == ALGORITHM_STATE_CHUNKS.name:
            left[0] -= 1
            if not left[0]:
                raise Crash

    acquisition = storage.acquire_algorithm_lock(experiment)
    acquisition.__enter__().set_state(HUGE)
    driver.after = crash
    with pytest.raises(Crash):
        acquisition.__exit__(None, None, None)
    driver.after = lambda verb, collection: None
    assert chunks_of(storage) == 1 + written
    with storage.acquire_algorithm_lock(experiment, timeout=30) as algorithm:
        assert algorithm.state == LARGE
    assert chunks_of(storage) == 1 + written
    save(storage, experiment, "small")
    assert chunks_of(storage) == 0
    assert state_of(storage, experiment) == "small"


def test_a_release_whose_reply_is_lost_has_happened_even_if_the_next_holder_is_quick() -> None:
    driver = OverridingFaultyDriver()
    storage, other = storage_over(driver), Storage(driver.inner)
    experiment = experiment_of(storage)
    acquisition = storage.acquire_algorithm_lock(experiment)
    acquisition.__enter__().set_state(LARGE)
    successor: list[object] = []

    def take_over(verb: str, collection: str) -> None:
        if verb == "patch":
            driver.after = lambda verb, collection: None
            successor.append(other.acquire_algorithm_lock(experiment, timeout=1).__enter__())

    driver.begin({1: "unknown with effect"})
    driver.after = take_over
    acquisition.__exit__(None, None, None)
    assert successor[0].state == LARGE
    assert chunks_of(storage) == 1


def test_a_release_whose_reply_is_lost_and_that_did_not_happen_says_so() -> None:
    driver = OverridingFaultyDriver()
    storage, other = storage_over(driver, retry_timeout=0), Storage(driver.inner)
    experiment = experiment_of(storage)
    acquisition = storage.acquire_algorithm_lock(experiment)
    acquisition.__enter__().set_state("mine")
    other.break_algorithm_lock(experiment)
    driver.begin({0: "unknown without effect"})
    with pytest.raises((LockLost, OutcomeUnknown)):
        acquisition.__exit__(None, None, None)
    assert state_of(other, experiment) is None


def test_a_state_of_which_parts_are_missing_is_reported_as_damaged(memory: Storage) -> None:
    experiment = experiment_of(memory)
    save(memory, experiment, HUGE)
    memory.driver.delete(ALGORITHM_STATE_CHUNKS, moorage.filters.equal(position=2))
    with pytest.raises(StorageDamaged, match="3 of 4 parts are stored; delete_algorithm_lock starts it anew"):
        state_of(memory, experiment)
    for _ in range(2):
        with pytest.raises(StorageDamaged):
            memory.acquire_algorithm_lock(experiment, timeout=1).__enter__()
    memory.delete_algorithm_lock(experiment)
    save(memory, experiment, "anew")
    assert chunks_of(memory) == 0


def test_readers_see_whole_states_while_a_writer_changes_them(memory: Storage) -> None:
    experiment = experiment_of(memory)
    save(memory, experiment, "a" * 2**20)
    done = threading.Event()

    def write() -> None:
        for letter in "bcdefghij":
            save(memory, experiment, letter * (2**20 if letter != "e" else 10))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert len(set(state_of(memory, experiment))) == 1
    writer.join(30)


@pytest.mark.parametrize("wrong", [-0.5, -1, float("inf")])
def test_a_time_to_wait_is_not_negative(memory: Storage, wrong: float) -> None:
    experiment = memory.create_experiment(name="waiting")
    with pytest.raises(InvalidArgument, match="timeout must be finite and at least 0"):
        memory.acquire_algorithm_lock(experiment, timeout=wrong)
    with memory.acquire_algorithm_lock(experiment, timeout=0) as algorithm:
        assert algorithm.locked


def test_a_free_lock_that_is_left_to_another_says_so(memory: Storage) -> None:
    experiment = memory.create_experiment(name="waiting")
    memory.initialize_algorithm_lock(experiment)
    memory.driver.patch(ALGORITHM_LOCKS, (), {"queue": "somebody"})
    with (
        pytest.raises(LockAcquisitionTimeout, match="it was left to somebody, who has waited longer"),
        memory.acquire_algorithm_lock(experiment, timeout=0),
    ):
        pass
