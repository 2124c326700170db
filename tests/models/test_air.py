"""Attend, infer, repeat: log weights by a formula, gradients of z_pres by enumeration, masks, counts and boxes."""

from __future__ import annotations

import math

import pytest
import torch
from pyro import poutine
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor
from torch.distributions import Bernoulli, Normal
from torch.nn.functional import affine_grid, grid_sample

import pvae
from pvae.errors import InputError
from pvae.models import AIR
from pvae.programs.classifier import accuracy_of

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

PRESENCE = (0.3, 0.2)
MEASURE = "iwae:particles=1:gradients=z_pres_*=measure"
X = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def small(**settings: object) -> AIR:
    options = {"steps": 2, "window": 3, "latent": 2, "hidden": 5, "presence": PRESENCE, "scale": 0.4, **settings}
    return AIR((6, 6), **options).double()  # type: ignore[arg-type]


def without_noise() -> AIR:
    """A model in which only z_pres is random, up to 1e-9: z_where has that spread, and the decoder ignores z_what.

    q of z_where and of z_what is their prior, so that these sites have no part in the log weights.
    """
    model = small()
    one = math.log(math.e - 1)  # softplus(one) is 1
    with torch.no_grad():
        model.where_loc[1:] = torch.tensor([0.2, -0.4])
        model.where_scale.fill_(1e-9)
        model.decoder[-1].bias.copy_(torch.linspace(-2, 2, 9))
        model.decoder[0].weight.zero_()
        model.recurrent.cell.weight_ih[:, -2:].zero_()
        for network, first, number in ((model.pres_and_where, 1, 3), (model.window_encoder, 0, 2)):
            network[-1].weight[first:].zero_()
            network[-1].bias[first:].zero_()
            network[-1].bias[first + number :].fill_(one)
    return model


def place(windows: Tensor, where: Tensor) -> Tensor:
    """Windows on canvases of 6 x 6 pixels, by the spatial transformer of PyTorch."""
    scale, shift = 1 / where[:, 0].exp(), -where[:, 1:] / where[:, :1].exp()
    zero = torch.zeros_like(scale)
    rows = [torch.stack([scale, zero, shift[:, 0]], -1), torch.stack([zero, scale, shift[:, 1]], -1)]
    grid = affine_grid(torch.stack(rows, 1), [len(where), 1, 6, 6], align_corners=False)
    return grid_sample(windows.unsqueeze(1), grid, align_corners=False).squeeze(1)


def log_joint_by_hand(model: AIR, values: dict[str, Tensor]) -> Tensor:
    """log p(x, z) of each datum at values of one particle."""
    total, canvas, before = (
        torch.zeros(3, dtype=torch.float64),
        torch.zeros(3, 6, 6, dtype=torch.float64),
        torch.ones(3),
    )
    for t, presence in enumerate(PRESENCE):
        pres, where, what = (values[f"z_{kind}_{t}"] for kind in ("pres", "where", "what"))
        total = total + torch.where(before > 0, Bernoulli(presence).log_prob(pres), 0.0)
        loc = torch.tensor([math.log(0.5), 0.0, 0.0], dtype=torch.float64)
        prior = Normal(loc, torch.tensor([0.1, 0.5, 0.5], dtype=torch.float64)).log_prob(where).sum(-1)
        total = total + pres * (prior + Normal(0.0, 1.0).log_prob(what).sum(-1))
        canvas = canvas + pres[:, None, None] * place(model.decoder(what).sigmoid().reshape(-1, 3, 3), where)
        before = pres
    return total + Normal(canvas, 0.4).log_prob(X).sum((1, 2))


def test_the_log_joint_is_that_of_the_formula() -> None:
    model = small()
    weights = pvae.log_weights(model, X, particles=40)
    counts = weights.values["z_pres_0"] + weights.values["z_pres_1"]
    assert {0.0, 1.0, 2.0} == set(counts.flatten().tolist())
    for k in range(40):
        values = {name: value[k] for name, value in weights.values.items()}
        torch.testing.assert_close(weights.log_joint[k], log_joint_by_hand(model, values))


