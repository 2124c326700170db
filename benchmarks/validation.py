"""The validation of a training by graphs, beside the same validation by Pyro.

A VAE of binary data, float32, with batches of 100 on one thread; the validation takes 100 particles of 500 data, which
are the defaults. In each round one training validates by Pyro and one by graphs. The cost is CPU time: of a validation
after the first one, of the first one, and of an epoch of steps.

    python benchmarks/validation.py [--rounds 5] [--data 18000]
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import torch
from environment import restart_without_slowing_variables
from timing import quartiles

import pvae
from pvae.products.machine_identity import machine_identity
from pvae.train import prepare, validation

EPOCHS = 3
NETWORKS = {"784-400-20": (784, 400, 20), "784-100-10": (784, 100, 10)}


class TimedValidation(validation.Validation):
    """The validation that records its CPU time."""

    seconds: tuple[float, ...] = ()

    def __call__(self) -> dict[str, float | None]:
        """Return the score, and record the time."""
        started = time.process_time()
        scores = super().__call__()
        TimedValidation.seconds += (time.process_time() - started,)
        return scores


def measure(network: str, data: pvae.Splits, least_work: float) -> tuple[float, float, float]:
    """Return the CPU seconds of the first validation, of a later one, and of the steps of an epoch without the first.

    Args:
        network: a name of `NETWORKS`.
        data: training and validation data.
        least_work: the least work for which graphs compute the validation.
    """
    pixels, hidden, latent = NETWORKS[network]
    validation._LEAST_WORK = least_work
    TimedValidation.seconds, ends = (), []
    model = pvae.VAE((pixels,), latent=latent, hidden=(hidden,), activation="relu")
    options = {"epochs": EPOCHS, "batch_size": 100, "step": "graph", "progress": False}
    pvae.fit(model, data, callbacks=[lambda record, model: ends.append(time.process_time())], **options)
    first, *later = TimedValidation.seconds
    epochs = [end - start - second for start, end, second in zip(ends, ends[1:], later, strict=False)]
    return first, statistics.mean(later), statistics.mean(epochs)


def main() -> None:
    """Print a table of the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=int, default=18_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    prepare.Validation = TimedValidation
    print(machine_identity())
    print("| network | Pyro / graph, a validation | first validation, graph - Pyro | share of an epoch saved |")
    print("|---|---|---|---|")
    for network, (pixels, _, _) in NETWORKS.items():
        x = (torch.rand(options.data + 2000, pixels) < 0.3).float()
        data = pvae.load_data(x, validation=2000, test=0)
        measure(network, data, 0.0)  # the products are timed, and the modules of the tracer are imported
        ratios, overheads, shares = [], [], []
        for _ in range(options.rounds):
            pyro_first, pyro_later, epoch = measure(network, data, float("inf"))
            graph_first, graph_later, _ = measure(network, data, 0.0)
            ratios.append(pyro_later / graph_later)
            overheads.append(graph_first - pyro_first)
            shares.append((pyro_later - graph_later) / (epoch + pyro_later))
        print(
            f"| {network} | {quartiles(ratios)} | {1000 * statistics.median(overheads):.0f} ms | "
            f"{100 * statistics.median(shares):.0f} % |"
        )


if __name__ == "__main__":
    restart_without_slowing_variables()
    main()
