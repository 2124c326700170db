"""Flows and full covariances: inverses, determinants, normalisation, golden numbers, and the Gaussian inside them."""

from __future__ import annotations

import copy
import pickle

import exact
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from stats import assert_close_in_sigmas, mean_and_error
from torch import nn

import pvae
from pvae.densities import (
    DiagonalGaussian,
    FlowPosterior,
    FlowPrior,
    FullGaussian,
    HouseholderPosterior,
    MixturePosterior,
    part,
)
from pvae.densities.transforms import Planar
from pvae.errors import InputError
from pvae.randomness import preserved_buffers

EXACT = {"rtol": 1e-9, "atol": 1e-9}
PRIORS = ["coupling", "maf", "spline"]
POSTERIORS = ["coupling", "iaf", "maf", "planar", "spline"]
FEATURES = 4

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def posterior(kind, latent=3, std=0.4, **settings):
    """A posterior in float64 with every parameter drawn."""
    if kind == "householder":
        made = HouseholderPosterior(FEATURES, latent, 3)
    elif kind == "full":
        made = FullGaussian(FEATURES, latent)
    elif kind == "mixture":
        made = MixturePosterior(FEATURES, latent, 3)
    else:
        made = FlowPosterior(FEATURES, latent, kind, **{"transforms": 2, "hidden": (6,), "context": 3, **settings})
    return drawn(made, std)


def prior(kind, latent=3, std=0.4):
    return drawn(FlowPrior(latent, kind, transforms=2, hidden=(6,)), std)


def drawn(module, std):
    module = module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


def context(*leading):
    return torch.randn(*leading, FEATURES, dtype=torch.float64)


def flow(role, kind, latent=3, std=0.4):
    """One distribution without batch dimensions."""
    return prior(kind, latent, std)(None) if role == "prior" else posterior(kind, latent, std)(context())


EVERY = [("prior", kind) for kind in PRIORS] + [("posterior", kind) for kind in [*POSTERIORS, "householder"]]


@pytest.mark.parametrize(("role", "kind"), EVERY)
def test_inverse_undoes_the_map(role, kind):
    to_noise = flow(role, kind).dist.transform
    noise = 2 * torch.randn(50, 3, dtype=torch.float64)
    torch.testing.assert_close(to_noise(to_noise.inv(noise)), noise, **EXACT)
    torch.testing.assert_close(to_noise.inv(to_noise(noise)), noise, **EXACT)
    assert (to_noise(noise) - noise).abs().max() > 0.1


@pytest.mark.parametrize(("role", "kind"), EVERY)
def test_log_determinant_is_that_of_autograds_jacobian(role, kind):
    density = flow(role, kind)
    z = density.rsample().detach()
    jacobian = torch.autograd.functional.jacobian(density.dist.transform, z)
    noise = density.dist.transform(z)
    expected = dist.Normal(torch.zeros(3).double(), 1.0).to_event(1).log_prob(noise) + jacobian.slogdet().logabsdet
    torch.testing.assert_close(density.log_prob(z), expected, **EXACT)


@pytest.mark.parametrize(("role", "kind"), EVERY)
def test_own_draws_score_as_any_value_does(role, kind):
    density = flow(role, kind)
    z = density.expand((5,))
    drawn_z = z.rsample((2,))
    assert drawn_z.shape == (2, 5, 3) and drawn_z.requires_grad
    torch.testing.assert_close(z.log_prob(drawn_z), z.log_prob(drawn_z.clone()), **EXACT)


def test_a_draw_without_gradient_is_scored_with_one():
    density = posterior("iaf")
    q = density(context(4))
    with torch.no_grad():
        z = q.sample()
    assert q.log_prob(z).requires_grad


@pytest.mark.parametrize(("role", "kind"), [*EVERY, ("posterior", "mixture"), ("posterior", "full")])
def test_a_density_of_two_dimensions_integrates_to_one(role, kind):
    density = flow(role, kind, latent=2, std=0.2)
    with torch.no_grad():
        z = density.sample((1000,))
        centre, width = z.mean(0), 8 * z.std(0)
        line = torch.linspace(-1, 1, 241, dtype=torch.float64)
        grid = centre + width * torch.cartesian_prod(line, line)
        mass = density.log_prob(grid).exp().sum() * width.prod() * (2 / 240) ** 2
    assert abs(float(mass) - 1) < 1e-3


