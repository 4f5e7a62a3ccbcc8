"""The command ``new-backend``: a package for a backend, with the primitives to fill in."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from string import Template
from typing import Annotated

import typer

import moorage
from moorage.cli.common import USAGE, examples, fail
from moorage.errors import InvalidArgument, shown
from moorage.plugins import plugins

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_LONGEST = 40
_HERE = Path(__file__).parent
_TEMPLATE = _HERE / "template"
_PACKAGE = "moorage_name"
"""What the folder of the package is called in the template."""


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command(
        name="new-backend",
        epilog=examples("moorage new-backend mystore", "moorage new-backend mystore --directory ~/src"),
    )(new_backend)


def new_backend(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Of the backend and of its URLs: lower-case letters, digits and dashes.",
            show_default=False,
        ),
    ],
    directory: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the folder of the package is made; by default here.")
    ] = Path(),
) -> None:
    """Write a package for a backend of your own: its primitives are to be filled in, and the suite says how far it is.

    Nothing that exists is overwritten.
    """
    try:
        made = write(name, directory)
    except InvalidArgument as error:
        fail(error, USAGE)
    place = shlex.quote(str(made))
    typer.echo(
        f"wrote {made}\n"
        f"fill in {made / package_of(name) / 'driver.py'}, and then:\n"
        f"  pip install -e {place}'[test]'\n"
        f"  moorage conformance '{name}://{{ns}}'\n"
        f"guide: {guide()}"
    )


def guide() -> Path:
    """Where ``AUTHORING.md`` is: beside this module in a wheel, one folder above in a checkout."""
    return next(path for path in (_HERE / "AUTHORING.md", _HERE.parent / "AUTHORING.md") if path.exists())


def package_of(name: str) -> str:
    """How the package of a backend is imported."""
    return f"moorage_{name.replace('-', '_')}"


def write(name: str, directory: Path) -> Path:
    """Write the package of a new backend.

    Args:
        name: of the backend, of its URL scheme and, with a prefix, of the package.
        directory: where the folder ``moorage-NAME`` is made.

    Returns:
        The folder.

    Raises:
        InvalidArgument: the name cannot be used, or is taken, or the folder exists.
        OSError: the folder cannot be written.
    """
    _check_name(name)
    folder = directory / f"moorage-{name}"
    words = {
        "name": name,
        "package": package_of(name),
        "title": "".join(word.capitalize() for word in name.split("-")),
        "release": ".".join(moorage.__version__.split(".")[:2]),
    }
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise InvalidArgument(
            f"{folder} exists, and nothing is overwritten; choose another name or --directory"
        ) from None
    for source in sorted(_TEMPLATE.rglob("*.template")):
        relative = source.relative_to(_TEMPLATE).with_suffix("")
        target = folder / Path(*(words["package"] if part == _PACKAGE else part for part in relative.parts))
        target.parent.mkdir(exist_ok=True)
        target.write_text(Template(source.read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
    return folder


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name) is None or len(name) > _LONGEST:
        raise InvalidArgument(
            f"the name of a backend is at most {_LONGEST} lower-case letters, digits, and single dashes between them, "
            f"and begins with a letter, as in my-store; not {shown(name)}"
        )
    for scheme, backend in plugins().backends.items():
        if name in (scheme, backend.name):
            raise InvalidArgument(
                f"the {backend.name} backend is installed and carries {scheme}://; choose another name"
            )
    package = package_of(name)
    if plugins().manager.has_plugin(name) or importlib.util.find_spec(package) is not None:
        raise InvalidArgument(f"a plugin {name!r}, or a package {package}, is installed; choose another name")
