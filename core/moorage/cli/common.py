"""What all commands share: their options, how they open storages and find experiments, and how they speak.

Data goes to stdout, and everything said to people to stderr. What was stored by others is shown with its control
characters escaped, and never as markup.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, cast

import attrs
import typer
from typer.core import TyperGroup

from moorage import codec
from moorage.config import connect
from moorage.errors import (
    ExperimentNotFound,
    InvalidArgument,
    InvalidQuery,
    MoorageError,
    NotFound,
)
from moorage.filters import suggest
from moorage.records import Experiment, Params, Results, Trial, utcnow
from moorage.url import mask

if TYPE_CHECKING:
    from typing import NoReturn

    from rich.console import Console
    from rich.table import Table

    from moorage.codec import Plain
    from moorage.protocol import ReadOnlyStorage, Storage

FAILED, USAGE, NOT_FOUND, INTERRUPTED, PIPE_CLOSED = 1, 2, 3, 130, 141
"""Exit codes besides 0; the help of the program documents them."""

SHORTEST_PREFIX = 4
"""Characters of an id that are enough to name an experiment, where they are unique."""

_UNLIMITED = 100_000

StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        "-s",
        metavar="URL",
        help="Where the storage is. By default MOORAGE_STORAGE, the configuration file, or sqlite:///moorage.db.",
        show_default=False,
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", "-p", metavar="NAME", help="A profile of the configuration file.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
MaximizeOption = Annotated[bool, typer.Option("--maximize", help="The largest objective is the best.")]
ExperimentArgument = Annotated[
    str,
    typer.Argument(
        metavar="EXPERIMENT",
        help="A name (its latest version), name:version, an id, or the first characters of an id.",
        show_default=False,
    ),
]
UrlArgument = Annotated[
    str | None,
    typer.Argument(metavar="[URL]", help="The storage; by default as for --storage.", show_default=False),
]


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\n[bold]Examples[/bold]\n" + "\n".join(f"  {line.replace('[', chr(92) + '[')}" for line in lines)


class Commands(TyperGroup):
    """The group of all commands: turns errors into one line on stderr and an exit code."""

    def main(self, args: Sequence[str] | None = None, *rest: object, **extra: object) -> NoReturn:
        """Run, and leave with an exit code; usage errors are one line, too."""
        with contextlib.suppress(AttributeError, ValueError):
            # A terminal that lacks a character is no reason to fail.
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
            sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        extra["standalone_mode"] = False
        try:
            code = super().main(args, *rest, **extra)  # type: ignore[arg-type]
        except typer.Abort:
            complain("interrupted")
            code = INTERRUPTED
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            code = self._usage(error)
        sys.exit(code if isinstance(code, int) else 0)

    @staticmethod
    def _usage(error: Exception) -> int:
        """Say what is wrong with the arguments."""
        # The class of these errors has moved between releases of Typer, so it is known by what it has.
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError":
            return USAGE
        hint = "" if context is None else f" (see {context.command_path} --help)"
        text = cast("str", error.format_message())  # type: ignore[attr-defined]
        complain(f"error: {shown(text.rstrip('.'))}{hint}")
        return cast("int", getattr(error, "exit_code", USAGE))

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        """Run a command."""
        try:
            result = super().invoke(ctx)  # type: ignore[arg-type, unused-ignore]
            sys.stdout.flush()
        except NotFound as error:
            fail(error, NOT_FOUND)
        except InvalidQuery as error:
            fail(error, USAGE)
        except MoorageError as error:
            fail(error, FAILED)
        except BrokenPipeError:
            close_stdout()
            raise typer.Exit(PIPE_CLOSED) from None
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except OSError as error:
            named = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error
            fail(named, FAILED)
        else:
            return cast("object", result)


def close_stdout() -> None:
    """Let nothing be written to a pipe whose reader has left, not even when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(text: str) -> None:
    """A line on stderr."""
    with contextlib.suppress(BrokenPipeError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def fail(error: object, code: int = FAILED) -> NoReturn:
    """End with ``error: …`` on one line of stderr, and this exit code."""
    complain(f"error: {shown(mask(str(error) or type(error).__name__))}")
    raise typer.Exit(code) from None


def shown(text: object, limit: int | None = None) -> str:
    """A text as it may be displayed: what is not printable is escaped, and what is too long is cut."""
    string = str(text)
    if not string.isprintable():
        string = "".join(
            one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode("ascii")
            for one in string
        )
    return string if limit is None or len(string) <= limit else f"{string[: limit - 1]}…"


def output() -> Console:
    """Where data goes. Not cut to a width where it is no terminal."""
    from rich.console import Console

    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(file=sys.stdout, markup=False, emoji=False, highlight=False, width=_UNLIMITED if piped else None)


def messages() -> Console:
    """Where people are spoken to."""
    from rich.console import Console

    return Console(file=sys.stderr, markup=False, emoji=False, highlight=False)


def print_json(value: object, *, lines: bool = False) -> None:
    """A JSON document on stdout, in ASCII, so that no terminal is harmed; on one line where ``lines``."""
    text = json.dumps(value, indent=None if lines else 2, allow_nan=False)
    sys.stdout.write(text + "\n")


def new_table(*columns: str, right: Sequence[str] = ()) -> Table:
    """A table without lines around it."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True, overflow="ellipsis")
    return table


@attrs.frozen
class Column:
    """A column of a table that is fitted to the width of the screen.

    Attributes:
        head: its title.
        cells: one for each row.
        right: whether numbers are aligned.
        firm: shown even where there is no room.
        styles: of the cells, by their text.
        most: characters that are enough; what is longer is cut where there is no room.
    """

    head: str
    cells: Sequence[str]
    right: bool = False
    firm: bool = False
    styles: Mapping[str, str] = attrs.field(factory=dict)
    most: int = _UNLIMITED


def print_columns(columns: Sequence[Column]) -> None:
    """A table of the columns that fit, from the left; those without room, or empty, are left out.

    The heads of those without room are told on stderr.
    """
    from rich.cells import cell_len
    from rich.text import Text

    console = output()
    room = console.width + 2
    table = new_table()
    kept: list[list[str | Text]] = []
    left_out: list[str] = []
    for column in columns:
        if not column.firm and not any(column.cells):
            continue
        width = max(cell_len(column.head), *(cell_len(cell) for cell in column.cells)) + 2
        if width > room and min(width, column.most + 2) > room and not column.firm:
            left_out.append(column.head)
            continue
        room -= width
        justify: Literal["right", "left"] = "right" if column.right else "left"
        table.add_column(column.head, justify=justify, no_wrap=True, overflow="ellipsis")
        kept.append([Text(cell, style=column.styles[cell]) if cell in column.styles else cell for cell in column.cells])
    for row in zip(*kept, strict=True):
        table.add_row(*row)
    console.print(table)
    if left_out:
        messages().print(f"no room for: {', '.join(left_out)}", style="dim", soft_wrap=True)


# Storages and experiments


def check_place(url: str | None, profile: str | None) -> None:
    """Refuse two answers to the question where the storage is."""
    if url is not None and profile is not None:
        raise typer.BadParameter("give a URL or --profile, not both")


def open_reading(url: str | None, profile: str | None) -> ReadOnlyStorage:
    """Open the storage to read."""
    check_place(url, profile)
    return connect(url, profile=profile, read_only=True)


def open_writing(url: str | None, profile: str | None) -> Storage:
    """Open a storage that exists; a wrong name must not create one."""
    open_reading(url, profile).close()
    return connect(url, profile=profile)


def find_certain_experiment(storage: ReadOnlyStorage, text: str) -> Experiment:
    """The one experiment that a user can mean, for commands that change or remove it.

    Raises:
        ExperimentNotFound: there is none; the message suggests the nearest name.
        InvalidArgument: several can be meant; the message lists their ids.
    """
    found = find_experiment(storage, text)
    if found.id == text:
        return found
    meant = {one.id: one for one in (found, *storage.fetch_experiments({"name": text}))}
    name, colon, version = text.rpartition(":")
    if colon and version.isdecimal() and len(version) < 19:
        meant |= {one.id: one for one in storage.fetch_experiments({"name": name, "version": int(version)})}
    if len(meant) > 1:
        listed = ", ".join(f"{one.id} ({one.name!r}, version {one.version})" for one in list(meant.values())[:10])
        raise InvalidArgument(f"{text!r} can mean {len(meant)} experiments; give the id of one of them: {listed}")
    return found


def find_experiment(storage: ReadOnlyStorage, text: str) -> Experiment:
    """The experiment that a user names: by its name (the latest version), ``name:version``, its id, or the start of it.

    Raises:
        ExperimentNotFound: there is none; the message suggests the nearest name.
        InvalidArgument: several ids begin so.
    """
    if found := storage.fetch_experiments({"id": text}):
        return found[0]
    if found := storage.fetch_experiments({"name": text}):
        return max(found, key=lambda one: one.version)
    name, colon, version = text.rpartition(":")
    if colon and version.isdecimal() and len(version) < 19:
        if found := storage.fetch_experiments({"name": name, "version": int(version)}):
            return found[0]
        if versions := storage.fetch_experiments({"name": name}, selection=["version"]):
            listed = ", ".join(str(one["version"]) for one in versions[-10:])
            raise ExperimentNotFound(f"experiment {name!r} has no version {version}; there are: {listed}")
    if len(text) >= SHORTEST_PREFIX:
        after = text[:-1] + chr(min(ord(text[-1]) + 1, sys.maxunicode))
        found = storage.fetch_experiments({"id": {"$gte": text, "$lt": after}})
        if len(found) > 1:
            listed = ", ".join(f"{one.id} ({one.name}:{one.version})" for one in found[:5])
            raise InvalidArgument(f"{len(found)} experiments have an id that begins with {text!r}: {listed}")
        if found:
            return found[0]
    names = list(dict.fromkeys(str(one["name"]) for one in storage.fetch_experiments(selection=["name"])))
    listed = f" There are: {', '.join(names[:10])}{', …' if len(names) > 10 else ''}" if names else " It is empty."
    raise ExperimentNotFound(f"no experiment {text!r} in this storage.{suggest(text, names) or listed}")


def title(experiment: Experiment) -> str:
    """How an experiment is called on the screen."""
    return f"{shown(experiment.name, 60)}:{experiment.version}"


def is_terminal() -> bool:
    """Whether somebody is there to answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, *, yes: bool) -> None:
    """Go on only where the user agrees; without anybody to ask, refuse."""
    if yes:
        return
    if not is_terminal():
        complain("error: this needs an answer, and there is no terminal to ask at; --yes goes on without asking")
        raise typer.Exit(USAGE)
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        complain("nothing was changed")
        raise typer.Exit(FAILED)


