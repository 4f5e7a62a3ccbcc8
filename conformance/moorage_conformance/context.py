"""What a check has in its hands."""

from __future__ import annotations

import contextlib
import random
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from moorage import connect
from moorage.config import find_settings
from moorage.errors import shown
from moorage.schema import SCHEMA
from moorage_conformance.checking import SuiteError, Unjudged, Violation
from moorage_conformance.histories import Recorder
from moorage_conformance.processes import Process
from moorage_conformance.proxy import Proxy
from moorage_conformance.target import ITEMS_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from moorage import Storage
    from moorage.driver import Driver
    from moorage.schema import Schema
    from moorage_conformance.checking import Check
    from moorage_conformance.linearizability import Budget, Model
    from moorage_conformance.target import Target
    from moorage_conformance.worker import Job

E = TypeVar("E", bound=BaseException)


class NotEmpty(SuiteError):
    """The namespace of a check holds something already."""


class Context:
    """One run of one check, in a namespace of its own.

    Attributes:
        target: what is tested.
        check: which check runs.
        conditions: which the backend meets, see `moorage_conformance.specification.CONDITIONS`.
        random: seeded by the run and the check.
        seed: of the run.
        folder: for files of this check; gone after it, unless saved.
    """

    def __init__(
        self, target: Target, check: Check, *, conditions: frozenset[str], seed: int, histories: Path | None = None
    ) -> None:
        self.target = target
        self.check = check
        self.conditions = conditions
        self.seed = seed
        self.random = random.Random(self._seed_of(check.name))
        self.histories = histories
        self._stack = contextlib.ExitStack()
        self._processes: list[Process] = []
        self._recordings: list[Path] = []
        self._urls: list[str] = []
        self._touched = False
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="moorage-check-")))
        self.url = self.fresh_url()

    def _seed_of(self, name: str) -> int:
        return zlib.crc32(f"{self.seed}/{name}".encode())

    # Storages

    def fresh_url(self) -> str:
        """The URL of another namespace, removed after the check."""
        self._urls.append(self.target.fresh())
        return self._urls[-1]

    def open(
        self,
        url: str | None = None,
        *,
        schema: Schema = ITEMS_SCHEMA,
        read_only: bool = False,
        upgrade: bool = False,
    ) -> Driver:
        """A driver, set up; closed after the check.

        Args:
            url: by default that of the check.
            schema: what it is set up with.
            read_only: see `moorage.connect`.
            upgrade: see `Driver.setup`.

        Raises:
            NotEmpty: the namespace held something before the check touched it.
        """
        url = url or self.url
        driver = self.target.open(url, schema=schema, read_only=read_only, upgrade=upgrade)
        self._stack.callback(_close, driver)
        self._require_empty(driver, schema)
        return driver

    def _require_empty(self, driver: Driver, schema: Schema) -> None:
        """Refuse a namespace that held something before the check touched it."""
        if self._touched:
            return
        self._touched = True
        for collection in schema.collections:
            if driver.find(collection, limit=1):
                raise NotEmpty(f"a fresh namespace of {self.target.parsed} holds {collection.name} already")

    def storage(self, url: str | None = None, **options: float) -> Storage:
        """A storage; closed after the check.

        Raises:
            NotEmpty: as for `open`.
        """
        given: dict[str, Any] = dict(options)
        opened: Storage = connect(url or self.url, **given)
        self._stack.callback(_close, opened)
        self._require_empty(opened.driver, SCHEMA)
        return opened

    def proxy(self) -> ProxyOfURL:
        """A proxy before the server, closed with its block or after the check; its ``url`` leads through it."""
        proxy = ProxyOfURL(self.url, seed=self._seed_of(f"{self.check.name}/proxy"))
        self._stack.callback(proxy.close)
        return proxy

    def recorder(self, name: str) -> Recorder:
        """A recorder of this process, for `judge`."""
        self._recordings.append(self.folder / f"{name}.recording")
        recorder = Recorder(self._recordings[-1], process=name)
        self._stack.callback(recorder.close)
        return recorder

    # Findings

    def require(self, condition: object, requirement: str, message: str) -> None:
        """The backend violates the requirement unless this is true."""
        if not condition:
            raise Violation(requirement, message)

    def equal(self, requirement: str, actual: object, expected: object, what: str) -> None:
        """The backend violates the requirement unless both are equal."""
        if actual != expected:
            raise Violation(requirement, f"{what}: expected {_brief(expected)}, got {_brief(actual)}")

    @contextlib.contextmanager
    def raises(self, requirement: str, kind: type[E], what: str) -> Iterator[list[E]]:
        """The backend violates the requirement unless the block raises an error of this kind; it is put in the list."""
        caught: list[E] = []
        try:
            yield caught
        except kind as error:
            caught.append(error)
        except Exception as error:
            raise Violation(
                requirement, f"{what}: expected {kind.__name__}, got {type(error).__name__}: {error}"
            ) from error
        else:
            raise Violation(requirement, f"{what}: expected {kind.__name__}, and nothing was raised")

    def fail(self, requirement: str, message: str, *files: Path) -> None:
        """The backend violates the requirement."""
        raise Violation(requirement, message, files)

    # Processes

    def start(
        self,
        role: Callable[[Job], None],
        count: int = 1,
        *,
        url: str | None = None,
        record: bool = False,
        wrapper: Sequence[str] = (),
        clock_shift: float = 0.0,
        ready: bool = True,
        requirement: str | None = None,
        **arguments: object,
    ) -> list[Process]:
        """Start processes that do a role, each with the same arguments and its number as ``number``.

        Args:
            role: a function of a module; the process finds it by its name.
            count: how many.
            url: by default that of the check.
            record: whether each writes a recording, for `judge`.
            wrapper: a command that runs it, such as strace with its options.
            clock_shift: seconds by which its wall clock is ahead.
            ready: whether to wait until all have said that they are ready, and then to give the word to begin.
            requirement: what an error of theirs violates; by default the first of the check.
            **arguments: JSON values.
        """
        self._touched = True
        started: list[Process] = []
        for number in range(count):
            name = f"p{len(self._processes) + 1}"
            recording = self.folder / f"{name}.recording" if record else None
            if recording is not None:
                self._recordings.append(recording)
            process = Process(
                {
                    "role": f"{role.__module__}:{role.__qualname__}",
                    "url": url or self.url,
                    "name": name,
                    "arguments": {"number": number, **arguments},
                    "seed": self._seed_of(f"{self.check.name}/{name}"),
                    "recording": None if recording is None else str(recording),
                    "plugins": self.target.plugins,
                    "clock_shift": clock_shift,
                },
                wrapper=wrapper,
                requirement=requirement or self.check.requirements[0],
            )
            self._processes.append(process)
            started.append(process)
        if ready:
            for process in started:
                if process.next() != "ready":
                    raise SuiteError(f"worker {process.name} did not begin by saying that it is ready")
            for process in started:
                process.tell("go")
        return started

    def join(self, processes: Sequence[Process], timeout: float | None = None) -> list[list[Any]]:
        """Wait for processes; what each said, after ``ready``."""
        limit = self.check.limit if timeout is None else timeout
        return [[one for one in process.join(limit) if one != "ready"] for process in processes]

    # Histories

    def judge(self, model: str, requirement: str, *, least: int | None = None, budget: Budget | None = None) -> None:
        """Judge what the processes have recorded; a failing history is saved, minimized and drawn.

        Args:
            model: its name in `moorage_conformance.linearizability.MODELS`.
            requirement: what is violated where there is no order that explains the answers.
            least: operations below which the load means nothing; by default as `linearizability.LEAST`.
            budget: of the search.

        Raises:
            Violation: no order explains the answers.
            Unjudged: the budget was spent, or the load was too small.
        """
        from moorage_conformance import histories, linearizability, timeline

        history = histories.read(self._recordings, model=model, seed=self.seed, check=self.check.name)
        made: Model[Any] = linearizability.MODELS[model]()
        verdict = linearizability.check(
            history, made, budget=budget, least=linearizability.LEAST if least is None else least
        )
        if verdict.finding is linearizability.Finding.LINEARIZABLE:
            return
        if verdict.finding is linearizability.Finding.UNKNOWN:
            raise Unjudged(verdict.reason)
        files: list[Path] = []
        if self.histories is not None:
            self.histories.mkdir(parents=True, exist_ok=True)
            stem = f"{self.check.name}-{self.seed}"
            whole = self.histories / f"{stem}.json"
            history.save(whole)
            small = linearizability.minimize(history, made, budget=budget)
            brief = self.histories / f"{stem}-minimized.json"
            small.save(brief)
            drawn = self.histories / f"{stem}.html"
            timeline.save(small, linearizability.check(small, made, budget=budget, least=None), drawn)
            files = [whole, brief, drawn]
        raise Violation(requirement, verdict.reason, files)

    # The end

    def kill(self) -> None:
        """Kill the processes that still run."""
        for process in self._processes:
            process.kill()

    def close(self) -> None:
        """Kill what still runs, close what is open, and remove the namespaces."""
        self.kill()
        self._stack.close()
        for url in self._urls:
            self.target.hooks.discard(url)


class ProxyOfURL(Proxy):
    """A proxy before the server that a URL names.

    Attributes:
        url: the same storage, through the proxy.
    """

    def __init__(self, url: str, *, seed: int) -> None:
        authority = find_settings(url).url.host or ""
        host, _, port = authority.rpartition(":")
        super().__init__(host.strip("[]"), int(port), seed=seed)
        self.url = url.replace(authority, self.address, 1)


def _close(opened: Driver | Storage) -> None:
    with contextlib.suppress(Exception):
        opened.close()


def _brief(value: object) -> str:
    return shown(value)
