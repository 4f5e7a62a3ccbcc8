"""Resources: what one holder at a time uses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import attrs

from moorage import mapping
from moorage.codec import Plain, encode_time
from moorage.driver import Document, Increment
from moorage.errors import (
    DuplicateResource,
    FailedUpdate,
    MissingArguments,
    ReservationLost,
    ResourceNotFound,
    UniqueViolation,
)
from moorage.filters import Comparison, Filter, Order, equal
from moorage.lock import process_name
from moorage.protocol.asking import Query, field_names, query_filter
from moorage.protocol.base import Base
from moorage.protocol.giving import check_fields, fields_given
from moorage.records import Resource, check_integer, check_number, check_text, utcnow
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

    def get_resource(self, resource: Resource | str) -> Resource:
        """The resource as it is stored now.

        Args:
            resource: the record, its id, or its name.

        Raises:
            ResourceNotFound: there is none.
        """
        return mapping.RESOURCES.record(self._resource_document(resource))

    def _resource_document(self, resource: Resource | str) -> Document:
        name = _resource_id(resource)
        found = self._waist.get(RESOURCES, name)
        if found is None and isinstance(resource, str):
            found = next(iter(self._waist.find(RESOURCES, equal(name=name), limit=1)), None)
        if found is None:
            raise ResourceNotFound(f"no resource with the id or the name {name!r} is stored")
        return found

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

    def add_slots(
        self, name: str, count: int, kind: str = "resource", labels: Mapping[str, object] | None = None
    ) -> list[Resource]:
        """Add the slots of something that several can share: ``name/0``, ``name/1``, …, each taken by itself.

        Args:
            name: of what has the slots; each slot has it as the label ``of``, and its place as ``slot``.
            count: how many.
            kind: by which a slot is asked for.
            labels: of each slot, besides.

        Raises:
            DuplicateResource: a slot of this name is stored already; those before it have been added.
        """
        size = check_integer("count", count, least=1)
        base = check_text("name", name, limit=240)
        return [
            self.add_resource(name=f"{base}/{slot}", kind=kind, labels={**(labels or {}), "of": base, "slot": slot})
            for slot in range(size)
        ]

    def update_resource(
        self, resource: Resource | str, *, if_revision: int | None = None, **fields: object
    ) -> Resource:
        """Change the name, the kind or the labels of a resource, whoever holds it; as this change stored it.

        Args:
            resource: the record, its id, or its name.
            if_revision: the revision that must be stored now.
            **fields: ``name``, ``kind``, ``labels``.

        Raises:
            DuplicateResource: the new name is taken.
            FailedUpdate: the stored revision is another one.
            ResourceNotFound: there is none.
        """
        check_fields(Resource, fields, ("name", "kind", "labels"))
        stored = self._resource_document(resource)
        changed = attrs.evolve(mapping.RESOURCES.record(stored), **fields)  # type: ignore[arg-type]  # checked by the record
        changes = mapping.RESOURCES.encode({name: getattr(changed, name) for name in fields})
        try:
            done = self._waist.change_one(RESOURCES, stored.id, self._revision(if_revision), changes)
        except UniqueViolation:
            raise DuplicateResource(f"a resource {changed.name!r} is stored already") from None
        if done is None:
            current = self.get_resource(stored.id)
            raise FailedUpdate(f"resource {current.name!r} has revision {current.revision}, not {if_revision}")
        return mapping.RESOURCES.record(done)

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
        where: Query = None,
    ) -> Resource | None:
        """Take a free resource, for one holder alone; None when none is free.

        Args:
            kind: any one of this kind (the first by name).
            holder: who takes it; by default this process.
            lease: seconds after which it is free again unless it is renewed.
            id: this one, in place of any of a kind.
            where: what it must be like, as in ``{"labels.memory": {"$gte": 40}}``.

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
        wanted += query_filter(where, RESOURCES)
        name = process_name() if holder is None else check_text("holder", holder)
        seconds = check_number("lease", lease, above=0)
        return self._take_one(wanted, name, seconds)

    def _take_one(self, wanted: Filter, name: str, seconds: float) -> Resource | None:
        """Take the first free resource that matches, or one whose lease has run out."""

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
