"""The VAE: the reference net to the letter, its scores by hand, its groups, and its start from the data."""

from __future__ import annotations

import copy
import pickle
from contextlib import contextmanager, nullcontext

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import binary_cross_entropy_with_logits, linear
from zoo import MODELS

from pvae.densities import Bernoulli, DiagonalGaussian, StandardNormal
from pvae.errors import InputError
from pvae.models import bind
from pvae.models.vae import VAE

EXACT = {"rtol": 1e-12, "atol": 1e-12}
BUILT_IN = {name: case for name, case in MODELS.items() if name.startswith("vae")}

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def traces(vae, *fields, particles=None):
    """Traces of guide and model at its draws, with an outer plate of particles where asked."""

    def wide(program):
        if particles is None:
            return program
        return lambda *args: pyro.plate("particles", particles, dim=-2)(program)(*args)

    guide = poutine.trace(wide(vae.guide)).get_trace(*fields)
    model = poutine.trace(poutine.replay(wide(vae.model), trace=guide)).get_trace(*fields)
    guide.compute_log_prob(), model.compute_log_prob()
    return model, guide


@contextmanager
def validation_off():
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


def drawn(trace):
    """The latent sites of a trace: what Pyro calls stochastic, but for the indices of plates."""
    return [site for site in trace.stochastic_nodes if type(trace.nodes[site]["fn"]).__name__ != "_Subsample"]


def test_reference_net_is_burdas():
    vae = VAE((784,), latent=50, hidden=(200, 200), activation="tanh", initialisation="glorot")
    assert [tuple(p.shape) for p in vae.phi()] == [
        *[(200, 784), (200,), (200, 200), (200,)],
        *[(50, 200), (50,), (50, 200), (50,)],
    ]
    assert [tuple(p.shape) for p in vae.theta()] == [
        *[(200, 50), (200,), (200, 200), (200,)],
        *[(784, 200), (784,)],
    ]
    assert [type(layer) for layer in vae.encoder] == [nn.Linear, nn.Tanh] * 2
    assert [type(layer) for layer in vae.decoder] == [nn.Linear, nn.Tanh] * 2
    for weight in (p for p in vae.parameters() if p.dim() == 2):
        bound = (6 / sum(weight.shape)) ** 0.5
        assert 0.99 * bound < weight.abs().max() <= bound
    assert all((p == 0).all() for p in vae.parameters() if p.dim() == 1)


@pytest.mark.parametrize(("network", "shape"), [("mlp", (6, 5)), ("gated", (6, 5)), ("conv", (6, 5))])
def test_decoder_takes_the_hidden_sizes_in_reverse(network, shape):
    vae = VAE(shape, latent=3, hidden=(7, 4), network=network)
    widths = [weight.shape for weight in vae.decoder.parameters() if weight.dim() > 1]
    assert widths[0][0] == (4 if network != "conv" else 4 * 2 * 2)
    assert widths[-1][0 if network != "conv" else 1] == 7


@pytest.mark.parametrize("name", BUILT_IN)
def test_programs_can_be_traced_below_pyro(name):
    """No `.item()` and no branch on values: the traced graph agrees with the program on other data."""
    vae, x = MODELS[name].make(), MODELS[name].data(4)

    def score(x, z):
        return vae.decode(z).log_prob(x.reshape(4, *vae._event_shape)) - vae.encode(x).log_prob(z)

    z = torch.randn(4, 3)
    with pyro.validation_enabled(False), validation_off():
        graph = make_fx(score)(x, z)
        other = x.flip(0)
        torch.testing.assert_close(graph(other, z + 1), score(other, z + 1))


def test_log_weights_of_the_reference_net_agree_with_raw_pytorch():
    vae = VAE((12,), latent=3, hidden=(7, 5)).double()
    x = torch.rand(4, 12).double()
    vae.initialise_from({"x": x})
    x = x.round()
    model, guide = traces(vae, x)
    z, p = guide.nodes["z"]["value"], dict(vae.named_parameters())

    def layers(h, *names):
        for name in names:
            h = linear(h, p[f"{name}.weight"], p[f"{name}.bias"])
            h = h.tanh() if "coder" in name else h
        return h

    h = layers(x, "encoder.0", "encoder.2")
    loc, log_scale = layers(h, "posterior.loc"), layers(h, "posterior.log_scale")
    noise = (z - loc) / log_scale.exp()
    logits = layers(z, "decoder.0", "decoder.2", "likelihood.head.layer")
    log_w = -0.5 * z.square().sum(-1) + (0.5 * noise.square() + log_scale).sum(-1)
    log_w = log_w - binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    of_pyro = model.nodes["z"]["log_prob"] + model.nodes["x"]["log_prob"] - guide.nodes["z"]["log_prob"]
    torch.testing.assert_close(of_pyro, log_w, **EXACT)


@pytest.mark.parametrize("name", BUILT_IN)
def test_groups_are_disjoint_and_complete(name):
    vae = MODELS[name].make()
    theta, phi = {id(p) for p in vae.theta()}, {id(p) for p in vae.phi()}
    assert not theta & phi
    assert theta | phi == {id(p) for p in vae.parameters()}
    assert len(vae.theta()) + len(vae.phi()) == len(list(vae.parameters()))