def test_planar_golden_numbers():
    u, w, b, z = (torch.tensor(each, dtype=torch.float64) for each in ([1.2, -0.5], [0.8, 0.6], 0.1, [0.3, -0.2]))
    planar = Planar(u, w, b)
    torch.testing.assert_close(planar.u_hat, torch.tensor([0.733309, -0.850018]).double(), rtol=0, atol=5e-7)
    found = planar.log_abs_det_jacobian(z, planar(z))
    torch.testing.assert_close(found, torch.tensor(0.0704994).double(), rtol=0, atol=5e-8)


def test_planar_map_stays_invertible_where_u_points_against_w():
    w = torch.tensor([1.5, -1.0], dtype=torch.float64)
    planar = Planar(-4 * w, w, torch.tensor(0.2, dtype=torch.float64))
    assert -1 < float((planar.w * planar.u_hat).sum()) < -0.99
    z = torch.randn(200, 2, dtype=torch.float64)
    torch.testing.assert_close(planar.inv(planar(z)), z, rtol=0, atol=1e-5)


def test_planar_inverse_has_the_gradient_of_a_solution():
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 3), (4, 3), (4,), (4, 3))]
    assert torch.autograd.gradcheck(lambda u, w, b, y: Planar(u, w, b).inv(y), inputs)


@pytest.mark.parametrize("kind", [*POSTERIORS, "full"])
def test_a_fresh_posterior_reproduces_the_gaussian_elbo_on_the_same_draws(kind):
    text = kind if kind == "full" else f"flow:kind={kind}"
    x = torch.rand(6, 8, dtype=torch.float64).round()
    plain = pvae.VAE(8, latent=3, hidden=5).double()
    bent = pvae.VAE(8, latent=3, hidden=5, posterior=text).double()
    for name in ("encoder", "decoder", "likelihood"):
        getattr(bent, name).load_state_dict(getattr(plain, name).state_dict())
    base = bent.posterior if kind == "full" else bent.posterior.base
    base.load_state_dict(plain.posterior.state_dict(), strict=kind != "full")
    found = []
    for model in (plain, bent):
        torch.manual_seed(5)
        found.append(pvae.log_weights(model, {"x": x}, 4).log_w)
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)


def test_a_fresh_flow_prior_is_standard_normal():
    z = 2 * torch.randn(50, 3, dtype=torch.float64)
    expected = dist.Normal(torch.zeros(3).double(), 1.0).to_event(1).log_prob(z)
    for kind in PRIORS:
        found = FlowPrior(3, kind).double()(None).log_prob(z)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        other = FlowPrior(3, kind, identity=False).double()(None).log_prob(z)
        assert (other - expected).abs().max() > 0.01


# ---- the linear-Gaussian model: its posterior is a full Gaussian


def elbo_on_linear_gaussian(q):
    """The exact ELBO of a Gaussian q: log p(x, z) - log q(z) is a quadratic, so its mean is that over four points."""
    closed = exact.LinearGaussian()
    points = q.mean + 2**0.5 * torch.cat([q.scale_tril.mT, -q.scale_tril.mT])
    weight, bias, x = (torch.tensor(each) for each in (closed.weight, closed.bias, exact.A_X))
    log_joint = dist.Normal(points @ weight.T + bias, closed.variance**0.5).log_prob(x).sum(-1)
    log_joint = log_joint + dist.Normal(torch.zeros(2).double(), 1.0).log_prob(points).sum(-1)
    return (log_joint - q.log_prob(points)).mean()


def test_full_covariance_reaches_the_evidence_by_gradient_and_diagonal_stays_below():
    h = torch.ones(1, dtype=torch.float64)
    for made, best in ((FullGaussian(1, 2).double(), -3.6252584092), (DiagonalGaussian(1, 2).double(), -3.6308803939)):
        optimiser = torch.optim.LBFGS(
            made.parameters(), max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
        )

        def loss(made=made, optimiser=optimiser):
            q = made(h)
            full = q if isinstance(q, dist.MultivariateNormal) else _as_full(q)
            value = -elbo_on_linear_gaussian(full)
            optimiser.zero_grad()
            value.backward()
            return value

        optimiser.step(loss)
        assert -loss().item() == pytest.approx(best, abs=1e-9)


def _as_full(q):
    return dist.MultivariateNormal(q.mean, scale_tril=torch.diag(q.base_dist.scale))


