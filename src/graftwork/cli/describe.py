"""An adapter as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftwork.registry.versions import AdapterVersion


def describe_adapter(version: AdapterVersion, *, with_manifest: bool = False) -> dict[str, Any]:
    """What is known of a published version; with the manifest, its metrics and settings too."""
    described: dict[str, Any] = {
        "reference": version.reference,
        "digest": version.digest,
        "aliases": list(version.aliases),
        "strategy": version.strategy,
        "labels": list(version.labels),
        "base": version.base_reference,
        "base_fingerprint": version.base,
        "parent": version.parent,
        "size_bytes": version.size_bytes,
        "share_of_base": version.size_bytes / version.base_size_bytes,
        "created_at": version.created_at,
        "record": version.record,
    }
    if with_manifest:
        described["manifest"] = version.manifest.model_dump(mode="json")
    return described
