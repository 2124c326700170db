"""One table of every model and density, which feeds the contracts that all of them keep.

A new model or density gets a line here, and with it the shared tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import exact
import torch
import tutorial_vae
from torch import Tensor, nn

from pvae.batch import Batch
from pvae.densities import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiagonalGaussian,
    DiscretisedLogistic,
    FlowPosterior,
    FlowPrior,
    FullGaussian,
    Gaussian,
    HouseholderPosterior,
    MixturePosterior,
    MixturePrior,
    NegativeBinomial,
    Poisson,
    SpherePrior,
    StandardNormal,
    VonMisesFisherPosterior,
)
from pvae.densities.full_mixture import FullMixturePrior
from pvae.densities.standardised_flow import StandardisedFlowPrior
from pvae.models.attend_infer_repeat import AIR
from pvae.models.autoencoder import Autoencoder
from pvae.models.conditional import ConditionalVAE
from pvae.models.gaussian_mixture_vae import GMVAE
from pvae.models.joint import JointVAE
from pvae.models.ladder import LadderVAE
from pvae.models.masked import MaskedVAE
from pvae.models.mixture import GMM
from pvae.models.multimodal import MultimodalVAE
from pvae.models.semisupervised import SemiSupervisedVAE
from pvae.models.sequence import SequenceVAE
from pvae.models.topic_model import ProdLDA
from pvae.models.vae import VAE
from pvae.models.vector_quantised import VQVAE
from pvae.objectives import named


@dataclass(frozen=True)
class ModelCase:
    """A small latent model and data for it.

    Args:
        make: makes a fresh one.
        data: makes a batch of x of the given size.
        exact: whether parameters and data are float64 from the start.
        reparameterised: whether gradients flow through the guide's draws.
        latent_sites: names and event shapes of the latent sites.
        data_shape: shape of the observed event.
        beside: makes the other fields of a batch of the given size.
        objective: trains it; by default the model's own.
        traced: whether a step of it can be traced to a graph.
        generates: whether z can be drawn from the prior.
    """

    make: Callable[[], nn.Module]
    data: Callable[[int], Tensor]
    exact: bool
    reparameterised: bool
    latent_sites: dict[str, tuple[int, ...]]
    data_shape: tuple[int, ...]
    beside: Callable[[int], dict[str, Tensor]] = lambda size: {}
    objective: str | None = None
    traced: bool = True
    generates: bool = True

    def batch(self, size: int) -> Batch:
        """Make a batch of the given size."""
        return Batch(x=self.data(size), **self.beside(size))


@dataclass(frozen=True)
class DensityCase:
    """A density, the shape of its context (None: it needs none) and of its events.

    Args:
        closed: whether its entropy has a closed form, or is a sum.
        uniform: whether it is constant on its support, so that the scores of draws do not depend on the draws.
    """

    make: Callable[[], nn.Module]
    context: tuple[int, ...] | None
    event: tuple[int, ...]
    discrete: bool = False
    closed: bool = True
    uniform: bool = False


def _binary(*shape: int) -> Callable[[int], Tensor]:
    def draw(size: int) -> Tensor:
        return torch.rand(size, *shape, generator=torch.Generator().manual_seed(size)).round()

    return draw


def _real(*shape: int) -> Callable[[int], Tensor]:
    def draw(size: int) -> Tensor:
        return torch.randn(size, *shape, generator=torch.Generator().manual_seed(size))

    return draw


def _grey(*shape: int) -> Callable[[int], Tensor]:
    return lambda size: _real(*shape)(size).sigmoid().mul(16).round() / 16


def _counts(*shape: int) -> Callable[[int], Tensor]:
    return lambda size: _grey(*shape)(size).mul(4).round()


def _double(draw: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
    return lambda size: draw(size).double()


def _vae(data: Callable[[int], Tensor], event: tuple[int, ...], **settings: object) -> ModelCase:
    small = {"latent": 3, "hidden": (7, 5), **settings}
    return ModelCase(lambda: VAE(**small), data, False, True, {"z": (3,)}, event)  # type: ignore[arg-type]


def _masked(data: Callable[[int], Tensor], event: tuple[int, ...], **settings: object) -> ModelCase:
    small = {"latent": 3, "hidden": (7, 5), **settings}

    def beside(size: int) -> dict[str, Tensor]:
        kept = torch.rand(data(size).shape, generator=torch.Generator().manual_seed(7 + size)) < 0.6
        return {"mask": kept.float()}

    return ModelCase(lambda: MaskedVAE(**small), data, False, True, {"z": (3,)}, event, beside)  # type: ignore[arg-type]


def _conditional(event: tuple[int, ...], beside: dict[str, Callable[[int], Tensor]], **settings: object) -> ModelCase:
    small = {"latent": 3, "hidden": (7, 5), **settings}
    return ModelCase(
        lambda: ConditionalVAE(**small),  # type: ignore[arg-type]
        _binary(*settings["data_shape"]),  # type: ignore[misc]
        exact=False,
        reparameterised=True,
        latent_sites={"z": (3,)},
        data_shape=event,
        beside=lambda size: {name: draw(size) for name, draw in beside.items()},
    )


def _multimodal(combine: str) -> ModelCase:
    """Two fields, of which some data have one, and some none."""

    def beside(size: int) -> dict[str, Tensor]:
        rows = torch.arange(size)
        return {"w": _real(4)(size), "w_mask": (rows % 2 > 0).float(), "mask": (rows % 3 > 0).float()}

    return ModelCase(
        lambda: MultimodalVAE(
            (12,),
            "x=bernoulli,w=gaussian",
            field_shapes=(("w", (4,)),),
            combine=combine,
            latent=3,
            hidden=(7, 5),
        ),
        _binary(12),
        exact=False,
        reparameterised=True,
        latent_sites={"z": (3,)},
        data_shape=(12,),
        beside=beside,
    )


def _semisupervised(data: Callable[[int], Tensor], event: tuple[int, ...], **settings: object) -> ModelCase:
    small = {"classes": 3, "latent": 3, "hidden": (7, 5), **settings}

    def beside(size: int) -> dict[str, Tensor]:
        return {"y": torch.arange(size) % 4 - 1}

    sites = {"y": (), "z": (3,)}
    return ModelCase(lambda: SemiSupervisedVAE(**small), data, False, False, sites, event, beside)  # type: ignore[arg-type]


def _autoencoder(generates: bool = False, objective: str | None = None, **settings: object) -> ModelCase:
    small = {"data_shape": (12,), "latent": 3, "hidden": (7, 5), **settings}
    return ModelCase(
        lambda: Autoencoder(**small),  # type: ignore[arg-type]
        _binary(12),
        exact=False,
        reparameterised=True,
        latent_sites={"z": (3,)},
        data_shape=(12,),
        objective=objective,
        generates=generates,
    )


def _mixture(**settings: object) -> ModelCase:
    small = {"data_shape": (12,), "components": 3, "latent": 3, "hidden": (7, 5), **settings}
    return ModelCase(lambda: GMVAE(**small), _binary(12), False, True, {"z": (3,), "y": ()}, (12,))  # type: ignore[arg-type]


def _air(**settings: object) -> ModelCase:
    small = {"data_shape": (6, 5), "steps": 2, "window": 3, "latent": 2, "hidden": 4, "presence": 0.4, **settings}
    sites: dict[str, tuple[int, ...]] = {}
    for step in range(2):
        sites |= {f"z_pres_{step}": (), f"z_where_{step}": (3,), f"z_what_{step}": (2,)}
    return ModelCase(lambda: AIR(**small), _grey(6, 5), False, False, sites, (6, 5))  # type: ignore[arg-type]


def _ladder(**settings: object) -> ModelCase:
    small = {"data_shape": (12,), "latent": (3, 2), "hidden": (7, 5), "between": 4, **settings}
    sites: dict[str, tuple[int, ...]] = {"z1": (3,), "z2": (2,)}
    return ModelCase(lambda: LadderVAE(**small), _binary(12), False, True, sites, (12,))  # type: ignore[arg-type]


def _sequence(**settings: object) -> ModelCase:
    small = {"data_shape": (2, 4), "latent": 2, "hidden": 5, "state": 4, "between": 3, **settings}
    return ModelCase(
        lambda: SequenceVAE(**small),  # type: ignore[arg-type]
        _binary(2, 4),
        exact=False,
        reparameterised=True,
        latent_sites={"z0": (2,), "z1": (2,)},
        data_shape=(4,),
        beside=lambda size: {"lengths": torch.arange(size) % 2 + 1},
    )


def _topics(**settings: object) -> ModelCase:
    small = {"data_shape": (6,), "topics": 3, "hidden": 5, **settings}
    return ModelCase(lambda: ProdLDA(**small), _counts(6), False, True, {"z": (3,)}, (6,))  # type: ignore[arg-type]


def _quantised(data: Callable[[int], Tensor], event: tuple[int, ...], **settings: object) -> ModelCase:
    small = {"codes": 5, "latent": 2, "hidden": (7, 5), **settings}
    positions = VQVAE(**small).positions  # type: ignore[arg-type]
    return ModelCase(lambda: VQVAE(**small), data, False, False, {"k": (positions,)}, event)  # type: ignore[arg-type]


MODELS: dict[str, ModelCase] = {
    "vae": _vae(_binary(12), (12,), data_shape=(12,)),
    "vae-pictures": _vae(_binary(4, 3), (12,), data_shape=(4, 3)),
    "vae-gated": _vae(_binary(12), (12,), data_shape=(12,), network="gated"),
    "vae-conv": _vae(_binary(6, 5), (6, 5), data_shape=(6, 5), network="conv", hidden=(2, 3)),
    "vae-resnet": _vae(_binary(6, 5), (6, 5), data_shape=(6, 5), network="resnet", hidden=(2, 3)),
    "vae-vamp": _vae(
        _binary(6, 5), (6, 5), data_shape=(6, 5), network="conv", hidden=(2, 3), prior="vamp:components=4"
    ),
    "vae-flows": _vae(
        _binary(12), (12,), data_shape=(12,), prior="flow:transforms=2:hidden=6", posterior="flow:transforms=2:hidden=6"
    ),
    "vae-mixtures": _vae(
        _binary(12), (12,), data_shape=(12,), prior="mixture:components=3", posterior="mixture:components=2"
    ),
    "vae-sphere": ModelCase(
        lambda: VAE((12,), latent=3, hidden=(7, 5), prior="sphere", posterior="von-mises-fisher"),
        _binary(12),
        exact=False,
        reparameterised=True,
        latent_sites={"z": (3,)},
        data_shape=(12,),
        traced=False,
    ),
    "vae-gaussian": _vae(_real(12), (12,), data_shape=(12,), likelihood="gaussian"),
    "vae-gaussian-fixed": _vae(_real(12), (12,), data_shape=(12,), likelihood="gaussian:scale=0.3"),
    "vae-grey": _vae(_grey(12), (12,), data_shape=(12,), likelihood="discretised-logistic:levels=17:components=2"),
    "vae-counts": _vae(_counts(6, 5), (30,), data_shape=(6, 5), likelihood="negative-binomial"),
    "vae-classes": _vae(_counts(6, 5), (6, 5), data_shape=(6, 5), likelihood="categorical:classes=5", network="conv"),
    "autoencoder": _autoencoder(),
    "autoencoder-denoising": _autoencoder(noise="masking:share=0.3"),
    "autoencoder-spectral": _autoencoder(spectral=True, objective="rae:penalty=gradient"),
    "autoencoder-map": _autoencoder(generates=True, prior="standard"),
    "masked-vae": _masked(_binary(12), (12,), data_shape=(12,)),
    "masked-vae-conv": _masked(_binary(6, 5), (6, 5), data_shape=(6, 5), network="conv", hidden=(2, 3)),
    "masked-vae-counts": _masked(
        _counts(6, 5), (30,), data_shape=(6, 5), likelihood="negative-binomial", encode_mask=False
    ),
    "multimodal-vae": _multimodal("product"),
    "multimodal-vae-mixture": _multimodal("mixture"),
    "cvae": _conditional((12,), {"y": lambda size: torch.arange(size) % 3}, data_shape=(12,), classes=3),
    "cvae-vectors": _conditional(
        (12,), {"c": _real(2)}, data_shape=(12,), condition_shape=(2,), network="gated", prior="conditional:hidden=4"
    ),
    "cvae-quadrants": _conditional(
        (6, 5), {}, data_shape=(6, 5), condition="quadrants", observed=2, network="conv", hidden=(2, 3)
    ),
    "ssvae": _semisupervised(_binary(12), (12,), data_shape=(12,), label_prior="learned"),
    "ssvae-sampled": _semisupervised(_binary(12), (12,), data_shape=(12,), infer_labels="sampled"),
    "ssvae-factorised": _semisupervised(_real(12), (12,), data_shape=(12,), likelihood="gaussian", factorised=True),
    "ssvae-conv": _semisupervised(_binary(6, 5), (6, 5), data_shape=(6, 5), network="conv", hidden=(2, 3)),
    "gmm": ModelCase(lambda: GMM((3,), components=2, covariance="diag"), _real(3), False, False, {"z": ()}, (3,)),
    "gmm-amortised": ModelCase(
        lambda: GMM((3,), components=2, guide="amortised", hidden=5), _real(3), False, False, {"z": ()}, (3,)
    ),
    "gmm-prior": ModelCase(
        lambda: GMM((3,), components=2, covariance="tied", prior="conjugate", data_size=8),
        _real(3),
        False,
        False,
        {"z": ()},
        (3,),
    ),
    "air": _air(),
    "gmvae": _mixture(),
    "gmvae-amortised": _mixture(inference="amortised"),
    "joint-vae": ModelCase(
        lambda: JointVAE((12,), categories=3, latent=3, hidden=(7, 5)),
        _binary(12),
        exact=False,
        reparameterised=True,
        latent_sites={"z": (3,), "y": ()},
        data_shape=(12,),
    ),
    "ladder-vae": _ladder(),
    "ladder-vae-bottom-up": _ladder(inference="bottom-up", skip=True),
    "vqvae": _quantised(_binary(12), (12,), data_shape=(12,), positions=3, prior="learned"),
    "vqvae-average": _quantised(
        _binary(6, 5), (6, 5), data_shape=(6, 5), network="conv", hidden=(2, 3), codebook="average", restart=0.3
    ),
    "sequence-vae": _sequence(),
    "sequence-vae-recurrent": _sequence(transition="recurrent", inference="filtering"),
    "prodlda": _topics(),
    "prodlda-mixture": _topics(combine="mixture"),
    "linear-gaussian": ModelCase(exact.LinearGaussianModel, _double(_real(3)), True, True, {"z": (2,)}, (3,)),
    "two-layer": ModelCase(exact.TwoLayerModel, _double(_real(3)), True, True, {"z2": (2,), "z1": (2,)}, (3,)),
    "discrete": ModelCase(
        exact.DiscreteModel, lambda size: torch.arange(size) % 4, True, False, {"z": ()}, (), objective="elbo-enum"
    ),
    "tutorial": ModelCase(
        lambda: tutorial_vae.VAE(z_dim=3, hidden_dim=5), _binary(784), False, True, {"latent": (3,)}, (784,)
    ),
}

DENSITIES: dict[str, DensityCase] = {
    "standard-normal": DensityCase(lambda: StandardNormal(3), None, (3,)),
    "diagonal-gaussian": DensityCase(lambda: DiagonalGaussian(5, 3), (5,), (3,)),
    "full-gaussian": DensityCase(lambda: FullGaussian(5, 3), (5,), (3,)),
    "householder-posterior": DensityCase(lambda: HouseholderPosterior(5, 3), (5,), (3,), closed=False),
    "mixture-prior": DensityCase(lambda: MixturePrior(3, 4), None, (3,), closed=False),
    "mixture-posterior": DensityCase(lambda: MixturePosterior(5, 3, 2), (5,), (3,), closed=False),
    "full-mixture": DensityCase(lambda: FullMixturePrior(3, 2), None, (3,), closed=False),
    "standardised-flow": DensityCase(
        lambda: StandardisedFlowPrior(3, transforms=1, hidden=4), None, (3,), closed=False
    ),
    "flow-prior": DensityCase(lambda: FlowPrior(3, transforms=1, hidden=4), None, (3,), closed=False),
    "flow-posterior": DensityCase(lambda: FlowPosterior(5, 3, "planar", transforms=2), (5,), (3,), closed=False),
    "sphere": DensityCase(lambda: SpherePrior(3), None, (3,), uniform=True),
    "von-mises-fisher": DensityCase(lambda: VonMisesFisherPosterior(5, 3), (5,), (3,)),
    "bernoulli": DensityCase(lambda: Bernoulli(5, (6,)), (5,), (6,), discrete=True),
    "bernoulli-pictures": DensityCase(lambda: Bernoulli(5, (2, 3)), (5,), (2, 3), discrete=True),
    "bernoulli-maps": DensityCase(lambda: Bernoulli((2, 2, 3), (4, 5)), (2, 2, 3), (4, 5), discrete=True),
    "gaussian": DensityCase(lambda: Gaussian(5, (6,)), (5,), (6,)),
    "gaussian-fixed": DensityCase(lambda: Gaussian(5, (6,), 0.1), (5,), (6,)),
    "gaussian-maps": DensityCase(lambda: Gaussian((2, 2, 3), (3, 4, 6)), (2, 2, 3), (3, 4, 6)),
    "gaussian-per-pixel": DensityCase(lambda: Gaussian(5, (2, 3), "per-pixel"), (5,), (2, 3)),
    "gaussian-network": DensityCase(lambda: Gaussian((2, 2, 3), (4, 5), "network"), (2, 2, 3), (4, 5)),
    "continuous-bernoulli": DensityCase(lambda: ContinuousBernoulli(5, (6,)), (5,), (6,)),
    "discretised-logistic": DensityCase(lambda: DiscretisedLogistic(5, (2, 3)), (5,), (2, 3), discrete=True),
    "discretised-logistic-maps": DensityCase(
        lambda: DiscretisedLogistic((2, 1, 2), (3, 2, 3), 17, 2), (2, 1, 2), (3, 2, 3), discrete=True
    ),
    "categorical": DensityCase(lambda: Categorical(5, (6,), 4), (5,), (6,), discrete=True),
    "categorical-maps": DensityCase(lambda: Categorical((2, 2, 3), (4, 5), 4), (2, 2, 3), (4, 5), discrete=True),
    "poisson": DensityCase(lambda: Poisson(5, (6,)), (5,), (6,), discrete=True),
    "negative-binomial": DensityCase(lambda: NegativeBinomial(5, (6,), "per-entry"), (5,), (6,), discrete=True),
}


@dataclass(frozen=True)
class ObjectiveCase:
    """An objective by its text, and what the shared contracts ask of it.

    A named objective without a row of its own gets one: its name alone, with the defaults and the guide that it admits.

    Args:
        guide: "pathwise" if it needs a reparameterised guide, "marked" if a site marked for enumeration, "labelled" if
            labels too, "quantised" if a `pvae.Quantiser` between the programs, "multimodal" if a `pvae.MultimodalVAE`,
            "experts" if one with a mixture of experts, else "any".
        traced: whether a step of it can be traced to a graph.
        scales: whether a scale of every datum multiplies its loss and gradient.
        untrained: the groups of the latent model that no step of it moves.
    """

    guide: str = "pathwise"
    traced: bool = True
    scales: bool = True
    untrained: tuple[str, ...] = ()


OBJECTIVES: dict[str, ObjectiveCase] = {
    "elbo": ObjectiveCase("any"),
    "elbo:particles=3": ObjectiveCase("any"),
    "elbo-analytic": ObjectiveCase(),
    "elbo-graph": ObjectiveCase("any"),
    "elbo-graph:baseline=decaying": ObjectiveCase("any"),
    "elbo-graph:baseline=network": ObjectiveCase("any", scales=False),
    "elbo-enum": ObjectiveCase("marked"),
    "em": ObjectiveCase("marked"),
    "iwae:particles=3": ObjectiveCase("any"),
    "iwae:particles=2:gradients=b=enumerate": ObjectiveCase("any"),
    "iwae:particles=3:gradients=b=measure,z=measure": ObjectiveCase("any"),
    "iwae:particles=3:gradients=b=disarm": ObjectiveCase("any"),
    "iwae:particles=3:gradients=b=arm,z=score": ObjectiveCase("any"),
    "iwae:particles=3:gradients=b=concrete": ObjectiveCase("any"),
    "iwae:particles=3:gradients=b=straight-through": ObjectiveCase("any"),
    "miwae": ObjectiveCase("any"),
    "ciwae": ObjectiveCase("any"),
    "piwae": ObjectiveCase("any"),
    "renyi:alpha=0.5:particles=3": ObjectiveCase("any"),
    "renyi:alpha=-1:particles=3": ObjectiveCase("any"),
    "renyi:alpha=1:particles=3": ObjectiveCase("any"),
    "renyi:alpha=2:particles=3": ObjectiveCase("any"),
    "renyi:alpha=inf:particles=3": ObjectiveCase("any"),
    "tvo": ObjectiveCase("any"),
    "beta:beta=4": ObjectiveCase("any"),
    "capacity": ObjectiveCase(),
    "joint-capacity": ObjectiveCase("marked"),
    "geco:target=-4": ObjectiveCase(),
    "free-bits": ObjectiveCase(),
    "variance": ObjectiveCase("any"),
    "log-variance": ObjectiveCase("any"),
    "info-mmd": ObjectiveCase(),
    "wae": ObjectiveCase(),
    "total-correlation:data_size=100": ObjectiveCase(),
    "stl:particles=1": ObjectiveCase(),
    "stl:particles=3": ObjectiveCase(),
    "dreg:particles=3": ObjectiveCase(),
    "dreg:particles=3:alpha=0.5": ObjectiveCase(),
    "reinforce": ObjectiveCase("any"),
    "reinforce:baseline=none:particles=1": ObjectiveCase("any"),
    "reinforce:baseline=-2:particles=1": ObjectiveCase("any"),
    "reinforce:baseline=mean": ObjectiveCase("any"),
    "reinforce:baseline=decaying": ObjectiveCase("any"),
    "reinforce:baseline=network": ObjectiveCase("any"),
    "reinforce:baseline=optimal": ObjectiveCase("any"),
    "reinforce:baseline=optimal-per-coordinate": ObjectiveCase("any"),
    "reinforce:gradients=b=measure": ObjectiveCase("any"),
    "vimco:particles=3": ObjectiveCase("any"),
    "vimco:particles=3:mean=arithmetic": ObjectiveCase("any"),
    "alternate": ObjectiveCase("any"),
    "dirac": ObjectiveCase(),
    "rae": ObjectiveCase(),
    "rae:penalty=gradient": ObjectiveCase(),
    "vq": ObjectiveCase("quantised"),
    "vq:commitment=2": ObjectiveCase("quantised"),
    "subsampled-elbo:single=false:warm_up=4": ObjectiveCase("multimodal"),
    "stratified-iwae:particles=2": ObjectiveCase("experts"),
    "rws:particles=3": ObjectiveCase("any"),
    "rws:particles=3:phi=sleep": ObjectiveCase("any"),
    "rws:particles=3:phi=both": ObjectiveCase("any"),
    "semi-supervised": ObjectiveCase("labelled"),
    "semi-supervised:particles=2:share=0.2": ObjectiveCase("labelled"),
    "semi-supervised:weight=1:generative=false": ObjectiveCase("labelled", untrained=("theta",)),
    "gan": ObjectiveCase("any", untrained=("phi",)),
    "gan:loss=minimax:critic_steps=2": ObjectiveCase("any", untrained=("phi",)),
    "gan:loss=wasserstein": ObjectiveCase("any", untrained=("phi",)),
    "gan:loss=least-squares:spectral=true": ObjectiveCase("any", untrained=("phi",)),
    "aae": ObjectiveCase(),
    "aae:loss=wasserstein:hidden=8,8": ObjectiveCase(),
    "factor-vae": ObjectiveCase(),
    "vae-gan:gamma=0.3:hidden=6,5": ObjectiveCase(),
    "ali": ObjectiveCase(),
    "ali:spectral=true:penalty=1": ObjectiveCase(),
}


def _add_missing_objectives() -> None:
    listed = {text.partition(":")[0] for text in OBJECTIVES}
    for name in named.OBJECTIVES.keys() - listed:
        needs_pathwise = getattr(named.OBJECTIVES[name][0], "pathwise", False)
        OBJECTIVES[name] = ObjectiveCase("pathwise" if needs_pathwise else "any")


_add_missing_objectives()
