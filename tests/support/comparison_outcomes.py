"""Outcomes of a comparison with made-up numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pvae.comparison.base import Cell, Outcome

RNG = np.random.default_rng(0)
DATA, SEEDS, PARTICLES = 40, 3, 100


def outcome(objective, seed, evidence, failure="", **scores):
    """An outcome with this log evidence of each datum, or with this failure."""
    cell = Cell("vae", objective, seed, Path(f"out/cells/vae/{objective}/seed-{seed}"))
    if failure:
        return Outcome(cell, failure=failure)
    values = {"log_evidence": evidence, "elbo": evidence - 1.5, "khat": np.full(DATA, 0.2), "ess": np.full(DATA, 0.5)}
    numbers = {"active_units": 4, "training_seconds": 2.0, "decoder_evaluations": 1000, "epochs": 5}
    numbers |= {"particles": PARTICLES, **scores}
    return Outcome(cell, numbers, {name: torch.as_tensor(value) for name, value in values.items()})


def pointwise(shift=0.0):
    """Log evidence of SEEDS trainings on DATA data: hard and easy data are the same for all."""
    return np.linspace(-30, -10, DATA) + shift + RNG.normal(size=(SEEDS, DATA))


def outcomes(first, second):
    """The outcomes of two rows, elbo and iwae, with these log evidences, (SEEDS, DATA)."""
    pairs = (("elbo", first), ("iwae", second))
    return [outcome(name, seed, values) for name, evidences in pairs for seed, values in enumerate(evidences)]
