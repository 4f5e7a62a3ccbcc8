"""No part of a password is shown, however the URL is written and whatever goes wrong with it."""

from __future__ import annotations

import logging
import string
import traceback
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import moorage
from moorage.errors import ConfigurationError, MoorageError
from moorage.plugins import plugins
from moorage.url import StorageURL, mask

if TYPE_CHECKING:
    from collections.abc import Iterator

BEFORE, BEHIND = "Qx7hun", "ter2Zk"
SCHEMES = sorted({scheme for backend in plugins().backends.values() for scheme in backend.schemes})
SPECIAL = "/?#[]@:%&=+\\ \t\n'\"<>{}|^`;,*$!~é"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def told(error: BaseException) -> str:
    texts = [f"{one} {one!r} {getattr(one, '__notes__', '')}" for one in chain(error)]
    return "\n".join([*texts, *traceback.format_exception_only(error)])


def parsed_or_refused(text: str) -> StorageURL | MoorageError:
    try:
        return StorageURL.parse(text)
    except MoorageError as error:
        return error


def opened_or_refused(text: str, options: dict[str, float]) -> MoorageError | None:
    try:
        moorage.connect(text, read_only=True, **options).close()
    except MoorageError as error:
        return error
    return None


def shows_a_part(text: str) -> bool:
    return BEFORE in text or BEHIND in text


@given(st.sampled_from(SCHEMES), st.text(st.sampled_from(string.printable + "é\u2100"), max_size=3), st.integers(0, 3))
@example("postgresql", "/", 0)
@example("mongodb", "?", 0)
@example("mlflow+http", "[", 0)
@example("postgresql", "/3@", 2)
def test_a_url_shows_no_password_however_it_is_written(scheme: str, special: str, form: int) -> None:
    password = f"{BEFORE}{special}{BEHIND}"
    text = [
        f"{scheme}://bob:{password}@127.0.0.1:1/x",
        f"{scheme}://:{password}@127.0.0.1:1/x?timeout=1",
        f"{scheme}://bob:12{special}{password}@127.0.0.1/x",
        f"{scheme}:///bob:{password}@127.0.0.1/x",
    ][form]
    url = parsed_or_refused(text)
    if isinstance(url, MoorageError):
        assert not shows_a_part(told(url))
        assert "%2F" in str(url)
    else:
        assert not shows_a_part(f"{url} {url!r}")
        if form == 0 and "%" not in special:
            assert url.password == password
    if not any(character.isspace() for character in special):
        assert not shows_a_part(mask(f"while opening {text}: no answer"))


@given(st.text(st.sampled_from(string.printable), max_size=30))
def test_what_is_no_url_is_refused_without_being_shown(text: str) -> None:
    if "://" in text:
        return
    with pytest.raises(ConfigurationError) as refused:
        StorageURL.parse(f"{text}:{BEFORE}{BEHIND}@host/db")
    assert not shows_a_part(told(refused.value))


@pytest.mark.parametrize(
    "option", ["password", "sslpassword", "token", "auth_token", "ssl_key", "authMechanismProperties"]
)
def test_options_that_look_like_secrets_are_masked(option: str) -> None:
    assert not shows_a_part(str(StorageURL.parse(f"x://host/db?{option}={BEFORE}{BEHIND}")))


@pytest.mark.parametrize(
    "scheme", [one for one in SCHEMES if not one.startswith("mlflow+") or one.startswith("mlflow+http")]
)
def test_nothing_that_goes_wrong_tells_a_password(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody answers at port 1."""
    caplog.set_level(logging.DEBUG)
    backend = plugins().backend(scheme)
    known = {option.name for option in backend.options}
    options = {name: 0.2 for name in ("timeout", "connect_timeout") if name in known}
    for special in SPECIAL:
        for text in (
            f"{scheme}://bob:{BEFORE}{special}{BEHIND}@127.0.0.1:1/x",
            f"{scheme}://127.0.0.1:1/x?password={BEFORE}{special}{BEHIND}",
        ):
            refused = opened_or_refused(text, options)
            assert refused is None or not shows_a_part(told(refused))
    assert not shows_a_part(caplog.text)


def test_a_configuration_of_a_wrong_type_is_not_shown() -> None:
    with pytest.raises(MoorageError) as refused:
        moorage.connect(f"postgresql://bob:{BEFORE}{BEHIND}@host/db".encode())  # type: ignore[call-overload]
    assert not shows_a_part(told(refused.value))


def test_a_secret_in_the_environment_or_a_file_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("MOORAGE_STORAGE", f"postgresql://bob:{BEFORE}/{BEHIND}@127.0.0.1:1/x")
    with pytest.raises(ConfigurationError) as refused:
        moorage.connect()
    assert not shows_a_part(told(refused.value))
    monkeypatch.setenv("SECRET", f"{BEFORE}/{BEHIND}")
    table = {
        "type": "postgresql",
        "host": "127.0.0.1",
        "port": 1,
        "database": "x",
        "user": "bob",
        "password": "${SECRET}",
    }
    with pytest.raises(MoorageError) as unavailable:
        moorage.connect({**table, "timeout": 0.2})
    assert not shows_a_part(told(unavailable.value))
