"""The collections that a storage is made of, declared as data.

A driver creates what these declarations name and knows nothing else of experiments and trials. Only declared fields
may be compared, ordered by, or changed in place; what else a body holds is kept as it is.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

from moorage.errors import SchemaMismatch

Kind: TypeAlias = Literal["string", "text", "integer", "number", "boolean", "time", "json"]


@attrs.frozen
class Field:
    """A field that may be compared, ordered by, and changed in place; null is always allowed.

    Attributes:
        name: the key in the body; also a good name for a column.
        kind: ``string`` (at most 255 characters, may stand in a key), ``text`` (any length), ``integer`` (64 bits),
            ``number`` (a finite 64-bit float), ``boolean``, ``time`` (ISO 8601 in UTC, 32 characters, ordered as text),
            or ``json`` (a list or dict, reached into by dotted paths).
        public: whether a user may ask for it in a query.
    """

    name: str
    kind: Kind
    public: bool = True


@attrs.frozen
class Collection:
    """A set of documents of one shape.

    Attributes:
        name: also a good name for a table.
        fields: the declared fields.
        unique: keys that no two documents share; a key with a null in it is never in conflict. The id is always unique.
        indexes: what lookups rely on: equality on the leading fields, then a range or an order on the last ones.
        tallies: sets of fields by which documents are counted often; a driver may keep such counts up to date.
    """

    name: str
    fields: tuple[Field, ...]
    unique: tuple[tuple[str, ...], ...] = ()
    indexes: tuple[tuple[str, ...], ...] = ()
    tallies: tuple[tuple[str, ...], ...] = ()

    def field(self, name: str) -> Field | None:
        """The declared field of this name, or None."""
        return next((field for field in self.fields if field.name == name), None)


@attrs.frozen
class Schema:
    """All collections of a storage, and the version of their declaration.

    A driver stores the version and refuses a storage of another one, unless asked to upgrade an older one: `accepts`
    says which.
    """

    version: int
    collections: tuple[Collection, ...]

    def accepts(self, stored: int, shown: str, *, upgrade: bool = False) -> bool:
        """Whether a storage can be used as it is; False where it is older, and shall be upgraded.

        Args:
            stored: the version that the storage has.
            shown: its URL without secrets, for the message.
            upgrade: whether an older one shall be upgraded.

        Raises:
            SchemaMismatch: it is newer, or it is older and shall not be upgraded.
        """
        if stored == self.version:
            return True
        if stored < self.version and upgrade:
            return False
        if stored > self.version:
            remedy = f"supports {self.version}: install a newer Moorage"
        else:
            remedy = f"needs {self.version}: run `moorage upgrade {shown}`"
        raise SchemaMismatch(
            f"{shown} has schema version {stored}, and this release of Moorage {remedy}",
            stored=stored,
            supported=self.version,
        )


def _fields(kind: Kind, names: str, *, public: bool = True) -> tuple[Field, ...]:
    return tuple(Field(name, kind, public) for name in names.split())


EXPERIMENTS = Collection(
    name="experiments",
    fields=(
        *_fields("string", "name"),
        *_fields("integer", "version"),
        *_fields("string", "user status"),
        *_fields("json", "space algorithm metadata tags directions"),
        *_fields("integer", "max_trials max_broken max_attempts"),
        *_fields("number", "heartbeat_timeout"),
        *_fields("string", "parent"),
        *_fields("text", "working_directory error"),
        *_fields("time", "created started ended stop_requested"),
        *_fields("boolean", "deleting", public=False),
        *_fields("string", "incarnation write", public=False),
    ),
    unique=(("name", "version"),),
)

TRIALS = Collection(
    name="trials",
    fields=(
        *_fields("string", "experiment trial status"),
        *_fields("json", "params results"),
        *_fields("number", "objective"),
        *_fields("string", "worker resource"),
        *_fields("integer", "number token"),
        *_fields("time", "submit_time start_time end_time heartbeat stop_requested"),
        *_fields("text", "error working_directory"),
        *_fields("string", "parent"),
        *_fields("json", "metadata"),
        *_fields("json", "param_types result_types", public=False),
        *_fields("boolean", "pending", public=False),
        *_fields("integer", "sequence measured", public=False),
        *_fields("number", "beat", public=False),
        *_fields("string", "clock write", public=False),
    ),
    unique=(("experiment", "number"),),
    indexes=(
        ("experiment", "pending", "sequence"),
        ("experiment", "status", "objective", "number"),
    ),
    tallies=(("experiment", "status"),),
)

ATTEMPTS = Collection(
    name="attempts",
    fields=(
        *_fields("string", "experiment trial"),
        *_fields("integer", "number"),
        *_fields("string", "worker resource outcome"),
        *_fields("text", "error"),
        *_fields("time", "started ended"),
        *_fields("json", "metadata"),
        *_fields("string", "write", public=False),
    ),
    indexes=(("experiment", "trial", "number"),),
)

MEASUREMENTS = Collection(
    name="measurements",
    fields=(
        *_fields("string", "experiment trial name"),
        *_fields("integer", "step"),
        *_fields("number", "value"),
        *_fields("time", "time"),
        *_fields("integer", "attempt"),
        *_fields("json", "metadata"),
        *_fields("integer", "sequence", public=False),
    ),
    indexes=(("experiment", "trial", "name", "step"),),
)

RESOURCES = Collection(
    name="resources",
    fields=(
        *_fields("string", "name kind holder"),
        *_fields("json", "labels"),
        *_fields("integer", "token"),
        *_fields("number", "lease"),
        *_fields("time", "heartbeat"),
        *_fields("number", "beat", public=False),
        *_fields("string", "clock write", public=False),
    ),
    unique=(("name",),),
    indexes=(("kind", "holder", "name"), ("holder",)),
)

BENCHMARKS = Collection(
    name="benchmarks",
    fields=(
        *_fields("string", "name"),
        *_fields("json", "algorithms targets metadata"),
        *_fields("time", "created"),
    ),
    unique=(("name",),),
)

ALGORITHM_LOCKS = Collection(
    name="algorithm_locks",
    fields=(
        *_fields("string", "holder queue clock write"),
        *_fields("integer", "token committed_token chunks chunk_token"),
        *_fields("number", "ttl beat"),
        *_fields("time", "acquired heartbeat"),
        *_fields("text", "configuration state"),
    ),
)

ALGORITHM_STATE_CHUNKS = Collection(
    name="algorithm_state_chunks",
    fields=(
        *_fields("string", "experiment"),
        *_fields("integer", "token position"),
        *_fields("text", "data"),
    ),
    indexes=(("experiment", "token", "position"),),
)

COUNTERS = Collection(
    name="counters",
    fields=(
        *_fields("integer", "value", public=False),
        *_fields("string", "write", public=False),
    ),
)

SCHEMA = Schema(
    version=2,
    collections=(
        EXPERIMENTS,
        TRIALS,
        ATTEMPTS,
        MEASUREMENTS,
        RESOURCES,
        BENCHMARKS,
        ALGORITHM_LOCKS,
        ALGORITHM_STATE_CHUNKS,
        COUNTERS,
    ),
)
