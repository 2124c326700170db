"""The figures of the documentation: each script runs, and draws what the pages say; the two modes at their goldens."""

from __future__ import annotations

import importlib
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from browsers import CHROMIUM
from matplotlib import image
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor

import pvae
from pvae.objectives import make_objective, objective_names

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"
SCRIPTS = sorted(path.stem for path in FIGURES.glob("*.py") if path.stem != "drawing")
DOUBLE = torch.float64


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FIGURES))
    return importlib.import_module


@pytest.mark.pages
@pytest.mark.keeps_params
@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_draws_its_figure(name: str, script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [name, "--out", str(tmp_path), "--tiny"])
    if name == "report_page" and CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    module = script(name)
    module.command(name, module.draw)
    drawn = image.imread(tmp_path / f"{name}.png")
    kept = FIGURES / f"{name}.png"
    assert drawn.shape == image.imread(kept).shape
    assert len(np.unique(drawn.reshape(-1, drawn.shape[-1]), axis=0)) > 20, "the figure is blank"
    assert kept.stat().st_size < 100_000


def test_each_figure_is_on_a_page_beside_the_command_that_draws_it() -> None:
    pages = "\n".join(path.read_text() for path in FIGURES.parent.rglob("*.md"))
    for name in SCRIPTS:
        assert re.search(rf"!\[[^\]]+\]\((\.\./)?figures/{name}\.png\)", pages)
        assert f"`python docs/figures/{name}.py --out docs/figures`" in pages


@pytest.mark.keeps_params
def test_the_signal_to_noise_ratios_are_those_of_the_text(script: Any) -> None:
    """Within what 8000 rows of five coordinates resolve: about 0.005 for phi, 2 % for the others."""
    torch.manual_seed(5)
    found = script("bound_and_snr").measure(64, 4)
    assert found["theta"] == pytest.approx(3.05, rel=0.05)
    assert found["phi, doubly"] == pytest.approx(4.70, rel=0.07)
    assert found["phi"] == pytest.approx(0.049, abs=0.0225)


def test_the_decision_tables_name_every_objective() -> None:
    page = (FIGURES.parent / "choose-an-objective.md").read_text()
    tables = page[page.index("## Bounds of the evidence") : page.index("## On the command line")]
    named = [
        name
        for row in re.findall(r"^\| (`[^|]+) \|", tables, flags=re.MULTILINE)
        for name in re.findall("`([^`]+)`", row)
    ]
    assert sorted(named) == sorted(name for name, _ in objective_names())
    first = page[: page.index("## Bounds of the evidence")]
    for text in re.findall(r"`([a-z-]+:[^`]+=[^`]+)`", page):
        make_objective(text)
    assert set(re.findall(r"`([a-z-]+)`", first)) <= set(named)


# ---- Two modes: p = N(-a, 1) / 2 + N(a, 1) / 2, closed forms and quadrature in NumPy alone


class Modes:
    """The two modes at -a and a on a fine grid, and divergences from normal guides."""

    def __init__(self, a: float) -> None:
        self.a, self.grid = a, np.linspace(-30.0, 30.0, 60001)
        self.log_p = np.logaddexp(self.log_normal(-a, 1.0), self.log_normal(a, 1.0)) - math.log(2)

    def log_normal(self, mean: float, deviation: float) -> np.ndarray:
        return -0.5 * ((self.grid - mean) / deviation) ** 2 - math.log(deviation) - 0.5 * math.log(2 * math.pi)

    def integral(self, values: np.ndarray) -> float:
        return float(values.sum() * (self.grid[1] - self.grid[0]))

    def exclusive(self, mean: float, deviation: float) -> float:
        log_q = self.log_normal(mean, deviation)
        return self.integral(np.exp(log_q) * (log_q - self.log_p))

    def inclusive(self, mean: float, deviation: float) -> float:
        return self.integral(np.exp(self.log_p) * (self.log_p - self.log_normal(mean, deviation)))

    def exclusive_gradient(self, mean: float, deviation: float) -> np.ndarray:
        """In the mean and the logarithm of the deviation: E_q[score * (log q - log p)]."""
        noise = (self.grid - mean) / deviation
        weighted = np.exp(self.log_normal(mean, deviation)) * (self.log_normal(mean, deviation) - self.log_p)
        return np.array([self.integral(weighted * noise / deviation), self.integral(weighted * (noise**2 - 1))])


