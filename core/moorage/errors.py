"""One tree of errors, all under `MoorageError`.

Each error also derives from the built-in that fits, so that ``except LookupError`` and ``except TimeoutError`` do
what a reader expects. A message says what was wrong, with which value, and what to do next; it never holds a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def shown(value: object) -> str:
    """What a message shows of any value: the beginning of its repr, whatever that is and even if it has none."""
    try:
        return f"{value!r:.80}"
    except Exception:  # too many digits, too deep, or a class whose repr fails
        return f"a {type(value).__name__} that cannot be shown"


class MoorageError(Exception):
    """The root of every error that Moorage raises on purpose."""


class ConfigurationError(MoorageError, ValueError):
    """A URL, a configuration file, an environment variable or an option is wrong."""


class UnknownBackend(ConfigurationError):
    """No installed plugin carries this URL scheme."""


class MissingExtra(ConfigurationError, ImportError):
    """The backend is known, but a library that it needs is not installed."""


class InvalidArgument(MoorageError, ValueError):
    """A value is of the right type, but not one that can be stored or asked for."""


class InvalidType(MoorageError, TypeError):
    """A value is of a type that this argument or field does not take."""


class MissingArguments(MoorageError, TypeError):
    """Neither the record nor its id was given."""


class ConflictingArguments(InvalidArgument):
    """A record and an id were both given, and they name different things."""


class InvalidQuery(InvalidArgument):
    """A query names a field or an operator that does not exist, or compares with a value of the wrong type."""


class EncodingError(MoorageError, TypeError):
    """A value of a type that cannot be stored and brought back exactly."""


class NotFound(MoorageError, LookupError):
    """What was asked for is not stored."""


class ExperimentNotFound(NotFound):
    """No such experiment."""


class TrialNotFound(NotFound):
    """No such trial."""


class AttemptNotFound(NotFound):
    """No such attempt."""


class ResourceNotFound(NotFound):
    """No such resource."""


class BenchmarkNotFound(NotFound):
    """No such benchmark."""


class AlgorithmLockNotFound(NotFound):
    """The experiment has no algorithm lock."""


class Duplicate(MoorageError, ValueError):
    """Something with the same unique key is stored already."""


class DuplicateExperiment(Duplicate):
    """An experiment of this name and version is stored already."""


class DuplicateTrial(Duplicate):
    """One or more trials are registered already.

    Attributes:
        refused: the ids that were refused; all others of the same batch have been registered.
    """

    def __init__(self, message: str, refused: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.refused = tuple(refused)


class TrialLimitReached(MoorageError, ValueError):
    """The experiment has as many trials as its ``max_trials`` allows.

    Attributes:
        refused: the ids that were refused; all others of the same batch have been registered.
    """

    def __init__(self, message: str, refused: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.refused = tuple(refused)


class DuplicateResource(Duplicate):
    """A resource of this name is stored already."""


class DuplicateBenchmark(Duplicate):
    """A benchmark of this name is stored already."""


class DuplicateAlgorithmLock(Duplicate):
    """The experiment has an algorithm lock already."""


class FailedUpdate(MoorageError, RuntimeError):
    """What is stored was not what the update requires; nothing was changed."""


class IllegalTransition(FailedUpdate, ValueError):
    """The table of statuses does not allow this step; ``force=True`` is there for repair."""


class ReservationLost(FailedUpdate):
    """The caller no longer holds the trial (or the resource): another took it over, or it was recovered."""


class LockError(MoorageError, RuntimeError):
    """The root of the errors of the algorithm lock."""


class ResourceTimeout(MoorageError, TimeoutError):
    """The resources that were asked for did not become free in time."""


class LockAcquisitionTimeout(LockError, TimeoutError):
    """The algorithm lock was not free before the deadline."""


class LockLost(LockError):
    """The algorithm lock is not, or no longer, held by the caller; the stored state is untouched."""


class StorageError(MoorageError, RuntimeError):
    """The root of the errors of a backend."""


class Unavailable(StorageError, ConnectionError):
    """The database did not do it, and may later: busy, deadlocked, or out of reach. Repeating is safe."""


class OutcomeUnknown(StorageError, ConnectionError):
    """The connection or the disk failed while writing: it may have happened or not.

    Drivers raise it and the core resolves it by reading back. Where it reaches the user, reading back was not
    possible either.
    """


class StorageFull(StorageError, OSError):
    """The disk or the quota is full; nothing was written."""


class StorageDamaged(StorageError):
    """What is stored is not a Moorage storage, or is damaged; nothing was changed."""


class SchemaMismatch(StorageError):
    """The storage was written by another version of the schema.

    Attributes:
        stored: the version found in the storage.
        supported: the version that this release of Moorage writes.
    """

    def __init__(self, message: str, *, stored: int, supported: int) -> None:
        super().__init__(message)
        self.stored = stored
        self.supported = supported


class StorageReadOnly(StorageError, PermissionError):
    """The storage was opened read-only, or cannot be written by this user."""


class StorageClosed(StorageError):
    """The storage was closed before this call."""


class Unsupported(StorageError):
    """The backend does not declare the capability that this call needs."""


class UniqueViolation(StorageError):
    """A swap would break a unique key; nothing was changed. Drivers raise it, the core names the record.

    Attributes:
        key: the fields of the unique key.
    """

    def __init__(self, key: Sequence[str]) -> None:
        super().__init__(f"unique key ({', '.join(key)}) is taken")
        self.key = tuple(key)
