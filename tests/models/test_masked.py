"""The masked VAE: exact answers of the linear-Gaussian model where x0 alone is observed; what it fills in."""

from __future__ import annotations

import copy
import warnings

import exact
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor, nn

import pvae
from pvae import plots
from pvae.batch import Batch
from pvae.cli import cli
from pvae.data.subset import Subset
from pvae.densities import LIKELIHOODS, DiagonalGaussian, Gaussian
from pvae.models import impute
from pvae.models.masked import MaskedVAE
from pvae.networks import MLP, Conditioned

DOUBLE = torch.float64
A = exact.LinearGaussian()
ONLY_X0 = np.array([1.0, 0.0, 0.0])
LOG_EVIDENCE_OF_X0 = -1.3916710873
COPIES = 120

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def linear_gaussian() -> MaskedVAE:
    """The linear-Gaussian model with a linear encoder of x and mask; theta is exact, the guide begins as the prior."""
    likelihood = Gaussian(2, (3,), A.variance**0.5)
    model = MaskedVAE((3,), latent=2, hidden=4, posterior=DiagonalGaussian(3, 2), likelihood=likelihood)
    model.decoder, model.encoder = nn.Identity(), Conditioned(MLP(3, hidden=()), None)
    model.double()
    with torch.no_grad():
        likelihood.head.layer.weight.copy_(torch.tensor(A.weight))
        likelihood.head.bias.copy_(torch.tensor(A.bias))
        for each in model.posterior.parameters():
            each.zero_()
    return model


def copies(count: int = COPIES, mask: np.ndarray = ONLY_X0) -> Batch:
    """The same datum so many times: its estimates are independent, and their spread is the error."""
    return Batch(x=torch.tensor(exact.A_X).expand(count, 3), mask=torch.tensor(mask).expand(count, 3))


