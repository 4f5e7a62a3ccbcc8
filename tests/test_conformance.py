"""The suite itself: its specification, what it makes of results, its reports, its two ways in, and its exit codes."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import attrs
import jsonschema
import pytest

import moorage_conformance
from moorage import Document
from moorage.errors import ConfigurationError, InvalidArgument
from moorage_conformance import Hooks, checking, page, reporting, selftest, specification
from moorage_conformance.commands import find_hooks, seconds
from moorage_conformance.context import NotEmpty
from moorage_conformance.histories import History, Operation
from moorage_conformance.mutants import mutants
from moorage_conformance.results import CheckResult, ExitCode, MutantResult, Outcome, Report
from moorage_conformance.runner import Session, run, run_check, select
from moorage_conformance.selftest import try_mutant
from moorage_conformance.target import ITEMS, Target

LINK = "https://example.org/issue/1"


def moorage(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from moorage.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


def result(*requirements: str, outcome: Outcome = Outcome.PASS, violated: tuple[str, ...] = ()) -> CheckResult:
    return CheckResult(
        check=f"check-{'-'.join(requirements)}",
        title="Looks.",
        level=specification.requirement(requirements[0]).level,
        requirements=requirements,
        outcome=outcome,
        violated=violated,
        message="" if outcome is Outcome.PASS else "expected <1>, got \x1b 2 & more\nsecond line",
        seconds=0.25,
    )


def report(*results: CheckResult, asked: int = 1, **fields: object) -> Report:
    given: dict[str, object] = {
        "url": "memory://{ns}",
        "backend": "memory",
        "asked": asked,
        "declared": 1,
        "conditions": frozenset({"transactions"}),
        "seed": 7,
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0,
        "versions": {"python": "3"},
        "environment": {"system": "Test"},
        "results": results,
        **fields,
    }
    return Report(**given)  # type: ignore[arg-type]


def passing(level: int = 1, *, without: str = "") -> list[CheckResult]:
    wanted = [one.id for one in specification.specification().values() if one.level <= level and one.id != without]
    return [result(one) for one in wanted]


# The specification


def test_every_must_has_a_check_and_a_mutant() -> None:
    known = specification.specification()
    assert [one for one in checking.uncovered() if known[one].strength == "MUST"] == []
    broken = {one.breaks for one in mutants().values()}
    assert [one.id for one in known.values() if one.strength == "MUST" and one.id not in broken] == []
    assert len(mutants()) >= 60


def test_every_check_and_every_mutant_says_what_it_does() -> None:
    for check in checking.checks().values():
        assert check.title.endswith("."), check.name
    for mutant in mutants().values():
        assert mutant.description.endswith("."), mutant.name


@pytest.mark.parametrize(
    "page_text",
    [
        "## Level 1: Core\n- **A-1** (MAY) Something.",
        "## Level 1: Core\n- **A-1** (MUST, sometimes) Something.",
        "## Level 1: Core\n- **A-1** (MUST) One.\n- **A-1** (MUST) Two.",
        "## Level 9: Beyond\n- **A-1** (MUST) One.",
        "- **A-1** (MUST) Outside of a level.",
    ],
)
def test_a_specification_that_cannot_be_read_is_refused(page_text: str) -> None:
    with pytest.raises(InvalidArgument):
        specification.parse(page_text)


def test_a_requirement_is_read_with_all_its_lines() -> None:
    found = specification.parse("## Level 2: X\n- **A-1** (SHOULD, durable, since 0.3) One\n  and two.\n\nText.\n")[
        "A-1"
    ]
    assert (found.level, found.strength, found.condition, found.since) == (2, "SHOULD", "durable", "0.3")
    assert found.text == "One and two."


@pytest.mark.parametrize(
    ("since", "installed", "provisional"), [("0.1", "0.1.0", False), ("0.2", "0.2.4", True), ("0.2", "0.3.0", False)]
)
def test_what_is_new_is_provisional_for_one_minor_release(
    since: str, installed: str, provisional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moorage.__version__", installed)
    one = specification.Requirement(id="A-1", level=1, strength="MUST", since=since, text="")
    assert one.provisional is provisional
    assert one.decides is not provisional


def test_checks_are_chosen_by_requirement_group_and_name() -> None:
    some = next(iter(checking.checks().values()))
    assert [one.name for one in select(4, [some.name])] == [some.name]
    assert {one.group for one in select(4, ["lock"])} == {"LOCK"}
    assert all("CLAIM-3" in one.requirements for one in select(4, ["CLAIM-3"]))
    assert select(1, ["CLAIM-3"]) == []
    with pytest.raises(InvalidArgument, match="CLAIM-33"):
        select(4, ["CLAIM-33"])


# What follows from results


def test_all_that_passes_conforms() -> None:
    found = report(*passing())
    assert (found.reached, found.exit_code) == (1, ExitCode.CONFORMS)
    assert {one.outcome for one in found.requirements} == {Outcome.PASS, Outcome.NOT_CLAIMED}


def test_one_must_that_fails_takes_the_level_away() -> None:
    found = report(*passing(without="CLAIM-1"), result("CLAIM-1", outcome=Outcome.FAIL, violated=("CLAIM-1",)))
    assert (found.reached, found.exit_code) == (0, ExitCode.FAILED)


def test_a_check_that_fails_for_one_requirement_leaves_its_others_unknown() -> None:
    found = report(result("CLAIM-1", "CLAIM-2", outcome=Outcome.FAIL, violated=("CLAIM-2",)))
    outcomes = {one.requirement.id: one.outcome for one in found.requirements}
    assert (outcomes["CLAIM-1"], outcomes["CLAIM-2"]) == (Outcome.UNKNOWN, Outcome.FAIL)


def test_what_is_unknown_is_no_pass() -> None:
    found = report(*passing(without="CLAIM-1"), result("CLAIM-1", outcome=Outcome.UNKNOWN))
    assert (found.reached, found.exit_code) == (0, ExitCode.UNKNOWN)
    missing = report(*passing(without="CLAIM-1"))
    assert (missing.reached, missing.exit_code) == (0, ExitCode.UNKNOWN)


def test_a_should_decides_nothing() -> None:
    shared = frozenset({"shared"})
    all_pass = passing(2, without="FAIR-1")
    found = report(*all_pass, result("FAIR-1", outcome=Outcome.FAIL, violated=("FAIR-1",)), asked=2, conditions=shared)
    assert (found.reached, found.exit_code) == (2, ExitCode.CONFORMS)


def test_a_level_that_the_backend_cannot_have_is_not_reached() -> None:
    found = report(*passing(2), asked=2)
    assert (found.reached, found.exit_code) == (1, ExitCode.UNKNOWN)


def test_an_exemption_must_fail_and_caps_the_level() -> None:
    failing = result("CLAIM-1", outcome=Outcome.EXEMPT, violated=("CLAIM-1",))
    found = report(*passing(without="CLAIM-1"), failing, exemptions={"CLAIM-1": LINK})
    assert (found.reached, found.exit_code) == (0, ExitCode.UNKNOWN)
    holds = report(*passing(), exemptions={"CLAIM-1": LINK})
    assert (holds.reached, holds.exit_code) == (0, ExitCode.FAILED)
    assert next(one for one in holds.requirements if one.requirement.id == "CLAIM-1").outcome is Outcome.FAIL


def test_nothing_that_ran_is_said_so() -> None:
    assert report().exit_code is ExitCode.NOTHING_RAN
    assert report(result("CLOCK-1", outcome=Outcome.NOT_CLAIMED)).exit_code is ExitCode.NOTHING_RAN


def mutant(*, caught: bool) -> MutantResult:
    return MutantResult(mutant="broken", breaks="CLAIM-1", description="It is.", caught=caught, message="a <message>")


def test_a_mutant_that_survives_fails_the_suite() -> None:
    assert report(*passing(), mutants=(mutant(caught=True),)).exit_code is ExitCode.CONFORMS
    assert report(*passing(), mutants=(mutant(caught=False),)).exit_code is ExitCode.SUITE_FAILED
    assert report(mutants=(mutant(caught=False),)).exit_code is ExitCode.SUITE_FAILED
    assert report(mutants=(mutant(caught=True), mutant(caught=False))).mutation_score == 0.5


# Reports

REPORTS = {
    "conforms": report(*passing(), mutants=(mutant(caught=True),)),
    "fails": report(
        *passing(without="CLAIM-1"),
        attrs.evolve(result("CLAIM-1", outcome=Outcome.FAIL, violated=("CLAIM-1",)), files=(Path("elsewhere.html"),)),
        mutants=(mutant(caught=False),),
    ),
    "partial": report(result("CLAIM-1"), partial=True, exemptions={"CLAIM-2": LINK}),
    "empty": report(),
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_has_all_its_files_and_keeps_to_its_schema(name: str, tmp_path: Path) -> None:
    found = REPORTS[name]
    reporting.write(found, tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    schema = json.loads(Path(reporting.__file__).with_name("report.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(content, schema, jsonschema.Draft202012Validator)
    assert content["exit_code"] == found.exit_code
    assert len(content["requirements"]) == len(found.requirements)
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    assert int(suite.attrib["tests"]) == len(suite) == len(found.results) + len(found.mutants)
    assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure"))
    ElementTree.parse(tmp_path / "badge.svg")
    text = (tmp_path / "index.html").read_text()
    assert reporting.verdict(found)[1:] in text
    assert "<1>" not in text
    assert "\x1b" not in (tmp_path / "junit.xml").read_text()
    assert (tmp_path / "histories").is_dir()


def test_the_page_puts_what_failed_first_and_says_how_to_repeat_it(tmp_path: Path) -> None:
    text = page.render(REPORTS["fails"], tmp_path)
    assert text.index('id="CLAIM-1"') < text.index('id="SETUP-1"')
    assert "--only check-CLAIM-1 --seed 0" in text
    assert "elsewhere.html" in text


# Targets


def test_a_target_needs_a_place_for_names_and_a_link_for_each_exemption() -> None:
    with pytest.raises(ConfigurationError, match=r"\{ns\}"):
        Target(url="memory://")
    with pytest.raises(ConfigurationError, match="CLAIM-1"):
        Target(url="memory://{ns}", exemptions={"CLAIM-1": "because"})
    with pytest.raises(InvalidArgument, match="CLAIM-99"):
        Target(url="memory://{ns}", exemptions={"CLAIM-99": LINK})


def test_conditions_are_those_of_the_url_and_the_driver(tmp_path: Path) -> None:
    assert Target(url="memory://{ns}").conditions() == {"server_clock", "transactions"}
    shared = {"durable", "local", "server_clock", "shared", "transactions"}
    assert Target(url=f"sqlite:///{tmp_path}/{{ns}}.db").conditions() == shared
    assert list(tmp_path.iterdir()) == []


class OnePlace(Target):
    """Whatever the namespace is called, it is the same one."""

    def fresh(self) -> str:
        return "memory://always-the-same"


class Untidy(Hooks):
    def discard(self, url: str) -> None:
        """Leave it all there."""


def test_a_namespace_that_is_not_empty_is_refused() -> None:
    target = OnePlace(url="memory://{ns}", hooks=Untidy())
    driver = target.open(target.fresh())
    driver.insert(ITEMS, [Document("left behind", {})])
    driver.close()
    with pytest.raises(NotEmpty, match="holds items"):
        run(Session(target, seed=1), only=["CLAIM-1"])
    Hooks().discard(target.fresh())


def test_hooks_are_found_in_modules_and_files(tmp_path: Path) -> None:
    file = tmp_path / "my_hooks.py"
    file.write_text("from moorage_conformance import Hooks\nclass Mine(Hooks):\n    pass\nclass Other: pass\n")
    assert isinstance(find_hooks(f"{file}:Mine"), Hooks)
    assert isinstance(find_hooks("moorage_conformance.target:Hooks"), Hooks)
    for wrong in (f"{file}:Nobody", f"{file}:Other", "no.such.module:Mine", f"{tmp_path}/none.py:Mine"):
        with pytest.raises(ConfigurationError):
            find_hooks(wrong)


# Checks


def test_a_backend_that_hangs_does_not_hang_the_suite() -> None:
    def hang(context: object) -> None:
        """Hangs."""
        time.sleep(3)

    check = checking.Check(name="hang", requirements=("CLAIM-1",), function=hang, limit=0.2)  # type: ignore[arg-type]
    found = run_check(Target(url="memory://{ns}"), check, conditions=frozenset(), seed=1)
    assert found.outcome is Outcome.FAIL
    assert "time.sleep(3)" in found.message


def test_an_error_that_nobody_expects_is_a_violation_of_all_that_the_check_covers() -> None:
    def stumble(context: object) -> None:
        """Stumbles."""
        raise ZeroDivisionError("over a stone")

    check = checking.Check(
        name="stumble",
        requirements=("CLAIM-1", "CLAIM-2"),
        function=stumble,
        limit=10,  # type: ignore[arg-type]
    )
    found = run_check(Target(url="memory://{ns}"), check, conditions=frozenset(), seed=1)
    assert (found.outcome, found.violated) == (Outcome.FAIL, ("CLAIM-1", "CLAIM-2"))
    assert "over a stone" in found.message.splitlines()[0]


@pytest.mark.parametrize("name", ["claim-takes-the-last", "claim-by-read-then-write"])
def test_a_mutant_is_caught_by_the_check_of_what_it_breaks(name: str) -> None:
    found = try_mutant(name, seed=3)
    assert found.caught, found.message


# The command


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["memory://{ns}", "--only", "CLAIM-1"], 7, "only some checks ran"),
        (["memory://"], 4, "{ns}"),
        (["nowhere://{ns}"], 4, "no installed backend"),
        ([], 4, "--self-test"),
        (["--no-such-option"], 4, "No such option"),
        (["memory://{ns}", "--level", "5"], 4, "--level"),
        (["memory://{ns}", "--only", "FROB"], 4, "FROB"),
        (["memory://{ns}", "--soak", "soon"], 4, "90s"),
        (["memory://{ns}", "--exempt", "CLAIM-1=because"], 4, "link"),
        (["memory://{ns}", "--only", "CLAIM-1", "--exempt", f"CLAIM-1={LINK}"], 1, "remove the exemption"),
        (["memory://{ns}", "--level", "2", "--only", "SWAP-4"], 5, "nothing ran"),
        (["--self-test", "--only", "CLAIM-1"], 0, "mutation score: 100.0%"),
        (["--self-test", "--only", "nothing-of-the-kind"], 4, "broken backends"),
        (["--list", "--only", "CLAIM-1"], 0, "claim-takes-the-first-match"),
        (["--replay", "no-such-file.json"], 4, "no-such-file.json"),
    ],
)
def test_the_exit_codes_of_the_command(arguments: list[str], code: int, said: str, tmp_path: Path) -> None:
    found = moorage("conformance", *arguments, cwd=tmp_path)
    assert found.returncode == code, found.stdout + found.stderr
    assert said in found.stdout + found.stderr
    assert "Traceback" not in found.stderr


def test_a_broken_backend_fails_by_name_with_a_command_to_repeat_it(tmp_path: Path) -> None:
    program = (
        "from moorage.plugins import plugins; from moorage_conformance import mutants; plugins().register(mutants);"
        "from moorage.cli import main; main()"
    )
    url = "mutant+memory://{ns}?mutant=claim-takes-the-last"
    command = [sys.executable, "-c", program, "conformance", url, "--only", "CLAIM-1", "--report", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == ExitCode.FAILED, found.stderr
    assert "CLAIM-1" in found.stdout
    assert (
        f"--only claim-takes-the-first-match --seed {json.loads((tmp_path / 'report.json').read_text())['seed']}"
        in found.stdout
    )


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from moorage.cli import main; main()",
        "conformance",
        "memory://{ns}",
        "--soak",
        "1h",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED, errors
    assert "interrupted" in errors


def failing_history() -> History:
    def one(process: str, start: int, end: int) -> Operation:
        return Operation(process=process, key="queue", call="claim", result="a", invoked=start, returned=end)

    add = Operation(process="p0", key="queue", call="add", arguments=("a",), result=True, invoked=0, returned=1)
    return History(
        operations=[add, one("p1", 2, 5), one("p2", 3, 6)], model="claim", seed=11, check="each-match-is-claimed-once"
    )


def test_a_saved_history_is_judged_and_drawn_again(tmp_path: Path) -> None:
    file = tmp_path / "double.json"
    failing_history().save(file)
    found = moorage("conformance", "--replay", file)
    assert found.returncode == ExitCode.FAILED, found.stdout + found.stderr
    assert "violation" in found.stdout
    assert "each-match-is-claimed-once, seed 11" in found.stdout
    assert (tmp_path / "double.html").read_text().startswith("<!DOCTYPE html>")


def test_a_history_is_replayed_on_a_storage_with_its_check_and_seed(tmp_path: Path) -> None:
    file = tmp_path / "double.json"
    failing_history().save(file)
    found = moorage("conformance", f"sqlite:///{tmp_path}/{{ns}}.db", "--replay", file)
    assert found.returncode == ExitCode.UNKNOWN, found.stdout + found.stderr
    assert "seed 11; meets" in found.stdout


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200)])
def test_times_are_read_with_their_units(text: str, expected: float) -> None:
    assert seconds(text) == expected


# pytest


def pytest_run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")} | more
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, timeout=120, check=False, env=environment
    )


SUITE = """
from moorage_conformance import ConformanceSuite

