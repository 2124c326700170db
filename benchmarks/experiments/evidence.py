"""Priors, posteriors and layers: test log evidence against the plain VAE, paired by image and by seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pvae
from experiments.base import Budget, Claim, Result, shuffled, verdicts

COMMON = {"hidden": (200, 200), "latent": 20, "activation": "tanh"}
SYSTEMS: dict[str, dict[str, Any]] = {
    "vae": {},
    "mixture prior": {"prior": "mixture:components=50"},
    "vamp prior": {"prior": "vamp:components=200"},
    "full posterior": {"posterior": "full"},
    "flow posterior": {"posterior": "flow:kind=iaf"},
    "two layers, bottom-up": {"model": "ladder-vae", "inference": "bottom-up", "latent": (20, 10)},
    "two layers, ladder": {"model": "ladder-vae", "inference": "ladder", "latent": (20, 10)},
}
BUDGETS = {
    "short": Budget(
        "short", (0, 1, 2), {"epochs": 10, "batch_size": 100, "particles": 200, "limit": 500, "workers": 1}
    ),
    "published": Budget(
        "published",
        (0, 1, 2, 3, 4),
        {"epochs": 500, "batch_size": 100, "particles": 5000, "limit": None, "workers": None},
    ),
}


def run(name: str, budget: Budget, folder: Path) -> Result:
    """Compare the systems by `pvae.compare`."""
    settings = budget.settings
    recipes = {label: {"model": "vae", **COMMON, **recipe} for label, recipe in SYSTEMS.items()}
    models = {label: pvae.ModelSpec(recipe.pop("model"), recipe) for label, recipe in recipes.items()}
    data = pvae.load_data("mnist_static")
    data = replace(data, test=shuffled(data.test))
    found = pvae.compare(
        models,
        data,
        {"elbo": "elbo"},
        budget.seeds,
        settings["epochs"],
        folder / name,
        particles=settings["particles"],
        limit=settings["limit"],
        batch_size=settings["batch_size"],
        baseline="vae / elbo",
        threads=1,
        workers=settings["workers"],
    )
    rows, says = [("system", "log evidence (sd over seeds)", "difference", "ELBO", "active units")], []
    for row in found.table.rows:
        difference = "first row"
        if row.difference is not None:
            over = row.difference_over_seeds
            difference = f"{row.difference.value:+.2f} ± {row.difference.error:.2f} ({over.error:.2f} seeds)"
            what = f"{row.model} against {found.table.rows[0].model}"
            says.append(Claim(what, row.difference.value, row.difference_error, "nats"))
        rows.append(
            (
                row.model,
                f"{row.log_evidence.value:.2f} ± {row.log_evidence.error:.2f} ({row.spread:.2f})",
                difference,
                f"{row.elbo.value:.2f}",
                f"{row.active_units.value:.1f}" if row.active_units is not None else "-",
            )
        )
    setting = (
        "The data are static MNIST, and the networks 784-200-200-20 with tanh. The training uses `elbo`, Adam 1e-3, "
        f"batches of {settings['batch_size']}, {settings['epochs']} epochs and seeds "
        f"{', '.join(map(str, budget.seeds))}. The log evidence is estimated on {settings['limit'] or 10000} test "
        f"images with {settings['particles']} particles, in nats per image. A difference is paired by image, and its "
        "second standard error is over seeds; the claims use both."
    )
    return Result(setting, tuple(rows), verdicts(says, len(budget.seeds)))
