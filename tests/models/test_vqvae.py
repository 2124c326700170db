"""The VQ-VAE: an honest bound, gradients by hand, moving averages, and the hook for models of one's own."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, linear

import pvae
from pvae.errors import InputError
from pvae.objectives import make_objective

EXACT = {"rtol": 1e-10, "atol": 1e-12}
SMALL = {"codes": 4, "latent": 3, "positions": 2, "hidden": (5,)}

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def made(**settings):
    """A model in float64 with every parameter drawn, and binary data."""
    model, x = pvae.VQVAE((6,), **{**SMALL, **settings}).double(), torch.rand(7, 6).round().double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    if model.quantiser.averages:
        model.quantiser.initialise_from(torch.randn(20, 3, dtype=torch.float64))
    return model, x


def terms(model, x, training=False, **settings):
    return pvae.VectorQuantised(**settings).train(training).terms(model.model, model.guide, (x,), {}, "all")


# ---- The codes


def test_nearest_code_agrees_with_brute_force():
    quantiser, h = pvae.Quantiser(9, 4).double(), torch.randn(30, 5, 4, dtype=torch.float64)
    nn.init.normal_(quantiser.codebook)
    distance = (h.unsqueeze(-2) - quantiser.codebook).square().sum(-1)
    assert torch.equal(quantiser.nearest(h), distance.argmin(-1))
    assert torch.equal(quantiser(h).sample((3,)), quantiser.nearest(h).expand(3, -1, -1))


def test_guide_is_certain_of_its_codes():
    model, x = made()
    q, k = model.encode(x), model.codes(x)
    assert q.event_shape == (2,) and q.batch_shape == (7,)
    assert (q.log_prob(k) == 0).all()
    assert (q.log_prob((k + 1) % 4) == -math.inf).all()


# ---- The bound


def test_log_weights_are_the_honest_bound():
    model, x = made()
    weights, k = pvae.log_weights(model, {"x": x}, 3), model.codes(x)
    expected = model.decode(k).log_prob(x) - 2 * math.log(4)
    torch.testing.assert_close(weights.log_w, expected.expand(3, -1), **EXACT)


def test_learned_prior_takes_the_place_of_the_uniform_one():
    model, x = made(prior="learned")
    k, logits = model.codes(x), model.prior.logits.log_softmax(-1)
    log_prior = logits[0, k[:, 0]] + logits[1, k[:, 1]]
    torch.testing.assert_close(
        pvae.log_weights(model, {"x": x}, 1).log_w[0], model.decode(k).log_prob(x) + log_prior, **EXACT
    )


def enumerated(model, x):
    """log p(x, k) of every k, shape (codes^positions, batch)."""
    every = torch.tensor(list(itertools.product(range(model.quantiser.codes), repeat=model.positions)))
    prior = model.prior_density().log_prob(every)
    return torch.stack([model.decode(k.expand(len(x), -1)).log_prob(x) for k in every]) + prior.unsqueeze(1)


def test_the_bound_is_one_term_of_the_evidence():
    model, x = made(prior="learned")
    joint = enumerated(model, x).detach()
    bound = pvae.log_weights(model, {"x": x}, 1).log_w[0].detach()
    assert (bound < joint.logsumexp(0)).all()
    assert ((joint - bound).abs().min(0).values < 1e-10).all()


def test_evaluate_reports_the_bound():
    model, x = made()
    bound = pvae.log_weights(model, {"x": x}, 1).log_w[0].detach()
    assert pvae.evaluate.log_evidence(model, x, particles=5).value == pytest.approx(bound.mean().item(), rel=1e-10)
    kl = pvae.evaluate.diagnose(model, x, particles=2, draws=1).latents["k"].kl
    assert kl.value == pytest.approx(2 * math.log(4), rel=1e-10)


def test_as_many_codes_as_data_and_a_perfect_decoder_reach_the_entropy_of_the_data():
    """Four data, four codes, each datum's own: bound and evidence are both -log 4, and no model does better."""
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    model = pvae.VQVAE((2,), codes=4, latent=2, positions=1, hidden=0, output_bias=None).double()
    with torch.no_grad():
        for layer, scale in ((model.posterior.vectors_of, 1.0), (model.likelihood.head.layer, 100.0)):
            layer.weight.copy_(scale * torch.eye(2))
            layer.bias.fill_(-0.5 * scale)
        model.quantiser.codebook.copy_((x - 0.5)[[2, 0, 3, 1]])
        model.likelihood.head.layer.bias.zero_()
    assert model.codes(x).flatten().tolist() == [1, 3, 0, 2]
    bound = pvae.log_weights(model, {"x": x}, 1).log_w[0].detach()
    torch.testing.assert_close(bound, torch.full((4,), -math.log(4.0), dtype=torch.float64), **EXACT)
    torch.testing.assert_close(enumerated(model, x).logsumexp(0).detach(), bound, **EXACT)
    found = terms(model, x)
    assert found.loss.item() == pytest.approx(4 * math.log(4), rel=1e-12)
    assert found.named["perplexity"].item() / 4 == pytest.approx(4.0)


