"""Bias, variance and cost of gradient estimators."""
