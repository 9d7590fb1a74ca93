"""The loop on one machine: what the config repository says, run as containers; no ambition to be a cluster."""