# ---- The objective


def by_hand(model, x, commitment, averages=False):
    """Value of the objective, and gradients by the chain rule written out, for one hidden layer of tanh."""
    p = {name: each.detach() for name, each in model.named_parameters()}
    first, second = "encoder.0", "posterior.vectors_of"
    hidden = linear(x, p[f"{first}.weight"], p[f"{first}.bias"]).tanh()
    h = linear(hidden, p[f"{second}.weight"], p[f"{second}.bias"])
    book = model.quantiser.codebook.detach()
    k = (h.unflatten(-1, (2, 3)).unsqueeze(-2) - book).square().sum(-1).argmin(-1)
    e = book[k].flatten(1)
    up = linear(e, p["decoder.0.weight"], p["decoder.0.bias"]).tanh()
    logits = linear(up, p["likelihood.head.layer.weight"], p["likelihood.head.layer.bias"])
    apart = (h - e).square().sum(1)
    bound = -binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1) - 2 * math.log(4)
    loss = (-bound + (commitment + (not averages)) * apart).sum()
    # down the decoder, straight through the codes, and down the encoder
    d_logits = logits.sigmoid() - x
    d_up = (d_logits @ p["likelihood.head.layer.weight"]) * (1 - up.square())
    d_h = d_up @ p["decoder.0.weight"] + commitment * 2 * (h - e)
    d_hidden = (d_h @ p[f"{second}.weight"]) * (1 - hidden.square())
    gradients = {
        "likelihood.head.layer.weight": d_logits.mT @ up,
        "likelihood.head.layer.bias": d_logits.sum(0),
        "decoder.0.weight": d_up.mT @ e,
        "decoder.0.bias": d_up.sum(0),
        f"{second}.weight": d_h.mT @ hidden,
        f"{second}.bias": d_h.sum(0),
        f"{first}.weight": d_hidden.mT @ x,
        f"{first}.bias": d_hidden.sum(0),
    }
    if not averages:
        pull = 2 * (e - h).reshape(-1, 3)
        gradients["posterior.quantiser.codebook"] = torch.zeros_like(book).index_add(0, k.flatten(), pull)
    return loss, bound, apart, k, gradients


@pytest.mark.parametrize("commitment", [0.25, 0.7, 0.0])
@pytest.mark.parametrize("codebook", ["gradient", "average"])
def test_loss_and_gradients_agree_with_the_hand_written_ones(commitment, codebook):
    model, x = made(codebook=codebook)
    loss, bound, apart, _, gradients = by_hand(model, x, commitment, codebook == "average")
    found = terms(model, x, commitment=commitment)
    torch.testing.assert_close(found.loss, loss, **EXACT)
    torch.testing.assert_close(found.named["elbo"], bound.sum(), **EXACT)
    torch.testing.assert_close(found.named["distance"], apart.sum(), **EXACT)
    names = [name for name, _ in model.named_parameters()]
    own = torch.autograd.grad(found.surrogate, list(model.parameters()))
    assert set(names) == set(gradients)
    for name, each in zip(names, own, strict=True):
        torch.testing.assert_close(each, gradients[name], **EXACT)


def test_the_loss_is_minus_a_lower_bound_of_the_bound():
    model, x = made()
    found = terms(model, x)
    assert -found.loss < found.named["elbo"] < enumerated(model, x).logsumexp(0).sum()
    objective = pvae.VectorQuantised()
    assert objective.no_bound == "" and "straight-through" in objective.biased


def test_usage_of_codes_is_that_of_the_batch():
    model, x = made()
    counts = np.bincount(model.codes(x).flatten(), minlength=4) / 14
    found = terms(model, x).named
    expected = math.exp(-sum(each * math.log(each) for each in counts if each > 0))
    assert found["perplexity"].item() / 7 == pytest.approx(expected, rel=1e-10)
    assert found["codes_used"].item() / 7 == pytest.approx((counts > 0).mean())


def test_a_scale_of_the_data_multiplies_loss_and_gradient():
    model, x = made()
    wide = [pyro.poutine.scale(each, scale=3.0) for each in (model.model, model.guide)]
    plain = terms(model, x)
    scaled = pvae.VectorQuantised().terms(*wide, (x,), {}, "all")
    torch.testing.assert_close(scaled.loss, 3 * plain.loss, **EXACT)
    for mine, theirs in zip(
        *(torch.autograd.grad(each.surrogate, list(model.parameters())) for each in (scaled, plain)), strict=True
    ):
        torch.testing.assert_close(mine, 3 * theirs, **EXACT)


