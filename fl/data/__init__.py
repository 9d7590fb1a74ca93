"""Data: arrays of examples, hospitals' files and their schema, partitions for research, federated statistics."""
