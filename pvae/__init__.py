"""pvae: a laboratory for deep latent-variable models in Pyro.

Write a generative model and its encoder as two Pyro programs; :func:`fit` trains them with any inference
algorithm, :mod:`pvae.evaluate` estimates how good the result is, and :func:`compare` shows which algorithm suits
the model.

The names below are loaded when they are first used, so that ``import pvae`` costs no torch import.
"""

import logging

import lazy_loader

__version__ = "0.1.0"

# pvae prints no log records by itself; they are shown if the program configures logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())

# `__init__.pyi` holds the one list of public names and of the module that each comes from.
__getattr__, __dir__, _listed = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*_listed, "__version__"]
