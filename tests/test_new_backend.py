"""``moorage new-backend`` and the guide: from an empty folder to a backend that reaches level 1."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

import moorage
from moorage.cli import app
from moorage.driver import Driver
from moorage.plugins import plugins
from moorage_conformance.commands import add_to
from moorage_conformance.runner import select

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typer.testing import Result

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "conformance" / "AUTHORING.md"
LONGEST = "a" * 38 + "-z"


@pytest.fixture(scope="module", autouse=True)
def _commands() -> None:
    plugins()
    if not any(one.name == "new-backend" for one in app.registered_commands):
        add_to(app)


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["new-backend", *arguments])
    told = f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
    assert result.exit_code == code, told
    if code:
        assert re.fullmatch(r"error: [^\n]+\n", result.stderr), told
    return result


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def code_of_the_guide(name: str) -> str:
    """The block of code that the guide has for a file."""
    found = re.search(rf"<!-- file: {re.escape(name)} -->\n```python\n(.*?)```\n", GUIDE.read_text("utf-8"), re.DOTALL)
    assert found is not None, f"the guide has no {name}"
    return found.group(1)


def fill_in(folder: Path) -> None:
    """What the guide does in the package of a backend named ``dictionary``."""
    for name in ("driver.py", "plugin.py"):
        target = folder / "moorage_dictionary" / name
        assert target.is_file()
        target.write_text(code_of_the_guide(name), encoding="utf-8")


# What is written


def test_the_package_is_complete(tmp_path: Path) -> None:
    told = run("my-store", "--directory", str(tmp_path / "deep" / "below")).stdout
    folder = tmp_path / "deep" / "below" / "moorage-my-store"
    assert files(folder) == {
        ".gitignore",
        "README.md",
        "pyproject.toml",
        "moorage_my_store/__init__.py",
        "moorage_my_store/driver.py",
        "moorage_my_store/plugin.py",
        "moorage_my_store/py.typed",
        "tests/test_conformance.py",
    }
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == "moorage-my-store"
    assert project["entry-points"]["moorage"] == {"my-store": "moorage_my_store.plugin"}
    assert project["dependencies"] == [f"moorage>={moorage.__version__.rpartition('.')[0]}"]
    assert project["optional-dependencies"]["test"] == ["moorage[conformance]"]
    assert len((folder / "tests" / "test_conformance.py").read_text("utf-8").splitlines()) <= 10
    assert "badge.svg" in (folder / "README.md").read_text("utf-8")
    assert not any("$" in path.read_text("utf-8") for path in folder.rglob("*") if path.is_file())
    assert "moorage conformance 'my-store://{ns}'" in told
    assert str(GUIDE) in told


def test_each_primitive_is_there_with_the_first_line_of_its_contract(tmp_path: Path) -> None:
    run("mystore", "--directory", str(tmp_path))
    text = (tmp_path / "moorage-mystore" / "moorage_mystore" / "driver.py").read_text("utf-8")
    names: dict[str, object] = {}
    exec(text, names)
    written = names["MystoreDriver"]
    assert inspect.isclass(written)
    assert not inspect.isabstract(written)
    assert Driver.__abstractmethods__ == {"setup", "insert", "find", "swap", "delete", "close"}
    for name in Driver.__abstractmethods__:
        ours, contract = (inspect.getdoc(getattr(one, name)) or "" for one in (written, Driver))
        assert ours.splitlines()[0] == contract.splitlines()[0]
        assert inspect.signature(getattr(written, name)) == inspect.signature(getattr(Driver, name))
        if name != "close":
            assert f'raise NotImplementedError("fill in MystoreDriver.{name}")' in text


@pytest.mark.parametrize("name", ["dictionary", LONGEST])
def test_the_package_passes_the_linter_and_the_type_checker(name: str, tmp_path: Path, cache: Path) -> None:
    run(name, "--directory", str(tmp_path))
    folder = tmp_path / f"moorage-{name}"
    assert_clean(folder, cache)
    if name == "dictionary":
        fill_in(folder)
        assert_clean(folder, cache)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the type checker remembers of Moorage itself."""
    return tmp_path_factory.mktemp("mypy")


def assert_clean(folder: Path, cache: Path) -> None:
    for command in (
        ("ruff", "check", "."),
        ("ruff", "check", "--config", str(ROOT / "pyproject.toml"), "."),
        ("ruff", "format", "--check", "."),
        ("mypy", "--strict", "--cache-dir", str(cache)),
    ):
        done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"


# What is refused


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Mine",
        "1st",
        "-mine",
        "mine-",
        "my--store",
        "my_store",
        "my.store",
        "../mine",
        "mine;rm",
        "é",
        "a" * 41,
        "mine\n",
    ],
)
def test_a_name_that_cannot_be_used_is_refused(name: str, tmp_path: Path) -> None:
    run("--directory", str(tmp_path), "--", name, code=2)
    assert files(tmp_path) == set()