def given_x0() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (x1, x2) given x0, of the joint Gaussian of x."""
    cov = A.weight @ A.weight.T + A.variance * np.eye(3)
    mean = A.bias[1:] + cov[1:, 0] / cov[0, 0] * (exact.A_X[0] - A.bias[0])
    return mean, cov[1:, 1:] - np.outer(cov[1:, 0], cov[0, 1:]) / cov[0, 0]


# --- exact answers of the linear-Gaussian model ---


def test_the_evidence_is_that_of_the_observed_entries() -> None:
    estimate = pvae.evaluate.log_evidence(linear_gaussian(), copies(), particles=2000)
    assert_close_in_sigmas(estimate.value, LOG_EVIDENCE_OF_X0, estimate.error, effect=0.3)


def test_the_posterior_of_z_is_that_given_the_observed_entries() -> None:
    weights = pvae.log_weights(linear_gaussian(), copies(), 2000)
    share = weights.log_w.softmax(0).detach()
    means = torch.einsum("kb,kbi->bi", share, weights.values["z"].detach())
    assert_close_in_sigmas(means.mean(0), [0.6, 0.3], mean_and_error(means)[1], effect=0.4, resolution=0.05)


def test_the_guide_is_drawn_to_it_and_zero_filling_the_whole_encoder_is_elsewhere() -> None:
    """The gradient of the ELBO in the mean of q is L (m - mean), with m and L those of p(z given x0)."""
    zero_filled = A.posterior(exact.A_X * ONLY_X0)[0]
    np.testing.assert_allclose(zero_filled, [0.508, 0.288], atol=5e-4)
    precision = np.eye(2) + np.outer(A.weight[0], A.weight[0]) / A.variance
    model, batch = linear_gaussian(), copies(2000)
    for mean in ([0.6, 0.3], zero_filled):
        with torch.no_grad():
            model.posterior.loc.bias.copy_(torch.tensor(mean))
            model.posterior.log_scale.bias.copy_(-0.5 * torch.tensor(np.diag(precision)).log())
        rows = []
        for _ in range(40):
            model.zero_grad()
            pvae.IWAE(particles=1)(model.model, model.guide)(*batch.values()).backward()
            rows.append(-model.posterior.loc.bias.grad / len(batch.x))
        expected = precision @ (np.array([0.6, 0.3]) - mean)
        estimate, error = mean_and_error(torch.stack(rows))
        assert_close_in_sigmas(estimate, expected, error, effect=[0.48, 0.2], resolution=0.05)


def test_imputations_have_the_conditional_mean_and_covariance() -> None:
    expected, cov = given_x0()
    np.testing.assert_allclose(expected, [0.1, -0.21], atol=1e-12)
    found = linear_gaussian().impute(*copies().values(), n=40, particles=2000)
    assert found.mean.shape == (COPIES, 3) and found.draws.shape == (40, COPIES, 3)
    assert (found.mean[:, 0] == 1).all() and (found.draws[..., 0] == 1).all()
    assert_close_in_sigmas(found.mean[:, 1:].mean(0), expected, mean_and_error(found.mean[:, 1:])[1])
    drawn = found.draws[..., 1:]
    each = drawn.mean(0)
    assert_close_in_sigmas(each.mean(0), expected, mean_and_error(each)[1], effect=0.3, resolution=0.1)
    apart = drawn - torch.tensor(expected)
    second = torch.einsum("nbi,nbj->bij", apart, apart) / 40
    assert_close_in_sigmas(second.mean(0), cov, mean_and_error(second)[1], effect=0.4, resolution=0.1)


def test_the_effective_sample_size_is_that_of_the_weights() -> None:
    """E[w]^2 / E[w^2] is 1 / (1 + chi2) of the guide; and everything where guide and posterior are one."""
    model, batch = linear_gaussian(), copies(40)
    nothing = batch.replace(mask=torch.zeros_like(batch.mask))
    for given, log_w in ((nothing, None), (batch, pvae.log_weights(model, batch, 20_000).log_w.detach())):
        found = model.impute(*given.values(), n=1, particles=1000).effective_sample_size
        if log_w is None:
            q = model.encode(*given.values())
            torch.testing.assert_close(q.stddev, torch.ones_like(q.mean))  # the prior
            torch.testing.assert_close(found, torch.full((40,), 1000.0, dtype=DOUBLE))
        else:
            w = log_w.exp()
            share = (w.mean(0).square() / w.square().mean(0)).mean()
            assert_close_in_sigmas(found.mean() / 1000, share, mean_and_error(found / 1000)[1], sigmas=6)


def test_missing_entries_are_scored_by_their_conditional_density() -> None:
    exactly = (A.log_evidence() - LOG_EVIDENCE_OF_X0) / 2
    estimate = pvae.evaluate.missing_log_likelihood(linear_gaussian(), copies(), 5000)
    assert_close_in_sigmas(estimate.value, exactly, estimate.error, effect=0.5)
    # an entry that is not known counts in neither part
    known = torch.tensor([1.0, 1.0, 0.0]).expand(COPIES, 3)
    pair = A.weight[:2] @ A.weight[:2].T + A.variance * np.eye(2)
    of_two = exact.normal_log_prob(exact.A_X[:2], A.bias[:2], pair) - LOG_EVIDENCE_OF_X0
    estimate = pvae.evaluate.missing_log_likelihood(linear_gaussian(), copies(), 5000, known=known)
    assert_close_in_sigmas(estimate.value, of_two, estimate.error, effect=0.5, resolution=0.05)


@pytest.mark.filterwarnings("ignore:The log evidence is not")
def test_known_entries_follow_the_random_subset() -> None:
    known = (torch.arange(COPIES) % 2).double()[:, None].expand(COPIES, 3).contiguous()
    positions = Subset(6, COPIES, 0).indices()
    found, alone = (
        pvae.evaluate.missing_log_likelihood(linear_gaussian(), copies(), 2, known=each, limit=6)
        for each in (known, known[positions])
    )
    assert torch.equal(found.pointwise, alone.pointwise)


def test_a_guide_that_knows_masked_data_alone_still_scores_what_is_missing() -> None:
    """Far off where nothing is missing, and the exact posterior given x0: its draws are enough for both parts."""
    model, batch = linear_gaussian(), copies(40)
    precision = np.eye(2) + np.outer(A.weight[0], A.weight[0]) / A.variance
    with torch.no_grad():
        model.encoder.layer.weight.zero_()  # of mask - 1: x1 and x2 observed push the first features up
        model.encoder.layer.weight[1, 1] = -40.0
        model.posterior.loc.weight[:, 1] = 1.0
        model.posterior.loc.bias.copy_(torch.tensor([0.6, 0.3]) - 40.0)
        model.posterior.log_scale.bias.copy_(-0.5 * torch.tensor(np.diag(precision)).log())
    q = model.encode(*batch.values())
    torch.testing.assert_close(q.mean[0], torch.tensor([0.6, 0.3]).double(), atol=1e-5, rtol=0)
    away = model.encode(batch.x, torch.ones_like(batch.x)).mean[0]
    assert away.abs().min() > 30
    exactly = (A.log_evidence() - LOG_EVIDENCE_OF_X0) / 2
    estimate = pvae.evaluate.missing_log_likelihood(model, batch, 5000)
    lost = np.log(2) / 2  # of two estimates one is 0, so half of the other remains
    assert_close_in_sigmas(estimate.value, exactly - lost, estimate.error, effect=0.5, resolution=0.2)


def test_data_with_nothing_missing_are_left_out_of_the_score() -> None:
    mask = torch.tensor([[1.0, 0, 0], [1, 1, 1], [1, 1, 0]]).double()
    batch = copies(3).replace(mask=mask)
    assert pvae.evaluate.missing_log_likelihood(linear_gaussian(), batch, 50).count == 2
    for score in (pvae.evaluate.missing_log_likelihood, pvae.evaluate.masking_divergence):
        with pytest.raises(pvae.InputError, match="field mask"):
            score(linear_gaussian(), Batch(x=batch.x), 50)
    with pytest.raises(pvae.InputError, match="Nothing is missing"):
        pvae.evaluate.missing_log_likelihood(linear_gaussian(), copies(3, np.ones(3)), 50)


# --- what it never looks at, and what it equals ---


def pictures(size: int = 12) -> Tensor:
    return torch.rand(size, 6, 5, generator=torch.Generator().manual_seed(1)).round()


def some(x: Tensor, share: float = 0.5) -> Tensor:
    return (torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < share).to(x.dtype)


@pytest.mark.parametrize("network", ["mlp", "gated", "conv"])
def test_with_everything_observed_it_is_the_vae_bit_for_bit(network: str) -> None:
    x, found = pictures(), []
    settings = {"latent": 3, "hidden": (4, 6), "network": network}
    for made, fields in (
        (pvae.VAE, {"x": x}),
        (pvae.MaskedVAE, {"x": x, "mask": torch.ones_like(x)}),
        (pvae.MaskedVAE, {"x": x}),
    ):
        torch.manual_seed(5)
        data = pvae.load_data(fields, validation=3, test=0, binarise="none")
        run = pvae.fit(
            made((6, 5), **settings), data, objective="elbo", epochs=2, batch_size=4, progress=False, step="eager"
        )
        found.append((run.history[-1]["loss"], run.history[-1]["validation_bound"], run.model.state_dict()))
    for loss, bound, state in found[1:]:
        assert (loss, bound) == found[0][:2]
        ours = {name.replace("encoder.network.", "encoder."): each for name, each in state.items()}
        assert all(torch.equal(ours[name], each) for name, each in found[0][2].items())


def loss_and_gradients(model: nn.Module, x: Tensor, mask: Tensor) -> list[Tensor]:
    torch.manual_seed(3)
    model.zero_grad()
    loss = pvae.IWAE(particles=3)(model.model, model.guide)(x, mask)
    loss.backward()
    return [loss.detach(), *(each.grad.clone() for each in model.parameters())]


@pytest.mark.parametrize("encode_mask", [True, False])
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_missing_entries_change_no_bit_of_loss_or_gradient(network: str, encode_mask: bool) -> None:
    x, mask = pictures(), some(pictures())
    model = MaskedVAE((6, 5), latent=2, hidden=(3, 4), network=network, encode_mask=encode_mask)
    before = loss_and_gradients(model, x, mask)
    for other in (1 - x, torch.full_like(x, 37.0), torch.full_like(x, float("nan"))):
        after = loss_and_gradients(model, torch.where(mask > 0, x, other), mask)
        assert all(torch.equal(*each) for each in zip(before, after, strict=True))
    observed = loss_and_gradients(model, torch.where(mask > 0, 1 - x, x), mask)
    assert not torch.equal(before[0], observed[0])


def test_the_encoder_sees_the_mask_unless_told_otherwise() -> None:
    x, mask = torch.zeros(1, 30), torch.ones(1, 30)
    for encode_mask in (True, False):
        model = MaskedVAE((30,), latent=2, hidden=4, encode_mask=encode_mask)
        same = torch.equal(model.encode(x, mask).mean, model.encode(x, 0 * mask).mean)
        assert same is not encode_mask


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical:classes=3", *sorted(LIKELIHOODS)])
def test_the_likelihood_is_the_sum_over_observed_entries(likelihood: str) -> None:
    if likelihood == "categorical":
        pytest.skip("needs its classes")
    x, mask = pictures(), some(pictures())
    model = MaskedVAE((6, 5), latent=2, hidden=3, likelihood=likelihood)
    trace = poutine.trace(model.model).get_trace(x, mask)
    trace.compute_log_prob()
    density, kept = model.decode(trace.nodes["z"]["value"]), mask.flatten(1) > 0
    while hasattr(density, "base_dist"):
        density = density.base_dist
    scores = density.log_prob(x.flatten(1))
    by_hand = torch.stack([scores[row][kept[row]].sum() for row in range(len(x))])
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], by_hand)
    if likelihood == "bernoulli":
        odds = density.logits
        written = (x.flatten(1) * odds - nn.functional.softplus(odds)) * mask.flatten(1)
        torch.testing.assert_close(trace.nodes["x"]["log_prob"], written.sum(1))


def test_a_datum_with_nothing_observed_has_no_likelihood() -> None:
    x = pictures(4)
    mask = torch.ones_like(x)
    mask[1] = 0
    model = MaskedVAE((6, 5), latent=2, hidden=3)
    trace = poutine.trace(model.model).get_trace(x, mask)
    trace.compute_log_prob()
    scores = trace.nodes["x"]["log_prob"]
    assert scores[1] == 0 and (scores[[0, 2, 3]] < 0).all()


def test_the_start_from_the_data_is_from_the_observed_entries() -> None:
    x = torch.rand(4000, 5, generator=torch.Generator().manual_seed(0))
    mask = some(x, 0.3)
    mask[:, 4] = 0
    hidden = torch.where(mask > 0, 2 + x, float("nan"))
    model = MaskedVAE((5,), latent=2, hidden=3, likelihood="gaussian:scale=per-pixel")
    model.initialise_from({"x": hidden, "mask": mask})
    start = model.likelihood.head.bias
    assert_close_in_sigmas(start[:4], 2.5, (1 / 12 / 1200) ** 0.5 * 1.8, effect=1.75)  # with zeros: 0.75
    assert start[4] == 0 and torch.isfinite(start).all()
    counts = MaskedVAE((5,), latent=2, hidden=3, likelihood="poisson")
    counts.initialise_from({"x": torch.where(mask > 0, (9 * x).floor(), 0.5), "mask": mask})  # halves are no counts
    assert bool(counts.initialised)


# --- models of the user ---


def observed_sum(z: Tensor, x: Tensor, mask: Tensor) -> None:
    mean = z @ torch.tensor(A.weight).T + torch.tensor(A.bias)
    pyro.sample("x", dist.Normal(mean, A.variance**0.5).mask(mask).to_event(1), obs=x)


def users(vectorises: bool) -> pvae.LatentModel:
    def model(x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            observed_sum(z if vectorises else z.reshape(len(x), 2), x, mask)

    def guide(x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(2) + 0.3, 1.2).to_event(1))

    return pvae.pair(model, guide)


@pytest.mark.parametrize("vectorises", [True, False])
def test_any_model_that_takes_a_mask_imputes(vectorises: bool) -> None:
    particles = 2000 if vectorises else 150
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # particles are drawn one by one
        found = impute(users(vectorises), copies(60), n=1, particles=particles)
    estimate, error = mean_and_error(found.mean[:, 1:])
    assert_close_in_sigmas(estimate, given_x0()[0], error, effect=0.3, resolution=0.1)


def test_components_that_the_model_alone_draws_are_weighed_by_the_data() -> None:
    """A mixture of two normal distributions, observed in x0: the responsibilities mix the means of x1."""
    weights, means = torch.tensor([0.3, 0.7]).double(), torch.tensor([[-1.0, 2.0], [1.0, -3.0]]).double()

    def model(x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(means[k], 1.0).mask(mask).to_event(1), obs=x)

    x = torch.tensor([[0.4, 0.0]]).double().expand(80, 2)
    batch = Batch(x=x, mask=torch.tensor([[1.0, 0.0]]).double().expand(80, 2))
    found = impute(pvae.pair(model, lambda x, mask: None), batch, n=1, particles=2000)
    share = (weights.log() - 0.5 * (0.4 - means[:, 0]).square()).softmax(0)
    expected = (share * means[:, 1]).sum()
    assert_close_in_sigmas(found.mean[:, 1].mean(), expected, mean_and_error(found.mean[:, 1])[1], effect=1)
    assert set(found.draws[..., 0].unique().tolist()) == {x[0, 0].item()}


def test_imputation_hides_missing_values_from_programs_and_leaves_observed_ones() -> None:
    def careless(x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 1:], 1.0).to_event(1))

    model, batch = linear_gaussian(), copies(5)
    hidden = batch.replace(x=torch.where(batch.mask > 0, batch.x, float("nan")))
    for asked in (model, pvae.pair(model.model, careless)):
        found = []
        for given in (batch, hidden):
            torch.manual_seed(0)
            found.append(impute(asked, given, n=2, particles=20))
        assert torch.equal(found[0].mean, found[1].mean) and torch.equal(found[0].draws, found[1].draws)
    few = model.impute(*batch.values(), n=2, particles=1)
    assert few.effective_sample_size.tolist() == [1.0] * 5


# --- what the mask costs, and the baselines ---


def test_the_divergence_of_masked_from_whole_is_that_of_two_normal_distributions() -> None:
    x, mask = pictures(), some(pictures())
    model = MaskedVAE((6, 5), latent=2, hidden=3)
    found = pvae.evaluate.masking_divergence(model, Batch(x=x, mask=mask))
    p, q = model.encode(x, mask), model.encode(x)
    m, s, n, t = (each.detach().double() for each in (p.mean, p.stddev, q.mean, q.stddev))
    by_hand = ((t / s).log() + (s.square() + (m - n).square()) / (2 * t.square()) - 0.5).sum(1)
    torch.testing.assert_close(found.pointwise, by_hand, rtol=1e-4, atol=1e-6)
    assert found.value > 0
    nothing = pvae.evaluate.masking_divergence(model, Batch(x=x, mask=torch.ones_like(x)))
    assert nothing.value == 0


def test_the_divergence_of_a_guide_of_two_sites_is_estimated_by_draws() -> None:
    def guide(x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal((x * mask).sum(1), 1.0))
            pyro.sample("b", dist.Normal(a + (x * mask)[:, 0], 2.0))

    def model(x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a, b = (pyro.sample(name, dist.Normal(x.new_zeros(len(x)), 1.0)) for name in "ab")
            pyro.sample("x", dist.Normal((a + b).unsqueeze(-1), 1.0).mask(mask).to_event(1), obs=x)

    batch = copies(400, np.array([0.0, 1.0, 1.0]))
    found = pvae.evaluate.masking_divergence(pvae.pair(model, guide), batch, 20)
    # means of a apart by x0 = 1, and those of b given a too
    assert_close_in_sigmas(found.value, 1 / 2 + 1 / 8, found.error, effect=0.5, resolution=0.05)


def test_the_baselines_are_the_mean_and_the_nearest_neighbour() -> None:
    train = Batch(x=torch.tensor([[1.0, 0, 1, 0], [0, 1, 1, 1], [0, 0, 0, 1]]))
    batch = Batch(
        x=torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]),
        mask=torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]),
    )
    mean = pvae.evaluate.mean_filling(train, batch)
    third = 1 / 3
    expected = torch.tensor([[1, 0, 2 * third, 2 * third], [third, third, 0, 0], [third, third, 2 * third, 2 * third]])
    torch.testing.assert_close(mean, expected)
    near = pvae.evaluate.nearest_neighbour_filling(train, batch)
    torch.testing.assert_close(near[:2], torch.tensor([[1.0, 0, 1, 0], [1, 0, 0, 0]]))  # rows 0; 0 and 2 are even
    torch.testing.assert_close(near[2], expected[2])
    score = pvae.evaluate.filled_log_likelihood(near, batch)
    by_hand = [np.log(0.01), (np.log(0.01) + np.log(0.99)) / 2, np.log([third, third, 2 * third, 2 * third]).mean()]
    np.testing.assert_allclose(score.pointwise, by_hand, rtol=1e-6)
    with pytest.raises(pvae.InputError, match="binarise"):
        pvae.evaluate.filled_log_likelihood(near, batch.replace(x=0.5 * batch.x))


def test_neighbours_are_brute_forces_where_training_data_have_holes() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, x = torch.rand(40, 6, generator=generator), torch.rand(90, 6, generator=generator)
    held, mask = some(rows, 0.5), some(x)
    mask[0], held[:, 5] = 0, 0
    filled = pvae.evaluate.nearest_neighbour_filling(Batch(x=rows, mask=held), Batch(x=x, mask=mask))
    mean = (rows * held).sum(0) / held.sum(0).clamp_min(1)
    for place in range(90):
        both = mask[place] * held
        distance = (both * (x[place] - rows).square()).sum(1) / both.sum(1)
        best = int(distance.nan_to_num(torch.inf).argmin())
        there = torch.where(held[best] > 0, rows[best], mean) if mask[place].any() else mean
        torch.testing.assert_close(filled[place], torch.where(mask[place] > 0, x[place], there))


# --- bad input ---


class Dependent(nn.Module):
    """A likelihood whose entries depend on each other."""

    def forward(self, context: Tensor) -> dist.TorchDistribution:
        return dist.MultivariateNormal(context[..., :4], torch.eye(4))


def test_what_cannot_be_masked_is_one_clear_line() -> None:
    x = torch.zeros(6, 4)
    model = MaskedVAE((4,), latent=2, hidden=4, likelihood=Dependent())
    with pytest.raises(
        pvae.InputError, match=r"independent in each entry; got MultivariateNormal with events of shape \(4,"
    ):
        model.model(x, x)
    data = pvae.load_data({"x": x, "mask": x}, validation=0, test=0)
    with pytest.raises(pvae.InputError, match="independent in each") as raised:
        pvae.fit(model, data, epochs=1, progress=False)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("mask", [torch.ones(6, 3), torch.ones(5, 4), torch.ones(6)])
def test_a_mask_of_another_shape_is_one_clear_line(mask: Tensor) -> None:
    x = torch.zeros(6, 4)
    model = MaskedVAE((4,), latent=2, hidden=4)
    calls = (model.model, model.guide, model.encode, model.reconstruct, model.impute)
    for call in calls:
        with pytest.raises(pvae.InputError, match=r"one entry for each of x: x has shape \(6, 4\), and the mask") as it:
            call(x, mask)
        assert "\n" not in str(it.value)
    if len(mask) == 6:
        data = pvae.load_data({"x": x, "mask": mask}, validation=0, test=0)
        with pytest.raises(pvae.InputError, match="one entry for each of x"):
            pvae.fit(model, data, epochs=1, progress=False)


def test_training_needs_something_observed() -> None:
    model, x = MaskedVAE((4,), latent=2, hidden=4), torch.zeros(6, 4)
    with pytest.raises(pvae.InputError, match="learns from observed entries, and mask is 0 for every entry"):
        model.initialise_from({"x": x, "mask": torch.zeros(6, 4)})


def test_imputation_says_what_it_lacks() -> None:
    batch = copies(4)
    with pytest.raises(pvae.InputError, match="x and mask in the batch; it has x"):
        impute(linear_gaussian(), {"x": batch.x})
    with pytest.raises(pvae.InputError, match="do not take a mask"):
        impute(exact.LinearGaussianModel(), batch)
    for wrong in ({"n": 0}, {"particles": 0}, {"n": 2.5}):
        with pytest.raises(pvae.InputError, match="whole number of at least 1"):
            impute(linear_gaussian(), batch, **wrong)
    with pytest.raises(pvae.InputError, match="encode_mask is true or false; got 'no'"):
        MaskedVAE((3,), encode_mask="no")  # type: ignore[arg-type]


def test_copies_of_a_masked_model_impute_alike() -> None:
    model, batch = linear_gaussian(), copies(4)
    found = []
    for each in (model, copy.deepcopy(model)):
        torch.manual_seed(0)
        found.append(each.impute(*batch.values(), n=2, particles=30).draws)
    assert torch.equal(*found)


# --- pictures, and the command line ---


def test_the_triptych_has_the_missing_pixels_in_a_colour_of_their_own() -> None:
    x, imputed = np.full((5, 6, 4), 0.25), np.full((5, 24), 0.75)
    mask = np.ones((5, 6, 4))
    mask[:, 2:4, 1:3] = 0
    figure = plots.inpainting(x, mask, imputed, columns=3)
    axes = figure.axes[0]
    shown, layer = (np.ma.filled(each.get_array(), np.nan) for each in axes.images)
    assert shown.shape == (6 * 7 - 1, 3 * 5 - 1) and layer.shape == (*shown.shape, 4)
    for row, level in enumerate([0.25, 0.75, 0.25] * 2):
        np.testing.assert_allclose(shown[7 * row : 7 * row + 6, :4], level)
        tile = layer[7 * row : 7 * row + 6, :4, 3]
        np.testing.assert_allclose(tile, 1 - mask[0] if row % 3 == 0 else 0)
    colours = {tuple(each) for each in layer[layer[..., 3] > 0][:, :3].round(3)}
    assert len(colours) == 1 and len(set(next(iter(colours)))) == 3  # one colour, and no grey
    assert [each.get_text() for each in axes.get_yticklabels()] == ["observed", "imputed", "true"] * 2
    np.testing.assert_allclose(axes.get_yticks(), [7 * row + 2.5 for row in range(6)])
    assert [each.get_text() for each in figure.legends[0].get_texts()] == ["missing"]


@pytest.mark.parametrize("shape", [(5, 3, 6, 4), (5, 7)])
def test_triptychs_of_colours_and_of_no_pictures(shape: tuple[int, ...]) -> None:
    mask = np.ones(shape)
    mask[..., 2:4] = 0
    figure = plots.inpainting(np.full(shape, 0.25), mask, np.full(shape, 0.75))
    if len(shape) == 4:
        layer = figure.axes[0].images[1].get_array()
        np.testing.assert_allclose(layer[:6, :4, 3], (1 - mask)[0, 0])
        return
    # a table has a panel for each feature: imputed against true values of the missing entries
    for feature, axes in enumerate(figure.axes[:7]):
        drawn = axes.lines[0].get_xydata()
        expected = [(0.25, 0.75)] * 5 if feature in (2, 3) else np.empty((0, 2))
        np.testing.assert_allclose(drawn, expected)


def test_the_command_line_trains_evaluates_and_shows(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    train = ["train", "masked-vae", "--data", "digits", "--mask", "block", "--latent", "2", "--hidden", "8"]
    for command in (
        [*train, "--epochs", "2", "--out", "run"],
        ["evaluate", "run", "--particles", "5", "--limit", "10", "--json"],
        ["show", "run", "--what", "inpainting", "--count", "5"],
        ["show", "run", "--what", "inpainting", "--count", "5", "--split", "train", "--out", "train.png"],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(command)
        assert ended.value.code == 0
    assert (tmp_path / "run/figures/inpainting.png").is_file()
    run = pvae.open_run("run")
    assert run.config["data"]["mask"] == "block:size=4:whole=0.1" and run.model.encode_mask
    bare = [each for each in train if each not in ("--mask", "block")]
    for command, code in (
        ([*bare, "--epochs", "0", "--out", "bare"], 0),
        (["show", "bare", "--what", "inpainting"], 2),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(command)
        assert ended.value.code == code
