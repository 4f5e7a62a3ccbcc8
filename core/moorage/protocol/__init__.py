"""The wide protocol, written once over the waist: a module for each noun, and `storage` that puts them together."""

from moorage.protocol.asking import Query, Row, Selection
from moorage.protocol.running import Run
from moorage.protocol.storage import ReadOnlyStorage, Storage

__all__ = ["Query", "ReadOnlyStorage", "Row", "Run", "Selection", "Storage"]
