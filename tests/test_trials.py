"""Trials: registration, reservation, fencing, transitions, loss and recovery, and every way to read them."""

from __future__ import annotations

import datetime
import itertools
import math
from typing import TYPE_CHECKING

import attrs
import pytest

import moorage
from doubles import FaultyDriver, in_threads, needs_clock, storage_over
from moorage import (
    TRIAL_TRANSITIONS,
    Capability,
    Experiment,
    Resource,
    Results,
    Storage,
    Trial,
    TrialStatus,
    derive_trial_id,
)
from moorage.errors import (
    ConflictingArguments,
    DuplicateTrial,
    EncodingError,
    ExperimentNotFound,
    FailedUpdate,
    IllegalTransition,
    InvalidArgument,
    InvalidType,
    MissingArguments,
    ReservationLost,
    TrialNotFound,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONG_AGO = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
STATUSES = list(TrialStatus)


@pytest.fixture
def memory() -> Iterator[Storage]:
    with moorage.connect("memory://") as opened:
        yield opened


def with_trials(storage: Storage, count: int = 1, **fields: object) -> Experiment:
    experiment = storage.create_experiment(name="e", **fields)
    storage.register_trials(experiment, [{"x": place} for place in range(count)])
    return experiment


def reserved(storage: Storage, worker: str = "me") -> Trial:
    trial = storage.reserve_trial(with_trials(storage), worker=worker)
    assert trial is not None
    return trial


def in_status(storage: Storage, experiment: Experiment, status: TrialStatus, **params: object) -> Trial:
    """A registered trial of this status."""
    trial = storage.register_trial(experiment, {"status": str(status), **params})
    if status is not TrialStatus.NEW:
        storage.set_trial_status(trial, status, force=True)
    return storage.get_trial(trial)


def xs(trials: list[Trial]) -> list[object]:
    return [one.params["x"] for one in trials]


# Registration


def test_trials_are_registered_in_order(storage: Storage) -> None:
    experiment = storage.create_experiment(
        name="e", space={"lr": "loguniform(1e-5, 1)", "n": "uniform(1, 9, discrete=True)"}
    )
    registered = storage.register_trials(experiment, [{"lr": 1, "n": 3.0}, Trial(params={"lr": 0.5}), {"lr": 0.1}])
    assert storage.fetch_trials(experiment) == registered
    assert [type(registered[0].params[name]) for name in ("lr", "n")] == [float, int]
    assert registered[0].params.types == {"lr": "real", "n": "integer"}
    assert all(one.experiment == experiment.id and one.status is TrialStatus.NEW for one in registered)
    single = storage.register_trial(experiment, {"lr": 7})
    assert single.id == derive_trial_id({"lr": 7.0})
    again = storage.register_trial(trial=Trial(params={"lr": 8}), uid=experiment.id)
    assert storage.register_trial(Trial(params={"lr": 9}, experiment=experiment.id)).params == {"lr": 9.0}
    assert storage.get_trial(again) == again
    assert storage.register_trials(experiment, []) == []


def test_registering_by_the_id_of_the_experiment_follows_its_space_too(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e", space={"lr": "loguniform(1e-5, 1)"})
    assert storage.register_trial(experiment.id, {"lr": 1}).params.types == {"lr": "real"}


def test_duplicates_are_refused_one_by_one(storage: Storage) -> None:
    experiment = with_trials(storage, 2)
    with pytest.raises(DuplicateTrial, match=r"2 of 4 trials are registered already.*duplicates='skip'") as caught:
        storage.register_trials(experiment, [{"x": 1.0}, {"x": 5}, {"x": 6}, {"x": 5}])
    assert caught.value.refused == (derive_trial_id({"x": 1}), derive_trial_id({"x": 5}))
    assert xs(storage.fetch_trials(experiment)) == [0, 1, 5, 6]
    assert xs(storage.register_trials(experiment, [{"x": 5}, {"x": 7}], duplicates="skip")) == [7]
    with pytest.raises(DuplicateTrial):
        storage.register_trial(experiment, {"x": 7})
    assert storage.register_trial(experiment, Trial(id="another", params={"x": 7})).id == "another"
    other = storage.create_experiment(name="other")
    assert storage.register_trial(other, {"x": 7}).experiment == other.id


def test_one_of_many_registers_each_trial(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e")
    params = [{"x": place} for place in range(10)]
    found = in_threads(4, lambda place: storage.register_trials(experiment, params, duplicates="skip"))
    assert sorted(xs([one for some in found for one in some])) == list(range(10))
    assert len(storage.fetch_trials(experiment)) == 10


def test_what_was_evaluated_elsewhere_is_registered_as_it_is(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e")
    done = Trial(params={"x": 1}, status="completed", results={"objective": 0.5}, end_time=LONG_AGO, worker="other")
    assert storage.register_trial(experiment, done) == attrs.evolve(done, experiment=experiment.id, number=0)
    assert storage.best_trial(experiment).params == {"x": 1}
    assert storage.reserve_trial(experiment) is None


@pytest.mark.parametrize(
    ("trials", "error", "says"),
    [
        ({"x": 1}, InvalidType, "must be a list"),
        (Trial(params={}), InvalidType, "must be a list"),
        ("abc", InvalidType, "must be a list"),
        (5, InvalidType, "not int"),
        ([5], InvalidType, "a trial is a Trial or a dict of params, not int: 5"),
        ([{"x": 1}, None], InvalidType, "NoneType"),
        ([{"x": 1}, {5: 1}], InvalidType, "name of a param must be a str"),
        ([{"x": 1}, {"x": object()}], EncodingError, "object"),
        ([Trial(params={}, status="reserved")], InvalidArgument, "is reserved; a trial is registered first"),
        ([Trial(params={}, experiment="other")], InvalidArgument, "belongs to experiment 'other'"),
    ],
)
def test_wrong_trials_are_refused_and_none_is_registered(
    memory: Storage, trials: object, error: type[Exception], says: str
) -> None:
    experiment = memory.create_experiment(name="e")
    with pytest.raises(error, match=says):
        memory.register_trials(experiment, trials)
    assert memory.fetch_trials(experiment) == []


def test_wrong_arguments_of_registration(memory: Storage) -> None:
    experiment = memory.create_experiment(name="e")
    with pytest.raises(MissingArguments, match="give the trial to register"):
        memory.register_trial(experiment)
    with pytest.raises(InvalidArgument, match="'raise' or 'skip', not 'ignore'"):
        memory.register_trials(experiment, [], duplicates="ignore")


# Which trial is meant


def test_ids_are_separate_in_each_experiment_whatever_users_choose(storage: Storage) -> None:
    ids = ["a", "b", "c", "a@b", "a%40b", "b@c", "a@b@c", "@", "%", "#1", "a/1", "🧪", "A", "a "]
    experiments = [storage.create_experiment(name="e", version=place, id=one) for place, one in enumerate(ids)]
    for experiment in experiments:
        storage.register_trials(experiment, [Trial(id=one, params={"of": experiment.id}) for one in ids])
    for experiment in experiments:
        trials = storage.fetch_trials(experiment)
        assert [one.id for one in trials] == ids
        assert {one.experiment for one in trials} == {experiment.id}
        for trial in trials:
            assert storage.get_trial(trial.id, experiment.id) == trial
            assert storage.get_trial(uid=trial.id, experiment_uid=experiment).params == {"of": experiment.id}
    storage.delete_experiment(experiments[0])
    assert all(len(storage.fetch_trials(one)) == len(ids) for one in experiments[1:])


def test_a_trial_is_found_by_its_id_alone_unless_several_experiments_have_it(storage: Storage) -> None:
    first, second = storage.create_experiment(name="a"), storage.create_experiment(name="b")
    trial = storage.register_trial(first, Trial(id="x", params={}))
    storage.register_trials(first, [Trial(id=one, params={}) for one in ("x!", "x@", "xA", "w", "X")])
    assert storage.get_trial("x") == storage.get_trial(uid="x") == trial
    storage.register_trial(second, Trial(id="x", params={"other": 1}))
    with pytest.raises(MissingArguments, match=r"several experiments have a trial 'x': say which by experiment_uid=…"):
        storage.get_trial("x")
    assert storage.get_trial("x", first.id) == storage.get_trial("x", experiment_uid=first) == trial
    assert storage.get_trial(uid="x", experiment_uid=second.id).params == {"other": 1}
    with pytest.raises(TrialNotFound, match="no trial 'y'"):
        storage.get_trial("y")
    with pytest.raises(TrialNotFound, match=f"experiment {first.id!r} has no trial 'y'"):
        storage.get_trial("y", first)


def test_every_verb_takes_the_record_or_the_id_and_says_when_they_disagree(memory: Storage) -> None:
    experiment = with_trials(memory, 3)
    other = memory.create_experiment(name="other")
    trial, second = memory.reserve_trial(experiment), memory.reserve_trial(experiment)
    verbs: list[Callable[..., object]] = [
        memory.get_trial,
        memory.retrieve_result,
        memory.fetch_attempts,
        memory.update_heartbeat,
        lambda *args, **fields: memory.push_trial_results(*args, **fields, **({} if args[1:] else {"results": {}})),
        lambda *args, **fields: memory.set_trial_status(*args, **{"status": "suspended", **fields}),
        lambda *args, **fields: memory.update_trial(*args, **fields, worker="me"),
        lambda *args, **fields: memory.add_measurements(*args, **fields),
    ]
    for verb in verbs:
        with pytest.raises(MissingArguments, match=r"name the trial.*uid=…"):
            verb()
        with pytest.raises(ConflictingArguments, match=f"{trial.id}.*{second.id}"):
            verb(trial, uid=second.id)
        with pytest.raises(ConflictingArguments, match=f"{trial.id}.*{second.id}"):
            verb(trial.id, uid=second.id, experiment_uid=experiment.id)
        with pytest.raises(ConflictingArguments, match=f"belongs to experiment.*{other.id}"):
            verb(trial, experiment_uid=other.id)
        with pytest.raises(ConflictingArguments):
            verb(trial, experiment_uid=other)
        with pytest.raises(MissingArguments, match="belongs to no experiment yet"):
            verb(Trial(params={"x": 0}))
        for wrong in (5, b"x", experiment, [trial]):
            with pytest.raises(InvalidType, match="a trial is given as a record or an id"):
                verb(wrong)
        with pytest.raises(InvalidType, match="uid must be the id of a trial"):
            verb(uid=trial)
        with pytest.raises(InvalidType):
            verb(trial, experiment_uid=5)
        with pytest.raises(InvalidArgument):
            verb("")
        with pytest.raises(TrialNotFound, match="'nobody'"):
            verb("nobody", experiment_uid=experiment)
        with pytest.raises(TrialNotFound, match="'nobody'"):
            verb(uid="nobody")
    assert memory.get_trial(trial) == trial


def test_verbs_work_by_id_alone(storage: Storage) -> None:
    trial = reserved(storage)
    storage.update_heartbeat(uid=trial.id)
    storage.add_measurements(uid=trial.id, measurements=[{"name": "loss", "value": 1}])
    storage.push_trial_results(uid=trial.id, results={"objective": 2})
    storage.update_trial(uid=trial.id, working_directory="/tmp")
    storage.set_trial_status(uid=trial.id, status="completed", was="reserved")
    assert storage.retrieve_result(uid=trial.id) == {"objective": 2.0}
    assert [one.value for one in storage.fetch_measurements(trial.id)] == [1.0]
    assert storage.get_trial(uid=trial.id).working_directory == "/tmp"


# Reservation


def test_the_oldest_pending_trial_is_reserved_first(storage: Storage) -> None:
    experiment = with_trials(storage, 4)
    first = storage.reserve_trial(experiment, worker="w1", resource="gpu0")
    assert (first.params["x"], first.status, first.worker, first.resource, first.token) == (
        0,
        "reserved",
        "w1",
        "gpu0",
        1,
    )
    assert first.start_time == first.heartbeat
    assert storage.get_trial(first) == first
    storage.set_trial_status(first, "interrupted")
    second = storage.reserve_trial(experiment.id, resource=Resource(name="gpu1"))
    assert (second.params["x"], second.token, second.resource) == (0, 2, "gpu1")
    assert storage.set_trial_status(storage.fetch_trials(experiment)[2], "suspended").status == "suspended"
    assert xs([storage.reserve_trial(uid=experiment.id) for _ in range(3)]) == [1, 2, 3]
    assert storage.reserve_trial(experiment) is None
    storage.set_trial_status(second, "broken")
    assert storage.reserve_trial(experiment) is None


def test_many_who_reserve_get_each_trial_once(storage: Storage) -> None:
    experiment = with_trials(storage, 24)

    def reserve(place: int) -> list[object]:
        taken = []
        while (trial := storage.reserve_trial(experiment, worker=f"w{place}")) is not None:
            taken.append(trial.params["x"])
        return taken

    found = in_threads(4, reserve)
    assert all(some == sorted(some) for some in found)
    assert sorted(itertools.chain(*found)) == list(range(24))


def test_what_a_reservation_forgets_and_keeps(storage: Storage) -> None:
    trial = reserved(storage)
    storage.set_trial_status(trial, "interrupted", error="power cut")
    storage.update_trial(storage.get_trial(trial), resource="gpu0", end_time=LONG_AGO, parent="p")
    again = storage.reserve_trial(trial.experiment)
    assert (again.error, again.end_time, again.resource, again.parent) == (None, None, "gpu0", "p")
    assert again.worker != "me"
    for wrong, error in ((5, InvalidType), ("", InvalidArgument)):
        with pytest.raises(error, match="worker"):
            storage.reserve_trial(trial.experiment, worker=wrong)
        with pytest.raises(error, match="resource"):
            storage.reserve_trial(trial.experiment, resource=wrong)


# Statuses


def test_the_table_of_transitions_is_kept(memory: Storage) -> None:
    experiment = memory.create_experiment(name="e")
    for before, after in itertools.product(STATUSES, STATUSES):
        trial = in_status(memory, experiment, before, after=str(after))
        if after in TRIAL_TRANSITIONS[before]:
            memory.set_trial_status(trial, after)
            assert memory.get_trial(trial).status is after
            continue
        with pytest.raises(IllegalTransition, match=f"is {before} cannot become {after}.*force=True"):
            memory.set_trial_status(trial, after)
        if after is not before:
            with pytest.raises(IllegalTransition, match=f"is {before} cannot become {after}.*force=True"):
                memory.update_trial(trial, status=after)
        assert memory.get_trial(trial) == trial
        memory.set_trial_status(trial, after, force=True)
        assert memory.get_trial(trial).status is after


def test_the_table_itself() -> None:
    table = {str(before): sorted(map(str, after)) for before, after in TRIAL_TRANSITIONS.items()}
    assert table == {
        "new": ["broken", "interrupted", "pruned", "reserved", "suspended"],
        "reserved": ["broken", "completed", "interrupted", "pruned", "suspended"],
        "suspended": ["broken", "interrupted", "new", "pruned", "reserved"],
        "interrupted": ["broken", "new", "pruned", "reserved", "suspended"],
        "broken": ["new"],
        "completed": [],
        "pruned": [],
    }


def test_a_status_is_changed_only_if_it_was_what_the_caller_thinks(storage: Storage) -> None:
    experiment = with_trials(storage)
    (new,) = storage.fetch_trials(experiment)
    trial = storage.reserve_trial(experiment)
    with pytest.raises(FailedUpdate, match=r"is reserved; the update requires status = 'new'. Nothing was written"):
        storage.set_trial_status(new, "suspended")
    with pytest.raises(FailedUpdate, match="requires status = 'suspended'"):
        storage.set_trial_status(trial.id, "broken", was="suspended")
    assert storage.get_trial(trial) == trial
    storage.set_trial_status(trial, "completed", was="reserved", error="none")
    ended = storage.get_trial(trial)
    assert (ended.status, ended.error) == ("completed", "none")
    assert ended.end_time >= trial.start_time
    with pytest.raises(IllegalTransition, match="it can become nothing: it is final"):
        storage.set_trial_status(ended, "new")
    storage.set_trial_status(ended, "new", force=True)
    assert (storage.get_trial(trial).end_time, storage.get_trial(trial).error) == (None, None)
    assert storage.reserve_trial(experiment).token == 2


def test_wrong_arguments_of_a_status_change(memory: Storage) -> None:
    trial = reserved(memory)
    with pytest.raises(MissingArguments, match="give the new status"):
        memory.set_trial_status(trial)
    with pytest.raises(InvalidArgument, match=r"status must be one of new, .*Did you mean 'completed'"):
        memory.set_trial_status(trial, "complete")
    with pytest.raises(InvalidArgument, match="was must be one of"):
        memory.set_trial_status(trial, "completed", was="done")
    with pytest.raises(InvalidType, match="error must be a str"):
        memory.set_trial_status(trial, "broken", error=ValueError("x"))
    for wrong in ("now", 5, datetime.datetime(2020, 1, 1)):
        with pytest.raises((InvalidArgument, InvalidType), match="heartbeat"):
            memory.set_trial_status(trial, "suspended", heartbeat=wrong)
    assert memory.get_trial(trial) == trial


def test_a_heartbeat_is_stored_with_a_status(storage: Storage) -> None:
    trial = reserved(storage)
    storage.set_trial_status(trial, "suspended", LONG_AGO, "reserved")
    assert storage.get_trial(trial).heartbeat == LONG_AGO


# Fencing: whoever lost a reservation writes nothing


def recovered(storage: Storage, trial: Trial) -> None:
    needs_clock(storage)
    storage.update_trial(trial.id, heartbeat=LONG_AGO)
    assert [one.id for one in storage.recover_lost_trials(trial.experiment)] == [trial.id]


def reserved_again(storage: Storage, trial: Trial) -> None:
    recovered(storage, trial)
    assert storage.reserve_trial(trial.experiment, worker="other").id == trial.id


def completed_by_another(storage: Storage, trial: Trial) -> None:
    reserved_again(storage, trial)
    storage.push_trial_results(storage.get_trial(trial), {"objective": 1}, status="completed")


def suspended_by_hand(storage: Storage, trial: Trial) -> None:
    storage.set_trial_status(trial.id, "suspended")


WRITING: dict[str, Callable[[Storage, Trial], object]] = {
    "push_trial_results": lambda storage, trial: storage.push_trial_results(trial, {"objective": 9}),
    "push and complete": lambda storage, trial: storage.push_trial_results(trial, {"objective": 9}, status="completed"),
    "update_heartbeat": lambda storage, trial: storage.update_heartbeat(trial),
    "set_trial_status": lambda storage, trial: storage.set_trial_status(trial, "broken", error="mine"),
    "set_trial_status with was": lambda storage, trial: storage.set_trial_status(trial, "broken", was="reserved"),
    "update_trial": lambda storage, trial: storage.update_trial(trial, error="mine"),
    "update_trial with a status": lambda storage, trial: storage.update_trial(trial, status="broken"),
    "add_measurements": lambda storage, trial: storage.add_measurements(trial, [{"name": "loss", "value": 9}]),
    "start_attempt": lambda storage, trial: storage.start_attempt(trial),
    "running": lambda storage, trial: storage.running(trial).__enter__(),
}


@pytest.mark.parametrize("overtake", [recovered, reserved_again, completed_by_another, suspended_by_hand])
def test_a_stale_holder_writes_nothing(storage: Storage, overtake: Callable[[Storage, Trial], None]) -> None:
    trial = reserved(storage)
    overtake(storage, trial)
    before, attempts = storage.get_trial(trial), storage.fetch_attempts(trial)
    for verb, write in WRITING.items():
        with pytest.raises(ReservationLost, match=r"no longer reserved by this caller \(reservation 1\)") as caught:
            write(storage, trial)
        assert "Nothing was written" in str(caught.value), verb
        assert isinstance(caught.value, FailedUpdate)
        assert storage.get_trial(trial) == before, verb
    assert storage.fetch_measurements(trial) == []
    assert storage.fetch_attempts(trial) == attempts


def test_the_message_of_a_loss_says_who_has_the_trial_now(storage: Storage) -> None:
    trial = reserved(storage)
    reserved_again(storage, trial)
    with pytest.raises(ReservationLost, match="it is reserved, reservation 2, worker 'other'"):
        storage.update_heartbeat(trial)


def test_only_the_holder_of_the_reservation_writes_results_and_heartbeats(storage: Storage) -> None:
    """A record from before the reservation, or from after an earlier loss, is no proof of holding it."""
    experiment = with_trials(storage)
    (new,) = storage.fetch_trials(experiment)
    first = storage.reserve_trial(experiment)
    recovered(storage, first)
    interrupted = storage.get_trial(first)
    holder = storage.reserve_trial(experiment)
    for stale in (new, first, interrupted):
        with pytest.raises(ReservationLost):
            storage.push_trial_results(stale, {"objective": 9}, status="completed")
        with pytest.raises(ReservationLost):
            storage.update_heartbeat(stale)
    assert storage.get_trial(holder) == holder
    storage.update_heartbeat(holder)
    storage.push_trial_results(storage.get_trial(holder), {"objective": 1})


def test_the_holder_writes_until_the_end(storage: Storage) -> None:
    trial = reserved(storage)
    storage.update_heartbeat(trial)
    storage.push_trial_results(trial, {"objective": 3, "accuracy": 0.5})
    storage.update_trial(trial, working_directory="/data")
    storage.start_attempt(trial)
    storage.add_measurements(trial, [{"name": "loss", "value": 9}])
    storage.push_trial_results(trial, Results({"objective": 2}), status="completed", error="no error")
    stored = storage.get_trial(trial)
    assert stored.results == storage.retrieve_result(trial) == {"objective": 2.0}
    assert (stored.status, stored.objective, stored.error, stored.working_directory) == (
        "completed",
        2.0,
        "no error",
        "/data",
    )
    with pytest.raises(ReservationLost):
        storage.push_trial_results(trial, {"objective": 1})
    with pytest.raises(FailedUpdate, match="is completed; the update requires status = 'reserved'"):
        storage.push_trial_results(trial.id, {"objective": 1})
    with pytest.raises(FailedUpdate):
        storage.update_heartbeat(trial.id)


def test_wrong_results_change_nothing(memory: Storage) -> None:
    trial = reserved(memory)
    with pytest.raises(MissingArguments, match="give the results"):
        memory.push_trial_results(trial.id)
    for wrong, says in (
        (5, "must be a dict"),
        ({"objective": "x"}, "must be a number"),
        ({"objective": True}, "must be a number"),
        ({5: 1}, "must be a str"),
        ({"x": object()}, "object"),
    ):
        with pytest.raises((InvalidType, EncodingError), match=says):
            memory.push_trial_results(trial, wrong)
    for wrong in ("reserved", "new"):
        with pytest.raises(IllegalTransition, match=f"reserved cannot become {wrong}"):
            memory.push_trial_results(trial, {}, status=wrong)
    with pytest.raises(InvalidArgument, match="status must be one of"):
        memory.push_trial_results(trial, {}, status="done")
    assert memory.get_trial(trial) == trial


def test_the_results_of_the_record_are_pushed_by_default(storage: Storage) -> None:
    trial = attrs.evolve(reserved(storage), results={"objective": 5})
    storage.push_trial_results(trial)
    assert storage.retrieve_result(trial) == {"objective": 5.0}


# Update of one and of many


def test_updating_a_trial(storage: Storage) -> None:
    experiment = with_trials(storage)
    (trial,) = storage.fetch_trials(experiment)
    changed = storage.update_trial(
        trial,
        {"status": "new"},
        results={"objective": math.nan, "a": [1]},
        worker="w",
        start_time=LONG_AGO,
        parent=None,
    )
    assert (changed.worker, changed.start_time, changed.results["a"]) == ("w", LONG_AGO, [1])
    assert math.isnan(changed.objective)
    assert storage.update_trial(trial, status="broken", error="why", end_time=LONG_AGO).end_time == LONG_AGO
    assert storage.update_trial(trial.id, status="new").error is None
    with pytest.raises(FailedUpdate, match="requires worker = 'other'"):
        storage.update_trial(trial, where={"worker": "other"}, error="x")
    with pytest.raises(FailedUpdate):
        storage.update_trial(trial, where={"worker": "other"})
    assert storage.update_trial(trial).results.types == {"objective": "objective", "a": "statistic"}
    for fields in ({"id": "x"}, {"number": 3}, {"experiment": "e"}, {"colour": 1}, {"objective": 1}):
        with pytest.raises(InvalidArgument, match=r"that can be set.* The fields are: status, results"):
            storage.update_trial(trial, **fields)
    for fields in ({"worker": 5}, {"end_time": "now"}, {"results": 5}, {"status": "x"}, {"heartbeat": 5}):
        with pytest.raises((InvalidArgument, InvalidType), match=next(iter(fields))):
            storage.update_trial(trial, **fields)


def test_a_status_that_does_not_change_begins_and_ends_nothing(storage: Storage) -> None:
    trial = reserved(storage)
    assert storage.update_trial(trial, status="reserved", error="x") == attrs.evolve(trial, error="x")
    storage.update_heartbeat(trial)
    storage.set_trial_status(trial, "completed")
    ended = storage.get_trial(trial)
    assert storage.update_trial(ended, status="completed") == ended


def test_updating_many_trials(storage: Storage) -> None:
    experiment = with_trials(storage, 5)
    other = storage.create_experiment(name="other")
    storage.register_trial(other, {"x": 0})
    assert storage.update_trials(experiment, {"params.x": {"$gte": 3}}, worker="w", status="suspended") == 2
    assert [one.worker for one in storage.fetch_trials(experiment)] == [None, None, None, "w", "w"]
    assert storage.update_trials(experiment, where={"worker": "nobody"}, worker="x") == 0
    assert storage.update_trials(experiment, {"worker": "w"}) == 2
    storage.reserve_trial(experiment)
    with pytest.raises(IllegalTransition, match=r"1 of the trials are reserved and cannot become new.*where=…"):
        storage.update_trials(experiment, {"status": {"$ne": "new"}}, status="new")
    assert storage.count_trials(experiment)[TrialStatus.SUSPENDED] == 2
    assert storage.update_trials(experiment, status="new", force=True) == 5
    assert storage.count_trials(experiment)[TrialStatus.NEW] == 5
    assert storage.update_trials(experiment, status="interrupted", error="stop") == 5
    assert storage.fetch_trials(other)[0].status is TrialStatus.NEW
    with pytest.raises(InvalidArgument, match="colour"):
        storage.update_trials(experiment, colour=1)


def test_deleting_trials_takes_their_measurements_and_attempts_along(storage: Storage) -> None:
    experiment = with_trials(storage, 4)
    for _ in range(3):
        with storage.running(storage.reserve_trial(experiment)) as run:
            run.report(1.0, name="loss")
    assert storage.delete_trials(experiment, {"params.x": {"$in": [0, 3]}}) == 2
    assert xs(storage.fetch_trials(experiment)) == [1, 2]
    assert len(storage.fetch_measurements(experiment=experiment)) == 2
    assert storage.delete_trials(experiment, where={"status": "new"}) == 0
    again = storage.register_trial(experiment, {"x": 0})
    assert storage.fetch_measurements(again) == []
    assert storage.fetch_attempts(again) == []
    assert storage.delete_trials(experiment) == 3
    assert storage.count_trials(experiment, where={}) == 0
    assert storage.fetch_measurements(experiment=experiment) == []


# Loss and recovery


def test_a_reserved_trial_without_heartbeats_is_lost(storage: Storage) -> None:
    needs_clock(storage)
    experiment = with_trials(storage, 4, heartbeat_timeout=60)
    first, second, third = (storage.reserve_trial(experiment, worker=f"w{place}") for place in range(3))
    assert storage.fetch_lost_trials(experiment) == []
    assert storage.recover_lost_trials(experiment) == []
    now = datetime.datetime.now(datetime.UTC)
    storage.update_trial(first, heartbeat=now - datetime.timedelta(seconds=61))
    storage.update_trial(second, heartbeat=None)
    storage.update_trial(third, heartbeat=now - datetime.timedelta(seconds=30))
    assert xs(storage.fetch_lost_trials(experiment)) == [0, 1]
    storage.start_attempt(first)
    recovered_now = storage.recover_lost_trials(uid=experiment.id)
    assert xs(recovered_now) == [0, 1]
    assert [one.status for one in recovered_now] == ["interrupted", "interrupted"]
    assert recovered_now[0].error == "lost by worker w0: no heartbeat for 61 s (heartbeat_timeout is 60 s)"
    assert recovered_now[1].error == "lost by worker w1: it never gave a heartbeat (heartbeat_timeout is 60 s)"
    (attempt,) = storage.fetch_attempts(first)
    assert (attempt.outcome, attempt.error) == ("lost", recovered_now[0].error)
    assert attempt.ended is not None
    assert storage.fetch_lost_trials(experiment) == []
    assert storage.get_trial(third).status is TrialStatus.RESERVED
    assert [storage.reserve_trial(experiment).params["x"] for _ in range(3)] == [3, 0, 1]  # behind


def test_only_reserved_trials_are_lost(memory: Storage) -> None:
    experiment = memory.create_experiment(name="e")
    for status in STATUSES:
        memory.update_trial(in_status(memory, experiment, status), heartbeat=LONG_AGO)
    assert [one.params["status"] for one in memory.fetch_lost_trials(experiment)] == ["reserved"]


def test_a_lost_trial_is_handed_out_again_when_nothing_else_is_pending(storage: Storage) -> None:
    experiment = with_trials(storage, 2)
    needs_clock(storage)
    lost = storage.reserve_trial(experiment)
    storage.update_trial(lost, heartbeat=LONG_AGO)
    assert xs([storage.reserve_trial(experiment)]) == [1]
    again = storage.reserve_trial(experiment)
    assert (again.id, again.token) == (lost.id, 2)


def test_a_heartbeat_at_the_last_moment_wins() -> None:
    driver = FaultyDriver()
    storage = storage_over(driver)
    trial = reserved(storage)
    storage.update_trial(trial, heartbeat=LONG_AGO)
    other = Storage(driver.inner)

    def find(*args: object, **kwargs: object) -> object:
        found = driver.inner.find(*args, **kwargs)
        if len(found) == 1 and found[0].body.get("status") == "reserved":
            other.update_heartbeat(trial)
        return found

    driver.find = find
    assert storage.recover_lost_trials(trial.experiment) == []
    assert other.get_trial(trial).status is TrialStatus.RESERVED
    other.push_trial_results(trial, {"objective": 1}, status="completed")


def test_one_of_many_recovers_a_lost_trial(storage: Storage) -> None:
    experiment = with_trials(storage, 3)
    for _ in range(3):
        storage.update_trial(storage.reserve_trial(experiment), heartbeat=None)
    found = in_threads(4, lambda place: storage.recover_lost_trials(experiment))
    assert sorted(xs([one for some in found for one in some])) == [0, 1, 2]


def test_without_a_shared_clock_a_trial_is_watched_before_it_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the watcher is turned by hand."""
    now = [1000.0]
    monkeypatch.setattr(moorage.leases, "elapsed", lambda: now[0])
    driver = FaultyDriver(without=[Capability.SERVER_CLOCK])
    storage = storage_over(driver)
    experiment = with_trials(storage, 2, heartbeat_timeout=60)
    silent, alive = storage.reserve_trial(experiment), storage.reserve_trial(experiment)
    storage.update_trial(silent, heartbeat=LONG_AGO)
    assert storage.fetch_lost_trials(experiment) == []
    now[0] += 59
    storage.update_heartbeat(alive)
    assert storage.fetch_lost_trials(experiment) == []
    now[0] += 2
    assert [one.id for one in storage.fetch_lost_trials(experiment)] == [silent.id]
    assert [one.id for one in storage.recover_lost_trials(experiment)] == [silent.id]
    assert storage_over(driver).fetch_lost_trials(experiment) == []


# Reading


def test_trials_by_status_and_counts(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e")
    for status in STATUSES:
        for place in range(2 if status is TrialStatus.BROKEN else 1):
            in_status(storage, experiment, status, place=place)

    def statuses(trials: list[Trial]) -> set[str]:
        return {str(one.status) for one in trials}

    assert statuses(storage.fetch_pending_trials(experiment)) == {"new", "suspended", "interrupted"}
    assert statuses(storage.fetch_noncompleted_trials(experiment)) == {str(one) for one in STATUSES} - {"completed"}
    for status in STATUSES:
        assert statuses(storage.fetch_trials_by_status(experiment, status)) == {str(status)}
        assert (
            len(storage.fetch_trials_by_status(experiment.id, str(status))) == storage.count_trials(experiment)[status]
        )
    assert storage.count_trials(experiment) == {one: 2 if one == "broken" else 1 for one in STATUSES}
    assert storage.count_completed_trials(experiment) == 1
    assert storage.count_broken_trials(experiment) == 2
    assert storage.count_trials(experiment, where={"params.place": 0, "status": {"$ne": "new"}}) == 6
    empty = storage.create_experiment(name="empty")
    assert storage.count_trials(empty) == dict.fromkeys(STATUSES, 0)
    assert storage.count_completed_trials(empty) == 0
    assert storage.fetch_trials(empty) == storage.fetch_pending_trials(empty) == []


def test_order_limit_and_selection(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e")
    objectives = [3.0, None, 1.0, math.nan, 2.0, 1.0, -math.inf]
    storage.register_trials(
        experiment,
        [
            Trial(params={"x": place}, status="completed", results={} if one is None else {"objective": one})
            for place, one in enumerate(objectives)
        ],
    )

    def fetched(order: object, **more: object) -> list[object]:
        return xs(storage.fetch_trials(experiment, order=order, **more))

    assert fetched(None) == list(range(7))
    assert fetched("objective") == [1, 3, 6, 2, 5, 4, 0]
    assert fetched("-objective") == [0, 4, 2, 5, 6, 1, 3]
    assert fetched(["status", "-objective"], limit=3) == [0, 4, 2]
    assert fetched("-id") == [
        int(one.params["x"])
        for one in sorted(storage.fetch_trials(experiment), key=lambda trial: trial.id, reverse=True)
    ]
    assert fetched(None, limit=2, where={"params.x": {"$gt": 2}}) == [3, 4]
    assert fetched(None, limit=0) == []
    assert fetched(None, limit=10**9) == list(range(7))
    assert storage.fetch_trials(
        experiment, {"params.x": 2}, ["id", "params.x", "objective", "results.objective", "params.y"]
    ) == [
        {
            "id": derive_trial_id({"x": 2}),
            "params.x": 2,
            "objective": 1.0,
            "results.objective": 1.0,
            "params.y": None,
        }
    ]
    for wrong in (-1, 1.5, "2", True, 2**70):
        with pytest.raises((InvalidArgument, InvalidType), match="limit"):
            storage.fetch_trials(experiment, limit=wrong)


@pytest.mark.parametrize(
    ("objectives", "smallest", "largest"),
    [
        ([2.0, 1.0, 3.0], 1, 2),
        ([2.0, 1.0, 1.0, 2.0], 1, 0),
        ([math.nan, 5.0, math.nan], 1, 1),
        ([math.nan], None, None),
        ([None, None], None, None),
        ([None, 7.0], 1, 1),
        ([1.0, -math.inf, -math.inf, math.inf, math.inf], 1, 3),
        ([0.0, -0.0], 0, 0),
        ([5e-324, 0.0, 1.7976931348623157e308], 1, 2),
        ([0.1 + 0.2, 0.3], 1, 0),
        ([], None, None),
    ],
)
def test_the_best_trial(
    storage: Storage, objectives: list[float | None], smallest: int | None, largest: int | None
) -> None:
    experiment = storage.create_experiment(name="e")
    trials = [
        Trial(params={"x": place}, status="completed", results={} if one is None else {"loss": one, "objective": one})
        for place, one in enumerate(objectives)
    ]
    storage.register_trials(experiment, trials)
    running = Trial(params={"x": "not completed"}, status="broken", results={"objective": -1e308})
    storage.register_trials(experiment, [running])
    for maximize, expected in ((False, smallest), (True, largest)):
        best = storage.best_trial(experiment, maximize)
        assert (None if best is None else best.params["x"]) == expected
    assert storage.best_trial(uid=experiment.id, maximize=True) == storage.best_trial(experiment, maximize=True)


def test_iterating_reads_every_trial_once_however_small_the_pages(storage: Storage) -> None:
    experiment = with_trials(storage, 11)
    storage.driver.patch(moorage.schema.TRIALS, moorage.filters.equal(experiment=experiment.id), {"sequence": 5})
    storage.register_trials(experiment, [{"x": place} for place in range(11, 15)])
    everything = sorted(xs(storage.fetch_trials(experiment)))
    for batch in (1, 2, 3, 11, 14, 15, 16, 1000):
        assert sorted(xs(list(storage.iterate_trials(experiment, batch=batch)))) == everything
    assert xs(list(storage.iterate_trials(experiment, {"params.x": {"$gt": 11}}, batch=1))) == [12, 13, 14]
    assert list(storage.iterate_trials(uid=experiment.id, where={"params.x": 99})) == []
    for wrong in (0, -1, 1.5, "2"):
        with pytest.raises((InvalidArgument, InvalidType), match="batch"):
            storage.iterate_trials(experiment, batch=wrong)
    with pytest.raises(ExperimentNotFound):
        storage.iterate_trials("nobody")


def test_iterating_while_others_register_change_and_delete(storage: Storage) -> None:
    experiment = with_trials(storage, 9)
    seen: list[object] = []
    for trial in storage.iterate_trials(experiment, batch=2):
        seen.append(trial.params["x"])
        if len(seen) == 3:
            storage.register_trials(experiment, [{"x": "late"}, {"x": "later"}])
            storage.reserve_trial(experiment)
            storage.delete_trials(experiment, {"params.x": {"$in": [0, 8]}})
    assert seen[:8] == list(range(8))
    assert 8 not in seen
    assert len(seen) == len(set(seen))


def test_fetching_many_is_one_answer(memory: Storage) -> None:
    experiment = with_trials(memory, 2500)
    assert xs(memory.fetch_trials(experiment)) == list(range(2500))
    assert len(list(memory.iterate_trials(experiment))) == 2500
    assert memory.delete_trials(experiment, {"params.x": {"$lt": 1700}}) == 1700
    assert memory.count_trials(experiment)[TrialStatus.NEW] == 800
