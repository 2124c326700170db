"""Seconds per step of EM for Gaussian mixtures: pvae beside scikit-learn in float64, from the same parameters.

The variants take turns in one process, in rounds of one step on a copy of the same parameters; the table shows the
median of the rounds' ratios of CPU time with their quartiles, or of wall-clock time where threads are many. Above 1:
pvae is faster. The last column is the largest difference of the log-likelihood to scikit-learn's in float64.

    python benchmarks/em.py [--rounds 9] [--threads 1] [--grid small|full] [--device cuda] [--profile]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator

# Set before NumPy is read, since scikit-learn's BLAS takes its number of threads from here.
THREADS = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "1"
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = THREADS

import numpy as np  # noqa: E402
import sklearn  # noqa: E402
import torch  # noqa: E402
from sklearn.mixture import GaussianMixture  # noqa: E402

import pvae  # noqa: E402
from pvae.em.ascent import step as em_step  # noqa: E402
from pvae.em.families import FAMILIES  # noqa: E402
from pvae.em.frame import Columns, survey  # noqa: E402
from pvae.em.passes import Passes  # noqa: E402
from pvae.em.processes import Processes  # noqa: E402
from pvae.em.routes import Route  # noqa: E402
from pvae.em.row_sources import ArrayRows  # noqa: E402
from pvae.em.settings import rules_of  # noqa: E402

Parameters = tuple[np.ndarray, np.ndarray, np.ndarray]
REG = 1e-6
#: kind, data, features, components, goal in float64, goal in float32
GRIDS = {
    "full": [
        ("full", 10_000, 2, 50, 10, None),
        ("full", 10_000, 16, 50, 10, 4),
        ("full", 50_000, 16, 50, 10, 4),
        ("full", 10_000, 16, 10, 4, 4),
        ("full", 10_000, 64, 50, 4, None),
        ("full", 10_000, 64, 10, 2, None),
        ("tied", 10_000, 16, 50, 5, None),
        ("tied", 100_000, 16, 50, 15, None),
        ("diag", 10_000, 16, 50, 2.5, 4.5),
        ("spherical", 10_000, 16, 50, 3, 5),
    ],
    "small": [
        ("full", 10_000, 16, 50, 10, 4),
        ("tied", 10_000, 16, 50, 5, None),
        ("diag", 10_000, 16, 50, 2.5, 4.5),
        ("spherical", 10_000, 16, 50, 3, 5),
    ],
}


def make_data(count: int, features: int, components: int, seed: int = 0) -> np.ndarray:
    """Correlated components of unequal weight, which overlap."""
    random = np.random.default_rng(seed)
    spread = 3.0 if features <= 2 else 6.0 / np.sqrt(features)
    means = spread * random.normal(size=(components, features))
    roots = 0.7 * random.normal(size=(components, features, features)) / np.sqrt(features) + 0.5 * np.eye(features)
    which = random.choice(components, size=count, p=random.dirichlet(np.full(components, 5.0)))
    x = np.empty((count, features))
    for component in range(components):
        own = np.flatnonzero(which == component)
        x[own] = means[component] + random.normal(size=(len(own), features)) @ roots[component].T
    return x


def start(x: np.ndarray, kind: str, components: int) -> Parameters:
    """Means at data, and the covariance of the data for each component."""
    means = x[np.random.default_rng(1).choice(len(x), components, replace=False)]
    covariance = np.cov(x[:20_000].T) + REG * np.eye(x.shape[1])
    covariances = {
        "full": np.repeat(covariance[None], components, 0),
        "tied": covariance,
        "diag": np.repeat(np.diag(covariance)[None], components, 0),
        "spherical": np.full(components, np.diag(covariance).mean()),
    }
    return np.full(components, 1 / components), means, covariances[kind]


class Theirs:
    """scikit-learn's E-step and M-step."""

    def __init__(self, x: np.ndarray, kind: str, given: Parameters) -> None:
        from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky

        self.x, self.mixture = x, GaussianMixture(len(given[0]), covariance_type=kind, reg_covar=REG)
        self.mixture.weights_, self.mixture.means_, self.mixture.covariances_ = (each.copy() for each in given)
        self.mixture.precisions_cholesky_ = _compute_precision_cholesky(given[2], kind)

    def __call__(self) -> float:
        log_likelihood, shares = self.mixture._e_step(self.x)
        self.mixture._m_step(self.x, shares)
        return float(log_likelihood)


class Ours:
    """What `pvae.GaussianMixture` runs for each step."""

    def __init__(self, x: np.ndarray, kind: str, given: Parameters, dtype: torch.dtype, device: str = "cpu") -> None:
        family = FAMILIES[kind]
        rows = ArrayRows(torch.as_tensor(x).to(device, dtype))
        self.frame = survey(rows, uniform=kind == "spherical", missing=False)
        self.rules = rules_of(pvae.GaussianMixture(len(given[0]), reg_covar=REG).get_params(), family, self.frame)
        self.passes = Passes(Columns(rows, self.frame), dtype, False, Processes())
        weights, means, covariances = (torch.as_tensor(each, device=device) for each in given)
        self.route: Route = self.passes.route(self.frame.inside(family.mixture(weights, means, covariances)))

    def __call__(self) -> float:
        statistics_, _, self.route = em_step(self.passes, self.route, self.rules)
        return float(statistics_.log_likelihood / statistics_.weight) - self.frame.log_scale()


