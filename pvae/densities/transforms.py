"""Invertible maps of z: planar and Householder maps, and stacks of zuko's autoregressive and coupling maps."""

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

# softplus(_UNIT) is 1, so u_hat is 0 where w'u is _UNIT
_UNIT = math.log(math.e - 1)


def zuko() -> Any:
    """Return the module zuko, imported on first use.

    The import turns off the validation of PyTorch's distributions for the whole process; this function restores it.
    """
    validates = Distribution._validate_args
    import zuko as loaded

    Distribution._validate_args = validates
    return loaded


def compose(*transforms: Transform) -> Transform:
    """Return the map that applies these maps in order."""
    return zuko().transforms.ComposedTransform(*transforms)


class Planar(Transform):
    """The map z + u_hat tanh(w'z + b), where u_hat satisfies w'u_hat > -1, so the map is invertible.

    The inverse has no closed form. Along w it is the root of one monotone equation, which bisection solves to the
    precision of the dtype; the gradient is the gradient of the root.

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
        product = (w * u).sum(-1, keepdim=True)
        # w'u_hat, shape (..., 1)
        self._product = nn.functional.softplus(product) - 1
        self.u_hat = u + (self._product - product) * w / w.square().sum(-1, keepdim=True)
        self.w, self.b = w, b.unsqueeze(-1)

    def _call(self, x: Tensor) -> Tensor:
        return x + self.u_hat * torch.tanh((self.w * x).sum(-1, keepdim=True) + self.b)

    def _inverse(self, y: Tensor) -> Tensor:
        target = (self.w * y).sum(-1, keepdim=True)
        root = self._solve(target.detach())
        slope = 1 + self._product.detach() * (1 - torch.tanh(root + self.b.detach()).square())
        # One Newton step at the root does not change its value, but gives it the gradient of the implicit function.
        residual = root + self._product * torch.tanh(root + self.b) - target
        return y - self.u_hat * torch.tanh(root - residual / slope + self.b)

    @torch.no_grad()
    def _solve(self, target: Tensor) -> Tensor:
        """Return the root t of t + w'u_hat tanh(t + b) = target, shape (..., 1), by bisection."""
        low, high = target - self._product.abs(), target + self._product.abs()
        for _ in range(torch.finfo(target.dtype).bits):
            middle = (low + high) / 2
            above = middle + self._product * torch.tanh(middle + self.b) > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |det dy/dx|, shape (...).

        Args:
            x: the argument of the map, shape (..., latent).
            y: its value, which is not used.
        """
        act = torch.tanh((self.w * x).sum(-1, keepdim=True) + self.b)
        return torch.log1p(self._product * (1 - act.square())).squeeze(-1)


class Householder(Transform):
    """An orthogonal map: a product of reflections, each at the hyperplane with normal v.

    Args:
        vectors: the normals v, shape (..., reflections, latent), not 0.
    Source: Tomczak & Welling, Improving Variational Auto-Encoders using Householder Flow, arXiv:1611.09630, equation 6.
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.normals = (vectors / vectors.norm(dim=-1, keepdim=True)).unbind(-2)

    def _call(self, x: Tensor) -> Tensor:
        for normal in self.normals:
            x = x - 2 * normal * (normal * x).sum(-1, keepdim=True)
        return x

    def _inverse(self, y: Tensor) -> Tensor:
        for normal in reversed(self.normals):
            y = y - 2 * normal * (normal * y).sum(-1, keepdim=True)
        return y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |det dy/dx|, shape (...), which is 0 for an orthogonal map.

        Args:
            x: the argument of the map, shape (..., latent).
            y: its value, which is not used.
        """
        return torch.zeros_like(x[..., 0])


class PlanarStack(nn.Module):
    """Planar maps with u, w and b that are linear in the context; an output of 0 for u gives u_hat = 0.

    Args:
        latent: number of latent dimensions.
        context: size of the context.
        transforms: number of maps.
        identity: whether all maps start as the identity.
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
        """Return the composed map for a context of shape (..., context)."""
        w = self.w(context).unflatten(-1, self.shape)
        u = self.u(context).unflatten(-1, self.shape) + _UNIT * w / w.square().sum(-1, keepdim=True)
        parameters = zip(u.unbind(-2), w.unbind(-2), self.b(context).unbind(-1), strict=True)
        return compose(*(Planar(*uwb) for uwb in parameters))


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
    """Return a module from a context to the composition of several maps; if `context` is 0, it takes None.

    Args:
        kind: ``"affine"`` (autoregressive affine maps), ``"coupling"`` (affine maps of one half given the other half),
            ``"spline"`` (rational-quadratic splines of one half given the other half) or ``"planar"``.
        latent: number of latent dimensions.
        context: size of the context.
        transforms: number of maps.
        hidden: sizes of the hidden layers of each map's network.
        bins: number of bins of a spline on [-5, 5]; the spline is the identity outside.
        activation: a name of `pvae.networks.ACTIVATIONS`.
        identity: whether all maps start as the identity.

    Raises:
        InputError: for an unknown kind or activation, a number that is not positive, or one latent dimension where a
            map needs two.
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
            raise InputError(
                f"A {kind} flow maps half of z given the other half, so latent needs to be at least 2; got latent=1. "
                "Use kind='maf'."
            )
        settings["passes"] = 2
    if kind == "spline":
        made = zuko().flows.NSF(latent, context, transforms=transforms, bins=require_whole(bins, "bins"), **settings)
    elif kind in ("affine", "coupling"):
        made = zuko().flows.MAF(latent, context, transforms=transforms, **settings)
    else:
        raise unknown("kind of flow", kind, ["affine", "coupling", "planar", "spline"])
    if identity:
        _start_as_identity(made.transform)
    return made.transform


def _start_as_identity(maps: nn.Module) -> None:
    """Set the last layer of each map's network to 0, so that every map is the identity."""
    for transform in maps.transforms:  # type: ignore[union-attr]
        last = transform.hyper[-1] if hasattr(transform, "hyper") else transform.phi
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
