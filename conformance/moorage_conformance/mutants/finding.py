"""What is broken in find, get, count and tally."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

from moorage.codec import dumps
from moorage.comparing import values_at
from moorage.filters import Comparison, Order, compare, equal, lookup
from moorage_conformance.mutants import Mutation, mutant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.codec import Plain
    from moorage.driver import Changes, Document, Driver
    from moorage.filters import Filter, Operator
    from moorage.schema import Collection


_OTHER_KEY = re.compile(r"\.(-?\d+|true|null|\{.*)(\.|\Z)")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Scanning(Mutation):
    """Finds by reading everything and comparing it here; right, until one of its parts is overridden."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        """Whether one value compares in this way."""
        return compare(stored, how, value)

    def reach(self, document: Document, field: str) -> Plain:
        """What a document has at a field or a path."""
        special: dict[str, Plain] = {"id": document.id, "revision": document.revision}
        return special[field] if field in special else lookup(document.body, field)

    def values(self, document: Document, path: str) -> list[Plain]:
        """All that a document has at a path."""
        return values_at(document.body, path)

    def meets(self, document: Document, one: Comparison) -> bool:
        """Whether a document meets a comparison."""
        if "." not in one.field:
            return self.compare(self.reach(document, one.field), one.operator, one.value)
        found = self.values(document, one.field) or [None]
        return (all if one.operator == "!=" else any)(self.compare(each, one.operator, one.value) for each in found)

    def matches(self, document: Document, where: Filter) -> bool:
        """Whether a document meets every comparison."""
        return all(self.meets(document, one) for one in where)

    def key(self, value: Plain) -> Any:
        """What a value is ordered by."""
        return value is not None, 0 if value is None else value

    def sort(self, found: list[Document], order: Sequence[Order]) -> None:
        """Put documents in order."""
        for one in reversed(order):
            found.sort(key=lambda document: self.key(self.reach(document, one.field)), reverse=one.descending)

    def cut(self, found: list[Document], limit: int | None) -> list[Document]:
        """The first ones."""
        return found[:limit]

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        found = [one for one in self.inner.find(collection) if self.matches(one, where)]
        self.sort(found, order)
        return self.cut(found, limit)


# Comparisons


@mutant("FIND-1", base="memory")
class NotEqualLeavesOutNull(Scanning):
    """As in SQL, `!=` does not find what is null."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        return not (how == "!=" and stored is None) and compare(stored, how, value)


@mutant("FIND-1", base="memory")
class NullEqualsNothing(Scanning):
    """As in SQL, null in a list of `in` finds nothing."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        return not (how == "in" and stored is None) and compare(stored, how, value)


@mutant("FIND-1", base="memory")
class EmptyTextEqualsNull(Scanning):
    """The empty text and null are the same, as in Oracle."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        return compare(None if stored == "" else stored, how, None if value == "" else value)


@mutant("FIND-1", base="memory")
class EqualityWithoutCase(Scanning):
    """Texts are compared without regard to case, as by MySQL's usual collation."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        if isinstance(stored, str) and isinstance(value, str) and how in ("=", "!="):
            return compare(stored.upper(), how, value.upper())
        return compare(stored, how, value)


@mutant("FIND-1", base="memory")
class EqualityWithoutSpacesAtTheEnd(Scanning):
    """Texts that differ in spaces at the end are the same, as under PAD SPACE."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        if isinstance(stored, str) and isinstance(value, str):
            return compare(stored.rstrip(" "), how, value.rstrip(" "))
        return compare(stored, how, value)


@mutant("FIND-1", base="memory")
class EqualityOfNormalForms(Scanning):
    """Texts are brought to one normal form before they are compared."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        if isinstance(stored, str) and isinstance(value, str):
            return compare(unicodedata.normalize("NFC", stored), how, unicodedata.normalize("NFC", value))
        return compare(stored, how, value)


@mutant("FIND-1", base="memory")
class LongListsAreCut(Scanning):
    """Of a list of `in` only the first hundred values count."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        return compare(stored, how, value[:100] if isinstance(value, tuple) else value)


