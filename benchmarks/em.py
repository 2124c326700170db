"""Speed of a step of EM for Gaussian mixtures: pvae beside scikit-learn in float64, from the same parameters.

The variants take turns in one process; all start from copies of the same parameters. A turn is three steps in a row,
because EM takes many of them in a row; with ``--steps 1``, each step begins with the data of another variant in the
caches. The table shows, for each dtype of pvae, the ratio of scikit-learn's time to pvae's: the median over rounds with
quartiles. Above 1, pvae is faster. Time is CPU time with one thread, and wall-clock time with several. The column "log
p off" is the largest difference of the log-likelihood to that of scikit-learn, nats per datum.

Settings of OpenBLAS in the environment, such as OPENBLAS_CORETYPE, slow scikit-learn down if they do not fit the
processor. The script therefore removes them and starts itself again before NumPy is imported, and says so.

In rows with "broad", all components are broad enough for float32. In the others, some full covariances are so narrow
that pvae computes in float64 also for data in float32.

The allocator of the C library keeps the memory of temporary arrays only after larger ones were freed. The order of the
rows therefore matters: in the full grid, scikit-learn's diagonal and spherical steps are faster than in the small one.

    python benchmarks/em.py [--rounds 9] [--steps 3] [--threads 1] [--grid small|full] [--device cuda] [--profile]
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
from typing import NamedTuple

from environment import restart_without_slowing_variables
from timing import quartiles

if __name__ == "__main__":
    restart_without_slowing_variables()

# BLAS reads its number of threads when NumPy is imported.
THREADS = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "1"
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = THREADS

import numpy as np  # noqa: E402
import sklearn  # noqa: E402
import threadpoolctl  # noqa: E402
import torch  # noqa: E402
from sklearn.mixture import GaussianMixture  # noqa: E402

import pvae  # noqa: E402
from pvae.em.covariances.families import FAMILIES  # noqa: E402
from pvae.em.e_step import EStep  # noqa: E402
from pvae.em.em_options import make_options  # noqa: E402
from pvae.em.em_run import em_step  # noqa: E402
from pvae.em.kernels.base import EStepKernel  # noqa: E402
from pvae.em.kernels.feature_kernel import FeatureKernel  # noqa: E402
from pvae.em.kernels.feature_products import make_feature_products  # noqa: E402
from pvae.em.rows.row_sources import ArrayRows  # noqa: E402
from pvae.em.rows.standardise import fit_standardiser  # noqa: E402
from pvae.em.rows.standardised_chunks import StandardisedChunks  # noqa: E402
from pvae.process_group import ProcessGroup  # noqa: E402
from pvae.products import default_products  # noqa: E402

REG_COVAR = 1e-6
Step = Callable[[], float]
Clock = Callable[[], float]


class Case(NamedTuple):
    """A row of the table.

    Attributes:
        covariance_type: of the mixture.
        rows: number of data.
        features: number of features.
        components: number of components.
        goals: ratios that are aimed at, by dtype.
        is_broad: whether no component has a direction of very small variance.
    """

    covariance_type: str
    rows: int
    features: int
    components: int
    goals: dict[str, float]
    is_broad: bool = False

    @property
    def label(self) -> str:
        """Covariances, N, D and K."""
        family = f"{self.covariance_type} broad" if self.is_broad else self.covariance_type
        return f"{family}, {self.rows}, {self.features}, {self.components}"


SMALL_GRID = [
    Case("full", 10_000, 16, 50, {"float64": 8}),
    Case("tied", 10_000, 16, 50, {}),
    Case("diag", 10_000, 16, 50, {"float64": 2.5}),
    Case("spherical", 10_000, 16, 50, {"float64": 2.5}),
]
FULL_GRID = [
    Case("full", 10_000, 2, 50, {}),
    Case("full", 10_000, 16, 50, {"float64": 8}),
    Case("full", 50_000, 16, 50, {"float64": 8}),
    Case("full", 10_000, 16, 10, {"float64": 3.5}),
    Case("full", 10_000, 64, 50, {"float64": 3}),
    Case("full", 10_000, 64, 10, {"float64": 1.5}),
    Case("full", 50_000, 16, 50, {"float64": 8}, is_broad=True),
    Case("full", 50_000, 64, 50, {"float64": 3}, is_broad=True),
    Case("tied", 10_000, 16, 50, {}),
    Case("tied", 100_000, 16, 50, {"float64": 12}),
    Case("diag", 10_000, 16, 50, {"float64": 2.5}),
    Case("spherical", 10_000, 16, 50, {"float64": 2.5}),
]
GRIDS = {"full": FULL_GRID, "small": SMALL_GRID}


class Parameters(NamedTuple):
    """Parameters of a mixture."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


