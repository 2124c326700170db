"""Invertible maps of z: planar and Householder maps, and stacks of zuko's autoregressive and coupling ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from pvae.checks import require_sizes, require_whole
from pvae.errors import InputError
from pvae.names import unknown
from pvae.networks import ACTIVATIONS, activation_layer

__all__ = ["Householder", "Planar", "PlanarStack", "compose", "stack", "zuko"]

# softplus of it is 1, so that u_hat is 0 where w'u is this
_UNIT = math.log(math.e - 1)


def zuko() -> Any:
    """zuko, imported on first use; it switches torch's validation off for everyone, which is put back."""
    validates = Distribution._validate_args
    import zuko as loaded

    Distribution._validate_args = validates
    return loaded


def compose(*transforms: Transform) -> Transform:
    """Return the map that applies these in order."""
    return zuko().transforms.ComposedTransform(*transforms)


class Planar(Transform):
    """The map z + u_hat tanh(w'z + b), with u_hat such that w'u_hat > -1, which makes it invertible.

    It has no closed inverse. That is found along w, where it is one monotone equation for one number: by halving
    intervals down to the rounding of the type, with the gradient of the solution.

    Args:
        u: shape (..., latent).
        w: shape (..., latent), not 0.
        b: shape (...).
    Source: Rezende & Mohamed, Variational Inference with Normalizing Flows, arXiv:1505.05770, equations 10 to 12 and
    appendix A.1.
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, u: Tensor, w: Tensor, b: Tensor) -> None:
        super().__init__()
        along = (w * u).sum(-1, keepdim=True)
        wanted = nn.functional.softplus(along) - 1
        self.u_hat = u + (wanted - along) * w / w.square().sum(-1, keepdim=True)
        self.w, self.b, self._pull = w, b.unsqueeze(-1), wanted

    def _call(self, x: Tensor) -> Tensor:
        return x + self.u_hat * torch.tanh((self.w * x).sum(-1, keepdim=True) + self.b)

    def _inverse(self, y: Tensor) -> Tensor:
        target = (self.w * y).sum(-1, keepdim=True)
        found = self._solved(target.detach())
        slope = 1 + self._pull.detach() * (1 - torch.tanh(found + self.b.detach()).square())
        # one Newton step from a solution leaves it there and carries the gradient of the implicit function
        residual = found + self._pull * torch.tanh(found + self.b) - target
        return y - self.u_hat * torch.tanh(found - residual / slope + self.b)

    @torch.no_grad()
    def _solved(self, target: Tensor) -> Tensor:
        """The root t of t + w'u_hat tanh(t + b) = target."""
        low, high = target - self._pull.abs(), target + self._pull.abs()
        for _ in range(torch.finfo(target.dtype).bits):
            middle = (low + high) / 2
            above = middle + self._pull * torch.tanh(middle + self.b) > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |det dy/dx|, shape (...)."""
        act = torch.tanh((self.w * x).sum(-1, keepdim=True) + self.b)
        return torch.log1p(self._pull * (1 - act.square())).squeeze(-1)


class Householder(Transform):
    """Reflections one after the other, each at the plane with normal v: an orthogonal map.

    Args:
        vectors: the v, shape (..., reflections, latent), not 0.
    Source: Tomczak & Welling, Improving Variational Auto-Encoders using Householder Flow, arXiv:1611.09630, equation 6.
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.normals = (vectors / vectors.norm(dim=-1, keepdim=True)).unbind(-2)

    def _call(self, x: Tensor) -> Tensor:
        for each in self.normals:
            x = x - 2 * each * (each * x).sum(-1, keepdim=True)
        return x

    def _inverse(self, y: Tensor) -> Tensor:
        for each in reversed(self.normals):
            y = y - 2 * each * (each * y).sum(-1, keepdim=True)
        return y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return 0, shape (...): volumes stay."""
        return torch.zeros_like(x[..., 0])


class PlanarStack(nn.Module):
    """Planar maps whose u, w and b are linear in the context; u counts from where u_hat is 0.

    Args:
        latent: number of latent dimensions.
        context: size of the context.
        transforms: number of maps.
        identity: whether all are the identity at first.
    """

    def __init__(self, latent: int, context: int, transforms: int, *, identity: bool) -> None:
        super().__init__()
        self.shape = (transforms, latent)
        self.u, self.w = (nn.Linear(context, transforms * latent) for _ in range(2))
        self.b = nn.Linear(context, transforms)
        if identity:
            nn.init.zeros_(self.u.weight)
            nn.init.zeros_(self.u.bias)

    def forward(self, context: Tensor) -> Transform:
        """Return the map for a context of shape (..., context)."""
        w = self.w(context).unflatten(-1, self.shape)
        u = self.u(context).unflatten(-1, self.shape) + _UNIT * w / w.square().sum(-1, keepdim=True)
        each = zip(u.unbind(-2), w.unbind(-2), self.b(context).unbind(-1), strict=True)
        return compose(*(Planar(*parameters) for parameters in each))


def stack(
    kind: str,
    latent: int,
    context: int,
    *,
    transforms: int,
    hidden: int | Sequence[int],
    bins: int,
    activation: str,
    identity: bool,
) -> nn.Module:
    """Return a module from a context (None where `context` is 0) to the composition of several maps.

    Args:
        kind: ``"affine"`` or ``"coupling"`` or ``"spline"`` or ``"planar"``: autoregressive affine maps, affine maps
            of one half given the other, rational-quadratic splines of one half given the other, or planar maps.
        latent: number of latent dimensions.
        context: size of the context.
        transforms: number of maps.
        hidden: sizes of the hidden layers of each map's network.
        bins: number of bins of a spline on [-5, 5]; beyond it is the identity.
        activation: a name of `pvae.networks.ACTIVATIONS`.
        identity: whether all are the identity at first.

    Raises:
        InputError: for an unknown kind or activation, numbers that are not positive, or halves of one dimension.
    """
    transforms = require_whole(transforms, "transforms")
    activation_layer(activation)
    if kind == "planar":
        return PlanarStack(latent, context, transforms, identity=identity)
    settings: dict[str, Any] = {
        "hidden_features": require_sizes(hidden, "hidden"),
        "activation": ACTIVATIONS[activation],
    }
    if kind in ("coupling", "spline"):
        if latent < 2:
            raise InputError(f"A {kind} flow moves half of z given the other half: latent=1 has none. Use kind='maf'.")
        settings["passes"] = 2
    if kind == "spline":
        made = zuko().flows.NSF(latent, context, transforms=transforms, bins=require_whole(bins, "bins"), **settings)
    elif kind in ("affine", "coupling"):
        made = zuko().flows.MAF(latent, context, transforms=transforms, **settings)
    else:
        raise unknown("kind of flow", kind, ["affine", "coupling", "planar", "spline"])
    if identity:
        _rest(made.transform)
    return made.transform


def _rest(maps: nn.Module) -> None:
    """Let every map start at the identity: their parameters are all 0 there."""
    for each in maps.transforms:  # type: ignore[union-attr]
        last = each.hyper[-1] if hasattr(each, "hyper") else each.phi
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
