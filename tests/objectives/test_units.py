"""Numbers of a training are per datum under every scale, and schedules count steps of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

import pvae
from pvae.objectives import adapt, make_objective
from pvae.programs.bound import BoundPrograms
from pvae.programs.data_counter import DataCounter

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

N, B = 30, 6


def count_of(program: Callable[..., Any], *args: Any, plate: str | None = None, particles: int = 1) -> float:
    """The number of data that Pyro's ELBO of a model represents, whose guide is empty or its own latent sites."""

    def guide(*args: Any) -> None:
        poutine.block(program, hide_fn=lambda site: site["type"] == "sample" and site["is_observed"])(*args)

    loss = adapt(Trace_ELBO(num_particles=particles, vectorize_particles=particles > 1))
    with DataCounter(BoundPrograms(program, guide, args), plate) as counter:
        loss.terms(program, guide, args, {}, "all")
    return float(counter.count)


def regression(x: Tensor, outer: float = 1.0, kl: float = 1.0, likelihood: Any = 1.0, rows: int | None = None) -> None:
    """One z and one x per datum, with scales of everything, of z and of x; the plate shows `rows` of the data."""
    with poutine.scale(scale=outer), pyro.plate("data", len(x), subsample_size=rows) as index:
        with poutine.scale(scale=kl):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(index)), 1.0))
        with poutine.scale(scale=likelihood):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ({}, N),
        ({"outer": 1 / N}, 1),
        ({"outer": 50.0}, 50 * N),
        ({"rows": B}, N),
        ({"rows": B, "outer": 1 / N}, 1),
        ({"kl": 0.1}, N),
        ({"likelihood": 0.5}, N),
        ({"kl": 0.1, "outer": 1 / N}, 1),
        ({"kl": 0.1, "rows": B}, N),
        ({"likelihood": torch.linspace(0.1, 2.0, N)}, N),
    ],
)
@pytest.mark.parametrize("particles", [1, 3])
def test_a_loss_represents_the_sum_of_the_scales_of_the_data_plate(
    scales: dict[str, Any], expected: float, particles: int
) -> None:
    assert count_of(lambda x: regression(x, **scales), torch.randn(N), particles=particles) == pytest.approx(expected)


def test_weights_of_the_data_are_summed() -> None:
    shares = torch.rand(N) + 0.1
    counted = count_of(lambda x: regression(x, outer=shares), torch.randn(N))  # type: ignore[arg-type]
    assert counted == pytest.approx(float(shares.sum()), rel=1e-6)


def test_the_data_are_those_of_the_plate_and_not_of_the_first_tensor() -> None:
    def time_first(series: Tensor) -> None:
        steps, batch = series.shape
        with pyro.plate("data", batch):
            z = pyro.sample("z", dist.Normal(torch.zeros(batch), 1.0))
            for step in range(steps):
                pyro.sample(f"x_{step}", dist.Normal(z, 1.0), obs=series[step])

    assert count_of(time_first, torch.randn(4, B)) == B
    assert count_of(lambda shift, x: regression(x + shift[0]), torch.zeros(3), torch.randn(N)) == N


def test_the_plate_over_data_holds_the_plate_over_pixels() -> None:
    def pixels(x: Tensor, outer: float = 1.0) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with poutine.scale(scale=outer), pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", x.shape[1], dim=-1):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    assert count_of(pixels, torch.randn(B, 40)) == B
    assert count_of(pixels, torch.randn(40, B), plate="pixels") == B
    # The usual way to weigh a batch against a latent that all data share.
    assert count_of(lambda x: pixels(x, N / B), torch.randn(B, 4)) == pytest.approx(N)


def test_two_plates_over_data_and_programs_without_a_plate() -> None:
    def two(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        for name, values in (("x", x), ("y", y)):
            with pyro.plate(f"{name}s", len(values)):
                pyro.sample(name, dist.Normal(w, 1.0), obs=values)

    def none(x: Tensor) -> None:
        with poutine.scale(scale=0.5):
            pyro.sample("x", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1), obs=x)

    assert count_of(two, torch.randn(5), torch.randn(9)) == 5
    assert count_of(none, torch.randn(8)) == 4


