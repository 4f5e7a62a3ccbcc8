"""What MLflow's entry points name; MLflow imports this each time, so what is heavy is imported when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moorage_mlflow.tracking import MoorageRegistry, MoorageStore


def tracking_store(store_uri: str, artifact_uri: str | None = None) -> MoorageStore:
    """The storage at ``moorage+`` and a storage URL, for MLflow's server.

    Raises:
        mlflow.exceptions.MlflowException: it cannot be opened.
    """
    from moorage_mlflow.tracking import MoorageStore

    return MoorageStore(store_uri, artifact_uri)


def model_registry_store(store_uri: str, tracking_uri: str | None = None) -> MoorageRegistry:
    """The empty registry that goes with it."""
    from moorage_mlflow.tracking import MoorageRegistry

    return MoorageRegistry(store_uri, tracking_uri)
