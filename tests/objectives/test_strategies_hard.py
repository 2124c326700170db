"""Gradient strategies on programs that people bring: each case here was once wrong in silence, or failed obscurely."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import exact
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from forcing import moments
from stats import assert_close_in_sigmas
from torch import Tensor, nn

from pvae import (
    IWAE,
    Dirac,
    DReG,
    FreeBits,
    InputError,
    LatentModel,
    LogVariance,
    Marginal,
    ScoreFunction,
    StickingTheLanding,
    Thermodynamic,
    WakeSleep,
)

DOUBLE = torch.float64
PARALLEL = {"enumerate": "parallel"}
X = torch.tensor([0.7, -0.3], dtype=DOUBLE)

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def free(*numbers: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(numbers, dtype=DOUBLE).squeeze())


class Mixed(LatentModel):
    """A Normal z in both programs, and a class c that the model alone has, marked to be summed out."""

    def __init__(self, centre: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.loc, self.logits, self.places = free(0.3), free(0.2, 0.1, -0.3), free(-1.0, 0.5, 1.5)
        self.centre = centre

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
            c = pyro.sample("c", dist.Categorical(logits=self.logits), infer=PARALLEL)
            pyro.sample("x", dist.Normal(self.centre(self.places, z, c), 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, 0.6))


def looked_up(places: Tensor, z: Tensor, c: Tensor) -> Tensor:
    return places[c] + z


def value(objective: Any, model: Any) -> float:
    torch.manual_seed(1)
    return float(objective.terms(model.model, model.guide, (X,), {}, "all").loss)


@pytest.mark.parametrize("gradients", ["*=score", "*=measure", "z=score"])
@pytest.mark.parametrize("particles", [1, 3])
def test_a_glob_does_not_draw_what_the_model_alone_has_marked(gradients: str, particles: int) -> None:
    model = Mixed(looked_up)
    found = value(IWAE(particles, gradients=gradients), model)
    assert found == pytest.approx(value(IWAE(particles), model), rel=1e-12)


def test_a_site_of_the_model_alone_is_none_of_the_guide() -> None:
    with pytest.raises(InputError, match="no guide site matches"):
        value(IWAE(2, gradients="c=enumerate"), Mixed(looked_up))


@pytest.mark.parametrize("objective", [DReG(2), StickingTheLanding(1)])
def test_what_needs_single_values_names_the_site_that_is_summed_out(objective: Any) -> None:
    with pytest.raises(InputError, match=r"'c' is summed out.*'iwae'"):
        value(objective, Mixed(looked_up))


def test_wake_names_the_site_that_is_summed_out() -> None:
    model = Mixed(looked_up)
    with pytest.raises(InputError, match="'c' is summed out"):
        WakeSleep(2).terms(model.model, model.guide, (X,), {}, "phi")


def test_a_program_that_does_not_broadcast_is_told_so() -> None:
    def gathered(places: Tensor, z: Tensor, c: Tensor) -> Tensor:
        return places.expand(len(X), 3).gather(-1, c.unsqueeze(-1)).squeeze(-1) + z

    with pytest.raises(InputError, match=r"Enumeration of site 'c' adds.*broadcast") as error:
        value(IWAE(1), Mixed(gathered))
    assert "\n" not in str(error.value)


class Coins(LatentModel):
    """Two coins in a row, whose decoder is given; ``first`` is what the first one asks for."""

    def __init__(self, decode: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.logit, self.decode = free(0.3), decode

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(torch.full((2,), 0.4, dtype=DOUBLE)).to_event(1))
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.5, dtype=DOUBLE)))
            pyro.sample("x", dist.Normal(self.decode(a, b), 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Bernoulli(logits=self.logit.expand(2)).to_event(1))
            pyro.sample("b", dist.Bernoulli(logits=self.logit))


def test_branches_of_a_program_that_does_not_broadcast_are_told_so() -> None:
    model = Coins(lambda a, b: torch.stack([a[..., 0], b], -1).sum(-1))
    with pytest.raises(InputError, match="Enumeration of site 'b' adds a dimension"):
        value(IWAE(1, gradients="b=measure"), model)


def test_one_particle_is_not_branched_in_programs_that_fold_its_dimension() -> None:
    model = Coins(lambda a, b: a.reshape(len(X), -1).sum(-1) + 0 * b)
    with pytest.warns(UserWarning, match="one by one"), pytest.raises(InputError, match=r"'a'.*'score'"):
        value(IWAE(1, gradients="a=measure"), model)


class Chain(LatentModel):
    """A class c, marked in the guide, and sites that depend on it there."""

    def __init__(self, last: Any = None) -> None:
        super().__init__()
        self.logits, self.slope, self.last = free(0.2, 0.1), free(0.5), last or {}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.4, 0.6], dtype=DOUBLE)))
            e = pyro.sample("e", dist.Bernoulli(torch.tensor(0.3, dtype=DOUBLE)))
            pyro.sample("x", dist.Normal(c + e, torch.ones((), dtype=DOUBLE)), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.logits), infer=PARALLEL)
            pyro.sample("e", dist.Bernoulli(logits=self.slope * c))


@pytest.mark.parametrize("objective", [LogVariance(3), Thermodynamic(3), IWAE(2, gradients="e=enumerate")])
def test_sites_beneath_a_summed_out_one_are_refused_where_their_gradient_would_be_wrong(objective: Any) -> None:
    with pytest.raises(InputError, match=r"'e'.*depends on a summed-out site"):
        value(objective, Chain())


def test_the_optimal_baseline_names_a_summed_out_site() -> None:
    with pytest.raises(InputError, match=r"'c'.*'leave-one-out'"):
        value(ScoreFunction("optimal", 3, gradients="e=score"), Chain())


class Masked(exact.DiscreteModel):
    """The enumerable categorical model whose guide rules the last class out, as a mask on its logits does."""

    def guide(self, x: Tensor) -> None:
        barred = torch.tensor([0.0, 0.0, -math.inf], dtype=DOUBLE)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=self.logits[x] + barred), infer=self.infer)


@pytest.mark.parametrize("strategy", ["enumerate", "measure", "score:leave-one-out"])
@pytest.mark.parametrize("particles", [1, 2])
def test_values_of_probability_zero_count_for_nothing(strategy: str, particles: int) -> None:
    if particles == 1 and strategy == "score:leave-one-out":
        pytest.skip("one particle has no others")
    model = Masked()
    x, support = torch.tensor([0]), {"z": torch.arange(2)}
    plain = moments(IWAE(particles, gradients="z=score"), model, x, support, [model.logits])
    found = moments(IWAE(particles, gradients={"z": strategy}), model, x, support, [model.logits])
    assert plain.total == pytest.approx(1.0)
    assert found.value == pytest.approx(plain.value, rel=1e-12)
    np.testing.assert_allclose(found.mean, plain.mean, atol=1e-12)


def test_a_value_that_the_guide_rules_out_is_summed_out_all_the_same() -> None:
    model = Masked(enumerate="parallel")
    terms = IWAE(1).terms(model.model, model.guide, (torch.arange(4),), {}, "all")
    assert -terms.loss.item() == pytest.approx(exact.Discrete().log_evidence().sum(), rel=1e-12)
    theta = torch.autograd.grad(terms.surrogate, model.prior_logits)[0]
    assert bool(theta.isfinite().all())


class OneHot(exact.DiscreteModel):
    """The enumerable categorical model with a vector for its class."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(logits=self.prior_logits))
            pyro.sample("x", dist.Categorical(logits=z @ self.likelihood_logits), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.OneHotCategorical(logits=self.logits[x]))