@pytest.mark.parametrize("name", ["memory", "sqlite", "postgresql", "mysql", "mariadb", "sql", "conformance"])
def test_a_name_that_is_taken_is_refused(name: str, tmp_path: Path) -> None:
    assert "choose another name" in run(name, "--directory", str(tmp_path), code=2).stderr
    assert files(tmp_path) == set()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_nothing_is_overwritten(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "moorage-mystore"
    if kind == "file":
        place.write_text("mine")
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to(tmp_path / "nowhere")
    assert "exists" in run("mystore", "--directory", str(tmp_path), code=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["moorage-mystore"]
    assert kind != "file" or place.read_text() == "mine"
    assert kind != "folder" or list(place.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in run("mystore", "--directory", str(tmp_path / "file"), code=1).stderr


def test_the_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from moorage.cli import app\n"
        "from moorage.plugins import plugins\n"
        "plugins().extend(app)\n"
        "assert {'bench', 'new-backend'} <= {one.name or one.callback.__name__ for one in app.registered_commands}\n"
        "heavy = ('hypothesis', 'matplotlib', 'pytest', 'moorage_conformance.target', 'moorage_conformance.runner')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# In an empty environment


class Environment:
    """A virtual environment that holds nothing but what is installed from this checkout."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder)
        self.folder = folder
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MOORAGE_", "VIRTUAL_"))
        }

    def pip(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pip", "--python", str(self.folder / "bin" / "python"), *arguments]
        return subprocess.run(command, cwd=cwd, env=self.environment, capture_output=True, text=True, check=False)

    def run(self, *command: str, cwd: Path, code: int = 0) -> str:
        program = str(self.folder / "bin" / command[0])
        done = subprocess.run(
            [program, *command[1:]], cwd=cwd, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, (
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
        return done.stdout + done.stderr


@pytest.fixture
def empty(tmp_path: Path) -> Environment:
    """The environment with Moorage and what the suite needs, as pip installs it from this checkout."""
    made = Environment(tmp_path / "environment")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    needed: Sequence[str] = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["conformance"],
    ]
    # What comes from elsewhere first: where that fails there is no index, and where the rest does, we are to blame.
    done = made.pip("install", "--quiet", *needed, cwd=tmp_path)
    if done.returncode:
        reason = f"pip cannot install what Moorage needs: {done.stderr.strip().splitlines()[-1]}"
        if "index" in os.environ.get("MOORAGE_REQUIRE", "").split(","):
            pytest.fail(f"MOORAGE_REQUIRE asks for a package index, but {reason}", pytrace=False)
        pytest.skip(reason)
    done = made.pip("install", "--quiet", f"{ROOT}[conformance]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return made


def told_of(group: str) -> set[str]:
    return {one.name for one in select(1, [group])}


@pytest.mark.timeout(1200)
def test_the_guide_leads_from_an_empty_environment_to_level_1(empty: Environment, tmp_path: Path) -> None:
    where = empty.run("python", "-c", "import moorage_conformance as it; print(it.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(empty.folder)
    told = empty.run("moorage", "new-backend", "dictionary", cwd=tmp_path)
    folder = tmp_path / "moorage-dictionary"
    (guide,) = (line.partition(": ")[2] for line in told.splitlines() if line.startswith("guide: "))
    assert Path(guide).read_text("utf-8") == GUIDE.read_text("utf-8")
    done = empty.pip("install", "--quiet", "--editable", f"{folder}[test]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    command = ("moorage", "conformance", "dictionary://{ns}")

    missing = "SETUP-1: opening a storage raised NotImplementedError: fill in DictionaryDriver.setup\n"
    assert empty.run(*command, cwd=folder, code=1).endswith(f"error: {missing}")
    assert missing in empty.run("pytest", cwd=folder, code=1)

    fill_in(folder)
    told = empty.run(*command, "--report", "report", cwd=folder)
    assert "level reached: 1 Core" in told
    report = json.loads((folder / "report" / "report.json").read_text("utf-8"))
    assert (report["backend"], report["exit_code"], report["level"]["reached"]) == ("dictionary", 0, 1)
    outcomes = {one["outcome"] for one in report["requirements"]}
    assert outcomes == {"pass", "not-claimed"}
    assert "level 1 Core" in (folder / "report" / "badge.svg").read_text("utf-8")

    told = empty.run("pytest", "--moorage-only", "INSERT", cwd=folder, code=7)
    passed = sum(one["outcome"] == "pass" and one["name"] in told_of("INSERT") for one in report["checks"])
    assert f" {passed} passed" in told

    driver = folder / "moorage_dictionary" / "driver.py"
    text = driver.read_text("utf-8")
    broken = text.replace("return value is not None, value", "return value is None, value")
    assert broken != text
    driver.write_text(broken, encoding="utf-8")
    assert "ORDER-2" in empty.run(*command, "--only", "ORDER", cwd=folder, code=1)
