"""SQL databases as a Moorage backend, through SQLAlchemy Core."""