@pytest.mark.parametrize("baseline", ["optimal", "optimal-per-coordinate"])
def test_the_optimal_baseline_takes_one_hot_vectors(baseline: str) -> None:
    model = OneHot()
    found = moments(
        ScoreFunction(baseline, 2), model, torch.tensor([1]), {"z": torch.eye(3, dtype=DOUBLE)}, [model.logits]
    )
    np.testing.assert_allclose(found.mean.reshape(4, 3)[1], exact.Discrete().elbo_gradient()[1], rtol=1e-10)


class Hidden(LatentModel):
    """An auxiliary coin before a class of as many values, with parameters of their own for each datum."""

    def __init__(self, size: int) -> None:
        super().__init__()
        start = torch.tensor([0.2, 0.5, -0.3], dtype=DOUBLE)
        self.rows = nn.Parameter(start.expand(size, 3).clone())

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.3, 0.7], dtype=DOUBLE)))
            pyro.sample("x", dist.Normal(0.6 * c, torch.ones((), dtype=DOUBLE)), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Bernoulli(logits=self.rows[:, 0]), infer={"is_auxiliary": True})
            apart = 0.9 * u.unsqueeze(-1) * torch.tensor([1.0, -1.0], dtype=DOUBLE)
            pyro.sample("c", dist.Categorical(logits=self.rows[:, 1:] + apart))


def row_gradients(objective: Any, size: int) -> Tensor:
    model = Hidden(size)
    terms = objective.terms(model.model, model.guide, (X[:1].expand(size),), {}, "all")
    return torch.autograd.grad(terms.surrogate, model.rows)[0]


