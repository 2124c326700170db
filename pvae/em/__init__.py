"""Gaussian mixtures by EM: the estimator, and the E-step and M-step as functions."""

from __future__ import annotations

from pvae.em.base import Mixture
from pvae.em.estimator import GaussianMixture
from pvae.em.steps import bound, maximise, mixture_of, responsibilities

__all__ = ["GaussianMixture", "Mixture", "bound", "maximise", "mixture_of", "responsibilities"]
