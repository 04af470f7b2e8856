"""Ways to adapt a frozen backbone: one file a strategy."""

from __future__ import annotations

from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.full import Full
from graftwork.adaptation.lora import Lora
from graftwork.adaptation.partial import Partial
from graftwork.adaptation.prefix import PrefixTuning
from graftwork.adaptation.strategy import Attachment, Delta, Strategy, StrategySettings
from graftwork.errors import ArtifactInvalid

STRATEGIES: dict[str, Strategy] = {
    FeatureExtraction.name: FeatureExtraction(),
    Lora.name: Lora(),
    PrefixTuning.name: PrefixTuning(),
    Partial.name: Partial(),
    Full.name: Full(),
}


def strategy_of(name: str) -> Strategy:
    """The strategy a manifest names.

    Raises:
        ArtifactInvalid: if this version of Graftwork does not know it.
    """
    if name not in STRATEGIES:
        raise ArtifactInvalid(
            f"the manifest names the strategy {name!r}, which this version does not know",
            remedy=f"Known are {', '.join(STRATEGIES)}; a newer Graftwork may know it.",
        )
    return STRATEGIES[name]


__all__ = ["STRATEGIES", "Attachment", "Delta", "Strategy", "StrategySettings", "strategy_of"]