@mutant("FIND-1", base="memory")
class EmptyListFindsEverything(Scanning):
    """An empty list of `in` is left out of the filter."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        return value == () or compare(stored, how, value)


@mutant("FIND-1", base="memory")
class EqualityOfFloats(Scanning):
    """Integers are compared as floats, so neighbours beyond 2^53 are equal."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        if _is_number(stored) and _is_number(value):
            return compare(float(cast("float", stored)), how, float(cast("float", value)))
        return compare(stored, how, value)


@mutant("FIND-1", base="memory")
class EqualityWithTolerance(Scanning):
    """Floats are equal when their first 15 digits are."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        if isinstance(stored, float) and isinstance(value, float):
            return compare(float(f"{stored:.15g}"), how, float(f"{value:.15g}"))
        return compare(stored, how, value)


@mutant("FIND-2", base="memory")
class LessIncludesItsBound(Scanning):
    """`<` finds the bound as well."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        return compare(stored, "<=" if how == "<" else how, value)


@mutant("FIND-2", base="memory")
class AtLeastExcludesItsBound(Scanning):
    """`>=` does not find the bound."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        return compare(stored, ">" if how == ">=" else how, value)


@mutant("FIND-2", base="memory")
class NullIsBelowEverything(Scanning):
    """`<` and `<=` find null, as it comes first in order."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        return (how in ("<", "<=") and stored is None and value is not None) or compare(stored, how, value)


@mutant("FIND-2", base="memory")
class NumbersAreBelowTexts(Scanning):
    """Inside JSON any number is less than any text, as in SQLite."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        if _is_number(stored) and isinstance(value, str):
            return how in ("<", "<=", "!=")
        return compare(stored, how, value)


@mutant("FIND-2", base="memory")
class BoundsOfIntegersAreCut(Scanning):
    """A bound of an integer field is cut to an integer first."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        if isinstance(stored, int) and isinstance(value, float) and how in ("<", "<=", ">", ">="):
            return compare(stored, how, int(value))
        return compare(stored, how, value)


@mutant("FIND-2", base="memory")
class BoundsAreFloats(Scanning):
    """Integers are compared with bounds as floats, so neighbours beyond 2^53 are on the wrong side."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        if how in ("<", "<=", ">", ">=") and _is_number(stored) and _is_number(value):
            return compare(float(cast("float", stored)), how, float(cast("float", value)))
        return compare(stored, how, value)


@mutant("FIND-3", base="memory")
class AnyComparisonIsEnough(Scanning):
    """A document is found if it meets one of several comparisons."""

    def matches(self, document: Document, where: Filter) -> bool:
        return not where or any(Scanning.matches(self, document, (one,)) for one in where)


@mutant("FIND-3", base="memory")
class LastComparisonOfAFieldWins(Scanning):
    """Of several comparisons of one field only the last counts, as where they are the keys of a dict."""

    def matches(self, document: Document, where: Filter) -> bool:
        return super().matches(document, tuple({one.field: one for one in where}.values()))


@mutant("FIND-3", base="memory")
class FourthComparisonIsForgotten(Scanning):
    """Only the first three comparisons count."""

    def matches(self, document: Document, where: Filter) -> bool:
        return super().matches(document, where[:3])


@mutant("FIND-3", base="memory")
class PathsAreNotCombined(Scanning):
    """Comparisons inside JSON are left out where an index serves another comparison."""

    def matches(self, document: Document, where: Filter) -> bool:
        indexed = any(one.field == "family" for one in where)
        return super().matches(document, tuple(one for one in where if not (indexed and one.is_path)))


@mutant("FIND-4", base="memory")
class BooleansAreNumbers(Scanning):
    """True is 1 and False is 0, as where a boolean is stored as a number."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        stored = int(stored) if isinstance(stored, bool) else stored
        return compare(stored, how, int(value) if isinstance(value, bool) else value)