# Values for people


def short(identifier: str) -> str:
    """The first characters of an id."""
    return shown(identifier, 60)[:8]


def number(value: float | None, digits: int = 6) -> str:
    """A number, short."""
    return "" if value is None else f"{value:.{digits}g}"


def value_text(value: object, limit: int = 40) -> str:
    """A value of any kind, short."""
    if type(value) is float:
        return number(value, 4)
    if isinstance(value, str):
        return shown(value, limit)
    return shown(" ".join(repr(value).split()), limit)


def duration(seconds: float) -> str:
    """A length of time in its two largest units."""
    if not math.isfinite(seconds):
        return "for ever"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    rest = round(seconds)
    parts: list[str] = []
    for name, size in units:
        amount, rest = divmod(rest, size)
        if amount or parts:
            parts.append(f"{amount} {name}" if amount else "")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if part)


def moment(time: datetime.datetime | None) -> str:
    """A time in UTC, to the second."""
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S}"


def ago(time: datetime.datetime | None) -> str:
    """How long ago a time was, by the wall clocks."""
    return "" if time is None else f"{duration(max(0.0, (utcnow() - time).total_seconds()))} ago"


def size_text(size: int) -> str:
    """A number of bytes."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def first_line(text: str | None) -> str:
    """The first line of an error."""
    return shown((text or "").strip().partition("\n")[0])


# Values for programs


def plain(value: object) -> Plain:
    """A value as JSON has it; what JSON has not (NaN, bytes, …) as `moorage.codec` writes it."""
    if isinstance(value, datetime.datetime):
        return codec.encode_time(value)
    if isinstance(value, (Params, Results, Mapping)):
        return codec.encode(dict(value))
    if isinstance(value, str):
        return str(value)
    return codec.encode(value)


def record_json(record: Experiment | Trial) -> dict[str, Plain]:
    """All fields of a record."""
    fields = {one.name: plain(getattr(record, one.name)) for one in type(record).__attrs_attrs__}
    if isinstance(record, Trial):
        fields["param_types"] = plain(record.params.types)
        fields["result_types"] = plain(record.results.types)
        fields["objective"] = plain(record.objective)
    return fields
