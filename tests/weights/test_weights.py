"""The waist: exact against Pyro on the same draws, per datum, and never wrong in silence."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO
from torch import Tensor, nn

from pvae import InputError, LatentModel, log_weights, pair
from pvae.programs import bound
from pvae.weights import log_mean_exp, trace_weights

DOUBLE = torch.float64

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def seeded(run: Callable[[], Any]) -> Any:
    torch.manual_seed(7)
    return run()


def two_layers() -> tuple[exact.TwoLayerModel, dict[str, Tensor]]:
    return exact.TwoLayerModel(), {"x": torch.randn(6, 3, dtype=DOUBLE)}


def gradients(value: Tensor, model: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found, strict=True)]


@pytest.mark.parametrize("particles", [1, 2, 7])
def test_weights_are_those_of_trace_elbo_on_the_same_draws(particles: int) -> None:
    model, batch = two_layers()
    elbo = Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    theirs = seeded(lambda: elbo.differentiable_loss(model.model, model.guide, batch["x"]))
    ours = -seeded(lambda: log_weights(model, batch, particles)).log_w.mean(0).sum()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for mine, other in zip(gradients(ours, model), gradients(theirs, model), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("particles", [2, 7])
def test_weights_are_those_of_renyi_elbo_on_the_same_draws(particles: int) -> None:
    model, batch = two_layers()
    elbo = RenyiELBO(alpha=0, num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    theirs = seeded(lambda: elbo.loss(model.model, model.guide, batch["x"]))
    ours = -log_mean_exp(seeded(lambda: log_weights(model, batch, particles)).log_w).sum().item()
    assert ours == pytest.approx(theirs, rel=1e-12)


def test_the_first_batch_and_the_next_draw_the_same() -> None:
    # the look at the layout and the check of particles must not move the random state
    model, batch = two_layers()
    first, second = (seeded(lambda: log_weights(model, batch, 4)).log_w for _ in range(2))
    assert torch.equal(first, second)


def test_parts_are_what_they_say() -> None:
    model, batch = two_layers()
    weights = log_weights(model, batch, 3)
    z1, z2 = weights.values["z1"], weights.values["z2"]
    assert z1.shape == z2.shape == (3, 6, 2)
    likelihood = dist.Normal(z1 @ model.B.T + model.b, model.s2.exp()).log_prob(batch["x"]).sum(-1)
    prior = dist.Normal(z2 @ model.A.T + model.a, model.s1.exp()).log_prob(z1).sum(-1)
    prior = prior + dist.Normal(0.0, 1.0).log_prob(z2).sum(-1)
    guide = dist.Normal(batch["x"] @ model.C.T + model.c, model.t1.exp()).log_prob(z1).sum(-1)
    guide = guide + dist.Normal(z1 @ model.D.T + model.d, model.t2.exp()).log_prob(z2).sum(-1)
    torch.testing.assert_close(weights.log_joint, likelihood + prior, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(weights.log_guide, guide, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(weights.log_likelihood(), likelihood, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(weights.named()["kl"], (guide - prior).mean(0).detach(), rtol=1e-10, atol=1e-10)
    assert (weights.scale, weights.count, weights.particles) == (1.0, 6, 3)


def test_stopping_phi_leaves_the_gradient_through_z_of_a_guide_of_two_layers() -> None:
    model, batch = two_layers()
    weights = log_weights(model, batch, 3)
    z1, z2 = weights.values["z1"], weights.values["z2"]
    stopped = {name: getattr(model, name).detach() for name in ("C", "c", "t1", "D", "d", "t2")}
    by_hand = dist.Normal(batch["x"] @ stopped["C"].T + stopped["c"], stopped["t1"].exp()).log_prob(z1).sum()
    second = dist.Normal(z1 @ stopped["D"].T + stopped["d"], stopped["t2"].exp())
    by_hand = by_hand + second.log_prob(z2).sum()
    ours = weights.log_guide_with_phi_stopped().sum()
    torch.testing.assert_close(ours, by_hand, rtol=1e-12, atol=0)
    for mine, other in zip(gradients(ours, model), gradients(by_hand, model), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


def test_at_fixed_z_only_the_score_is_left() -> None:
    model, batch = two_layers()
    weights = log_weights(model, batch, 3)
    z1, z2 = (weights.values[name].detach() for name in ("z1", "z2"))
    scores = {
        "z1": dist.Normal(batch["x"] @ model.C.T + model.c, model.t1.exp()).log_prob(z1).sum(-1),
        "z2": dist.Normal(z1 @ model.D.T + model.d, model.t2.exp()).log_prob(z2).sum(-1),
    }
    for name, score in weights.site_scores().items():
        torch.testing.assert_close(score, scores[name], rtol=1e-12, atol=1e-12)
        for mine, other in zip(gradients(score.sum(), model), gradients(scores[name].sum(), model), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
    total = weights.log_guide_at_fixed_z()
    torch.testing.assert_close(total, scores["z1"] + scores["z2"], rtol=1e-12, atol=1e-12)


# ---- particles in one run, or one by one


class Decoded(LatentModel):
    """Decodes z by a function that may treat particles as data."""

    def __init__(self, decode: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.decode = decode
        self.weight = nn.Parameter(torch.randn(2, 3, dtype=DOUBLE))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=DOUBLE), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z) @ self.weight, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 0.5).to_event(1))


MIXING = {
    "mean over what it takes for the batch": lambda z: z - z.mean(0),
    "reshape to the batch": lambda z: z.reshape(6, -1)[:, :2],
    "length of z": lambda z: z / len(z),
    "first row": lambda z: z + z[0],
    "last row": lambda z: z + z[-1],
    "next row": lambda z: z.roll(1, 0),
    "rows in reverse": lambda z: z.flip(0),
    "sum of the rows so far": lambda z: z.cumsum(0),
}


@pytest.mark.parametrize("name", MIXING)
def test_a_program_that_mixes_particles_is_run_one_by_one_with_one_warning(name: str) -> None:
    model, batch = Decoded(MIXING[name]), {"x": torch.randn(6, 3, dtype=DOUBLE)}
    with pytest.warns(UserWarning, match="one by one") as caught:
        weights = log_weights(model, batch, 3)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_weights(model, batch, 3)
    for particle in range(3):
        z = weights.values["z"][particle]
        expected = dist.Normal(MIXING[name](z) @ model.weight, 1.0).log_prob(batch["x"]).sum(-1)
        torch.testing.assert_close(weights.log_likelihood()[particle], expected, rtol=1e-12, atol=1e-12)


def test_a_program_that_leaves_particles_alone_is_not_warned_about() -> None:
    model, batch = Decoded(lambda z: z.tanh() - z.mean(-1, keepdim=True)), {"x": torch.randn(6, 3, dtype=DOUBLE)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = log_weights(model, batch, 9)
    assert weights.log_w.shape == (9, 6)


def test_dropout_does_not_look_like_mixing() -> None:
    model, batch = Decoded(nn.Dropout(0.5)), {"x": torch.randn(6, 3, dtype=DOUBLE)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert log_weights(model, batch, 4).log_w.shape == (4, 6)


def test_both_ways_agree_in_their_mean() -> None:
    model = exact.LinearGaussianModel()
    batch = {"x": torch.tensor(exact.A_X).expand(4000, 3)}
    looped = Decoded(lambda z: z)
    looped.weight = nn.Parameter(model.weight.T.detach())
    values = log_weights(model, batch, 4).log_w
    mean, error = values.mean().item(), values.std().item() / math.sqrt(values.numel())
    assert abs(mean - exact.LinearGaussian().elbo(*exact.A_Q1)) < 4.5 * error


def test_a_layout_dies_with_its_guide() -> None:
    # kept by name or id, it would speak for the next guide that happens to get them
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    for place in range(3):

        def guide(x: Tensor, place: int = place) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x + place, 1.0))

        log_weights(pair(model, guide), {"x": torch.randn(4, dtype=DOUBLE)}, 2)
        del guide
    gc.collect()
    assert len(bound._LAYOUTS[model]) == 0


# ---- the data plate


def programs(*plates: str, sequential: bool = False, outside: bool = False) -> LatentModel:
    def model(x: Tensor) -> None:
        if outside:
            pyro.sample("g", dist.Normal(0.0, 1.0))
        stack = [pyro.plate(name, size, dim=-1 - k) for k, (name, size) in enumerate(sizes(x))]
        if sequential:
            for n in pyro.plate("data", len(x)):
                z = pyro.sample(f"z{n}", dist.Normal(0.0, 1.0))
                pyro.sample(f"x{n}", dist.Normal(z, 1.0), obs=x[n])
            return
        with entered(stack):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T if len(plates) > 1 else x)

    def guide(x: Tensor) -> None:
        if outside:
            pyro.sample("g", dist.Normal(0.0, 1.0))
        stack = [pyro.plate(name, size, dim=-1 - k) for k, (name, size) in enumerate(sizes(x))]
        if sequential:
            for n in pyro.plate("data", len(x)):
                pyro.sample(f"z{n}", dist.Normal(0.0, 1.0))
            return
        with entered(stack):
            pyro.sample("z", dist.Normal(0.3, 0.9))

    def sizes(x: Tensor) -> list[tuple[str, int]]:
        return [(name, x.shape[k]) for k, name in enumerate(plates)]

    return pair(model, guide)


def entered(stack: list[Any]) -> contextlib.ExitStack:
    together = contextlib.ExitStack()
    for each in stack:
        together.enter_context(each)
    return together


X = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("latent_model", "x", "words"),
    [
        (programs(), X.sum(), ["'z'", "no plate"]),
        (programs("data", outside=True), X[:, 0], ["'g'", "outside the data plate 'data'"]),
        (programs("data", "pixels"), X, ["data, pixels", "data_plate="]),
        (programs(sequential=True), X[:, 0], ["'data' is sequential"]),
    ],
)
def test_without_one_data_plate_the_error_names_what_stands_in_the_way(
    latent_model: LatentModel, x: Tensor, words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        log_weights(latent_model, {"x": x}, 2)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(("plate", "size"), [("data", 5), ("pixels", 2)])
def test_a_named_data_plate_decides_what_is_summed(plate: str, size: int) -> None:
    weights = log_weights(programs("data", "pixels"), {"x": X}, 3, data_plate=plate)
    z = weights.values["z"]
    density = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(X.T)
    density = density - dist.Normal(0.3, 0.9).log_prob(z)
    torch.testing.assert_close(weights.log_w, density.sum(1 if plate == "data" else 2))
    assert weights.log_w.shape == (3, size)
    assert weights.count == size


def test_a_data_plate_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"the data plate 'rows'; site '.*' is outside"):
        log_weights(programs("data"), {"x": X[:, 0]}, 2, data_plate="rows")


# ---- scales and subsamples


def subsampled(size: int, mixes: bool = False) -> LatentModel:
    """x holds all N data; each run takes `size` of them."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=size) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
            pyro.sample("x", dist.Normal(z - z.mean() if mixes else z, 1.0), obs=x[rows])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=size) as rows:
            pyro.sample("z", dist.Normal(x[rows] / 2, math.sqrt(0.5)))

    return pair(model, guide)


