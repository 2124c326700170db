"""The multimodal VAE: exact answers of a linear-Gaussian model for any subset of its modalities; both combinations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from command_line import run
from pyro import poutine
from scipy.stats import multivariate_normal
from torch import Tensor

import pvae
from pvae.densities.experts import mixture_of_experts, product_of_experts, stratified_draws
from pvae.models.fitted_prior import PriorRecipe, with_prior
from pvae.objectives import make_objective

DOUBLE = torch.float64
WEIGHTS = {"x": np.array([1.0, -0.5, 0.8]), "w": np.array([0.6, 1.2])}
BIASES = {"x": np.array([0.3, 0.0, -1.0]), "w": np.array([0.5, -0.2])}
SCALES = {"x": 0.7, "w": 0.4}
SUBSETS = [("x", "w"), ("x",), ("w",), ()]

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def linear_gaussian(combine: str = "product") -> pvae.MultimodalVAE:
    """x and w are linear in one z. The product of the exact experts of z is its exact posterior."""
    modalities = {name: f"gaussian:scale={SCALES[name]}:shape={len(WEIGHTS[name])}" for name in ("w", "x")}
    model = pvae.MultimodalVAE(3, modalities, combine=combine, latent=1, hidden=0, output_bias=None).double()
    with torch.no_grad():
        for name, modality in model.modalities.items():
            a, b = torch.tensor(WEIGHTS[name]), torch.tensor(BIASES[name])
            modality.likelihood.head.layer.weight.copy_(a[:, None])
            modality.likelihood.head.bias.copy_(b)
            modality.posterior.loc.weight.copy_(a[None] / (a @ a))
            modality.posterior.loc.bias.copy_(-(a @ b) / (a @ a))
            modality.posterior.log_scale.weight.zero_()
            modality.posterior.log_scale.bias.fill_(math.log(SCALES[name] / float((a @ a).sqrt())))
    return model


def log_evidence(data: dict[str, Tensor], row: int, subset: tuple[str, ...]) -> float:
    """log p of the modalities of a subset, of one datum."""
    if not subset:
        return 0.0
    a, b = (np.concatenate([values[name] for name in subset]) for values in (WEIGHTS, BIASES))
    noise = np.concatenate([np.full(len(WEIGHTS[name]), SCALES[name] ** 2) for name in subset])
    value = np.concatenate([data[name][row].numpy() for name in subset])
    return float(multivariate_normal(b, np.outer(a, a) + np.diag(noise)).logpdf(value))


def data_of_subsets() -> dict[str, Tensor]:
    """Four data, one for each of `SUBSETS`, with NaN in place of what is missing."""
    generator = torch.Generator().manual_seed(5)
    data = {name: torch.randn(4, len(WEIGHTS[name]), dtype=DOUBLE, generator=generator) for name in ("x", "w")}
    for name in ("x", "w"):
        mask = torch.tensor([float(name in subset) for subset in SUBSETS], dtype=DOUBLE)
        data["mask" if name == "x" else "w_mask"] = mask
        data[name][mask == 0] = math.nan
    return data


def expected() -> Tensor:
    values = [log_evidence(data_of_subsets(), row, subset) for row, subset in enumerate(SUBSETS)]
    return torch.tensor(values, dtype=DOUBLE)


# --- densities of experts ---


def test_the_product_of_experts_is_the_normalised_product_of_their_densities() -> None:
    locs, scales = torch.randn(3, 4, 2, dtype=DOUBLE), torch.rand(3, 4, 2, dtype=DOUBLE) + 0.3
    present = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 0]]).bool()
    product = product_of_experts(locs, scales, present)
    z = torch.randn(5, 4, 2, dtype=DOUBLE)
    factors = torch.distributions.Normal(locs[:, None], scales[:, None]).log_prob(z).sum(-1)
    unnormalised = (factors * present[:, None]).sum(0) + torch.distributions.Normal(0, 1).log_prob(z).sum(-1)
    ratio = unnormalised - product.log_prob(z)
    torch.testing.assert_close(ratio, ratio[:1].expand(5, 4), rtol=0, atol=1e-12)
    assert torch.equal(product.mean[3], torch.zeros(2, dtype=DOUBLE))
    assert torch.equal(product.stddev[3], torch.ones(2, dtype=DOUBLE))


def test_the_mixture_of_experts_has_the_mean_of_the_densities_that_are_present() -> None:
    locs, scales = torch.randn(2, 4, 1, dtype=DOUBLE), torch.rand(2, 4, 1, dtype=DOUBLE) + 0.3
    present = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]]).bool()
    z = torch.randn(4, 1, dtype=DOUBLE)
    density = mixture_of_experts(locs, scales, present).log_prob(z).exp().numpy()
    by_expert = scipy.stats.norm(locs.numpy(), scales.numpy()).pdf(z.numpy())[..., 0]
    of_prior = scipy.stats.norm().pdf(z.numpy())[3, 0]
    np.testing.assert_allclose(density, [by_expert[:, 0].mean(), by_expert[0, 1], by_expert[1, 2], of_prior])


def test_stratified_draws_come_equally_often_from_each_expert() -> None:
    """The experts are far apart, so that a draw shows its expert; other draws are independent of each other."""
    locs = torch.tensor([100.0, 200.0, 300.0]).reshape(3, 1, 1).expand(3, 400, 1)
    present = torch.ones(3, 400).bool()
    present[1, :200] = False
    mixture = mixture_of_experts(locs, torch.ones(3, 400, 1), present)
    with stratified_draws():
        expert = (mixture.sample((6,))[..., 0] / 100).round()
        uneven = (mixture.expand((4, 400)).sample()[..., 0] / 100).round()
    assert torch.equal(expert[:, :200], torch.tensor([1.0, 1, 1, 3, 3, 3])[:, None].expand(6, 200))
    assert torch.equal(expert[:, 200:], torch.tensor([1.0, 1, 2, 2, 3, 3])[:, None].expand(6, 200))
    # of 4 draws, 4/3 are from the second expert in the mean; the standard error is at most sqrt(.25 / 200)
    counts = (uneven[:, 200:] == 2).sum(0).double()
    assert set(counts.tolist()) == {1.0, 2.0}
    assert abs(float(counts.mean()) - 4 / 3) < 4 * math.sqrt(0.25 / 200)
    free = (mixture.sample((6,))[..., 0] / 100).round()
    assert len({tuple(column) for column in free.T.tolist()}) > 50


# --- exact answers of the linear-Gaussian model ---


def test_every_weight_is_the_evidence_of_the_modalities_that_a_datum_has() -> None:
    """The guide is the exact posterior given any subset, so that each weight is the evidence; 0 for no modality."""
    weights = pvae.log_weights(linear_gaussian(), data_of_subsets(), particles=5)
    torch.testing.assert_close(weights.log_w, expected().expand(5, 4), rtol=0, atol=1e-10)
    assert torch.equal(weights.log_w[:, 3], torch.zeros(5, dtype=DOUBLE))
    assert list(linear_gaussian().modalities) == ["x", "w"]


def test_a_mixture_estimates_the_same_evidence() -> None:
    """The weights of 20 thousand draws: their mean is the evidence, within 4 standard errors."""
    log_w = pvae.log_weights(linear_gaussian("mixture"), data_of_subsets(), particles=20_000).log_w.detach()
    ratio = (log_w - expected()).exp()
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert ((ratio.mean(0) - 1).abs() <= 4 * error + 1e-10).all()
    assert torch.equal(log_w[:, 3], torch.zeros(20_000, dtype=DOUBLE))
    assert float(error[0]) > 1e-4  # the guide of both modalities is not the posterior


@pytest.mark.parametrize("combine", ["product", "mixture"])
def test_a_missing_modality_changes_nothing(combine: str) -> None:
    """The weights, and their gradient, are those of a model without the modality; also where its field is absent."""
    both = pvae.MultimodalVAE(4, {"x": "bernoulli", "w": "gaussian:shape=2"}, combine=combine, latent=2, hidden=5)
    alone = pvae.MultimodalVAE(4, {"x": "bernoulli"}, combine=combine, latent=2, hidden=5)
    alone.load_state_dict(both.state_dict(), strict=False)
    x = torch.rand(6, 4).round()
    missing = {"w": torch.full((6, 2), math.nan), "w_mask": torch.zeros(6)}
    z, found = torch.randn(3, 6, 2), []
    for model, fields in ((alone, {}), (both, missing), (both, {})):
        model.zero_grad()
        at_z = poutine.condition(model.model, {"z": z})
        log_p = poutine.trace(at_z).get_trace(x, **fields)
        log_p.compute_log_prob()
        log_w = sum(log_p.nodes[name]["log_prob"] for name in ("z", "x")) - model.encode(x=x, **fields).log_prob(z)
        assert model is alone or torch.equal(log_p.nodes["w"]["log_prob"], torch.zeros(3, 6))
        log_w.sum().backward()
        found.append((log_w, [parameter.grad for parameter in model.modalities["x"].parameters()]))
    (expected_w, expected_gradients), *others = found
    for log_w, gradients in others:
        assert torch.equal(log_w, expected_w)
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-6, atol=1e-7)
    assert not any(each.grad.any() for each in both.modalities["w"].parameters() if each.grad is not None)


def test_a_mask_of_entries_scores_the_observed_entries_alone() -> None:
    model, data = linear_gaussian(), data_of_subsets()
    data = {"x": data["x"][:1], "w": data["w"][:1], "mask": torch.tensor([[1.0, 0.0, 1.0]])}
    weights = pvae.log_weights(model, data, particles=2)
    z = weights.values["z"][..., 0, :].detach().numpy()
    at_z = {name: z * WEIGHTS[name] + BIASES[name] for name in WEIGHTS}
    scored = {name: scipy.stats.norm(at_z[name], SCALES[name]).logpdf(data[name].numpy()) for name in WEIGHTS}
    expected_likelihood = scored["x"][:, [0, 2]].sum(-1) + scored["w"].sum(-1)
    np.testing.assert_allclose(weights.log_likelihood()[:, 0].detach(), expected_likelihood)


def test_the_evidence_of_one_modality_and_its_generation_from_the_other() -> None:
    """log p(w given x) is a difference of evidences; the mean of w given x is that of the joint Gaussian."""
    model, data = linear_gaussian(), {name: value[:1] for name, value in data_of_subsets().items()}
    of_x = pvae.evaluate.log_evidence(model, {"x": data["x"]}, particles=2)
    assert of_x.value == pytest.approx(log_evidence(data, 0, ("x",)), abs=1e-5)
    a, noise = WEIGHTS["x"], SCALES["x"] ** 2
    posterior_mean = a @ (data["x"][0].numpy() - BIASES["x"]) / (a @ a + noise)
    reconstruction = model.reconstruct(x=data["x"])
    np.testing.assert_allclose(reconstruction["w"][0], posterior_mean * WEIGHTS["w"] + BIASES["w"])
    drawn = model.cross_generate("w", x=data["x"].expand(4000, 3))
    scale = np.abs(WEIGHTS["w"]) * math.sqrt(noise / (a @ a + noise))
    assert (np.abs((drawn.mean(0) - reconstruction["w"][0]).numpy()) < 4 * scale / math.sqrt(4000)).all()
    np.testing.assert_allclose(drawn.std(0), scale, rtol=4 / math.sqrt(2 * 4000))


# --- objectives ---


def value_of(text: str, model: pvae.MultimodalVAE, fields: dict[str, Tensor]) -> float:
    x, *_ = fields.values()
    rest = {name: value for name, value in fields.items() if name != "x"}
    return -make_objective(text)().loss(model.model, model.guide, x, **rest)


def test_the_subsampled_elbo_is_the_sum_of_the_evidences_of_the_subsets() -> None:
    """With exact posteriors, each ELBO is an evidence."""
    data, model = data_of_subsets(), linear_gaussian()
    # the terms of a datum with one modality are: all, itself alone, and the other alone, which is 0
    both = sum(log_evidence(data, 0, subset) for subset in SUBSETS)
    assert value_of("subsampled-elbo:subsets=0", model, data) == pytest.approx(both + 2 * float(expected()[1:3].sum()))


def test_a_warm_up_weights_the_kl_of_every_term_by_the_steps_so_far() -> None:
    """With exact posteriors and a weight of 0, the value is the sum of the expected log-likelihoods."""
    data, model = {name: data_of_subsets()[name][:1] for name in ("x", "w")}, linear_gaussian()
    objective = make_objective("subsampled-elbo:subsets=0:warm_up=2")()
    torch.manual_seed(0)
    at_start = objective.loss(model.model, model.guide, x=data["x"], w=data["w"])
    torch.manual_seed(0)
    expected_value = 0.0
    for subset in [SUBSETS[1], SUBSETS[2], SUBSETS[0]]:
        masks = {mask: torch.tensor([float(name in subset)]) for name, mask in (("x", "mask"), ("w", "w_mask"))}
        expected_value -= float(pvae.log_weights(model, {**data, **masks}, 1).log_likelihood().detach())
    assert at_start == pytest.approx(expected_value)
    for _ in range(2):
        objective.loss_and_grads(model.model, model.guide, data["x"], w=data["w"])
    assert objective.loss(model.model, model.guide, data["x"], w=data["w"]) == pytest.approx(
        -sum(log_evidence(data, 0, subset) for subset in SUBSETS)
    )


def test_random_subsets_are_all_subsets_that_are_not_empty() -> None:
    data, model = {name: data_of_subsets()[name][:1] for name in ("x", "w")}, linear_gaussian()
    evidences = [log_evidence(data, 0, subset) for subset in SUBSETS[:3]]
    found = [value_of("subsampled-elbo:single=false", model, data) - evidences[0] for _ in range(40)]
    nearest = np.abs(np.subtract.outer(found, evidences))
    assert nearest.min(1).max() < 1e-8
    # each has probability 1/3: fewer than 3 of 40 have the probability 2e-5
    assert (np.bincount(nearest.argmin(1), minlength=3) >= 3).all()


def test_the_stratified_bound_and_its_gradient_are_those_of_the_same_draws() -> None:
    model = linear_gaussian("mixture")
    data = {name: value[:1].expand(7, -1) for name, value in data_of_subsets().items() if value.dim() == 2}
    torch.manual_seed(3)
    terms = make_objective("stratified-iwae:particles=2")().terms(
        model.model, model.guide, (data["x"],), {"w": data["w"]}, "all"
    )
    parameters = list(model.phi())
    found = torch.autograd.grad(terms.surrogate, parameters)
    torch.manual_seed(3)
    torch.rand(7, dtype=DOUBLE)  # the offsets of the strata
    noise = torch.randn(4, 7, 1, dtype=DOUBLE)
    experts = [model.modalities[name].encode(data[name]).base_dist for name in ("x", "w")]
    z = torch.stack([experts[k // 2].loc + experts[k // 2].scale * noise[k] for k in range(4)])
    log_q = torch.stack([expert.log_prob(z).sum(-1) for expert in experts]).logsumexp(0) - math.log(2)
    log_p = torch.distributions.Normal(0, 1).log_prob(z).sum(-1)
    for name in ("x", "w"):
        log_p = log_p + model.modalities[name].decode(z).log_prob(data[name])
    bound = ((log_p - log_q).reshape(2, 2, 7).logsumexp(1) - math.log(2)).mean(0).sum()
    assert float(-terms.loss) == pytest.approx(float(bound.detach()), abs=1e-10)
    torch.testing.assert_close(found, torch.autograd.grad(-bound, parameters))


# --- data, runs and the command line ---


def paired_data(size: int = 40) -> dict[str, np.ndarray]:
    """Pictures x of 4 x 3 and w of 2; rows of NaN are missing."""
    generator = np.random.default_rng(0)
    z = generator.normal(size=(size, 1))
    x = (z + generator.normal(size=(size, 12)) > 0).astype(float).reshape(size, 4, 3)
    w = np.concatenate([z, -z], 1) + 0.1 * generator.normal(size=(size, 2))
    x[::5], w[1::4] = np.nan, np.nan
    return {"x": x, "w": w}


def test_rows_of_nan_are_missing_in_a_run_that_is_saved_and_opened_again(tmp_path) -> None:
    data = pvae.load_data(paired_data(), missing="mask", validation=0, test=10)
    assert set(data.train) == {"x", "w", "mask", "w_mask"}
    modalities = {"x": "bernoulli", "w": {"likelihood": "gaussian", "hidden": 4, "shape": (2,)}}
    model = pvae.MultimodalVAE((4, 3), modalities, latent=2, hidden=(5,))
    run = pvae.fit(model, data, epochs=1, step="eager", progress=False, out=tmp_path / "run")
    opened = pvae.open_run(tmp_path / "run").model
    assert all(torch.equal(*pair) for pair in zip(run.model.parameters(), opened.parameters(), strict=True))
    rows = {name: value for name, value in data.test.items() if not name.endswith("mask")}
    by_row = {"mask": data.test["mask"].flatten(1)[:, 0], "w_mask": data.test["w_mask"][:, 0]}
    torch.manual_seed(0)
    expected_weights = pvae.log_weights(opened, data.test, 2).log_w
    torch.manual_seed(0)
    torch.testing.assert_close(pvae.log_weights(opened, {**rows, **by_row}, 2).log_w, expected_weights)


def test_masks_belong_to_their_split_and_a_split_without_one_is_observed() -> None:
    x, w, w_test = torch.ones(4, 3), torch.ones(4, 2), torch.ones(2, 2)
    w[0], w_test[1, 0] = math.nan, math.nan
    data = pvae.load_data({"x": x, "w": w, "x_test": x[:2], "w_test": w_test}, missing="mask", validation=0)
    assert data.train["w_mask"].tolist() == [[0, 0], [1, 1], [1, 1], [1, 1]]
    assert data.test["w_mask"].tolist() == [[1, 1], [0, 1]]
    parts = {"train": {"x": x, "mask": torch.tensor([0, 1, 1, 1])}, "test": {"x": x[:2]}}
    assert pvae.load_data(parts).test["mask"].tolist() == [1, 1]


def test_a_fitted_prior_takes_the_place_of_the_standard_normal() -> None:
    """In the weights, in new data, and among the parameters of the model."""
    model, data = linear_gaussian(), {name: value[:1] for name, value in data_of_subsets().items()}
    with_prior(model, PriorRecipe("full-gaussian", "z", (1,), {"components": 1}))
    held = [id(parameter) for parameter in (*model.theta(), *model.phi())]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    with torch.no_grad():
        model.prior.density.loc.fill_(7.0)
    weights = pvae.log_weights(model, data, 2)
    at_prior = model.prior_density().log_prob(weights.values["z"])
    torch.testing.assert_close(weights.log_joint, weights.log_likelihood() + at_prior)
    assert float(model.sample(500, mean=True)["w"].mean(0)[1]) == pytest.approx(7 * 1.2 - 0.2, abs=0.5)


def test_it_trains_and_is_shown_from_the_command_line(tmp_path) -> None:
    np.savez(tmp_path / "pairs.npz", **paired_data())
    train = ["train", "multimodal-vae", "--data", str(tmp_path / "pairs.npz"), "--missing", "mask", "--epochs", "1"]
    train += ["--set", "modalities=x=bernoulli,w=gaussian:scale=0.5", "--set", "hidden=5", "--latent", "2"]
    done = run(*train, "--objective", "subsampled-elbo:subsets=0", "--step", "eager", "--out", str(tmp_path / "run"))
    assert done.code == 0, done.err
    done = run(
        "show",
        str(tmp_path / "run"),
        "--what",
        "cross-generation",
        "--out",
        str(tmp_path / "w.png"),
        "--split",
        "train",
    )
    assert done.code == 0, done.err
    done = run("sample", str(tmp_path / "run"), "--count", "4", "--out", str(tmp_path / "new.npz"))
    assert done.code == 0 and np.load(tmp_path / "new.npz")["x"].shape == (4, 4, 3), done.err
    wrong = run(
        "show", str(tmp_path / "run"), "--what", "cross-generation", "--site", "v", "--out", str(tmp_path / "v.png")
    )
    assert wrong.code == 2 and "Unknown modality 'v'" in wrong.err


# --- bad input ---

TWO = {"x": "bernoulli", "w": "gaussian:shape=2"}
REFUSED = {
    "no x": ({"modalities": "w=gaussian:shape=2"}, "needs to be x, the main field"),
    "no text": ({"modalities": "x,w"}, "Write modalities='x=bernoulli,w=gaussian'"),
    "twice": ({"modalities": "x=bernoulli,x=gaussian"}, "got 'x' twice"),
    "labels": ({"modalities": {**TWO, "y": "categorical:classes=3"}}, "give their one-hot vectors"),
    "unknown shape": (
        {"modalities": {"x": "bernoulli", "v": "gaussian"}},
        "The shape of the modality 'v' is not known",
    ),
    "likelihood": ({"modalities": {**TWO, "x": "bernouli"}}, "did you mean 'bernoulli'"),
    "setting": ({"modalities": {**TWO, "w": {"like": "gaussian"}}}, "Unknown setting 'like'"),
    "combine": ({"modalities": TWO, "combine": "sum"}, "Unknown combine 'sum'"),
    "shape": ({"modalities": {**TWO, "w": "gaussian:shape=2y"}}, "shape of w"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_cannot_be_used_are_refused_in_one_line(name: str) -> None:
    settings, message = REFUSED[name]
    with pytest.raises(pvae.InputError, match=message) as caught:
        pvae.MultimodalVAE(4, **{"latent": 2, "hidden": 3, **settings})
    assert "\n" not in str(caught.value)


BATCH = {"x": torch.ones(3, 4), "w": torch.ones(3, 2)}
REFUSED_DATA = {
    "absent": ({"x": torch.ones(3, 4)}, "'w' needs training data, and it is not among x"),
    "no datum": ({**BATCH, "w_mask": torch.zeros(3)}, "'w' needs training data, and it is missing for every datum"),
    "mask of another size": ({**BATCH, "w_mask": torch.ones(3, 3)}, "w_mask needs one number for each datum of w"),
    "another shape": ({**BATCH, "w": torch.ones(3, 5)}, "w needs 2 values for each datum, in the shape"),
}


@pytest.mark.parametrize("name", REFUSED_DATA)
def test_data_that_cannot_be_used_are_refused_in_one_line(name: str) -> None:
    data, message = REFUSED_DATA[name]
    model = pvae.MultimodalVAE(4, TWO, latent=2, hidden=3)
    with pytest.raises(pvae.InputError, match=message) as caught:
        model.initialise_from(data)
    assert "\n" not in str(caught.value)


def test_names_masks_and_objectives_that_do_not_fit_are_refused() -> None:
    model = pvae.MultimodalVAE(4, TWO, latent=2, hidden=3)
    with pytest.raises(pvae.InputError, match="Unknown modality or mask 'v'"):
        model.encode(x=BATCH["x"], v=BATCH["w"])
    with pytest.raises(pvae.InputError, match="At least one of the modalities x, w is needed"):
        model.encode(w_mask=torch.ones(3))
    with pytest.raises(pvae.InputError, match=r"w_mask needs 1 \(observed\) or 0 \(missing\); 1 of 3 values"):
        model.initialise_from({**BATCH, "w_mask": torch.tensor([1.0, 0.5, 0.0])})
    with pytest.raises(pvae.InputError, match=r"w_mask needs 1 \(observed\) or 0 \(missing\); 3 of 3 values"):
        pvae.evaluate.log_evidence(model, {**BATCH, "w_mask": torch.full((3,), 0.5)}, particles=2)
    with pytest.raises(pvae.InputError, match=r"the same number of data; w has shape \(2, 2\), not 3"):
        model.encode(x=BATCH["x"], w=BATCH["w"][:2])
    with pytest.raises(pvae.InputError, match="needs a mixture of 2 experts"):
        value_of("stratified-iwae", model, BATCH)
    with pytest.raises(pvae.InputError, match="needs a model with several modalities"):
        make_objective("subsampled-elbo")().loss(*_programs(pvae.VAE(4, latent=2, hidden=3)), BATCH["x"])
    with pytest.raises(pvae.InputError, match="single=true, or subsets of at least 1"):
        make_objective("subsampled-elbo:single=false:subsets=0")()


def _programs(model):
    return model.model, model.guide
