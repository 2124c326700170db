"""The cells of a comparison: plan them, train and evaluate one, read and write its files."""
