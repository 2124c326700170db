"""Studies of gradient estimators: bias, variance and cost."""
