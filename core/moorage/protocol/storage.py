"""The protocol with all its verbs: the rooms, put together."""

from __future__ import annotations

from moorage.protocol.algorithm_lock import ReadAlgorithmLock, WriteAlgorithmLock
from moorage.protocol.attempts import ReadAttempts
from moorage.protocol.benchmarks import ReadBenchmarks, WriteBenchmarks
from moorage.protocol.experiments import ReadExperiments, WriteExperiments
from moorage.protocol.holding import HoldResources
from moorage.protocol.measurements import ReadMeasurements
from moorage.protocol.registration import Registration
from moorage.protocol.reservations import ReadReservations
from moorage.protocol.resources import ReadResources
from moorage.protocol.running import RunTrials
from moorage.protocol.trials import ReadTrials


class ReadOnlyStorage(
    ReadExperiments,
    ReadReservations,
    ReadTrials,
    ReadAttempts,
    ReadMeasurements,
    ReadResources,
    ReadBenchmarks,
    ReadAlgorithmLock,
):
    """An open storage, to be read: every reading verb of the protocol, and nothing else.

    A verb that concerns an experiment or a trial takes the record or its id. What is returned are snapshots: each
    record is read whole, and what was acknowledged before the call is seen.

    Args:
        driver: an open driver whose collections exist; closed together with this storage.
        lock_ttl: seconds for which an algorithm lock stays held without a renewal.
        heartbeat_timeout: the default of new experiments, in seconds.
        retry_timeout: seconds during which transient errors of the database are repeated.
    """


class Storage(
    WriteExperiments,
    RunTrials,
    Registration,
    HoldResources,
    WriteBenchmarks,
    WriteAlgorithmLock,
    ReadOnlyStorage,
):
    """An open storage: every verb of the protocol.

    Each verb is one atomic step unless it says otherwise, and may be repeated after an error. An error of the database
    is raised as such and means that the outcome could not be found out; nothing that a verb has returned from is ever
    lost or undone.
    """

    def read_only(self) -> ReadOnlyStorage:
        """A view of this storage that has the reading verbs and nothing else; closing it closes nothing else."""
        view = ReadOnlyStorage(self.driver, **self._options)
        view._owns_driver = False
        return view
