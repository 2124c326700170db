"""The four kinds of covariances by name."""

from __future__ import annotations

from pvae.em.base import Family
from pvae.em.matrices import Full, Tied
from pvae.em.variances import Diagonal, Spherical

__all__ = ["FAMILIES"]

FAMILIES: dict[str, Family] = {family.name: family for family in (Full(), Tied(), Diagonal(), Spherical())}
