"""The rows of data: their sources, the checks of their values, and their standardised coordinates."""
