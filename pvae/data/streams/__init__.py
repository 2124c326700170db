"""Data that stay in files, data sets or loaders of PyTorch until a batch of them is needed."""
