"""Merging of near-duplicate components, and split-and-merge EM, after EM has converged."""
