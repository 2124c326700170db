"""pvae: a laboratory for deep latent-variable models in Pyro."""

__version__ = "0.1.0"
