"""Objectives that update theta and phi in turn."""
