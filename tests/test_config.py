"""Where the storage is: the argument, the environment, the file, the default; and what is said when one is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

import moorage
from moorage.config import find_settings
from moorage.errors import ConfigurationError, InvalidType, MissingExtra, UnknownBackend
from moorage.plugins import Backend, Option, Plugins
from moorage.url import StorageURL, mask


def test_the_default_is_an_embedded_file() -> None:
    settings = find_settings()
    assert str(settings.url) == "sqlite:///moorage.db"
    assert settings.source == "the default"


def test_the_argument_wins_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("moorage.toml").write_text('url = "sqlite:///file.db"')
    assert find_settings().url.path == "/file.db"
    monkeypatch.setenv("MOORAGE_STORAGE", "sqlite:///variable.db")
    assert find_settings().url.path == "/variable.db"
    assert find_settings("sqlite:///argument.db").url.path == "/argument.db"


def test_the_nearest_file_upwards_is_read_and_relative_paths_are_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.other]\n[tool.moorage]\nurl = "sqlite:///study.db"\n')
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "a" / "pyproject.toml").write_text("[project]\nname = 'a'\n")
    monkeypatch.chdir(inner)
    with moorage.connect() as storage:
        storage.create_experiment(name="one")
    assert (tmp_path / "study.db").is_file()
    assert not list(inner.iterdir())


def test_profiles_share_options_and_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("moorage.toml").write_text(
        """
        url = "sqlite:///here.db"
        lock_ttl = 7
        [profiles.cluster]
        type = "postgresql"
        host = "db.example"
        database = "hpo"
        user = "me"
        password = "${SECRET_OF_TEST}"
        heartbeat_timeout = 30
        """
    )
    monkeypatch.setenv("SECRET_OF_TEST", "p@ss/w:rd")
    monkeypatch.setenv("MOORAGE_PROFILE", "cluster")
    settings = find_settings()
    assert settings.url.scheme.startswith("postgresql")
    assert settings.url.password == "p@ss/w:rd"
    assert settings.options == {"lock_ttl": 7, "heartbeat_timeout": 30}
    assert "p@ss" not in repr(settings)
    assert "p@ss" not in str(settings.url)
    assert find_settings(profile="cluster") == settings
    with pytest.raises(ConfigurationError, match=r"no profile 'clutser'.*Did you mean 'cluster'"):
        find_settings(profile="clutser")


def test_a_variable_in_a_url_is_quoted_and_a_missing_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("moorage.toml").write_text('url = "postgresql+psycopg://me:${SECRET_OF_TEST}@host/hpo"')
    with pytest.raises(ConfigurationError, match=r"\$\{SECRET_OF_TEST\}, and that environment variable is not set"):
        find_settings()
    monkeypatch.setenv("SECRET_OF_TEST", "a@b:c/d")
    assert find_settings().url.password == "a@b:c/d"
    assert find_settings().url.host == "host"


def test_a_dict_works_too(tmp_path: Path) -> None:
    with moorage.connect({"type": "sqlite", "path": str(tmp_path / "d.db"), "lock_ttl": 5, "durability": "fast"}):
        assert (tmp_path / "d.db").is_file()
    with moorage.connect({"type": "memory"}) as storage:
        assert storage.is_empty()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("no-url", "is not a storage URL"),
        ("/some/file.db", "is not a storage URL"),
        ("sqlite:///a.db?durability=maybe", "'full', 'fast'"),
        ("sqlite:///a.db?durabilty=full", "Did you mean 'durability'"),
        ("sqlite:///a.db?busy_timeout=soon", "busy_timeout"),
        ({"type": "sqlite", "path": "a.db", "url": "sqlite:///b.db"}, "both a url and a type"),
        ({"path": "a.db"}, "must say where the storage is"),
        ({"type": "sqlite", "path": "a.db", "colour": 3}, "colour"),
        ("memory://x/y", "memory"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(given: object, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        moorage.connect(given)  # type: ignore[call-overload]


def test_an_unknown_option_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"'lock_tll'.*Did you mean 'lock_ttl'"):
        moorage.connect("memory://", lock_tll=3)
    with pytest.raises(ConfigurationError, match="takes a number of seconds"):
        moorage.connect("memory://?lock_ttl=soon")
    for wrong in (0, -1, float("nan"), "x", True, None):
        with pytest.raises(moorage.MoorageError):
            moorage.connect("memory://", lock_ttl=wrong)


def test_a_url_of_another_type_is_refused() -> None:
    with pytest.raises(InvalidType, match="URL or a dict, not int"):
        moorage.connect(5)  # type: ignore[call-overload]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    Path("moorage.toml").write_text("url = [")
    with pytest.raises(ConfigurationError, match=str(tmp_path / "moorage.toml")):
        moorage.connect()


def test_an_unknown_scheme_lists_what_is_installed() -> None:
    with pytest.raises(
        UnknownBackend, match=r"no installed backend carries sqlit://.*Did you mean 'sqlite'.*Installed: .*memory"
    ):
        moorage.connect("sqlit:///a.db")


def test_a_missing_extra_says_what_to_install() -> None:
    def open_it(url: StorageURL, options: object, read_only: bool) -> moorage.Driver:
        raise ModuleNotFoundError("No module named 'somedb'", name="somedb")

    backend = Backend(name="some", schemes=("some",), description="", open=open_it, extra="moorage[some]")
    with pytest.raises(MissingExtra, match=r"needs 'somedb', which is not installed: pip install \"moorage\[some\]\""):
        backend.connect(StorageURL.parse("some://x"), {})


def test_options_are_read_by_their_type() -> None:
    assert Option(name="a", kind=float).read("2") == 2.0
    assert Option(name="a", kind=float).read(2) == 2.0
    assert Option(name="a", kind=bool).read("yes") is True
    for kind, wrong in ((int, "1.5"), (int, True), (bool, "perhaps"), (str, 5), (float, "nought")):
        with pytest.raises(ConfigurationError, match="option 'a' takes"):
            Option(name="a", kind=kind).read(wrong)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://me:secret@host:5/db", "postgresql+psycopg://me:***@host:5/db"),
        ("mysql://me:se%40cret@host/db?ssl_ca=x&password=secret", "mysql://me:***@host/db?ssl_ca=x&password=***"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
        ("mongodb://u:secret@a:1,b:2/db", "mongodb://u:***@a:1,b:2/db"),
        ("x://u:se#cret@h/d", "x://u:***@h/d"),
    ],
)
def test_secrets_are_masked_wherever_a_url_is_shown(text: str, shown: str) -> None:
    url = StorageURL.parse(text)
    assert str(url) == shown
    assert "secret" not in repr(url)
    assert "cret" not in mask(text).replace("***", "")


def test_a_wrong_url_is_shown_without_its_password() -> None:
    with pytest.raises(ConfigurationError) as caught:
        moorage.connect("nosuch://me:hunter2@host/db")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        moorage.connect("://me:hunter2@host/db")
    assert "hunter2" not in str(caught.value)


def test_read_only_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(moorage.MoorageError):
        moorage.connect(f"sqlite:///{tmp_path}/no.db", read_only=True)
    assert not list(tmp_path.iterdir())


def test_read_only_reads_and_has_no_other_verbs(tmp_path: Path) -> None:
    with moorage.connect(f"sqlite:///{tmp_path}/a.db") as storage:
        experiment = storage.create_experiment(name="one")
    with moorage.connect(f"sqlite:///{tmp_path}/a.db", read_only=True) as view:
        assert view.fetch_experiments() == [experiment]
        assert not hasattr(view, "create_experiment")
        assert type(view) is moorage.ReadOnlyStorage


def test_plugins_found_by_hand_are_registered_once() -> None:
    found = Plugins()
    plugin = type("Plugin", (), {})()
    found.register(plugin)
    found.unregister(plugin)
    assert found.backends == {}
