"""Dump, load and copy: nothing is lost, nothing is overwritten, and whatever is torn is noticed."""

from __future__ import annotations

import datetime
import io
import json
import math
from typing import TYPE_CHECKING

import pytest

import moorage
from moorage import transfer
from moorage.errors import ConflictingArguments, SchemaMismatch, StorageDamaged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

np = pytest.importorskip("numpy")

NASTY: dict[str, object] = {
    "nan": math.nan,
    "infinities": [math.inf, -math.inf],
    "minus zero": -0.0,
    "tiny": 5e-324,
    "large": 2**200,
    "long": 2**63 - 1,
    "tuple": (1, (2, "x")),
    "bytes": b"\0\xff",
    "set": {1, 2},
    "array": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scalar": np.float64(0.1),
    "text": "é 日本 😀 ‮ \x1b[31m \x85",
    "nul": "a\0b",
    "surrogate": "\ud800",
    "tag": {"~float": "nan"},
    "keys": {1: "one", (2, 3): "pair"},
    "dots": {"a.b": {"c": 1}},
    "order": {"z": 1, "a": 2},
    "time": datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC),
    "nothing": None,
    "empty": [{}, [], ""],
}


def fill(storage: moorage.Storage, trials: int = 250) -> moorage.Experiment:
    experiment = storage.create_experiment(
        name="nasty é", metadata=NASTY, space={"x": "uniform(0, 1)"}, algorithm={"random": {"seed": 1}}
    )
    storage.register_trials(
        experiment, [{"x": place / 1000, "kind": ["a", (1, 2)][place % 2]} for place in range(trials)]
    )
    trial = storage.reserve_trial(experiment, worker="w")
    assert trial is not None
    with storage.running(trial) as run:
        for value in (1.0, math.nan, math.inf, -0.0):
            run.report(value)
        run.results({"objective": math.nan, "extra": NASTY["array"]})
    storage.reserve_trial(experiment)
    with storage.acquire_algorithm_lock(experiment) as handle:
        handle.set_state({"small": NASTY["array"], "large": "x" * 1_200_000})
    storage.add_resource(name="gpu0", kind="gpu")
    storage.create_benchmark(name="compare", algorithms=[NASTY["tuple"]])
    return experiment


def dumped(storage: moorage.ReadOnlyStorage) -> bytes:
    stream = io.BytesIO()
    transfer.dump(storage, stream)
    return stream.getvalue()


def lines(dump: bytes) -> list[bytes]:
    return dump.splitlines(keepends=True)


@pytest.fixture
def source() -> moorage.Storage:
    storage = moorage.connect("memory://")
    fill(storage)
    return storage


@pytest.fixture
def empty() -> Callable[[], moorage.Storage]:
    return lambda: moorage.connect("memory://")


def test_a_dump_is_loaded_into_every_backend_without_loss(source: moorage.Storage, storage: moorage.Storage) -> None:
    dump = dumped(source)
    loaded = transfer.load(storage, io.BytesIO(dump))
    assert (loaded.conflicting, loaded.present) == (0, 0)
    assert transfer.digest(storage) == transfer.digest(source) == loaded.digest
    assert transfer.count(storage) == transfer.count(source)
    assert [line for line in lines(dumped(storage)) if b'"created":"' not in line[:90]] == [
        line for line in lines(dump) if b'"created":"' not in line[:90]
    ]
    (before,), (after,) = source.fetch_experiments(), storage.fetch_experiments()
    assert repr(after) == repr(before)
    assert list(after.metadata["order"]) == ["z", "a"]  # type: ignore[call-overload]
    assert [repr(one) for one in storage.fetch_trials(after)] == [repr(one) for one in source.fetch_trials(before)]
    assert repr(storage.get_algorithm_lock_info(after).state) == repr(source.get_algorithm_lock_info(before).state)
    assert storage.reserve_trial(after) is not None


def test_storages_are_copied_between_backends(source: moorage.Storage, storage: moorage.Storage) -> None:
    assert transfer.copy(source, storage).documents == sum(transfer.count(source).values())
    again = transfer.copy(source, storage)
    assert (again.documents, again.present, again.conflicting) == (0, sum(transfer.count(source).values()), 0)
    back = moorage.connect("memory://")
    transfer.copy(storage, back)
    assert transfer.digest(back) == transfer.digest(source)


