"""Log weights by a graph of tensor operations in place of Pyro, for evaluations of many particles or data."""
