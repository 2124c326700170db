"""The Gaussian-mixture VAE: exact evidence at linear-Gaussian parameters, and the mixture prior on the same draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact import normal_log_prob
from stats import assert_close_in_sigmas, mean_and_error
from torch import nn

import pvae
from pvae.errors import InputError
from pvae.objectives import make_objective

EXACT = {"rtol": 1e-10, "atol": 1e-10}

# columns of W are orthogonal, so that each component's posterior of z is a diagonal Gaussian
W = np.array([[1.0, 0.5], [1.0, -0.5], [0.5, 0.0]])
B, S2 = np.array([0.1, -0.2, 0.3]), 0.25
MIXING, MEANS, SCALES = (
    np.array([0.5, 0.3, 0.2]),
    np.array([[1.0, -0.5], [-1.2, 0.4], [0.3, 2.0]]),
    np.array([0.6, 0.8]),
)
X = np.array([[0.8, 1.1, 0.4], [-1.0, -1.9, 0.2], [2.0, -0.7, 0.3]])

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def log_joint(x):
    """log p(x, y) of one x, by component: x given y is N(W m_y + b, W diag(s^2) W' + s2 I)."""
    cov = W @ np.diag(SCALES**2) @ W.T + S2 * np.eye(3)
    return np.log(MIXING) + [normal_log_prob(x, W @ mean + B, cov) for mean in MEANS]


LOG_JOINT = np.array([log_joint(x) for x in X])
EVIDENCE = np.logaddexp.reduce(LOG_JOINT, axis=1)


def put(module, weight, bias=0.0):
    with torch.no_grad():
        module.weight.copy_(torch.as_tensor(weight))
        if module.bias is not None:
            module.bias.copy_(torch.as_tensor(bias).expand(module.bias.shape))


def linear(inference):
    """The linear-Gaussian model; q is exact with ``amortised``, and else the posterior given the middle component."""
    settings = {"components": 3, "latent": 2, "hidden": 0, "inference": inference, "output_bias": None}
    model = pvae.GMVAE((3,), likelihood="gaussian:scale=0.5", **settings).double()
    with torch.no_grad():
        model.prior.logits.copy_(torch.as_tensor(np.log(MIXING)))
        model.prior.loc.copy_(torch.as_tensor(MEANS))
        model.prior.log_scale.copy_(torch.as_tensor(np.log(SCALES)).expand(3, 2))
    put(model.likelihood.head.layer, W, B)
    cov = np.linalg.inv(np.diag(SCALES**-2) + W.T @ W / S2)
    gain, pull = cov @ W.T / S2, cov @ (MEANS / SCALES**2).T
    put(model.posterior.loc, gain, pull.mean(1) - gain @ B)
    put(model.posterior.log_scale, np.zeros((2, 3)), 0.5 * np.log(np.diag(cov)))
    if inference == "amortised":
        put(model.encoder.layer, np.linalg.pinv(gain) @ (pull - pull.mean(1, keepdims=True)))
        precision = np.linalg.inv(W @ np.diag(SCALES**2) @ W.T + S2 * np.eye(3))
        centres = MEANS @ W.T + B
        offset = np.log(MIXING) - 0.5 * np.einsum("ki,ij,kj->k", centres, precision, centres)
        put(model.classifier[1], centres @ precision, offset)
    return model


def batch():
    return {"x": torch.as_tensor(X)}


@pytest.mark.parametrize("particles", [1, 3])
def test_exact_amortised_inference_makes_every_weight_the_evidence(particles):
    log_w = pvae.log_weights(linear("amortised"), batch(), particles).log_w.detach()
    np.testing.assert_allclose(log_w, np.tile(EVIDENCE, (particles, 1)), rtol=1e-10)


def test_elbo_enum_is_the_evidence_where_inference_is_exact():
    model = linear("amortised")
    loss = make_objective("elbo-enum")().loss(model.model, model.guide, batch()["x"])
    assert loss == pytest.approx(-EVIDENCE.sum(), rel=1e-10)


def test_responsibilities_are_the_exact_ones():
    expected = np.exp(LOG_JOINT - EVIDENCE[:, None])
    np.testing.assert_allclose(linear("amortised").cluster(batch()["x"]), expected, rtol=1e-9)


def test_weights_of_the_exact_component_posterior_average_to_the_evidence():
    with torch.no_grad():
        weights = pvae.log_weights(linear("exact"), batch(), 40_000).log_w
    estimate, error = mean_and_error((weights - torch.as_tensor(EVIDENCE)).exp())
    assert_close_in_sigmas(estimate, 1.0, error, effect=0.5, resolution=0.03)


def test_responsibilities_average_the_components_posterior_over_z():
    model, x = linear("exact"), batch()["x"]
    torch.manual_seed(1)
    found = model.cluster(x, draws=5)
    torch.manual_seed(1)
    z = model.encode(x).sample((5,)).numpy()
    inside = -0.5 * (((z[..., None, :] - MEANS) / SCALES) ** 2).sum(-1) + np.log(MIXING)
    expected = np.exp(inside - np.logaddexp.reduce(inside, axis=-1)[..., None]).mean(0)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("inference", ["exact", "amortised"])
def test_elbo_enum_is_the_explicit_sum_over_components(inference):
    """On the same draws: sum_y q(y) (log p(x, y, z_y) - log q(y, z_y)), a z for each y where y comes first."""
    model, x = pvae.GMVAE((3,), components=3, latent=2, hidden=(4,), inference=inference).double(), batch()["x"].round()
    x = (x > 0).double()
    torch.manual_seed(2)
    loss = make_objective("elbo-enum")().loss(model.model, model.guide, x)
    torch.manual_seed(2)
    if inference == "exact":
        q_z = model.encode(x)
        z = q_z.sample()
        logits = model.prior.logits.log_softmax(-1) + torch.stack(
            [model.component(torch.tensor(each)).log_prob(z) for each in range(3)], -1
        )
        log_q = logits.log_softmax(-1)
        inside = logits + (model.decode(z).log_prob(x) - q_z.log_prob(z)).unsqueeze(-1) - log_q
    else:
        log_q = model.assign(x).logits
        q_z = model.encode(x, model.indicator(torch.arange(3)[:, None].expand(3, 3)))
        z = q_z.sample()
        log_p = model.prior.logits.log_softmax(-1)[:, None] + model.component(torch.arange(3)[:, None]).log_prob(z)
        inside = (log_p + model.decode(z).log_prob(x) - q_z.log_prob(z)).mT - log_q
    assert loss == pytest.approx(-(log_q.exp() * inside).sum().item(), rel=1e-10)


def twins():
    """A GMVAE, and the VAE whose prior is the same mixture with the component summed out."""
    common = {"latent": 2, "hidden": (4,)}
    gmvae = pvae.GMVAE((6,), components=3, **common).double()
    vae = pvae.VAE((6,), prior="mixture:components=3", **common).double()
    vae.load_state_dict(gmvae.state_dict())
    return gmvae, vae, torch.rand(5, 6).round().double()


@pytest.mark.parametrize(("own", "other"), [("elbo-enum", "elbo"), ("iwae:particles=4", "iwae:particles=4")])
def test_bound_and_gradient_are_those_of_the_vae_with_a_mixture_prior(own, other):
    gmvae, vae, x = twins()
    found = []
    for model, objective in ((gmvae, own), (vae, other)):
        torch.manual_seed(3)
        terms = make_objective(objective)().terms(model.model, model.guide, (x,), {}, "all")
        found.append((terms.loss, torch.autograd.grad(terms.surrogate, list(model.parameters()))))
    torch.testing.assert_close(found[0][0], found[1][0], **EXACT)
    for mine, theirs in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(mine, theirs, **EXACT)


def test_it_starts_as_the_vae_with_a_mixture_prior_of_the_same_seed():
    torch.manual_seed(4)
    gmvae = pvae.GMVAE((6,), components=3, latent=2)
    torch.manual_seed(4)
    vae = pvae.VAE((6,), prior="mixture:components=3", latent=2)
    assert all(torch.equal(each, vae.state_dict()[name]) for name, each in gmvae.state_dict().items())


def test_samples_come_from_the_components():
    """With a decoder of no noise to speak of, x has the mixture's mean."""
    model = linear("exact")
    drawn = model.sample(40_000, mean=True)
    mean, error = mean_and_error(drawn)
    assert_close_in_sigmas(mean, W @ (MIXING @ MEANS) + B, error, effect=0.5, resolution=0.03)


def test_uniform_mixing_is_held_and_no_parameter_that_trains():
    model = pvae.GMVAE((6,), components=4, mixing="uniform", latent=2, hidden=(4,))
    assert not model.prior.logits.requires_grad and (model.prior.logits == 0).all()
    x = torch.rand(5, 6).round()
    terms = make_objective("elbo-enum")().terms(model.model, model.guide, (x,), {}, "all")
    trained = [each for each in model.parameters() if each.requires_grad]
    assert all(each is not None for each in torch.autograd.grad(terms.surrogate, trained))


def test_one_component_is_no_condition():
    """The encoder of an amortised guide, given the only component there is, is the plain encoder to the last bit."""
    model, x = pvae.GMVAE((6,), components=1, latent=2, hidden=(4,), inference="amortised"), torch.rand(5, 6)
    plain = model.posterior(model.encoder.network(x))
    assert torch.equal(model.encode(x, model.indicator(torch.zeros(5).long())).mean, plain.mean)


@pytest.mark.parametrize("inference", ["exact", "amortised"])
def test_reconstructions_have_the_shape_of_the_data(inference):
    model = pvae.GMVAE((2, 3), components=3, latent=2, hidden=(4,), inference=inference)
    assert model.reconstruct(torch.rand(5, 6)).shape == (5, 2, 3)
    assert model.cluster(torch.rand(5, 2, 3)).shape == (5, 3)
    assert isinstance(model.encoder, nn.Module)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"components": 0}, "components needs .* got 0"),
        ({"components": "ten"}, "components needs .* got 'ten'"),
        ({"mixing": "lerned"}, "did you mean 'learned'"),
        ({"inference": "amortized"}, "did you mean 'amortised'"),
        ({"latent": 0}, "latent needs"),
        ({"posterior": "diag"}, "did you mean 'diagonal'"),
    ],
)
def test_bad_arguments_are_named(settings, said):
    with pytest.raises(InputError, match=said) as caught:
        pvae.GMVAE((6,), **settings)
    assert "\n" not in str(caught.value)


def test_a_prior_of_another_kind_is_refused():
    with pytest.raises(InputError, match="Unknown setting 'prior' of gmvae"):
        pvae.ModelSpec("gmvae", {"prior": "vamp"}).build(pvae.load_data({"x": torch.rand(4, 6)}, validation=0, test=0))
