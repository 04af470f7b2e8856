"""What adapters are ranked by: accuracy, transfer ratio, size, seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from graftwork.evaluation.leaderboard import Entry
    from graftwork.evaluation.results import Interval
    from graftwork.registry.versions import AdapterVersion

SortKey = Literal["transfer-ratio", "accuracy", "size", "seconds", "created"]


def accuracy_of(version: AdapterVersion) -> Interval | None:
    """As it was judged when it was trained; None where it was not, or where it generates or answers several tasks."""
    return _interval((version.manifest.metrics or {}).get("accuracy"))


def ratio_of(version: AdapterVersion) -> Interval | None:
    """Its transfer ratio as `graft evaluate --transfer` last measured it; None where it never did."""
    noted = version.record.get("transfer")
    return _interval(noted.get("ratio")) if isinstance(noted, dict) else None


def sorted_by(versions: Sequence[AdapterVersion], key: SortKey) -> list[AdapterVersion]:
    """The best, smallest, fastest or newest first; those of which it is not known last, by name."""

    def value(interval: Interval | None) -> float | None:
        return None if interval is None else -interval.value

    keys: dict[SortKey, Callable[[AdapterVersion], float | None]] = {
        "transfer-ratio": lambda version: value(ratio_of(version)),
        "accuracy": lambda version: value(accuracy_of(version)),
        "size": lambda version: version.size_bytes,
        "seconds": lambda version: version.record.get("total_seconds"),
        "created": lambda version: -version.created_at.timestamp(),
    }
    found = {version.reference: keys[key](version) for version in versions}

    def place(version: AdapterVersion) -> tuple[bool, float, str]:
        known = found[version.reference]
        return known is None, known or 0.0, version.reference

    return sorted(versions, key=place)


def entries_of(version: AdapterVersion) -> list[Entry]:
    """What a version brings to the leaderboards: itself, or each of its tasks, where they were judged."""
    from graftwork.evaluation.leaderboard import Entry

    manifest = version.manifest
    parts: list[tuple[str | None, dict[str, Any]]] = [(task.name, task.metrics or {}) for task in manifest.tasks]
    found = []
    for task, metrics in parts or [(None, manifest.metrics or {})]:
        accuracy = _interval(metrics.get("accuracy"))
        if accuracy is None or "dataset_digest" not in metrics:
            continue
        found.append(
            Entry(
                reference=version.reference,
                base=version.base_reference,
                strategy=version.strategy,
                task=task,
                test_digest=metrics["dataset_digest"],
                test_rows=int(metrics.get("rows", 0)),
                accuracy=accuracy,
                size_bytes=version.size_bytes,
                seconds=version.record.get("total_seconds"),
                transfer_ratio=None if task else ratio_of(version),
            )
        )
    return found


def _interval(content: Any) -> Interval | None:
    from pydantic import ValidationError

    from graftwork.evaluation.results import Interval

    try:
        return Interval.model_validate(content)
    except ValidationError:
        return None


def interval_text(found: Interval | None, *, percent: bool) -> str:
    """A value with its limits; a dash where it is not known."""
    if found is None:
        return "–"
    if percent:
        return f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}]"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