@mutant("FIND-4", base="memory")
class BooleansInJsonAreNumbers(Scanning):
    """Inside JSON True is 1, as SQLite's json_extract has it."""

    def values(self, document: Document, path: str) -> list[Plain]:
        return [int(found) if isinstance(found, bool) else found for found in super().values(document, path)]


@mutant("FIND-4", base="memory")
class TextsAreCast(Scanning):
    """A text of digits equals the number, as where the database casts one of them."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        if _is_number(stored) and isinstance(value, str) and how in ("=", "!="):
            return compare(str(stored), how, value)
        return compare(stored, how, value)


@mutant("FIND-4", base="memory")
class JsonIsComparedAsText(Scanning):
    """Inside JSON values are compared by their text, so `"true"` is True, as with `->>`."""

    def values(self, document: Document, path: str) -> list[Plain]:
        found = super().values(document, path)
        return [{True: "true", False: "false"}[one] if isinstance(one, bool) else one for one in found]


@mutant("FIND-5", base="memory")
class PathsAreSplitAtEveryDot(Scanning):
    """A key that holds dots cannot be reached."""

    def values(self, document: Document, path: str) -> list[Plain]:
        found: Plain = document.body
        for part in path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return [found]


@mutant("FIND-5", base="memory")
class TheLongestNameWins(Scanning):
    """Of the ways in which a path can be read only the first counts, and what it hides cannot be found."""

    def values(self, document: Document, path: str) -> list[Plain]:
        return super().values(document, path)[:1]


@mutant("FIND-5", base="memory")
class OneUnequalReadingIsEnough(Scanning):
    """Where a path can be read in several ways, `!=` finds what is unequal in one of them."""

    def meets(self, document: Document, one: Comparison) -> bool:
        if one.operator != "!=" or "." not in one.field:
            return super().meets(document, one)
        found = self.values(document, one.field) or [None]
        return any(self.compare(each, one.operator, one.value) for each in found)


@mutant("FIND-5", base="memory")
class PathsGoThroughLists(Scanning):
    """A path goes through the elements of a list, as in MongoDB."""

    def values(self, document: Document, path: str) -> list[Plain]:
        return [_through_lists(document.body, path)]


def _through_lists(found: Plain, path: str) -> Plain:
    if isinstance(found, list):
        each = [_through_lists(one, path) for one in found]
        return next((one for one in each if one is not None), None)
    if not isinstance(found, dict):
        return None
    if path in found:
        return found[path]
    head, _, rest = path.partition(".")
    return _through_lists(found.get(head), rest) if rest else None


@mutant("FIND-5", base="memory")
class DigitsAreListPositions(Scanning):
    """A part of a path that is a number reaches into a list."""

    def values(self, document: Document, path: str) -> list[Plain]:
        before, _, last = path.rpartition(".")
        outer = lookup(document.body, before)
        if isinstance(outer, list) and last.isdecimal() and int(last) < len(outer):
            return [outer[int(last)]]
        return super().values(document, path)


@mutant("FIND-5", base="memory")
class QuotesEndAPath(Scanning):
    """A path that holds a double quote finds nothing, as where keys are quoted and not escaped."""

    def values(self, document: Document, path: str) -> list[Plain]:
        return [] if '"' in path else super().values(document, path)


@mutant("FIND-5", base="memory")
class DollarsBeginAnOperator(Scanning):
    """A key that begins with a dollar cannot be reached."""

    def values(self, document: Document, path: str) -> list[Plain]:
        return [] if ".$" in path else super().values(document, path)


@mutant("FIND-5", base="memory")
class EmptyKeysAreNotReached(Scanning):
    """An empty part of a path is left out."""

    def values(self, document: Document, path: str) -> list[Plain]:
        return super().values(document, ".".join(part for part in path.split(".") if part))


@mutant("FIND-12", base="memory")
class KeysAreNotEscaped(Scanning):
    """A name that begins with a tilde is looked for as it is written."""

    def values(self, document: Document, path: str) -> list[Plain]:
        return super().values(document, path) if ".~" not in path else [_through_lists(document.body, path)]


@mutant("FIND-12", base="memory")
class KeysAreTexts(Scanning):
    """A key that is no text cannot be named."""

    def values(self, document: Document, path: str) -> list[Plain]:
        return [] if _OTHER_KEY.search(path) else super().values(document, path)


@mutant("FIND-12", base="memory")
class PairsAreClosed(Scanning):
    """A path does not lead into the pairs of an earlier release."""

    def values(self, document: Document, path: str) -> list[Plain]:
        return [] if "~dict" in dumps(document.body.get(path.partition(".")[0])) else super().values(document, path)


@mutant("FIND-13", base="memory")
class TagsAreDicts(Scanning):
    """What is stored under a tag is a dict like any other, and orders nowhere."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        return not (isinstance(stored, dict) and how not in ("=", "!=", "in")) and compare(stored, how, value)


