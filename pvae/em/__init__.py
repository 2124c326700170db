"""Gaussian mixtures by EM: the estimator, and the E-step and M-step as functions."""

from __future__ import annotations

from pvae.em.base import Mixture
from pvae.em.functional import bound, maximise, mixture_of, responsibilities
from pvae.em.gaussian_mixture import GaussianMixture
from pvae.em.prior import Prior

__all__ = ["GaussianMixture", "Mixture", "Prior", "bound", "maximise", "mixture_of", "responsibilities"]