def test_after_an_absent_object_nothing_counts() -> None:
    weights = pvae.log_weights(small(), X, particles=40)
    absent = weights.values["z_pres_0"] == 0
    assert absent.any() and not absent.all()
    assert (weights.values["z_pres_1"][absent] == 0).all()
    # log N(x; 0, 0.4) + log p(z_pres_0 = 0) - log q(z_pres_0 = 0), although the other sites have different draws
    expected = Normal(0.0, 0.4).log_prob(X).sum((1, 2)) + math.log(0.7)
    by_datum = weights.log_joint.where(absent, math.nan)
    torch.testing.assert_close(by_datum[absent], expected.expand(40, 3)[absent])
    log_q = weights.log_guide.where(absent, math.nan)
    torch.testing.assert_close(log_q.nanmean(0).expand(40, 3)[absent], log_q[absent])


def exact_gradient(model: AIR) -> Tensor:
    """The gradient of the negative ELBO by the weights that make the logit of z_pres, by a sum over its values."""
    total = torch.zeros((), dtype=torch.float64)
    for values in ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)):
        data = {f"z_pres_{t}": torch.full((3,), value, dtype=torch.float64) for t, value in enumerate(values)}
        guide = poutine.trace(poutine.condition(model.guide, data=data)).get_trace(X)
        joint = poutine.trace(poutine.replay(poutine.condition(model.model, data=data), trace=guide)).get_trace(X)
        guide.compute_log_prob(), joint.compute_log_prob()
        log_q = guide.nodes["z_pres_0"]["log_prob"] + guide.nodes["z_pres_1"]["log_prob"]
        log_p = sum(joint.nodes[name]["log_prob"] for name in ("z_pres_0", "z_pres_1", "x"))
        total = total - (log_q.exp() * (log_p - log_q)).sum()
    return torch.autograd.grad(total, model.pres_and_where[-1].weight)[0][0]


def gradient_by(model: AIR, objective: str, x: Tensor) -> Tensor:
    """One estimate of the same gradient."""
    pvae.objectives.make_objective(objective)().loss_and_grads(model.model, model.guide, x)
    gradient: Tensor = model.pres_and_where[-1].weight.grad[0].clone()
    model.zero_grad()
    return gradient


def test_the_gradient_by_enumeration_is_the_exact_one() -> None:
    model = without_noise()
    found = gradient_by(model, AIR.default_objective, X)
    torch.testing.assert_close(found, exact_gradient(model), rtol=1e-6, atol=1e-9)


def test_the_mean_gradient_by_measure_valued_derivatives_is_the_exact_one() -> None:
    """Means over 500 copies of the data, 12 times: within 4.5 standard errors of the sum over all values of z_pres."""
    model = without_noise()
    expected = exact_gradient(model)
    found = torch.stack([gradient_by(model, MEASURE, X.repeat(500, 1, 1)) for _ in range(12)]) / 500
    mean, error = mean_and_error(found)
    assert_close_in_sigmas(mean, expected, error, 4.5, effect=expected.abs().max(), resolution=0.05)


def test_the_probabilities_of_counts_are_those_of_draws() -> None:
    model = without_noise()
    draws = poutine.trace(model.guide).get_trace(X.repeat(3000, 1, 1)).nodes
    counts = (draws["z_pres_0"]["value"] + draws["z_pres_1"]["value"]).reshape(3000, 3)
    share, error = mean_and_error((counts.unsqueeze(-1) == torch.arange(3)).double().numpy())
    assert_close_in_sigmas(share, model.classify(X).probs.numpy(), error, 4.5)


