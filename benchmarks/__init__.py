"""Measurements of Moorage beside the raw limit and beside its peers; see README.md."""
