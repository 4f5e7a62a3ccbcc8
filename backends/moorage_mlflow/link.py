"""The few verbs of MLflow that are used, and what its errors mean; here for a tracking server.

Its documented REST interface is spoken directly: MLflow's own client takes a second to import, does not survive a fork,
repeats writes by itself, and leaves replies to a server of several processes waiting for a delayed acknowledgement.
"""

from __future__ import annotations

import abc
import base64
import contextlib
import http.client
import json
import math
import os
import secrets
import select
import socket
import ssl
from typing import TYPE_CHECKING, cast
from urllib.parse import quote, urlencode

import attrs

from moorage import forks
from moorage.errors import (
    ConfigurationError,
    MoorageError,
    OutcomeUnknown,
    StorageFull,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moorage_mlflow.picture import Metric

    Json = dict[str, object]

PARAMS_PER_BATCH, METRICS_PER_BATCH, ENTITIES_PER_BATCH = 100, 1000, 1000
CREATION = "moorage.creation"
_FULL = ("disk is full", "disk full", "no space left", "could not extend", "quota exceeded")
_BUSY = ("database is locked", "deadlock", "could not serialize", "connection was closed", "server closed")


class Refused(Exception):
    """MLflow answered that it does not do this.

    Attributes:
        code: MLflow's error code.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message[:300]}")
        self.code = code


@attrs.frozen
class Found:
    """An experiment of MLflow.

    Attributes:
        id: chosen by MLflow.
        active: whether it has not been deleted.
        tags: its tags.
    """

    id: str
    active: bool
    tags: dict[str, str]


def from_server(message: str, shown: str, *, writing: bool) -> MoorageError | None:
    """What the text of an internal error means, where it says something that is known."""
    lowered = message.lower()
    if any(word in lowered for word in _FULL):
        return StorageFull(f"{shown}: the disk of the database is full; nothing was written")
    if any(word in lowered for word in _BUSY):
        kind = OutcomeUnknown if writing else Unavailable
        return kind(f"{shown} is busy: {message[:200]}")
    return None


class Link(abc.ABC):
    """A connection to MLflow.

    Writes raise `Refused` where MLflow says no, `Unavailable` where nothing can have been written, and `OutcomeUnknown`
    where it may have been; reads raise `Unavailable`.

    Attributes:
        shown: what to call it in messages, without secrets.
        durable: whether an acknowledged write is known to be on the disk.
    """

    shown: str
    durable: bool = False

    @abc.abstractmethod
    def create_experiment(self, name: str, tags: Mapping[str, str]) -> str:
        """Create an experiment; its id. Of several who ask for one name, one wins."""

    @abc.abstractmethod
    def experiment(self, name: str) -> Found | None:
        """The experiment of this name, be it deleted."""

    @abc.abstractmethod
    def rename_experiment(self, identifier: str, name: str) -> None:
        """Give an experiment another name. Of several who ask for one name, one wins."""

    @abc.abstractmethod
    def tag_experiment(self, identifier: str, name: str, value: str) -> None:
        """Set a tag of an experiment; the last writer wins."""

    @abc.abstractmethod
    def delete_experiment(self, identifier: str) -> None:
        """Mark an experiment and its runs as deleted."""

    @abc.abstractmethod
    def create_run(self, experiment: str, name: str, tags: Mapping[str, str], start: int) -> str:
        """Create a run; its id."""

    @abc.abstractmethod
    def params(self, run: str) -> dict[str, str] | None:
        """The params of a run, be it deleted; None where there is no such run."""

    @abc.abstractmethod
    def log_param(self, run: str, name: str, value: str) -> None:
        """Write a param once: of several who write different values, one wins and the others are `Refused`."""

    @abc.abstractmethod
    def log_batch(
        self,
        run: str,
        *,
        params: Mapping[str, str] | None = None,
        metrics: Sequence[Metric] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write params, metrics and tags, within the limits of one batch."""

    @abc.abstractmethod
    def update_run(self, run: str, status: str, end: int | None) -> None:
        """Set the status of a run; the last writer wins."""

    @abc.abstractmethod
    def delete_run(self, run: str) -> None:
        """Mark a run as deleted."""

    @abc.abstractmethod
    def find_runs(self, experiment: str, tag: str, value: str) -> list[str]:
        """The runs with this value of a tag, the oldest first."""

    @abc.abstractmethod
    def store_kind(self) -> str | None:
        """What MLflow says that it stores in; None where it does not say."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free what this link opened."""


class _Connection(http.client.HTTPConnection):
    """A connection that acknowledges replies at once.

    A server of several processes sends head and body of a reply apart, with Nagle's algorithm; a delayed
    acknowledgement of the head costs 40 ms on Linux. The flag holds for a moment only, so it is set for each reply.
    """

    def connect(self) -> None:
        super().connect()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def acknowledge_at_once(self) -> None:
        if hasattr(socket, "TCP_QUICKACK") and self.sock is not None:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def is_stale(self) -> bool:
        """Whether the other side has closed it, or sent what nobody asked for."""
        return self.sock is None or bool(select.select([self.sock], [], [], 0)[0])


class _SecureConnection(http.client.HTTPSConnection, _Connection):
    """The same, encrypted."""


class ServerLink(Link):
    """A tracking server."""

    def __init__(
        self,
        address: tuple[str, int | None, str],
        shown: str,
        *,
        context: ssl.SSLContext | None,
        authorization: str | None,
        connect_timeout: float | None,
        timeout: float | None,
    ) -> None:
        self._host, self._port, self._prefix = address
        self.shown = shown
        self._context = context
        self._authorization = authorization
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._opening = forks.Calls()
        self._idle: list[_Connection] = []
        forks.watch(self)

    # Opening a connection takes locks of the resolver and of the TLS library.

    def before_fork(self) -> None:
        """Wait a little for connections that are being opened."""
        self._opening.hold()

    def after_fork_in_parent(self) -> None:
        """Let them be opened again."""
        self._opening.release()

    def after_fork_in_child(self) -> None:
        """Leave the connections to the parent."""
        self._opening.reset()
        self._idle = []

    def _connect(self) -> _Connection:
        if self._context is None:
            connection = _Connection(self._host, self._port, timeout=self._connect_timeout)
        else:
            connection = _SecureConnection(self._host, self._port, timeout=self._connect_timeout, context=self._context)
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            raise ConfigurationError(f"{self.shown} has a certificate that is not trusted: {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"{self.shown} cannot be reached: {error}") from error
        connection.sock.settimeout(self._timeout)
        return connection

    def _take(self) -> _Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if not connection.is_stale():
                return connection
            connection.close()
        with self._opening.running():
            return self._connect()

    def _send(self, method: str, path: str, fields: Json) -> Json:
        """One request; what was answered."""
        writing = method != "GET"
        connection = self._take()
        headers = {"Accept": "application/json"}
        if self._authorization is not None:
            headers["Authorization"] = self._authorization
        target, data = f"{self._prefix}{path}", None
        if writing:
            data = json.dumps(fields).encode()
            headers["Content-Type"] = "application/json"
        elif fields:
            target += f"?{urlencode(cast('dict[str, str]', fields))}"
        try:
            connection.request(method, target, data, headers)
            connection.acknowledge_at_once()
            response = connection.getresponse()
            connection.acknowledge_at_once()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            reason = f"{self.shown} did not answer: {type(error).__name__} {error}".strip()
            raise (OutcomeUnknown if writing else Unavailable)(reason) from error
        except BaseException:
            connection.close()
            raise
        if response.will_close:
            connection.close()
        else:
            self._idle.append(connection)
        return self._answer(response.status, text, path, writing=writing)

    def _answer(self, status: int, text: bytes, path: str, *, writing: bool) -> Json:
        try:
            answer = json.loads(text) if text else {}
        except ValueError:
            answer = None
        if status == http.HTTPStatus.OK and isinstance(answer, dict):
            return answer
        code = str(answer.get("error_code", "")) if isinstance(answer, dict) else ""
        message = str(answer.get("message", "")) if isinstance(answer, dict) else ""
        if status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
            raise ConfigurationError(
                f"{self.shown} refuses this user ({status} {code or 'without a reason'}): give user and password in "
                "the URL, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        if (known := from_server(message, self.shown, writing=writing)) is not None:
            raise known
        if code and status < http.HTTPStatus.INTERNAL_SERVER_ERROR and status != http.HTTPStatus.TOO_MANY_REQUESTS:
            raise Refused(code, message)
        if status in (http.HTTPStatus.TOO_MANY_REQUESTS, *range(500, 600)):
            reason = f"{self.shown} answered {status} to {path}: {message[:200] or text[:80].decode(errors='replace')}"
            raise (OutcomeUnknown if writing else Unavailable)(reason)
        raise ConfigurationError(
            f"{self.shown} is no MLflow tracking server: it answered {status} to {path}. Check host, port and path"
        )

    def _post(self, path: str, **fields: object) -> Json:
        return self._send("POST", f"/api/2.0/mlflow/{path}", fields)

    def _get(self, path: str, **fields: object) -> Json:
        return self._send("GET", f"/api/2.0/mlflow/{path}", fields)

    def create_experiment(self, name: str, tags: Mapping[str, str]) -> str:
        """See `Link.create_experiment`."""
        return cast("str", self._post("experiments/create", name=name, tags=_pairs(tags))["experiment_id"])

    def experiment(self, name: str) -> Found | None:
        """See `Link.experiment`."""
        try:
            answer = self._get("experiments/get-by-name", experiment_name=name)
        except Refused as error:
            if error.code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        found = cast("Json", answer["experiment"])
        return Found(
            cast("str", found["experiment_id"]), found.get("lifecycle_stage") == "active", _mapping(found.get("tags"))
        )

    def rename_experiment(self, identifier: str, name: str) -> None:
        """See `Link.rename_experiment`."""
        self._post("experiments/update", experiment_id=identifier, new_name=name)

    def tag_experiment(self, identifier: str, name: str, value: str) -> None:
        """See `Link.tag_experiment`."""
        self._post("experiments/set-experiment-tag", experiment_id=identifier, key=name, value=value)

    def delete_experiment(self, identifier: str) -> None:
        """See `Link.delete_experiment`."""
        self._post("experiments/delete", experiment_id=identifier)

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str], start: int) -> str:
        """See `Link.create_run`; after a lost reply the run is looked for."""
        mark = secrets.token_hex(8)
        marked = {**tags, CREATION: mark}
        try:
            answer = self._post(
                "runs/create", experiment_id=experiment, run_name=name, start_time=start, tags=_pairs(marked)
            )
        except OutcomeUnknown:
            with contextlib.suppress(MoorageError, Refused):
                if found := self.find_runs(experiment, CREATION, mark):
                    return found[0]
            raise
        info = cast("Json", cast("Json", answer["run"])["info"])
        return cast("str", info["run_id"])

    def params(self, run: str) -> dict[str, str] | None:
        """See `Link.params`."""
        try:
            answer = self._get("runs/get", run_id=run)
        except Refused as error:
            if error.code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        data = cast("Json", cast("Json", answer["run"]).get("data") or {})
        return _mapping(data.get("params"))

    def log_param(self, run: str, name: str, value: str) -> None:
        """See `Link.log_param`."""
        self._post("runs/log-parameter", run_id=run, key=name, value=value)

    def log_batch(
        self,
        run: str,
        *,
        params: Mapping[str, str] | None = None,
        metrics: Sequence[Metric] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """See `Link.log_batch`."""
        self._post(
            "runs/log-batch",
            run_id=run,
            params=_pairs(params or {}),
            metrics=[
                {"key": one.name, "value": _number(one.value), "timestamp": one.time, "step": one.step}
                for one in metrics
            ],
            tags=_pairs(tags or {}),
        )

    def update_run(self, run: str, status: str, end: int | None) -> None:
        """See `Link.update_run`."""
        ended: Json = {} if end is None else {"end_time": end}
        self._post("runs/update", run_id=run, status=status, **ended)

    def delete_run(self, run: str) -> None:
        """See `Link.delete_run`."""
        self._post("runs/delete", run_id=run)

    def find_runs(self, experiment: str, tag: str, value: str) -> list[str]:
        """See `Link.find_runs`."""
        answer = self._post(
            "runs/search",
            experiment_ids=[experiment],
            filter=search_filter(tag, value),
            max_results=100,
            order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
        )
        runs = cast("list[Json]", answer.get("runs") or [])
        return [cast("str", cast("Json", one["info"])["run_id"]) for one in runs]

    def store_kind(self) -> str | None:
        """See `Link.store_kind`; servers before 3.5 or so do not say."""
        try:
            answer = self._send("GET", "/api/3.0/mlflow/server-info", {})
        except (Refused, ConfigurationError):
            return None
        kind = answer.get("store_type")
        return kind if isinstance(kind, str) else None

    def close(self) -> None:
        """See `Link.close`."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def search_filter(tag: str, value: str) -> str:
    """A search for one value of a tag, which must hold neither quotes nor backslashes."""
    return f"tags.`{tag}` = '{value}'"


def authorization(username: str | None, password: str | None) -> str | None:
    """The header that tells who asks: from the URL, or else from the variables that MLflow's own client reads."""
    user = username or os.environ.get("MLFLOW_TRACKING_USERNAME")
    secret = password if username else os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user:
        return "Basic " + base64.b64encode(f"{user}:{secret or ''}".encode()).decode()
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return f"Bearer {token}" if token else None


def address(host: str, path: str, *, secure: bool) -> tuple[str, int | None, str]:
    """Host, port and prefix of a server's URL.

    Raises:
        ConfigurationError: the port is no number.
    """
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not colon:
        name, port = host, ""
    if port and not port.isdecimal():
        raise ConfigurationError(f"the port of an MLflow server must be a number, not {port!r:.40}")
    number = int(port) if port else (443 if secure else 5000)
    return name.strip("[]"), number, quote(path.rstrip("/"), safe="/")


def _number(value: float) -> float | str:
    """A number as protocol buffers write it in JSON."""
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": name, "value": value} for name, value in values.items()]


def _mapping(pairs: object) -> dict[str, str]:
    return {one["key"]: one.get("value", "") for one in cast("list[dict[str, str]]", pairs or [])}
