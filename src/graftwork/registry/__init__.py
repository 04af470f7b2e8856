"""What exists: base models and adapters as a versioned graph over content-addressed blobs."""
