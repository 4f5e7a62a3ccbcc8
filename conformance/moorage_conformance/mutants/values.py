"""What is broken in the way that values are stored."""

from __future__ import annotations

import math
import re
import struct
import unicodedata
from typing import TYPE_CHECKING, Any, cast

import attrs

from moorage.driver import Increment
from moorage_conformance.mutants import Mutation, mutant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.codec import Plain
    from moorage.driver import Changes, Document, Refusal
    from moorage.filters import Filter, Order
    from moorage.schema import Collection, Field


class Altering(Mutation):
    """Alters each value on its way into the storage; a mutant says how."""

    def leaf(self, value: Plain) -> Plain:
        """What is stored for a value that is neither a list nor a dict."""
        return value

    def tree(self, value: Plain, depth: int = 0) -> Plain:
        """What is stored for a value of any shape."""
        if isinstance(value, list):
            return [self.tree(one, depth + 1) for one in value]
        if isinstance(value, dict):
            return {name: self.tree(one, depth + 1) for name, one in value.items()}
        return self.leaf(value)

    def value(self, field: Field | None, value: Plain) -> Plain:
        """What is stored at a declared field, or where none is declared."""
        return self.tree(value)

    def body(self, collection: Collection, body: dict[str, Plain]) -> dict[str, Plain]:
        """What is stored for a body."""
        return {name: self.value(collection.field(name), value) for name, value in body.items()}

    def changes(self, collection: Collection, changes: Changes) -> Changes:
        """What is stored by a patch or a claim."""
        return {
            name: value if isinstance(value, Increment) else self.value(collection.field(name), value)
            for name, value in changes.items()
        }

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        altered = [attrs.evolve(one, body=self.body(collection, one.body)) for one in documents]
        return self.inner.insert(collection, altered)

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        altered = attrs.evolve(document, body=self.body(collection, document.body))
        return self.inner.swap(collection, altered, expected_revision)

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        return self.inner.patch(collection, where, self.changes(collection, changes))

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        return self.inner.claim(collection, where, self.changes(collection, changes), order)


class InJson(Altering):
    """Alters what is in JSON alone: fields of this kind, and what is not declared."""

    def value(self, field: Field | None, value: Plain) -> Plain:
        return self.tree(value) if field is None or field.kind == "json" else value


# Texts


@mutant("VALUE-1", base="memory")
class TextsAreStripped(Altering):
    """Spaces at the ends of texts are lost."""

    def leaf(self, value: Plain) -> Plain:
        return value.strip(" ") if isinstance(value, str) else value


@mutant("VALUE-1", base="memory")
class LineEndsAreOneSign(Altering):
    """Line ends become a line feed, as in a file that is read in text mode."""

    def leaf(self, value: Plain) -> Plain:
        return re.sub("\r\n?", "\n", value) if isinstance(value, str) else value


@mutant("VALUE-1", base="memory")
class TextsEndAt64k(Altering):
    """Texts end after 65,535 bytes, as in a column of type TEXT."""

    def leaf(self, value: Plain) -> Plain:
        return value.encode()[:65_535].decode(errors="ignore") if isinstance(value, str) else value


@mutant("VALUE-1", base="memory")
class ThreeBytesForASign(Altering):
    """Signs beyond the first plane become a question mark, as in utf8mb3."""

    def leaf(self, value: Plain) -> Plain:
        return re.sub("[\U00010000-\U0010ffff]", "?", value) if isinstance(value, str) else value


@mutant("VALUE-1", base="memory")
class TextsAreNormalized(Altering):
    """Texts are stored in normal form C."""

    def leaf(self, value: Plain) -> Plain:
        return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


@mutant("VALUE-1", base="memory")
class EmptyTextsAreNull(Altering):
    """The empty text is stored as null, as by Oracle."""

    def leaf(self, value: Plain) -> Plain:
        return None if value == "" else value


@mutant("VALUE-1", base="memory")
class ControlsAreDropped(Altering):
    """Control characters are left out, as where XML is written."""

    def leaf(self, value: Plain) -> Plain:
        return re.sub("[\x01-\x08\x0b\x0c\x0e-\x1f]", "", value) if isinstance(value, str) else value


@mutant("VALUE-1", base="memory")
class PatchedTextsAreUnescaped(Altering):
    """A patch loses one of two backslashes."""

    def body(self, collection: Collection, body: dict[str, Plain]) -> dict[str, Plain]:
        return body

    def leaf(self, value: Plain) -> Plain:
        return value.replace("\\\\", "\\") if isinstance(value, str) else value


@mutant("VALUE-1", base="memory")
class DotsInKeysAreReplaced(Altering):
    """Dots and dollars in keys become underscores, as for older releases of MongoDB."""

    def tree(self, value: Plain, depth: int = 0) -> Plain:
        if isinstance(value, dict):
            return {re.sub("[.$]", "_", name): self.tree(one) for name, one in value.items()}
        return super().tree(value, depth)


