"""Write a small storage by the release 0.1.0, when Moorage was called Holdfast and its schema had version 1.

    python make.py URL

It was run in an environment of that release. What it writes is told again, by today's names, in tests/test_upgrade.py.
"""

import datetime
import sys

import holdfast

MOMENT = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
with holdfast.connect(sys.argv[1]) as storage:
    digits = storage.create_experiment(
        id="digits",
        name="digits",
        user="tester",
        space={"lr": "loguniform(1e-5, 1e-1)", "depth": "uniform(1, 8, discrete=True)"},
        algorithm={"random": {"seed": 1}},
        metadata={"note": "äöü"},
        max_trials=50,
        heartbeat_timeout=86400.0,
        created=MOMENT,
    )
    storage.create_experiment(id="empty", name="digits", version=2, user="tester", created=MOMENT)
    params = [{"lr": 0.1, "depth": 1}, {"lr": 0.01, "depth": 2}, {"lr": 0.001, "depth": 3}, {"lr": 0.5, "depth": 4}]
    trials = [holdfast.Trial(id=f"t{place}", params=one, submit_time=MOMENT) for place, one in enumerate(params)]
    strange = {"~odd": 1, "x": (1, None, b"bytes"), "name": "é"}
    storage.register_trials(digits, [*trials, holdfast.Trial(id="strange", params=strange, submit_time=MOMENT)])
    first = storage.reserve_trial(digits, worker="worker-1")
    with storage.running(first) as run:
        run.report(0.5, name="loss")
        run.report(float("nan"), name="loss")
        run.report(-0.0, name="loss")
        run.results(objective=0.25, accuracy=0.9, extra=(1, 2))
    second = storage.reserve_trial(digits, worker="worker-1")
    storage.start_attempt(second)
    storage.set_trial_status(second, "interrupted", error="power cut")
    storage.end_attempt(second, "interrupted", "power cut")
    second = storage.reserve_trial(digits, worker="worker-2")
    storage.start_attempt(second)
    storage.push_trial_results(second, {"objective": float("inf")}, status="completed")
    storage.end_attempt(second, "completed")
    third = storage.reserve_trial(digits, worker="worker-3")
    storage.push_trial_results(third, {}, status="broken", error="no reason")
    held = storage.reserve_trial(digits, worker="worker-4")
    storage.start_attempt(held)
    storage.add_resource(id="gpu0", name="gpu0", kind="gpu", labels={"memory": 40})
    storage.add_resource(id="gpu1", name="gpu1", kind="gpu")
    storage.take_resource(id="gpu1", holder="worker-4", lease=86400)
    storage.create_benchmark(id="bench", name="bench", algorithms=["random"], targets=["digits"], created=MOMENT)
    with storage.acquire_algorithm_lock(digits) as algorithm:
        algorithm.set_state({"seed": 7, "seen": ["t0", "t1"]})
    with storage.acquire_algorithm_lock("empty") as algorithm:
        algorithm.set_state("x" * 600_000)
