"""Queries: the meaning of each comparison is the same on every backend, and what cannot be meant is refused."""

from __future__ import annotations

import datetime
import enum
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage import ExperimentStatus, Trial, TrialStatus
from moorage.comparing import values_at
from moorage.errors import InvalidQuery
from moorage.filters import Comparison, compare, lookup, parse
from moorage.schema import EXPERIMENTS, TRIALS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moorage import Storage

# The table of meanings: stored, operator, value, whether they match.

TABLE = [
    (None, "=", None, True),
    (None, "!=", None, False),
    (None, "=", 0, False),
    (None, "!=", 0, True),
    (None, "=", "", False),
    (None, "=", False, False),
    (None, "<", 1, False),
    (None, ">=", None, False),
    (1, ">=", None, False),
    (1, "=", None, False),
    (1, "!=", None, True),
    (1, "=", 1.0, True),
    (1, "=", True, False),
    (True, "=", 1, False),
    (True, "=", True, True),
    (True, "!=", 1, True),
    (False, "<", True, False),
    (0, "<", True, False),
    (1, "=", "1", False),
    (1, "<", "2", False),
    ("1", "<", 2, False),
    ("a", "<", "b", True),
    ("B", "<", "a", True),
    ("a", "<", "a ", True),
    ("é", ">", "z", True),
    ("\U0001f9ea", ">", "\uffff", True),
    ("a", "=", "A", False),
    ("a", "=", "a ", False),
    ("e\u0301", "=", "é", False),
    (0.5, "<=", 0.5, True),
    (2, ">", 1.5, True),
    (2**53 + 1, "=", float(2**53), False),
    (2**63 - 1, ">", 2**62, True),
    (-0.0, "=", 0, True),
    (5, "in", (1, 5.0), True),
    (5, "in", (True, "5"), False),
    (5, "in", (), False),
    (None, "in", (None, 1), True),
    (None, "in", (1,), False),
    (True, "in", (1,), False),
    ([1, 2], "=", [1, 2], True),
    ([1], "<", [2], False),
    ({"a": 1}, "=", {"a": 1}, True),
    ({"a": 1}, "!=", {"a": 2}, True),
]


@pytest.mark.parametrize(("stored", "operator", "value", "expected"), TABLE)
def test_the_reference_has_the_meaning_of_the_table(
    stored: object, operator: str, value: object, expected: bool
) -> None:
    assert compare(stored, operator, value) is expected


def test_paths_of_every_backend_have_the_meaning_of_the_table(storage: Storage) -> None:
    """Each stored value of the table in the metadata of an experiment, under a name that contains dots."""
    names: dict[str, object] = {}
    for stored, *_ in TABLE:
        names.setdefault(repr(stored), stored)
    for place, stored in enumerate(names.values()):
        storage.create_experiment(name=str(place), metadata={"an": {"inner.name'\"$": stored}})
    words = {"=": "$eq", "!=": "$ne", "<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte", "in": "$in"}
    for _, operator, value, _ in TABLE:
        query = {"metadata.an.inner.name'\"$": {words[operator]: list(value) if operator == "in" else value}}
        found = {int(one.name) for one in storage.fetch_experiments(query)}
        expected = {place for place, stored in enumerate(names.values()) if compare(stored, operator, value)}
        assert found == expected, query


def test_columns_of_every_backend_have_the_meaning_of_the_table(storage: Storage) -> None:
    texts = [None, "a", "A", "a ", "B", "b", "é", "e\u0301", "\U0001f9ea", "\uffff", "1", "%", "_", "\\", "''", '"']
    for place, text in enumerate(texts):
        storage.create_experiment(name=str(place), user=text, error=text)
    for field in ("user", "error"):
        for value in texts:
            for word, operator in (("$eq", "="), ("$ne", "!="), ("$lt", "<"), ("$gte", ">=")):
                found = {int(one.name) for one in storage.fetch_experiments({field: {word: value}})}
                expected = {place for place, text in enumerate(texts) if compare(text, operator, value)}
                assert found == expected, (field, word, value)
    for field in ("user", "error"):
        found = [one.name for one in storage.fetch_experiments({field: {"$in": [None, "a", "\\"]}})]
        assert set(found) == {"0", "1", "13"}


# Against a filter in plain Python

