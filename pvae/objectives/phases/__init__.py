"""Objectives that update theta and phi on their own."""
