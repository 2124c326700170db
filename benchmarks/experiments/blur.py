"""Blur: how much edge energy samples and reconstructions have, by likelihood and decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pvae
from experiments.base import Budget, Claim, Result, Room, mean_error, paired, shown, verdicts

SYSTEMS: dict[str, dict[str, Any]] = {
    "gaussian, scale 1": {"likelihood": "gaussian:scale=1"},
    "gaussian, scale 0.3": {"likelihood": "gaussian:scale=0.3"},
    "gaussian, scale learned": {"likelihood": "gaussian"},
    "discretised logistic": {"likelihood": "discretised-logistic"},
    "gaussian learned, conv": {"likelihood": "gaussian", "network": "conv", "hidden": (32, 64)},
}
BUDGETS = {
    "short": Budget("short", (0, 1, 2), {"epochs": 10, "images": 10000}),
    "published": Budget("published", (0, 1, 2, 3, 4), {"epochs": 200, "images": 60000}),
}


def edge_energy(images: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring pixels, shape (images,); images (images, height, width)."""
    across, down = images.diff(dim=-1).square().mean((-1, -2)), images.diff(dim=-2).square().mean((-1, -2))
    return across + down


def run(name: str, budget: Budget, folder: Path) -> Result:
    """Train each likelihood and seed on grey MNIST, and measure edges against those of the test images."""
    room = Room(folder / name)
    data = pvae.load_data("mnist", binarise="none", validation=0)
    some = data.train.take(slice(0, budget.settings["images"]))
    true = edge_energy(data.test["x"][:1000].reshape(-1, 28, 28)).mean()

    def measure(recipe: dict[str, Any], seed: int) -> dict[str, float]:
        spec = pvae.ModelSpec("vae", {"latent": 20, "hidden": (200, 200), **recipe})
        splits = pvae.load_data(
            {"x": some["x"].reshape(-1, 28, 28), "x_test": data.test["x"][:1000].reshape(-1, 28, 28)},
            binarise="none",
            validation=0,
        )
        model = pvae.fit(
            spec, splits, objective="elbo", epochs=budget.settings["epochs"], seed=seed, progress=False
        ).model
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            samples = model.sample(1000, mean=True).reshape(-1, 28, 28)
            again = model.reconstruct(splits.test["x"]).reshape(-1, 28, 28)
        return {
            "samples": float(edge_energy(samples).mean() / true),
            "reconstructions": float(edge_energy(again).mean() / true),
        }

    cells = {
        label: [
            room.once(f"{label.replace(' ', '_').replace(',', '')}-seed{seed}", lambda r=recipe, s=seed: measure(r, s))
            for seed in budget.seeds
        ]
        for label, recipe in SYSTEMS.items()
    }
    rows = [("likelihood and decoder", "edges of reconstructions", "edges of samples")]
    for label, found in cells.items():
        numbers = [shown(*mean_error(each[what] for each in found)) for what in ("reconstructions", "samples")]
        rows.append((label, *numbers))
    first = next(iter(cells))
    says = [
        Claim(
            f"Edges of reconstructions, {label} against {first}",
            *paired(
                [each["reconstructions"] for each in cells[label]], [each["reconstructions"] for each in cells[first]]
            ),
            "of the data's",
        )
        for label in list(cells)[1:]
    ]
    setting = (
        f"The data are {budget.settings['images']} images of grey MNIST. The networks are 784-200-200-20 with tanh, "
        "or convolutional where the row says conv. The training uses `elbo`, Adam 1e-3, batches of 100, "
        f"{budget.settings['epochs']} epochs and seeds {', '.join(map(str, budget.seeds))}. The edge energy of "
        "pictures is the mean squared difference of neighbouring pixels. The table shows that of the means of x "
        "given z, divided by that of 1000 test images: 1 is as sharp as the data, and a smaller number is more "
        "blurred. Standard errors are over seeds."
    )
    return Result(setting, tuple(rows), verdicts(says, len(budget.seeds)), room.seconds())
