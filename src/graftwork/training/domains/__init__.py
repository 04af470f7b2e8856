"""Adapting to a domain of which there are rows without labels."""