NUMBERS = [0, 1, 2, -1, 0.5, 2.5, 2**53, 2**63 - 1]
TEXTS = ["", "a", "A", "b", "a.b", "é", "\U0001f9ea"]
INNER = [None, True, False, *NUMBERS, *TEXTS, [1], {"b": 1}]
ROWS = [
    {
        "version": place,
        "max_trials": [None, 1, 2, 3][place % 4],
        "heartbeat_timeout": [0.5, 1.0, 120.0][place % 3],
        "user": [None, *TEXTS[1:]][place % 7],
        "status": [str(one) for one in ExperimentStatus][place % 6],
        "metadata": {"a": INNER[place % len(INNER)], "a.b": INNER[(place * 7) % len(INNER)]}
        if place % 5
        else {"a": {"b": INNER[(place * 3) % len(INNER)], "c": {"d": place}}},
    }
    for place in range(40)
]
POOLS: dict[str, list[object]] = {
    "version": [0, 5, 39, 40, 2.5, None],
    "max_trials": [None, 1, 2, 3, 1.0, 1.5],
    "heartbeat_timeout": [0.5, 1, 1.0, 120, None],
    "user": [None, *TEXTS],
    "status": [*(str(one) for one in ExperimentStatus), *ExperimentStatus],
    "metadata.a": INNER,
    "metadata.a.b": INNER,
    "metadata.a.c.d": NUMBERS,
    "metadata.missing": INNER,
}
OPERATORS = ["$eq", "$ne", "$lt", "$lte", "$gt", "$gte", "$in", "$nin"]


def conditions(field: str) -> st.SearchStrategy[tuple[str, object]]:
    values = st.sampled_from(POOLS[field])
    plain = values.filter(lambda value: not isinstance(value, dict))
    operators = st.dictionaries(
        st.sampled_from(OPERATORS),
        st.none(),
        min_size=1,
        max_size=2,
    ).flatmap(
        lambda words: st.fixed_dictionaries(
            {word: st.lists(values, max_size=4) if word in ("$in", "$nin") else values for word in words}
        )
    )
    return st.tuples(st.just(field), plain | operators)


QUERIES = (
    st.lists(st.sampled_from(list(POOLS)), max_size=3, unique=True)
    .flatmap(lambda fields: st.tuples(*(conditions(field) for field in fields)))
    .map(dict)
)


def kind(value: object) -> str:
    if value is None or isinstance(value, bool):
        return str(type(value))
    if isinstance(value, (int, float)):
        return "number"
    return "text" if isinstance(value, str) else "structure"


def meets(stored: object, word: str, value: object) -> bool:
    """The meaning of an operator, written down a second time."""
    if word in ("$in", "$nin"):
        return any(meets(stored, "$eq", one) for one in value) == (word == "$in")
    equal = kind(stored) == kind(value) and stored == value
    if word in ("$eq", "$ne"):
        return equal == (word == "$eq")
    if kind(stored) != kind(value) or kind(stored) not in ("number", "text"):
        return False
    return {"$lt": stored < value, "$lte": stored <= value, "$gt": stored > value, "$gte": stored >= value}[word]


def reach(row: object, path: str) -> list[object]:
    """All that can be meant by a path."""
    found: list[object] = []
    for name, inner in row.items() if isinstance(row, dict) else ():
        if path == name:
            found.append(inner)
        elif path.startswith(f"{name}."):
            found += reach(inner, path[len(name) + 1 :])
    return found


def is_wanted(row: Mapping[str, object], query: Mapping[str, object]) -> bool:
    return all(
        (all if word in ("$ne", "$nin") else any)(meets(stored, word, value) for stored in reach(row, field) or [None])
        for field, condition in query.items()
        for word, value in (condition if isinstance(condition, dict) else {"$eq": condition}).items()
    )


def test_find_equals_a_filter_in_python(storage: Storage) -> None:
    for row in ROWS:
        storage.create_experiment(name="e", **row)

    @settings(max_examples=150)
    @given(QUERIES)
    def check(query: dict[str, object]) -> None:
        found = {one.version for one in storage.fetch_experiments(query)}
        assert found == {row["version"] for row in ROWS if is_wanted(row, query)}

    check()


