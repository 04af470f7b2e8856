"""Training beside its peers: whole processes, real rows, several seeds."""
