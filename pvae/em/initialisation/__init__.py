"""Initial parameters of EM: by k-means, from selected data, or at random."""