def test_names_with_dots_are_reached_on_every_backend(storage: Storage) -> None:
    names = ["a.b", "a", "a.b.c", ".", "a.", ".a", "..", "$x.y", "x'y\"z.w", "🧪.🧪", "[0]", "*", "a b"]
    experiment = storage.create_experiment(name="e")
    storage.register_trials(experiment, [{name: place} for place, name in enumerate(names)])
    storage.register_trial(experiment, {"a": {"b": 100, "b.c": 101}})
    for place, name in enumerate(names):
        wanted = [place] + ([100] if name == "a.b" else []) + ([101] if name == "a.b.c" else [])
        for value in wanted:
            (found,) = storage.fetch_trials(experiment, {f"params.{name}": value})
            (row,) = storage.fetch_trials(experiment, {f"params.{name}": value}, selection=[f"params.{name}"])
            assert row == {f"params.{name}": value}
            assert found.params.get(name, value) == value


def test_a_path_is_read_in_every_way_the_longest_name_first() -> None:
    assert values_at({"a": {"b": 1}, "a.b": 2}, "a.b") == [2, 1]
    assert values_at({"x": {"a.b": {"c": 1}, "a": {"b.c": 2, "b": {"c": 3}}, "a.b.c": 4}}, "x.a.b.c") == [4, 1, 2, 3]
    assert values_at({"x": {"a": [1]}}, "x.a.0") == []
    assert lookup({"a": {"b": 1}, "a.b": 2}, "a.b") == 2
    assert lookup({"a": {"b": 1}}, "a.b") == 1
    assert lookup({"a": {"b.c": 1, "b": {"c": 2}}}, "a.b.c") == 1
    assert lookup({"a": 1}, "a.b") is None
    assert lookup({}, "a") is None


# What a query may name


class Word(str, enum.Enum):  # noqa: UP042
    NEW = "new"


