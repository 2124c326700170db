"""A reference posterior by Hamiltonian Monte Carlo, against the guide."""
