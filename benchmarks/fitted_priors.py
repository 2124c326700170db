"""Fitted priors on digits or MNIST: the log evidence and the quality of samples, before and after.

Each system is trained once for each seed; `pvae.fit_prior` then fits each kind of prior to its codes. Per row:

- the log evidence of test data by importance sampling, and its paired difference to the prior of the training. For a
  VQVAE it is the lower bound by the nearest codes. An autoencoder has none;
- the accuracy of a classifier that distinguishes samples from test data (0.5: it cannot), cross-fitted;
- the distance between the shares of the classes in samples and in test data, by a classifier of the training data: half
  the sum of absolute differences (0: equal shares, 0.9: one class of ten), and the number of classes with a share of at
  least a fifth of that in the data.

    PVAE_DATA=... python benchmarks/fitted_priors.py [--data digits] [--systems vae,autoencoder,vqvae] [--seeds 0,1,2]
        [--epochs 100] [--prior-epochs 100] [--limit 1000] [--particles 200] [--pictures FOLDER]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from torch import Tensor

import pvae
from pvae.evaluate.resemblance_tests.classifier_test import classifier_test

KINDS = {
    "vae": ("full-gaussian", "mixture", "flow", "aggregate", "vamp", "vae"),
    "autoencoder": ("full-gaussian", "mixture", "flow", "vae"),
    "vqvae": ("autoregressive",),
}
MODELS = {
    "digits": {
        "vae": "vae:latent=8:hidden=64",
        "autoencoder": "autoencoder:latent=8:hidden=64",
        "vqvae": "vqvae:codes=16:latent=8:positions=8:hidden=64",
    },
    "mnist": {
        "vae": "vae:latent=20:hidden=200,200",
        "autoencoder": "autoencoder:latent=20:hidden=200,200",
        "vqvae": "vqvae:codes=64:latent=16:positions=8:hidden=200,200",
    },
}


@dataclass(frozen=True)
class Row:
    """The results of one prior of one training.

    Attributes:
        prior: the kind of the prior.
        evidence: the log evidence, or None.
        difference: its paired difference to the prior of the training, or None.
        accuracy: that of the two-sample classifier.
        accuracy_error: its standard error.
        distance: between the shares of the classes.
        classes: the number of classes that are covered.
        seconds: the time of the fit.
    """

    prior: str
    evidence: Any
    difference: Any
    accuracy: float
    accuracy_error: float
    distance: float
    classes: int
    seconds: float


class Judge:
    """Compares samples with test data.

    Args:
        data: the splits, binarised.
        limit: the number of test data and of samples.
    """

    def __init__(self, data: pvae.Splits, limit: int) -> None:
        rows = torch.randperm(data.test.size, generator=torch.Generator().manual_seed(0))[:limit]
        self.real = data.test["x"][rows].flatten(1).numpy()
        train = data.train["x"][:10_000].flatten(1).numpy()
        network = MLPClassifier((200,), max_iter=30, early_stopping=True, random_state=0)
        self.classifier = LogisticRegression(max_iter=2000) if train.shape[1] < 100 else network
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.classifier.fit(train, data.train["y"][:10_000].numpy())
        self.shares = self._shares(self.real)
        labels = data.test["y"][rows].numpy()
        print(
            f"classifier of classes: accuracy {np.mean(self.classifier.predict(self.real) == labels):.3f} on test data"
        )

    def _shares(self, x: np.ndarray) -> np.ndarray:
        return np.bincount(self.classifier.predict(x), minlength=10) / len(x)

    def judge(self, samples: Tensor, seed: int) -> tuple[float, float, float, int]:
        """Return accuracy, its error, distance and number of covered classes of samples, shape (draws, ...)."""
        x = samples.flatten(1).numpy()
        test = classifier_test(self.real, x, permutations=19, seed=seed)
        shares = self._shares(x)
        covered = int((shares >= self.shares / 5).sum())
        return test.accuracy, test.error, 0.5 * float(np.abs(shares - self.shares).sum()), covered


def evidence_of(run: pvae.Run, data: pvae.Splits, options: argparse.Namespace) -> Any:
    """Return the log evidence of test data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k-hat of a point q, and of 8 to 20 latent dimensions
        return pvae.evaluate.log_evidence(run, data, particles=options.particles, limit=options.limit)