@pytest.mark.parametrize("particles", [1, 2])
def test_branches_and_sums_over_an_auxiliary_site_keep_apart(particles: int) -> None:
    exactly = row_gradients(IWAE(particles, gradients="*=enumerate"), 1)[0]
    found = row_gradients(IWAE(particles, gradients="*=measure"), 3000)
    assert_close_in_sigmas(found.mean(0), exactly, found.std(0) / math.sqrt(3000))


@pytest.mark.parametrize("objective", [DReG(2), FreeBits(0.1)])
def test_what_has_no_auxiliary_form_says_so(objective: Any) -> None:
    class Smooth(LatentModel):
        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                u = pyro.sample("u", dist.Normal(x, 1.0), infer={"is_auxiliary": True})
                pyro.sample("z", dist.Normal(u, 1.0))

    def reverse(x: Tensor, z: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("u", dist.Normal(z, 1.0))

    objective.auxiliary = Marginal(reverse)
    with pytest.raises(InputError, match=r"(auxiliary site 'u'|'u' is auxiliary).*'iwae'"):
        value(objective, Smooth())


def test_an_error_at_a_site_is_one_line_from_the_first_look_on() -> None:
    model = exact.DiscreteModel()
    with pytest.raises(InputError, match="Dirac needs continuous") as error:
        Dirac().loss(model.model, model.guide, torch.arange(4))
    assert "\n" not in str(error.value)


class Dropping(LatentModel):
    """Two sites in a row behind dropout: each run of the guide has another density."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(1, 4), nn.Dropout(rate), nn.Linear(4, 2)).double()

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
            b = pyro.sample("b", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        codes = self.encoder(x[:, None])
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(codes[:, 0], 1.0))
            pyro.sample("b", dist.Normal(codes[:, 1] + z, 1.0))


@pytest.mark.parametrize("objective", [DReG(2), StickingTheLanding(1), IWAE(2, gradients="b=measure")])
def test_dropout_is_refused_where_a_second_run_of_the_guide_is_compared_with_the_first(objective: Any) -> None:
    with pytest.raises(InputError, match="another density"):
        value(objective, Dropping(0.5))
    value(objective, Dropping(0.5).eval())
    value(objective, Dropping(0.0))
    value(IWAE(2, gradients="b=score"), Dropping(0.5))


def test_binomials_whose_counts_differ_are_drawn_and_not_enumerated() -> None:
    class Counts(LatentModel):
        def __init__(self) -> None:
            super().__init__()
            self.logit, self.counts = free(0.3), torch.tensor([1.0, 3.0], dtype=DOUBLE)

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Binomial(self.counts, torch.tensor(0.4, dtype=DOUBLE)))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Binomial(self.counts, logits=self.logit))

    with pytest.raises(InputError, match=r"'z' cannot be enumerated: Inhomogeneous"):
        value(IWAE(2, gradients="z=enumerate"), Counts())
    with pytest.raises(InputError, match="It can have score, score:leave-one-out"):
        value(IWAE(2, gradients="z=measure"), Counts())
    assert math.isfinite(value(IWAE(2), Counts()))


def test_the_network_of_an_objective_that_was_never_run_is_in_no_group() -> None:
    def model() -> None:
        with pyro.plate("data", 2):
            z = pyro.sample("z", dist.Bernoulli(pyro.param("prior", torch.tensor(0.4, dtype=DOUBLE))))
            pyro.sample("x", dist.Normal(z, 1.0), obs=X)

    def guide() -> None:
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Bernoulli(logits=pyro.param("logit", torch.tensor(0.1, dtype=DOUBLE))))

    baseline = ScoreFunction("network", 2)
    with pytest.raises(InputError, match="needs x"):
        baseline.loss_and_grads(model, guide)
    assert WakeSleep(2).loss_and_grads(model, guide) > 0


class Named(LatentModel):
    """One coin, of a name with brackets."""

    def __init__(self, gradient: str | None = None) -> None:
        super().__init__()
        self.logit, self.infer = free(0.3), {} if gradient is None else {"gradient": gradient}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z[0]", dist.Bernoulli(torch.tensor(0.4, dtype=DOUBLE)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z[0]", dist.Bernoulli(logits=self.logit), infer=self.infer)


def test_a_site_is_found_by_its_very_name_whatever_it_holds() -> None:
    found = value(IWAE(1, gradients={"z[0]": "enumerate"}), Named())
    assert found == value(IWAE(1, gradients="z*=enumerate"), Named())


@pytest.mark.parametrize("strategy", ["concrete", "straight-through"])
def test_a_bias_is_asked_for_where_it_is_shown(strategy: str) -> None:
    with pytest.raises(InputError, match=r"'z\[0\]' asks for.*biased.*gradients="):
        value(IWAE(2), Named(strategy))
    objective = IWAE(2, gradients={"z[0]": strategy})
    value(objective, Named(strategy))
    assert "relaxed draws" in objective.biased
