"""Lost connections and lost replies: whatever fails at whichever call, each verb takes effect exactly once."""

from __future__ import annotations

import types

import attrs
import pytest
import tenacity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doubles import FAULTS, Fault, FaultyDriver, OverridingFaultyDriver, storage_over
from moorage import Capability, Instant, Measurement, Storage, Trial, keeper
from moorage.errors import FailedUpdate, MoorageError, OutcomeUnknown, Unavailable
from moorage.schema import SCHEMA

LARGE = "x" * (2**20)
VOLATILE = {
    "write",
    "sequence",
    "beat",
    "clock",
    "time",
    "created",
    "started",
    "ended",
    "submit_time",
    "start_time",
    "end_time",
    "heartbeat",
    "acquired",
    "chunk_token",
    "incarnation",
}
Verb = "Callable[[Storage], object]"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenacity.nap, "time", types.SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr(keeper, "IDLE", 0.01)


def prepared(driver: FaultyDriver) -> Storage:
    """A storage with something in each collection, all of known ids."""
    driver.begin({})
    storage = storage_over(driver, retry_timeout=20)
    storage.create_experiment(id="e", name="e", algorithm={"a": 1})
    storage.create_experiment(id="f", name="f")
    storage.register_trials("e", [Trial(id=f"t{place}", params={"x": place}) for place in range(5)])
    held = storage.reserve_trial("e", worker="me")
    storage.start_attempt(held)
    storage.add_measurements(held, [Measurement(name="loss", value=1.0)])
    storage.add_resource(id="r0", name="r0", kind="gpu")
    storage.add_resource(id="r1", name="r1", kind="gpu")
    storage.take_resource("gpu", "me", lease=60)
    storage.create_benchmark(id="b", name="b")
    with storage.acquire_algorithm_lock("e") as algorithm:
        algorithm.set_state("y" * 20_000)
    return storage


def held(storage: Storage) -> Trial:
    return storage.get_trial("t0", "e")


def think(storage: Storage, state: object) -> object:
    with storage.acquire_algorithm_lock("e", timeout=5) as algorithm:
        before = algorithm.state
        algorithm.set_state(state)
    return before


def run_one(storage: Storage) -> object:
    trial = storage.reserve_trial("e", worker="you")
    with storage.running(trial) as run:
        for step in range(2):
            run.report(step)
        run.results(objective=1)
    return trial


def register_within_a_limit(storage: Storage) -> object:
    """Nine trials are wanted, and five are there."""
    storage.update_experiment("e", max_trials=9)
    return storage.register_trials("e", [{"x": place} for place in range(9, 12)], reserve=True, worker="you")


def recover(storage: Storage) -> object:
    storage.update_trial("t0", experiment_uid="e", heartbeat=None)
    return storage.recover_lost_trials("e")


