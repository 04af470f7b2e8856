"""What every run does first, whether it trains an adapter or goes on with one: processes, memory, the base's dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graftwork.data.findings import Finding
from graftwork.errors import SettingsInvalid
from graftwork.training.allocator import return_freed_memory
from graftwork.training.processes import join
from graftwork.training.sharding import check_sharding

if TYPE_CHECKING:
    from graftwork.backbones.backbone import TextBackbone
    from graftwork.training.config import TrainingConfig
    from graftwork.training.progress import Progress


def prepare_process(backbone: TextBackbone, config: TrainingConfig, *, resume: bool) -> None:
    """Join the other processes of the run, and set the allocator as asked.

    Args:
        backbone: the frozen backbone.
        config: the settings.
        resume: whether an earlier run is gone on with.

    Raises:
        SettingsInvalid: if the settings do not fit the processes, or the backbone is not kept as they say.
        ProcessLost: if other processes do not come.
    """
    join(backbone.device)
    check_sharding(config.fine_tuning, resume=resume)
    _refuse_other_bits(backbone, config)
    if config.fine_tuning.tight_memory:
        return_freed_memory()


def _refuse_other_bits(backbone: TextBackbone, config: TrainingConfig) -> None:
    if backbone.bits != config.base_dtype:
        raise SettingsInvalid(
            f"base_dtype is {config.base_dtype}, and the backbone was loaded with {backbone.bits}",
            remedy="Load it with bits=config.base_dtype.",
        )


def few_bits(backbone: TextBackbone, progress: Progress) -> list[Finding]:
    """A warning, told at once, when the base is kept in fewer bits than it is served with."""
    if backbone.bits is None:
        return []
    found = Finding(
        code="base-in-few-bits",
        severity="warning",
        message=f"it was trained and judged on a base kept as {backbone.bits}; it is served by the base as it is, "
        "whose answers differ a little",
        count=1,
        remedy="Judge what is served: graft evaluate NAME --data FILE.",
    )
    progress.note(f"warning: {found.message}. {found.remedy}")
    return [found]
