"""A federation on one machine: the same server and client apps over an in-process grid, or on Ray."""
