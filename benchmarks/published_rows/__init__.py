"""Rows of ``published.py``: published results, each with the recipe of its source and smaller budgets."""
