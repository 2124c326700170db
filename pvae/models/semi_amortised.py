"""Semi-amortised inference: gradient steps on each datum's ELBO refine the encoder's q."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from pvae.checks import require_positive, require_whole
from pvae.errors import InputError
from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import Site, base_distribution, sample_sites
from pvae.programs.wrapped import ReplaceParameters, WrappedModel, declared
from pvae.weights.traces import site_log_prob

__all__ = ["SemiAmortised"]

# The change of each unconstrained parameter, in its shape, by site and name of the parameter.
Moves = dict[tuple[str, str], Tensor]

# Distributions with implicit pathwise gradients, which torch cannot differentiate again.
_ONCE_DIFFERENTIABLE = (
    torch.distributions.Beta,
    torch.distributions.Dirichlet,
    torch.distributions.FisherSnedecor,
    torch.distributions.Gamma,
    torch.distributions.InverseGamma,
    torch.distributions.StudentT,
)


class SemiAmortised(WrappedModel):
    """A latent model with a guide that refines the encoder's q by gradient steps on each datum's ELBO.

    Each step moves the unconstrained parameters of every guide site along the gradient of log p(x, z) - log q(z given
    x) at draws of the present q. Training differentiates through the steps, so that the encoder learns good starting
    points. With ``through=False`` it treats the sum of the steps as a constant that is added to the encoder's output.

    With many steps the result depends little on the encoder, for any data. The draws of the steps are not those of the
    objective, so q differs from run to run. Each run of the guide costs `steps` times `particles` more gradients.

    Args:
        latent_model: a module with ``model`` and ``guide``, with reparameterised sites.
        steps: number of gradient steps; the paper uses 10 to 20.
        rate: step size, in the units of the unconstrained parameters per nat.
        particles: draws of z per step.
        through: whether training differentiates through the steps.

    Raises:
        InputError: for a number out of range; in use, for a site without parameters or without a pathwise gradient.
    Source: Kim, Wiseman, Miller, Sontag & Rush, Semi-Amortized Variational Autoencoders, arXiv:1802.02550, section 3.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> refined = pvae.SemiAmortised(model, steps=5)
        >>> pvae.evaluate.elbo(refined, x, particles=10) > pvae.evaluate.elbo(model, x, particles=10)
        True
    """

    def __init__(
        self, latent_model: Any, steps: int = 10, rate: float = 0.05, particles: int = 1, through: bool = True
    ) -> None:
        super().__init__(latent_model)
        self.steps = require_whole(steps, "steps")
        self.rate = float(require_positive(rate, "rate"))
        self.particles, self.through = require_whole(particles, "particles"), through

    def phi(self) -> list[nn.Parameter]:
        """Return the parameters of the inner model's guide, if the inner model declares them."""
        return declared(self.inner, "phi")

    def run_guide(self, *args: Any, **kwargs: Any) -> Any:
        """Run the inner guide at the refined parameters."""
        arguments = self.arguments_by_name(args, kwargs)
        moves = self._refine(arguments)
        if not (self.through and torch.is_grad_enabled()):
            moves = {key: move.detach() for key, move in moves.items()}
        with ReplaceParameters(lambda site, name, value: value + moves[site["name"], name]):
            return self.inner.guide(**self.arguments_for(self.inner.guide, arguments))

    def _refine(self, arguments: Mapping[str, Any]) -> Moves:
        """Return the total change of each parameter after all steps."""
        moves: Moves = {}
        differentiable = self.through and torch.is_grad_enabled()
        with poutine.block(), torch.enable_grad():
            for _ in range(self.steps):
                # The first ELBO adds a change of zero for each parameter to `moves`.
                elbo = torch.stack([self._elbo(arguments, moves) for _ in range(self.particles)]).mean()
                gradients = torch.autograd.grad(elbo, list(moves.values()), create_graph=differentiable)
                moves = {
                    key: move + self.rate * gradient
                    for (key, move), gradient in zip(moves.items(), gradients, strict=True)
                }
                if not differentiable:
                    moves = {key: move.detach().requires_grad_() for key, move in moves.items()}
        return moves

    def _elbo(self, arguments: Mapping[str, Any], moves: Moves) -> Tensor:
        """Return log p(x, z) - log q(z given x) at one draw of the refined q, unscaled, summed over the data, shape ().

        The runs of the inner programs are part of the guide; `_refine` hides them from traces outside the guide.
        """

        def add_move(site: Site, name: str, value: Tensor) -> Tensor:
            self._require_gradient(site)
            return value + moves.setdefault((site["name"], name), torch.zeros_like(value).requires_grad_())

        with ReplaceParameters(add_move):
            guide_trace = self._bind(self.inner.guide, arguments).trace_guide()
        model_trace = self._bind(self.inner.model, arguments).trace_model(guide_trace)
        log_joint = [site_log_prob(site).sum() for site in sample_sites(model_trace)]
        log_guide = [site_log_prob(site).sum() for site in sample_sites(guide_trace) if not site["is_observed"]]
        return torch.stack(log_joint).sum() - torch.stack(log_guide).sum()

    def _bind(self, program: Any, arguments: Mapping[str, Any]) -> BoundPrograms:
        """Return the inner programs, bound to the arguments of the guide that one of them takes."""
        return BoundPrograms(self.inner.model, self.inner.guide, (), self.arguments_for(program, arguments))

    def _require_gradient(self, site: Site) -> None:
        """Raise InputError if the draw of a site has no pathwise gradient, or no second one if training needs it."""
        if not site["fn"].has_rsample:
            raise InputError(
                f"SemiAmortised needs reparameterised guide sites; {site['name']!r} cannot be reparameterised. Use "
                "LocalGuide."
            )
        base = base_distribution(site["fn"])
        if self.through and isinstance(base, _ONCE_DIFFERENTIABLE):
            raise InputError(
                f"Training through the steps differentiates draws twice, and the draw of {site['name']!r}, "
                f"{type(base).__name__}, can be differentiated only once. Use SemiAmortised(..., through=False)."
            )
