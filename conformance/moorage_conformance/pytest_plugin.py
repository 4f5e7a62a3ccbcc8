"""What pytest needs to run the suite: options, the checks as parameters, and the report at the end.

It is loaded by every run of pytest where Moorage is installed, so it imports the suite only when a test of it is
collected.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage_conformance.runner import Session
    from moorage_conformance.sampling import Sample

_REPORTS = pytest.StashKey[list[tuple[str, int]]]()
"""What came out of each class, and the exit code that goes with it."""
_OUTPUT = "moorage_conformance"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of ``moorage conformance``, with a prefix."""
    group = parser.getgroup("moorage", "conformance of a storage backend of Moorage")
    group.addoption("--moorage-url", metavar="URL", help="the storage, with {ns} where the name of a namespace goes")
    group.addoption("--moorage-level", metavar="N", type=int, choices=(1, 2, 3, 4), help="the level to be shown")
    group.addoption(
        "--moorage-only", metavar="NAME", action="append", help="a requirement, a group of them, or a check"
    )
    group.addoption(
        "--moorage-sample",
        metavar="PART/PARTS",
        help="level 1, and of all above it that part of the checks; what that shows is no level",
    )
    group.addoption("--moorage-seed", metavar="N", type=int, help="of all that is random")
    group.addoption("--moorage-hooks", metavar="MODULE:CLASS", help="what only the author can do")
    group.addoption(
        "--moorage-report", metavar="DIR", help="with --moorage-report=DIR, reports go there, one per class"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse options that cannot be right, and prepare to gather reports."""
    config.stash[_REPORTS] = []
    _refuse_a_folder_by_itself(config)
    url, only = config.getoption("--moorage-url"), config.getoption("--moorage-only")
    if (sample := config.getoption("--moorage-sample")) is not None:
        _sample(sample)
    if url is None and config.getoption("pyargs") and "moorage_conformance" in config.args:
        raise pytest.UsageError("say where the storage is: --moorage-url 'sqlite:////tmp/{ns}.db'")
    if url is None and only is None:
        return
    from moorage.errors import MoorageError
    from moorage_conformance.runner import select
    from moorage_conformance.target import Target

    try:
        select(4, only or ())
        if url is not None:
            Target(url=url).backend  # noqa: B018  (it is looked up)
    except MoorageError as error:
        raise pytest.UsageError(str(error)) from error


def _refuse_a_folder_by_itself(config: pytest.Config) -> None:
    """See that the report's folder did not decide where pytest looks for its settings.

    Pytest looks for them before it knows the options of plugins, and takes every existing path that stands by itself
    for a path of tests: in the folder of an earlier report, elsewhere, it finds none and goes on without.
    """
    report = config.getoption("--moorage-report")
    started = config.invocation_params
    arguments = (*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *started.args)
    if report is None or "--moorage-report" not in arguments:
        return
    folder = (started.dir / report).resolve()
    if folder.exists() and not folder.is_relative_to(started.dir.resolve()):
        raise pytest.UsageError(
            f"write --moorage-report={report}, with an equals sign: pytest takes a folder that stands by itself "
            f"for one of tests, and would look for its settings in {folder}"
        )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each check is a test."""
    if "moorage_check" not in metafunc.fixturenames:
        return
    from moorage_conformance.runner import select

    chosen = select(_level(metafunc), metafunc.config.getoption("--moorage-only") or ())
    if (text := metafunc.config.getoption("--moorage-sample")) is not None:
        sample, suite = _sample(text), metafunc.cls.__name__
        chosen = [one for one in chosen if one.level == 1 or sample.holds(f"{suite}: {one.name}")]
    metafunc.parametrize("moorage_check", chosen, ids=[f"{one.name}" for one in chosen])


def _sample(text: str) -> Sample:
    from moorage.errors import MoorageError
    from moorage_conformance.sampling import Sample

    try:
        return Sample.parse(text)
    except MoorageError as error:
        raise pytest.UsageError(str(error)) from error


def _level(metafunc: pytest.Metafunc) -> int:
    """The level that is to be shown, as far as it is known before a fixture tells the URL."""
    from moorage_conformance.target import Target

    suite = metafunc.cls
    level: int | None = metafunc.config.getoption("--moorage-level") or getattr(suite, "level", None)
    if level is not None:
        return level
    url = getattr(suite, "url", None) or metafunc.config.getoption("--moorage-url")
    if url is None:
        raise pytest.UsageError(f"{suite.__name__} needs a url, or --moorage-url 'sqlite:////tmp/{{ns}}.db'")
    return Target(url=url, plugins=tuple(getattr(suite, "plugins", ()))).backend.level if isinstance(url, str) else 4


@pytest.fixture(scope="class")
def moorage_session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """The run of the suite that the tests of a class are part of."""
    from moorage.errors import MoorageError
    from moorage.url import mask
    from moorage_conformance.checking import Violation
    from moorage_conformance.commands import find_hooks
    from moorage_conformance.runner import Session, select
    from moorage_conformance.target import Hooks, Target

    config, suite = request.config, request.cls
    url = suite.url if isinstance(suite.url, str) else None
    if suite.url is None:
        url = config.getoption("--moorage-url")
    elif url is None:
        url = request.getfixturevalue("url")
    named = config.getoption("--moorage-hooks")
    hooks = suite.hooks if isinstance(suite.hooks, Hooks) or named else request.getfixturevalue("hooks")
    folder = config.getoption("--moorage-report")
    place = None if folder is None else Path(folder) / suite.__name__
    try:
        target = Target(
            url=url,
            hooks=hooks if named is None else find_hooks(named),
            exemptions=suite.exemptions,
            plugins=tuple(suite.plugins),
        )
        session = Session(
            target,
            level=config.getoption("--moorage-level") or suite.level,
            seed=config.getoption("--moorage-seed"),
            histories=None if place is None else place / "histories",
        )
    except MoorageError as error:
        raise pytest.UsageError(str(error)) from error
    except Violation as error:
        pytest.fail(f"{error.requirement}: {mask(str(error))}", pytrace=False)
    yield session
    from moorage_conformance import reporting
    from moorage_conformance.results import ExitCode, Outcome

    report = session.report(partial=any(one.name not in session.results for one in select(session.level)))
    verdict, level = reporting.verdict(report), reporting.level_text(report)
    line = f"{request.node.nodeid}: {verdict}; level reached: {level}; seed {report.seed}"
    code = report.exit_code
    sample = config.getoption("--moorage-sample")
    if sample is not None and report.partial:
        line = f"{line}; a sample, part {sample}"
        fine = (Outcome.PASS, Outcome.NOT_CLAIMED)
        if code is ExitCode.UNKNOWN and all(one.outcome in fine for one in report.results):
            code = ExitCode.CONFORMS  # to what was asked: that all of the sample holds
    config.stash[_REPORTS].append((line, int(code)))
    if place is not None:
        reporting.write(report, place)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what came out of each class."""
    reports = config.stash[_REPORTS]
    if reports:
        terminalreporter.section("moorage conformance")
    for line, _ in reports:
        terminalreporter.write_line(line)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a worker of pytest-xdist has found; of one that died pytest itself speaks."""
    del error
    output: dict[str, list[tuple[str, int]]] = getattr(node, "workeroutput", {})
    node.config.stash[_REPORTS] += [(line, code) for line, code in output.get(_OUTPUT, ())]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """End with the exit code of the suite where pytest has none of its own."""
    reports = session.config.stash[_REPORTS]
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output[_OUTPUT] = reports
    elif exitstatus == pytest.ExitCode.OK and reports:
        session.exitstatus = max(code for _, code in reports)
