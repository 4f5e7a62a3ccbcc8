"""Any Moorage storage in MLflow's own UI, to look at: ``mlflow server --backend-store-uri moorage+sqlite:///runs.db``.

MLflow finds these classes by entry points. They read documents through the driver of the storage's backend, opened
read-only, and show them with the same pictures that this backend writes into MLflow. What would write is refused.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from mlflow.entities import (
    Experiment,
    ExperimentTag,
    LifecycleStage,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
    RunInputs,
    RunOutputs,
    RunStatus,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED, RESOURCE_DOES_NOT_EXIST
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.model_registry.abstract_store import AbstractStore as AbstractRegistryStore
from mlflow.store.tracking import SEARCH_MAX_RESULTS_DEFAULT, SEARCH_MAX_RESULTS_THRESHOLD
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.utils.search_utils import SearchExperimentsUtils, SearchUtils

from moorage.errors import MoorageError, shown
from moorage.filters import Comparison, equal
from moorage.plugins import plugins
from moorage.schema import EXPERIMENTS, MEASUREMENTS, SCHEMA, TRIALS
from moorage.url import StorageURL
from moorage_mlflow.picture import experiment_picture, metric, run_picture, with_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from moorage.driver import Document, Driver
    from moorage.filters import Filter

PREFIX = "moorage+"
_TRIALS_PER_QUESTION = 200


def _refusing(base: Any, what: str) -> dict[str, Callable[..., NoReturn]]:
    """A method for each that is abstract: it says that this is for looking only."""

    def refuse(*arguments: object, **more: object) -> NoReturn:
        raise MlflowException(f"a Moorage storage is shown read-only here, {what}", PERMISSION_DENIED)

    names = [name for name in dir(base) if getattr(getattr(base, name), "__isabstractmethod__", False)]
    return dict.fromkeys(names, refuse)


_ReadOnlyStore: Any = type("_ReadOnlyStore", (AbstractStore,), _refusing(AbstractStore, "and written by Moorage alone"))
_EmptyRegistry: Any = type(
    "_EmptyRegistry", (AbstractRegistryStore,), _refusing(AbstractRegistryStore, "without models")
)


def experiment_id(identifier: str) -> str:
    """The number under which MLflow shows an experiment."""
    return str(int(hashlib.sha256(identifier.encode()).hexdigest()[:14], 16))


def run_id(identifier: str) -> str:
    """The id under which MLflow shows a trial, given the id of its document."""
    return hashlib.sha256(identifier.encode()).hexdigest()[:32]


class MoorageStore(_ReadOnlyStore):  # type: ignore[misc]  # MLflow's classes are untyped
    """Experiments and trials of a Moorage storage, as MLflow's server asks for them.

    Args:
        store_uri: ``moorage+`` and the URL of the storage.
        artifact_uri: where MLflow would keep the files of runs.
    """

    def __init__(self, store_uri: str, artifact_uri: str | None = None) -> None:
        super().__init__()
        self._artifacts = (artifact_uri or "mlflow-artifacts:/").rstrip("/")
        self._url = StorageURL.parse(store_uri.removeprefix(PREFIX))
        self._lock = threading.Lock()
        self._opened: Driver | None = None
        self._runs: dict[str, str] = {}
        self._pictures: dict[str, tuple[int, Run]] = {}
        self._driver()

    def _driver(self) -> Driver:
        with self._lock:
            if self._opened is None:
                try:
                    opened = plugins().backend(self._url.scheme).connect(self._url, {}, read_only=True)
                    opened.setup(SCHEMA)
                except MoorageError as error:
                    raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from error
                self._opened = opened
            return self._opened

    # Experiments

    def _experiments(self, where: Filter = ()) -> list[Document]:
        found = self._driver().find(EXPERIMENTS, where)
        return [one for one in found if not one.body.get("deleting")]

    def _experiment(self, document: Document) -> Experiment:
        picture = experiment_picture(document)
        number = experiment_id(document.id)
        return Experiment(
            experiment_id=number,
            name=picture.name,
            artifact_location=f"{self._artifacts}/{number}",
            lifecycle_stage=LifecycleStage.ACTIVE,
            tags=[ExperimentTag(name, value) for name, value in picture.tags.items()],
            creation_time=picture.created,
            last_update_time=picture.created,
        )

    def search_experiments(
        self,
        view_type: int = ViewType.ACTIVE_ONLY,
        max_results: int = SEARCH_MAX_RESULTS_DEFAULT,
        filter_string: str | None = None,
        order_by: Sequence[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[Experiment]:
        """See MLflow; nothing here is deleted."""
        found = [] if view_type == ViewType.DELETED_ONLY else [self._experiment(one) for one in self._experiments()]
        found = SearchExperimentsUtils.filter(found, filter_string)
        found = SearchExperimentsUtils.sort(found, order_by or ["creation_time DESC", "experiment_id ASC"])
        page, token = SearchUtils.paginate(found, page_token, max_results)
        return PagedList(page, token)

    def _experiment_document(self, number: str) -> Document:
        for one in self._experiments():
            if experiment_id(one.id) == str(number):
                return one
        raise MlflowException(f"there is no experiment with id={shown(number)}", RESOURCE_DOES_NOT_EXIST)

    def get_experiment(self, experiment_id: str) -> Experiment:
        """See MLflow."""
        return self._experiment(self._experiment_document(experiment_id))

    def get_experiment_by_name(self, experiment_name: str) -> Experiment | None:
        """See MLflow."""
        found = (self._experiment(one) for one in self._experiments())
        return next((one for one in found if one.name == experiment_name), None)

    # Runs

    def _run(self, document: Document) -> Run:
        """A trial without its measurements."""
        kept = self._pictures.get(document.id)
        if kept is not None and kept[0] == document.revision:
            return kept[1]
        picture = run_picture(document)
        number, identifier = experiment_id(str(document.body["experiment"])), run_id(document.id)
        info = RunInfo(
            run_id=identifier,
            experiment_id=number,
            user_id=picture.tags.get("mlflow.user", ""),
            status=RunStatus.to_string(RunStatus.from_string(picture.status)),
            start_time=picture.start,
            end_time=picture.end,
            lifecycle_stage=LifecycleStage.ACTIVE,
            artifact_uri=f"{self._artifacts}/{number}/{identifier}/artifacts",
            run_name=picture.name,
        )
        data = RunData(
            metrics=[Metric(one.name, one.value, one.time, one.step) for one in picture.results],
            params=[Param(name, value) for name, value in picture.params.items()],
            tags=[RunTag(name, value) for name, value in picture.tags.items()],
        )
        run = Run(info, data, RunInputs(dataset_inputs=[]), RunOutputs(model_outputs=[]))
        self._runs[identifier] = document.id
        self._pictures[document.id] = (document.revision, run)
        return run

    def _measured(self, documents: Sequence[Document]) -> list[Run]:
        """Trials with the latest value of each metric."""
        runs: list[Run] = []
        for start in range(0, len(documents), _TRIALS_PER_QUESTION):
            some = documents[start : start + _TRIALS_PER_QUESTION]
            among: dict[str, list[Document]] = {}
            for one in some:
                among.setdefault(str(one.body["experiment"]), []).append(one)
            latest: dict[tuple[str, str], dict[str, Metric]] = {}
            for experiment, trials in among.items():
                names = tuple(str(one.body["trial"]) for one in trials)
                where = (Comparison("experiment", "=", experiment), Comparison("trial", "in", names))
                for found in self._driver().find(MEASUREMENTS, where):
                    seen = latest.setdefault((experiment, str(found.body["trial"])), {})
                    _keep_latest(seen, [_entity(found)])
            for one in some:
                run = self._run(one)
                seen = latest.get((str(one.body["experiment"]), str(one.body["trial"])), {})
                _keep_latest(seen, self._results(one, {name: metric.step for name, metric in seen.items()}))
                data = RunData(
                    metrics=list(seen.values()),
                    params=[Param(name, value) for name, value in run.data.params.items()],
                    tags=[RunTag(name, value) for name, value in run.data.tags.items()],
                )
                runs.append(Run(run.info, data, run.inputs, run.outputs))
        return runs

    def _results(self, document: Document, last: dict[str, int]) -> list[Metric]:
        found = with_steps(run_picture(document).results, last)
        return [Metric(one.name, one.value, one.time, one.step) for one in found]

    def _search_runs(
        self,
        experiment_ids: Sequence[str],
        filter_string: str | None,
        run_view_type: int,
        max_results: int,
        order_by: Sequence[str] | None,
        page_token: str | None,
    ) -> tuple[list[Run], str | None]:
        if max_results > SEARCH_MAX_RESULTS_THRESHOLD:
            raise MlflowException(
                f"max_results must be at most {SEARCH_MAX_RESULTS_THRESHOLD}, not {max_results}",
                INVALID_PARAMETER_VALUE,
            )
        if run_view_type == ViewType.DELETED_ONLY:
            return [], None
        documents: dict[str, Document] = {}
        for number in experiment_ids:
            try:
                experiment = self._experiment_document(number).id
            except MlflowException:
                continue
            documents |= {run_id(one.id): one for one in self._driver().find(TRIALS, equal(experiment=experiment))}
        asks_for_metrics = "metric" in f"{filter_string} {order_by}".lower()
        if asks_for_metrics:
            runs = self._measured(list(documents.values()))
        else:
            runs = [self._run(one) for one in documents.values()]
        runs = SearchUtils.sort(SearchUtils.filter(runs, filter_string), order_by)
        page, token = SearchUtils.paginate(runs, page_token, max_results)
        if not asks_for_metrics:
            page = self._measured([documents[one.info.run_id] for one in page])
        return page, token

    def _trial(self, run: str) -> Document:
        if run not in self._runs:
            for one in self._driver().find(TRIALS):
                self._runs[run_id(one.id)] = one.id
        found = self._driver().get(TRIALS, self._runs.get(run, ""))
        if found is None:
            raise MlflowException(f"there is no run with id={shown(run)}", RESOURCE_DOES_NOT_EXIST)
        return found

    def get_run(self, run_id: str) -> Run:
        """See MLflow."""
        return self._measured([self._trial(run_id)])[0]

    def get_metric_history(
        self, run_id: str, metric_key: str, max_results: int | None = None, page_token: str | None = None
    ) -> PagedList[Metric]:
        """See MLflow."""
        document = self._trial(run_id)
        where = equal(experiment=document.body["experiment"], trial=document.body["trial"])
        history = [_entity(one) for one in self._driver().find(MEASUREMENTS, where)]
        history = [one for one in history if one.key == metric_key]
        last = {metric_key: max((one.step for one in history), default=0)}
        history += [one for one in self._results(document, last) if one.key == metric_key]
        history.sort(key=lambda one: (one.timestamp, one.step, one.value))
        if max_results is None:
            return PagedList(history, None)
        page, token = SearchUtils.paginate(history, page_token, max_results)
        return PagedList(page, token)

    # What Moorage has none of

    def _search_datasets(self, experiment_ids: Sequence[str]) -> list[object]:
        return []

    def search_logged_models(self, *arguments: object, **more: object) -> PagedList[object]:
        """See MLflow; there are none."""
        return PagedList([], None)

    def search_traces(self, *arguments: object, **more: object) -> tuple[list[object], None]:
        """See MLflow; there are none."""
        return [], None


class MoorageRegistry(_EmptyRegistry):  # type: ignore[misc]  # MLflow's classes are untyped
    """A registry without models, so that MLflow's server can be asked for them."""

    def __init__(self, store_uri: str, tracking_uri: str | None = None) -> None:
        super().__init__(store_uri, tracking_uri)

    def search_registered_models(self, *arguments: object, **more: object) -> PagedList[object]:
        """See MLflow; there are none."""
        return PagedList([], None)

    def search_model_versions(self, *arguments: object, **more: object) -> PagedList[object]:
        """See MLflow; there are none."""
        return PagedList([], None)


def _entity(measurement: Document) -> Metric:
    found = metric(measurement)
    return Metric(found.name, found.value, found.time, found.step)


def _keep_latest(seen: dict[str, Metric], metrics: Iterable[Metric]) -> None:
    """As MLflow chooses: the largest step, then the latest time, then the largest value."""
    for one in metrics:
        before = seen.get(one.key)
        if before is None or (one.step, one.timestamp, one.value) >= (before.step, before.timestamp, before.value):
            seen[one.key] = one