def measure(
    variants: dict[str, Callable[[], float]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each variant in each round, after three steps to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, step in variants.items():
            begun = clock()
            step()
            seconds[name].append(clock() - begun)
    return seconds


def row(case: tuple, rounds: int, clock: Callable[[], float]) -> str:
    """One line of the table."""
    kind, count, features, components, goal64, goal32 = case
    x = make_data(count, features, components)
    given = start(x, kind, components)
    variants: dict[str, Callable[[], float]] = {
        "scikit-learn": Theirs(x, kind, given),
        "float64": Ours(x, kind, given, torch.float64),
        "float32": Ours(x, kind, given, torch.float32),
    }
    likelihoods = {name: [step() for _ in range(3)] for name, step in variants.items()}
    seconds = measure(variants, rounds, clock)
    cells = [f"{kind}, {count}, {features}, {components}", f"{1e3 * statistics.median(seconds['scikit-learn']):.1f}"]
    for name, goal in (("float64", goal64), ("float32", goal32)):
        ratios = [theirs / ours for theirs, ours in zip(seconds["scikit-learn"], seconds[name], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        off = max(abs(a - b) for a, b in zip(likelihoods[name], likelihoods["scikit-learn"], strict=True))
        cells += [f"{middle:.1f} ({low:.1f} to {high:.1f})", "" if goal is None else f"{goal:g}", f"{off:.0e}"]
    return "| " + " | ".join(cells) + " |"


def rows(cases: list[tuple], rounds: int, clock: Callable[[], float]) -> Iterator[str]:
    """The table, line by line."""
    yield "| covariances, N, D, K | scikit-learn ms | float64 | goal | log p off | float32 | goal | log p off |"
    yield "|---|---|---|---|---|---|---|---|"
    for case in cases:
        yield row(case, rounds, clock)


def profile(rounds: int) -> Iterator[str]:
    """Where a step's time goes, beside what its two matrix products alone cost."""
    yield "\n| covariances, N, D, K | products alone, share of a step | GFLOP/s of the products |\n|---|---|---|"
    for kind, count, features, components, *_ in GRIDS["full"]:
        x = make_data(count, features, components)
        ours = Ours(x, kind, start(x, kind, components), torch.float64)
        for _ in range(3):
            ours()
        chunk, width = min(ours.route.chunk, count), ours.route.width
        if type(ours.route).__name__ != "Features":
            yield f"| {kind}, {count}, {features}, {components} | whitened route | |"
            continue
        a, b = torch.randn(components, width, dtype=torch.float64), torch.randn(width, chunk, dtype=torch.float64)
        c = torch.randn(components, chunk, dtype=torch.float64)

        def products(a: torch.Tensor = a, b: torch.Tensor = b, c: torch.Tensor = c, n: int = count // chunk) -> float:
            for _ in range(n):
                a @ b
                c @ b.mT
            return 0.0

        seconds = measure({"step": ours, "products": products}, rounds, time.process_time)
        alone, whole = (statistics.median(seconds[name]) for name in ("products", "step"))
        rate = 4 * components * width * chunk * (count // chunk) / alone / 1e9
        yield f"| {kind}, {count}, {features}, {components} | {alone / whole:.2f} | {rate:.0f} |"


def cuda(rounds: int) -> Iterator[str]:
    """A million data of 64 features on the card, as a share of its own rate of matrix products."""
    count, features, components = 1_000_000, 64, 50
    x = make_data(count, features, components).astype(np.float32)
    given = start(x.astype(np.float64), "full", components)
    big = torch.randn(8192, 8192, device="cuda", dtype=torch.float64)

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    rate = 2 * 8192**3 / statistics.median(measure({"gemm": lambda: float((big @ big)[0, 0])}, rounds, clock)["gemm"])
    for dtype in (torch.float64, torch.float32):
        ours = Ours(x, "full", given, dtype, "cuda")
        for _ in range(2):
            ours()
        seconds = statistics.median(measure({"step": ours}, rounds, clock)["step"])
        work = 4 * components * ours.route.width * count / seconds
        card = torch.cuda.get_device_name()
        yield f"{card}, {dtype}: {1e3 * seconds:.1f} ms a step, {work / rate:.2f} of its float64 matrix products"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--grid", choices=tuple(GRIDS), default="full")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--profile", action="store_true", help="also what the matrix products alone cost")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    clock = time.process_time if given.threads == 1 else time.perf_counter
    print(
        f"torch {torch.__version__}, scikit-learn {sklearn.__version__}, NumPy {np.__version__}, {platform.machine()}, "
        f"{given.threads} threads, {given.rounds} rounds"
    )
    lines = cuda(given.rounds) if given.device == "cuda" else rows(GRIDS[given.grid], given.rounds, clock)
    for line in lines:
        print(line, flush=True)
    for line in profile(given.rounds) if given.profile else ():
        print(line, flush=True)


if __name__ == "__main__":
    main()