class TwoModes(pvae.LatentModel):
    """A model whose posterior is the two modes for any x, and a normal guide; its evidence is that of x alone."""

    def __init__(self, a: float, mean: float, deviation: float) -> None:
        super().__init__()
        self.modes = torch.tensor([-a, a], dtype=DOUBLE)
        self.mean = torch.nn.Parameter(torch.tensor(mean, dtype=DOUBLE))
        self.log_deviation = torch.nn.Parameter(torch.tensor(deviation, dtype=DOUBLE).log())

    def model(self, x: Tensor) -> None:
        modes = dist.Normal(self.modes, torch.ones_like(self.modes))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros_like(self.modes)), modes))
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.mean.expand(len(x)), self.log_deviation.exp()))


GOLDENS = {  # a: mean, deviation and divergence of the exclusive optimum; the other kind; the inclusive divergence
    2.0: ((0.0, 2.04701, 0.226508), None, 0.171999),
    3.0: ((2.98431, 1.02337, 0.688769), (0.0, 2.74377, 0.840621), 0.461995),
    4.0: ((3.99960, 1.00080, 0.693053), (0.0, 3.47272, 1.871197), 0.723553),
    2.6: ((0.0, 2.460502, 0.544570), (2.529590, 1.089079, 0.674916), 0.344344),
}


@pytest.mark.parametrize("a", GOLDENS)
def test_the_optima_are_the_goldens(a: float, script: Any) -> None:
    figure: ModuleType = script("kl_directions")
    (mean, deviation, divergence), other, inclusive = GOLDENS[a]
    modes, sided, symmetric = Modes(a), figure.one_sided(a), figure.symmetric(a)
    best = min([each for each in (sided, symmetric) if each is not None], key=lambda found: found[2])
    assert best == pytest.approx((mean, deviation, divergence), abs=1e-5)
    assert modes.exclusive(mean, deviation) == pytest.approx(divergence, abs=1e-6)
    assert np.abs(modes.exclusive_gradient(*best[:2])).max() < 1e-5
    if other is not None and sided is not None:
        assert (symmetric if best == sided else sided) == pytest.approx(other, abs=1e-5)
    assert modes.inclusive(0.0, math.sqrt(1 + a**2)) == pytest.approx(inclusive, abs=1e-6)


@pytest.mark.parametrize("a", [0.5, 2.0, 3.0])
def test_the_inclusive_optimum_has_the_targets_moments(a: float) -> None:
    modes = Modes(a)
    best = modes.inclusive(0.0, math.sqrt(1 + a**2))
    for mean, deviation in ((0.01, 1.0), (0.0, 1.01), (0.0, 0.99), (-a, 1 / math.sqrt(1 + a**2))):
        assert modes.inclusive(mean, deviation * math.sqrt(1 + a**2)) > best


def test_the_exclusive_optimum_changes_sides_at_its_distance(script: Any) -> None:
    figure: ModuleType = script("kl_directions")
    assert figure.crossing() == pytest.approx(2.8001, abs=5e-5)
    assert figure.one_sided(2.4) is None
    assert figure.one_sided(2.5) is not None


@pytest.mark.keeps_params
@pytest.mark.parametrize(("a", "mean", "deviation"), [(3.0, 2.98431, 1.02337), (2.0, 0.0, 2.04701), (3.0, 1.2, 1.4)])
def test_an_objective_climbs_the_exclusive_divergence(a: float, mean: float, deviation: float) -> None:
    """The ELBO is log p(x) less the divergence, and its mean gradient minus the divergence's."""
    rows = 100_000
    torch.manual_seed(3)
    guide, x = TwoModes(a, mean, deviation), torch.zeros(rows, dtype=DOUBLE)
    weights = pvae.log_weights(guide, {"x": x}, particles=1)
    value, error = mean_and_error(weights.log_w[0])
    assert_close_in_sigmas(value, -0.5 * math.log(2 * math.pi) - Modes(a).exclusive(mean, deviation), error, effect=1.0)
    gradients = []
    for _ in range(40):
        loss = pvae.Renyi(alpha=1.0, particles=1).differentiable_loss(guide.model, guide.guide, x[:2500]) / 2500
        gradients.append(torch.stack(torch.autograd.grad(loss, [guide.mean, guide.log_deviation])))
    found, error = mean_and_error(torch.stack(gradients))
    assert_close_in_sigmas(found, Modes(a).exclusive_gradient(mean, deviation), error, effect=1.0)


@pytest.mark.parametrize("a", [2.0, 3.0])
def test_self_normalised_weights_find_the_inclusive_optimum(a: float) -> None:
    torch.manual_seed(4)
    with torch.no_grad():
        weights = pvae.log_weights(TwoModes(a, 0.4, 4.0), {"x": torch.zeros(400, dtype=DOUBLE)}, particles=2000)
    normalised, z = weights.log_w.softmax(0), weights.values["z"]
    for power, exact in ((1, 0.0), (2, 1 + a**2)):
        moment, error = mean_and_error((normalised * z**power).sum(0))
        assert_close_in_sigmas(moment, exact, error, effect=a**power)
