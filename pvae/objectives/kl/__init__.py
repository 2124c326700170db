"""Objectives with a weight, a bound or a penalty on the KL divergence."""
