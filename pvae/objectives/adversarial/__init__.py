"""Objectives with a critic: GAN, AAE and ALI."""
