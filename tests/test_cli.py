"""The command line, as a user and a shell script see it."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import math
import os
import pty
import re
import select
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

import moorage
from moorage import codec
from moorage.cli import app, common
from moorage.cli.look import parse_conditions
from moorage.errors import InvalidQuery
from moorage.plugins import BrokenPlugin, plugins
from moorage.schema import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typer.testing import Result

URL = "sqlite:///hpo.db"
COMMANDS = (
    "backends", "info", "experiments", "trials", "status", "best", "plot",
    "unlock", "recover", "rm", "upgrade", "copy", "dump", "load", "demo",
)  # fmt: skip


def run(*arguments: str, code: int = 0, stdin: str | bytes | None = None, columns: int | None = None) -> Result:
    environment = {"COLUMNS": None if columns is None else str(columns), "NO_COLOR": None}
    result = CliRunner().invoke(app, arguments, input=stdin, env=environment)
    told = f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
    assert result.exit_code == code, told
    assert "Traceback" not in told
    if code:
        assert re.fullmatch(r"(.*\n)*error: [^\n]+\n", result.stderr), told
    return result


PROGRAM = (sys.executable, "-c", "from moorage.cli import main; main()")


def spawn(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,  # type: ignore[call-overload]
    )


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[moorage.Storage]:
    """The storage that the commands find by themselves."""
    monkeypatch.setenv("MOORAGE_STORAGE", f"sqlite:///{tmp_path}/hpo.db")
    with moorage.connect() as opened:
        yield opened


@pytest.fixture
def digits(storage: moorage.Storage) -> moorage.Experiment:
    experiment = storage.create_experiment(
        name="digits", user="ann", max_trials=20, space={"lr": "loguniform(1e-4, 1)"}
    )
    trials = [
        moorage.Trial(
            params={"lr": 10.0 ** -(place % 4), "layers": place, "act": "relu" if place % 2 else "tanh"},
            status="completed",
            results={"objective": abs(place - 6) / 10, "accuracy": place / 10},
            worker=f"node{place % 2}:7",
            start_time=common.utcnow(),
            end_time=common.utcnow(),
        )
        for place in range(10)
    ]
    failed = moorage.Trial(
        params={"lr": 0.5, "layers": 99, "act": "relu"}, status="broken", error="ValueError: bad\n\ntrace"
    )
    storage.register_trials(experiment, [*trials, failed, {"lr": 0.25, "layers": 50, "act": "relu"}])
    return storage.start_experiment(experiment)


def lose_a_trial(storage: moorage.Storage, experiment: moorage.Experiment) -> moorage.Trial:
    trial = storage.reserve_trial(experiment, worker="gone:1")
    assert trial is not None
    long_ago = common.utcnow() - datetime.timedelta(hours=1)
    storage.set_trial_status(trial, "reserved", heartbeat=long_ago, force=True)
    return trial


# The program itself


def test_version_and_help() -> None:
    assert run("--version").stdout == f"moorage {moorage.__version__}\n"
    told = run("--help").stdout
    for command in COMMANDS:
        assert command in told
    for code in ("0", "1", "2", "3", "130"):
        assert re.search(rf"^\s+{code}\s+\w", told, re.MULTILINE)
    assert "[tool.moorage]" in told


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_examples(command: str) -> None:
    told = run(command, "--help", columns=100).stdout
    assert "Examples" in told
    assert f"moorage {command}" in told
    assert "\\b" not in told


def test_nothing_heavy_is_imported_for_the_version() -> None:
    code = (
        "import sys; from moorage.cli import app\n"
        "try: app(['--version'])\nexcept SystemExit: pass\n"
        "print([m for m in ('rich.console', 'matplotlib', 'numpy', 'sqlalchemy', 'sklearn') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["triasl"], "Did you mean 'trials'"),
        (["trials"], "EXPERIMENT"),
        (["--foo"], "--foo"),
        (["trials", "x", "--limit", "0"], "--limit"),
        (["trials", "x", "--status", "finished"], "finished"),
        (["status", "--watch", "-1"], "-1"),
        (["info", URL, "--profile", "x"], "not both"),
        (["plot", "x", "--kind", "pie"], "pie"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str) -> None:
    told = run(*arguments, code=2)
    assert words in told.stderr
    assert told.stdout == ""
    assert len(told.stderr.splitlines()) == 1


# Backends and storages


def test_backends() -> None:
    told = run("backends", columns=80).stdout
    for word in ("memory://", "sqlite://", "durability", "postgresql+psycopg://", "busy_timeout"):
        assert word in told
    listed = json.loads(run("backends", "--json").stdout)
    sqlite = next(one for one in listed["backends"] if one["name"] == "sqlite")
    durability = next(one for one in sqlite["options"] if one["name"] == "durability")
    assert (durability["default"], durability["choices"], durability["kind"]) == ("full", ["full", "fast"], "str")


def test_backends_tell_what_is_missing_and_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = importlib.metadata.distribution

    def without_pymysql(name: str) -> object:
        if name.lower() == "pymysql":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr("importlib.metadata.distribution", without_pymysql)
    monkeypatch.setattr(plugins(), "broken", [BrokenPlugin("mine", "mine.plugin", "ImportError: [red] no")])
    told = run("backends").stdout
    assert 'pip install "moorage[mysql]"' in told
    assert "plugin mine (mine.plugin) is broken: ImportError: [red] no" in told
    listed = json.loads(run("backends", "--json").stdout)
    assert [one["missing"] for one in listed["backends"] if one["name"] in ("mysql", "sqlite")] == [None, "pymysql"]
    assert listed["broken"][0]["name"] == "mine"


def test_info(digits: moorage.Experiment) -> None:
    told = run("info", columns=80).stdout
    for words in ("backend", "sqlite", "durable", f"version {SCHEMA.version}", "size", "trials", "12"):
        assert words in told
    listed = json.loads(run("info", os.environ["MOORAGE_STORAGE"], "--json").stdout)
    assert listed["counts"]["trials"] == 12
    assert listed["schema"] == SCHEMA.version
    assert listed["size"] > 0
    assert listed["latency_ms"] > 0
    assert "shared" in listed["capabilities"]


def test_info_of_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("hello, this is no database at all\n" * 100)
    assert "not an SQLite database" in run("info", "sqlite:///text.db", code=1).stderr
    assert "no file" in run("info", "sqlite:///nothing.db", code=1).stderr
    assert "Did you mean 'sqlite'" in run("info", "sqlit:///x.db", code=1).stderr
    assert "is not a storage URL" in run("info", "hpo.db", code=1).stderr
    assert not (tmp_path / "nothing.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "foo://ann:hunter2@host/db",
        "postgresql://ann:hunter2@127.0.0.1:1/db?connect_timeout=1",
        "sqlite://ann:hunter2@host/x.db",
        "postgresql://ann@host/db?password=hunter2",
        "ann:hunter2@host",
    ],
)
def test_no_secret_is_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "127" in url:
        pytest.importorskip("moorage_sql.postgresql")
    result = CliRunner().invoke(app, ["info", url])
    assert result.exit_code == 1
    if "://" in url:
        assert "hunter2" not in result.stdout + result.stderr
    assert result.stderr.startswith("error: ")


def test_upgrade(storage: moorage.Storage) -> None:
    url = os.environ["MOORAGE_STORAGE"]
    assert f"already current: schema {SCHEMA.version}" in run("upgrade", url).stdout
    storage.close()
    path = url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        schema = next(name for name in tables if "schema" in name)
        connection.execute(f"UPDATE {schema} SET version = 0")
    assert "upgrade" in run("experiments", code=1).stderr
    assert f"from schema 0 to {SCHEMA.version}" in run("upgrade", url).stdout
    assert "already current" in run("upgrade", url).stdout
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE {schema} SET version = 99")
    assert "99" in run("upgrade", url, code=1).stderr


def test_the_storage_comes_from_a_profile(
    storage: moorage.Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.create_experiment(name="here")
    (tmp_path / "moorage.toml").write_text('[profiles.mine]\nurl = "sqlite:///hpo.db"\n')
    monkeypatch.delenv("MOORAGE_STORAGE")
    assert "here" in run("experiments", "--profile", "mine").stdout
    assert "Did you mean 'mine'" in run("experiments", "--profile", "mien", code=1).stderr
    assert "not both" in run("experiments", "-p", "mine", "-s", URL, code=2).stderr


# Experiments and trials


def test_experiments(digits: moorage.Experiment, storage: moorage.Storage) -> None:
    told = run("experiments", columns=80).stdout
    assert re.search(r"digits:1 +running +12 +10", told)
    assert all(len(line.rstrip()) <= 80 for line in told.splitlines())
    (listed,) = json.loads(run("experiments", "--json").stdout)
    assert listed["name"] == "digits"
    assert listed["trials"]["completed"] == 10
    storage.delete_experiment(digits)
    told_nothing = run("experiments")
    assert (told_nothing.stdout, told_nothing.stderr) == ("", "no experiments are stored\n")
    assert json.loads(run("experiments", "--json").stdout) == []


def test_an_experiment_is_named_in_many_ways(storage: moorage.Storage) -> None:
    first = storage.create_experiment(name="net", id="aabbccdd1", version=1)
    second = storage.create_experiment(name="net", id="aabbccee2", version=2)
    colon = storage.create_experiment(name="net:9", id="aabb0000")
    with moorage.connect(read_only=True) as opened:
        for text, meant in (
            ("net", second), ("net:1", first), ("net:2", second), ("net:9", colon), ("aabbccdd1", first),
            ("aabbccd", first), ("aabb0", colon),
        ):  # fmt: skip
            assert common.find_experiment(opened, text).id == meant.id
    assert "begins with 'aabb'" in run("status", "aabb", code=1).stderr
    assert "Did you mean 'net'" in run("status", "nett", code=3).stderr
    assert "has no version 7; there are: 1, 2" in run("status", "net:7", code=3).stderr
    assert "no experiment 'aab'" in run("status", "aab", code=3).stderr
    for command in ("trials", "best", "plot", "unlock", "recover", "rm"):
        run(command, "nothing-like-it", code=3)


def test_trials(digits: moorage.Experiment) -> None:
    told = run("trials", "digits", columns=140)
    assert told.stdout.splitlines()[0].split() == [
        "id", "status", "objective", "lr", "layers", "act", "took", "worker", "error",
    ]  # fmt: skip
    assert "ValueError: bad" in told.stdout
    assert "trace" not in told.stdout
    assert len(told.stdout.splitlines()) == 13
    narrow = run("trials", "digits", columns=60)
    assert all(len(line.rstrip()) <= 60 for line in narrow.stdout.splitlines())
    assert "no room for" in narrow.stderr
    assert "layers" not in run("trials", "digits", "--params", "act,lr").stdout
    assert "Did you mean 'layers'" in run("trials", "digits", "--params", "layer", code=2).stderr
    assert "has no such trials" in run("trials", "digits", "-w", "objective>100").stderr
    piped = run("trials", "digits").stdout
    assert "ValueError: bad" in piped


def test_trials_are_filtered_and_ordered(digits: moorage.Experiment) -> None:
    def layers(*arguments: str) -> list[int]:
        lines = run("trials", "digits", "--json", *arguments).stdout.splitlines()
        return [json.loads(line)["params"]["layers"] for line in lines]

    assert layers() == [*range(10), 99, 50]
    assert layers("--status", "broken", "--status", "new") == [99, 50]
    assert layers("-w", "params.lr<0.01") == [3, 7]
    assert layers("-w", "params.lr >= 0.25", "-w", "params.lr<=0.5") == [99, 50]
    assert layers("-w", "params.act=tanh", "-w", "params.layers!=0", "-w", "status=completed") == [2, 4, 6, 8]
    assert layers("-w", "params.act='tanh'", "-w", "worker=node0:7", "-n", "1") == [0]
    assert layers("-w", "error!=null") == [99]
    assert layers("-w", "objective=null") == [99, 50]
    assert layers("-w", "submit_time>2020-01-01", "-w", "submit_time<2020-01-02") == []
    assert layers("-w", "objective<=0.1", "--order", "objective")[0] == 6
    assert layers("--status", "completed", "--order=-objective,worker", "-n", "2") == [0, 1]
    assert layers("-n", "3") == [0, 1, 2]
    told = run("trials", "digits", "--limit", "3")
    assert len(told.stdout.splitlines()) == 4


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("params.lr", "is not a comparison"),
        ("params.lr<", "is not a comparison"),
        ("<3", "is not a comparison"),
        ("parms.lr<1", "Did you mean 'params'"),
        ("objectiv<1", "Did you mean 'objective'"),
        ("status.x=1", "holds no inner fields"),
        ("objective<good", "objective"),
        ("end_time>yesterday", "2026-01-31T12:00"),
        ("params<1", "name an inner field"),
    ],
)
def test_wrong_conditions(digits: moorage.Experiment, condition: str, words: str) -> None:
    told = run("trials", "digits", "--where", condition, code=2)
    assert words in told.stderr
    if "nknown field" in told.stderr:
        assert "objective, params" in told.stderr


def test_wrong_order(digits: moorage.Experiment) -> None:
    assert "The fields are:" in run("trials", "digits", "--order", "speed", code=2).stderr


def test_conditions_are_parsed() -> None:
    assert parse_conditions(["a.b<=1e-3", "a.b>-2", "c==true", "params.d=x = y", 'params.e="1"', "worker=12"]) == {
        "a.b": {"$lte": 0.001, "$gt": -2},
        "c": {"$eq": True},
        "params.d": {"$eq": "x = y"},
        "params.e": {"$eq": "1"},
        "worker": {"$eq": "12"},
    }
    with pytest.raises(InvalidQuery, match="twice"):
        parse_conditions(["a<1", "a<2"])


def test_a_table_of_trials_is_bounded(storage: moorage.Storage) -> None:
    experiment = storage.create_experiment(name="many")
    storage.register_trials(experiment, [{"x": place} for place in range(250)])
    told = run("trials", "many")
    assert len(told.stdout.splitlines()) == 101
    assert "the first 100 of 250 trials" in told.stderr
    assert len(run("trials", "many", "--json").stdout.splitlines()) == 250
    assert len(run("trials", "many", "-n", "200").stdout.splitlines()) == 201


def test_trials_as_json_lose_nothing(storage: moorage.Storage) -> None:
    experiment = storage.create_experiment(name="nasty")
    params = {"nan": math.nan, "tuple": (1, "é\x1b"), "bytes": b"\0", "inner": {"a": [1, None]}}
    trial = moorage.Trial(params=params, status="completed", results={"objective": math.inf, "n": 2**70})
    storage.register_trial(experiment, trial)
    text = run("trials", "nasty", "--json").stdout
    assert text.isascii()
    stored = json.loads(text)
    assert repr(codec.decode(stored["params"])) == repr(params)
    assert codec.decode(stored["objective"]) == math.inf
    assert codec.decode(stored["results"])["n"] == 2**70  # type: ignore[index]
    assert set(stored) >= {"id", "experiment", "status", "submit_time", "worker", "error", "token", "param_types"}


def test_best(digits: moorage.Experiment) -> None:
    told = run("best", "digits").stdout
    assert re.search(r"objective +0\.0", told)
    assert re.search(r"layers +6", told)
    assert [one["params"]["layers"] for one in json.loads(run("best", "digits", "-n", "3", "--json").stdout)] == [
        6,
        5,
        7,
    ]
    largest = json.loads(run("best", "digits", "--maximize", "--json").stdout)
    assert largest[0]["params"]["layers"] == 0
    assert len(run("best", "digits", "-n", "5").stdout.splitlines()) == 6


def test_best_of_nothing(storage: moorage.Storage) -> None:
    storage.create_experiment(name="empty")
    assert "is completed" in run("best", "empty").stderr
    assert json.loads(run("best", "empty", "--json").stdout) == []


# Status


def test_status(digits: moorage.Experiment, storage: moorage.Storage) -> None:
    lost = lose_a_trial(storage, digits)
    with storage.acquire_algorithm_lock(digits):
        for columns in (80, 140):
            told = run("status", "digits", columns=columns).stdout
            assert all(len(line.rstrip()) <= columns for line in told.splitlines())
            for words in ("digits:1", "running", "10 of 20 completed (50%)", "trials/h", "time left", "best", "█"):
                assert words in told
            assert lost.id[:8] in told
            assert "gone:1" in told
            assert "held by" in told
        listed = json.loads(run("status", "digits", "--json").stdout)
    assert listed["trials"]["completed"] == 10
    assert listed["best"]["params"]["layers"] == 6
    assert [one["id"] for one in listed["lost"]] == [lost.id]
    assert listed["lock"]["holder"]
    assert listed["rate_per_hour"] > 0
    assert listed["seconds_left"] > 0
    assert json.loads(run("status", "digits", "--json").stdout)["lock"] is None
    assert "free" in run("status", "digits").stdout


def test_status_of_all(digits: moorage.Experiment, storage: moorage.Storage) -> None:
    storage.create_experiment(name="second")
    told = run("status", columns=100).stdout
    assert "digits:1" in told
    assert "second:1" in told
    assert [one["experiment"]["name"] for one in json.loads(run("status", "--json").stdout)] == ["digits", "second"]


def test_status_of_nothing(storage: moorage.Storage) -> None:
    assert "no experiments" in run("status").stderr
    assert json.loads(run("status", "--json").stdout) == []


@pytest.mark.parametrize("watch", [["--watch"], ["--watch", "0.1"], ["-w", "0.1"], ["--watch=0.1"]])
def test_status_is_watched_until_interrupted(digits: moorage.Experiment, watch: list[str]) -> None:
    process = spawn("status", "digits", "--json", *watch)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["trials"]["completed"] == 10
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert told == b"interrupted\n"


# Repair


def test_unlock(digits: moorage.Experiment, storage: moorage.Storage) -> None:
    assert "is free" in run("unlock", "digits").stderr
    lock = storage.acquire_algorithm_lock(digits)
    lock.__enter__()
    told = run("unlock", "digits", code=2)
    assert "is held by" in told.stderr
    assert storage.get_algorithm_lock_info(digits).locked
    assert "the lock is free" in run("unlock", "digits", "--yes").stderr
    assert not storage.get_algorithm_lock_info(digits).locked
    with pytest.raises(moorage.errors.LockLost):
        lock.__exit__(None, None, None)


def test_recover(digits: moorage.Experiment, storage: moorage.Storage) -> None:
    assert "no trial of digits:1 is lost" in run("recover", "digits").stderr
    lost = lose_a_trial(storage, digits)
    told = run("recover", "digits")
    assert told.stdout.startswith(lost.id)
    assert "1 trial is interrupted now" in told.stderr
    assert storage.get_trial(lost).status == "interrupted"
    assert json.loads(run("recover", "digits", "--json").stdout) == []


def test_rm_asks_and_refuses_without_a_terminal(digits: moorage.Experiment, storage: moorage.Storage) -> None:
    told = run("rm", "digits", code=2)
    assert "--yes" in told.stderr
    assert "12 trials" in told.stderr
    assert storage.fetch_experiments()
    run("rm", "digits", "--yes")
    assert storage.is_empty()


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 1, 1), (b"y\n", 0, 0), (b"\x03", 130, 1)])
def test_rm_asks_at_a_terminal(
    digits: moorage.Experiment, storage: moorage.Storage, answer: bytes, code: int, left: int
) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "rm", "digits"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches it
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + 60
    while b"[y/N]" not in shown:
        assert time.monotonic() < deadline, shown
        if select.select([ours], [], [], 0.5)[0]:
            shown += os.read(ours, 4096)
    # Between its question and the first byte that it waits for, Python keeps a Ctrl-C to itself: so it is repeated.
    while process.poll() is None:
        assert time.monotonic() < deadline, shown
        with contextlib.suppress(OSError):  # the terminal is gone when the program is
            os.write(ours, answer)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=3)
    output, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == code
    assert output == b""
    assert len(storage.fetch_experiments()) == left


# Dump, load, copy


def test_dump_load_and_copy(digits: moorage.Experiment, storage: moorage.Storage, tmp_path: Path) -> None:
    told = run("dump", "backup.jsonl")
    digest = re.search(r"digest ([0-9a-f]{64})", told.stderr)
    assert digest is not None
    assert told.stdout == ""
    assert "--force" in run("dump", "backup.jsonl", code=1).stderr
    assert "exists" not in run("dump", "backup.jsonl", "--force").stderr
    assert digest[1] in run("load", "backup.jsonl", "-s", "sqlite:///loaded.db").stderr
    again = run("load", "backup.jsonl", "-s", "sqlite:///loaded.db").stderr
    assert "14 were stored already" in again
    assert digest[1] in run("copy", os.environ["MOORAGE_STORAGE"], "sqlite:///copied.db").stderr
    piped = run("dump")
    assert run("load", "-", "-s", "sqlite:///piped.db", stdin=piped.stdout_bytes).exit_code == 0
    for name in ("loaded", "copied", "piped"):
        assert digest[1] in run("dump", "-", "-s", f"sqlite:///{name}.db").stderr


def test_a_torn_dump_is_reported_and_resumed(digits: moorage.Experiment, tmp_path: Path) -> None:
    run("dump", "backup.jsonl")
    path = tmp_path / "backup.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "incomplete" in run("load", "backup.jsonl", "-s", "sqlite:///other.db", code=1).stderr
    run("dump", "backup.jsonl", "--resume")
    assert path.read_bytes() == whole
    run("load", "backup.jsonl", "-s", "sqlite:///other.db")
    assert "from before" in run("dump", "backup.jsonl", "--resume").stderr


def test_conflicts_end_with_an_error(digits: moorage.Experiment, storage: moorage.Storage) -> None:
    run("dump", "backup.jsonl")
    storage.update_experiment(digits, user="bob")
    told = run("load", "backup.jsonl", code=1).stderr
    assert f"conflict: experiments {digits.id}: another document with this id is stored" in told
    assert storage.get_experiment(digits.id).user == "bob"
    other = "sqlite:///other.db"
    with moorage.connect(other) as opened:
        opened.create_experiment(name="digits")
    assert "name 'digits', version 1" in run("copy", os.environ["MOORAGE_STORAGE"], other, code=1).stderr


def test_files_that_cannot_be_read_or_written(digits: moorage.Experiment, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello\n")
    assert "nofile: No such file" in run("load", "nofile", code=1).stderr
    assert "is not a dump" in run("load", "text", code=1).stderr
    assert "No such file" in run("dump", "no/folder", code=1).stderr
    assert "No such file" in run("plot", "digits", "-o", "no/folder.png", code=1).stderr
    assert "need a FILE" in run("dump", "--resume", code=2).stderr


# Plots


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.html", b"<!DOCTYPE html>")]
)
def test_plot(digits: moorage.Experiment, tmp_path: Path, name: str, start: bytes) -> None:
    pytest.importorskip("matplotlib")
    assert run("plot", "digits", "-o", name, "--kind", "history").stdout == f"{name}\n"
    assert (tmp_path / name).read_bytes().startswith(start)


def test_plot_chooses_a_name(storage: moorage.Storage, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    storage.create_experiment(name="../odd name/[red]", version=3)
    told = run("plot", "../odd name/[red]", "--kind", "slices").stdout
    assert told == "odd-name-red-3.html\n"
    assert (tmp_path / "odd-name-red-3.html").exists()
    assert ".html" in run("plot", "../odd name/[red]", "-o", "x.gif", code=1).stderr


# Strange texts, pipes and terminals


def test_stored_texts_cannot_play_tricks_on_a_terminal(storage: moorage.Storage) -> None:
    name = "[red]x[/red] :smile: \x1b]0;owned\x07\x9b31m‮"
    experiment = storage.create_experiment(name=name, user="\x1b[2J")
    results = {"objective": 1, "[i]\x1b": "\x1b"}
    params = {"[bold]p": "[link=http://x]y\x1b[31m", "\u202eq": "\r\n"}
    storage.register_trials(
        experiment,
        [
            moorage.Trial(params=params, status="completed", results=results, worker="\x1b[1m"),
            moorage.Trial(params={"[bold]p": "z"}, status="broken", error="[/] \x1b[31m\x07"),
        ],
    )
    storage.log_error(experiment, "\x1b[5m")
    for arguments in (
        ["experiments"], ["trials", name], ["best", name], ["status", name], ["status"], ["recover", name],
        ["unlock", name], ["trials", name, "--json"], ["status", name, "--json"],
    ):  # fmt: skip
        told = run(*arguments)
        for character in "\x1b\x07\x9b‮\r":
            assert character not in told.stdout + told.stderr, arguments
    assert "[red]x[/red] :smile: \\x1b]0;owned\\x07\\x9b31m\\u202e:1" in run("experiments").stdout
    assert "[link=http://x]y\\x1b[31m" in run("trials", name).stdout
    assert "\x1b" not in run("status", f"{name}?", code=3).stderr


def at_terminal(*arguments: str, **environment: str) -> bytes:
    """What a command shows on a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", **environment},
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    assert process.wait(timeout=60) == 0
    return shown


