"""The table of a comparison: statistics of each row, columns, text and verdict."""
