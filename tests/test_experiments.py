"""Experiments and benchmarks: creation, change, the table of transitions, and a deletion that survives a crash."""

from __future__ import annotations

import datetime
import itertools
from typing import TYPE_CHECKING

import attrs
import pytest

import moorage
from doubles import FaultyDriver, OverridingFaultyDriver, in_threads, storage_over
from moorage import EXPERIMENT_TRANSITIONS, Benchmark, Capability, Experiment, ExperimentStatus, Storage
from moorage.errors import (
    AlgorithmLockNotFound,
    BenchmarkNotFound,
    ConflictingArguments,
    DuplicateBenchmark,
    DuplicateExperiment,
    ExperimentNotFound,
    FailedUpdate,
    IllegalTransition,
    InvalidArgument,
    InvalidType,
    MissingArguments,
    TrialNotFound,
    Unsupported,
)
from moorage.schema import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def memory() -> Iterator[Storage]:
    with moorage.connect("memory://") as opened:
        yield opened


# Creation


def test_an_experiment_is_created_from_keywords_a_dict_or_a_record(storage: Storage) -> None:
    by_keywords = storage.create_experiment(name="digits", space={"lr": "loguniform(1e-5, 1e-1)"}, heartbeat_timeout=30)
    by_dict = storage.create_experiment({"name": "digits", "version": 2}, user="me")
    by_record = storage.create_experiment(Experiment(name="digits", version=3, user="you"), max_trials=7)
    assert storage.fetch_experiments() == [by_keywords, by_dict, by_record]
    assert (by_keywords.status, by_keywords.version, by_keywords.heartbeat_timeout) == ("created", 1, 30.0)
    assert (by_dict.user, by_record.user, by_record.max_trials) == ("me", "you", 7)
    assert len({one.id for one in (by_keywords, by_dict, by_record)}) == 3
    assert storage.get_experiment(by_dict) == storage.get_experiment(uid=by_dict.id) == by_dict


def test_a_name_and_version_are_unique(storage: Storage) -> None:
    first = storage.create_experiment(name="digits")
    with pytest.raises(DuplicateExperiment, match=r"'digits' of version 1.*exist_ok=True") as caught:
        storage.create_experiment(name="digits", user="other")
    assert isinstance(caught.value, ValueError)
    with pytest.raises(DuplicateExperiment, match=first.id):
        storage.create_experiment(name="other", id=first.id)
    for name, version in (("digits", 2), ("Digits", 1), ("digits ", 1), ("digit\u0073\u0301", 1)):
        storage.create_experiment(name=name, version=version)
    assert len(storage.fetch_experiments()) == 5


def test_exist_ok_gives_what_is_stored(storage: Storage) -> None:
    first = storage.create_experiment(name="digits", id="mine", user="me")
    assert storage.create_experiment(name="digits", user="you", exist_ok=True) == first
    assert storage.create_experiment(name="digits", id="mine", exist_ok=True) == first
    with pytest.raises(DuplicateExperiment):
        storage.create_experiment(name="other", id="mine", exist_ok=True)


def test_many_who_start_alike_share_one_experiment(storage: Storage) -> None:
    found = in_threads(6, lambda place: storage.create_experiment(name="digits", exist_ok=True, user=f"user {place}"))
    assert len({one.id for one in found}) == 1
    assert set(found) == set(storage.fetch_experiments())


