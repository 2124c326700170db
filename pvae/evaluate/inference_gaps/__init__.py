"""The gap between log evidence and ELBO, and its parts."""