VERBS: dict[str, Verb] = {
    "create_experiment": lambda storage: storage.create_experiment(id="g", name="g"),
    "create an experiment that exists": lambda storage: storage.create_experiment(id="h", name="e", exist_ok=True),
    "refuse an experiment": lambda storage: storage.create_experiment(id="h", name="e"),
    "refuse an experiment of the same id": lambda storage: storage.create_experiment(id="e", name="h"),
    "update_experiment": lambda storage: storage.update_experiment("e", {"user": {"$ne": "x"}}, user="x"),
    "refuse an update": lambda storage: storage.update_experiment("e", name="f"),
    "start_experiment": lambda storage: storage.start_experiment("e"),
    "end_experiment": lambda storage: storage.end_experiment("e", "failed"),
    "delete_experiment": lambda storage: storage.delete_experiment("e"),
    "log_error": lambda storage: storage.log_error("e", "first"),
    "create_benchmark": lambda storage: storage.create_benchmark(id="c", name="c"),
    "refuse a benchmark": lambda storage: storage.create_benchmark(id="c", name="b"),
    "delete_benchmark": lambda storage: storage.delete_benchmark("b"),
    "register_trial": lambda storage: storage.register_trial("e", {"x": 9}),
    "register_trials": lambda storage: storage.register_trials("e", [{"x": place} for place in range(9, 12)]),
    "register within a limit": lambda storage: register_within_a_limit(storage),
    "register and skip": lambda storage: storage.register_trials(
        "e", [Trial(id="t1", params={"x": 1}), {"x": 9}, {"x": 9}], duplicates="skip"
    ),
    "register and refuse": lambda storage: storage.register_trials("e", [Trial(id="t1", params={}), {"x": 9}]),
    "reserve_trial": lambda storage: storage.reserve_trial("e", worker="you"),
    "set_trial_status": lambda storage: storage.set_trial_status(held(storage), "broken", error="why"),
    "update_trial": lambda storage: storage.update_trial(held(storage), {"worker": "me"}, worker="you"),
    "update_trials": lambda storage: storage.update_trials("e", {"status": "new"}, status="suspended", worker="w"),
    "repair many": lambda storage: storage.update_trials("e", {"params.x": {"$gt": 1}}, status="reserved", force=True),
    "delete_trials": lambda storage: storage.delete_trials("e", {"params.x": {"$lt": 3}}),
    "push_trial_results": lambda storage: storage.push_trial_results(
        held(storage), {"objective": 1}, status="completed"
    ),
    "update_heartbeat": lambda storage: storage.update_heartbeat(held(storage)),
    "recover_lost_trials": recover,
    "start_attempt": lambda storage: storage.start_attempt(storage.reserve_trial("e", worker="you")),
    "end_attempt": lambda storage: storage.end_attempt(held(storage), "broken", "why"),
    "add_measurements": lambda storage: storage.add_measurements(
        held(storage), [{"name": "loss", "value": step, "step": step} for step in range(3)]
    ),
    "add_resource": lambda storage: storage.add_resource(id="r2", name="r2"),
    "refuse a resource": lambda storage: storage.add_resource(id="r2", name="r1"),
    "take_resource": lambda storage: storage.take_resource("gpu", "you"),
    "renew_resource": lambda storage: storage.renew_resource("r0", "me", lease=5),
    "free_resource": lambda storage: storage.free_resource("r0", "me"),
    "free_resources": lambda storage: storage.free_resources("me"),
    "remove_resource": lambda storage: storage.remove_resource("r0"),
    "initialize_algorithm_lock": lambda storage: storage.initialize_algorithm_lock("f", {"b": 1}),
    "refuse a lock": lambda storage: storage.initialize_algorithm_lock("e", {"b": 1}),
    "save a state": lambda storage: think(storage, "small"),
    "save a large state": lambda storage: think(storage, LARGE),
    "break_algorithm_lock": lambda storage: storage.break_algorithm_lock("e"),
    "delete_algorithm_lock": lambda storage: storage.delete_algorithm_lock("e"),
    "running": run_one,
}


def summary(result: object) -> object:
    """What a verb returned, without times and chosen ids."""
    if isinstance(result, list):
        return [summary(one) for one in result]
    if attrs.has(type(result)):
        fields = attrs.asdict(result, recurse=False)
        return type(result).__name__, {name: repr(fields[name]) for name in fields if name not in VOLATILE}
    return result


def stored(driver: FaultyDriver) -> list[tuple[str, str]]:
    """All documents without what differs from run to run."""
    found = []
    for collection in SCHEMA.collections:
        generated = collection.name in ("measurements", "algorithm_state_chunks")
        for one in driver.inner.find(collection):
            body = {name: value for name, value in one.body.items() if name not in VOLATILE}
            if collection.name == "algorithm_state_chunks":
                body["token"] >>= 20
            found.append((collection.name, repr(({} if generated else one.id, body))))
    return sorted(found)


def outcome(verb: Verb, storage: Storage, *, unknown: str | None = None) -> object:
    try:
        return summary(verb(storage))
    except (Unavailable, OutcomeUnknown):
        if unknown is None:
            raise
        return unknown
    except MoorageError as error:
        return type(error).__name__


KINDS = [
    pytest.param(driver, without, id=f"{name}, {'no transactions' if without else 'transactions'}")
    for name, driver in (("defaults", FaultyDriver), ("overrides", OverridingFaultyDriver))
    for without in ([], [Capability.TRANSACTIONS])
]


@pytest.mark.parametrize(("driver_class", "without"), KINDS)
@pytest.mark.parametrize("name", VERBS)
def test_each_verb_takes_effect_once_whichever_call_fails(
    name: str, driver_class: type[FaultyDriver], without: list[Capability]
) -> None:
    driver = driver_class(without=without)
    storage = prepared(driver)
    driver.begin({})
    expected = outcome(VERBS[name], storage)
    calls = driver.mutations
    effect = stored(driver)
    assert calls > 0
    for number in range(calls):
        for fault in FAULTS:
            for times in (1, 2):
                driver = driver_class(without=without)
                storage = prepared(driver)
                driver.begin({number + place: fault for place in range(times)})
                context = f"{fault} at call {number}, {times} times"
                assert outcome(VERBS[name], storage) == expected, context
                assert stored(driver) == effect, context


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    names=st.lists(st.sampled_from(sorted(VERBS)), min_size=1, max_size=4),
    faults=st.dictionaries(st.integers(0, 25), st.sampled_from(FAULTS), max_size=10),
    overrides=st.booleans(),
    transactions=st.booleans(),
)
def test_any_sequence_of_verbs_under_any_faults_equals_one_without(
    names: list[str], faults: dict[int, Fault], overrides: bool, transactions: bool
) -> None:
    """A refusal without a reply may be reported as unknown (see above); what is stored is the same all the same."""

    def run(faults: dict[int, Fault]) -> tuple[list[object], list[tuple[str, str]]]:
        driver_class = OverridingFaultyDriver if overrides else FaultyDriver
        driver = driver_class(without=[] if transactions else [Capability.TRANSACTIONS])
        storage = prepared(driver)
        driver.begin(faults)
        results = [outcome(VERBS[name], storage, unknown="unknown") for name in names]
        return results, stored(driver)

    results, effect = run(faults)
    expected, expected_effect = run({})
    assert effect == expected_effect
    for result, wanted in zip(results, expected, strict=True):
        assert result == wanted or (result == "unknown" and (isinstance(wanted, str) or wanted in (False, 0)))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", VERBS)