ROWS = torch.tensor([0.1, 1.7, -2.2, 3.1, 0.4], dtype=DOUBLE)
ROW_EVIDENCE = dist.Normal(torch.zeros((), dtype=DOUBLE), math.sqrt(2)).log_prob(ROWS)


def test_weights_of_a_subsample_are_unscaled_and_the_scale_stands_beside() -> None:
    weights = log_weights(subsampled(2), {"x": ROWS}, 4)
    assert (weights.scale, weights.count, weights.log_w.shape) == (2.5, 5, (4, 2))
    # at the exact posterior each weight is its datum's evidence: all four particles saw the same two data
    assert torch.allclose(weights.log_w, weights.log_w[0].expand(4, 2), rtol=1e-12)
    assert all((value - ROW_EVIDENCE).abs().min() < 1e-12 for value in weights.log_w[0])


def test_particles_run_one_by_one_share_the_subsample() -> None:
    with pytest.warns(UserWarning, match="one by one"):
        weights = log_weights(subsampled(2, mixes=True), {"x": ROWS}, 6)
    means = {tuple((row * 2).tolist()) for row in weights.draws[0].guide.nodes["z"]["fn"].mean.reshape(1, -1)}
    for draw in weights.draws:
        assert tuple((draw.guide.nodes["z"]["fn"].mean * 2).tolist()) in means