def make_data(rows: int, features: int, components: int, is_broad: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return draws from correlated, overlapping components of unequal weight, (rows, features), and their means."""
    random = np.random.default_rng(0)
    noise = 0.3 if is_broad else 0.7  # from 0.5 on, some of the matrices below are almost singular
    spread = 3.0 if features <= 2 else 6.0 / np.sqrt(features)
    means = spread * random.normal(size=(components, features))
    roots = noise * random.normal(size=(components, features, features)) / np.sqrt(features) + 0.5 * np.eye(features)
    labels = random.choice(components, size=rows, p=random.dirichlet(np.full(components, 5.0)))
    x = np.empty((rows, features))
    for component in range(components):
        indices = np.flatnonzero(labels == component)
        x[indices] = means[component] + random.normal(size=(len(indices), features)) @ roots[component].T
    return x, means


def make_problem(case: Case) -> tuple[np.ndarray, Parameters]:
    """Return the data of a case, (rows, features), and initial parameters.

    The covariance of the data is that of each component. The means are at data. If all components are broad, they are
    the true ones, because a component at a datum can collapse to a few data.
    """
    x, true_means = make_data(case.rows, case.features, case.components, case.is_broad)
    data = x[np.random.default_rng(1).choice(len(x), case.components, replace=False)]
    return x, make_parameters(x, case.covariance_type, true_means if case.is_broad else data)


def make_parameters(x: np.ndarray, covariance_type: str, means: np.ndarray) -> Parameters:
    """Return parameters with equal weights, given means, and the covariance of the data for each component."""
    components = len(means)
    covariance = np.cov(x[:20_000].T) + REG_COVAR * np.eye(x.shape[1])
    covariances = {
        "full": np.repeat(covariance[None], components, 0),
        "tied": covariance,
        "diag": np.repeat(np.diag(covariance)[None], components, 0),
        "spherical": np.full(components, np.diag(covariance).mean()),
    }
    return Parameters(np.full(components, 1 / components), means, covariances[covariance_type])


class ScikitLearnStep:
    """A step of EM by scikit-learn: its E-step and M-step."""

    def __init__(self, x: np.ndarray, covariance_type: str, parameters: Parameters) -> None:
        from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky

        self.x = x
        components = len(parameters.weights)
        self.mixture = GaussianMixture(components, covariance_type=covariance_type, reg_covar=REG_COVAR)
        self.mixture.weights_ = parameters.weights.copy()
        self.mixture.means_ = parameters.means.copy()
        self.mixture.covariances_ = parameters.covariances.copy()
        self.mixture.precisions_cholesky_ = _compute_precision_cholesky(parameters.covariances, covariance_type)

    def __call__(self) -> float:
        log_likelihood, responsibilities = self.mixture._e_step(self.x)
        self.mixture._m_step(self.x, responsibilities)
        return float(log_likelihood)


class PvaeStep:
    """A step of EM by pvae: what `pvae.GaussianMixture` runs in each step."""

    def __init__(
        self, x: np.ndarray, covariance_type: str, parameters: Parameters, dtype: torch.dtype, device: str = "cpu"
    ) -> None:
        family = FAMILIES[covariance_type]
        rows = ArrayRows(torch.as_tensor(x).to(device, dtype))
        self.standardiser = fit_standardiser(rows, one_scale=covariance_type == "spherical", has_missing=False)
        settings = pvae.GaussianMixture(len(parameters.weights), reg_covar=REG_COVAR).get_params()
        self.options = make_options(settings, self.standardiser)
        self.e_step = EStep(StandardisedChunks(rows, self.standardiser), dtype, False, ProcessGroup())
        tensors = [torch.as_tensor(values, device=device) for values in parameters]
        mixture = self.standardiser.standardise(family.make_mixture(*tensors))
        self.kernel: EStepKernel = self.e_step.make_kernel(mixture)

    def __call__(self) -> float:
        step = em_step(self.e_step, self.kernel, self.options)
        self.kernel = step.next_kernel
        return float(step.statistics.log_likelihood / step.statistics.weight) - self.standardiser.log_scale()


def measure_seconds(variants: dict[str, Step], rounds: int, clock: Clock, steps: int = 1) -> dict[str, list[float]]:
    """Return the mean seconds of a step of each variant in each round of some steps in a row."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, step in variants.items():
            start = clock()
            for _ in range(steps):
                step()
            seconds[name].append((clock() - start) / steps)
    return seconds


def format_row(case: Case, rounds: int, steps: int, clock: Clock) -> str:
    """Return a row of the table; each variant takes three steps before it is measured."""
    x, parameters = make_problem(case)
    variants: dict[str, Step] = {
        "scikit-learn": ScikitLearnStep(x, case.covariance_type, parameters),
        "float64": PvaeStep(x, case.covariance_type, parameters, torch.float64),
        "float32": PvaeStep(x, case.covariance_type, parameters, torch.float32),
    }
    likelihoods = {name: [step() for _ in range(3)] for name, step in variants.items()}
    seconds = measure_seconds(variants, rounds, clock, steps)
    cells = [case.label, f"{1e3 * statistics.median(seconds['scikit-learn']):.1f}"]
    for name in ("float64", "float32"):
        ratios = [theirs / ours for theirs, ours in zip(seconds["scikit-learn"], seconds[name], strict=True)]
        pairs = zip(likelihoods[name], likelihoods["scikit-learn"], strict=True)
        difference = max(abs(ours - theirs) for ours, theirs in pairs)
        goal = f"{case.goals[name]:g}" if name in case.goals else ""
        cells += [quartiles(ratios, ".1f"), goal, f"{difference:.0e}"]
    return "| " + " | ".join(cells) + " |"


def format_table(cases: list[Case], rounds: int, steps: int, clock: Clock) -> Iterator[str]:
    """Yield the table, line by line."""
    yield "| covariances, N, D, K | scikit-learn ms | float64 | goal | log p off | float32 | goal | log p off |"
    yield "|---|---|---|---|---|---|---|---|"
    for case in cases:
        yield format_row(case, rounds, steps, clock)


def format_profile(cases: list[Case], rounds: int) -> Iterator[str]:
    """Yield a table of the share of a step that its two matrix products alone take."""
    yield "\n| covariances, N, D, K | products alone, share of a step | GFLOP/s of the products |\n|---|---|---|"
    for case in cases:
        yield format_profile_row(case, rounds)


def format_profile_row(case: Case, rounds: int) -> str:
    """Return a row of the profile; only `FeatureKernel` consists of two matrix products."""
    x, parameters = make_problem(case)
    step = PvaeStep(x, case.covariance_type, parameters, torch.float64)
    for _ in range(3):
        step()
    if not isinstance(step.kernel, FeatureKernel):
        return f"| {case.label} | {type(step.kernel).__name__} | |"
    chunk, width = min(step.kernel.chunk_size, case.rows), step.kernel.prepared_size
    chunks = case.rows // chunk
    phi = torch.randn(width, chunk, dtype=torch.float64)
    responsibilities = torch.rand(case.components, chunk, dtype=torch.float64)
    products = make_feature_products(step.kernel.natural_parameters, chunk, default_products())

    def multiply() -> float:
        for _ in range(chunks):
            products.logits(phi)
            products.add(responsibilities, phi)
        return 0.0

    seconds = measure_seconds({"step": step, "products": multiply}, rounds, time.process_time)
    product_seconds, whole = (statistics.median(seconds[name]) for name in ("products", "step"))
    rate = 4 * case.components * width * chunk * chunks / product_seconds / 1e9
    return f"| {case.label} | {product_seconds / whole:.2f} | {rate:.0f} |"


def measure_cuda(rounds: int) -> Iterator[str]:
    """Yield the time of a step on a GPU for a million data of 64 features, beside its rate of matrix products."""
    rows, features, components = 1_000_000, 64, 50
    x, parameters = make_problem(Case("full", rows, features, components, {}, is_broad=True))
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.float64)

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    product_seconds = measure_seconds({"product": lambda: float((square @ square)[0, 0])}, rounds, clock)["product"]
    rate = 2 * 8192**3 / statistics.median(product_seconds)
    for dtype in (torch.float64, torch.float32):
        step = PvaeStep(x, "full", parameters, dtype, "cuda")
        for _ in range(2):
            step()
        seconds = statistics.median(measure_seconds({"step": step}, rounds, clock)["step"])
        step_rate = 4 * components * step.kernel.prepared_size * rows / seconds
        name = torch.cuda.get_device_name()
        yield f"{name}, {dtype}: {1e3 * seconds:.1f} ms a step, {step_rate / rate:.2f} of its float64 matrix products"


