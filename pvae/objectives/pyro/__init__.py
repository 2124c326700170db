"""Pyro's own losses as objectives, and EM."""
