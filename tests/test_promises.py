"""Promises, each with its kind: one gets what one's own write stored, a look is no fence, every trial has an end."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import threading
import time

import pytest

import moorage
from doubles import FaultyDriver, OverridingFaultyDriver, needs_clock, storage_over
from moorage import Capability, Storage, Trial
from moorage.errors import (
    DuplicateTrial,
    EncodingError,
    ExperimentNotFound,
    FailedUpdate,
    InvalidArgument,
    ReservationLost,
    TrialLimitReached,
)
from moorage.schema import MEASUREMENTS, TRIALS

LONG_AGO = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


def started(storage: Storage, count: int = 1, **fields: object) -> tuple[moorage.Experiment, Trial]:
    experiment = storage.create_experiment(name="e", **fields)
    storage.register_trials(experiment, [{"x": place} for place in range(count)])
    trial = storage.reserve_trial(experiment, worker="me")
    assert trial is not None
    return experiment, trial


def lose(storage: Storage, trial: Trial) -> None:
    storage.update_trial(trial.id, heartbeat=LONG_AGO, experiment_uid=trial.experiment)


# What is returned is what one's own write stored


@pytest.mark.parametrize("without", [[], [Capability.TRANSACTIONS]])
def test_a_paused_caller_never_gets_its_successors_token(without: list[Capability]) -> None:
    """It is paused right after its write; before it goes on, another has the trial."""
    driver = FaultyDriver(without=without)
    storage, other = storage_over(driver), Storage(driver.inner)
    experiment = storage.create_experiment(name="e")
    storage.register_trial(experiment, {"x": 1})
    (pending,) = storage.fetch_trials(experiment)
    overtaken: list[Trial] = []

    def overtake(verb: str, collection: str) -> None:
        if verb in ("claim", "patch", "swap") and collection == "trials" and not overtaken:
            overtaken.append(pending)
            other.set_trial_status(pending.id, "interrupted", experiment_uid=experiment)
            overtaken[0] = other.reserve_trial(experiment, worker="B")

    driver.after = overtake
    mine = storage.update_trial(pending, status="reserved", worker="A")
    driver.after = lambda verb, collection: None
    assert overtaken[0].token == 2
    assert (mine.token, mine.worker, mine.status) == (1, "A", "reserved")
    with pytest.raises(ReservationLost):
        storage.push_trial_results(mine, {"objective": 1})
    assert storage.get_trial(pending).worker == "B"


def test_a_taken_resource_is_ones_own_whatever_follows() -> None:
    driver = FaultyDriver(without=[Capability.TRANSACTIONS])
    storage, other = storage_over(driver), Storage(driver.inner)
    added = storage.add_resource(name="gpu", kind="gpu")
    for follows in ("taken by another", "removed"):
        if follows == "removed":
            other.free_resources("B")
        storage.take_resource("gpu", "dead", lease=1e-6)
        time.sleep(0.01)

        def overtake(verb: str, collection: str, follows: str = follows) -> None:
            driver.after = lambda verb, collection: None
            if follows == "removed":
                other.remove_resource(added)
            else:
                other.free_resources("A")
                other.take_resource("gpu", "B")

        def after(verb: str, collection: str) -> None:
            if (
                verb in ("patch", "swap", "claim")
                and driver.inner.get(moorage.schema.RESOURCES, added.id).body["holder"] == "A"
            ):
                overtake(verb, collection)

        driver.after = after
        taken = storage.take_resource("gpu", "A")
        driver.after = lambda verb, collection: None
        assert taken is not None
        assert taken.holder == "A"


def test_recovery_goes_on_where_a_lost_trial_is_deleted(storage: Storage) -> None:
    needs_clock(storage)
    experiment, trial = started(storage, 3)
    second = storage.reserve_trial(experiment)
    for one in (trial, second):
        lose(storage, one)
    stored = storage._lost

    def deleting(*arguments: object) -> object:
        found = stored(*arguments)
        storage.delete_trials(experiment, {"id": trial.id})
        return found

    storage._lost = deleting
    assert [one.id for one in storage.recover_lost_trials(experiment)] == [second.id]


def test_force_with_the_same_status_evicts_nobody(storage: Storage) -> None:
    _, trial = started(storage)
    assert storage.update_trial(trial.id, status="reserved", force=True).token == trial.token
    assert storage.set_trial_status(trial.id, "reserved", force=True, error="noted").token == trial.token
    storage.push_trial_results(trial, {"objective": 1}, status="completed")


# A look is no fence


def test_no_measurement_is_stored_once_the_reservation_has_ended(storage: Storage) -> None:
    """Somebody ends it between the two steps of adding: the write that admits comes first, and admits no more."""
    experiment, trial = started(storage)
    waist, insert = storage._waist, storage._waist.insert
    held: list[str] = []

    def overtaken(collection: object, documents: object) -> object:
        if collection is MEASUREMENTS and not held:
            held.append("here")
            found = waist.driver.get(TRIALS, moorage.mapping.trial_key(experiment.id, trial.id))
            assert found.body["measured"] == 1, "admitted before it is inserted"
        return insert(collection, documents)

    waist.insert = overtaken
    storage.add_measurements(trial, [{"name": "loss", "value": 1}])
    waist.insert = insert
    assert held
    storage.push_trial_results(trial, {"objective": 1}, status="completed")
    with pytest.raises(ReservationLost):
        storage.add_measurements(trial, [{"name": "loss", "value": 2}])
    assert len(storage.fetch_measurements(trial)) == 1


def test_a_caller_with_only_an_id_has_the_fence_of_its_token(storage: Storage) -> None:
    experiment, trial = started(storage)
    place = {"uid": trial.id, "experiment_uid": experiment}
    storage.update_heartbeat(**place, token=1)
    storage.add_measurements(**place, measurements=[{"name": "loss", "value": 1}], token=1)
    storage.update_trial(**place, token=1, worker="me too")
    storage.set_trial_status(trial.id, "interrupted", experiment_uid=experiment)
    again = storage.reserve_trial(experiment)
    assert again.token == 2
    for write in (
        lambda: storage.update_heartbeat(**place, token=1),
        lambda: storage.add_measurements(**place, measurements=[{"name": "loss", "value": 1}], token=1),
        lambda: storage.push_trial_results(**place, results={"objective": 1}, token=1),
        lambda: storage.set_trial_status(**place, status="completed", token=1),
        lambda: storage.update_trial(**place, token=1, worker="stale"),
    ):
        with pytest.raises(ReservationLost):
            write()
    assert storage.get_trial(again) == again
    with pytest.raises(InvalidArgument, match="token"):
        storage.update_heartbeat(**place, token=0)


def test_a_revision_fences_changes_and_deletions(storage: Storage) -> None:
    experiment, trial = started(storage)
    experiment = storage.get_experiment(experiment)
    changed = storage.update_trial(trial, worker="a", if_revision=trial.revision)
    assert changed.revision == trial.revision + 1
    for write in (
        lambda: storage.update_trial(trial, worker="b", if_revision=trial.revision),
        lambda: storage.set_trial_status(trial, "completed", if_revision=trial.revision),
        lambda: storage.push_trial_results(trial, {}, if_revision=trial.revision),
        lambda: storage.update_experiment(experiment, user="x", if_revision=experiment.revision + 1),
        lambda: storage.delete_experiment(experiment, if_revision=experiment.revision + 1),
    ):
        with pytest.raises(FailedUpdate, match="revision"):
            write()
    assert storage.get_trial(trial) == changed
    assert storage.update_experiment(experiment, user="x", if_revision=experiment.revision).user == "x"


def test_metadata_is_set_key_by_key(storage: Storage) -> None:
    experiment, trial = started(storage)
    other = storage.get_trial(trial)
    storage.update_trial(trial, metadata={"a": 1})
    storage.update_trial(other, metadata={"b": (1, None)})
    assert storage.get_trial(trial).metadata == {"a": 1, "b": (1, None)}
    assert [one.id for one in storage.fetch_trials(experiment, {"metadata.a": 1})] == [trial.id]


def test_params_of_a_running_trial_are_merged_until_it_ends(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e")
    storage.register_trial(experiment, Trial(id="given", params={"a": 1}))
    trial = storage.reserve_trial(experiment)
    assert storage.update_trial(trial, params={"b": 0.5}).params == {"a": 1, "b": 0.5}
    assert [one.id for one in storage.fetch_trials(experiment, {"params.b": 0.5})] == ["given"]
    storage.push_trial_results(trial, {"objective": 1}, status="completed")
    with pytest.raises(FailedUpdate, match="final"):
        storage.update_trial("given", params={"c": 1}, experiment_uid=experiment)


# A trial comes to an end


def test_what_cannot_be_stored_is_refused_where_it_is_given(storage: Storage) -> None:
    _, trial = started(storage)
    with storage.running(trial) as run:
        with pytest.raises(EncodingError, match=r"result 'model'.*object"):
            run.results(objective=0.5, model=object())
        run.results(objective=0.5)
    assert (storage.get_trial(trial).status, storage.get_trial(trial).objective) == ("completed", 0.5)


def test_a_trial_whose_end_cannot_be_stored_is_broken_with_the_reason() -> None:
    driver = OverridingFaultyDriver()
    storage = storage_over(driver, retry_timeout=0.1)
    _, trial = started(storage)
    insert = driver.inner.claim

    def too_large(collection: object, where: object, changes: dict[str, object], order: object = ()) -> object:
        if "large" in str(changes.get("results")):
            raise InvalidArgument("a row of 20 MB is too large")
        return insert(collection, where, changes, order)

    driver.inner.claim = too_large

    def run_it() -> None:
        with storage.running(trial) as run:
            run.results(objective=0.5, large="large")

    with pytest.raises(InvalidArgument, match="too large"):
        run_it()
    stored = storage.get_trial(trial)
    assert (stored.status, stored.objective) == ("broken", 0.5)
    assert "it was completed, but its end could not be stored" in stored.error
    assert "too large" in stored.error
    assert [one.outcome for one in storage.fetch_attempts(trial)] == ["broken"]


def test_a_retry_begins_without_results(storage: Storage) -> None:
    experiment, trial = started(storage)

    def interrupt() -> None:
        with storage.running(trial) as run:
            run.results(objective=-100)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert storage.get_trial(trial).objective == -100
    again = storage.reserve_trial(experiment)
    assert (again.results, again.objective) == ({}, None)
    with storage.running(again):
        pass
    assert storage.get_trial(trial).results == {}
    assert storage.best_trial(experiment) is None


def test_a_trial_that_kills_each_worker_is_given_up(storage: Storage) -> None:
    needs_clock(storage)
    experiment = storage.create_experiment(name="e", max_attempts=3)
    storage.register_trials(experiment, [{"x": 0}, {"x": 1}])
    poison = storage.reserve_trial(experiment, worker="w1")
    for attempt in (1, 2, 3):
        lose(storage, poison)
        (recovered,) = storage.recover_lost_trials(experiment)
        assert recovered.id == poison.id
        if attempt == 1:  # it goes behind the one that waits
            assert storage.reserve_trial(experiment).params == {"x": 1}
        if attempt < 3:
            assert recovered.status == "interrupted"
            again = storage.reserve_trial(experiment, worker=f"w{attempt + 1}")
            assert (again.id, again.token) == (poison.id, attempt + 1)
            poison = again
    assert recovered.status == "broken"
    assert "given up after 3 attempts" in recovered.error
    assert all(f"attempt {number}: lost by worker w{number}" in recovered.error for number in (1, 2, 3))
    assert [one.outcome for one in storage.fetch_attempts(poison)] == ["lost"] * 3
    assert storage.reserve_trial(experiment) is None


def test_a_trial_that_ends_its_process_each_time_is_given_up(storage: Storage) -> None:
    experiment, trial = started(storage)
    for _ in range(3):
        with pytest.raises(SystemExit), storage.running(trial):
            sys.exit("no licence")
        trial = storage.reserve_trial(experiment)
    assert trial is None
    (stored,) = storage.fetch_trials(experiment)
    assert stored.status == "broken"
    assert "no licence" in stored.error


def test_without_a_limit_a_trial_is_never_given_up(storage: Storage) -> None:
    needs_clock(storage)
    experiment, trial = started(storage, max_attempts=None)
    for _ in range(6):
        lose(storage, trial)
        assert storage.recover_lost_trials(experiment)[0].status == "interrupted"
        trial = storage.reserve_trial(experiment)
    assert trial.token == 7


def test_without_a_timeout_a_trial_is_never_lost(storage: Storage) -> None:
    needs_clock(storage)
    experiment, trial = started(storage, heartbeat_timeout=None)
    lose(storage, trial)
    assert storage.fetch_lost_trials(experiment) == []
    assert storage.recover_lost_trials(experiment) == []
    assert [one.id for one in storage.fetch_lost_trials(experiment, timeout=1)] == [trial.id]
    with storage.running(trial) as run:
        run.results(objective=1)


def test_an_experiment_that_has_ended_hands_out_nothing(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e")
    storage.register_trials(experiment, [{"x": 0}, {"x": 1}])
    assert storage.get_experiment(experiment).status == "created"
    storage.reserve_trial(experiment)
    assert storage.get_experiment(experiment).status == "running"
    storage.end_experiment(experiment, "stopped")
    assert storage.reserve_trial(experiment) is None
    with pytest.raises(FailedUpdate, match="hands out nothing"):
        storage.register_trials(experiment, [{"x": 2}], reserve=True)
    storage.start_experiment(experiment)
    assert storage.reserve_trial(experiment).params == {"x": 1}
    with pytest.raises(ExperimentNotFound):
        storage.reserve_trial("nobody")


def test_one_trial_is_reserved_by_name(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e")
    first, second = storage.register_trials(experiment, [{"x": 0}, {"x": 1}])
    assert storage.reserve_trial(experiment, trial=second).id == second.id
    assert storage.reserve_trial(experiment, trial=second.id) is None
    assert storage.reserve_trial(trial=first).id == first.id
    (held,) = storage.register_trials(experiment, [{"x": 2}], reserve=True, worker="me")
    assert (held.status, held.token, held.worker, held.number) == ("reserved", 1, "me", 2)
    assert [one.worker for one in storage.fetch_attempts(held)] == ["me"]
    with storage.running(held) as run:
        run.results(objective=1)
    assert storage.get_trial(held).status == "completed"


@pytest.mark.parametrize("without", [[], [Capability.TRANSACTIONS]])
def test_what_was_evaluated_elsewhere_comes_with_its_measurements(without: list[Capability]) -> None:
    storage = storage_over(FaultyDriver(without=without))
    experiment = storage.create_experiment(name="e")
    given = [
        Trial(params={"x": place}, status="completed", results={"objective": place}, metadata={"from": "elsewhere"})
        for place in range(3)
    ]
    curves = [[{"name": "loss", "step": step, "value": step / 2} for step in range(place)] for place in range(3)]
    storage.register_trials(experiment, given[:2], measurements=curves[:2])
    assert len(storage.register_trials(experiment, given, measurements=curves, duplicates="skip")) == 1
    stored = storage.fetch_trials(experiment)
    for place, one in enumerate(stored):
        assert (one.status, one.metadata) == ("completed", {"from": "elsewhere"})
        assert [figure.step for figure in storage.fetch_measurements(one)] == list(range(place))
    storage.add_measurements(stored[2], [{"name": "loss", "step": 1, "value": 9}])
    assert [figure.value for figure in storage.fetch_measurements(stored[2])] == [0, 0.5, 9]
    with pytest.raises(InvalidArgument, match="lists of measurements"):
        storage.register_trials(experiment, [{"y": 1}], measurements=[])
    with pytest.raises(moorage.errors.InvalidType, match="a list for each trial"):
        storage.register_trials(experiment, [{"y": 1}], measurements=[{"name": "loss", "value": 1}])
    (figure, *_) = storage.fetch_measurements(stored[2])
    copied = moorage.Measurement(name="loss", value=1, id=figure.id)
    with pytest.raises(InvalidArgument, match="Nothing was registered"):
        storage.register_trials(experiment, [{"y": 1}], measurements=[[copied]])
    assert storage.count_trials(experiment)["completed"] == 3 == len(storage.fetch_trials(experiment))


def test_who_registers_second_adds_no_measurements() -> None:
    driver = FaultyDriver(without=[Capability.TRANSACTIONS])
    storage, other = storage_over(driver), Storage(driver.inner)
    experiment = storage.create_experiment(name="e")
    figures = [[{"name": "loss", "value": 1}]]

    look = storage._stored_already

    def overtaken(*arguments: object) -> object:
        seen = look(*arguments)
        other.register_trials(experiment, [{"x": 1}])
        return seen

    storage._stored_already = overtaken
    assert storage.register_trials(experiment, [{"x": 1}], measurements=figures, duplicates="skip") == []
    assert len(storage.fetch_trials(experiment)) == 1
    assert storage.fetch_measurements(experiment=experiment) == []


def test_measurements_that_a_crash_left_out_are_added_by_the_same_call() -> None:
    driver = FaultyDriver(without=[Capability.TRANSACTIONS])
    storage = storage_over(driver)
    experiment = storage.create_experiment(name="e")
    figures = [[{"name": "loss", "step": step, "value": step} for step in range(3)]]

    def die(verb: str, collection: str) -> None:
        if verb == "insert" and collection == "trials":
            driver.after = lambda verb, collection: None
            raise KeyboardInterrupt

    driver.after = die
    with pytest.raises(KeyboardInterrupt):
        storage.register_trials(experiment, [{"x": 1}], measurements=figures)
    for _ in range(2):
        assert storage.register_trials(experiment, [{"x": 1}], measurements=figures, duplicates="skip") == []
        assert [one.step for one in storage.fetch_measurements(experiment=experiment)] == [0, 1, 2]


# Limits and numbers, under concurrency


WORKER = """
import sys, json, moorage
from moorage.errors import ExperimentNotFound, MoorageError, ReservationLost, TrialNotFound
url, role, name = sys.argv[1:4]
print("ready", flush=True)
sys.stdin.readline()
with moorage.connect(url) as storage:
    numbers, before = [], 0
    for place in range(int(sys.argv[4])):
        try:
            if role == "register":
                given = [{"x": f"{name}-{place}"}, {"x": place}]
                numbers += [one.number for one in storage.register_trials("e", given, duplicates="skip")]
            elif role == "limited":
                given = [{"x": f"{name}-{place}-{k}"} for k in range(3)]
                numbers += [one.number for one in storage.register_trials("e", given)]
            elif role == "reserve":
                trial = storage.reserve_trial("e")
                numbers += [] if trial is None else [trial.number]
            elif role == "doomed":
                while True:
                    try:
                        given = [{"x": f"{name}-{len(numbers)}"}]
                        (trial,) = storage.register_trials(f"e{place}", given, reserve=True, worker=name)
                        numbers.append(trial.number)
                        storage.add_measurements(trial, [{"name": "loss", "value": 1}])
                    except (TrialNotFound, ReservationLost):
                        continue
                    except ExperimentNotFound:
                        if given != [{"x": f"{name}-{before}"}]:
                            break
                before = len(numbers)
            else:
                numbers.append(storage.next_number("ids", 2))
        except MoorageError as error:
            assert type(error).__name__ == "TrialLimitReached", error
    print(json.dumps(numbers), flush=True)
