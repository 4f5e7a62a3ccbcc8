"""What is measured, behind one interface: Moorage here, the same work by hand in `benchmarks.raw`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from benchmarks.workload import open_storage
from moorage.filters import Comparison, equal
from moorage.mapping import trial_key
from moorage.schema import MEASUREMENTS, TRIALS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from moorage import Trial

Reserved = TypeVar("Reserved")
Values = dict[str, object]


class Store(Protocol[Reserved]):
    """The hot paths of a storage that holds one experiment."""

    def register(self, params: Values) -> str:
        """Register a trial; its id."""

    def register_many(self, many: Sequence[Values]) -> list[str]:
        """Register trials in one batch; their ids."""

    def reserve(self) -> Reserved:
        """Take the oldest pending trial."""

    def identify(self, trial: Reserved) -> str:
        """The id of a reserved trial."""

    def heartbeat(self, trial: Reserved) -> None:
        """Give a sign of life of its worker."""

    def measure(self, trial: Reserved, step: int, value: float) -> None:
        """Add one measurement."""

    def complete(self, trial: Reserved, results: Values) -> None:
        """Store the results and end the trial, in one step."""

    def get(self, trial: str) -> object:
        """Read one trial."""

    def count(self) -> int:
        """Count the completed trials."""

    def count_each(self) -> object:
        """Count the trials of each status."""

    def fetch(self) -> Sequence[object]:
        """Read all trials, in order of submission."""

    def cycle_lock(self, state: object) -> None:
        """Acquire the algorithm lock, set the state, and release it."""

    def remove(self, trials: Sequence[str]) -> None:
        """Delete trials and their measurements; this is never timed."""

    def close(self) -> None:
        """Close what was opened."""


class MoorageStore:
    """Moorage, by its public verbs."""

    def __init__(self, path: Path, durability: str) -> None:
        self.storage = open_storage(path, durability)
        self.experiment = self.storage.fetch_experiments()[0]

    def register(self, params: Values) -> str:
        return self.storage.register_trial(self.experiment, params).id

    def register_many(self, many: Sequence[Values]) -> list[str]:
        return [trial.id for trial in self.storage.register_trials(self.experiment, many)]

    def reserve(self) -> Trial:
        trial = self.storage.reserve_trial(self.experiment)
        assert trial is not None
        return trial

    def identify(self, trial: Trial) -> str:
        return trial.id

    def heartbeat(self, trial: Trial) -> None:
        self.storage.update_heartbeat(trial)

    def measure(self, trial: Trial, step: int, value: float) -> None:
        self.storage.add_measurements(trial, [{"name": "loss", "step": step, "value": value}])

    def complete(self, trial: Trial, results: Values) -> None:
        self.storage.push_trial_results(trial, results, status="completed")

    def get(self, trial: str) -> Trial:
        return self.storage.get_trial(trial, self.experiment)

    def count(self) -> int:
        return self.storage.count_completed_trials(self.experiment)

    def count_each(self) -> object:
        return self.storage.count_trials(self.experiment)

    def fetch(self) -> list[Trial]:
        return self.storage.fetch_trials(self.experiment)

    def cycle_lock(self, state: object) -> None:
        with self.storage.acquire_algorithm_lock(self.experiment) as lock:
            lock.set_state(state)

    def remove(self, trials: Sequence[str]) -> None:
        # Below the protocol, because how fast this is matters only to the length of a run.
        experiment = self.experiment.id
        keys = tuple(trial_key(experiment, trial) for trial in trials)
        self.storage.driver.delete(TRIALS, (Comparison("id", "in", keys),))
        among = Comparison("trial", "in", tuple(trials))
        self.storage.driver.delete(MEASUREMENTS, (*equal(experiment=experiment), among))

    def close(self) -> None:
        self.storage.close()