def test_one_of_many_creates_it(storage: Storage) -> None:
    def create(place: int) -> bool:
        try:
            storage.create_experiment(name="digits")
        except DuplicateExperiment:
            return False
        return True

    assert sorted(in_threads(6, create)) == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("given", "fields", "error", "says"),
    [
        (None, {}, MissingArguments, r"needs a name: create_experiment\(name=…\)"),
        ({}, {}, MissingArguments, "needs a name"),
        ({"version": 1}, {}, MissingArguments, "needs a name"),
        (None, {"name": "e", "spcae": {}}, InvalidArgument, "'spcae' that can be set. Did you mean 'space'"),
        ({"name": "e", 5: 1}, {}, InvalidArgument, "no field 5"),
        (5, {}, InvalidType, "not int: 5"),
        ("digits", {}, InvalidType, "not str: 'digits'"),
        (Experiment(name="e"), {"colour": 1}, InvalidArgument, "no field 'colour'"),
        (None, {"name": "e", "space": {"a": object()}}, moorage.errors.EncodingError, "object"),
        (None, {"name": "e", "status": "begun"}, InvalidArgument, "status must be one of created, running"),
    ],
)
def test_wrong_experiments_are_refused(
    memory: Storage, given: object, fields: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        memory.create_experiment(given, **fields)
    assert memory.is_empty()


def test_the_storage_gives_the_default_of_the_heartbeat_timeout() -> None:
    with moorage.connect("memory://", heartbeat_timeout=7) as opened:
        assert opened.create_experiment(name="a").heartbeat_timeout == 7.0
        assert opened.create_experiment(name="b", heartbeat_timeout=9).heartbeat_timeout == 9.0


# Which experiment is meant


def test_every_verb_takes_the_record_or_the_id_and_says_when_they_disagree(memory: Storage) -> None:
    one, other = memory.create_experiment(name="a"), memory.create_experiment(name="b")
    verbs = [
        memory.get_experiment,
        memory.start_experiment,
        memory.fetch_trials,
        memory.fetch_pending_trials,
        memory.fetch_noncompleted_trials,
        memory.fetch_trials_by_status,
        memory.fetch_lost_trials,
        memory.recover_lost_trials,
        memory.count_trials,
        memory.count_completed_trials,
        memory.count_broken_trials,
        memory.best_trial,
        memory.reserve_trial,
        memory.delete_trials,
        memory.update_trials,
        memory.iterate_trials,
        memory.register_trials,
        memory.initialize_algorithm_lock,
        memory.get_algorithm_lock_info,
        memory.break_algorithm_lock,
        memory.delete_algorithm_lock,
        memory.acquire_algorithm_lock,
        lambda *args, **fields: memory.update_experiment(*args, **fields, user="me"),
        memory.end_experiment,
        memory.delete_experiment,
    ]
    for verb in verbs:
        with pytest.raises(MissingArguments, match=r"uid=…") as caught:
            verb()
        assert isinstance(caught.value, TypeError)
        for arguments, fields in (((one,), {"uid": other.id}), ((one.id,), {"uid": other.id})):
            with pytest.raises(ConflictingArguments, match=f"{one.id}.*{other.id}"):
                verb(*arguments, **fields)
        for wrong in (5, b"x", [one], {"id": one.id}):
            with pytest.raises(InvalidType):
                verb(wrong)
        with pytest.raises(InvalidType, match="uid must be"):
            verb(uid=one)
        with pytest.raises(InvalidArgument):
            verb("")
        with pytest.raises(InvalidArgument):
            verb(uid="a\0")
    memory.initialize_algorithm_lock(one)
    for verb in verbs[:-2]:
        if verb in (memory.initialize_algorithm_lock, memory.get_algorithm_lock_info, memory.break_algorithm_lock):
            continue
        verb(one)
        verb(one.id)
        verb(one, uid=one.id)
        verb(uid=one.id)


def test_every_verb_says_when_there_is_no_such_experiment(storage: Storage) -> None:
    for verb in (
        storage.get_experiment,
        storage.start_experiment,
        storage.end_experiment,
        storage.delete_experiment,
        storage.fetch_trials,
        storage.iterate_trials,
        storage.fetch_pending_trials,
        storage.fetch_noncompleted_trials,
        storage.fetch_trials_by_status,
        storage.fetch_lost_trials,
        storage.recover_lost_trials,
        storage.count_trials,
        storage.count_completed_trials,
        storage.count_broken_trials,
        storage.best_trial,
        storage.reserve_trial,
        storage.delete_trials,
        storage.initialize_algorithm_lock,
        lambda uid: storage.register_trial(uid, {"x": 1}),
        lambda uid: storage.register_trials(uid, []),
        lambda uid: storage.update_experiment(uid, user="me"),
        lambda uid: storage.update_trials(uid, worker="me"),
        lambda uid: storage.count_trials(uid, where={"status": "new"}),
        lambda uid: storage.fetch_measurements(experiment=uid),
        lambda uid: storage.log_error(uid, "message"),
        lambda uid: storage.acquire_algorithm_lock(uid).__enter__(),
    ):
        with pytest.raises(ExperimentNotFound, match="'nobody'") as caught:
            verb("nobody")
        assert isinstance(caught.value, LookupError)
    assert storage.is_empty()


# Reading


def test_fetching_by_query_and_selection(storage: Storage) -> None:
    first = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    for place in range(4):
        storage.create_experiment(
            name="even" if place % 2 == 0 else "odd",
            version=place,
            created=first - datetime.timedelta(days=place),
            metadata={"tag": {"place": place}},
            max_trials=None if place == 3 else place + 1,
        )
    assert [one.version for one in storage.fetch_experiments()] == [3, 2, 1, 0]
    assert [one.version for one in storage.fetch_experiments({"name": "odd"})] == [3, 1]
    assert [one.version for one in storage.fetch_experiments(query={"version": {"$gte": 1, "$lt": 3}})] == [2, 1]
    assert [one.version for one in storage.fetch_experiments({"metadata.tag.place": {"$in": [0, 3]}})] == [3, 0]
    assert [one.version for one in storage.fetch_experiments({"max_trials": None})] == [3]
    assert storage.fetch_experiments({"name": "even"}, selection=["version", "metadata.tag.place", "space.x"]) == [
        {"version": 2, "metadata.tag.place": 2, "space.x": None},
        {"version": 0, "metadata.tag.place": 0, "space.x": None},
    ]
    assert storage.fetch_experiments({"name": "none"}) == []
    assert storage.fetch_experiments({"id": "none"}) == []


# Change


def test_updating_fields(storage: Storage) -> None:
    created = storage.create_experiment(name="a", user="me", metadata={"a": 1})
    changed = storage.update_experiment(created, user=None, metadata={"b": [1, (2,)]}, max_trials=5)
    assert changed == attrs.evolve(created, user=None, metadata={"b": [1, (2,)]}, max_trials=5)
    assert storage.get_experiment(created) == changed
    assert storage.update_experiment(uid=created.id, name="b", version=9).name == "b"
    assert storage.update_experiment(created) == storage.get_experiment(created)


def test_an_update_may_require_what_is_stored(storage: Storage) -> None:
    created = storage.create_experiment(name="a", user="me")
    assert storage.update_experiment(created, {"user": "me"}, user="you").user == "you"
    with pytest.raises(FailedUpdate, match=r"does not match where=\{'user': 'me'\}") as caught:
        storage.update_experiment(created, where={"user": "me"}, user="them")
    assert isinstance(caught.value, RuntimeError)
    with pytest.raises(FailedUpdate):
        storage.update_experiment(created, where={"user": "me"})
    assert storage.get_experiment(created).user == "you"


def test_an_update_keeps_names_unique(storage: Storage) -> None:
    storage.create_experiment(name="a")
    other = storage.create_experiment(name="b")
    with pytest.raises(DuplicateExperiment, match="'a' of version 1"):
        storage.update_experiment(other, name="a")
    assert storage.get_experiment(other) == other
    assert storage.update_experiment(other, name="a", version=2).version == 2
    assert storage.update_experiment(other, name="a", version=2).version == 2


@pytest.mark.parametrize(
    "fields",
    [{"id": "x"}, {"colour": 1}, {"name": ""}, {"version": -1}, {"created": None}, {"space": 5}, {"status": "x"}],
)
def test_wrong_updates_change_nothing(memory: Storage, fields: dict[str, object]) -> None:
    created = memory.create_experiment(name="a")
    with pytest.raises((InvalidArgument, InvalidType), match=next(iter(fields))):
        memory.update_experiment(created, **fields)
    assert memory.get_experiment(created) == created


def test_the_table_of_transitions_is_kept(memory: Storage) -> None:
    for before, after in itertools.product(ExperimentStatus, ExperimentStatus):
        created = memory.create_experiment(name=f"{before} to {after}", status=before)
        if after in EXPERIMENT_TRANSITIONS[before] or after is before:
            assert memory.update_experiment(created, status=after).status is after
            continue
        with pytest.raises(IllegalTransition, match=f"is {before} and cannot become {after}.*force=True"):
            memory.update_experiment(created, status=after)
        assert memory.get_experiment(created) == created
        assert memory.update_experiment(created, status=str(after), force=True).status is after


def test_the_table_itself() -> None:
    table = {str(before): sorted(map(str, after)) for before, after in EXPERIMENT_TRANSITIONS.items()}
    assert table == {
        "created": ["failed", "finished", "running", "stopped"],
        "running": ["failed", "finished", "stopped", "stopping"],
        "stopping": ["failed", "finished", "running", "stopped"],
        "stopped": ["failed", "finished", "running"],
        "failed": ["running", "stopped"],
        "finished": [],
    }


def test_starting_and_ending(storage: Storage) -> None:
    created = storage.create_experiment(name="a")
    started = storage.start_experiment(created)
    assert (started.status, started.ended) == ("running", None)
    assert started.started >= created.created
    stopped = storage.end_experiment(created, "stopped")
    assert stopped.ended >= started.started
    again = storage.start_experiment(uid=created.id)
    assert (again.started, again.ended) == (started.started, None)
    assert storage.end_experiment(created).status is ExperimentStatus.FINISHED
    with pytest.raises(IllegalTransition, match="is finished and cannot become running"):
        storage.start_experiment(created)
    for wrong in ("running", "created", "stopping"):
        with pytest.raises(InvalidArgument, match=f"ends as finished, stopped, failed, not as {wrong}"):
            storage.end_experiment(created, wrong)


def test_the_first_error_stays(storage: Storage) -> None:
    created = storage.create_experiment(name="a")
    text = "disk full: 'quoted' \"twice\"\n🧪\t" + "x" * 2**20
    assert storage.log_error(created, text) is True
    assert storage.log_error(uid=created.id, message="another") is False
    assert storage.get_experiment(created).error == text
    for wrong, error in ((5, InvalidType), ("", InvalidArgument), ("a\0", InvalidArgument)):
        with pytest.raises(error, match="message"):
            storage.log_error(created, wrong)


def test_one_error_of_many_is_the_first(storage: Storage) -> None:
    created = storage.create_experiment(name="a")
    first = in_threads(5, lambda place: storage.log_error(created, f"error {place}"))
    assert sorted(first) == [False] * 4 + [True]
    assert storage.get_experiment(created).error == f"error {first.index(True)}"


# Deletion


def fill(storage: Storage, name: str) -> Experiment:
    """An experiment with something in each collection."""
    experiment = storage.create_experiment(name=name)
    storage.register_trials(experiment, [{"x": place} for place in range(3)])
    trial = storage.reserve_trial(experiment)
    with storage.running(trial) as run:
        run.report(0.5, name="loss")
    with storage.acquire_algorithm_lock(experiment) as algorithm:
        algorithm.set_state("x" * 20_000)
    return experiment


def stored_of(storage: Storage, experiment: Experiment) -> int:
    """How many documents belong to an experiment."""
    documents = [
        one
        for collection in SCHEMA.collections
        for one in storage.driver.find(collection)
        if experiment.id in (one.id, one.body.get("experiment"))
    ]
    return len(documents)


def test_a_deletion_takes_everything_along_and_nothing_else(storage: Storage) -> None:
    kept, gone = fill(storage, "kept"), fill(storage, "gone")
    before = stored_of(storage, kept)
    assert before == stored_of(storage, gone) == 8
    storage.delete_experiment(gone)
    assert stored_of(storage, gone) == 0
    assert stored_of(storage, kept) == before
    assert_invisible(storage, gone)
    with pytest.raises(ExperimentNotFound):
        storage.reserve_trial(gone)
    for verb in (storage.get_trial, storage.fetch_attempts, storage.fetch_measurements):
        with pytest.raises(TrialNotFound):
            verb(moorage.derive_trial_id({"x": 0}), experiment_uid=gone)
    with storage.acquire_algorithm_lock(kept) as algorithm:
        assert algorithm.state == "x" * 20_000


def assert_invisible(storage: Storage, experiment: Experiment) -> None:
    assert experiment not in storage.fetch_experiments()
    assert storage.fetch_experiments({"name": experiment.name}) == []
    for verb in (
        storage.get_experiment,
        storage.start_experiment,
        storage.fetch_trials,
        storage.count_trials,
        storage.count_completed_trials,
        storage.best_trial,
        lambda uid: storage.update_experiment(uid, user="me"),
        lambda uid: storage.log_error(uid, "late"),
        lambda uid: storage.register_trial(uid, {"x": 7}),
        lambda uid: storage.fetch_measurements(experiment=uid),
    ):
        with pytest.raises(ExperimentNotFound):
            verb(experiment.id)
    with pytest.raises((AlgorithmLockNotFound, ExperimentNotFound)):
        storage.get_algorithm_lock_info(experiment.id)


class Crash(BaseException):
    """The process ends here."""


def crash_at(driver: FaultyDriver, number: int) -> None:
    """Let the process end after the deletion of this number."""
    left = itertools.count()

    def after(verb: str, collection: str) -> None:
        if verb == "delete" and next(left) == number:
            raise Crash

    driver.after = after


@pytest.mark.parametrize("goes_on", ["by a deletion", "by a creation of the same name", "by a creation of the same id"])
@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("without", [[], [Capability.TRANSACTIONS]])
def test_a_deletion_that_crashes_shows_nothing_and_is_gone_on_with(
    without: list[Capability], number: int, goes_on: str
) -> None:
    driver = FaultyDriver(without=without)
    storage = storage_over(driver)
    experiment = fill(storage, "gone")
    crash_at(driver, number)
    with pytest.raises(Crash):
        storage.delete_experiment(experiment)
    driver.after = lambda verb, collection: None
    if number == 0 and not without:  # undone: nothing has happened
        assert storage.count_trials(experiment, where={}) > 0
        return
    assert storage.fetch_experiments() == []
    with pytest.raises(ExperimentNotFound):
        storage.get_experiment(experiment)
    with pytest.raises(ExperimentNotFound):
        storage.register_trial(experiment, {"x": 7})
    assert stored_of(storage, experiment) > 0
    if goes_on == "by a deletion":
        storage.delete_experiment(experiment)
        assert storage.is_empty()
        return
    again = {"name": "gone"} if goes_on == "by a creation of the same name" else {"name": "new", "id": experiment.id}
    created = storage.create_experiment(**again)
    assert storage.fetch_experiments() == [created]
    assert storage.fetch_trials(created) == []
    assert storage.fetch_measurements(experiment=created) == []
    assert sum(len(storage.driver.find(collection)) for collection in SCHEMA.collections) == 2  # it and its counter


def test_a_deletion_in_progress_lets_nobody_see_its_trials() -> None:
    driver = OverridingFaultyDriver(without=[Capability.TRANSACTIONS])
    storage = storage_over(driver)
    experiment = fill(storage, "gone")
    driver.after = lambda verb, collection: (_ for _ in ()).throw(Crash()) if verb == "patch" else None
    with pytest.raises(Crash):
        storage.delete_experiment(experiment)
    driver.after = lambda verb, collection: None
    assert stored_of(storage, experiment) == 8
    assert_invisible(storage, experiment)


def test_deleting_twice_is_an_error_and_many_may_try(storage: Storage) -> None:
    experiment = fill(storage, "gone")

    def delete(place: int) -> bool:
        try:
            storage.delete_experiment(experiment)
        except ExperimentNotFound:
            return False
        return True

    assert any(in_threads(4, delete))
    assert storage.is_empty()
    with pytest.raises(ExperimentNotFound, match=experiment.id):
        storage.delete_experiment(experiment)


# Benchmarks


def test_benchmarks(storage: Storage) -> None:
    first = storage.create_benchmark(name="b", algorithms=["random", {"tpe": {"seed": 1}}], targets=[("a", 2)])
    second = storage.create_benchmark({"name": "a"}, metadata={"x": None})
    third = storage.create_benchmark(Benchmark(name="c"), algorithms=[1])
    assert storage.fetch_benchmark() == [second, first, third]
    assert storage.fetch_benchmark({"name": "b"}) == [first]
    assert storage.fetch_benchmark(query={"metadata.x": None, "name": {"$ne": "c"}}) == [second, first]
    assert storage.fetch_benchmark(selection=["name"]) == [{"name": "a"}, {"name": "b"}, {"name": "c"}]
    for fields in ({"name": "b"}, {"name": "d", "id": first.id}):
        with pytest.raises(DuplicateBenchmark, match="stored already"):
            storage.create_benchmark(**fields)
    storage.delete_benchmark(first)
    storage.delete_benchmark(uid=second.id)
    assert storage.fetch_benchmark() == [third]
    with pytest.raises(BenchmarkNotFound, match=first.id):
        storage.delete_benchmark(first.id)
    with pytest.raises(ConflictingArguments):
        storage.delete_benchmark(third, uid=second.id)
    with pytest.raises(MissingArguments):
        storage.delete_benchmark()
    with pytest.raises(MissingArguments, match="needs a name"):
        storage.create_benchmark()
    for wrong in (5, "b", [1]):
        with pytest.raises(InvalidType, match="a dict or a record"):
            storage.create_benchmark(wrong)


# The read-only view


def test_the_read_only_view_reads_and_closes_nothing_else(storage: Storage) -> None:
    experiment = storage.get_experiment(fill(storage, "e"))
    with storage.read_only() as view:
        assert view.get_experiment(experiment) == experiment
        assert len(view.fetch_trials(experiment)) == 3
        assert view.get_algorithm_lock_info(experiment).state == "x" * 20_000
        assert not hasattr(view, "register_trials")
        assert not isinstance(view, Storage)
    assert storage.get_experiment(experiment) == experiment


def test_capabilities_are_required_by_name(memory: Storage) -> None:
    memory.require(Capability.TRANSACTIONS, "server_clock")
    with pytest.raises(
        Unsupported, match="the memory backend does not declare 'shared'; it declares: server_clock, transactions"
    ):
        memory.require("shared")
    with pytest.raises(InvalidArgument, match="no capability 'speed'; there are shared, durable"):
        memory.require("speed")