class TestMine(ConformanceSuite):
    url = "memory://{{ns}}"
    {more}
"""


def write_suite(folder: Path, more: str = "level = 1") -> None:
    (folder / "test_mine.py").write_text(textwrap.dedent(SUITE).format(more=more))


def test_a_class_of_a_few_lines_is_a_suite(tmp_path: Path) -> None:
    write_suite(tmp_path)
    found = pytest_run(tmp_path, "--moorage-only", "CLAIM", "--moorage-report=out")
    assert found.returncode == ExitCode.UNKNOWN, found.stdout + found.stderr
    assert "only some checks ran" in found.stdout
    content = json.loads((tmp_path / "out" / "TestMine" / "report.json").read_text())
    assert {one["outcome"] for one in content["checks"]} == {"pass"}


def test_a_second_report_elsewhere_does_not_hide_the_settings_of_pytest(tmp_path: Path) -> None:
    project, reports = tmp_path / "project", tmp_path / "reports"
    project.mkdir()
    write_suite(project)
    (project / "pytest.ini").write_text("[pytest]\naddopts = --moorage-only=CLAIM-1\n")
    for _ in range(2):
        found = pytest_run(project, f"--moorage-report={reports}")
        assert found.returncode == ExitCode.UNKNOWN, found.stdout + found.stderr
        assert "only some checks ran" in found.stdout
    for found in (
        pytest_run(project, "--moorage-report", str(reports)),
        pytest_run(project, PYTEST_ADDOPTS=f"--moorage-report '{reports}'"),
    ):
        assert found.returncode == ExitCode.USAGE, found.stdout + found.stderr
        assert f"write --moorage-report={reports}, with an equals sign" in found.stderr


def test_what_workers_of_xdist_find_is_told_by_the_one_that_started_them(tmp_path: Path) -> None:
    write_suite(tmp_path)
    found = pytest_run(tmp_path, "-n", "2", "--dist=loadscope", "--moorage-only", "CLAIM-1")
    assert found.returncode == ExitCode.UNKNOWN, found.stdout + found.stderr
    assert found.stdout.count("test_mine.py::TestMine: only some checks ran") == 1


def test_an_exemption_that_holds_fails_in_pytest_as_well(tmp_path: Path) -> None:
    write_suite(tmp_path, f'exemptions = {{"CLAIM-1": "{LINK}"}}')
    found = pytest_run(tmp_path, "--moorage-only", "CLAIM-1")
    assert found.returncode == ExitCode.FAILED
    assert "remove the exemption" in found.stdout


def test_a_mutant_fails_in_pytest_by_the_name_of_its_requirement(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "from moorage_conformance import ConformanceSuite\n"
        "class TestMine(ConformanceSuite):\n"
        '    url = "mutant+memory://{ns}?mutant=claim-takes-the-last"\n'
        '    plugins = ("moorage_conformance.mutants",)\n'
    )
    found = pytest_run(tmp_path, "--moorage-only", "CLAIM-1")
    assert found.returncode == ExitCode.FAILED
    assert "CLAIM-1: the claimed document" in found.stdout


def test_a_should_that_fails_fails_nothing_in_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "from moorage_conformance import ConformanceSuite\n"
        "class TestMine(ConformanceSuite):\n"
        f'    url = "mutant+sqlite:///{tmp_path}/{{ns}}.db?mutant=who-waits-waits-longer"\n'
        '    plugins = ("moorage_conformance.mutants",)\n'
    )
    found = pytest_run(tmp_path, "--moorage-only", "FAIR-1", "-rx")
    assert found.returncode == ExitCode.UNKNOWN, found.stdout
    assert "FAIR-1 decides nothing" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--moorage-url", "memory://{ns}", "--moorage-only", "CLAIM-1"], 7),
        (["--moorage-url", "nowhere"], 4),
        (["--moorage-url", "memory://{ns}", "--moorage-only", "FROB"], 4),
        ([], 4),
    ],
)
def test_the_suite_is_run_by_its_package_name(arguments: list[str], code: int, tmp_path: Path) -> None:
    found = pytest_run(tmp_path, "--pyargs", "moorage_conformance", *arguments)
    assert found.returncode == code, found.stdout + found.stderr


def test_the_package_names_what_authors_need() -> None:
    assert moorage_conformance.Hooks is Hooks
    assert moorage_conformance.ConformanceSuite.__name__ == "ConformanceSuite"
    with pytest.raises(AttributeError):
        _ = moorage_conformance.Nothing


def test_broken_backends_that_survive_beside_others_are_tried_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: Counter[str] = Counter()
    names = selftest.chosen(["CLAIM"])
    lucky, hopeless = names[:2]

    def try_mutant(name: str, seed: int) -> MutantResult:
        tried[name] += 1
        caught = name != hopeless and (name != lucky or tried[name] == 2)
        return MutantResult(mutant=name, breaks="CLAIM-1", description="", caught=caught, message="", seconds=0.0)

    def pool(workers: int, **options: object) -> concurrent.futures.Executor:
        return concurrent.futures.ThreadPoolExecutor(workers)

    monkeypatch.setattr(selftest, "try_mutant", try_mutant)
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", pool)
    told: list[MutantResult] = []
    found = selftest.self_test(1, only=["CLAIM"], tell=told.append)
    assert [one.mutant for one in found] == names
    assert {one.mutant for one in found if not one.caught} == {hopeless}
    assert tried == Counter(names) + Counter([lucky, hopeless])
    assert sorted(one.mutant for one in told) == sorted(names)
