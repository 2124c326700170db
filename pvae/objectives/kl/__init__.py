"""Objectives that weight, bound or penalise the KL divergence."""
