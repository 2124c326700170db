"""How the gradient of each site is taken, and baselines that lower its variance."""