@pytest.mark.parametrize("name", BUILT_IN)
def test_groups_are_what_each_program_depends_on(name):
    vae, x = MODELS[name].make(), MODELS[name].data(4)
    model, guide = traces(vae, x)
    fixed = guide.nodes["z"]["value"].detach()
    log_q = vae.encode(x).log_prob(fixed).sum()
    log_p = vae.prior_density().log_prob(fixed).sum() + vae.decode(fixed).log_prob(model.nodes["x"]["value"]).sum()
    shared = vae.phi() if getattr(vae.prior, "takes_posterior", False) else []  # the prior is made of posteriors
    for log_prob, own in ((log_q, vae.phi()), (log_p, [*vae.theta(), *shared])):
        reached = torch.autograd.grad(log_prob, list(vae.parameters()), allow_unused=True)
        touched = {id(p) for p, grad in zip(vae.parameters(), reached, strict=True) if grad is not None}
        assert touched == {id(p) for p in own}


@pytest.mark.parametrize("name", MODELS)
def test_observed_and_latent_sites_are_those_of_the_table(name):
    case = MODELS[name]
    programs = bind(case.make(), case.batch(4)).bound_to(case.batch(4))
    model, guide = traces(programs, *programs.args)
    events = {site: tuple(guide.nodes[site]["fn"].event_shape) for site in drawn(guide)}
    assert events == case.latent_sites
    observed = "x" if "x" in model.nodes else model.observation_nodes[0]
    assert tuple(model.nodes[observed]["fn"].event_shape) == case.data_shape
    for site in (*drawn(model), observed):
        assert model.nodes[site]["log_prob"].shape == (4,)


@pytest.mark.parametrize("name", MODELS)
def test_particle_dimension_equals_a_loop(name):
    case = MODELS[name]
    latent_model = case.make().double().eval()  # what corrupts an input in training would differ
    fields = {name: each.double() if each.is_floating_point() else each for name, each in case.batch(4).items()}
    programs = bind(latent_model, fields).bound_to(fields)
    model, guide = traces(programs, *programs.args, particles=3)
    for particle in range(3):
        values = {site: guide.nodes[site]["value"][particle] for site in drawn(guide)}
        for program, trace in ((programs.model, model), (programs.guide, guide)):
            one = poutine.trace(poutine.condition(program, data=values)).get_trace(*programs.args)
            one.compute_log_prob()
            for site in (*values, *model.observation_nodes):
                if site in one:
                    wide = trace.nodes[site]["log_prob"].expand(3, 4)[particle]
                    torch.testing.assert_close(wide, one.nodes[site]["log_prob"], **EXACT)


@pytest.mark.parametrize("name", BUILT_IN)
def test_flat_and_shaped_data_score_the_same(name):
    vae, x = MODELS[name].make(), MODELS[name].data(4)
    flat = poutine.trace(vae.model).get_trace(x.flatten(1))
    shaped = poutine.trace(poutine.replay(vae.model, trace=flat)).get_trace(x.reshape(4, *vae.data_shape))
    assert torch.equal(flat.log_prob_sum(), shaped.log_prob_sum())
    assert torch.equal(vae.encode(x).mean, vae.encode(x.flatten(1)).mean)


@pytest.mark.parametrize("name", BUILT_IN)
def test_samples_and_reconstructions_have_the_shape_of_the_data(name):
    vae, x = MODELS[name].make(), MODELS[name].data(4)
    means = vae.reconstruct(x)
    assert means.shape == (4, *vae.data_shape)
    assert not means.requires_grad
    assert vae.sample(5).shape == vae.sample(5, mean=True).shape == (5, *vae.data_shape)
    assert not vae.sample(5).requires_grad
    q = vae.encode(x)
    code = q.loc if name == "vae-sphere" else q.mean  # the mean of draws on a sphere is inside of it
    torch.testing.assert_close(means.flatten(1), vae.decode(code).mean.flatten(1))


