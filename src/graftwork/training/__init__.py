"""From rows to an artifact."""
