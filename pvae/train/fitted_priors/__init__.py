"""Fit a prior to the codes of a trained model: the site, its codes, the densities, and the new run."""