def test_samples_follow_the_model():
    """With a decoder that ignores z, x is Bernoulli(bias): the frequency of each pixel has to be its probability."""
    vae = VAE((5,), latent=2, hidden=(3,), output_bias=torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
    nn.init.zeros_(vae.likelihood.head.layer.weight)
    p = torch.sigmoid(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
    error = (p * (1 - p) / 50_000).sqrt()
    assert ((vae.sample(50_000).mean(0) - p).abs() < 4.5 * error).all()
    torch.testing.assert_close(vae.sample(3, mean=True), p.expand(3, -1))


def test_output_bias_comes_from_the_data_only_once():
    vae, x = VAE((2, 3), latent=2, hidden=(4,)), torch.rand(50, 6)
    assert (vae.likelihood.head.bias == 0).all()
    vae.initialise_from({"x": x})
    torch.testing.assert_close(vae.likelihood.head.bias.detach(), x.mean(0).logit())
    with torch.no_grad():
        vae.likelihood.head.bias.fill_(7)
    restored = VAE((2, 3), latent=2, hidden=(4,))
    restored.load_state_dict(vae.state_dict())
    for again in (vae, copy.deepcopy(vae), pickle.loads(pickle.dumps(vae)), restored):
        again.initialise_from({"x": torch.rand(50, 2, 3)})
        assert (again.likelihood.head.bias == 7).all()


def test_output_bias_may_be_given_or_left():
    x = {"x": torch.rand(9, 6)}
    for given, expected in ((0.3, 0.3), (torch.full((6,), -1.0), -1.0), (None, 0.0)):
        vae = VAE((6,), latent=2, hidden=(4,), output_bias=given)
        vae.initialise_from(x)
        torch.testing.assert_close(vae.likelihood.head.bias.detach(), torch.full((6,), expected))


def test_parts_may_be_modules():
    prior, posterior = StandardNormal(2), DiagonalGaussian(4, 2)
    likelihood = Bernoulli(4, (2, 3))
    vae = VAE((2, 3), latent=2, hidden=(4,), prior=prior, posterior=posterior, likelihood=likelihood)
    assert (vae.prior, vae.posterior, vae.likelihood) == (prior, posterior, likelihood)
    model, _ = traces(vae, torch.rand(3, 6).round())
    assert model.nodes["x"]["fn"].event_shape == (2, 3)


class _Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, context):
        return pyro.distributions.Laplace(self.layer(context), 1.0).to_event(1)


def test_likelihood_of_ones_own_needs_only_forward():
    vae = VAE((6,), latent=2, hidden=(4,), likelihood=_Flat())
    vae.initialise_from({"x": torch.rand(3, 6)})
    model, _ = traces(vae, torch.rand(3, 6))
    assert model.nodes["x"]["log_prob"].shape == (3,)
    with pytest.raises(InputError, match=r"_Flat has no set_bias"):
        VAE((6,), hidden=(4,), likelihood=_Flat(), output_bias=0.5)


def test_encoder_shared_with_the_prior_counts_as_the_models():
    vae = VAE((6,), latent=2, hidden=(4,))
    vae.prior.pseudo = vae.encoder
    shared = {id(p) for p in vae.encoder.parameters()}
    assert shared <= {id(p) for p in vae.theta()}
    assert not shared & {id(p) for p in vae.phi()}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"latent": 0}, "latent needs .* got 0"),
        ({"latent": 2.5}, "latent needs .* got 2.5"),
        ({"data_shape": ()}, r"data_shape needs .* got \(\).* as a column"),
        ({"data_shape": (3, -1)}, "data_shape needs"),
        ({"hidden": (3, 0)}, "hidden needs"),
        ({"hidden": "wide"}, "hidden needs"),
        ({"network": "cnov"}, "did you mean 'conv'"),
        ({"network": "conv"}, r"\(height, width\)"),
        ({"network": "gated", "activation": "tanh"}, "takes no activation"),
        ({"activation": "rleu"}, "did you mean 'relu'"),
        ({"initialisation": "glorrot"}, "did you mean 'glorot'"),
        ({"output_bias": "dta"}, "did you mean 'data'"),
        ({"output_bias": torch.zeros(7)}, "12 entries; got 7"),
        ({"prior": "standart"}, "did you mean 'standard'"),
        ({"posterior": "diag"}, "did you mean 'diagonal'"),
        ({"likelihood": "bernuolli"}, "did you mean 'bernoulli'"),
        ({"likelihood": "gaussian:scale=-1"}, "scale needs a positive number; got -1"),
    ],
)
def test_bad_arguments_are_named(settings, said):
    with pytest.raises(InputError, match=said) as caught:
        VAE(**{"data_shape": (12,), **settings})
    assert "\n" not in str(caught.value)


def test_data_of_another_width_are_told_in_one_line() -> None:
    vae = VAE((2, 3), latent=2, hidden=3)
    for x in (torch.zeros(4, 5), torch.zeros(4, 2, 2)):
        for asked in (vae.encode, vae.model, vae.reconstruct):
            with pytest.raises(InputError, match=r"x needs 6 values for each datum, .* by data_shape; got") as said:
                asked(x)
            assert "\n" not in str(said.value)


@pytest.mark.parametrize("network", ["conv", "mlp"])
def test_pictures_with_their_sizes_in_another_order_than_the_model_are_refused(network: str) -> None:
    warned = pytest.warns(UserWarning, match=r"8 channels of 6 by 3 pixels.*\(3, 8, 6\)")
    with warned if network == "conv" else nullcontext():
        vae = VAE((8, 6, 3), latent=2, hidden=(3, 4), network=network)
    last = torch.rand(2, 8, 6, 3)
    for use in (vae.encode, vae.observed, vae.guide, vae.model):
        with pytest.raises(InputError, match=r"data_shape, \(8, 6, 3\), or one flat.*got \(3, 8, 6\)"):
            use(last.movedim(-1, 1))
    torch.testing.assert_close(vae.encode(last).mean, vae.encode(last.flatten(1)).mean)
    grey = VAE((6, 5), latent=2, hidden=(3, 4), network=network)
    assert grey.encode(torch.rand(2, 1, 6, 5)).batch_shape == (2,)
