"""Inference without an encoder: one free q per datum; and an encoder whose q is refined, datum by datum."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from pvae.checks import require_positive, require_whole
from pvae.errors import InputError
from pvae.names import unknown
from pvae.programs.distribution_parameters import free_parameters
from pvae.programs.sites import Site, base_distribution, sample_sites
from pvae.programs.wrapped import Around, Changed, declared
from pvae.randomness import evaluating
from pvae.weights.traces import site_log_prob

__all__ = ["LocalGuide", "SemiAmortised"]

# their pathwise gradients are implicit, and have no derivative in torch
_ONCE = (
    torch.distributions.Beta,
    torch.distributions.Dirichlet,
    torch.distributions.FisherSnedecor,
    torch.distributions.Gamma,
    torch.distributions.InverseGamma,
    torch.distributions.StudentT,
)


class LocalGuide(Around):
    """A latent model without amortisation: q has free parameters for each datum, one row of a table.

    The model's program is `latent_model`'s. The guide has its sites and families, each parameter shifted, in
    unconstrained space, by a row that the batch's ``index`` field looks up; rows begin at zero, and so q begins at
    `start`. What q begins at is a frozen copy, so a row is as free as the parameter itself. Where one latent site's
    distribution depends on another's value, that dependence stays as the copy has it.

    The rows, ``phi()``, are made at the first run of the guide. Data that were not trained on have rows that were
    not moved: judge on the training data, or refine with `SemiAmortised`.

    Args:
        latent_model: a module with ``model`` and ``guide``; its ``theta`` is trained, its encoder is not.
        count: the number of data, of all splits together; indices are below it.
        start: ``"encoder"``, or ``"prior"`` for models of one latent site.

    Raises:
        InputError: for a count below 1, or an unknown start; in use, if a guide site has no parameters to be free, if
            prior and guide are of different families, or if no plate has one entry for each index.
    """

    def __init__(self, latent_model: Any, count: int, start: str = "encoder") -> None:
        super().__init__(latent_model, ["index"])
        count = require_whole(count, "count", advice="It is the number of data.")
        if start not in ("encoder", "prior"):
            raise unknown("start of LocalGuide", str(start), ("encoder", "prior"))
        self.count, self.start = count, start
        self.frozen: Any = copy.deepcopy(latent_model).requires_grad_(False)
        self.rows = nn.ParameterDict()

    def phi(self) -> list[nn.Parameter]:
        """Return the rows, each of shape (count, ...); none before the guide's first run."""
        return list(self.rows.values())

    def run_guide(self, *args: Any, **kwargs: Any) -> Any:
        """Run the frozen guide with the parameters of each datum's rows."""
        given = self.given_to(args, kwargs)
        index = given["index"]
        priors = self._priors(given) if self.start == "prior" else {}

        def density(site: Site) -> Any:
            return _prior_of(site, priors[site["name"]]) if priors else site["fn"]

        with evaluating(self.frozen), Changed(lambda *each: self._moved(index, *each), density):
            return self.frozen.guide(**self.own(self.frozen.guide, given))

    def _priors(self, given: Mapping[str, Any]) -> dict[str, Any]:
        with poutine.block(), evaluating(self.frozen):
            trace = poutine.trace(self.frozen.model).get_trace(**self.own(self.frozen.model, given))
        found = {site["name"]: site["fn"] for site in sample_sites(trace) if not site["is_observed"]}
        if len(found) > 1:
            raise InputError(
                f"start='prior' is for models of one latent site, and this one has {', '.join(found)}: where one "
                "depends on another, the prior is no fixed place to begin. Use start='encoder'."
            )
        return found

    def _moved(self, index: Tensor, site: Site, name: str, value: Tensor) -> Tensor:
        dim, left = _data_dim(site, len(index))
        right = value.dim() - len(site["fn"].batch_shape)
        shape = list(value.shape[left - right :]) if left < 0 else list(value.shape)
        place = len(shape) + dim - right
        del shape[place]
        key = f"{site['name']}-{name}".replace(".", "-")
        if key not in self.rows:
            self.rows[key] = nn.Parameter(value.new_zeros(self.count, *shape))
        return value + self.rows[key][index].movedim(0, place)


def _data_dim(site: Site, size: int) -> tuple[int, int]:
    """The dimension of the plate over data, and the leftmost plate's, of those that hold a site."""
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    over_data = [frame.dim for frame in frames if frame.size == size]
    if not over_data:
        raise InputError(
            f"Guide site {site['name']!r} is in no plate of {size} data, one for each entry of index: a row per datum "
            "needs `with pyro.plate('data', len(x))`."
        )
    return max(over_data), min(frame.dim for frame in frames)