def test_values_of_queries_may_be_what_records_hold(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e", status=ExperimentStatus.CREATED)
    storage.register_trials(
        experiment, [{"lr": 0.5}, {"lr": 2}, Trial(params={"lr": 3}, results={"objective": -math.inf})]
    )
    first = storage.fetch_trials(experiment)[0]

    def found(**where: object) -> int:
        return len(storage.fetch_trials(experiment, {name.replace("__", "."): one for name, one in where.items()}))

    assert found(status=TrialStatus.NEW) == 3
    assert found(status={"$in": list(TrialStatus)}) == 3
    assert found(status={"$nin": {TrialStatus.NEW}}) == 0
    assert found(status=Word.NEW) == 3
    assert found(status=np.str_("new")) == 3
    assert found(params__lr=np.float64(0.5)) == 1
    assert found(params__lr={"$gte": np.int64(2)}) == 2
    assert found(params__lr={"$in": np.array([0.5, 3]).tolist()}) == 2
    assert found(token=np.int32(0)) == 3
    assert found(submit_time=first.submit_time) >= 1
    assert found(submit_time={"$lte": datetime.datetime.now(datetime.timezone(datetime.timedelta(hours=-9)))}) == 3
    assert found(objective={"$lt": 0}) == 1
    assert found(objective=-math.inf) == 1
    assert found(objective={"$lt": math.inf}) == 1
    assert storage.fetch_experiments({"status": ExperimentStatus.CREATED}) == [experiment]


def test_the_id_of_a_trial_is_what_users_know_as_its_id(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e")
    trial = storage.register_trial(experiment, Trial(id="mine", params={"x": 1}))
    assert storage.fetch_trials(experiment, {"id": "mine"}) == [trial]
    assert storage.fetch_trials(experiment, {"id": {"$in": ["mine", "yours"]}}) == [trial]
    assert storage.fetch_trials(experiment, {"id": {"$ne": "mine"}}) == []


WRONG_QUERIES = [
    ("status", "must be a dict such as"),
    ([("status", "new")], "must be a dict such as"),
    (5, "not int: 5"),
    ({"stattus": "new"}, r"unknown field 'stattus'. Did you mean 'status'\? The fields of trials are: .*worker"),
    ({"sequence": 1}, "unknown field 'sequence'"),
    ({"pending": True}, "unknown field 'pending'"),
    ({"trial": "x"}, "unknown field 'trial'"),
    ({"revision": 1}, "unknown field 'revision'"),
    ({"body": 1}, "unknown field 'body'"),
    ({5: 1}, "unknown field 5"),
    ({"": 1}, "unknown field ''"),
    ({"'; DROP TABLE trials": 1}, "unknown field"),
    ({"x" * 10**6: 1}, "unknown field"),
    ({"status": {"$equals": "new"}}, r"unknown operator '\$equals' for 'status'.*The operators are: \$eq, \$ne"),
    ({"status": {"$like": "n%"}}, r"unknown operator '\$like'"),
    ({"status": {"$eq": "new", "plain": 1}}, "unknown operator 'plain'"),
    ({"status": {"$in": "new"}}, r"\$in of 'status' takes a list"),
    ({"status": {"$nin": 5}}, r"\$nin of 'status' takes a list"),
    ({"status": 5}, r"'status' is compared with string values, not with 5 \(int\)"),
    ({"status": {"a": 1}}, "compared with string values"),
    ({"status": ["new"]}, "compared with string values"),
    ({"status": {"$in": ["new", 5]}}, "not with 5"),
    ({"token": "1"}, "compared with integer values"),
    ({"token": True}, "compared with integer values"),
    ({"token": 2**70}, "compared with integer values"),
    ({"objective": math.nan}, "compared with number values"),
    ({"objective": {"$lt": math.nan}}, "compared with number values"),
    ({"submit_time": 5}, "compared with time values"),
    ({"submit_time": datetime.datetime(2020, 1, 1)}, "time zone"),
    ({"params": {"lr": 1}}, r"name an inner field of 'params', as in 'params.name'"),
    ({"status.x": 1}, "'status' holds no inner fields"),
    ({"id.x": 1}, "'id' holds no inner fields"),
    ({"params.lr": object}, "cannot be compared with"),
    ({"params.lr": {"$in": [object]}}, "cannot be compared with"),
]


@pytest.mark.parametrize(("query", "says"), WRONG_QUERIES, ids=lambda value: repr(value)[:40])
def test_wrong_queries_are_refused_and_explained(query: object, says: str) -> None:
    with pytest.raises(InvalidQuery, match=says) as caught:
        parse(query, TRIALS, names={"id": "trial"})
    assert str(caught.value).startswith("where")
    assert len(str(caught.value)) < 600
    assert isinstance(caught.value, ValueError)


def test_every_verb_with_a_query_refuses_a_wrong_one(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e")
    trial = storage.register_trial(experiment, {"x": 1})
    wrong = {"colour": "red"}
    for verb in (
        lambda: storage.fetch_experiments(wrong),
        lambda: storage.fetch_experiments(query=wrong),
        lambda: storage.fetch_benchmark(wrong),
        lambda: storage.update_experiment(experiment, wrong, user="me"),
        lambda: storage.fetch_trials(experiment, wrong),
        lambda: storage.iterate_trials(experiment, wrong),
        lambda: storage.count_trials(experiment, where=wrong),
        lambda: storage.update_trial(trial, wrong, worker="me"),
        lambda: storage.update_trials(experiment, wrong, worker="me"),
        lambda: storage.delete_trials(experiment, wrong),
        lambda: storage.fetch_measurements(trial, where=wrong),
    ):
        with pytest.raises(InvalidQuery, match="unknown field 'colour'"):
            verb()
    assert storage.fetch_trials(experiment) == [trial]


def test_an_operator_is_recognised_by_its_dollar_alone() -> None:
    assert parse({"metadata.a": {"b": 1}}, EXPERIMENTS) == (Comparison("metadata.a", "=", {"b": 1}),)
    assert parse({"metadata.a": {}}, EXPERIMENTS) == (Comparison("metadata.a", "=", {}),)
    assert parse({"version": {"$gt": 1, "$lte": 3}}, EXPERIMENTS) == (
        Comparison("version", ">", 1),
        Comparison("version", "<=", 3),
    )
    assert parse(None, EXPERIMENTS) == parse({}, EXPERIMENTS) == ()


def test_wrong_orders_and_selections_are_refused(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e")
    storage.register_trial(experiment, {"x": 1})
    for order in ("stattus", "-stattus", ["status", "params"], "", "-", 5, [5], [None], "pending", "params.x"):
        with pytest.raises(InvalidQuery, match="order"):
            storage.fetch_trials(experiment, order=order)
    for selection in ("status", ["stattus"], [5], 5, ["sequence"], [""], {"status"}):
        with pytest.raises(InvalidQuery, match="selection"):
            storage.fetch_trials(experiment, selection=selection)
        with pytest.raises(InvalidQuery, match="selection"):
            storage.fetch_experiments(selection=selection)
