"""What MLflow's entry points name; MLflow imports this each time, so what is heavy is imported when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast_mlflow.tracking import HoldfastRegistry, HoldfastStore


def tracking_store(store_uri: str, artifact_uri: str | None = None) -> HoldfastStore:
    """The storage at ``holdfast+`` and a storage URL, for MLflow's server.

    Raises:
        mlflow.exceptions.MlflowException: it cannot be opened.
    """
    from holdfast_mlflow.tracking import HoldfastStore

    return HoldfastStore(store_uri, artifact_uri)


def model_registry_store(store_uri: str, tracking_uri: str | None = None) -> HoldfastRegistry:
    """The empty registry that goes with it."""
    from holdfast_mlflow.tracking import HoldfastRegistry

    return HoldfastRegistry(store_uri, tracking_uri)
