"""Experiments of ``systems.py``: each trains systems at a budget fixed beforehand, and returns what was measured."""
