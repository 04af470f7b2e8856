"""What descends from what: a base model, its adapters, their children."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from graftwork.errors import NotFound, ReferenceMalformed
from graftwork.registry.base_rows import BaseModel, find_base_id, load_bases
from graftwork.registry.catalog import Catalog
from graftwork.registry.database import Database
from graftwork.registry.reference import Reference
from graftwork.registry.scope import EVERYTHING, Scope
from graftwork.registry.tables import adapter_versions, base_models
from graftwork.registry.versions import AdapterVersion, find_version, load_versions


@dataclass(frozen=True)
class LineageNode:
    """A base model or an adapter version, and what descends from it.

    Attributes:
        kind: which of the two.
        reference: `family/version/variant` or `tenant/name@version`.
        digest: the fingerprint, or the adapter's digest.
        strategy: how the adapter was made; empty for a base model.
        size_bytes: bytes of it alone.
        aliases: its names, or the aliases that stand on it.
        subject: True for what was asked for.
        children: by tenant, name and version.
    """

    kind: Literal["base", "adapter"]
    reference: str
    digest: str
    strategy: str
    size_bytes: int
    aliases: tuple[str, ...]
    subject: bool
    children: tuple[LineageNode, ...]

    def walk(self) -> Iterator[tuple[int, LineageNode]]:
        """This node and all below with their depths, parents before children; however deep it goes."""
        waiting = [(0, self)]
        while waiting:
            depth, node = waiting.pop()
            yield depth, node
            waiting.extend((depth + 1, child) for child in reversed(node.children))


def line_to_subject(node: LineageNode) -> tuple[LineageNode, ...]:
    """The nodes from this one down to the subject, both among them; none when the subject is not below it."""
    if node.subject:
        return (node,)
    for child in node.children:
        if line := line_to_subject(child):
            return (node, *line)
    return ()


def lineage(database: Database, catalog: Catalog, reference: str, *, scope: Scope = EVERYTHING) -> LineageNode:
    """The tree around an adapter or a base model.

    Of an adapter: its base model, the line of its parents, itself, and all that descends from it. Of a base model: all
    adapters made for it. Only what is in scope is shown.

    Raises:
        NotFound: if it is neither an adapter in scope nor a base model.
    """
    with database.read() as connection:
        base_id, subject = _find(connection, catalog, reference, scope)
        (base,) = load_bases(connection, base_models.c.id == base_id)
        on_base = adapter_versions.c.base_id == base_id
        versions = load_versions(connection, scope, catalog.manifest, on_base)
        pairs = connection.execute(sa.select(adapter_versions.c.id, adapter_versions.c.parent_id).where(on_base))
        parents: dict[int, int | None] = {row.id: row.parent_id for row in pairs}
    if subject is not None:
        related = _related(parents, subject.row)
        versions = [version for version in versions if version.row in related]
    return _tree(base, versions, parents, subject)


def _find(
    connection: sa.Connection, catalog: Catalog, reference: str, scope: Scope
) -> tuple[int, AdapterVersion | None]:
    """Row of the base model, and the adapter if one was named; `family/version` looks like `tenant/name`."""
    try:
        parsed = Reference.parse(reference)
    except ReferenceMalformed:
        return find_base_id(connection, reference), None
    try:
        adapter = find_version(connection, parsed, scope, catalog.manifest)
    except NotFound as not_an_adapter:
        try:
            return find_base_id(connection, reference), None
        except NotFound:
            raise not_an_adapter from None
    held = sa.select(adapter_versions.c.base_id).where(adapter_versions.c.id == adapter.row)
    return connection.execute(held).scalar_one(), adapter


def _related(parents: dict[int, int | None], subject: int) -> set[int]:
    """The subject, its ancestors and its descendants. A parent is always older, so its row number is smaller."""
    related = {subject}
    above = parents.get(subject)
    while above is not None and above not in related:
        related.add(above)
        above = parents.get(above)
    below = {subject}
    for row in sorted(parents):
        if parents[row] in below:
            below.add(row)
    return related | below


def _tree(
    base: BaseModel, versions: list[AdapterVersion], parents: dict[int, int | None], subject: AdapterVersion | None
) -> LineageNode:
    shown = {version.row for version in versions}
    children: dict[int | None, list[tuple[AdapterVersion, LineageNode]]] = defaultdict(list)
    for version in sorted(versions, key=lambda version: -version.row):
        below = sorted(children[version.row], key=lambda pair: (pair[0].tenant, pair[0].name, pair[0].version))
        node = LineageNode(
            kind="adapter",
            reference=version.reference,
            digest=version.digest,
            strategy=version.strategy,
            size_bytes=version.size_bytes,
            aliases=version.aliases,
            subject=subject is not None and subject.row == version.row,
            children=tuple(node for _, node in below),
        )
        above = parents[version.row]
        children[above if above in shown else None].append((version, node))
    roots = sorted(children[None], key=lambda pair: (pair[0].tenant, pair[0].name, pair[0].version))
    return LineageNode(
        kind="base",
        reference=base.reference,
        digest=base.fingerprint,
        strategy="",
        size_bytes=base.size_bytes,
        aliases=base.aliases,
        subject=subject is None,
        children=tuple(node for _, node in roots),
    )
