"""SQL databases as a Holdfast backend, through SQLAlchemy Core."""
