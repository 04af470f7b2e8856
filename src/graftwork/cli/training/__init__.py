"""The rooms behind `graft train`: what is asked, what goes together, what a run stands on, and how it is published."""
