"""What serving costs, beside named peers in the same run: `python -m benchmarks.serving`."""
