"""Objectives that train against a critic: GAN, AAE and ALI."""
