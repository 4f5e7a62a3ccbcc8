"""Recordings that survive a kill, histories as files, and their pictures."""

from __future__ import annotations

import html.parser
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from moorage.codec import encode
from moorage.errors import InvalidArgument, OutcomeUnknown, StorageDamaged, StorageFull, Unavailable
from moorage_conformance import timeline
from moorage_conformance.histories import History, Operation, Recorder, read
from moorage_conformance.linearizability import Claim, Counter, Finding, Register, check, load_of, minimize

if TYPE_CHECKING:
    from moorage.codec import Plain

CONFORMANCE = str(Path(__file__).resolve().parent.parent / "conformance")

WORKER = """
import os, signal, sys
from moorage_conformance.histories import Recorder

recorder = Recorder(sys.argv[1], process=sys.argv[2])
for number in range(100):
    recorder.invoke("k", "add", 1).ok(number + 1)
pending = recorder.invoke("k", "add", 1)
print("now", flush=True)
sys.stdin.readline()
pending.ok(101)
"""


def make(process: str, invoked: int, returned: int | None, call: str, *arguments: Plain, to: Plain = None) -> Operation:
    outcome = "unknown" if returned is None else "ok"
    return Operation(
        process=process,
        key="k",
        call=call,
        arguments=arguments,
        result=to,
        invoked=invoked,
        returned=returned,
        outcome=outcome,
    )


def test_what_was_recorded_is_read_in_order(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a", process="a") as one, Recorder(tmp_path / "b", process="b") as other:
        first = one.invoke("k", "swap", {"x": math.nan}, 3)
        second = other.invoke("k", "get")
        first.ok(True)
        second.fail()
        one.invoke("other", "get").unknown()
    history = read([tmp_path / "a", tmp_path / "b"], model="register", seed=7, further_versions={"server": "1"})
    assert [(each.process, each.key, each.call, each.outcome) for each in history.operations] == [
        ("a", "k", "swap", "ok"),
        ("b", "k", "get", "fail"),
        ("a", "other", "get", "unknown"),
    ]
    swap, get, cut_off = history.operations
    assert swap.arguments == (encode({"x": math.nan}), 3)
    assert swap.result is True
    assert swap.returned is not None
    assert get.returned is not None
    assert swap.invoked < get.invoked < swap.returned < get.returned < cut_off.invoked
    assert cut_off.returned is None
    assert (history.model, history.seed, history.keys, history.processes) == ("register", 7, ("k", "other"), ("a", "b"))
    assert set(history.versions) == {"moorage", "python", "server"}


def test_each_thread_is_a_process_of_its_own_and_no_line_is_lost(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "w", process="w")

    def work() -> None:
        for number in range(300):
            recorder.invoke("k", "add", number).ok(number)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.close()
    recorder.close()
    history = read([tmp_path / "w"])
    assert len(history.operations) == 1200
    assert sorted(history.processes) == ["w", "w/2", "w/3", "w/4"]
    for process in history.processes:
        mine = [one for one in history.operations if one.process == process]
        assert [one.result for one in mine] == list(range(300))
        assert all(one.returned <= other.invoked for one, other in itertools.pairwise(mine))


def test_a_killed_process_leaves_what_it_had_asked_as_unknown(tmp_path: Path) -> None:
    path = tmp_path / "killed"
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), "killed"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": CONFORMANCE},
    )
    assert worker.stdout is not None
    assert worker.stdin is not None
    assert worker.stdout.readline() == b"now\n"
    worker.send_signal(signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    worker.stdout.close()
    worker.stdin.close()
    with Recorder(tmp_path / "reader", process="reader") as recorder:
        recorder.invoke("k", "get").ok(101)
    history = read([path, tmp_path / "reader"])
    assert [one.outcome for one in history.operations] == ["ok"] * 100 + ["unknown", "ok"]
    assert history.operations[100].process == "killed"
    assert load_of(history).unknown == 1
    assert check(history, Counter(), least=None).finding is Finding.LINEARIZABLE
    without = attrs.evolve(history, operations=[one for one in history.operations if one.outcome == "ok"])
    assert check(without, Counter(), least=None).finding is Finding.VIOLATION


def test_wherever_a_recording_is_torn_it_is_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "whole"
    with Recorder(path, process="w") as recorder:
        for number in range(3):
            recorder.invoke("k", "add", "é").ok(number)
    whole = path.read_bytes()
    torn = tmp_path / "torn"
    seen = set()
    for size in range(len(whole) + 1):
        torn.write_bytes(whole[:size])
        history = read([torn])
        lines = whole[:size].count(b"\n")
        assert len(history.operations) == lines // 2
        assert sum(one.outcome == "unknown" for one in history.operations) == (lines > 0 and lines % 2 == 0)
        seen.add((len(history.operations), lines))
    assert len(seen) == 8


def test_a_recorder_never_writes_into_a_file_that_is_there(tmp_path: Path) -> None:
    Recorder(tmp_path / "w", process="w").close()
    with pytest.raises(FileExistsError):
        Recorder(tmp_path / "w", process="w")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"no JSON", "line 2 .*is not JSON"),
        (b"[1]", "line 2 .*not part of a recording"),
        (b'{"end": 9, "invoked": 1, "returned": 2, "ok": true}', "line 2 .*makes no sense"),
        (b'{"begin": 1, "process": "w"}', "line 2 .*makes no sense"),
        (b'{"begin": 1, "process": "w", "key": 3, "call": "get", "arguments": [], "invoked": 1}', "makes no sense"),
    ],
)
def test_damage_that_no_kill_explains_is_an_error(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "w"
    Recorder(path, process="w").close()
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(StorageDamaged, match=message):
        read([path])


def test_a_recorder_that_was_used_on_after_a_fork_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w"
    with Recorder(path, process="w") as recorder:
        recorder.invoke("k", "get").ok(1)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[1]]))
    with pytest.raises(StorageDamaged, match="begins operation 1 again"):
        read([path])


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w"
    for content in (b"{}\n", b"hello", b'{"format": "moorage-recording-9"}\n'):
        path.write_bytes(content)
        with pytest.raises(StorageDamaged, match="is not a recording"):
            read([path])


