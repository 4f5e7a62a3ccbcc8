"""MLflow: a tracking server or store as a Holdfast storage, and any Holdfast storage in MLflow's own UI."""