# ---- Moving averages


def moved(model, h, k, decay):
    """Counts, sums and codes after one step, code by code."""
    old, (usage, sums) = model.codebook.clone(), (model.usage.clone(), model.sums.clone())
    for code in range(model.codes):
        mine = h[k == code]
        usage[code] = decay * usage[code] + (1 - decay) * len(mine)
        sums[code] = decay * sums[code] + (1 - decay) * mine.sum(0)
        old[code] = sums[code] / usage[code]
    return usage, sums, old


def test_averages_move_by_their_formula_and_only_in_training():
    model, x = made(codebook="average", decay=0.8)
    quantiser, before = model.quantiser, model.quantiser.codebook.clone()
    terms(model, x)
    assert torch.equal(quantiser.codebook, before)
    for _ in range(3):
        h = model._vectors(x).detach().reshape(-1, 3)
        expected = moved(quantiser, h, quantiser.nearest(h), 0.8)
        terms(model, x, training=True)
        for own, theirs in zip((quantiser.usage, quantiser.sums, quantiser.codebook), expected, strict=True):
            torch.testing.assert_close(own, theirs, **EXACT)


def test_codes_out_of_use_stay_for_good_where_none_is_restarted():
    """Their averages fade to nothing, and 0 / 0 would be no code."""
    quantiser = pvae.Quantiser(2, 3, codebook="average", decay=0.5)
    quantiser.codebook.copy_(torch.tensor([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]]))
    quantiser.sums.copy_(quantiser.codebook)
    h = torch.full((4, 3), 0.5)
    for _ in range(400):
        quantiser.advance(h, quantiser.nearest(h))
    torch.testing.assert_close(quantiser.codebook, torch.tensor([[0.5] * 3, [9.0] * 3]))


def test_codes_out_of_use_restart_on_vectors_of_the_batch():
    quantiser = pvae.Quantiser(3, 2, codebook="average", decay=0.5, restart=0.3)
    quantiser.codebook.copy_(torch.tensor([[0.0, 0.0], [50.0, 50.0], [90.0, 90.0]]))
    quantiser.sums.copy_(quantiser.codebook)
    h = torch.randn(20, 2)
    for step in range(2):  # usage 1, 0.5, 0.25
        quantiser.advance(h, quantiser.nearest(h))
        assert (quantiser.codebook[1:] > 40).all().item() is (step == 0)
    assert all((h == code).all(-1).any() for code in quantiser.codebook[1:])
    assert torch.equal(quantiser.usage[1:], torch.ones(2))
    before = quantiser.codebook.clone()
    quantiser.advance(h[:1] + 100, torch.zeros(1).long())
    assert torch.equal(quantiser.codebook[1:], before[1:])  # a fresh start, not dead again at once


def test_fresh_codes_are_vectors_of_the_encoder():
    model, x = pvae.VQVAE((6,), **SMALL, codebook="average"), torch.rand(30, 6)
    model.initialise_from({"x": x})
    vectors = model._vectors(x).reshape(-1, 3)
    found = (model.quantiser.codebook.unsqueeze(1) - vectors).abs().amax(-1).min(1).values
    assert (found < 1e-6).all()
    assert len({tuple(each.tolist()) for each in model.quantiser.codebook}) == 4
    before = model.quantiser.codebook.clone()
    model.initialise_from({"x": 1 - x})
    assert torch.equal(model.quantiser.codebook, before)


# ---- Feature maps


def test_convolutions_have_a_code_at_each_place_of_their_maps():
    model = pvae.VQVAE((6, 5), codes=4, latent=3, network="conv", hidden=(2, 7))
    x = torch.rand(3, 6, 5)
    assert model.positions == 2 * 2
    assert model.codes(x).shape == (3, 4)
    assert model.reconstruct(x).shape == (3, 6, 5) and model.sample(2).shape == (2, 6, 5)
    maps = model.encoder(x).unflatten(-1, (7, 2, 2))
    by_convolution = nn.functional.conv2d(
        maps, model.posterior.vectors_of.weight[..., None, None], model.posterior.vectors_of.bias
    )
    torch.testing.assert_close(model._vectors(x), by_convolution.flatten(2).mT)


def test_a_code_reaches_its_own_place_of_the_first_maps_alone():
    model = pvae.VQVAE((8, 8), codes=4, latent=3, network="conv", hidden=(2, 7))
    z = torch.randn(1, 12)
    other = z.clone()
    other[:, 3:6] += 1  # of position 1
    first = [model.decoder.layers[0](each).unflatten(-1, (7, 4)) for each in (z, other)]
    assert ((first[0] != first[1]).any(1)[0] == torch.tensor([False, True, False, False])).all()


# ---- The hook


