"""A prior that was fitted to the codes of a trained model: how it is built, and how it replaces p(z)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions.transforms import ReshapeTransform

from pvae.densities.autoregressive import AutoregressivePrior
from pvae.densities.full_mixture import FullMixturePrior
from pvae.densities.mixtures import MixturePrior
from pvae.densities.parts import accepted, check_settings
from pvae.densities.standardised_flow import StandardisedFlowPrior
from pvae.densities.vamp import VampPrior
from pvae.models.build import MODELS
from pvae.models.density_traits import density_traits_of
from pvae.models.second_stage import SecondStage
from pvae.names import require_known
from pvae.programs.model_traits import traits_of
from pvae.programs.parameter_scope import restore_store, scope, store_tensors
from pvae.programs.wrapped import WrappedModel, declared

__all__ = [
    "PRIOR_MAKERS",
    "FittedPrior",
    "ModelWithPrior",
    "PriorRecipe",
    "TwoStageModel",
    "is_built_in",
    "prior_recipe_of",
    "with_prior",
    "without_prior",
]


def _make_aggregate(latent: int, components: int, covariance: str = "diagonal") -> nn.Module:
    """Return a mixture of posteriors q(z given x), Gaussians with diagonal or full covariances."""
    require_known("covariance of q", covariance, ("diagonal", "full"))
    return FullMixturePrior(latent, components) if covariance == "full" else MixturePrior(latent, components)


# Saved runs contain these names to build the prior again, so a name must not change.
PRIOR_MAKERS: dict[str, Callable[..., nn.Module]] = {
    "aggregate": _make_aggregate,
    "autoregressive": AutoregressivePrior,
    "flow": StandardisedFlowPrior,
    "full-gaussian": FullMixturePrior,
    "mixture": FullMixturePrior,
    "vae": SecondStage,
    "vamp": VampPrior,
}


@dataclass(frozen=True)
class PriorRecipe:
    """How a fitted prior is built again, and its latent site.

    Attributes:
        kind: a name of `PRIOR_MAKERS`.
        site: the latent site of the model; the topmost one of several layers.
        shape: the event shape of the site: the shape of one z, or of the codes of one datum.
        settings: the further arguments of the constructor.
    """

    kind: str
    site: str
    shape: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def site_above(self) -> str:
        """The name of the site that a second stage adds."""
        return f"{self.site}_above"

    def build(self) -> nn.Module:
        """Return the density with initial parameters.

        Raises:
            InputError: for an unknown kind, or settings that cannot be used.
        """
        require_known("kind of prior", self.kind, PRIOR_MAKERS)
        maker = PRIOR_MAKERS[self.kind]
        first, *_ = accepted(maker)[0]
        # a run folder may come from another person
        check_settings(f"The prior {self.kind!r}", maker, {first: math.prod(self.shape), **self.settings})
        return maker(math.prod(self.shape), **self.settings)

    def record(self) -> dict[str, Any]:
        """Return the recipe as values of TOML."""
        return {"kind": self.kind, "site": self.site, "shape": list(self.shape), "settings": dict(self.settings)}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> PriorRecipe:
        """Return the recipe that `record` returned."""
        settings = {
            name: tuple(value) if isinstance(value, list) else value for name, value in record["settings"].items()
        }
        return cls(record["kind"], record["site"], tuple(record["shape"]), settings)


class FittedPrior(nn.Module):
    """A fitted prior with its recipe, which replaces the prior of a model.

    Args:
        recipe: how the density is built.
        density: the density.
    """

    def __init__(self, recipe: PriorRecipe, density: nn.Module) -> None:
        super().__init__()
        self.recipe, self.density = recipe, density

    @property
    def takes_posterior(self) -> bool:
        """Whether the density is made of posteriors."""
        return density_traits_of(self.density).takes_posterior

    def forward(self, context: Any = None) -> Any:
        """Return p(z), with batch shape () and the event shape of the site."""
        return _with_event_shape(self.density(context), self.recipe.shape)


def _with_event_shape(density: Any, shape: tuple[int, ...]) -> Any:
    """Return a density of vectors as a density with an event shape of the same number of values."""
    if tuple(density.event_shape) == shape:
        return density
    return dist.TransformedDistribution(density, [ReshapeTransform(density.event_shape, torch.Size(shape))])


class _ReplaceDensity(Messenger):
    """A handler that replaces the distribution of one latent site.

    Args:
        site: the name of the site.
        density: returns the distribution, with batch shape ().
    """

    def __init__(self, site: str, density: Callable[[], Any]) -> None:
        super().__init__()
        self.site, self.density = site, density

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.site:
            # the plates of the program are inside this handler, and have expanded the site already
            msg["fn"] = self.density().expand(msg["fn"].batch_shape)


class ModelWithPrior(WrappedModel):
    """A latent model with another density at one latent site of its model. The guide does not change.

    Args:
        latent_model: the inner latent model, a module.
        prior: the density, with its recipe.
    """

    def __init__(self, latent_model: Any, prior: FittedPrior) -> None:
        super().__init__(latent_model)
        self.prior = prior
        self.default_objective = traits_of(latent_model).default_objective

    def run_model(self, *args: Any, **kwargs: Any) -> Any:
        """Run the inner model with the prior at its site."""
        with _ReplaceDensity(self.prior.recipe.site, self.prior):
            return super().run_model(*args, **kwargs)

    def run_guide(self, *args: Any, **kwargs: Any) -> Any:
        """Run the inner guide."""
        arguments = self.arguments_by_name(args, kwargs)
        return self.inner.guide(**self.arguments_for(self.inner.guide, arguments))

    def theta(self) -> list[nn.Parameter]:
        """Return the parameters of the inner model, if it declares them, and the parameters of the prior."""
        return [*super().theta(), *self.prior.parameters()]

    def phi(self) -> list[nn.Parameter]:
        """Return the parameters of the inner model's guide, if the inner model declares them."""
        return declared(self.inner, "phi")


