"""The frozen network compiled ahead of time for this machine, in the background, with adapters' updates in place."""