class Own(pvae.LatentModel):
    """A user's own: a code and a Gaussian, with a quantiser between the two programs."""

    def __init__(self, straight=True, coin=False):
        super().__init__()
        self.quantiser, self.straight, self.coin = pvae.Quantiser(5, 2), straight, coin
        self.encoder, self.decoder = nn.Linear(6, 2 + 2), nn.Linear(2 + 1, 6)
        nn.init.normal_(self.quantiser.codebook)

    def toss(self):
        if self.coin:
            pyro.sample("coin", dist.Bernoulli(0.5))

    def model(self, x):
        with pyro.plate("data", len(x)):
            self.toss()
            k = pyro.sample("k", dist.Categorical(logits=x.new_zeros(5)))
            u = pyro.sample("u", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            e = self.quantiser.embed(k) if self.straight else self.quantiser.codebook[k]
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(torch.cat([e, u], -1))).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            self.toss()
            h, loc, scale = self.encoder(x).split([2, 1, 1], -1)
            pyro.sample("k", self.quantiser(h, event_dim=0))
            pyro.sample("u", dist.Normal(loc, scale.exp()).to_event(1))


def test_a_model_of_ones_own_is_trained_through_its_quantiser():
    model, x = Own().double(), torch.rand(8, 6).round().double()
    torch.manual_seed(1)
    found = terms(model, x)
    torch.manual_seed(1)
    h, loc, log_scale = model.encoder(x).split([2, 1, 1], -1)
    u = loc + log_scale.exp() * torch.randn(8, 1, dtype=torch.float64)
    e = model.quantiser.codebook[model.quantiser.nearest(h)]
    through = h + (e - h).detach()
    log_x = dist.Bernoulli(logits=model.decoder(torch.cat([through, u], -1))).log_prob(x).sum(1)
    log_u = dist.Normal(0.0, 1.0).log_prob(u) - dist.Normal(loc, log_scale.exp()).log_prob(u)
    value = log_x - math.log(5) + log_u.sum(1)
    value = value - (h.detach() - e).square().sum(1) - 0.25 * (h - e.detach()).square().sum(1)
    torch.testing.assert_close(found.loss, -value.sum().detach(), **EXACT)
    own = torch.autograd.grad(found.surrogate, list(model.parameters()))
    for mine, theirs in zip(own, torch.autograd.grad(-value.sum(), list(model.parameters())), strict=True):
        torch.testing.assert_close(mine, theirs, **EXACT)


def test_plain_svi_trains_it():
    model, x = Own(), torch.rand(8, 6).round()
    before = {name: each.clone() for name, each in model.named_parameters()}
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.01}), loss=pvae.VectorQuantised())
    svi.step(x)
    assert all(not torch.equal(each, before[name]) for name, each in model.named_parameters())


class Twice(Own):
    def guide(self, x):
        self.quantiser(self.encoder(x)[:, :2])
        Own.guide(self, x)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: Own(straight=False), "goes through a pvae.Quantiser"),
        (lambda: pvae.VAE((6,), latent=2, hidden=(4,)), "goes through a pvae.Quantiser"),
        (Twice, "called twice in one run"),
    ],
)
def test_models_that_do_not_go_through_a_quantiser_are_refused(model, said):
    with pytest.raises(InputError, match=said) as caught:
        terms(model(), torch.rand(4, 6).round())
    assert "\n" not in str(caught.value)


def test_other_discrete_sites_are_refused():
    with pytest.raises(InputError, match="'coin' is neither"):
        terms(Own(coin=True), torch.rand(4, 6).round())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"codes": 0}, "codes needs .* got 0"),
        ({"latent": 1.5}, "latent needs .* got 1.5"),
        ({"positions": -1}, "positions needs .* got -1"),
        ({"positions": 4, "network": "conv", "data_shape": (6, 5)}, "positions is for flat networks"),
        ({"prior": "mixture"}, "Known: learned, uniform"),
        ({"codebook": "ema"}, "Known: average, gradient"),
        ({"codebook": "average", "decay": 1}, "decay needs .* got 1"),
        ({"restart": 0.1}, "restart needs codebook='average'"),
        ({"codebook": "average", "restart": 2}, "restart needs .* got 2"),
        ({"network": "cnov"}, "did you mean 'conv'"),
    ],
)
def test_bad_arguments_are_named(settings, said):
    with pytest.raises(InputError, match=said) as caught:
        pvae.VQVAE(**{"data_shape": (6,), **settings})
    assert "\n" not in str(caught.value)


def test_bad_settings_of_the_objective_are_named():
    with pytest.raises(InputError, match="commitment needs a number of at least 0"):
        make_objective("vq:commitment=-1")
    with pytest.raises(InputError, match="Unknown setting 'particles' of objective 'vq'"):
        make_objective("vq:particles=3")