def describe_environment(threads: int, rounds: int, steps: int) -> Iterator[str]:
    """Yield versions, threads, and the code path of OpenBLAS."""
    yield (
        f"torch {torch.__version__}, scikit-learn {sklearn.__version__}, NumPy {np.__version__}, {platform.machine()}, "
        f"{threads} threads, {rounds} rounds of {steps} steps"
    )
    paths = {
        f"{library['internal_api']} {library['version']} for {library['architecture']}"
        for library in threadpoolctl.threadpool_info()
        if library["internal_api"] == "openblas"
    }
    yield f"BLAS of NumPy and scikit-learn: {', '.join(sorted(paths)) or 'not OpenBLAS'}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3, help="steps in a row in each round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--grid", choices=tuple(GRIDS), default="full")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--profile", action="store_true", help="also what the matrix products alone cost")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    for line in describe_environment(arguments.threads, arguments.rounds, arguments.steps):
        print(line, flush=True)
    cases = GRIDS[arguments.grid]
    if arguments.device == "cuda":
        lines = measure_cuda(arguments.rounds)
    else:
        lines = format_table(cases, arguments.rounds, arguments.steps, clock)
    for line in lines:
        print(line, flush=True)
    if arguments.profile:
        for line in format_profile(cases, arguments.rounds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
