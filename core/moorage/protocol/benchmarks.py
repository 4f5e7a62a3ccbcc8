"""Benchmarks: comparisons of algorithms."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import attrs

from moorage import mapping
from moorage.errors import BenchmarkNotFound, ConflictingArguments, DuplicateBenchmark, MissingArguments
from moorage.filters import Order, equal
from moorage.protocol.asking import Query, Row, Selection, field_names, query_filter, select
from moorage.protocol.base import Base
from moorage.protocol.giving import check_fields, fields_given
from moorage.records import Benchmark, check_text
from moorage.schema import BENCHMARKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class ReadBenchmarks(Base):
    """The verb that reads benchmarks."""

    @overload
    def fetch_benchmark(self, query: Query = None, selection: None = None) -> list[Benchmark]: ...
    @overload
    def fetch_benchmark(self, query: Query = None, *, selection: Sequence[str]) -> list[Row]: ...
    def fetch_benchmark(self, query: Query = None, selection: Selection = None) -> list[Benchmark] | list[Row]:
        """The benchmarks that match, by name.

        Raises:
            InvalidQuery: an unknown field or operator.
        """
        found = self._waist.find(BENCHMARKS, query_filter(query, BENCHMARKS, "query"), [Order("name")])
        records = [mapping.BENCHMARKS.record(one) for one in found]
        return records if selection is None else select(records, selection, field_names(Benchmark))

    def _benchmark_id(self, benchmark: Benchmark | str | None, uid: str | None) -> str:
        given = benchmark.id if isinstance(benchmark, Benchmark) else benchmark
        if given is None and uid is None:
            raise MissingArguments("name the benchmark: give the record, or its id as uid=…")
        if given is not None and uid is not None and given != uid:
            raise ConflictingArguments(f"two benchmarks are named, {given!r} and uid={uid!r}: give one of them")
        identifier = check_text("the id of a benchmark", given if given is not None else uid)
        if self._waist.get(BENCHMARKS, identifier) is None:
            raise BenchmarkNotFound(f"no benchmark with the id {identifier!r} is stored")
        return identifier


class WriteBenchmarks(ReadBenchmarks):
    """The verbs that create and delete benchmarks."""

    def create_benchmark(
        self, benchmark: Benchmark | Mapping[str, object] | None = None, **fields: object
    ) -> Benchmark:
        """Create a benchmark, given as a record, a dict or keywords.

        Raises:
            DuplicateBenchmark: the name is taken.
        """
        if isinstance(benchmark, Benchmark):
            check_fields(Benchmark, fields, field_names(Benchmark))
            created = attrs.evolve(benchmark, **fields)  # type: ignore[arg-type]  # checked by the record
        else:
            given = fields_given("a benchmark", benchmark, fields)
            check_fields(Benchmark, given, field_names(Benchmark))
            if "name" not in given:
                raise MissingArguments("a benchmark needs a name: create_benchmark(name=…)")
            created = Benchmark(**given)  # type: ignore[arg-type]  # checked by the record
        if self._waist.insert(BENCHMARKS, [mapping.BENCHMARKS.document(created)]):
            raise DuplicateBenchmark(f"a benchmark {created.name!r} is stored already; choose another name")
        return created

    def delete_benchmark(self, benchmark: Benchmark | str | None = None, *, uid: str | None = None) -> None:
        """Delete a benchmark, given as the record or its id.

        Raises:
            BenchmarkNotFound: there is none.
        """
        self._waist.delete(BENCHMARKS, equal(id=self._benchmark_id(benchmark, uid)))