@mutant("VALUE-1", base="memory")
class BodyLosesItsId(Altering):
    """A key of the body that is called like the id is lost."""

    def body(self, collection: Collection, body: dict[str, Plain]) -> dict[str, Plain]:
        return {name: value for name, value in body.items() if name != "id"}


# Numbers


@mutant("VALUE-2", base="memory")
class IntegersThroughFloats(InJson):
    """Integers in JSON pass through a float, as in JavaScript and Lua."""

    def leaf(self, value: Plain) -> Plain:
        if isinstance(value, int) and not isinstance(value, bool):
            return max(-(2**63), min(2**63 - 1, int(float(value))))
        return value


@mutant("VALUE-2", base="memory")
class PatchedIntegersThroughFloats(Altering):
    """A patch or a claim hands integers over as floats."""

    def body(self, collection: Collection, body: dict[str, Plain]) -> dict[str, Plain]:
        return body

    def leaf(self, value: Plain) -> Plain:
        if isinstance(value, int) and not isinstance(value, bool):
            return max(-(2**63), min(2**63 - 1, int(float(value))))
        return value


@mutant("VALUE-2", base="memory")
class LeastIntegerOverflows(Altering):
    """The least 64-bit integer becomes the one above it, as where the sign is kept apart."""

    def leaf(self, value: Plain) -> Plain:
        return -(2**63) + 1 if type(value) is int and value == -(2**63) else value


@mutant("VALUE-2", base="memory")
class IntegersOf32Bits(Altering):
    """Integer fields wrap at 32 bits."""

    def value(self, field: Field | None, value: Plain) -> Plain:
        if field is not None and field.kind == "integer" and isinstance(value, int):
            return (value + 2**31) % 2**32 - 2**31
        return value


@mutant("VALUE-3", base="memory")
class FloatsOf15Digits(Altering):
    """Floats are written with 15 digits."""

    def leaf(self, value: Plain) -> Plain:
        if not isinstance(value, float):
            return value
        written = float(f"{value:.15g}")
        return written if math.isfinite(written) else value


@mutant("VALUE-3", base="memory")
class FloatsOf32Bits(Altering):
    """Number fields have single precision, as MySQL's FLOAT."""

    def value(self, field: Field | None, value: Plain) -> Plain:
        if field is None or field.kind != "number" or not isinstance(value, float) or abs(value) > 3e38:
            return value
        return cast("float", struct.unpack("f", struct.pack("f", value))[0])


@mutant("VALUE-3", base="memory")
class SubnormalFloatsAreZero(Altering):
    """Subnormal floats become zero."""

    def leaf(self, value: Plain) -> Plain:
        return value * 0.0 if isinstance(value, float) and abs(value) < 2.2250738585072014e-308 else value


@mutant("VALUE-3", base="memory")
class FloatsOf16DigitsInJson(InJson):
    """Floats in JSON are written with 16 digits, one too few for some neighbours."""

    def leaf(self, value: Plain) -> Plain:
        written = float(f"{value:.16g}") if isinstance(value, float) else value
        return value if written in (math.inf, -math.inf) else written


# Kinds


@mutant("VALUE-4", base="memory")
class WholeFloatsBecomeIntegers(InJson):
    """1.0 in JSON comes back as 1, as JavaScript writes it."""

    def leaf(self, value: Plain) -> Plain:
        return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value


@mutant("VALUE-4", base="memory")
class BooleansBecomeIntegers(InJson):
    """True in what is not declared comes back as 1."""

    def value(self, field: Field | None, value: Plain) -> Plain:
        return self.tree(value) if field is None else value

    def leaf(self, value: Plain) -> Plain:
        return int(value) if isinstance(value, bool) else value


@mutant("VALUE-4", base="memory")
class NegativeZeroLosesItsSign(InJson):
    """-0.0 comes back as 0.0."""

    def leaf(self, value: Plain) -> Plain:
        return value + 0.0 if isinstance(value, float) else value


@mutant("VALUE-4", base="memory")
class NullsAreDropped(InJson):
    """Keys whose value is null are left out of dicts."""

    def tree(self, value: Plain, depth: int = 0) -> Plain:
        if isinstance(value, dict):
            return {name: self.tree(one) for name, one in value.items() if one is not None}
        return super().tree(value, depth)


@mutant("VALUE-4", base="memory")
class UndeclaredNullsAreDropped(Altering):
    """What is not declared and null is left out of the body."""

    def body(self, collection: Collection, body: dict[str, Plain]) -> dict[str, Plain]:
        return {name: value for name, value in body.items() if value is not None or collection.field(name) is not None}


@mutant("VALUE-4", base="memory")
class IntegersBecomeFloats(InJson):
    """Small integers in JSON come back as floats."""

    def leaf(self, value: Plain) -> Plain:
        return float(value) if type(value) is int and abs(value) < 2**53 else value


# Shapes


