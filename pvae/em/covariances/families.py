"""The four families of covariances by name."""

from __future__ import annotations

from pvae.em.base import CovarianceFamily
from pvae.em.covariances.diagonal import Diagonal
from pvae.em.covariances.full import Full
from pvae.em.covariances.spherical import Spherical
from pvae.em.covariances.tied import Tied

__all__ = ["FAMILIES"]

FAMILIES: dict[str, CovarianceFamily] = {family.name: family for family in (Full(), Tied(), Diagonal(), Spherical())}
