"""The training step as a graph: traced, simplified, and compared with the eager step."""
