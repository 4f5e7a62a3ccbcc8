"""Holdfast: experiments, trials and the state of the algorithm that proposes them, on any database.

``holdfast.connect(url)`` opens a storage; see `Storage` for its verbs.
"""

from __future__ import annotations

from holdfast import errors
from holdfast.config import connect
from holdfast.driver import Capability, Changes, Document, Driver, Increment, Instant, Refusal
from holdfast.errors import HoldfastError
from holdfast.events import (
    AlgorithmLockAcquired,
    AlgorithmLockEvent,
    AlgorithmLockLost,
    AlgorithmLockReleased,
    Event,
    ExperimentCreated,
    TrialStatusChanged,
)
from holdfast.lock import LockedAlgorithmState
from holdfast.plugins import Backend, Option, hookimpl
from holdfast.reading import ReadOnlyStorage
from holdfast.records import (
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
from holdfast.running import Run
from holdfast.statuses import EXPERIMENT_TRANSITIONS, TRIAL_TRANSITIONS, ExperimentStatus, TrialStatus
from holdfast.storage import Storage
from holdfast.url import StorageURL

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
    "HoldfastError",
    "Increment",
    "Instant",
    "LockedAlgorithmState",
    "Measurement",
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
