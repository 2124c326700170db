"""The training step as one compiled function."""
