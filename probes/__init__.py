"""Probes: what the pruning masks tell about the recording."""
