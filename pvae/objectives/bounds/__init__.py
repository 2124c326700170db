"""Bounds on the log evidence, and estimators of their gradients."""