def _prior_of(site: Site, prior: Any) -> Any:
    ours, theirs = free_parameters(site["name"], site["fn"]), free_parameters(site["name"], prior)
    if ours != theirs:
        raise InputError(
            f"start='prior' needs guide and prior of one family at site {site['name']!r}; they have parameters "
            f"{', '.join(ours[1])} of {ours[0]} and {', '.join(theirs[1])} of {theirs[0]}. Use start='encoder'."
        )
    return prior.expand(site["fn"].batch_shape)


class SemiAmortised(Around):
    """A latent model whose q begins at the encoder's, and climbs the ELBO of each datum for some steps.

    Each step moves the unconstrained parameters of every guide site along the gradient of log p(x, z) - log q(z given
    x) at draws of the present q. The training differentiates through the steps, so that the encoder learns to
    begin well; in first order the steps' result is a constant beside the encoder's output.

    With many steps the inference is hardly amortised at all, for any data. The steps' draws are not shared with the
    objective's, so the programs give another q each time. Their cost is that of `steps` times `particles` more
    gradients for each run of the guide.

    Args:
        latent_model: a module with ``model`` and ``guide``, whose sites are reparameterised.
        steps: k, how often q is moved; the paper takes 10 to 20.
        rate: length of a step, in the unconstrained parameters per nat.
        particles: draws of z per step.
        through: whether training differentiates through the steps; else in first order.

    Raises:
        InputError: for a number out of range; in use, for a site without parameters or a pathwise gradient.
    Source: Kim, Wiseman, Miller, Sontag & Rush, Semi-Amortized Variational Autoencoders, arXiv:1802.02550, section 3.
    """

    def __init__(
        self, latent_model: Any, steps: int = 10, rate: float = 0.05, particles: int = 1, through: bool = True
    ) -> None:
        super().__init__(latent_model)
        self.steps = require_whole(steps, "steps")
        self.rate = float(require_positive(rate, "rate"))
        self.particles, self.through = require_whole(particles, "particles"), through

    def phi(self) -> list[nn.Parameter]:
        """Return the inner model's, where it declares them."""
        return declared(self.inner, "phi")

    def run_guide(self, *args: Any, **kwargs: Any) -> Any:
        """Run the inner guide at the refined parameters."""
        given = self.given_to(args, kwargs)
        moves = self._refined(given)
        if not (self.through and torch.is_grad_enabled()):
            moves = {key: move.detach() for key, move in moves.items()}
        with Changed(lambda site, name, value: value + moves[site["name"], name]):
            return self.inner.guide(**self.own(self.inner.guide, given))

    def _refined(self, given: Mapping[str, Any]) -> dict[tuple[str, str], Tensor]:
        """How far each parameter of each site is moved, unconstrained."""
        moves: dict[tuple[str, str], Tensor] = {}
        through = self.through and torch.is_grad_enabled()
        with poutine.block(), torch.enable_grad():
            for _ in range(self.steps):
                total = torch.stack([self._elbo(given, moves) for _ in range(self.particles)]).mean()
                gradients = torch.autograd.grad(total, list(moves.values()), create_graph=through)
                moves = {
                    key: move + self.rate * slope for (key, move), slope in zip(moves.items(), gradients, strict=True)
                }
                if not through:
                    moves = {key: move.detach().requires_grad_() for key, move in moves.items()}
        return moves

    def _elbo(self, given: Mapping[str, Any], moves: dict[tuple[str, str], Tensor]) -> Tensor:
        """One draw's log p(x, z) - log q(z given x), unscaled, summed over the data."""

        def moved(site: Site, name: str, value: Tensor) -> Tensor:
            if not site["fn"].has_rsample:
                raise InputError(
                    f"SemiAmortised needs reparameterised guide sites, and {site['name']!r} cannot be: use LocalGuide."
                )
            if self.through and isinstance(base_distribution(site["fn"]), _ONCE):
                raise InputError(
                    f"The draw of {site['name']!r}, {type(base_distribution(site['fn'])).__name__}, cannot be "
                    "differentiated twice, as training through the steps asks: use SemiAmortised(..., through=False)."
                )
            return value + moves.setdefault((site["name"], name), torch.zeros_like(value).requires_grad_())

        with Changed(moved):
            guide = poutine.trace(self.inner.guide).get_trace(**self.own(self.inner.guide, given))
        model = poutine.replay(self.inner.model, trace=guide)
        scored = poutine.trace(model).get_trace(**self.own(self.inner.model, given))
        log_joint = [site_log_prob(site).sum() for site in sample_sites(scored)]
        log_guide = [site_log_prob(site).sum() for site in sample_sites(guide) if not site["is_observed"]]
        return torch.stack(log_joint).sum() - torch.stack(log_guide).sum()