def test_output_has_colour_only_where_wanted(digits: moorage.Experiment) -> None:
    colour = rb"\x1b\[[0-9;]*3[0-9]m"
    process = spawn("status", "digits")
    told, _ = process.communicate(timeout=60)
    assert b"\x1b" not in told
    assert re.search(colour, at_terminal("status", "digits"))
    assert not re.search(colour, at_terminal("status", "digits", NO_COLOR="1"))


def test_a_reader_that_leaves_is_no_error(storage: moorage.Storage) -> None:
    experiment = storage.create_experiment(name="many")
    storage.register_trials(experiment, [{"x": place, "text": "x" * 200} for place in range(3000)])
    for arguments in (["trials", "many", "--json"], ["dump"]):
        process = spawn(*arguments)
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(timeout=60) == 141


def test_an_ascii_terminal_is_no_error(storage: moorage.Storage) -> None:
    storage.create_experiment(name="größe 日本")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = spawn("experiments", env=environment)
    told, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
    assert b"gr\\xf6\\xdfe" in told


def test_reading_commands_write_nothing(digits: moorage.Experiment, storage: moorage.Storage, tmp_path: Path) -> None:
    storage.close()
    path = tmp_path / "hpo.db"
    before = path.read_bytes()
    for arguments in (["experiments"], ["trials", "digits"], ["status"], ["best", "digits"], ["info"], ["dump", "-"]):
        run(*arguments)
    assert path.read_bytes() == before