@mutant("FIND-13", base="memory")
class InfinityIsTheLargestFloat(Scanning):
    """Infinity is not greater than the largest float."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        return compare(sys.float_info.max if stored == {"~float": "inf"} else stored, how, value)


@mutant("FIND-13", base="memory")
class SetsHaveAnOrder(Scanning):
    """Sets are compared as they lie in the database."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        if isinstance(stored, dict) and "~set" in stored and how == "=":
            return stored == value
        return compare(stored, how, value)


@mutant("FIND-6", base="memory")
class UnitsOfUtf16(Scanning):
    """Texts are compared by the units of UTF-16, as in Java and JavaScript."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        if isinstance(stored, str) and isinstance(value, str):
            return compare(_units(stored), how, _units(value))
        return compare(stored, how, value)


def _units(text: str) -> str:
    """A text that orders as the units of UTF-16 do."""
    return text.encode("utf-16-be").decode("latin-1")


@mutant("FIND-6", base="memory")
class BoundsWithoutCase(Scanning):
    """Texts are below and above each other without regard to case."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        if isinstance(stored, str) and isinstance(value, str) and how not in ("=", "!="):
            return compare(stored.casefold(), how, value.casefold())
        return compare(stored, how, value)


@mutant("FIND-6", base="memory")
class OrderOfALocale(Scanning):
    """Letters with accents are compared as those without, as in the order of a language."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        if isinstance(stored, str) and isinstance(value, str) and how not in ("=", "!="):
            return compare(_plainly(stored), how, _plainly(value))
        return compare(stored, how, value)


def _plainly(text: str) -> str:
    parts = unicodedata.normalize("NFD", text)
    return "".join(sign for sign in parts if not unicodedata.combining(sign)) + f"\0{text}"


@mutant("FIND-7", base="memory")
class IdsWithoutCase(Scanning):
    """Ids are compared without regard to case."""

    def reach(self, document: Document, field: str) -> Plain:
        return document.id.lower() if field == "id" else super().reach(document, field)

    def matches(self, document: Document, where: Filter) -> bool:
        lower = [
            Comparison("id", one.operator, one.value.lower() if isinstance(one.value, str) else one.value)
            if one.field == "id"
            else one
            for one in where
        ]
        return super().matches(document, tuple(lower))


@mutant("FIND-7", base="memory")
class RevisionOfTheBody(Scanning):
    """A key of the body that is called like the revision is compared in its place."""

    def reach(self, document: Document, field: str) -> Plain:
        inside = document.body.get(field) if field == "revision" else None
        return super().reach(document, field) if inside is None else inside


@mutant("FIND-7", base="memory")
class RevisionsOfTheFirstVersion(Scanning):
    """An index keeps the revision with which a document was inserted."""

    def reach(self, document: Document, field: str) -> Plain:
        return 1 if field == "revision" else super().reach(document, field)


@mutant("FIND-7", base="memory")
class IdsAreCut(Scanning):
    """Ids are compared by their first 255 characters."""

    def matches(self, document: Document, where: Filter) -> bool:
        for one in where:
            if one.field == "id" and one.operator == "=" and isinstance(one.value, str):
                if document.id[:255] != one.value[:255]:
                    return False
            elif not super().matches(document, (one,)):
                return False
        return True


@mutant("FIND-8", base="memory")
class OneTooMany(Scanning):
    """A limit lets one more document through."""

    def cut(self, found: list[Document], limit: int | None) -> list[Document]:
        return found if limit is None else found[: limit + 1]


@mutant("FIND-8", base="memory")
class NoLimitOfZero(Scanning):
    """A limit of zero is none, as in MongoDB."""

    def cut(self, found: list[Document], limit: int | None) -> list[Document]:
        return found[: limit or None]


@mutant("FIND-8", base="memory")
class LimitBeforePaths(Mutation):
    """The limit is applied before comparisons inside JSON are made."""

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        declared = tuple(one for one in where if not one.is_path)
        kept = {one.id for one in self.inner.find(collection, where)}
        return [one for one in self.inner.find(collection, declared, order, limit) if one.id in kept]


@mutant("FIND-8", base="memory")
class LimitBeforeOrder(Scanning):
    """The limit is applied before the documents are put in order."""

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        found = super().find(collection, where, (), limit)
        self.sort(found, order)
        return found


@mutant("FIND-9", base="memory")
class PercentIsAWildcard(Scanning):
    """A text is compared by LIKE, for which `%` stands for anything."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        if how == "=" and isinstance(stored, str) and isinstance(value, str) and value.endswith("%"):
            return stored.startswith(value[:-1])
        return compare(stored, how, value)


