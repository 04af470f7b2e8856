"""Going on with a fine-tune, and what it forgets."""
