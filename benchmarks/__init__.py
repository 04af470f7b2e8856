"""Benchmarks: each prints a table of ratios against named peers, measured in one run."""