def test_every_minibatch_together_gives_the_whole() -> None:
    def of(rows: list[int]) -> float:
        def model(x: Tensor) -> None:
            with pyro.plate("data", 5, subsample=torch.tensor(rows)):
                z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", 5, subsample=torch.tensor(rows)):
                pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))

        weights = log_weights(pair(model, guide), {"x": ROWS[rows]}, 3)
        return (log_mean_exp(weights.log_w) * weights.scale).sum().item()

    batches = [of(list(rows)) for rows in itertools.combinations(range(5), 2)]
    assert sum(batches) / len(batches) == pytest.approx(ROW_EVIDENCE.sum().item(), rel=1e-12)


@pytest.mark.parametrize("scale", [0.25, torch.tensor(3.0), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])])
def test_a_scale_on_both_programs_goes_outside(scale: Any) -> None:
    inner = programs("data")
    scaled = pair(pyro.poutine.scale(inner.model, scale=scale), pyro.poutine.scale(inner.guide, scale=scale))
    plain = seeded(lambda: log_weights(inner, {"x": X[:, 0]}, 3))
    weights = seeded(lambda: log_weights(scaled, {"x": X[:, 0]}, 3))
    assert torch.equal(weights.log_w, plain.log_w)
    assert torch.equal(torch.as_tensor(weights.scale), torch.as_tensor(scale))