"""


def in_processes(url: str, role: str, processes: int, times: int) -> list[list[int]]:
    command = [sys.executable, "-c", WORKER, url, role]
    running = [
        subprocess.Popen([*command, f"w{place}", f"{times}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for place in range(processes)
    ]
    for one in running:
        assert one.stdout.readline() == "ready\n"
    for one in running:
        one.stdin.write("go\n")
        one.stdin.flush()
    told = [one.communicate(timeout=300)[0] for one in running]
    assert [one.returncode for one in running] == [0] * processes
    return [json.loads(text) for text in told]


def test_numbers_have_neither_gaps_nor_doubles(shared_storage_url: str) -> None:
    with moorage.connect(shared_storage_url) as storage:
        storage.create_experiment(id="e", name="e")
        in_processes(shared_storage_url, "register", 4, 12)
        trials = storage.fetch_trials("e")
        assert [one.number for one in trials] == list(range(4 * 12 + 12))
        assert [one.number for one in storage.iterate_trials("e", batch=7)] == list(range(60))
        assert storage.fetch_trials("e", {"number": 7})[0].number == 7
        storage.delete_trials("e", {"number": {"$gte": 50}})
        assert storage.register_trial("e", {"x": "new"}).number == 60
        given = sorted(number for some in in_processes(shared_storage_url, "ids", 4, 10) for number in some)
        assert given == list(range(0, 80, 2))


def test_never_one_trial_more_than_wanted(shared_storage_url: str) -> None:
    with moorage.connect(shared_storage_url) as storage:
        storage.create_experiment(id="e", name="e", max_trials=20)
        in_processes(shared_storage_url, "limited", 4, 6)
        trials = storage.fetch_trials("e")
        assert len(trials) <= 20
        if Capability.TRANSACTIONS in storage.capabilities:
            assert len(trials) == 20
        with pytest.raises(TrialLimitReached, match="max_trials") as refused:
            storage.register_trials("e", [{"y": place} for place in range(30)])
        assert len(refused.value.refused) == 30 - (20 - len(trials))
        assert storage.register_trials("e", [dict(trials[0].params)], duplicates="skip") == []
        with pytest.raises(DuplicateTrial):
            storage.register_trials("e", [dict(trials[0].params)])
        storage.set_trial_status(trials[0], "broken")
        assert len(storage.register_trials("e", [{"z": 1}])) == 1


def test_nothing_is_left_of_an_experiment_that_was_deleted_while_trials_came(shared_storage_url: str) -> None:
    """Another one of the same id would inherit it."""
    processes, rounds = 3, 5
    with moorage.connect(shared_storage_url) as storage:

        def doom() -> None:
            for place in range(rounds):
                experiment = storage.create_experiment(id=f"e{place}", name=f"e{place}")
                while len({one.worker for one in storage.fetch_trials(experiment)}) < processes:
                    time.sleep(0.01)
                storage.delete_experiment(experiment)

        dooming = threading.Thread(target=doom)
        dooming.start()
        assert all(in_processes(shared_storage_url, "doomed", processes, rounds))
        dooming.join()
        left = {one.name: storage.driver.count(one) for one in moorage.schema.SCHEMA.collections}
        assert left == dict.fromkeys(left, 0)


def test_no_trial_beyond_the_limit_is_handed_out(shared_storage_url: str) -> None:
    """It was lowered when more were pending already."""
    with moorage.connect(shared_storage_url) as storage:
        storage.create_experiment(id="e", name="e")
        storage.register_trials("e", [{"x": place} for place in range(40)])
        storage.update_experiment("e", max_trials=12)
        given = [number for some in in_processes(shared_storage_url, "reserve", 4, 6) for number in some]
        assert len(set(given)) == len(given) <= 12
        if Capability.TRANSACTIONS in storage.capabilities:
            assert len(given) == 12
        while storage.reserve_trial("e") is not None:
            given.append(-1)
        assert len(given) == 12
        assert storage.reserve_trial("e", trial=storage.fetch_trials("e", {"status": "new"})[0]) is None
        storage.set_trial_status(storage.fetch_trials_by_status("e", "reserved")[0], "broken")
        assert storage.reserve_trial("e") is not None
        assert storage.reserve_trial("e") is None


def test_a_broken_trial_that_is_new_again_counts_again(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e", max_trials=2)
    first, _ = storage.register_trials(experiment, [{"x": 0}, {"x": 1}])
    storage.set_trial_status(first, "broken")
    storage.register_trials(experiment, [{"x": 2}])
    storage.set_trial_status(first.id, "new", experiment_uid=experiment)
    assert [storage.reserve_trial(experiment) is None for _ in range(3)] == [False, False, True]


def test_what_is_added_while_a_trial_is_deleted_goes_with_it(storage: Storage) -> None:
    """Another trial of the same id must not inherit it."""
    experiment, trial = started(storage)
    waist, delete = storage._waist, storage._waist.delete
    failures: list[Exception] = []

    def add() -> None:
        try:
            storage.add_measurements(trial, [{"name": "loss", "value": 1}])
        except moorage.MoorageError as error:
            failures.append(error)

    adding = threading.Thread(target=add)

    def meanwhile(*arguments: object) -> int:
        gone = delete(*arguments)
        if not adding.ident:
            adding.start()
            adding.join(1)
        return gone

    waist.delete = meanwhile
    assert storage.delete_trials(experiment) == 1
    adding.join()
    assert all(isinstance(one, (moorage.errors.TrialNotFound, ReservationLost)) for one in failures)
    storage.register_trials(experiment, [trial.params])
    assert storage.fetch_measurements(trial.id, experiment_uid=experiment) == []


def test_after_too_many_broken_trials_none_is_handed_out(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e", max_broken=2)
    storage.register_trials(experiment, [{"x": place} for place in range(5)])
    for _ in range(2):
        storage.set_trial_status(storage.reserve_trial(experiment), "broken")
    assert storage.reserve_trial(experiment) is None


# Interruptions of a worker

INTERRUPTED = """
import sys, time, moorage
with moorage.connect(sys.argv[1]) as storage:
    print("ready", flush=True)
    while True:
        trial = storage.reserve_trial("e")
        with storage.running(trial) as run:
            run.results(objective=1)
            print("ran", flush=True)
            time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize(("signal", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_the_trial_as_interrupted_with_its_results(
    shared_storage_url: str, signal: str, code: int
) -> None:
    import signal as signals

    with moorage.connect(shared_storage_url) as storage:
        storage.create_experiment(id="e", name="e")
        storage.register_trial("e", {"x": 1})
        command = [sys.executable, "-c", INTERRUPTED, shared_storage_url, "60"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "ran\n"]
            process.send_signal(getattr(signals, signal))
            ended = process.wait(timeout=60)
        assert ended == code or (signal == "SIGINT" and ended == -signals.SIGINT)
        (trial,) = storage.fetch_trials("e")
        assert (trial.status, trial.objective) == ("interrupted", 1)
        assert trial.error == f"interrupted by {'SIGTERM' if signal == 'SIGTERM' else 'KeyboardInterrupt'}"


def test_ones_own_handler_of_a_signal_is_respected(storage: Storage) -> None:
    import os
    import signal as signals

    seen: list[int] = []
    _, trial = started(storage)
    before = signals.signal(signals.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with storage.running(trial) as run:
            os.kill(os.getpid(), signals.SIGTERM)
            run.results(objective=1)
    finally:
        signals.signal(signals.SIGTERM, before)
    assert seen == [signals.SIGTERM]
    assert storage.get_trial(trial).status == "completed"
    assert signals.getsignal(signals.SIGINT) is signals.default_int_handler


def test_the_last_value_of_a_step_is_that_of_the_last_attempt_and_writing(storage: Storage) -> None:
    experiment, trial = started(storage)
    late = datetime.datetime(2040, 1, 1, tzinfo=datetime.UTC)
    storage.add_measurements(trial, [moorage.Measurement(name="loss", step=1, value=1.0, time=late)])
    storage.set_trial_status(trial, "interrupted")
    again = storage.reserve_trial(experiment)
    storage.add_measurements(
        again, [{"name": "loss", "step": 1, "value": 2.0}, {"name": "loss", "step": 1, "value": 3.0}]
    )
    assert [one.value for one in storage.fetch_measurements(trial)] == [1.0, 2.0, 3.0]


def test_the_last_value_wins_whoever_wrote_it_without_a_reservation(storage: Storage) -> None:
    experiment, trial = started(storage)
    storage.add_measurements(trial, [{"name": "loss", "step": 1, "value": 1.0}])
    ended = storage.push_trial_results(trial, {"objective": 1.0}, status="completed")
    storage.add_measurements(
        ended.id, [{"name": "loss", "step": 1, "value": 2.0}], experiment_uid=experiment.id
    )  # by its id alone
    found = storage.fetch_measurements(ended)
    assert [(one.value, one.attempt) for one in found] == [(1.0, trial.token), (2.0, trial.token)]
