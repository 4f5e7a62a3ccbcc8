"""Counts by the values of a field: the same on every backend, by the default and by the override."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moorage.driver import Document, Driver
from moorage.filters import Comparison, Filter, equal
from moorage.schema import RESOURCES, TRIALS

if TYPE_CHECKING:
    from moorage import Storage


def trial(number: int, experiment: str | None, status: str | None, pending: bool | None) -> Document:
    body = {
        "experiment": experiment,
        "status": status,
        "pending": pending,
        "token": number % 3,
        "params": {"x": number},
    }
    return Document(f"t{number}", body)  # type: ignore[arg-type]  # a dict of plain values


FILTERS: list[Filter] = [
    (),
    equal(experiment="a"),
    equal(experiment="b"),
    equal(experiment="nobody"),
    equal(experiment=None),
    equal(experiment="a", status="new"),
    equal(experiment="a", pending=True),
    (Comparison("experiment", "in", ("a", "b")),),
    (Comparison("experiment", "in", ()),),
    (*equal(experiment="a"), Comparison("params.x", ">", 4)),
]


@pytest.mark.parametrize("field", ["status", "experiment", "pending", "token", "worker"])
def test_the_override_counts_as_the_default_does(storage: Storage, field: str) -> None:
    driver = storage.driver
    kinds = [("a", "new", True), ("a", "reserved", False), ("b", "new", True), ("a", None, None), (None, "new", None)]
    driver.insert(TRIALS, [trial(number, *kinds[number % len(kinds)]) for number in range(23)])
    driver.patch(TRIALS, equal(id="t0"), {"status": "reserved"})
    driver.delete(TRIALS, equal(experiment="b"))
    driver.patch(TRIALS, equal(experiment="a", status="reserved"), {"status": "completed"})  # nobody is left in a group
    for where in FILTERS:
        counted = driver.tally(TRIALS, where, field)
        assert counted == Driver.tally(driver, TRIALS, where, field), where
        assert 0 not in counted.values()
        assert {type(value) for value in counted} == {
            type(value) for value in Driver.tally(driver, TRIALS, where, field)
        }


def test_counts_of_a_collection_without_tallies(storage: Storage) -> None:
    for number in range(5):
        storage.add_resource(name=f"gpu{number}", kind="gpu" if number % 2 else "cpu")
    assert storage.driver.tally(RESOURCES, (), "kind") == {"cpu": 3, "gpu": 2}