FAMILIES = ("sqlite", "json", "mongodb", "mlflow")


@pytest.mark.parametrize("target", FAMILIES)
@pytest.mark.parametrize("origin", FAMILIES)
def test_a_study_is_copied_from_each_backend_to_each(
    origin: str, target: str, fresh_storage_url: Callable[[str], str]
) -> None:
    with moorage.connect(fresh_storage_url(origin)) as first, moorage.connect(fresh_storage_url(target)) as second:
        fill(first, trials=20)
        summary = transfer.copy(first, second)
        assert summary.documents == sum(transfer.count(first).values()) > 20
        assert transfer.digest(second) == transfer.digest(first) == summary.digest


def test_a_storage_is_not_copied_to_itself(source: moorage.Storage) -> None:
    with pytest.raises(ConflictingArguments):
        transfer.copy(source, source)


def test_the_digest_tells_every_change(source: moorage.Storage) -> None:
    before = transfer.digest(source)
    assert transfer.digest(source) == before
    (experiment,) = source.fetch_experiments()
    trial = source.fetch_trials(experiment, limit=1)[0]
    source.update_trial(trial, worker="other")
    assert transfer.digest(source) != before


def test_the_digest_does_not_depend_on_order(source: moorage.Storage, empty: Callable[[], moorage.Storage]) -> None:
    header, *documents, trailer = lines(dumped(source))
    target = empty()
    loaded = transfer.load(target, [header, *reversed(documents), trailer])
    assert loaded.digest == transfer.digest(target) == transfer.digest(source)


def test_experiments_come_after_their_parts(source: moorage.Storage) -> None:
    collections = [json.loads(line).get("collection") for line in lines(dumped(source))[1:-1]]
    assert collections.index("experiments") > max(
        place for place, name in enumerate(collections) if name in ("trials", "measurements", "algorithm_locks")
    )


@pytest.mark.parametrize("kept", [0, 0.1, 0.5, 0.99])
def test_a_torn_dump_is_noticed_and_resumed(
    source: moorage.Storage, empty: Callable[[], moorage.Storage], tmp_path: Path, kept: float
) -> None:
    whole = dumped(source)
    torn = whole[: int(len(whole) * kept)]
    target = empty()
    with pytest.raises(StorageDamaged, match="incomplete"):
        transfer.load(target, io.BytesIO(torn))
    path = tmp_path / "torn.jsonl"
    path.write_bytes(torn)
    with path.open("r+b") as stream:
        written = transfer.resume(source, stream)
    assert lines(path.read_bytes())[1:] == lines(whole)[1:]
    assert written.digest == transfer.digest(source)
    with path.open("rb") as stream:
        loaded = transfer.load(target, stream)
    assert loaded.conflicting == 0
    assert transfer.digest(target) == transfer.digest(source)


def test_every_tear_is_noticed(empty: Callable[[], moorage.Storage]) -> None:
    storage = empty()
    storage.create_experiment(name="a")
    storage.add_resource(name="gpu")
    whole = dumped(storage)
    # Without its last line end, the dump is still whole.
    for length in range(len(whole) - 1):
        with pytest.raises(StorageDamaged):
            transfer.load(empty(), io.BytesIO(whole[:length]))
    transfer.load(empty(), io.BytesIO(whole[:-1]))


def test_resuming_a_complete_dump_changes_nothing(source: moorage.Storage, tmp_path: Path) -> None:
    path = tmp_path / "whole.jsonl"
    path.write_bytes(dumped(source))
    before = path.read_bytes()
    with path.open("r+b") as stream:
        written = transfer.resume(source, stream)
    assert written.resumed == written.documents == sum(transfer.count(source).values())
    assert path.read_bytes() == before


def test_conflicts_are_reported_and_nothing_is_overwritten(
    source: moorage.Storage, empty: Callable[[], moorage.Storage]
) -> None:
    dump = dumped(source)
    target = empty()
    transfer.load(target, io.BytesIO(dump))
    (experiment,) = target.fetch_experiments()
    changed = target.fetch_trials(experiment, limit=3)
    for one in changed:
        target.update_trial(one.id, experiment_uid=experiment, worker="changed here")
    loaded = transfer.load(target, io.BytesIO(dump))
    assert loaded.conflicting == 3
    assert loaded.documents == 0
    assert {one.collection for one in loaded.conflicts} == {"trials"}
    assert [one.worker for one in target.fetch_trials(experiment, limit=3)] == ["changed here"] * 3


