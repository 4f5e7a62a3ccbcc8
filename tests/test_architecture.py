"""Who may import whom, and what an import may cost: the rules of the house, read off its source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import moorage

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = sorted(path.name for path in (ROOT / "backends").iterdir() if (path / "__init__.py").is_file())


def imported(folder: Path) -> dict[Path, set[tuple[str, str]]]:
    """What each file imports: modules, and the names from them."""
    found: dict[Path, set[tuple[str, str]]] = {}
    for path in sorted(folder.rglob("*.py")):
        names: set[tuple[str, str]] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {(alias.name, "") for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                names |= {(str(node.module), alias.name) for alias in node.names}
        found[path] = names
    assert found, f"{folder} holds no code"
    return found


def offenders(folder: Path, forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {module}"
        for path, names in imported(folder).items()
        for module, _ in names
        if module.split(".")[0] in forbidden
    ]


def test_the_core_imports_no_backend_and_no_database_library() -> None:
    libraries = ("sqlalchemy", "psycopg", "pymysql", "pymongo", "tinydb", "mlflow", "moorage_conformance")
    assert offenders(ROOT / "core", (*BACKENDS, *libraries)) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_imports_no_other_backend(backend: str) -> None:
    others = tuple(name for name in BACKENDS if name != backend)
    assert offenders(ROOT / "backends" / backend, (*others, "moorage_conformance")) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_uses_public_names_of_the_core_alone(backend: str) -> None:
    waist = {"codec", "driver", "errors", "files", "filters", "plugins", "schema", "table", "url"}
    for path, names in imported(ROOT / "backends" / backend).items():
        for module, name in names:
            if module.split(".")[0] != "moorage":
                continue
            assert not name.startswith("_"), f"{path} imports the private name {name}"
            parts = module.split(".")
            assert len(parts) == 1 or parts[1] in waist, f"{path} reaches above the waist: {module}"


@pytest.mark.parametrize("folder", ["core", "backends"])
def test_no_backend_knows_a_status_and_nobody_unpickles(folder: str) -> None:
    for path, names in imported(ROOT / folder).items():
        modules = {module.split(".")[0] for module, _ in names}
        assert modules.isdisjoint({"pickle", "marshal", "shelve", "dill", "cloudpickle"}), path
        if folder == "backends":
            words = {
                node.value
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
            telling = {str(status) for status in moorage.TrialStatus} - {"new"}  # a word of SQL's triggers as well
            if path.name == "picture.py":  # what people see decides nothing
                continue
            assert words.isdisjoint(telling), path


def test_importing_moorage_loads_neither_databases_nor_the_command_line() -> None:
    heavy = ("sqlalchemy", "rich", "typer", "matplotlib", "numpy", "sklearn", "tenacity", "filelock", "asyncio")
    code = f"import moorage, sys; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_exists_and_is_documented() -> None:
    for name in moorage.__all__:
        value = getattr(moorage, name)
        if isinstance(value, type) or callable(value):
            assert value.__doc__, name


def test_the_read_only_view_has_no_verb_that_writes() -> None:
    public = {name for name in dir(moorage.ReadOnlyStorage) if not name.startswith("_")}
    verbs = ["create", "update", "start_", "end_", "delete", "log_", "register", "reserve", "recover", "set_", "push"]
    verbs += ["add", "take", "renew", "free", "init", "acquire", "release", "break", "remove", "running"]
    assert [name for name in public if name.startswith(tuple(verbs))] == []
    assert {"fetch_trials", "best_trial", "get_algorithm_lock_info", "fetch_measurements"} <= public
