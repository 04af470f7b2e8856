"""One process that answers every adapter of a backbone, mixed in one batch."""
