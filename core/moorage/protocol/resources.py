"""Resources: what one holder at a time uses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import attrs

from moorage import mapping
from moorage.codec import Plain, encode_time
from moorage.driver import Document, Increment
from moorage.errors import DuplicateResource, MissingArguments, ReservationLost, ResourceNotFound
from moorage.filters import Comparison, Filter, Order, equal
from moorage.lock import process_name
from moorage.protocol.asking import field_names
from moorage.protocol.base import Base
from moorage.protocol.giving import check_fields, fields_given
from moorage.records import Resource, check_number, check_text, utcnow
from moorage.schema import RESOURCES
from moorage.waist import write_id

if TYPE_CHECKING:
    from collections.abc import Mapping

_FREED: Mapping[str, Plain] = {"holder": None, "lease": None, "heartbeat": None, "clock": None, "beat": None}


class ReadResources(Base):
    """The verb that reads resources."""

    def fetch_resources(self, kind: str | None = None, free: bool | None = None) -> list[Resource]:
        """The resources, by name.

        Args:
            kind: only of this kind.
            free: only those that can be taken now (True), or cannot (False). One whose lease has run out can be taken.
        """
        wanted = () if kind is None else equal(kind=check_text("kind", kind))
        found = self._waist.find(RESOURCES, wanted, [Order("name")])
        if free is not None:
            found = [one for one in found if self._is_free(one) == free]
        return [mapping.RESOURCES.record(one) for one in found]

    def _is_free(self, document: Document) -> bool:
        if document.body.get("holder") is None:
            return True
        lease = cast("float | None", document.body.get("lease"))
        return self._leases.age(document) > (math.inf if lease is None else lease)


class WriteResources(ReadResources):
    """The verbs that add, take and free resources."""

    def add_resource(self, resource: Resource | Mapping[str, object] | None = None, **fields: object) -> Resource:
        """Add a resource that workers can take, given as a record, a dict or keywords; it is free.

        Raises:
            DuplicateResource: the name, or the id, is taken.
        """
        if isinstance(resource, Resource):
            check_fields(Resource, fields, field_names(Resource))
            added = attrs.evolve(resource, **fields)  # type: ignore[arg-type]  # checked by the record
        else:
            given = fields_given("a resource", resource, fields)
            check_fields(Resource, given, field_names(Resource))
            if "name" not in given:
                raise MissingArguments("a resource needs a name: add_resource(name=…, kind=…)")
            added = Resource(**given)  # type: ignore[arg-type]  # checked by the record
        added = attrs.evolve(added, holder=None, lease=None, heartbeat=None, token=0)
        document = mapping.RESOURCES.document(added, clock=None, beat=None, write=write_id())
        if self._waist.insert(RESOURCES, [document]):
            raise DuplicateResource(f"a resource {added.name!r} (or the id {added.id!r}) is stored already")
        return added

    def remove_resource(self, resource: Resource | str) -> None:
        """Delete a resource, given as the record or its id.

        Raises:
            ResourceNotFound: there is none.
        """
        identifier = _resource_id(resource)
        if self._waist.get(RESOURCES, identifier) is None:
            raise ResourceNotFound(f"no resource with the id {identifier!r} is stored")
        self._waist.delete(RESOURCES, equal(id=identifier))

    def take_resource(
        self,
        kind: str | None = None,
        holder: str | None = None,
        lease: float = 60.0,
        *,
        id: str | None = None,  # noqa: A002
    ) -> Resource | None:
        """Take a free resource, for one holder alone; None when none is free.

        Args:
            kind: any one of this kind (the first by name).
            holder: who takes it; by default the host's name and the process id.
            lease: seconds after which it is free again unless it is renewed.
            id: this one, in place of any of a kind.

        Raises:
            MissingArguments: neither kind nor id is given.
            ResourceNotFound: there is no resource of this id.
        """
        if kind is None and id is None:
            raise MissingArguments("say which resource: kind=…, or id=…")
        wanted = () if kind is None else equal(kind=check_text("kind", kind))
        if id is not None:
            wanted += equal(id=check_text("id", id))
            if self._waist.get(RESOURCES, id) is None:
                raise ResourceNotFound(f"no resource with the id {id!r} is stored")
        name = process_name() if holder is None else check_text("holder", holder)
        seconds = check_number("lease", lease, above=0)

        def taking() -> dict[str, Plain | Increment]:
            return {
                "holder": name,
                "lease": seconds,
                "heartbeat": encode_time(utcnow()),
                "token": Increment(),
                **self._leases.stamp(),
            }

        free = (*wanted, *equal(holder=None))
        order = [Order("name")]
        taken = self._waist.claim(RESOURCES, free, taking(), order, equal(holder=name))
        if taken is not None:
            return mapping.RESOURCES.record(taken)
        for document in self._waist.find(RESOURCES, (*wanted, Comparison("holder", "!=", None)), order):
            if not self._is_free(document):
                continue
            taken = self._waist.change_one(RESOURCES, document.id, equal(revision=document.revision), taking())
            if taken is not None:
                return mapping.RESOURCES.record(taken)
        return None

    def _held(self, resource: Resource | str, holder: str | None) -> tuple[str, str, Filter]:
        identifier = _resource_id(resource)
        name = holder
        if name is None and isinstance(resource, Resource):
            name = resource.holder
        name = process_name() if name is None else check_text("holder", name)
        taken = isinstance(resource, Resource) and resource.holder == name
        return identifier, name, equal(holder=name, token=resource.token) if taken else equal(holder=name)  # type: ignore[union-attr]

    def _change_resource(
        self, resource: Resource | str, holder: str | None, changes: Mapping[str, Plain | Increment]
    ) -> None:
        identifier, name, wanted = self._held(resource, holder)
        if self._waist.patch_one(RESOURCES, identifier, wanted, changes):
            return
        stored = self._waist.get(RESOURCES, identifier)
        if stored is None:
            raise ResourceNotFound(f"no resource with the id {identifier!r} is stored")
        now = stored.body.get("holder")
        raise ReservationLost(
            f"resource {stored.body['name']!r} is not held by {name!r} any more, but "
            f"{'free' if now is None else f'by {now!r}'}; nothing was written"
        )

    def renew_resource(self, resource: Resource | str, holder: str | None = None, lease: float | None = None) -> None:
        """Hold a resource for another lease, counted from now.

        Args:
            resource: the record from `take_resource`, or its id.
            holder: who holds it; by default as in the record.
            lease: seconds; by default as before.

        Raises:
            ReservationLost: somebody else has it, or it is free.
        """
        changes: dict[str, Plain | Increment] = {"heartbeat": encode_time(utcnow()), **self._leases.stamp()}
        if lease is not None:
            changes["lease"] = check_number("lease", lease, above=0)
        self._change_resource(resource, holder, changes)

    def free_resource(self, resource: Resource | str, holder: str | None = None) -> None:
        """Give a resource back; only its holder can.

        Raises:
            ReservationLost: somebody else has it, or it is free.
        """
        self._change_resource(resource, holder, _FREED)

    def free_resources(self, holder: str | None = None) -> int:
        """Give back all that a holder has; how many."""
        name = process_name() if holder is None else check_text("holder", holder)
        return self._waist.patch(RESOURCES, equal(holder=name), _FREED)


def resource_name(resource: Resource | str | None) -> str | None:
    """The name of a resource that a trial runs on, for the record."""
    if resource is None or isinstance(resource, Resource):
        return None if resource is None else resource.name
    return check_text("resource", resource)


def _resource_id(resource: Resource | str) -> str:
    return resource.id if isinstance(resource, Resource) else check_text("the id of a resource", resource)
