"""Moorage: experiments, trials and the state of the algorithm that proposes them, on any database.

``moorage.connect(url)`` opens a storage; see `Storage` for its verbs.
"""

from __future__ import annotations

from moorage import errors
from moorage.config import connect
from moorage.driver import Capability, Changes, Document, Driver, Increment, Instant, Refusal
from moorage.errors import MoorageError
from moorage.events import (
    AlgorithmLockAcquired,
    AlgorithmLockEvent,
    AlgorithmLockLost,
    AlgorithmLockReleased,
    Event,
    ExperimentCreated,
    TrialStatusChanged,
)
from moorage.lock import LockedAlgorithmState
from moorage.plugins import Backend, Option, hookimpl
from moorage.protocol import ReadOnlyStorage, Run, Storage
from moorage.records import (
    AlgorithmState,
    Attempt,
    Benchmark,
    Experiment,
    Measurement,
    Param,
    Params,
    Resource,
    Result,
    Results,
    Trial,
    derive_trial_id,
)
from moorage.statuses import EXPERIMENT_TRANSITIONS, TRIAL_TRANSITIONS, ExperimentStatus, TrialStatus
from moorage.url import StorageURL

__version__ = "0.1.0"

__all__ = [
    "EXPERIMENT_TRANSITIONS",
    "TRIAL_TRANSITIONS",
    "AlgorithmLockAcquired",
    "AlgorithmLockEvent",
    "AlgorithmLockLost",
    "AlgorithmLockReleased",
    "AlgorithmState",
    "Attempt",
    "Backend",
    "Benchmark",
    "Capability",
    "Changes",
    "Document",
    "Driver",
    "Event",
    "Experiment",
    "ExperimentCreated",
    "ExperimentStatus",
    "Increment",
    "Instant",
    "LockedAlgorithmState",
    "Measurement",
    "MoorageError",
    "Option",
    "Param",
    "Params",
    "ReadOnlyStorage",
    "Refusal",
    "Resource",
    "Result",
    "Results",
    "Run",
    "Storage",
    "StorageURL",
    "Trial",
    "TrialStatus",
    "TrialStatusChanged",
    "connect",
    "derive_trial_id",
    "errors",
    "hookimpl",
]