def test_a_taken_name_is_a_conflict(source: moorage.Storage, empty: Callable[[], moorage.Storage]) -> None:
    target = empty()
    target.add_resource(name="gpu0", kind="another")
    loaded = transfer.copy(source, target)
    assert loaded.conflicting == 1
    assert "name 'gpu0'" in loaded.conflicts[0].reason
    assert target.fetch_resources()[0].kind == "another"


def test_a_damaged_dump_is_refused(source: moorage.Storage, empty: Callable[[], moorage.Storage]) -> None:
    whole = lines(dumped(source))
    place = next(place for place, line in enumerate(whole) if b'"trials"' in line and b'"x":0.1' in line)
    altered = [*whole[:place], whole[place].replace(b'"x":0.1', b'"x":0.2'), *whole[place + 1 :]]
    missing = [*whole[:place], *whole[place + 1 :]]
    twice = [*whole[:place], whole[place], *whole[place:]]
    cut = [*whole[:place], whole[place][:40] + b"\n", *whole[place + 1 :]]
    longer = [*whole, whole[place]]
    for damaged in (altered, missing, twice, cut, longer):
        with pytest.raises(StorageDamaged):
            transfer.load(empty(), io.BytesIO(b"".join(damaged)))


@pytest.mark.parametrize(
    "body",
    [
        '{"objective":NaN}',
        '{"objective":1e999}',
        '{"token":9223372036854775808}',
        '{"worker":"a\\u0000b"}',
        '{"worker":"\\ud800"}',
        "[]",
    ],
)
def test_values_that_databases_do_not_keep_are_refused(empty: Callable[[], moorage.Storage], body: str) -> None:
    header = b'{"moorage":"dump","format":1,"schema":1}\n'
    line = f'{{"collection":"trials","id":"x","body":{body}}}\n'.encode()
    storage = empty()
    with pytest.raises(StorageDamaged, match="line 2"):
        transfer.load(storage, io.BytesIO(header + line))
    assert storage.is_empty()


@pytest.mark.parametrize("line", [b"", b"hello\n", b"{}\n", b'{"moorage":"dump"}\n', b"\xff\xfe\n"])
def test_what_is_no_dump_is_refused(empty: Callable[[], moorage.Storage], line: bytes) -> None:
    with pytest.raises(StorageDamaged):
        transfer.load(empty(), io.BytesIO(line))


@pytest.mark.parametrize("newer", [{"format": 99, "schema": 1}, {"format": 1, "schema": 99}])
def test_dumps_of_a_newer_release_are_refused(empty: Callable[[], moorage.Storage], newer: dict[str, int]) -> None:
    header = json.dumps({"moorage": "dump", **newer}).encode() + b"\n"
    with pytest.raises(SchemaMismatch, match="newer Moorage"):
        transfer.load(empty(), io.BytesIO(header))


def test_progress_counts_every_document(source: moorage.Storage, empty: Callable[[], moorage.Storage]) -> None:
    total = sum(transfer.count(source).values())
    steps: list[int] = []
    transfer.dump(source, io.BytesIO(), progress=steps.append)
    assert sum(steps) == total
    steps.clear()
    transfer.copy(source, empty(), progress=steps.append)
    assert sum(steps) == total


def test_pages_stay_small_where_documents_are_large(
    empty: Callable[[], moorage.Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = empty()
    for place in range(120):
        storage.create_benchmark(name=f"b{place:03}", metadata={"text": "x" * 100_000})
    sizes: list[int] = []
    find = storage.driver.find

    def counting(*arguments: object, **named: object) -> list[moorage.Document]:
        found = find(*arguments, **named)  # type: ignore[arg-type]
        sizes.append(len(found))
        return found

    monkeypatch.setattr(storage.driver, "find", counting)
    transfer.digest(storage)
    assert sum(sizes) == 120
    assert max(sizes[sizes.index(100) + 1 :]) < 60
