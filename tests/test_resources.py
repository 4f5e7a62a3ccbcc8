"""Resources: one taker at a time, leases that run out, and only the holder gives back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import moorage
from doubles import FaultyDriver, in_threads, storage_over
from moorage import Capability, Instant, Resource, Storage
from moorage.errors import (
    DuplicateResource,
    InvalidArgument,
    InvalidType,
    MissingArguments,
    ReservationLost,
    ResourceNotFound,
)
from moorage.memory import MemoryDriver

if TYPE_CHECKING:
    from collections.abc import Iterator


class TurnedDriver(MemoryDriver):
    """A driver whose clock is turned by hand."""

    seconds = 0.0

    def now(self) -> Instant:
        return Instant("by hand", self.seconds)


@pytest.fixture
def memory() -> Iterator[Storage]:
    with moorage.connect("memory://") as opened:
        yield opened


def names(found: list[Resource]) -> list[str]:
    return [one.name for one in found]


def add(storage: Storage, *wanted: str, kind: str = "gpu") -> list[Resource]:
    return [storage.add_resource(name=name, kind=kind) for name in wanted]


def test_a_resource_is_added_free(storage: Storage) -> None:
    by_keywords = storage.add_resource(name="b", kind="gpu", labels={"memory": 80})
    by_dict = storage.add_resource({"name": "a"}, kind="cpu")
    by_record = storage.add_resource(Resource(name="c", holder="someone", lease=5, token=9))
    assert storage.fetch_resources() == [by_dict, by_keywords, by_record]
    assert (by_record.holder, by_record.lease, by_record.token, by_record.kind) == (None, None, 0, "resource")
    assert names(storage.fetch_resources("gpu")) == ["b"]
    assert names(storage.fetch_resources(kind="none")) == []
    for fields in ({"name": "a"}, {"name": "d", "id": by_dict.id}):
        with pytest.raises(DuplicateResource, match="stored already"):
            storage.add_resource(**fields)


def test_the_first_free_one_of_a_kind_is_taken(storage: Storage) -> None:
    add(storage, "gpu1", "gpu0")
    add(storage, "cpu0", kind="cpu")
    first = storage.take_resource("gpu", "me", lease=30)
    assert (first.name, first.holder, first.lease, first.token) == ("gpu0", "me", 30.0, 1)
    assert first.heartbeat is not None
    second = storage.take_resource(kind="gpu")
    assert (second.name, f":{os.getpid()}:" in second.holder) == ("gpu1", True)
    assert storage.take_resource("gpu", "you") is None
    assert storage.take_resource("none", "you") is None
    assert names(storage.fetch_resources(free=True)) == ["cpu0"]
    assert names(storage.fetch_resources("gpu", free=False)) == ["gpu0", "gpu1"]
    storage.free_resource(first)
    assert storage.take_resource("gpu", "you").token == 2


def test_one_is_taken_by_its_id(storage: Storage) -> None:
    first, second = add(storage, "a", "b")
    assert storage.take_resource(id=second.id, holder="me").name == "b"
    assert storage.take_resource(id=second.id, holder="you") is None
    assert storage.take_resource("gpu", "you", id=first.id).name == "a"
    storage.free_resource(first.id, "you")
    assert storage.take_resource("other", "you", id=first.id) is None
    with pytest.raises(ResourceNotFound, match="'none'"):
        storage.take_resource(id="none")


def test_many_who_take_get_one_each(storage: Storage) -> None:
    add(storage, *(f"gpu{place}" for place in range(5)))
    found = in_threads(8, lambda place: storage.take_resource("gpu", f"worker {place}"))
    taken = [one for one in found if one is not None]
    assert sorted(names(taken)) == [f"gpu{place}" for place in range(5)]
    assert {one.name: one.holder for one in taken} == {one.name: one.holder for one in storage.fetch_resources()}


def test_only_the_holder_renews_and_frees(storage: Storage) -> None:
    (resource,) = add(storage, "gpu0")
    taken = storage.take_resource("gpu", "me")
    for verb in (storage.free_resource, storage.renew_resource):
        with pytest.raises(ReservationLost, match="'gpu0' is not held by 'you' any more, but by 'me'; nothing was"):
            verb(taken, "you")
        with pytest.raises(ReservationLost, match="but by 'me'"):
            verb(resource.id)
        with pytest.raises(ResourceNotFound, match="'none'"):
            verb("none", "me")
    storage.renew_resource(taken, lease=99)
    assert storage.fetch_resources()[0].lease == 99.0
    storage.renew_resource(taken.id, "me")
    storage.free_resource(taken.id, "me")
    assert storage.fetch_resources(free=True)[0].holder is None
    with pytest.raises(ReservationLost, match="not held by 'me' any more, but free"):
        storage.free_resource(taken)


def test_a_stale_record_of_the_same_holder_is_no_proof(storage: Storage) -> None:
    add(storage, "gpu0")
    stale = storage.take_resource("gpu", "me")
    storage.free_resource(stale)
    taken = storage.take_resource("gpu", "me")
    for verb in (storage.free_resource, storage.renew_resource):
        with pytest.raises(ReservationLost):
            verb(stale)
    storage.free_resource(taken)


def test_all_of_a_holder_are_freed(storage: Storage) -> None:
    add(storage, "a", "b", "c")
    for holder in ("me", "you", "me"):
        storage.take_resource("gpu", holder)
    assert storage.free_resources("me") == 2
    assert storage.free_resources("me") == 0
    assert names(storage.fetch_resources(free=False)) == ["b"]
    storage.take_resource("gpu")
    assert storage.free_resources() == 1


def test_the_lease_of_a_dead_holder_runs_out() -> None:
    driver = TurnedDriver()
    storage = storage_over(driver)
    add(storage, "gpu0")
    dead = storage.take_resource("gpu", "dead", lease=10)
    driver.seconds = 8
    storage.renew_resource(dead)
    driver.seconds = 18
    assert storage.take_resource("gpu", "me") is None
    assert storage.fetch_resources(free=True) == []
    driver.seconds = 18.1
    assert names(storage.fetch_resources(free=True)) == ["gpu0"]
    taken = storage.take_resource("gpu", "me", lease=5)
    assert (taken.holder, taken.token) == ("me", 2)
    for verb in (storage.renew_resource, storage.free_resource):
        with pytest.raises(ReservationLost, match="by 'me'"):
            verb(dead)
    assert storage.take_resource("gpu", "you") is None


def test_one_of_many_takes_what_a_dead_holder_left() -> None:
    driver = TurnedDriver()
    storage = storage_over(driver)
    add(storage, "gpu0")
    storage.take_resource("gpu", "dead", lease=1)
    driver.seconds = 2
    found = in_threads(6, lambda place: storage.take_resource("gpu", f"worker {place}", lease=9))
    assert sum(one is not None for one in found) == 1


def test_who_looked_before_another_took_it_does_not_take_it_as_well() -> None:
    inner = TurnedDriver()
    driver = FaultyDriver(inner)
    storage, other = storage_over(driver), storage_over(inner)
    add(storage, "gpu0")
    storage.take_resource("gpu", "dead", lease=1)
    inner.seconds = 2
    taken: list[Resource | None] = []

    def find(*arguments: object, **fields: object) -> object:
        found = inner.find(*arguments, **fields)
        if found and not taken:
            taken.append(other.take_resource("gpu", "other", lease=9))
        return found

    driver.find = find
    assert storage.take_resource("gpu", "me") is None
    assert other.fetch_resources()[0] == taken[0]


def test_without_a_shared_clock_a_lease_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(moorage.leases, "elapsed", lambda: now[0])
    storage = storage_over(FaultyDriver(without=[Capability.SERVER_CLOCK]))
    add(storage, "gpu0")
    held = storage.take_resource("gpu", "me", lease=10)
    assert storage.take_resource("gpu", "you") is None
    now[0] = 9
    storage.renew_resource(held)
    assert storage.take_resource("gpu", "you") is None
    now[0] = 19
    assert storage.take_resource("gpu", "you") is None
    now[0] = 20
    assert storage.take_resource("gpu", "you").holder == "you"


def test_removing(storage: Storage) -> None:
    first, second = add(storage, "a", "b")
    storage.remove_resource(first)
    storage.remove_resource(second.id)
    assert storage.fetch_resources() == []
    with pytest.raises(ResourceNotFound, match=first.id):
        storage.remove_resource(first)


def test_wrong_resources(memory: Storage) -> None:
    (resource,) = add(memory, "a")
    for given, error, says in (
        (None, MissingArguments, "needs a name"),
        (5, InvalidType, "a dict or a record, not int: 5"),
        ({"name": "x", "colour": 1}, InvalidArgument, "'colour'"),
        ({"name": 5}, InvalidType, "Resource.name"),
    ):
        with pytest.raises(error, match=says):
            memory.add_resource(given)
    with pytest.raises(MissingArguments, match="kind=…, or id=…"):
        memory.take_resource()
    for lease in (0, -1, float("nan"), float("inf"), 10**400, "1", None, True):
        with pytest.raises((InvalidArgument, InvalidType), match="lease"):
            memory.take_resource("gpu", "me", lease=lease)
    for field in ("kind", "holder", "id"):
        with pytest.raises(InvalidType, match=field):
            memory.take_resource(**{"kind": "gpu", field: 5})
    for verb in (memory.free_resource, memory.renew_resource, memory.remove_resource):
        for wrong in (5, None):
            with pytest.raises(InvalidType, match="the id of a resource must be a str"):
                verb(wrong)
    with pytest.raises(InvalidType, match="holder"):
        memory.free_resources(5)
    assert memory.fetch_resources() == [resource]