class ModelA(exact.LinearGaussianModel):
    """The linear-Gaussian model with a posterior of our own, in the context of one constant feature."""

    def __init__(self, density):
        super().__init__()
        self.density = density
        del self.q_loc, self.q_log_scale

    def guide(self, x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.density(x.new_ones(len(x), 1)))

    def phi(self):
        return list(self.density.parameters())


def exact_full():
    mean, covariance = exact.LinearGaussian().posterior()
    factor = np.linalg.cholesky(covariance)
    density = FullGaussian(1, 2).double()
    with torch.no_grad():
        for each in density.parameters():
            each.zero_()
        density.loc.bias.copy_(torch.tensor(mean))
        density.log_scale.bias.copy_(torch.tensor(np.log(np.diag(factor))))
        density.below.bias.copy_(torch.tensor([factor[1, 0] / factor[1, 1]]))
    return density


def exact_householder():
    """One reflection that takes the axes to the eigenvectors of the covariance."""
    mean, covariance = exact.LinearGaussian().posterior()
    values, vectors = np.linalg.eigh(covariance)
    vectors = vectors * np.array([1.0, -np.linalg.det(vectors)])  # a reflection has determinant -1
    density = HouseholderPosterior(1, 2, 1).double()
    with torch.no_grad():
        for each in density.parameters():
            each.zero_()
        density.loc.bias.copy_(torch.tensor(mean))
        density.log_scale.bias.copy_(torch.tensor(0.5 * np.log(values)))
        density.vectors.bias.copy_(torch.tensor(np.array([1.0, 0.0]) - vectors[:, 0]))
    return density


@pytest.mark.parametrize("make", [exact_full, exact_householder])
def test_the_exact_posterior_put_in_gives_the_evidence_by_every_draw(make):
    model, x = ModelA(make()), torch.tensor(exact.A_X).unsqueeze(0)
    weights = pvae.log_weights(model, {"x": x}, 20)
    torch.testing.assert_close(
        weights.log_w, torch.full((20, 1), -3.6252584092, dtype=torch.float64), rtol=0, atol=1e-9
    )
    terms = pvae.StickingTheLanding(particles=1).terms(model.model, model.guide, (x,), {}, "all")
    for gradient in torch.autograd.grad(terms.surrogate, model.phi()):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


def test_householder_is_the_gaussian_of_its_covariance():
    density = posterior("householder")
    h, z = context(5), torch.randn(7, 5, 3, dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    vectors = density.vectors(h).unflatten(-1, (3, 3))
    turn = eye.expand(5, 3, 3)
    for each in vectors.unbind(-2):
        turn = (eye - 2 * each[..., :, None] * each[..., None, :] / each.square().sum(-1)[..., None, None]) @ turn
    factor = turn * density.log_scale(h).exp().unsqueeze(-2)
    expected = dist.MultivariateNormal(density.loc(h), factor @ factor.mT)
    torch.testing.assert_close(density(h).log_prob(z), expected.log_prob(z), **EXACT)
    torch.testing.assert_close(density(h).mean, density.loc(h), **EXACT)


def test_full_covariance_is_that_of_its_factor():
    density = posterior("full")
    h = context()
    unit = torch.eye(3, dtype=torch.float64)
    unit[1, 0], unit[2, 0], unit[2, 1] = density.below(h)
    factor = torch.diag(density.log_scale(h).exp()) @ unit
    torch.testing.assert_close(density(h).covariance_matrix, factor @ factor.T, **EXACT)


# ---- the smaller family within the larger


def test_larger_families_hold_the_diagonal_gaussian():
    """Equal components and paired reflections give the diagonal Gaussian's density; so do others when fresh."""
    h, z = context(5), torch.randn(6, 5, 3, dtype=torch.float64)
    plain = drawn(DiagonalGaussian(FEATURES, 3), 0.4)
    mixture, turned = posterior("mixture"), drawn(HouseholderPosterior(FEATURES, 3, 2), 0.4)
    with torch.no_grad():
        for name in ("loc", "log_scale"):
            getattr(turned, name).load_state_dict(getattr(plain, name).state_dict())
            getattr(mixture, name).weight.copy_(getattr(plain, name).weight.repeat(3, 1))
            getattr(mixture, name).bias.copy_(getattr(plain, name).bias.repeat(3))
        turned.vectors.weight[3:] = turned.vectors.weight[:3]
        turned.vectors.bias[3:] = turned.vectors.bias[:3]
    for larger in (mixture, turned):
        torch.testing.assert_close(larger(h).log_prob(z), plain(h).log_prob(z), **EXACT)
    drawn_z = mixture(h).rsample()
    drawn_z.sum().backward()  # coinciding components have a gradient, that of the one Gaussian
    by_component = mixture.loc.bias.grad.reshape(3, 3).sum(0)
    torch.testing.assert_close(by_component, torch.full((3,), 5.0).double(), **EXACT)


# ---- what estimators need

OWN = [*POSTERIORS, "householder", "full", "mixture"]


class Bent(pvae.LatentModel):
    """A decoder that is a Bernoulli of a linear map, and a posterior in the context of x."""

    def __init__(self, kind):
        super().__init__()
        self.decoder, self.density = nn.Linear(2, FEATURES).double(), posterior(kind, latent=2, std=0.5)

    def joint(self, x, z):
        prior = dist.Normal(x.new_zeros(2), 1.0).to_event(1)
        return prior.log_prob(z) + dist.Bernoulli(logits=self.decoder(z)).to_event(1).log_prob(x)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.density(x))


