"""A collection with a field of each kind, for tests below the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage import Document
from moorage.schema import Collection, Field

if TYPE_CHECKING:
    from moorage.codec import Plain

THINGS = Collection(
    name="things",
    fields=(
        Field("name", "string"),
        Field("rank", "integer"),
        Field("score", "number"),
        Field("flag", "boolean"),
        Field("note", "text"),
        Field("total", "integer"),
        Field("extra", "json"),
    ),
    unique=(("name", "rank"),),
    indexes=(("flag", "score", "name"),),
    tallies=(("name", "flag"),),
)


def thing(identifier: str, **body: Plain) -> Document:
    return Document(identifier, body)