def test_when_the_time_is_over_the_error_is_raised_as_such(name: str, fault: Fault) -> None:
    driver = OverridingFaultyDriver()
    prepared(driver)
    storage = Storage(driver, retry_timeout=0)
    driver.always = fault
    with pytest.raises((Unavailable, OutcomeUnknown), match=r"no answer to|was not done") as caught:
        VERBS[name](storage)
    assert isinstance(caught.value, ConnectionError)


def test_readings_are_repeated_too() -> None:
    driver = OverridingFaultyDriver()
    storage = prepared(driver)
    failures = iter([True, False] * 50)

    def fail_every_other(verb: str, collection: str) -> None:
        if next(failures):
            raise Unavailable("busy")

    driver._read = fail_every_other
    assert storage.get_experiment("e").name == "e"
    assert storage.get_trial("t1", "e").params == {"x": 1}
    assert len(storage.fetch_trials("e")) == 5
    assert storage.count_trials("e")["new"] == 4
    assert len(storage.fetch_measurements(experiment="e")) == 1


def test_other_errors_are_not_repeated() -> None:
    driver = OverridingFaultyDriver()
    storage = prepared(driver)
    driver.begin({})

    def damaged(verb: str, collection: str) -> None:
        raise RuntimeError(verb)

    driver.after = damaged
    with pytest.raises(RuntimeError):
        storage.log_error("e", "message")
    assert driver.mutations == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_a_change_that_is_refused_is_never_made(fault: Fault) -> None:
    """Without a reply nobody can tell a refusal from a change that others have overwritten: then it is unknown."""
    driver = OverridingFaultyDriver()
    storage = prepared(driver)
    before = stored(driver)
    driver.begin({0: fault})
    with pytest.raises((FailedUpdate, OutcomeUnknown)):
        storage.set_trial_status("t1", "broken", was="reserved", experiment_uid="e")
    assert stored(driver) == before


def test_somebody_elses_document_of_the_same_id_is_not_taken_for_ours() -> None:
    driver = OverridingFaultyDriver()
    storage = prepared(driver)
    driver.begin({0: "unknown without effect"})
    with pytest.raises(MoorageError, match="stored already"):
        storage.create_experiment(id="e", name="other")
    driver.begin({0: "unknown without effect"})
    assert storage.register_trials("e", [Trial(id="t1", params={"x": 1})], duplicates="skip") == []


def test_a_change_that_others_have_overwritten_is_not_made_twice() -> None:
    """The reply is lost, and before we look another worker has moved the trial on."""
    driver = OverridingFaultyDriver(without=[Capability.TRANSACTIONS])
    storage, other = prepared(driver), Storage(driver.inner)
    trial = held(storage)

    def move_on(verb: str, collection: str) -> None:
        driver.after = lambda verb, collection: None
        other.set_trial_status("t0", "new", experiment_uid="e")

    driver.begin({0: "unknown with effect"})
    driver.after = move_on
    with pytest.raises(OutcomeUnknown):
        storage.set_trial_status(trial, "interrupted")
    assert held(storage).status == "new"


def test_a_clock_out_of_reach_for_a_moment_is_asked_again() -> None:
    class Interrupted(FaultyDriver):
        failures = 0

        def now(self) -> Instant:
            if self.failures:
                self.failures -= 1
                raise Unavailable("no answer to now")
            return super().now()

    driver = Interrupted()
    with storage_over(driver) as storage:
        experiment = storage.create_experiment(name="clock")
        registered = storage.register_trial(experiment, {"x": 1.0})
        driver.failures = 3
        reserved = storage.reserve_trial(experiment)
    assert reserved is not None
    assert reserved.id == registered.id
    assert driver.failures == 0
