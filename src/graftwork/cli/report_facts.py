"""What a report says of an adapter beside its quality: where it comes from, what it takes, how it is made again."""

from __future__ import annotations

import json
import math
import shlex
from typing import TYPE_CHECKING

from graftwork.evaluation.tables import Table

if TYPE_CHECKING:
    from graftwork.cli.report_rows import ReportRows
    from graftwork.registry.manifest import Manifest
    from graftwork.registry.versions import AdapterVersion
    from graftwork.wiring import Services


def subtitle_of(version: AdapterVersion) -> str:
    """What it is, one sentence."""
    manifest = version.manifest
    return (
        f"{len(version.labels)} classes, {version.strategy} on {version.base_reference}, trained on "
        f"{manifest.dataset.train_rows + manifest.dataset.validation_rows:,} rows, published "
        f"{version.created_at:%Y-%m-%d}."
    )


def lineage_table(opened: Services, version: AdapterVersion) -> Table:
    """The base model, what the adapter stands on, and what stands on it."""
    from graftwork.cli.console import file_size
    from graftwork.registry.lineage import lineage

    root = lineage(opened.database, opened.catalog, version.reference)
    return Table(
        "From the base model down",
        ("what", "made by", "size", "digest"),
        tuple(
            (
                "· " * depth + node.reference + (" (this one)" if node.subject else ""),
                node.strategy or "base model",
                file_size(node.size_bytes),
                node.digest[:12],
            )
            for depth, node in root.walk()
        ),
    )


def cost_table(opened: Services, version: AdapterVersion) -> Table:
    """Seconds, bytes and the share of the values that were trained."""
    from graftwork.cli.console import file_size

    manifest, record = version.manifest, version.record
    seconds = record.get("total_seconds")
    stages = ", ".join(f"{stage} {taken:.1f}" for stage, taken in record.get("seconds", {}).items())
    stored = stored_values(manifest)
    parameters = opened.bases.resolve(version.base).metadata.parameters
    lines = [
        ("trained in", "not known" if seconds is None else f"{seconds:.1f} s" + (f" ({stages})" if stages else "")),
        ("stored", f"{file_size(version.size_bytes)}, {version.size_bytes / version.base_size_bytes:.2%} of the base"),
        ("the base, shared by all", file_size(version.base_size_bytes)),
        ("values stored", f"{stored:,}, {stored / parameters:.2%} of the base's {parameters:,}"),
        ("adapted layers", f"{manifest.layers - manifest.split} of {manifest.layers}"),
    ]
    if peak := record.get("peak_bytes"):
        lines.insert(1, ("most memory", file_size(peak)))
    return Table("What it took and takes", ("", ""), tuple(lines))


def stored_values(manifest: Manifest) -> int:
    """Numbers in the delta and the head of an adapter, as they are stored."""
    outputs, width = len(manifest.labels), manifest.width
    hidden = manifest.hidden
    head = outputs * (width + 1) if hidden is None else hidden * (width + 1) + outputs * (hidden + 1)
    return head + sum(math.prod(tensor.shape) for tensor in manifest.tensors)


def identity_table(version: AdapterVersion, test_digest: str) -> Table:
    """Digests, seed and versions."""
    manifest = version.manifest
    lines = [
        ("adapter", version.digest),
        ("base model", version.base),
        ("tokenizer", manifest.tokenizer),
        ("rows it was trained on", manifest.dataset.digest),
        ("rows it is judged on", test_digest),
        ("seed", str(manifest.seed)),
        ("dtype", manifest.dtype),
        ("versions", ", ".join(f"{name} {number}" for name, number in manifest.packages.items())),
    ]
    return Table("Digests, seed and versions", ("", ""), tuple(lines))


def commands_of(opened: Services, version: AdapterVersion, rows: ReportRows) -> tuple[str, ...]:
    """What to type for the same adapter, and for this report."""
    manifest = version.manifest
    source = rows.train.source if rows.train is not None else str(version.record.get("rows_from", "ROWS"))
    train = ["graft", "train", source, "--base", version.base_reference, "--name", f"{version.tenant}/{version.name}"]
    train += ["--config", "settings.yaml"]
    if version.parent is not None:
        from graftwork.registry.lineage import line_to_subject, lineage

        line = line_to_subject(lineage(opened.database, opened.catalog, version.reference))
        train += ["--parent", line[-2].reference]
    if manifest.dataset.test_source == "given":
        train += ["--test", str(version.record.get("judged_on", "TEST_ROWS"))]
    again = ["graft", "report", version.reference, "--train", source, "--out", "report.html"]
    if rows.given is not None:
        again += ["--data", rows.given.source]
    settings = json.dumps(manifest.settings, sort_keys=True)
    return (f"cat > settings.yaml <<'END'\n{settings}\nEND", shlex.join(train), shlex.join(again))