def stopped(density):
    frozen = copy.deepcopy(density)
    return frozen.requires_grad_(False)


@pytest.mark.parametrize("kind", OWN)
def test_gradients_with_phi_stopped_and_at_fixed_z_agree_with_hand_written_ones(kind):
    model, x = Bent(kind), torch.rand(3, FEATURES, dtype=torch.float64).round()
    torch.manual_seed(2)
    weights = pvae.log_weights(model, {"x": x}, 4)
    torch.manual_seed(2)
    z = model.density(x).expand((4, 3))()
    torch.testing.assert_close(z, weights.values["z"], rtol=0, atol=0)
    parameters = list(model.density.parameters())
    pairs = (
        (weights.log_guide_with_phi_stopped(), stopped(model.density)(x).log_prob(z)),
        (weights.log_guide_at_fixed_z(), model.density(x).log_prob(z.detach())),
        (weights.log_w, model.joint(x, z) - model.density(x).log_prob(z.clone())),
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, **EXACT)
        mine, other = (torch.autograd.grad(each.sum(), parameters, retain_graph=True) for each in (ours, theirs))
        for one, two in zip(mine, other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", OWN)
def test_stl_and_dreg_gradients_agree_with_hand_written_ones(kind):
    model, x = Bent(kind), torch.rand(3, FEATURES, dtype=torch.float64).round()
    parameters = list(model.density.parameters())
    for objective, power in ((pvae.StickingTheLanding(particles=4), 1), (pvae.DReG(particles=4), 2)):
        torch.manual_seed(2)
        terms = objective.terms(model.model, model.guide, (x,), {}, "all")
        ours = torch.autograd.grad(terms.surrogate, parameters)
        torch.manual_seed(2)
        z = model.density(x).expand((4, 3))()
        log_w = model.joint(x, z) - stopped(model.density)(x).log_prob(z)
        share = log_w.detach().softmax(0) ** power
        theirs = torch.autograd.grad(-(share * log_w).sum(), parameters)
        for one, two in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", ["iaf", "planar", "spline"])
def test_sampling_agrees_with_scoring(kind):
    """The mean of r / q over draws of q is 1 for any normalised r."""
    q = posterior(kind, std=0.2)(context())
    z = q.sample((20_000,))
    r = dist.Normal(z.mean(0), 0.7 * z.std(0)).to_event(1)
    ratio, error = mean_and_error((r.log_prob(z) - q.log_prob(z)).exp())
    assert_close_in_sigmas(ratio, 1.0, error, effect=1.0, resolution=0.02)
    mean, error = mean_and_error(z)
    assert_close_in_sigmas(q.mean, mean, np.hypot(error, z.std(0).numpy() / 8))


# ---- the machinery


@pytest.mark.parametrize("kind", OWN)
def test_copies_and_states_score_the_same(kind):
    density, h = posterior(kind), context(4)
    z = torch.randn(4, 3, dtype=torch.float64)
    fresh = posterior(kind)
    fresh.load_state_dict(density.state_dict())
    for other in (copy.deepcopy(density), pickle.loads(pickle.dumps(density)), fresh):
        assert torch.equal(other(h).log_prob(z), density(h).log_prob(z))


TRACED = [
    *(
        (text, "iwae:particles=2")
        for text in ("flow", "flow:kind=iaf", "flow:kind=planar", "flow:kind=spline", "full", "mixture", "householder")
    ),
    ("flow:transforms=1", "dirac"),  # at q.mean
]


@pytest.mark.parametrize(("text", "objective"), TRACED)
def test_graph_equals_eager_in_every_bit(text, objective, recwarn):
    x = torch.rand(8, 6).round()
    found = []
    for step in ("graph", "eager"):
        torch.manual_seed(0)
        model = pvae.VAE(6, latent=2, hidden=4, posterior=text, prior="flow:transforms=1:hidden=4")
        data = pvae.load_data({"x": x}, validation=0, test=0)
        run = pvae.fit(model, data, objective=objective, epochs=1, batch_size=4, step=step, progress=False)
        assert run.step == step
        found.append(torch.cat([each.detach().flatten() for each in run.model.parameters()]))
    assert torch.equal(*found)
    assert [str(each.message) for each in recwarn if "trace" in str(each.message)] == []


def test_a_look_at_programs_leaves_the_graphs_of_others_whole():
    """Masks of a flow and places of a factor are buffers that gradients hold on to."""
    averaged = nn.BatchNorm1d(FEATURES).double()
    for kind in ("iaf", "full"):
        density, h = posterior(kind), context(5)
        score = density(h).log_prob(torch.zeros(3).double()).sum()
        with preserved_buffers(density, averaged):
            density(h).sample()
            averaged(h)
        score.backward()
        assert torch.equal(averaged.running_mean, torch.zeros(FEATURES).double())


def test_zuko_leaves_validation_and_printing_leaves_the_generator():
    with pyro.validation_enabled(True):
        model = pvae.VAE(6, latent=3, hidden=4, posterior="flow", prior="flow")
        assert torch.distributions.Distribution._validate_args
        with pytest.raises(ValueError, match="scale"):
            dist.Normal(0.0, -1.0)
    before = torch.get_rng_state()
    assert "FlowPosterior(in_features=4, latent=3, kind='coupling')" in repr(model)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: part("posterior", "flow:kind=ifa", 4, 3), "did you mean 'iaf'"),
        (lambda: part("prior", "flow:kind=planar", 3), "Unknown kind of flow prior 'planar'"),
        (lambda: part("posterior", "flow:kind=coupling", 4, 1), "got latent=1. Use kind='maf'"),
        (lambda: part("prior", "flow:kind=spline", 1), "got latent=1"),
        (lambda: part("posterior", "flow:transforms=0", 4, 3), "transforms needs a whole number of at least 1; got 0"),
        (lambda: part("posterior", "flow:hidden=4,0", 4, 3), r"hidden needs whole numbers of at least 1; got \(4, 0\)"),
        (lambda: part("posterior", "flow:kind=spline:bins=0", 4, 3), "bins needs a whole number of at least 1; got 0"),
        (lambda: part("posterior", "flow:activation=rleu", 4, 3), "did you mean 'relu'"),
        (lambda: part("posterior", "flow:kin=iaf", 4, 3), "did you mean 'kind'"),
        (lambda: part("posterior", "flow:context=0", 4, 3), "context needs a whole number of at least 1; got 0"),
        (
            lambda: part("posterior", "householder:reflections=0", 4, 3),
            "reflections needs a whole number of at least 1; got 0",
        ),
        (lambda: FullGaussian(4, 0), "latent needs a whole number of at least 1; got 0"),
        (lambda: FlowPrior(0), "latent needs a whole number of at least 1; got 0"),
    ],
)
def test_bad_arguments_are_named(wrong, said):
    with pytest.raises(InputError, match=said) as caught:
        wrong()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["full", "mixture", "householder", "flow:kind=iaf", "flow:kind=maf", "flow:kind=planar"]
)
def test_one_latent_dimension_will_do(text):
    q = part("posterior", text, FEATURES, 1).double()(context(5))
    z = q.rsample()
    assert z.shape == (5, 1)
    line = torch.linspace(-60, 60, 60_001, dtype=torch.float64).reshape(-1, 1, 1)
    with torch.no_grad():
        mass = q.log_prob(line).exp().sum(0) * 0.002
    torch.testing.assert_close(mass, torch.ones(5).double(), rtol=0, atol=1e-5)