def test_clocks_of_two_machines_are_not_compared(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with Recorder(tmp_path / name, process=name) as recorder:
            recorder.invoke("k", "get").ok(1)
    head, *rest = (tmp_path / "b").read_text().splitlines(keepends=True)
    (tmp_path / "b").write_text(json.dumps({**json.loads(head), "machine": "elsewhere"}) + "\n" + "".join(rest))
    with pytest.raises(InvalidArgument, match="different machines"):
        read([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(Unavailable("busy"), "fail"), (OutcomeUnknown("lost"), "unknown"), (ZeroDivisionError(), "unknown")],
)
def test_an_error_tells_whether_it_happened(tmp_path: Path, error: Exception, outcome: str) -> None:
    def raising() -> None:
        raise error

    with Recorder(tmp_path / "w", process="w") as recorder:
        assert recorder.run("k", "get", [1], lambda: 2, told=lambda value: value * 10) == 2
        with pytest.raises(type(error)):
            recorder.run("k", "get", [], raising)
    returned, failed = read([tmp_path / "w"]).operations
    assert (returned.result, returned.outcome, returned.arguments) == (20, "ok", (1,))
    assert failed.outcome == outcome


def test_a_line_that_could_not_be_written_whole_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Recorder(tmp_path / "w", process="w") as recorder, monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda file, data: len(data) - 1)
        with pytest.raises(StorageFull, match="whole"):
            recorder.invoke("k", "get")


def test_an_operation_has_a_time_of_return_unless_nobody_knows() -> None:
    with pytest.raises(InvalidArgument, match="unless its outcome is unknown"):
        Operation(process="a", key="k", call="get", invoked=1)
    with pytest.raises(InvalidArgument, match="unless its outcome is unknown"):
        Operation(process="a", key="k", call="get", invoked=1, returned=2, outcome="unknown")
    with pytest.raises(InvalidArgument, match="before it was invoked"):
        Operation(process="a", key="k", call="get", invoked=3, returned=2)
    with pytest.raises(ValueError, match="maybe"):
        Operation(process="a", key="k", call="get", invoked=1, returned=2, outcome="maybe")


def test_a_history_comes_back_from_its_file(tmp_path: Path) -> None:
    history = History(
        operations=[
            make("b", 5, None, "swap", {"~": [1.5, None, "é\n"]}, 2),
            make("a", 1, 9, "get", to=[{"x": 2**62}, 1]),
        ],
        background=[make("c", 0, 1, "insert", "x", to=True)],
        model="register",
        seed=2**60,
        versions={"moorage": "1"},
        midway=True,
    )
    path = tmp_path / "history.json"
    path.write_text("an older one")
    history.save(path)
    assert History.load(path) == history
    assert json.loads(path.read_text())["seed"] == 2**60
    assert [one.name for one in tmp_path.iterdir()] == ["history.json"]
    empty = History(operations=[])
    empty.save(path)
    assert History.load(path) == empty


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "moorage-history-1", "operations": [{}]}'])
def test_a_file_that_is_no_history_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(StorageDamaged):
        History.load(tmp_path / "x.json")


