"""Bounds on the log evidence."""
