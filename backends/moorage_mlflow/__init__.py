"""MLflow: a tracking server or store as a Moorage storage, and any Moorage storage in MLflow's own UI."""