class Page(html.parser.HTMLParser):
    """What a browser would make of it: names of elements, and what they would load or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.texts: list[str] = []
        self.tips: list[str] = []
        self.classes: list[str] = []
        self.loading: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name in ("src", "href", "xlink:href", "action", "data"):
                self.loading.append(str(value))
            if name == "data-tip":
                self.tips.append(str(value))
            if name == "class" and value is not None:
                self.classes += value.split()

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def drawn(history: History, model: Register | Claim | Counter) -> tuple[str, Page]:
    text = timeline.render(history, check(history, model, least=None))
    for svg in re.findall("<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)
    page = Page(text)
    assert page.loading == []
    assert "://" not in text
    assert "default-src 'none'" in text
    return text, page


def test_a_violation_is_marked_and_the_order_before_it_numbered() -> None:
    history = History(
        operations=[
            make("p1", 0, 10, "add", "x"),
            make("p10", 20, 60, "claim", to="x"),
            make("p2", 30, 70, "claim", to="x"),
            make("p2", 80, None, "claim"),
            Operation(process="p1", key="k", call="claim", invoked=15, returned=18, outcome="fail"),
        ],
        model="claim",
        seed=12345,
    )
    text, page = drawn(history, Claim())
    assert text.count('class="operation') == 5
    assert page.classes.count("stuck") == 2
    assert page.classes.count("failed") == 1
    assert {"1", "2", "12345", "violation"} <= set(page.texts)
    assert '✗ claim() → "x"' in page.texts
    assert "claim() → ?" in page.texts
    assert text.index(">p2<") < text.index(">p10<")
    assert any("at any time from here on" in tip for tip in page.tips)


def test_what_a_violation_needs_besides_is_drawn_as_a_ghost() -> None:
    operations = [make("a", 0, 1, "add", "x"), make("b", 2, 3, "claim", to="x"), make("c", 4, 5, "claim", to="x")]
    small = minimize(History(operations=operations), Claim())
    assert len(small.operations) == 2
    _, page = drawn(small, Claim())
    assert page.classes.count("ghost") == 2


def test_nothing_in_a_history_becomes_part_of_the_page() -> None:
    evil = '</text></svg><script>alert(1)</script><img src=x onerror=alert(1)>"\' onload="x\u202e\0'
    operation = Operation(
        process=evil,
        key=evil,
        call=evil,
        arguments=({evil: evil},),
        result=[evil],
        invoked=0,
        returned=1,
    )

    class Any(Counter):
        def step(self, state: object, call: str, arguments: object, result: object) -> int | None:  # type: ignore[override]
            return None

    history = History(operations=[operation], model=evil, versions={evil: evil})
    text, page = drawn(history, Any())
    assert page.names.count("script") == 1
    assert "img" not in page.names
    assert "\u202e" not in text
    assert "\0" not in text


def test_a_long_history_is_drawn_around_its_violation() -> None:
    operations = [
        make(f"p{number % 4}", 10 * number, 10 * number + 15, "add", 1, to=number + 1) for number in range(1000)
    ]
    operations[700] = attrs.evolve(operations[700], result=5)
    text, page = drawn(History(operations=operations), Counter())
    assert text.count('<g class="operation') == timeline.MOST
    assert "stuck" in page.classes
    assert "800 more operations are not drawn" in page.texts


@pytest.mark.parametrize("count", [0, 1, 2, 200])
def test_histories_of_any_size_are_drawn(count: int, tmp_path: Path) -> None:
    operations = [make("p", 10 * number, 10 * number + 5, "add", 1, to=number + 1) for number in range(count)]
    history = History(operations=operations)
    text, _ = drawn(history, Counter())
    assert text.count('<g class="operation') == count
    timeline.save(history, check(history, Counter()), tmp_path / "page.html")
    assert "too little load" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_points_of_the_order_lie_within_their_operations_and_follow_it() -> None:
    operations = [
        make("a", 0, 100, "add", 1, to=4),
        make("b", 1, 99, "add", 1, to=1),
        make("c", 2, 98, "add", 1, to=3),
        make("d", 3, 97, "add", 1, to=2),
        make("e", 3, None, "add", 1),
        make("f", 101, 102, "get", to=5),
    ]
    text, _ = drawn(History(operations=operations), Counter())
    points = {}
    for begin, end, group in re.findall(
        r'<g class="operation.*?data-from="(.*?)" data-to="(.*?)"(.*?)</g>', text, re.DOTALL
    ):
        found = re.search(r'class="number" x="(.*?)" y=".*?">(\d+)<', group)
        assert found is not None
        assert float(begin) <= float(found[1]) <= float(end)
        points[int(found[2])] = float(found[1])
    assert sorted(points) == [1, 2, 3, 4, 5, 6]
    assert [points[number] for number in sorted(points)] == sorted(points.values())
