"""Attend, infer, repeat: the count accuracy for several gradients of z_pres, over seeds.

Each training gives a line of a file, so that an interrupted benchmark goes on where it stopped. Lines of another budget
or of another number of epochs are left out. The table shows for each gradient the mean over seeds and its standard
error of

- the count accuracy: the share of test pictures for which the most probable number of objects is the number of digits;
- the same for numbers that are drawn from the guide, as in the public figures;
- the ELBO of test pictures, nats;
- the CPU time of a training, seconds.

    python benchmarks/objects.py [--budget short] [--gradients measure,graph] [--seeds 0,1,2] [--out objects.jsonl]
    PVAE_DATA=... python benchmarks/objects.py --budget full --device cuda
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiments.base import mean_error, shown, table
from pyro import poutine

import pvae
from pvae.data import draw_multi_digits

OBJECTIVES = {
    "measure": "iwae:particles=1:gradients=z_pres_*=measure",
    "enumerate": "iwae:particles=1:gradients=z_pres_*=enumerate",
    "graph": "elbo-graph",
    "graph-decaying": "elbo-graph:baseline=decaying",
    "graph-network": "elbo-graph:baseline=network",
    "measure-2": "iwae:particles=2:gradients=z_pres_*=measure",
    "leave-one-out-2": "iwae:particles=2",
    "disarm": "iwae:particles=1:gradients=z_pres_*=disarm",
}
#: of the code of Becker et al., arXiv:2406.15742, file experiments.ipynb: genjax.vi after 41 epochs, and Pyro's
#: TraceGraph_ELBO after 30 epochs, the last that the file shows
PUBLIC = {"measure": 0.984, "enumerate": 0.984, "graph": 0.789}


@dataclass(frozen=True)
class Budget:
    """What one training is.

    Attributes:
        model: the text of the model.
        epochs: of one training.
        learning_rate: of Adam.
        gradients: the gradients of the table.
    """

    model: str
    epochs: int
    learning_rate: float
    gradients: str


BUDGETS = {
    "smoke": Budget("air:hidden=16", 1, 1e-3, "measure"),
    "short": Budget("air", 12, 1e-3, "measure,enumerate,graph,graph-decaying,leave-one-out-2"),
    "full": Budget("air:window=20:latent=50:hidden=200:scale=0.3", 41, 1e-4, ",".join(OBJECTIVES)),
}


def load(budget: str) -> pvae.Splits:
    """Return pictures of the digits of scikit-learn, or for the full budget 60,000 of MNIST's on 50 x 50 pixels."""
    if budget != "full":
        return pvae.load_data("multi_digits")
    mnist = pvae.load_data("mnist", validation=0)
    fields: dict[str, np.ndarray] = {}
    for part, count in (("train", 62_000), ("test", 10_000)):
        digits = getattr(mnist, part)["x"].reshape(-1, 28, 28)[:, 4:24, 4:24].numpy()
        x, y = draw_multi_digits(digits, count, side=50, seed=len(fields))
        fields |= {f"x_{part}": x, f"y_{part}": y}
    return pvae.load_data(fields, validation=2000)


def accuracy_of_draws(model: Any, x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the share of pictures for which one draw from the guide has the right number of objects."""
    with torch.no_grad():
        trace = poutine.trace(model.guide).get_trace(x)
    counts = sum(trace.nodes[f"z_pres_{t}"]["value"] for t in range(model.steps))
    return float((counts == y).double().mean())


def train(gradient: str, seed: int, data: pvae.Splits, options: argparse.Namespace) -> dict[str, Any]:
    """Train one model, and return its results."""
    budget = BUDGETS[options.budget]
    epochs = options.epochs or budget.epochs
    start = time.process_time()
    run = pvae.fit(
        budget.model, data, objective=OBJECTIVES[gradient], epochs=epochs, batch_size=64,
        learning_rate=budget.learning_rate, seed=seed, device=options.device, threads=1, progress=False,
    )  # fmt: skip
    seconds = time.process_time() - start
    test = data.test
    torch.manual_seed(seed)
    parameter = next(run.model.parameters())
    return {
        "budget": options.budget,
        "epochs of training": epochs,
        "gradient": gradient,
        "seed": seed,
        "accuracy": pvae.evaluate.accuracy(run, data).value,
        "of draws": accuracy_of_draws(run.model, test["x"].to(parameter), test["y"].to(parameter.device)),
        "elbo": pvae.evaluate.elbo(run, data, particles=1).value,
        "seconds": seconds,
        "epochs": [round(row["validation_accuracy"], 4) for row in run.history if "validation_accuracy" in row],
    }


def table_of(results: list[dict[str, Any]]) -> str:
    """Return the table of the results."""
    rows = [["gradient of z_pres", "seeds", "count accuracy", "of draws", "ELBO", "CPU seconds", "published"]]
    for gradient in dict.fromkeys(result["gradient"] for result in results):
        of_gradient = [result for result in results if result["gradient"] == gradient]
        columns = []
        for key, digits in (("accuracy", 3), ("of draws", 3), ("elbo", 1), ("seconds", 0)):
            mean, error = mean_error(result[key] for result in of_gradient)
            columns.append(f"{mean:.{digits}f}" if math.isnan(error) else shown(mean, error, digits))
        rows.append([f"`{OBJECTIVES[gradient]}`", str(len(of_gradient)), *columns, str(PUBLIC.get(gradient, ""))])
    return table(rows)


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", choices=list(BUDGETS), default="short")
    parser.add_argument("--gradients", default="")
    parser.add_argument("--seeds", default="0,1,2", type=lambda text: [int(seed) for seed in text.split(",")])
    parser.add_argument("--epochs", default=0, type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="objects.jsonl")
    return parser.parse_args()


def main() -> None:
    """Train what is missing in the file, and print the table."""
    options = parse()
    torch.set_num_threads(1)
    out = Path(options.out)
    recorded = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    # trainings of another budget or length in the same file are others
    kind = {"budget": options.budget, "epochs of training": options.epochs or BUDGETS[options.budget].epochs}
    results = [result for result in recorded if kind.items() <= result.items()]
    known = {(result["gradient"], result["seed"]) for result in results}
    data = load(options.budget)
    for seed in options.seeds:
        for gradient in (options.gradients or BUDGETS[options.budget].gradients).split(","):
            if (gradient, seed) in known:
                continue
            results.append(train(gradient, seed, data, options))
            print(results[-1], flush=True)
            with out.open("a") as file:
                file.write(json.dumps(results[-1]) + "\n")
    print(table_of(results))


if __name__ == "__main__":
    main()
