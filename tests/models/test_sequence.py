"""The sequence VAE: the Kalman filter, a recurrent network by hand, padding, forecasts, and refused lengths."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from state_space import LinearStateSpace
from torch import Tensor
from untrained_runs import untrained_run

import pvae
from pvae.comparison.cells.decoder_weights import decoder_arrays
from pvae.densities.padding import PaddedStep
from pvae.errors import InputError
from pvae.models.sequence_steps import masked_step, present_steps
from pvae.networks.recurrent import RecurrentCell

TIME, FEATURES, LATENT = 4, 2, 2
LENGTHS = torch.tensor([4, 2, 3])
KINDS = [("markov", "smoothing"), ("markov", "filtering"), ("recurrent", "smoothing"), ("recurrent", "filtering")]
EXACT = {"rtol": 1e-10, "atol": 1e-10}

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def small(time: int = TIME, **settings: object) -> pvae.SequenceVAE:
    sizes = {"latent": LATENT, "hidden": 4, "state": 3, "between": 3, "likelihood": "gaussian", **settings}
    return pvae.SequenceVAE((time, FEATURES), **sizes).double()


def batch(padding: float = 50.0, lengths: Tensor = LENGTHS) -> pvae.Batch:
    x = torch.randn(len(lengths), TIME, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    going = (torch.arange(TIME) < lengths[:, None])[..., None]
    return pvae.Batch(x=torch.where(going, x, padding), lengths=lengths)


class LinearMarkov(pvae.SequenceVAE):
    """A Markov transition with its gates shut, and the exact posterior as its guide."""

    def __init__(self) -> None:
        sizes = {"latent": LATENT, "hidden": 0, "state": 3, "between": 0}
        super().__init__((TIME, FEATURES), likelihood="gaussian:scale=per-pixel:smallest=0.1", **sizes)
        self.double()
        transition, head = self.transition, self.likelihood.head.layer
        with torch.no_grad():
            transition.gate[0].weight.zero_(), transition.gate[0].bias.fill_(-1e4)
            transition.linear.weight.copy_(torch.tensor([[0.8, 0.4], [-0.4, 0.8]]))
            transition.linear.bias.copy_(torch.tensor([0.1, -0.2]))
            transition.scale.weight.zero_(), transition.scale.bias.copy_(torch.tensor([0.3, -0.5]))
            transition.start.copy_(torch.tensor([0.5, -1.0]))
            head.bias.copy_(torch.tensor([0.2, 0.1]))
            self.likelihood.log_scale.copy_(torch.tensor([-0.7, -0.2]))
        state_scale = torch.nn.functional.softplus(transition.scale.bias) + 1e-3
        scale = 0.1 + self.likelihood.log_scale.exp()
        parts = (
            transition.start,
            transition.linear.weight,
            transition.linear.bias,
            state_scale,
            head.weight,
            head.bias,
        )
        self.known = LinearStateSpace(*(part.detach().numpy() for part in (*parts, scale)))

    def guide(self, x: Tensor, lengths: Tensor) -> None:
        known = [self.known.posterior_steps(row[:n].numpy()) for row, n in zip(x, lengths.tolist(), strict=True)]
        z, present = self.transition.start, present_steps(lengths, x, TIME)
        with pyro.plate("data", len(x)):
            for t in range(TIME):
                steps = [step[min(t, len(step) - 1)] for step in known]  # after the end any density will do
                cov, matrix, vector = (torch.as_tensor(np.stack(parts)) for parts in zip(*steps, strict=True))
                loc = (matrix @ z.unsqueeze(-1)).squeeze(-1) + vector
                with masked_step(present, t):
                    z = pyro.sample(f"z{t}", dist.MultivariateNormal(loc, cov))


def test_each_weight_of_the_exact_guide_is_the_evidence_of_the_kalman_filter() -> None:
    model, data = LinearMarkov(), batch()
    rows = zip(data.x.numpy(), LENGTHS.tolist(), strict=True)
    expected = torch.tensor([model.known.log_evidence(x[:n]) for x, n in rows], dtype=torch.float64)
    torch.testing.assert_close(pvae.log_weights(model, data, 3).log_w.detach(), expected.expand(3, -1), **EXACT)


class WithOwnGuide(LinearMarkov):
    """The same model with the guide of networks, which is not the posterior."""

    guide = pvae.SequenceVAE.guide


def test_the_guide_of_the_model_estimates_the_evidence_of_the_kalman_filter() -> None:
    model, data = WithOwnGuide(), batch()
    log_w = pvae.log_weights(model, data, 20_000).log_w.detach()
    for row, n in enumerate(LENGTHS.tolist()):
        weights = (log_w[:, row] - model.known.log_evidence(data.x[row, :n].numpy())).exp()
        assert abs(float(weights.mean()) - 1) < 4.5 * float(weights.std()) / math.sqrt(len(weights))


def test_forecasts_follow_the_prediction_of_the_kalman_filter() -> None:
    model, data, n = WithOwnGuide(), batch(), 20_000
    forecast = model.forecast(data.x, data.lengths, steps=2, n=n, particles=20_000)
    assert forecast.draws.shape == (n, 3, 2, FEATURES)
    for row, length in enumerate(LENGTHS.tolist()):
        mean, cov, _ = model.known.filtered(data.x[row, :length].numpy())
        for step in range(2):
            mean, cov, loc, spread = model.known.predicted(mean, cov)
            draws = forecast.draws[:, row, step].numpy()
            # the resampled particles add the variance of their weighted mean to that of n draws
            errors = np.sqrt(np.diag(spread) * (1 / n + 1 / float(forecast.effective_sample_size[row])))
            assert (np.abs(draws.mean(0) - loc) < 4.5 * errors).all()
            assert np.allclose(np.cov(draws.T), spread, rtol=0.1, atol=0.05)


def test_samples_follow_the_prediction_from_the_start() -> None:
    model, n = LinearMarkov(), 20_000
    x = model.sample(n).numpy()
    mean, cov = model.known.start, np.zeros((LATENT, LATENT))
    for t in range(TIME):
        mean, cov, loc, spread = model.known.predicted(mean, cov)
        assert (np.abs(x[:, t].mean(0) - loc) < 4.5 * np.sqrt(np.diag(spread) / n)).all()
        assert np.allclose(np.cov(x[:, t].T), spread, rtol=0.06, atol=0.03)


def gru(cell: RecurrentCell, x: Tensor, h: Tensor) -> Tensor:
    """The GRU of PyTorch with the parameters of a cell, for x (batch, features) and h (batch, state)."""
    return cell.cell(x, h)


class LinearRecurrent(pvae.SequenceVAE):
    """A recurrent transition with a GRU that reads x alone: given earlier x, z_t and x_t are jointly Gaussian."""

    def __init__(self) -> None:
        sizes = {"latent": LATENT, "hidden": 0, "state": 3, "between": 0}
        super().__init__((TIME, FEATURES), transition="recurrent", likelihood="gaussian:scale=0.6", **sizes)
        self.double()
        with torch.no_grad():
            self.transition.start.copy_(torch.tensor([0.3, -0.2, 0.1]))
            self.transition.cell.cell.weight_ih[:, FEATURES:] = 0
            self.transition.prior.density.scale.weight.normal_()

    def given_state(self, h: Tensor) -> tuple[Tensor, ...]:
        """Mean and standard deviation of z_t, the matrix of z_t in the mean of x_t, and the rest of that mean."""
        prior, head, decoder = self.transition.prior.density, self.likelihood.head.layer, self.decoder
        loc = h @ prior.loc.weight.T + prior.loc.bias
        scale = torch.nn.functional.softplus(h @ prior.scale.weight.T + prior.scale.bias) + 1e-3
        return loc, scale, head.weight, h @ decoder.layer.weight.T @ head.weight.T + head.bias

    def guide(self, x: Tensor, lengths: Tensor) -> None:
        h, present = self.transition.start.expand(len(x), -1), present_steps(lengths, x, TIME)
        with pyro.plate("data", len(x)):
            for t in range(TIME):
                loc, scale, matrix, rest = self.given_state(h)
                cov = torch.linalg.inv(torch.diag_embed(scale**-2) + matrix.T @ matrix / 0.36)
                score = loc / scale**2 + (x[:, t] - rest) @ matrix / 0.36
                with masked_step(present, t):
                    pyro.sample(f"z{t}", dist.MultivariateNormal((cov @ score.unsqueeze(-1)).squeeze(-1), cov))
                h = gru(self.transition.cell, torch.cat([x[:, t], 0 * x[:, t]], -1), h)


def test_each_weight_of_the_exact_guide_of_a_recurrent_model_is_its_evidence() -> None:
    model, data = LinearRecurrent(), batch()
    h, expected = model.transition.start.expand(3, -1), torch.zeros(3, dtype=torch.float64)
    for t in range(TIME):
        loc, scale, matrix, rest = model.given_state(h)
        spread = matrix @ torch.diag_embed(scale**2) @ matrix.T + 0.36 * torch.eye(FEATURES, dtype=torch.float64)
        score = torch.distributions.MultivariateNormal(loc @ matrix.T + rest, spread).log_prob(data.x[:, t])
        expected = expected + torch.where(t < LENGTHS, score, 0.0)
        h = gru(model.transition.cell, torch.cat([data.x[:, t], 0 * data.x[:, t]], -1), h)
    torch.testing.assert_close(pvae.log_weights(model, data, 3).log_w, expected.expand(3, -1), **EXACT)


def test_later_samples_of_a_recurrent_model_depend_on_the_drawn_data() -> None:
    """Given x_0, what is left of x_1 after its mean has covariance 1 and is uncorrelated with x_0."""
    model, n = LinearRecurrent(), 20_000
    cell = model.transition.cell
    with torch.no_grad():
        cell.cell.weight_ih[:, :FEATURES] *= 3
        x = model.sample(n)
        h = gru(cell, torch.cat([x[:, 0], 0 * x[:, 0]], -1), model.transition.start.expand(n, -1))
        loc, scale, matrix, rest = model.given_state(h)
    spread = matrix @ torch.diag_embed(scale**2) @ matrix.T + 0.36 * torch.eye(FEATURES, dtype=torch.float64)
    residual = (x[:, 1] - loc @ matrix.T - rest).unsqueeze(-1)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(spread), residual, upper=False)
    products = torch.cat([white * (x[:, 0] - x[:, 0].mean(0)).unsqueeze(1), white, white * white.mT - torch.eye(2)], -1)
    assert bool((products.mean(0).abs() < 4.5 * products.std(0) / math.sqrt(n)).all())


def weights_and_gradient(model: pvae.SequenceVAE, data: pvae.Batch) -> list[Tensor]:
    torch.manual_seed(1)
    log_w = pvae.log_weights(model, data, 4).log_w
    gradients = torch.autograd.grad(log_w.sum(), list(model.parameters()), allow_unused=True)
    return [log_w, *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize(("transition", "inference"), KINDS)
def test_padding_adds_nothing_to_weights_or_gradients(transition: str, inference: str) -> None:
    """The bits are those of the sequences without padding, whatever the padding is."""
    model = small(transition=transition, inference=inference)
    unpadded = small(2, transition=transition, inference=inference)
    unpadded.load_state_dict(model.state_dict())
    ends = torch.tensor([2, 2, 2])
    expected = weights_and_gradient(unpadded, pvae.Batch(x=batch(lengths=ends).x[:, :2]))
    for padding in (50.0, math.nan, math.inf):
        found = weights_and_gradient(model, batch(padding, ends))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("transition", "inference"), KINDS)
def test_each_sequence_scores_as_alone_and_unpadded_in_any_order(transition: str, inference: str) -> None:
    model, data = small(transition=transition, inference=inference), batch()
    weights = pvae.log_weights(model, data, 1)
    for row, length in ((2, 3), (0, 4), (1, 2)):
        alone = small(length, transition=transition, inference=inference)
        alone.load_state_dict(model.state_dict())
        x = data.x[row : row + 1, :length]
        z = {f"z{t}": weights.values[f"z{t}"][0, row : row + 1] for t in range(length)}
        scores = [
            poutine.trace(poutine.condition(program, data=z)).get_trace(x).log_prob_sum()
            for program in (alone.model, alone.guide)
        ]
        torch.testing.assert_close(scores[0] - scores[1], weights.log_w[0, row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("inference", ["smoothing", "filtering"])
def test_the_guide_reads_from_t_to_the_end_or_x_t_alone(inference: str) -> None:
    model, data = small(inference=inference), batch()
    x = data.x.clone().requires_grad_()
    seen = model.inference.reader(model.encoder(x), present_steps(LENGTHS, x, TIME))
    for t in range(TIME):
        (gradient,) = torch.autograd.grad(seen[:, t].square().sum(), x, retain_graph=True)
        until = LENGTHS.tolist() if inference == "smoothing" else [t + 1] * 3
        expected = [[t <= s < n for s in range(TIME)] for n in until]
        assert (gradient.abs().sum(2) > 0).tolist() == expected


@pytest.mark.parametrize("transition", ["markov", "recurrent"])
def test_complete_sequences_need_no_lengths(transition: str) -> None:
    model, data = small(transition=transition), batch(lengths=torch.tensor([4, 4, 4]))
    with_lengths = weights_and_gradient(model, data)
    without = weights_and_gradient(model, pvae.Batch(x=data.x))
    assert all(torch.equal(one, other) for one, other in zip(with_lengths, without, strict=True))


def test_after_the_end_samples_and_reconstructions_are_zero() -> None:
    model, data = small(transition="recurrent"), batch(math.nan)
    ended = torch.arange(TIME) >= LENGTHS[:, None]
    for x in (model.sample(3, lengths=LENGTHS), model.reconstruct(data.x, data.lengths)):
        assert ((x == 0).all(-1) == ended).all()
    drawn = pvae.models.sample(model, data)
    assert ((drawn == 0).all(-1) == ended).all()
    continued = model.continued(data.x, data.lengths, n=5)
    assert torch.equal(continued[:, ~ended], data.x[~ended].expand(5, -1, -1)) and bool(continued.isfinite().all())


def test_a_padded_step_scores_and_draws_the_sequences_that_have_not_ended() -> None:
    base, present = dist.Bernoulli(torch.full((2, 3), 0.25)).to_event(1), torch.tensor([True, False])
    step = PaddedStep(base, present)
    value = torch.tensor([[1.0, 0.0, 0.0], [-1.0, math.nan, 7.0]])
    expected = torch.tensor([math.log(0.25) + 2 * math.log(0.75), 0.0])
    torch.testing.assert_close(step.log_prob(value), expected)
    assert torch.equal(step.mean, torch.tensor([[0.25] * 3, [0.0] * 3])) and torch.equal(
        step.variance[1], torch.zeros(3)
    )
    assert step.support.check(value).tolist() == [True, True]
    assert step.support.check(value.flip(0)).tolist() == [False, True]


def test_the_output_bias_starts_from_what_is_no_padding() -> None:
    model, data = small(), batch(1e6)
    model.initialise_from(data)
    rows = torch.cat([x[:n] for x, n in zip(data.x, LENGTHS.tolist(), strict=True)])
    torch.testing.assert_close(model.likelihood.head.bias.detach(), rows.mean(0))


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        (torch.tensor([4, 0, 1]), "from 1 to 4, the number of time steps of x; got 0 for datum 1"),
        (torch.tensor([4, 2, 5]), "got 5 for datum 2"),
        (torch.tensor([4.0, 2.0, 1.0]), "one whole number for each of 3 sequences; got torch.float32"),
        (torch.tensor([[4], [2], [1]]), "shape \\(3, 1\\)"),
    ],
)
def test_lengths_that_cannot_be_are_refused(lengths: Tensor, words: str) -> None:
    data = pvae.Batch(x=batch().x, lengths=lengths)
    for use in (lambda: pvae.log_weights(small(), data, 1), lambda: small().initialise_from(data)):
        with pytest.raises(InputError, match=words):
            use()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"transition": "markof"}, "markov"),
        ({"inference": "both"}, "smoothing"),
        ({"state": 0}, "state needs a whole number"),
        ({"between": -1}, "between needs"),
        ({"posterior": "diagonl"}, "diagonal"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        small(**settings)


def test_there_is_no_one_z_and_no_prior_of_it() -> None:
    model = small()
    with pytest.raises(InputError, match="one z for each time step"):
        model.encode(batch().x)
    with pytest.raises(InputError, match="depends on the previous time step"):
        model.prior_density()


def test_evaluations_that_need_every_entry_leave_padded_sequences_out() -> None:
    model, data = small(), batch()
    found = pvae.evaluate.gaps(model, data, particles=10, steps=1, draws=2, progress=False)
    assert "site 'z2' is masked" in found.notes[0]
    with pytest.raises(InputError, match="The reference posterior needs a density at every entry"):
        pvae.evaluate.reference(model, data, draws=4, warmup=1, progress=False)


def test_data_outside_the_support_are_refused_without_their_padding() -> None:
    data = pvae.Batch(x=torch.full((3, TIME, FEATURES), torch.nan, dtype=torch.float64), lengths=LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        data["x"][row, :length] = 0.25
    end = int(LENGTHS.min())  # the first time step after the end of a sequence
    data["x"][:, :end] = 1.0
    count = int((end < LENGTHS).sum())
    message = f"Bernoulli needs x{end} in {{0, 1}}; got values from 0.25 to 0.25, {FEATURES * count} of .* Binarise"
    with pytest.raises(InputError, match=message):
        pvae.log_weights(small(likelihood="bernoulli"), data, 2)


def test_active_units_are_those_of_the_sequences_that_have_not_ended() -> None:
    model, data = small(), batch(lengths=torch.tensor([4, 3, 2]))
    units = pvae.evaluate.diagnose(model, data, particles=2).latents
    torch.testing.assert_close(units["z0"].activity, model.codes(data.x, data.lengths)[:, 0].var(0))
    assert units["z3"].activity.tolist() == [0, 0]  # one sequence alone has a fourth time step


def test_the_page_of_a_comparison_has_no_decoder_of_one_time_step_for_pictures_of_all() -> None:
    model, data = small(likelihood="bernoulli").float(), batch()
    arrays, texts = decoder_arrays(model, pvae.Batch(x=data.x[:1].float()))
    assert texts == {} and list(arrays) == ["traversals"]


def test_the_figure_of_forecasts_shows_data_and_draws_at_their_time_steps() -> None:
    x, lengths = torch.randn(3, TIME, FEATURES), torch.tensor([4, 1, 3])
    run = untrained_run(small().float(), {"x": x, "lengths": lengths, "x_test": x, "lengths_test": lengths})
    figure = run.plot.draw("forecast", {"x": x, "lengths": lengths, "x_test": x, "lengths_test": lengths})
    names = [axes.get_title() for axes in figure.axes]
    assert names == ["sequence 0, x[0]", "sequence 0, x[1]", "sequence 1, x[0]", "sequence 1, x[1]"]
    for axes, row, feature, seen, end in zip(
        figure.axes, (0, 0, 2, 2), (0, 1, 0, 1), (3, 3, 2, 2), (4, 4, 3, 3), strict=True
    ):
        lines = {line.get_label(): line.get_xydata() for line in axes.lines}
        for label, start, stop in (("data, seen", 0, seen), ("data, not seen", seen - 1, end)):
            expected = np.column_stack([np.arange(start, stop), x[row, start:stop, feature]])
            np.testing.assert_allclose(lines[label], expected, rtol=1e-6)
        assert lines["mean of the forecast"][:, 0].tolist() == list(range(seen, end))


def test_a_figure_of_forecasts_is_of_sequences() -> None:
    run = untrained_run(pvae.VAE(3, latent=2, hidden=4), torch.rand(20, 3).round())
    with pytest.raises(InputError, match="needs a model of sequences"):
        run.plot.draw("forecast", torch.rand(20, 3).round())


class _CopiedData(poutine.messenger.Messenger):
    """Gives a program copies of its observed values, so that they may be simulated ones."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"]:
            msg["value"] = msg["value"].clone()


@pytest.mark.parametrize("lengths", [None, torch.tensor([4, 2, 1])])
@pytest.mark.usefixtures("own_store", "seeded")
def test_the_model_encodes_all_time_steps_at_once_with_the_same_numbers(lengths: torch.Tensor | None) -> None:
    model = pvae.SequenceVAE(
        (4, 3), transition="recurrent", latent=2, hidden=5, state=4, likelihood="gaussian"
    ).double()
    calls: list[Any] = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(3, 4, 3, dtype=torch.float64)
    guide = poutine.trace(model.guide).get_trace(x, lengths)
    results, counts = [], []
    for program in (model.model, _CopiedData()(model.model)):
        calls.clear()
        log_joint = poutine.trace(poutine.replay(program, guide)).get_trace(x, lengths).log_prob_sum()
        counts.append(len(calls))
        gradients = torch.autograd.grad(log_joint, model.theta(), retain_graph=True, allow_unused=True)
        results.append([log_joint, *[gradient for gradient in gradients if gradient is not None]])
    assert counts[0] == 1 and counts[1] >= 3
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
