"""The table of a comparison: statistics of each row, columns, text and verdict."""

from pvae.comparison.table.comparison_table import Table

__all__ = ["Table"]
