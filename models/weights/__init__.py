"""The shipped checkpoints (data only)."""
