"""Objectives that update theta and phi separately."""