def test_a_wrong_name_creates_no_storage(tmp_path: Path) -> None:
    for arguments in (["rm", "x", "--yes"], ["unlock", "x", "--yes"], ["recover", "x"], ["upgrade"], ["experiments"]):
        run(*arguments, "-s", "sqlite:///typo.db", code=1)
    assert list(tmp_path.iterdir()) == []


def test_what_no_trial_has_is_said(digits: moorage.Experiment) -> None:
    """A condition that can match nothing is a mistake more often than not."""
    for arguments in ((), ("--json",)):
        told = run("trials", "digits", "--where", "params.ler<5", *arguments)
        assert "no trial of digits:1 has params.ler. Did you mean 'lr'?" in told.stderr
        told = run("trials", "digits", "--where", "params.lr<-5", *arguments)
        assert "warning" not in told.stderr
    told = run("trials", "digits", "--where", "status=completd", code=2)
    assert "there is no status 'completd'. Did you mean 'completed'?" in told.stderr


def test_a_name_that_can_mean_several_is_refused_with_their_ids(storage: moorage.Storage) -> None:
    one = storage.create_experiment(name="r", version=1)
    other = storage.create_experiment(name="r:1", version=1)
    for command in ("rm", "unlock", "recover"):
        told = run(command, "r:1", *(["--yes"] if command == "rm" else []), code=1)
        assert one.id in told.stderr
        assert other.id in told.stderr
    newer = storage.create_experiment(name="r", version=2)
    assert newer.id in run("rm", "r", "--yes", code=1).stderr
    run("rm", "r:2", "--yes")
    run("rm", one.id, "--yes")
    run("rm", "r:1", "--yes")
    assert not {"r", "r:1"} & {found.name for found in storage.fetch_experiments()}