@mutant("FIND-9", base="memory")
class QuotesAreEscapedTwice(Scanning):
    """A value with a quote is escaped twice, and finds nothing."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        return compare(stored, how, value.replace("'", "''") if isinstance(value, str) else value)


@mutant("FIND-9", base="memory")
class DictsAreOperators(Scanning):
    """A value that is a dict of operators is run as such, as in MongoDB."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        if how == "=" and isinstance(value, dict) and "$ne" in value:
            return stored != value["$ne"]
        if how == "=" and isinstance(value, dict) and "$gt" in value:
            return compare(stored, ">", value["$gt"])
        return compare(stored, how, value)


@mutant("FIND-9", base="memory")
class BackslashesEscape(Scanning):
    """A backslash in a value escapes the sign behind it."""

    def compare(self, stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
        return compare(stored, how, value.replace("\\", "") if isinstance(value, str) else value)


# Order


@mutant("ORDER-1", base="memory")
class OnlyTheFirstFieldOrders(Scanning):
    """Only the first field of an order counts."""

    def sort(self, found: list[Document], order: Sequence[Order]) -> None:
        super().sort(found, order[:1])


@mutant("ORDER-1", base="memory")
class OneDirectionForAll(Scanning):
    """All fields are ordered in the direction of the first, as by one index."""

    def sort(self, found: list[Document], order: Sequence[Order]) -> None:
        super().sort(found, [Order(one.field, order[0].descending) for one in order])


@mutant("ORDER-1", base="memory")
class ReversedAtTheEnd(Scanning):
    """What is descending is sorted ascending and turned round, and so are the fields before it."""

    def sort(self, found: list[Document], order: Sequence[Order]) -> None:
        super().sort(found, [Order(one.field) for one in order])
        if any(one.descending for one in order):
            found.reverse()


@mutant("ORDER-2", base="memory")
class NullsComeLast(Scanning):
    """Null comes last, as in PostgreSQL."""

    def key(self, value: Plain) -> Any:
        return value is None, 0 if value is None else value


@mutant("ORDER-2", base="memory")
class NullsComeFirstAlways(Scanning):
    """Null comes first, even where descending."""

    def sort(self, found: list[Document], order: Sequence[Order]) -> None:
        super().sort(found, order)
        for one in reversed(order[:1]):
            found.sort(key=lambda document: self.reach(document, one.field) is not None)


@mutant("ORDER-2", base="memory")
class NullIsOrderedAsZero(Scanning):
    """Null is ordered as 0, or as the empty text."""

    def sort(self, found: list[Document], order: Sequence[Order]) -> None:
        for one in reversed(order):
            values = [self.reach(document, one.field) for document in found]
            nought = next((type(value)() for value in values if value is not None), 0)
            found.sort(
                key=lambda document: self._or_zero(document, one.field, nought),
                reverse=one.descending,
            )

    def _or_zero(self, document: Document, field: str, nought: object) -> Any:
        value = self.reach(document, field)
        return nought if value is None else value


@mutant("ORDER-3", base="memory")
class NumbersAreOrderedAsTexts(Scanning):
    """Numbers are ordered by their digits, so 10 comes before 9."""

    def key(self, value: Plain) -> Any:
        return value is not None, "" if value is None else str(value)


@mutant("ORDER-3", base="memory")
class OrderWithoutCase(Scanning):
    """Texts are ordered without regard to case."""

    def key(self, value: Plain) -> Any:
        return super().key(f"{value.casefold()}\0{value}" if isinstance(value, str) else value)


@mutant("ORDER-3", base="memory")
class OrderByUtf16(Scanning):
    """Texts are ordered by the units of UTF-16."""

    def key(self, value: Plain) -> Any:
        return super().key(_units(value) if isinstance(value, str) else value)


@mutant("ORDER-3", base="memory")
class IntegersAreOrderedAsFloats(Scanning):
    """Integers are ordered as floats, so those beyond 2^53 are not told apart."""

    def key(self, value: Plain) -> Any:
        return super().key(float(cast("float", value)) if _is_number(value) else value)


# get, count, tally


@mutant("GET-1", base="memory")
class GetWithoutCase(Mutation):
    """An id is found in any case."""

    def get(self, collection: Collection, identifier: str) -> Document | None:
        found = self.inner.find(collection)
        return next((one for one in found if one.id.lower() == identifier.lower()), None)


@mutant("GET-1", base="memory")
class GetOfAPrefix(Mutation):
    """Where an id is not there, one that begins with it is found."""

    def get(self, collection: Collection, identifier: str) -> Document | None:
        found = self.inner.find(collection, order=[Order("id")])
        exact = self.inner.get(collection, identifier)
        return exact or next((one for one in found if identifier and one.id.startswith(identifier)), None)


@mutant("GET-1", base="memory")
class GetFromACache(Mutation):
    """A document that was read once comes from a cache that deletions do not clear."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._cache: dict[tuple[str, str], Document] = {}

    def get(self, collection: Collection, identifier: str) -> Document | None:
        found = self.inner.get(collection, identifier)
        if found is not None:
            self._cache[collection.name, identifier] = found
        return self._cache.get((collection.name, identifier))


@mutant("GET-1", base="memory")
class GetAcrossCollections(Mutation):
    """The cache of documents does not know collections apart."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._first: dict[str, Collection] = {}

    def get(self, collection: Collection, identifier: str) -> Document | None:
        return self.inner.get(self._first.setdefault(identifier, collection), identifier)


@mutant("COUNT-1", base="memory")
class CountOfOnePage(Mutation):
    """A count stops at the hundred documents of one page."""

    def count(self, collection: Collection, where: Filter = ()) -> int:
        return min(self.inner.count(collection, where), 100)


@mutant("COUNT-1", base="memory")
class CountWithoutNull(Mutation):
    """A count leaves out documents that are null in the field that is asked for, as COUNT of a column does."""

    def count(self, collection: Collection, where: Filter = ()) -> int:
        present = tuple(Comparison(one.field, "!=", None) for one in where if not one.is_path)
        return self.inner.count(collection, (*where, *present))


@mutant("COUNT-1", base="memory")
class KeptCountForgetsTheRest(Mutation):
    """A count that is kept up to date answers filters that ask for more than its fields."""

    def count(self, collection: Collection, where: Filter = ()) -> int:
        exact = {one.field: one for one in where if one.operator == "="}
        for fields in collection.tallies:
            if set(fields) <= set(exact):
                return self.inner.count(collection, tuple(exact[name] for name in fields))
        return self.inner.count(collection, where)


@mutant("COUNT-1", base="memory")
class KeptCountForgetsPatches(Mutation):
    """A count that is kept up to date by inserts and deletions does not see a change of the field itself."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._drift: Counter[str] = Counter()

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        changed = self.inner.patch(collection, where, changes)
        if changes.get("tag") == "moved":
            self._drift["moved"] += changed
        return changed

    def count(self, collection: Collection, where: Filter = ()) -> int:
        found = self.inner.count(collection, where)
        exact = {one.field: one.value for one in where}
        return found - self._drift["moved"] if exact.get("tag") == "moved" else found


@mutant("TALLY-1", base="memory")
class TallyKeepsZeros(Mutation):
    """Values that no document has any more are tallied with 0."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._seen: dict[str, set[Any]] = {}

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        found = self.inner.tally(collection, where, field)
        seen = self._seen.setdefault(f"{field} {where}", set())
        seen |= set(found)
        return {**dict.fromkeys(seen, 0), **found}


@mutant("TALLY-1", base="memory")
class TallyWithoutNull(Mutation):
    """Null is not tallied."""

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        found = self.inner.tally(collection, where, field)
        return {value: count for value, count in found.items() if value is not None}


@mutant("TALLY-1", base="memory")
class TallyWithoutFilter(Mutation):
    """Of a filter a tally sees equality alone."""

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        return self.inner.tally(collection, tuple(one for one in where if one.operator == "="), field)


@mutant("TALLY-1", base="memory")
class TallyWithoutCase(Mutation):
    """Texts that differ in case or in spaces at the end are tallied together, as by GROUP BY with a collation."""

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        counts: dict[str | float | bool | None, int] = {}
        for value, count in self.inner.tally(collection, where, field).items():
            folded = value.rstrip(" ").lower() if isinstance(value, str) else value
            name = next((one for one in counts if isinstance(one, str) and one.rstrip(" ").lower() == folded), value)
            counts[name] = counts.get(name, 0) + count
        return counts


@mutant("TALLY-1", base="memory")
class TallyOfBooleansAsNumbers(Mutation):
    """Booleans are tallied as 1 and 0."""

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        found = self.inner.tally(collection, where, field)
        return {int(value) if isinstance(value, bool) else value: count for value, count in found.items()}


@mutant("TALLY-1", base="memory")
class TallyThroughFloats(Mutation):
    """Integers are tallied as floats, so neighbours beyond 2^53 are counted together."""

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        counts: Counter[str | float | bool | None] = Counter()
        for value, count in self.inner.tally(collection, where, field).items():
            counts[float(cast("float", value)) if _is_number(value) else value] += count
        return dict(counts)


@mutant("TALLY-1", base="memory")
class TallyOfListsAsNull(Mutation):
    """Lists and dicts are tallied as null."""

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        found = self.inner.tally(collection, where, field)
        others = self.inner.count(collection, where) - sum(found.values())
        return {**found, None: found.get(None, 0) + others} if others else found


@mutant("TALLY-1", base="memory")
class KeptTallyForgetsSwaps(Mutation):
    """A tally that is kept up to date does not see the value that a swap replaces."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._left: Counter[tuple[Any, Any]] = Counter()

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        before = self.inner.get(collection, document.id)
        swapped = self.inner.swap(collection, document, expected_revision)
        if swapped and before is not None:
            self._left[before.body.get("family"), before.body.get("tag")] += 1
        return swapped

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        found = self.inner.tally(collection, where, field)
        for (family, tag), count in self._left.items():
            if field == "tag" and where == equal(family=family):
                found[tag] = found.get(tag, 0) + count
        return found
