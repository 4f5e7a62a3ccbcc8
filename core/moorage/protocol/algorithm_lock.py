"""The algorithm lock as verbs; the lock itself is in `moorage.lock`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.errors import LockLost
from moorage.lock import Acquisition
from moorage.protocol.base import Base

if TYPE_CHECKING:
    from moorage.protocol.asking import ExperimentOrId
    from moorage.records import AlgorithmState, Experiment


class ReadAlgorithmLock(Base):
    """The verb that reads the state of the algorithm."""

    def get_algorithm_lock_info(
        self, experiment: ExperimentOrId = None, *, uid: str | None = None, state: bool = True
    ) -> AlgorithmState:
        """The state of the algorithm as it was last saved, and who holds the lock.

        Args:
            experiment: the record or its id.
            uid: the id, in place of ``experiment``.
            state: False leaves the state out (it is None then), which may be large.

        Raises:
            AlgorithmLockNotFound: the experiment has no lock yet.
        """
        identifier = self._experiment_id(experiment, uid)
        found = self._locks.info(identifier, state=state)
        self._require_experiment(identifier)
        return found


class WriteAlgorithmLock(ReadAlgorithmLock):
    """The verbs that hold, release and repair the lock."""

    def initialize_algorithm_lock(
        self,
        experiment_id: Experiment | str | None = None,
        algorithm_config: object = None,
        *,
        uid: str | None = None,
    ) -> None:
        """Create the algorithm lock of an experiment, free and without a state.

        Args:
            experiment_id: the record or its id.
            algorithm_config: the configuration of the algorithm; by default the experiment's.
            uid: the id, in place of ``experiment_id``.

        Raises:
            DuplicateAlgorithmLock: there is one.
            ExperimentNotFound: there is no such experiment.
        """
        stored = self._experiment(self._experiment_id(experiment_id, uid))
        configuration = dict(stored.algorithm) if algorithm_config is None else algorithm_config
        self._locks.create(stored.id, configuration)

    def acquire_algorithm_lock(
        self,
        experiment: ExperimentOrId = None,
        timeout: float = 600,
        retry_interval: float | None = None,
        *,
        uid: str | None = None,
    ) -> Acquisition:
        """Hold the state of the algorithm, and nobody else does: a context manager giving `LockedAlgorithmState`.

        The lock is renewed in the background. When the block is left, the state that ``set_state`` was given is saved
        and the lock released, in one step; on an exception nothing is saved. A holder that dies is succeeded after the
        storage's ``lock_ttl``; one that was paused for longer gets `LockLost` and can neither save nor release.

        Whoever waits is served in the order of coming. A contender that does not take the free lock within half a
        second has lost its place, and the others queue anew.

        Args:
            experiment: the record or its id. Its lock is created if there is none.
            timeout: seconds to wait for it.
            retry_interval: the longest time between two looks, in seconds; by default 2 ms for the first in the queue,
                and up to 50 ms for the others.
            uid: the id of the experiment, in place of ``experiment``.

        Raises:
            LockAcquisitionTimeout: it was not free in time; the message names holder, age and lease.
            LockLost: on leaving the block, when another may have held the lock meanwhile; the state is untouched.
        """
        identifier = self._experiment_id(experiment, uid)
        return Acquisition(
            self._locks,
            identifier,
            lambda: dict(self._experiment(identifier).algorithm),
            timeout,
            retry_interval,
        )

    def release_algorithm_lock(
        self, experiment: ExperimentOrId = None, new_state: object = None, *, uid: str | None = None
    ) -> None:
        """Release the lock that this storage holds, before its block ends; ``new_state`` is saved in the same step.

        Raises:
            LockLost: this storage does not hold the lock.
        """
        identifier = self._experiment_id(experiment, uid)
        handle = self._locks.held.get(identifier)
        if handle is None:
            raise LockLost(
                f"the algorithm lock of experiment {identifier!r} is not held by this storage; "
                "break_algorithm_lock frees one that somebody else holds"
            )
        handle.release(new_state, save=new_state is not None)

    def delete_algorithm_lock(self, experiment: ExperimentOrId = None, *, uid: str | None = None) -> bool:
        """Delete the lock and the state; whether there was one. Whoever holds it gets `LockLost`."""
        return self._locks.delete(self._experiment_id(experiment, uid))

    def break_algorithm_lock(self, experiment: ExperimentOrId = None, *, uid: str | None = None) -> bool:
        """Free the lock, whoever holds it; the state stays as it was last saved. Whether it was held.

        For repair: whoever held it gets `LockLost`.

        Raises:
            AlgorithmLockNotFound: the experiment has none.
        """
        return self._locks.break_lock(self._experiment_id(experiment, uid))