def rows_of(system: str, seed: int, data: pvae.Splits, judge: Judge, options: argparse.Namespace) -> list[Row]:
    """Train a system by one seed, and return a row for each prior."""
    run = pvae.fit(MODELS[options.data][system], data, epochs=options.epochs, seed=seed, threads=1, progress=False)
    has_evidence = system != "autoencoder"
    before = evidence_of(run, data, options) if has_evidence else None
    rows = []
    for kind in ("training", *KINDS[system]):
        start = time.perf_counter()
        fitted = run
        if kind != "training":
            fitted = pvae.fit_prior(run, kind, data, epochs=options.prior_epochs, seed=seed)
        seconds = time.perf_counter() - start
        if kind == "training" and not has_evidence:
            continue  # a flat prior has no samples
        after = evidence_of(fitted, data, options) if has_evidence else None
        samples = fitted.sample(len(judge.real), seed=seed)
        difference = None if after is None else after - before
        rows.append(Row(kind, after, difference, *judge.judge(samples, seed), seconds))
        if options.pictures and seed == options.seeds[0]:
            pictures = fitted.sample(100, mean=True, seed=seed)
            Path(options.pictures).mkdir(parents=True, exist_ok=True)
            np.save(Path(options.pictures) / f"{options.data}-{system}-{kind}.npy", pictures.numpy())
        print(f"  {system} seed {seed} {kind}: {rows[-1]}", flush=True)
    return rows


def mean_and_deviation(values: list[float], digits: int) -> str:
    """Return the mean over seeds and the standard deviation over seeds as text."""
    spread = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def table_row(system: str, rows: list[Row]) -> str:
    """Return one line of the table: the rows of one prior over the seeds."""
    evidence = difference = "none"
    if rows[0].evidence is not None:
        error = math.sqrt(statistics.fmean(row.evidence.error**2 for row in rows))
        evidence = f"{statistics.fmean(row.evidence.value for row in rows):.2f} ± {error:.2f}"
        spread = statistics.stdev(row.difference.value for row in rows) if len(rows) > 1 else 0.0
        paired = math.sqrt(statistics.fmean(row.difference.error**2 for row in rows))
        mean = statistics.fmean(row.difference.value for row in rows)
        difference = "first row" if rows[0].prior == "training" else f"{mean:+.3f} ± {paired:.3f} ({spread:.3f})"
    accuracy = mean_and_deviation([row.accuracy for row in rows], 3)
    distance = mean_and_deviation([row.distance for row in rows], 3)
    classes = ", ".join(str(row.classes) for row in rows)
    return f"| {system} | {rows[0].prior} | {evidence} | {difference} | {accuracy} | {distance} | {classes} |"


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(MODELS), default="digits")
    parser.add_argument("--systems", default=",".join(KINDS))
    parser.add_argument("--seeds", default="0,1,2", type=lambda text: [int(seed) for seed in text.split(",")])
    parser.add_argument("--epochs", default=100, type=int)
    parser.add_argument("--prior-epochs", default=100, type=int)
    parser.add_argument("--limit", default=1000, type=int)
    parser.add_argument("--particles", default=200, type=int)
    parser.add_argument("--pictures", default="")
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    options = parse()
    torch.set_num_threads(1)
    data = pvae.load_data(options.data, binarise="static")
    options.limit = min(options.limit, data.test.size)
    judge = Judge(data, options.limit)
    lines = [
        "| system | prior | log evidence | change | accuracy of the classifier | distance of the classes | classes |",
        "|---|---|---|---|---|---|---|",
    ]
    for system in options.systems.split(","):
        by_seed = [rows_of(system, seed, data, judge, options) for seed in options.seeds]
        lines += [table_row(system, list(rows)) for rows in zip(*by_seed, strict=True)]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
