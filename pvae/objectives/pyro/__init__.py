"""Pyro's own losses as objectives, EM, and the changes to Pyro that they need."""