def test_scales_that_differ_between_sites_are_refused_by_name() -> None:
    inner = programs("data")
    scaled = pair(pyro.poutine.scale(inner.model, scale=0.5), inner.guide)
    words = r"site 'z' of the guide has the scale 1, and site 'z' of the model has 0\.5\. Give both"
    with pytest.raises(InputError, match=words):
        log_weights(scaled, {"x": X[:, 0]}, 3)


def test_masked_sites_count_where_the_mask_is_set() -> None:
    mask = torch.tensor([True, False, True, True, False])
    inner = programs("data")
    masked = pair(pyro.poutine.mask(inner.model, mask=mask), pyro.poutine.mask(inner.guide, mask=mask))
    weights = log_weights(masked, {"x": X[:, 0]}, 2)
    assert (weights.log_w[:, ~mask] == 0).all()
    assert (weights.log_w[:, mask] != 0).all()


# ---- what has no weight


def test_sites_that_one_program_lacks_are_refused_by_name() -> None:
    full = programs("data")

    def empty(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("other", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match="'z' is neither observed nor in the guide"):
        log_weights(pair(full.model, empty), {"x": X[:, 0]}, 2)


def test_a_site_marked_for_enumeration_is_summed_out_exactly() -> None:
    weights = log_weights(exact.DiscreteModel(enumerate="parallel"), {"x": torch.arange(4)}, 2)
    expected = torch.tensor(exact.Discrete().log_evidence())
    torch.testing.assert_close(weights.log_w, expected.expand(2, 4), rtol=1e-12, atol=0)
    with pytest.raises(InputError, match="a site is summed out or auxiliary"):
        weights.log_likelihood()


def test_a_guide_that_draws_nothing_is_refused() -> None:
    full = programs("data")
    with pytest.raises(InputError, match="'z' is neither observed nor in the guide"):
        log_weights(pair(full.model, lambda x: None), {"x": X[:, 0]}, 2)
    observed = pyro.poutine.condition(full.model, data={"z": torch.zeros(len(X))})
    with pytest.raises(InputError, match="the model has none and the guide draws nothing"):
        log_weights(pair(observed, lambda x: None), {"x": X[:, 0]}, 2)


@pytest.mark.parametrize("particles", [0, -1, 1.5, None])
def test_particles_must_be_a_whole_number(particles: Any) -> None:
    model, batch = two_layers()
    with pytest.raises(InputError, match="whole number"):
        trace_weights(model.model, model.guide, (batch["x"],), {}, particles)


def test_sites_without_a_pathwise_gradient_are_known() -> None:
    assert log_weights(exact.DiscreteModel(), {"x": torch.arange(4)}, 2).not_reparameterised == ("z",)
    assert log_weights(two_layers()[0], two_layers()[1], 2).not_reparameterised == ()


def test_discrete_weights_are_the_table_of_the_categorical_model() -> None:
    known = exact.Discrete()
    weights = log_weights(exact.DiscreteModel(), {"x": torch.arange(4)}, 5)
    for particle, x in itertools.product(range(5), range(4)):
        z = int(weights.values["z"][particle, x])
        assert weights.log_w[particle, x].item() == pytest.approx(known.log_w[x, z], rel=1e-12)


def test_looking_and_checking_leave_running_averages_alone() -> None:
    model = Decoded(nn.Sequential(nn.BatchNorm1d(2, dtype=DOUBLE)))
    batch = {"x": torch.randn(6, 3, dtype=DOUBLE)}
    log_weights(model, batch, 1)
    assert model.decode[0].num_batches_tracked == 1
