"""Annealed importance sampling, and the sandwich of lower and upper estimates of the log evidence."""