@mutant("VALUE-5", base="memory")
class KeysAreSorted(InJson):
    """The keys of dicts are sorted, as by PostgreSQL's jsonb."""

    def tree(self, value: Plain, depth: int = 0) -> Plain:
        if isinstance(value, dict):
            return {name: self.tree(value[name]) for name in sorted(value)}
        return super().tree(value, depth)


@mutant("VALUE-5", base="memory")
class NumericKeysComeFirst(InJson):
    """Keys of digits come before all others, as in an object of JavaScript."""

    def tree(self, value: Plain, depth: int = 0) -> Plain:
        if isinstance(value, dict):
            names = sorted(value, key=lambda name: not name.isdecimal())
            return {name: self.tree(value[name]) for name in names}
        return super().tree(value, depth)


@mutant("VALUE-5", base="memory")
class EmptyListsBecomeNull(InJson):
    """Empty lists come back as null."""

    def tree(self, value: Plain, depth: int = 0) -> Plain:
        return None if value == [] else super().tree(value, depth)


@mutant("VALUE-5", base="memory")
class EmptyListsBecomeDicts(InJson):
    """Empty lists come back as empty dicts, as from Lua's cjson."""

    def tree(self, value: Plain, depth: int = 0) -> Plain:
        return {} if value == [] else super().tree(value, depth)


@mutant("VALUE-5", base="memory")
class EmptyDictsAreDropped(InJson):
    """Keys whose value is an empty dict are left out, as where nested keys are stored by their paths."""

    def tree(self, value: Plain, depth: int = 0) -> Plain:
        if isinstance(value, dict):
            return {name: self.tree(one) for name, one in value.items() if one != {}}
        return super().tree(value, depth)


@mutant("VALUE-5", base="memory")
class NothingDeeperThan64(InJson):
    """What is nested more than 64 deep is lost."""

    def tree(self, value: Plain, depth: int = 0) -> Plain:
        return None if depth > 64 else super().tree(value, depth)


@mutant("VALUE-5", base="memory")
class ListsOfOneAreUnwrapped(InJson):
    """A list of one element comes back as the element, as from XML."""

    def tree(self, value: Plain, depth: int = 0) -> Plain:
        return self.tree(value[0]) if isinstance(value, list) and len(value) == 1 else super().tree(value, depth)


@mutant("VALUE-5", base="memory")
class ListsEndAfterAThousand(InJson):
    """Lists end after a thousand elements."""

    def tree(self, value: Plain, depth: int = 0) -> Plain:
        return super().tree(value[:1000] if isinstance(value, list) else value, depth)


# The storage protocol


@mutant("VALUE-6", base="memory")
class MicrosecondsAreLost(Altering):
    """Times are kept to the second, as by MySQL's DATETIME."""

    def value(self, field: Field | None, value: Plain) -> Plain:
        if field is not None and field.kind == "time" and isinstance(value, str):
            return re.sub(r"\.\d{6}", ".000000", value)
        return value


@mutant("VALUE-6", base="memory")
class TimesOfMilliseconds(Altering):
    """Times anywhere are kept to the millisecond, as by MongoDB."""

    def leaf(self, value: Plain) -> Plain:
        if isinstance(value, str):
            return re.sub(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})\d{3}(\+00:00)$", r"\g<1>000\2", value)
        return value


@mutant("VALUE-6", base="memory")
class NanBecomesNull(Altering):
    """NaN is stored as null."""

    def tree(self, value: Plain, depth: int = 0) -> Plain:
        return None if value == {"~float": "nan"} else super().tree(value, depth)


@mutant("VALUE-6", base="memory")
class InfinityBecomesTheLargestFloat(Altering):
    """Infinities are stored as the largest float."""

    def tree(self, value: Plain, depth: int = 0) -> Plain:
        if value in ({"~float": "inf"}, {"~float": "-inf"}):
            return math.copysign(1.7976931348623157e308, float(cast("Any", value)["~float"]))
        return super().tree(value, depth)


@mutant("VALUE-6", base="memory")
class TuplesBecomeLists(Altering):
    """Tuples and sets come back as lists."""

    def tree(self, value: Plain, depth: int = 0) -> Plain:
        if isinstance(value, dict) and value.keys() <= {"~tuple", "~set", "~frozenset"} and value:
            return self.tree(next(iter(value.values())))
        return super().tree(value, depth)


@mutant("VALUE-6", base="memory")
class BytesBecomeText(Altering):
    """Bytes come back as text."""

    def tree(self, value: Plain, depth: int = 0) -> Plain:
        if isinstance(value, dict) and value.keys() == {"~bytes"}:
            return value["~bytes"]
        return super().tree(value, depth)


@mutant("VALUE-6", base="memory")
class LargeIntegersBecomeFloats(Altering):
    """Integers beyond 64 bits come back as floats."""

    def tree(self, value: Plain, depth: int = 0) -> Plain:
        if isinstance(value, dict) and value.keys() == {"~int"}:
            number = int(cast("str", value["~int"]), 16)
            return float(number) if abs(number) < 2**1000 else value
        return super().tree(value, depth)
