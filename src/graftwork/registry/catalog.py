"""The adapters of a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import ValidationError

from graftwork.errors import ArtifactInvalid, BlobDamaged, InUse, NotFound, Problem, ReferenceMalformed
from graftwork.registry.aliases import AliasChange, check_alias, drop_alias, history, move_alias
from graftwork.registry.artifact import DEFAULT_LIMITS, MANIFEST, Artifact, ArtifactLimits, check_manifest, invalid
from graftwork.registry.base_rows import find_base_id
from graftwork.registry.blobs import BlobStore
from graftwork.registry.database import Database
from graftwork.registry.manifest import Manifest
from graftwork.registry.publish import (
    Publication,
    already_published,
    check_latest,
    check_lineage,
    insert_version,
    store_missing,
)
from graftwork.registry.reference import Reference
from graftwork.registry.scope import EVERYTHING, Scope
from graftwork.registry.tables import adapter_files, adapter_versions, adapters
from graftwork.registry.versions import (
    NEWEST,
    AdapterVersion,
    bare,
    find_adapter,
    find_version,
    load_versions,
    no_adapter,
)

if TYPE_CHECKING:
    import builtins

# Built once: building it anew costs more than running it.
_HELD = (
    sa.select(adapters.c.tenant, adapters.c.name, adapter_versions.c.version)
    .join_from(adapter_versions, adapters)
    .where(adapter_versions.c.digest == sa.bindparam("digest"))
    .limit(1)
)


class Catalog:
    """Adapters by name, version and alias.

    Every method takes a scope: what lies outside is not found.

    Args:
        database: where they are listed.
        blobs: where their bytes are.
        limits: what an adapter may cost whoever loads it.
    """

    def __init__(self, database: Database, blobs: BlobStore, limits: ArtifactLimits = DEFAULT_LIMITS) -> None:
        self._database = database
        self._blobs = blobs
        self._limits = limits

    def publish(
        self,
        tenant_name: str,
        artifact: Artifact,
        *,
        record: dict[str, Any] | None = None,
        expected_latest: int | None = None,
        idempotency_key: str | None = None,
        scope: Scope = EVERYTHING,
    ) -> AdapterVersion:
        """Publish an adapter as the next version of a name.

        The blobs are durable before the version exists, and the version exists at once: nobody ever sees half of it.

        Args:
            tenant_name: `tenant/name`.
            artifact: the adapter.
            record: JSON to note beside it that is no part of its identity, such as the seconds it took.
            expected_latest: publish only if this is the newest version (0: if there is none).
            idempotency_key: a second call with the same name and key returns the version of the first.
            scope: whose things the publisher sees.

        Raises:
            ArtifactInvalid: if the artifact is not what its manifest says.
            NotFound: if its base model or its parent is not there, or the tenant is out of scope.
            BaseMismatch: if base, tokenizer and parent do not belong together.
            Conflict: if `expected_latest` is not the newest version.
            StorageFull: if there is no space; nothing becomes visible.
        """
        reference = Reference.parse_bare(tenant_name)
        artifact.check(self._limits)
        publication = Publication(reference, artifact, record or {}, expected_latest, idempotency_key, scope)
        with self._database.read() as connection:
            if not scope.sees(reference.tenant):
                raise no_adapter(connection, reference, scope)
            version = already_published(connection, publication)
            if version is not None:
                return self._found(connection, reference, version, scope)
            check_lineage(connection, artifact.manifest, scope)
        digests = {path: self._blobs.put(content).digest for path, content in publication.blobs.items()}
        with self._database.write() as connection:
            version = already_published(connection, publication)
            if version is None:
                store_missing(self._blobs, publication, digests)
                version = insert_version(connection, publication, digests)
            return self._found(connection, reference, version, scope)

    def expect_latest(self, bare_reference: str, version: int, scope: Scope = EVERYTHING) -> None:
        """Check what `publish` would with `expected_latest`, before the work of making what is to be published.

        Raises:
            NotFound: if the tenant is out of scope.
            Conflict: if another version is the newest (0: if there is one).
        """
        reference = Reference.parse_bare(bare_reference)
        with self._database.read() as connection:
            if not scope.sees(reference.tenant):
                raise no_adapter(connection, reference, scope)
            check_latest(connection, reference, version)

    def resolve(self, reference: str | Reference, scope: Scope = EVERYTHING) -> AdapterVersion:
        """The version that a reference names.

        Args:
            reference: `tenant/name` or `tenant/name:latest` (the newest version), `tenant/name@3`,
                `tenant/name:production`.
            scope: whose things the caller sees.

        Raises:
            ReferenceMalformed: if it is no reference.
            NotFound: if there is none in scope; near names in scope are offered.
        """
        parsed = Reference.parse(reference) if isinstance(reference, str) else reference
        with self._database.read() as connection:
            return find_version(connection, parsed, scope, self.manifest)

    def list(
        self,
        scope: Scope = EVERYTHING,
        *,
        tenant: str | None = None,
        base: str | None = None,
        search: str | None = None,
        older: bool = False,
    ) -> list[AdapterVersion]:
        """The newest version of each name, by tenant and name. No blob is read.

        Args:
            scope: whose things the caller sees.
            tenant: of this tenant only.
            base: made for this base model only (see `BaseModels.resolve`).
            search: text that occurs, in any case, in tenant/name, the strategy or a label.
            older: the older versions too.

        Raises:
            NotFound: if there is no such base model.
        """
        conditions = [] if older else [NEWEST]
        if tenant is not None:
            conditions.append(adapters.c.tenant == tenant)
        if search:
            labels = sa.cast(adapter_versions.c.labels, sa.Text)
            texts = (adapters.c.tenant + "/" + adapters.c.name, adapter_versions.c.strategy, labels)
            conditions.append(sa.or_(*(text.icontains(search, autoescape=True) for text in texts)))
        with self._database.read() as connection:
            if base is not None:
                conditions.append(adapter_versions.c.base_id == find_base_id(connection, base))
            return load_versions(connection, scope, self.manifest, *conditions)

    def example(self) -> str | None:
        """`tenant/name` of one adapter, None when there is none; takes as long however many there are."""
        query = sa.select(adapters.c.tenant, adapters.c.name).join(adapter_versions).limit(1)
        with self._database.read() as connection:
            found = connection.execute(query).first()
        return None if found is None else f"{found.tenant}/{found.name}"

    def versions(self, bare_reference: str, scope: Scope = EVERYTHING) -> builtins.list[AdapterVersion]:
        """Every version of a name, oldest first.

        Raises:
            NotFound: if it has none in scope.
        """
        reference = Reference.parse_bare(bare_reference)
        with self._database.read() as connection:
            find_adapter(connection, reference, scope)
            return load_versions(connection, scope, self.manifest, bare(reference))

    def read(self, version: AdapterVersion | str, scope: Scope = EVERYTHING) -> Artifact:
        """The artifact itself, every byte verified by its digest and everything checked again.

        Args:
            version: a version, or the digest of one.
            scope: whose things the caller sees.

        Raises:
            NotFound: if no version of that digest is in scope.
            BlobDamaged: if bytes are missing or changed.
            ArtifactInvalid: if it breaks its own manifest, or is over the limits.
        """
        digest = version if isinstance(version, str) else version.digest
        with self._database.read() as connection:
            held = _HELD if scope.tenant is None else _HELD.where(scope.condition())
            row = connection.execute(held, {"digest": digest}).one_or_none()
        if row is None:
            shown = version[:64] if isinstance(version, str) else version.reference
            raise NotFound(f"no adapter {shown!r}", remedy="It may have been removed; graft list shows what there is.")
        try:
            return read_artifact(self._blobs, digest, self._limits)
        except BlobDamaged as error:
            name = f"{row.tenant}/{row.name}@{row.version}" if isinstance(version, str) else version.reference
            raise BlobDamaged(f"adapter {name} cannot be read: {error.message}", remedy=error.remedy) from error

    def manifest(self, digest: str) -> Manifest:
        """The manifest of a digest, verified.

        Raises:
            BlobDamaged: if it is missing or changed.
            ArtifactInvalid: if it cannot be understood.
        """
        return _read_manifest(self._blobs, digest, self._limits)[0]

    def note(self, version: AdapterVersion, name: str, content: dict[str, Any]) -> AdapterVersion:
        """Note something beside a version, in place of what was noted under that name; the version stays what it is.

        Args:
            version: the version.
            name: in its record.
            content: JSON.

        Raises:
            NotFound: if it was removed meanwhile.
        """
        row = adapter_versions.c.id == version.row
        with self._database.write() as connection:
            record = connection.scalar(sa.select(adapter_versions.c.record).where(row))
            if record is None:
                raise NotFound(f"{version.reference} was removed meanwhile", remedy="graft list shows what there is.")
            connection.execute(sa.update(adapter_versions).where(row).values(record={**record, name: content}))
            reference = Reference(version.tenant, version.name, version.version)
            return self._found(connection, reference, version.version, EVERYTHING)

    def set_alias(
        self,
        bare_reference: str,
        alias: str,
        version: int,
        *,
        expected: int | None = None,
        scope: Scope = EVERYTHING,
    ) -> AdapterVersion:
        """Let an alias stand on a version, newer or older; returns that version.

        Args:
            bare_reference: `tenant/name`.
            alias: the word, such as `production`.
            version: where it shall stand.
            expected: do it only if it stands on this version now (0: if it does not exist).
            scope: whose things the caller sees.

        Raises:
            NotFound: if there is no such version in scope.
            Conflict: if the alias stands elsewhere than expected.
            ReferenceMalformed: if the word cannot be an alias.
        """
        check_alias(alias)
        reference = Reference.parse_bare(bare_reference)
        with self._database.write() as connection:
            target = self._found(connection, reference, version, scope)
            adapter = find_adapter(connection, reference, scope)
            move_alias(connection, adapter, alias, (target.row, target.version), expected=expected)
            return self._found(connection, reference, version, scope)

    def remove_alias(self, bare_reference: str, alias: str, scope: Scope = EVERYTHING) -> None:
        """Remove an alias; its history stays.

        Raises:
            NotFound: if there is none in scope.
        """
        reference = Reference.parse_bare(bare_reference)
        with self._database.write() as connection:
            drop_alias(connection, find_adapter(connection, reference, scope), reference, alias)

    def alias_history(
        self, bare_reference: str, alias: str | None = None, scope: Scope = EVERYTHING
    ) -> builtins.list[AliasChange]:
        """Every move of the aliases of a name (or of one of them), oldest first.

        Raises:
            NotFound: if there is no such name in scope.
        """
        reference = Reference.parse_bare(bare_reference)
        with self._database.read() as connection:
            return history(connection, find_adapter(connection, reference, scope), alias)

    def remove(self, reference: str, scope: Scope = EVERYTHING) -> AdapterVersion:
        """Remove one version; its number is never given again, its bytes go with the next garbage collection.

        Raises:
            ReferenceMalformed: if the reference does not say which version.
            NotFound: if there is none in scope.
            InUse: if adapters descend from it, or aliases stand on it.
        """
        parsed = Reference.parse(reference)
        if parsed.version is None:
            raise ReferenceMalformed(
                f"{reference!r} does not say which version to remove", remedy=f"Write {parsed.bare}@3, for example."
            )
        with self._database.write() as connection:
            version = find_version(connection, parsed, scope, self.manifest)
            self._refuse_if_used(connection, version, scope)
            connection.execute(sa.delete(adapter_files).where(adapter_files.c.version_id == version.row))
            connection.execute(sa.delete(adapter_versions).where(adapter_versions.c.id == version.row))
        return version

    def _refuse_if_used(self, connection: sa.Connection, version: AdapterVersion, scope: Scope) -> None:
        children = load_versions(connection, scope, self.manifest, adapter_versions.c.parent_id == version.row)
        count = sa.select(sa.func.count()).where(adapter_versions.c.parent_id == version.row)
        unseen = connection.execute(count).scalar_one() - len(children)
        problems = [Problem(child.reference, "descends from it") for child in children]
        problems += [Problem("", f"{unseen} others descend from it")] if unseen else []
        problems += [Problem(f"{version.tenant}/{version.name}:{alias}", "stands on it") for alias in version.aliases]
        if problems:
            raise InUse(
                f"{version.reference} cannot be removed",
                problems=problems,
                remedy="Remove those first, or let the alias stand on another version.",
            )

    def _found(self, connection: sa.Connection, reference: Reference, version: int, scope: Scope) -> AdapterVersion:
        numbered = Reference(reference.tenant, reference.name, version)
        return find_version(connection, numbered, scope, self.manifest)


def read_artifact(blobs: BlobStore, digest: str, limits: ArtifactLimits = DEFAULT_LIMITS) -> Artifact:
    """Read an artifact from the blob store alone; sizes are judged before anything is read.

    Raises:
        BlobDamaged: if bytes are missing or changed.
        ArtifactInvalid: if it breaks its own manifest, or is over the limits.
    """
    manifest, content = _read_manifest(blobs, digest, limits)
    problems = check_manifest(manifest, content, limits)
    if problems:
        raise invalid(problems)
    files = {entry.path: blobs.get(entry.sha256, size=entry.size) for entry in manifest.files}
    artifact = Artifact(manifest, files, content)
    artifact.check(limits, hashed=True)  # the blob store gives no byte whose digest it has not compared
    return artifact


def _read_manifest(blobs: BlobStore, digest: str, limits: ArtifactLimits) -> tuple[Manifest, bytes]:
    size = blobs.size(digest) or 0
    if size > limits.manifest_bytes:
        raise invalid([Problem(MANIFEST, f"has {size} bytes; {limits.manifest_bytes} are allowed")])
    content = blobs.get(digest)
    try:
        return Manifest.model_validate_json(content), content
    except ValidationError as error:
        problems = [Problem(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
        raise ArtifactInvalid(
            f"the manifest {digest[:16]} cannot be understood",
            problems=problems,
            remedy="It may have been written by a newer version of graftwork: upgrade this installation.",
        ) from error
