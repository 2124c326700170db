"""Counts, sizes and real numbers are checked by one rule at every public entry point."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pvae
from pvae import evaluate, objectives
from pvae.checks import is_number, is_whole, require_number, require_positive, require_sizes, require_whole
from pvae.data import LinearGaussian, fit_ppca, minibatches, permutation, steps_of_epoch
from pvae.densities import ConditionalGaussian, Flat, Point
from pvae.models import codes_of, impute
from pvae.networks import Conditioned, ConvEncoder

X = torch.rand(8, 6, generator=torch.Generator().manual_seed(0)).round()
LABELS = torch.arange(8) % 2
MASK = torch.ones_like(X).tril()


def small_vae() -> pvae.VAE:
    return pvae.VAE(6, latent=2, hidden=3)


def fit(**options: Any) -> pvae.train.Run:
    data = pvae.load_data({"x": X, "x_validation": X}, test=0, binarise="none")
    settings = {"epochs": 1, "batch_size": 4, "step": "eager", "progress": False, **options}
    return pvae.fit(small_vae(), data, **settings)


def compare(**options: Any) -> Any:
    settings = {"seeds": 1, "epochs": 1, "particles": 2, "limit": 4, "workers": 0, "step": "eager", "progress": False}
    data = pvae.load_data({"x": X, "x_test": X}, validation=0, binarise="none")
    # A lambda cannot be pickled, so no worker process starts, whatever their number is.
    return pvae.compare({"vae": lambda: small_vae()}, data, "elbo", **{**settings, **options})


def judged(metric: Callable[..., Any], name: str, **settings: Any) -> Callable[[Any], Any]:
    few = {"particles": 4} if "particles" in inspect.signature(metric).parameters else {}
    return lambda count: metric(small_vae(), X, **{**few, **settings, name: count})


def masked_vae() -> pvae.MaskedVAE:
    return pvae.MaskedVAE(6, latent=2, hidden=3)


def masked_batch() -> pvae.Batch:
    return pvae.Batch(x=X, mask=MASK)


#: entry point -> (name of the argument in the error, call with the count)
COUNTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    # objectives
    **{
        f"{name}(particles)": ("particles", lambda count, name=name: getattr(pvae, name)(particles=count))
        for name in ("IWAE", "Renyi", "VIMCO", "DReG", "StickingTheLanding", "ScoreFunction", "WakeSleep", "Beta",
                     "Capacity", "Constrained", "FreeBits", "InfoMMD", "TotalCorrelation", "MIWAE", "PIWAE", "CIWAE",
                     "SemiSupervised", "VarianceRegularised", "LogVariance", "Thermodynamic")
    },
    "GraphELBO(particles)": ("particles", lambda count: objectives.GraphELBO(particles=count)),
    "Marginal(particles)": ("particles", lambda count: pvae.Marginal(lambda x, z: None, particles=count)),
    "MIWAE(batches)": ("batches", lambda count: pvae.MIWAE(batches=count)),
    "PIWAE(batches)": ("batches", lambda count: pvae.PIWAE(batches=count)),
    "FreeBits(by)": ("by", lambda count: pvae.FreeBits(by=count)),
    "Thermodynamic(partition)": ("partition", lambda count: pvae.Thermodynamic(partition=count)),
    "log_uniform(steps)": ("steps", objectives.log_uniform),
    "TotalCorrelation(data_size)": ("data_size", lambda count: pvae.TotalCorrelation(data_size=count)),
    "Alternate(theta_steps)": ("theta_steps", lambda count: pvae.Alternate(theta_steps=count)),
    "WakeSleep(phi_steps)": ("phi_steps", lambda count: pvae.WakeSleep(phi_steps=count)),
    "AAE(critic_steps)": ("critic_steps", lambda count: pvae.AAE(critic_steps=count)),
    "GAN(hidden)": ("hidden", lambda count: pvae.GAN(hidden=count)),
    "log_weights(particles)": ("particles", lambda count: pvae.log_weights(small_vae(), pvae.Batch(x=X), count)),
    # training and comparison
    **{
        f"fit({name})": (name, lambda count, name=name: fit(**{name: count}))
        for name in ("epochs", "batch_size", "validation_particles", "validation_limit", "threads", "patience",
                     "max_steps", "seed")
    },
    **{
        f"compare({name})": (name, lambda count, name=name: compare(**{name: count}))
        for name in ("epochs", "particles", "limit", "seeds", "workers", "threads")
    },
    # evaluation
    **{
        f"{metric.__name__}({name})": (name, judged(metric, name))
        for metric, names in {
            evaluate.log_evidence: ("particles", "chunk", "limit"),
            evaluate.elbo: ("particles", "chunk", "limit"),
            evaluate.diagnose: ("particles", "draws", "chunk"),
            evaluate.judge: ("particles", "draws", "chunk"),
            evaluate.to_arviz: ("draws", "limit"),
            evaluate.aggregate_test: ("permutations",),
        }.items()
        for name in names
    },
    "importance_bounds(particles)": ("particles", lambda count: evaluate.importance_bounds(small_vae(), X, [count])),
    "mmd_test(permutations)": ("permutations", lambda count: evaluate.mmd_test(X, X.flip(0), permutations=count)),
    "missing_log_likelihood(particles)": (
        "particles",
        lambda count: evaluate.missing_log_likelihood(masked_vae(), masked_batch(), count),
    ),
    "masking_divergence(particles)": (
        "particles",
        lambda count: evaluate.masking_divergence(masked_vae(), masked_batch(), count),
    ),
    "gradients(draws)": ("draws", judged(evaluate.gradients, "draws", objectives="elbo", reference_draws=2)),
    "gradients(reference_draws)": (
        "reference_draws",
        judged(evaluate.gradients, "reference_draws", objectives="elbo", draws=2),
    ),
    "search_gradients(most)": ("most", judged(evaluate.search_gradients, "most", draws=2, reference_draws=2)),
    # models
    "VAE(data_shape)": ("data_shape", lambda count: pvae.VAE(count, latent=2)),
    "VAE(latent)": ("latent", lambda count: pvae.VAE(6, latent=count)),
    "VAE(hidden)": ("hidden", lambda count: pvae.VAE(6, latent=2, hidden=count)),
    "VAE.sample(n)": ("n", lambda count: small_vae().sample(count)),
    "AIR(steps)": ("steps", lambda count: pvae.AIR((6, 6), steps=count)),
    "AIR(window)": ("window", lambda count: pvae.AIR((6, 6), window=count)),
    "AIR(latent)": ("latent", lambda count: pvae.AIR((6, 6), latent=count)),
    "GMVAE(components)": ("components", lambda count: pvae.GMVAE(6, components=count)),
    "GMVAE.cluster(draws)": ("draws", lambda count: pvae.GMVAE(6, components=2).cluster(X, draws=count)),
    "ConditionalVAE(classes)": ("classes", lambda count: pvae.ConditionalVAE(6, condition="y", classes=count)),
    "ConditionalVAE(observed)": (
        "observed",
        lambda count: pvae.ConditionalVAE((4, 4), condition="quadrants", observed=count),
    ),
    "SemiSupervisedVAE(classes)": ("classes", lambda count: pvae.SemiSupervisedVAE(6, count)),
    "LadderVAE(layers)": ("layers", lambda count: pvae.LadderVAE(6, layers=count)),
    "LadderVAE(latent)": ("latent", lambda count: pvae.LadderVAE(6, latent=count)),
    "LadderVAE(between)": ("between", lambda count: pvae.LadderVAE(6, between=count)),
    "VQVAE(codes)": ("codes", lambda count: pvae.VQVAE(6, codes=count)),
    "VQVAE(positions)": ("positions", lambda count: pvae.VQVAE(6, positions=count)),
    "LocalGuide(count)": ("count", lambda count: pvae.LocalGuide(small_vae(), count)),
    "SemiAmortised(steps)": ("steps", lambda count: pvae.SemiAmortised(small_vae(), steps=count)),
    "SemiAmortised(particles)": ("particles", lambda count: pvae.SemiAmortised(small_vae(), particles=count)),
    "impute(n)": ("n", lambda count: impute(masked_vae(), masked_batch(), n=count, particles=2)),
    "impute(particles)": ("particles", lambda count: impute(masked_vae(), masked_batch(), n=1, particles=count)),
    "codes_of(chunk)": (
        "chunk",
        lambda count: codes_of(small_vae(), pvae.load_data(X, validation=0, test=0, binarise="none"), chunk=count),
    ),
    # mixtures by EM: scikit-learn's wording, with the argument's name in quotes
    "GaussianMixture(n_components)": ("'n_components'", lambda count: pvae.GaussianMixture(count).fit(X.numpy())),
    "GaussianMixture(max_iter)": (
        "'max_iter'",
        lambda count: pvae.GaussianMixture(max_iter=count, tol=math.nextafter(1e9, 2e9)).fit(X.numpy()),
    ),
    "GaussianMixture(n_init)": ("'n_init'", lambda count: pvae.GaussianMixture(n_init=count).fit(X.numpy())),
    "GaussianMixture.sample(n_samples)": (
        "'n_samples'",
        lambda count: pvae.GaussianMixture().fit(X.numpy()).sample(count),
    ),
    # densities and networks
    "StandardNormal(latent)": ("latent", pvae.StandardNormal),
    "Flat(latent)": ("latent", Flat),
    "Point(latent)": ("latent", lambda count: Point(4, count)),
    "DiagonalGaussian(latent)": ("latent", lambda count: pvae.DiagonalGaussian(4, count)),
    "FullGaussian(latent)": ("latent", lambda count: pvae.FullGaussian(4, count)),
    "ConditionalGaussian(hidden)": ("hidden", lambda count: ConditionalGaussian(4, 2, hidden=count)),
    "MixturePrior(components)": ("components", lambda count: pvae.MixturePrior(2, count)),
    "MixturePosterior(components)": ("components", lambda count: pvae.MixturePosterior(4, 2, count)),
    "VampPrior(components)": ("components", lambda count: pvae.VampPrior(2, count, data_shape=4)),
    "FlowPrior(transforms)": ("transforms", lambda count: pvae.FlowPrior(2, transforms=count)),
    "FlowPosterior(context)": ("context", lambda count: pvae.FlowPosterior(4, 2, context=count)),
    "HouseholderPosterior(reflections)": ("reflections", lambda count: pvae.HouseholderPosterior(4, 2, count)),
    "Categorical(classes)": ("classes", lambda count: pvae.Categorical(4, (6,), count)),
    "DiscretisedLogistic(levels)": ("levels", lambda count: pvae.DiscretisedLogistic(4, (6,), count)),
    "DiscretisedLogistic(components)": ("components", lambda count: pvae.DiscretisedLogistic(4, (6,), 8, count)),
    "Quantiser(codes)": ("codes", lambda count: pvae.Quantiser(count, 2)),
    "Conditioned(features)": ("features", lambda count: Conditioned(pvae.MLP(4), count)),
    "ConvEncoder(blocks)": ("blocks", lambda count: ConvEncoder((8, 8), blocks=count)),
    # data
    "load_data(labels)": (
        "labels",
        lambda count: pvae.load_data({"x": X, "y": LABELS}, validation=0, test=0, labels=count),
    ),
    "load_data(validation)": ("validation", lambda count: pvae.load_data(X, validation=count, test=0)),
    "minibatches(size)": ("size", lambda count: list(minibatches(pvae.Batch(x=X), count, seed=0, epoch=0))),
    "steps_of_epoch(size)": ("size", lambda count: steps_of_epoch(pvae.Batch(x=X), count)),
    "permutation(size)": ("size", lambda count: permutation(count, seed=0, epoch=0)),
    "fit_ppca(latent)": ("latent", lambda count: fit_ppca(X.double(), count)),
    "LinearGaussian.sample(size)": (
        "size",
        lambda count: LinearGaussian(torch.ones(3, 1), torch.zeros(3), 1.0).sample(count),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("entry", COUNTS)
def test_a_count_may_be_a_numpy_integer(entry: str) -> None:
    _, call = COUNTS[entry]
    assert call(np.int64(2)) is not None


@pytest.mark.parametrize("wrong", [True, np.True_, 1.5, "2"], ids=["bool", "numpy-bool", "float", "text"])
@pytest.mark.parametrize("entry", COUNTS)
def test_a_count_is_no_boolean_fraction_or_text(entry: str, wrong: object) -> None:
    name, call = COUNTS[entry]
    with pytest.raises(pvae.InputError, match=name) as raised:
        call(wrong)
    assert str(wrong) in str(raised.value) and "\n" not in str(raised.value)


def test_a_numpy_integer_is_kept_as_a_python_integer() -> None:
    objective = pvae.IWAE(np.int64(4))
    assert type(objective.particles) is int
    assert type(fit(epochs=np.int64(1)).config["training"]["epochs"]) is int
    assert pvae.VAE(6, latent=np.int64(3)).latent == 3 and type(pvae.VAE(6, latent=np.int64(3)).latent) is int


# --- the rule itself ---


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3)])
def test_whole_numbers_come_back_as_python_integers(value: Any) -> None:
    assert is_whole(value) and is_number(value)
    for held in (require_whole(value, "n"), require_number(value, "n"), require_positive(value, "n")):
        assert type(held) is int and held == 3


@pytest.mark.parametrize("value", [True, np.False_, 3.0, np.float32(3), "3", None, Fraction(3), torch.tensor(3)])
def test_what_is_not_a_whole_number_is_refused(value: Any) -> None:
    assert not is_whole(value)
    with pytest.raises(pvae.InputError, match="n needs a whole number of at least 1; got "):
        require_whole(value, "n")


def test_the_message_says_the_range_and_what_to_do() -> None:
    with pytest.raises(pvae.InputError, match=r"^n needs a whole number from 1 to 3; got 4\. Ask for less\.$"):
        require_whole(4, "n", most=3, advice="Ask for less.")
    with pytest.raises(pvae.InputError, match=r"^n needs a whole number of at least 0; got -1\.$"):
        require_whole(-1, "n", least=0)
    assert require_whole(0, "n", least=0) == 0 and require_whole(3, "n", most=3) == 3


def test_sizes_are_one_whole_number_or_several() -> None:
    assert require_sizes(np.int64(4), "hidden") == (4,)
    assert require_sizes([np.int64(4), 5], "hidden") == (4, 5)
    assert require_sizes((), "hidden") == ()
    for wrong in (0, (4, 0), "44", True, (4, True), 2.0, None):
        with pytest.raises(pvae.InputError, match="hidden needs whole numbers of at least 1; got "):
            require_sizes(wrong, "hidden")


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "words"),
    [
        ({}, [-1e9, 0, np.float32(2)], [math.inf, -math.inf], "a finite number"),
        ({"least": 0}, [0, 1e9], [-1e-9, math.inf], "a number of at least 0"),
        ({"most": 0}, [0, -1], [1e-9], "a number of at most 0"),
        ({"least": 0, "most": 1}, [0, 1, 0.5], [-0.1, 1.1], "a number from 0 to 1"),
        ({"least": 0, "below": 1}, [0, 0.99], [1, 1.0], "a number from 0 to below 1"),
        ({"above": 0, "below": 1}, [0.5], [0, 1], "a number above 0 and below 1"),
        ({"above": -math.inf, "infinite": True}, [math.inf, 0], [-math.inf], "a number above -inf"),
    ],
)
def test_a_number_lies_in_its_range(limits: dict[str, Any], inside: list[Any], outside: list[Any], words: str) -> None:
    for value in inside:
        assert require_number(value, "rate", **limits) == value
    for value in [*outside, math.nan, True, "0.5", None]:
        with pytest.raises(pvae.InputError, match=f"^rate needs {words}; got "):
            require_number(value, "rate", **limits)


def test_a_positive_number_is_finite() -> None:
    assert require_positive(np.float64(0.5), "scale") == 0.5 and type(require_positive(np.float64(1), "scale")) is float
    for wrong in (0, -1.0, math.inf, math.nan, True, "1"):
        with pytest.raises(pvae.InputError, match=r"^scale needs a positive number; got "):
            require_positive(wrong, "scale")


def test_a_module_keeps_plain_numbers() -> None:
    layer: nn.Module = Conditioned(pvae.MLP(4, hidden=(3,)), np.int64(2))
    h: Tensor = layer(torch.rand(5, 4), torch.rand(5, 2))
    assert h.shape == (5, 3)