def test_the_count_accuracy_is_the_accuracy_of_labels() -> None:
    model = without_noise()
    best = model.classify(X).probs.argmax(-1)
    data = pvae.Batch(x=X.flatten(1), y=torch.stack([best[0], best[1], (best[2] + 1) % 3]))
    assert pvae.evaluate.accuracy(model, data).value == pytest.approx(2 / 3)
    assert torch.equal(model.find(X).count, best)
    assert accuracy_of(model, data) == pytest.approx(2 / 3)
    assert "it serves the accuracy" in str(pvae.check(model, data, AIR.default_objective))


def test_labels_that_are_no_numbers_of_objects_give_no_accuracy() -> None:
    data = pvae.Batch(x=X.flatten(1), y=torch.tensor([0, 1, 7]))
    assert accuracy_of(small(), data) is None
    with pytest.raises(InputError, match="Labels must be 0 to 2"):
        pvae.evaluate.accuracy(small(), data)


def test_found_boxes_and_reconstructions_are_those_of_the_most_probable_objects() -> None:
    model = without_noise()
    with torch.no_grad():
        model.pres_and_where[-1].bias[0] = 4.0
    found = model.find(X)
    assert found.present.all() and found.count.tolist() == [2, 2, 2]
    # the centre is at (0.2, -0.4), half of the side is 0.5: left, top, right, bottom
    expected = torch.tensor([0.7, 0.1, 1.7, 1.1], dtype=torch.float64) * 3
    torch.testing.assert_close(found.boxes, expected.expand(3, 2, 4))
    data = {f"z_pres_{t}": torch.ones(3, dtype=torch.float64) for t in (0, 1)}
    guide = poutine.trace(poutine.condition(model.guide, data=data)).get_trace(X)
    joint = poutine.trace(poutine.replay(poutine.condition(model.model, data=data), trace=guide)).get_trace(X)
    torch.testing.assert_close(model.reconstruct(X), joint.nodes["x"]["fn"].mean, rtol=0, atol=1e-7)


def test_samples_are_those_of_the_model() -> None:
    model = small()
    with torch.no_grad():
        model.where_scale.fill_(0.05)  # every object is inside of the canvas
        canvas = model.sample(2000, mean=True)
        assert_close_in_sigmas(float((canvas.sum((1, 2)) == 0).double().mean()), 0.7, (0.21 / 2000) ** 0.5, 4.5)
        drawn = poutine.trace(poutine.uncondition(model.model)).get_trace(torch.zeros(2000, 6, 6)).nodes["x"]
        for ours, programs in ((canvas, drawn["fn"].mean), (model.sample(2000), drawn["value"])):
            for power in (1, 2):
                (mean, error), (expected, other) = (mean_and_error(x.flatten(1) ** power) for x in (ours, programs))
                assert_close_in_sigmas(mean, expected, (error**2 + other**2) ** 0.5, 4.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data_shape": 36}, "AIR needs grey pictures"),
        ({"data_shape": (3, 6, 6)}, "AIR needs grey pictures"),
        ({"steps": 0}, "steps needs a whole number"),
        ({"window": (1, 2, 3)}, "window needs one number or two"),
        ({"presence": 0}, "presence needs a number"),
        ({"presence": (0.1, 0.2)}, "one for each of the 3 steps"),
        ({"hidden": 0}, "hidden needs"),
        ({"scale": -1}, "scale needs a positive number"),
        ({"size": 0}, "size needs a positive number"),
    ],
)
def test_unusable_settings_are_refused_in_one_line(settings, message) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        AIR(**{"data_shape": (6, 6), **settings})
    assert "\n" not in str(refusal.value)


def test_data_of_another_size_are_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="x needs 36 values"):
        small().find(torch.zeros(2, 5, 5))


@pytest.mark.parametrize("size", [3, 1.01, 1 / 13, 1e-6])
def test_an_object_has_at_least_one_pixel_and_at_most_the_picture(size: float) -> None:
    with pytest.raises(InputError, match=r"size needs a share of the side of the picture, from one pixel, 1/12, to 1"):
        pvae.AIR((12, 12), size=size)
    assert pvae.AIR((12, 16), size=1 / 12).where_loc[0].exp() == pytest.approx(1 / 12)
