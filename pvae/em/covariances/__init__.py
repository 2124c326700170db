"""The four families of covariances: full, tied, diagonal and spherical."""
