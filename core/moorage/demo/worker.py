"""A worker of the demonstration. It is written to be copied: a worker of your own needs no more than this.

Any number of these processes may run, on any machine that reaches the storage, and each may be killed at any moment.
They know of each other only through the storage. ``moorage demo`` starts them as::

    MOORAGE_STORAGE=sqlite:///moorage.db python -m moorage.demo.worker EXPERIMENT NAME PARENT

PARENT is the id of the process together with which this one ends.
"""

from __future__ import annotations

import logging
import signal
import statistics
import sys
import time
from typing import TYPE_CHECKING, cast

import moorage
from moorage.demo import digits, fleet
from moorage.demo.algorithm import ParzenEstimator
from moorage.errors import ReservationLost

if TYPE_CHECKING:
    from moorage import Experiment, Run, Storage

CHECKPOINTS = (10, 20)
"""After so many epochs, trials that lag behind are given up."""

PATIENCE = 0.2
"""Seconds until a worker without anything to do looks again."""

logger = logging.getLogger("moorage.demo")


def work(storage: Storage, experiment: Experiment, name: str) -> None:
    """Run trials until the experiment has as many completed ones as it wants."""
    while storage.count_completed_trials(experiment) < (experiment.max_trials or 0):
        trial = storage.reserve_trial(experiment, worker=name)
        if trial is None:
            if missing(storage, experiment):
                propose(storage, experiment)
            else:
                time.sleep(PATIENCE)  # the others have the rest; should one of them die, its trial comes back
            continue
        try:
            with storage.running(trial) as run:
                evaluate(storage, run)
            logger.info("trial %s ended in attempt %d", trial.id, trial.token)
        except ReservationLost as lost:
            logger.warning("%s", lost)


def missing(storage: Storage, experiment: Experiment) -> int:
    """How many trials must be added so that in the end as many are completed as are wanted."""
    counts = storage.count_trials(experiment)
    lead_nowhere = counts[moorage.TrialStatus.PRUNED] + counts[moorage.TrialStatus.BROKEN]
    return (experiment.max_trials or 0) - (sum(counts.values()) - lead_nowhere)


def propose(storage: Storage, experiment: Experiment) -> None:
    """Tell the algorithm what trials have come to, and add the one that it proposes; one worker at a time."""
    with storage.acquire_algorithm_lock(experiment) as locked:
        seed = cast("int", experiment.algorithm["seed"])
        algorithm = ParzenEstimator(experiment.space, seed, locked.state)
        known = len(algorithm)
        for trial in storage.fetch_trials(experiment, where={"status": {"$in": ["completed", "pruned"]}}):
            algorithm.observe(trial.id, trial.params, trial.objective)
        # Asked again, because others may have proposed while this worker waited for the lock.
        points = algorithm.suggest(1 if missing(storage, experiment) else 0)
        storage.register_trials(experiment, points, duplicates="skip")
        locked.set_state(algorithm.state)
    logger.info("proposed %d after observing %d", len(points), len(algorithm) - known)


def evaluate(storage: Storage, run: Run) -> None:
    """Train with the params of a trial, and report the loss after each epoch."""
    for epoch, (loss, accuracy) in enumerate(digits.train(run.trial.params), start=1):
        run.report(loss, "loss", step=epoch)
        run.results(objective=loss, accuracy=accuracy)
        if epoch in CHECKPOINTS and is_hopeless(storage, run.trial, epoch, loss):
            run.prune(f"a loss of {loss:.3f} after {epoch} epochs is in the worst quarter")
            return


def is_hopeless(storage: Storage, trial: moorage.Trial, epoch: int, loss: float) -> bool:
    """Whether three quarters of the trials were better after so many epochs; a milder form of the median rule."""
    if trial.token > 1:
        return False  # it has cost one worker already: now it is run to its end
    reported = storage.fetch_measurements(experiment=trial.experiment, name="loss", where={"step": epoch})
    others = [one.value for one in reported if one.trial != trial.id]
    return len(others) >= 5 and loss > statistics.quantiles(others, n=4)[2]


def main() -> None:
    """Start from the command line."""
    experiment, name, parent = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for sign in (signal.SIGINT, signal.SIGTERM):
        # A trial that is left by an exit becomes interrupted. (scikit-learn catches KeyboardInterrupt, and goes on.)
        signal.signal(sign, lambda *_: sys.exit("stopped"))
    fleet.end_with(int(parent))
    digits.load()
    with moorage.connect() as storage:
        logger.info("connected")
        work(storage, storage.get_experiment(experiment), name)


if __name__ == "__main__":
    main()
