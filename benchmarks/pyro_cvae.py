"""Pyro's own example of conditional VAEs at the budget "short" of the row `quadrants` of ``published.py``.

It gives the figures that this budget is compared with: the example's networks and its training by `SVI`, on the same
training and test images, with the same epochs and batches.

    PVAE_DATA=... python benchmarks/pyro_cvae.py CHECKOUT-OF-PYRO [--quadrants 1,2,3] [--seeds 0]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import pyro
import torch
from published_rows.pyro_quadrants import QUADRANTS, missing_pixels
from published_rows.training import load
from pyro.infer import Trace_ELBO
from torch import Tensor
from torch.utils.data import DataLoader

import pvae


def batches(x: Tensor, missing: Tensor, size: int, shuffle: bool) -> DataLoader:
    """Return a loader with the fields of the example: the observed pixels and the others, -1 elsewhere."""
    pictures = x.reshape(-1, 28, 28)
    hidden = missing.reshape(28, 28)
    items = [
        {"input": torch.where(hidden, -1.0, picture), "output": torch.where(hidden, picture, -1.0)}
        for picture in pictures
    ]
    return DataLoader(items, batch_size=size, shuffle=shuffle)


def measure(observed: int, seed: int, data: pvae.Splits) -> tuple[float, float]:
    """Return minus the scores of the test images by the network alone and by the CVAE, nats per image."""
    import baseline  # of the checkout
    import cvae

    settings = QUADRANTS.budgets["short"].settings
    missing = missing_pixels((28, 28), observed)
    pyro.set_rng_seed(seed)
    # The example keeps the parameters of the epoch with the best loss on these images: those after the first 20000.
    held_out = pvae.load_data("mnist", binarise="none", validation=0).train["x"][settings["images"] :][:2000]
    parts = {"train": data.train["x"], "val": held_out}
    loaders = {name: batches(x, missing, settings["batch_size"], name == "train") for name, x in parts.items()}
    options = {
        "device": torch.device("cpu"),
        "dataloaders": loaders,
        "dataset_sizes": {name: len(x) for name, x in parts.items()},
        "learning_rate": settings["learning_rate"],
        "num_epochs": settings["epochs"],
        "early_stop_patience": 3,
        "model_path": "network.pth",
    }
    network = baseline.train(**options)
    model = cvae.train(**{**options, "model_path": "cvae.pth"}, pre_trained_baseline_net=network)
    loss = Trace_ELBO(num_particles=settings["particles"]).differentiable_loss
    totals = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for batch in batches(data.test["x"], missing, 100, False):
            score = baseline.MaskedBCELoss()(network(batch["input"]), batch["output"])
            totals += torch.stack([score, loss(model.model, model.guide, batch["input"], batch["output"])]).double()
    first, second = (totals / data.test.size).tolist()
    return first, second


def main() -> None:
    """Print a line for each number of quadrants and each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--quadrants", default="1,2,3")
    parser.add_argument("--seeds", default="0")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(options.checkout.resolve() / "examples" / "cvae"))
    data = load(QUADRANTS.budgets["short"].settings, binarise="none")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for observed in map(int, options.quadrants.split(",")):
            for seed in map(int, options.seeds.split(",")):
                network, model = measure(observed, seed, data)
                print(f"{observed} observed, seed {seed}: network alone {network:.2f}, CVAE {model:.2f}", flush=True)


if __name__ == "__main__":
    main()