class _DrawAbove(Messenger):
    """A handler of a two-stage model: it draws u in addition to the site z, in the plates of z.

    In the model u is drawn before z, and z has its density given u. In the guide u is inferred from the drawn z.

    Args:
        prior: the second stage, with its recipe.
        is_guide: whether it handles the guide.
    """

    def __init__(self, prior: FittedPrior, *, is_guide: bool) -> None:
        super().__init__()
        self.prior, self.is_guide = prior, is_guide
        self.stage: SecondStage = prior.density  # type: ignore[assignment]

    def _pyro_sample(self, msg: Any) -> None:
        recipe = self.prior.recipe
        if msg["name"] == recipe.site and not self.is_guide:
            shape = msg["fn"].batch_shape
            u = pyro.sample(recipe.site_above, self.stage.latent_density().expand(shape))
            density = _with_event_shape(self.stage.code_density(u), recipe.shape)
            msg["fn"] = density.expand(torch.broadcast_shapes(shape, density.batch_shape))

    def _pyro_post_sample(self, msg: Any) -> None:
        recipe = self.prior.recipe
        if msg["name"] == recipe.site and self.is_guide:
            z = msg["value"]
            flat = z.reshape(*z.shape[: z.dim() - len(recipe.shape)], -1)
            pyro.sample(recipe.site_above, self.stage.infer(flat))


class TwoStageModel(ModelWithPrior):
    """A latent model with a `SecondStage` in place of p(z): a hierarchy of u, z and x.

    Its sites are those of the inner model and u, which is named like z with ``_above``. q(z given x) does not change,
    and u is inferred from z. The evidence is estimated by weights of z and u together.

    Source: Dai & Wipf, Diagnosing and Enhancing VAE Models, arXiv:1903.05789, section 4.
    """

    def run_model(self, *args: Any, **kwargs: Any) -> Any:
        """Run the inner model with u above z."""
        with _DrawAbove(self.prior, is_guide=False):
            return self.inner.model(*args, **kwargs)

    def run_guide(self, *args: Any, **kwargs: Any) -> Any:
        """Run the inner guide, and infer u from z."""
        with _DrawAbove(self.prior, is_guide=True):
            return super().run_guide(*args, **kwargs)

    def phi(self) -> list[nn.Parameter]:
        """Return the parameters of the inner model's guide, if it declares them, and of q(u given z)."""
        return [*super().phi(), *self.prior.density.vae.phi()]  # type: ignore[union-attr,operator]

    def theta(self) -> list[nn.Parameter]:
        """Return the parameters of the inner model, if it declares them, and of p(z given u)."""
        return [*declared(self.inner, "theta"), *self.prior.density.vae.theta()]  # type: ignore[union-attr,operator]


def is_built_in(latent_model: Any) -> bool:
    """Return whether a model reads p(z) from its attribute `prior`. A user's subclass may not do so."""
    return type(latent_model) in MODELS.values() and isinstance(getattr(latent_model, "prior", None), nn.Module)


def with_prior(latent_model: Any, recipe: PriorRecipe, density: nn.Module | None = None) -> Any:
    """Return a latent model with a fitted prior.

    A built-in model is changed and returned; any other model is wrapped in a `ModelWithPrior`.

    Args:
        latent_model: the latent model; its own fitted prior, if it has one, is replaced.
        recipe: how the prior is built.
        density: the prior; by default a new one.
    """
    inner = without_prior(latent_model)
    prior = FittedPrior(recipe, recipe.build() if density is None else density)
    first: Tensor | None = next(inner.parameters(), None) if isinstance(inner, nn.Module) else None
    if first is not None:
        prior.to(device=first.device, dtype=first.dtype)
    prior.train(not isinstance(inner, nn.Module) or inner.training)
    is_two_stage = isinstance(prior.density, SecondStage)
    if is_built_in(inner) and not is_two_stage:
        inner.prior = prior
        return inner
    model = TwoStageModel(inner, prior) if is_two_stage else ModelWithPrior(inner, prior)
    with scope(inner):
        tensors = {name: tensor.detach().clone() for name, tensor in store_tensors(inner).items()}
    if tensors:  # pyro.param statements of the programs; the store belongs to the model that runs
        restore_store(model, tensors)
    return model


def without_prior(latent_model: Any) -> Any:
    """Return the inner model of a `ModelWithPrior`; any other latent model is returned unchanged."""
    return latent_model.inner if isinstance(latent_model, ModelWithPrior) else latent_model


def prior_recipe_of(latent_model: Any) -> PriorRecipe | None:
    """Return the recipe of the fitted prior of a latent model; None if it has none."""
    prior = latent_model.__dict__.get("_modules", {}).get("prior")
    return prior.recipe if isinstance(prior, FittedPrior) else None