@pytest.mark.parametrize("scale", [1.0, 1 / 200, 50.0])
def test_a_constraint_holds_the_kl_per_datum_under_a_scale(scale: float) -> None:
    """q = N(2, 0.1) for each datum: a KL of 3.8076 nats, which is 2.8076 above the target."""

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("mean", torch.tensor(2.0)) * x, 0.1))

    objective = pvae.Constrained(target=1.0, on="kl", rate=0.1, decay=0.0)
    programs = [poutine.scale(program, scale=scale) for program in (regression, guide)]
    for _ in range(5):
        objective.loss_and_grads(*programs, torch.ones(400))
    exact = torch.distributions.kl_divergence(dist.Normal(2.0, 0.1), dist.Normal(0.0, 1.0)).item() - 1
    assert objective.violation.item() == pytest.approx(exact, abs=0.06)
    assert objective.log_multiplier.item() == pytest.approx(0.5)  # five steps at the largest rate


class Line(torch.nn.Module):
    """A decoder and an encoder of one number each."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.weight, self.slope = torch.nn.Parameter(torch.tensor(0.3)), torch.nn.Parameter(torch.tensor(0.2))
        self.scale = scale

    def theta(self) -> list[torch.nn.Parameter]:
        return [self.weight]

    def phi(self) -> list[torch.nn.Parameter]:
        return [self.slope]

    def model(self, x: Tensor) -> None:
        with poutine.scale(scale=self.scale), pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(self.weight * z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with poutine.scale(scale=self.scale), pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.slope * x, 1.0))


def numbers() -> pvae.Splits:
    return pvae.load_data({"x": torch.linspace(-2.0, 2.0, 40)}, validation=0.2, test=0, binarise="none")


@pytest.mark.parametrize("text", ["elbo", "beta:beta=1", "iwae:particles=3"])
def test_a_training_does_not_depend_on_a_scale(text: str) -> None:
    """Also by plain gradient steps with a limit on the gradient, which is in nats per datum."""
    options = {"epochs": 2, "batch_size": 8, "learning_rate": 0.1, "optimiser": "sgd", "clip": 0.05, "progress": False}
    runs = [pvae.fit(Line(scale), numbers(), objective=text, seed=0, **options) for scale in (1.0, 0.01)]
    plain, scaled = (run.history[-1] for run in runs)
    for name in plain.keys() - {"seconds"}:
        assert scaled[name] == pytest.approx(plain[name], rel=1e-4, abs=1e-5), name
    assert runs[0].model.slope.item() == pytest.approx(runs[1].model.slope.item(), abs=1e-5)


@pytest.mark.parametrize("step", ["graph", "eager"])
@pytest.mark.parametrize(("theta", "phi"), [(5, 1), (1, 3)])
def test_a_schedule_inside_alternate_counts_steps_of_training(theta: int, phi: int, step: str) -> None:
    inner = "beta/beta=1/schedule=linear/warm_up=12"
    objective = make_objective(f"alternate:theta_steps={theta}:phi_steps={phi}:objective={inner}")()
    run = pvae.fit(Line(), numbers(), objective=objective, epochs=3, batch_size=8, progress=False, step=step)
    betas = [record["beta"] for record in run.history]
    assert betas == pytest.approx([(0 + 1 + 2 + 3) / 48, (4 + 5 + 6 + 7) / 48, (8 + 9 + 10 + 11) / 48], abs=1e-6)
    assert int(objective.inner.steps) == 12 and objective.inner.advances


def test_a_multiplier_inside_alternate_changes_once_a_step() -> None:
    """A target that cannot be met: each step changes the logarithm by the rate."""
    inner = pvae.Constrained(target=100.0, rate=0.1)
    objective = pvae.Alternate(theta_steps=4, phi_steps=2, objective=inner)
    pvae.fit(Line(), numbers(), objective=objective, epochs=2, batch_size=8, progress=False)
    assert inner.log_multiplier.item() == pytest.approx(0.8)
    inner.loss_and_grads(Line().model, Line().guide, torch.ones(3))  # alone, it advances by itself
    assert inner.log_multiplier.item() == pytest.approx(0.9)


def test_in_plain_svi_each_update_of_alternate_is_a_step() -> None:
    line, inner = Line(), pvae.Beta(1.0, schedule="linear", warm_up=100)
    objective = pvae.Alternate(theta_steps=2, objective=inner)
    svi = SVI(line.model, line.guide, pyro.optim.SGD({"lr": 0.01}), loss=objective)
    for _ in range(6):
        svi.step(torch.ones(4))
    assert int(inner.steps) == 6
    objective.loss(line.model, line.guide, torch.ones(4))
    assert int(inner.steps) == 6


def test_alternate_trains_as_the_objective_that_it_holds_asks() -> None:
    inner = pvae.SemiSupervised(labelled=0.3)
    objective = pvae.Alternate(objective=inner)
    objective.look_at({"y": torch.tensor([0, 1, -1, -1])})
    assert inner._known_share() == 0.5 and objective.labelled == 0.3
    assert pvae.Alternate(objective=pvae.Dirac()).no_bound == pvae.Dirac.no_bound


class Nested(pvae.LatentModel):
    """The plate over data is inside a plate over features: a shared k for each feature, and x of N data."""

    def __init__(self, mark: str | None = "parallel") -> None:
        super().__init__()
        self.mark, self.shift = mark, torch.nn.Parameter(torch.zeros(()))

    def model(self, x: Tensor) -> None:
        with pyro.plate("features", x.shape[1]):
            k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": self.mark})
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(2 * k + self.shift, 1.0), obs=x)

    def joint(self, x: Tensor) -> Tensor:
        """log p(x, k), shape (values of k, features)."""
        priors = torch.tensor([0.7, 0.3]).log().unsqueeze(-1)
        return priors + torch.stack([dist.Normal(mean, 1.0).log_prob(x).sum(0) for mean in (0.0, 2.0)])

    def guide(self, x: Tensor) -> None:
        """Nothing if k is summed out, else the exact posterior."""
        if self.mark is None:
            with pyro.plate("features", x.shape[1]):
                pyro.sample("k", dist.Bernoulli(self.joint(x).softmax(0)[1]))


@pytest.mark.parametrize(("mark", "objective"), [("parallel", "elbo-enum"), ("parallel", "iwae"), (None, "elbo")])
def test_the_data_may_be_in_an_inner_plate(mark: str | None, objective: str) -> None:
    x = torch.randn(5, 3)
    model = Nested(mark)
    exact = model.joint(x).logsumexp(0).sum().item() / 5
    data = pvae.load_data({"x": x}, validation=0, test=0)
    run = pvae.fit(model, data, objective=objective, epochs=1, learning_rate=1e-9, progress=False)
    assert run.history[-1]["loss"] == pytest.approx(-exact, abs=1e-4)


def test_a_shared_site_that_is_summed_out_is_named_and_its_draws_give_the_evidence() -> None:
    batch = pvae.Batch(x=torch.randn(5, 3))
    exact = Nested().joint(batch.x).logsumexp(0).sum().item() / 5
    with pytest.raises(
        pvae.InputError, match=r"'k' is marked for enumeration, but all data share it.*'data'.*in the guide"
    ):
        pvae.evaluate.elbo(Nested(), batch)
    assert pvae.evaluate.elbo(Nested(None), batch, particles=3).value == pytest.approx(exact, abs=1e-4)
    with pytest.raises(pvae.InputError, match="'k' is outside the data plate 'data'"):
        pvae.evaluate.judge(Nested(None), batch)
