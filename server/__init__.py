"""The global server: aggregation rounds, the model registry, and federations on one machine."""
