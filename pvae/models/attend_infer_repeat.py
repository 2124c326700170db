"""Attend, infer, repeat: a picture is a sum of objects, and their number, places and appearances are latent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pvae.checks import require_positive, require_sizes, require_whole
from pvae.errors import InputError
from pvae.models.datum_shapes import reshape_data
from pvae.models.direct_calls import takes_data
from pvae.models.found_objects import FoundObjects, count_density, find_objects
from pvae.models.object_settings import picture_shape, presence_by_step, window_shape
from pvae.networks import MLP, cut_box, paste_box
from pvae.networks.recurrent import RecurrentCell
from pvae.programs.base import LatentModel

__all__ = ["AIR"]

_WHERE = 3
#: standard deviations of the prior of z_where: logarithm of the size; column and row of the centre
_SIZE_SPREAD, _CENTRE_SPREAD = 0.1, 0.5
#: start of the guide: logit of a further object, and standard deviations of z_where and z_what before the softplus
_START_LOGIT, _START_SPREAD = 0.0, -1.0
_DARK = -2.0  # initial logit of the pixels of an object
_LEAST_PROBABILITY = 0.02  # a step without draws would not learn the positions of objects


@dataclass(frozen=True)
class _StepState:
    """The inputs of the guide at a step: the state of its recurrent network, and the latents of the previous step."""

    hidden: Tensor
    pres: Tensor
    where: Tensor
    what: Tensor


class AIR(LatentModel):
    """Attend, infer, repeat: objects are drawn onto a canvas one by one, until one is absent.

    The sites are ``z_pres_t`` (0 or 1), ``z_where_t`` (log size, and column and row of the centre) and ``z_what_t`` for
    steps t = 0, 1, ..., and ``x``. z_where and z_what of absent objects are masked in both programs. The guide draws
    the objects in the same order, by a recurrent network. ``z_pres_t`` is discrete. By default its gradient is an exact
    expectation over the 2 ** steps joint values; for many steps choose ``gradients={"z_pres_*": "measure"}``.

    Args:
        data_shape: height and width of a picture.
        steps: the largest number of objects.
        window: height and width of the picture of one object in pixels, or one number for both; by default a third of
            the side of the picture.
        size: the most probable size of an object, as a share of the side of the picture, from one pixel to 1; by
            default the size of the window.
        presence: the probability of a further object under the model, one number for each step or one for all. By
            default 0.05, 0.05 ** 2.25, 0.05 ** (2.25 ** 2), ..., at least 1e-6: with small numbers, a second
            object is not used to improve the picture of the first one.
        latent: number of latent dimensions of z_what.
        hidden: sizes of the hidden layers of the four networks; the recurrent state has the last size.
        scale: standard deviation of the pixels.
        initialisation: as for `pvae.models.base.BaseVAE`.

    Raises:
        InputError: for an argument that cannot be used, in one line.
    Source: Eslami et al., Attend, Infer, Repeat: Fast Scene Understanding with Generative Models, arXiv:1603.08575.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model = pvae.AIR((12, 12), steps=2, window=4, latent=2, hidden=8)
        >>> model.sample(5).shape
        torch.Size([5, 12, 12])
        >>> model.find(torch.zeros(3, 12, 12)).boxes.shape
        torch.Size([3, 2, 4])
    """

    default_objective = "iwae:particles=1:gradients=z_pres_*=enumerate"
    where_loc: Tensor
    where_scale: Tensor

    def __init__(
        self,
        data_shape: int | Sequence[int],
        *,
        steps: int = 3,
        window: int | Sequence[int] | None = None,
        size: float | None = None,
        presence: float | Sequence[float] | None = None,
        latent: int = 10,
        hidden: int | Sequence[int] = (100,),
        scale: float = 0.2,
        initialisation: str = "glorot",
    ) -> None:
        super().__init__()
        self.data_shape = picture_shape(data_shape)
        self.steps = require_whole(steps, "steps")
        self.window = window_shape(window, self.data_shape)
        self.presence = presence_by_step(presence, self.steps)
        self.latent = require_whole(latent, "latent")
        self.scale = require_positive(scale, "scale")
        share = _size_share(size, self.window, self.data_shape)
        widths = require_sizes(hidden, "hidden", advice="For example hidden=100.")
        if not widths:
            raise InputError("hidden needs at least one size, because the recurrent network has the last one; got ().")
        self._make_networks(widths, initialisation)
        self.register_buffer("where_loc", torch.tensor([math.log(share), 0.0, 0.0]))
        self.register_buffer("where_scale", torch.tensor([_SIZE_SPREAD, _CENTRE_SPREAD, _CENTRE_SPREAD]))

    def _make_networks(self, widths: tuple[int, ...], initialisation: str) -> None:
        style: Any = {"hidden": widths, "activation": "relu", "initialisation": initialisation}
        state, pixels = widths[-1], math.prod(self.window)
        self.decoder = MLP(self.latent, pixels, **{**style, "hidden": widths[::-1]})
        self.encoder = MLP(math.prod(self.data_shape), **style)
        self.recurrent = RecurrentCell(state + 1 + _WHERE + self.latent, state)
        self.pres_and_where = MLP(state, 1 + 2 * _WHERE, **style)
        self.window_encoder = MLP(pixels, 2 * self.latent, **style)
        with torch.no_grad():
            _last_bias(self.decoder).fill_(_DARK)
            _last_bias(self.pres_and_where)[0] = _START_LOGIT
            _last_bias(self.pres_and_where)[1 + _WHERE :] = _START_SPREAD

    @property
    def classes(self) -> int:
        """The number of possible numbers of objects, for labels y that count them."""
        return self.steps + 1

    def model(self, x: Tensor) -> Tensor:
        """Draw objects onto a canvas, and observe x as the canvas with noise. Returns x, (batch,) + data_shape."""
        with pyro.plate("data", x.shape[0]):
            canvas = self.where_loc.new_zeros(self.data_shape)
            pres: Any = self.where_loc.new_ones(())
            for t in range(self.steps):
                pres = pyro.sample(f"z_pres_{t}", dist.Bernoulli(self.presence[t] * pres))
                prior = dist.Normal(self.where_loc, self.where_scale).expand((*pres.shape, _WHERE))
                where = pyro.sample(f"z_where_{t}", prior.to_event(1).mask(pres > 0))
                prior = dist.Normal(torch.zeros_like(pres).unsqueeze(-1), 1.0).expand((*pres.shape, self.latent))
                what = pyro.sample(f"z_what_{t}", prior.to_event(1).mask(pres > 0))
                canvas = canvas + self._draw_object(pres, where, what)
            return pyro.sample("x", dist.Normal(canvas, self.scale).to_event(2), obs=self._observed(x))

    def guide(self, x: Tensor) -> None:
        """Infer the objects given x, one after the other."""
        with pyro.plate("data", x.shape[0]):
            picture, features, state = self._start(x)
            for t in range(self.steps):
                hidden, logit, density = self._look(features, state)
                pres = pyro.sample(f"z_pres_{t}", dist.Bernoulli(_probability(logit) * state.pres))
                where = pyro.sample(f"z_where_{t}", density.mask(pres > 0))
                what = pyro.sample(f"z_what_{t}", self._appearance(picture, where).mask(pres > 0))
                state = _StepState(hidden, pres, where, what)

    def _draw_object(self, pres: Tensor, where: Tensor, what: Tensor) -> Tensor:
        """Return the contribution of an object to the canvas, shape (...) + data_shape; zeros if it is absent.

        Args:
            pres: shape (...).
            where: shape (..., 3).
            what: shape (..., latent).
        """
        windows = self.decoder(what).sigmoid().unflatten(-1, self.window)
        return pres[..., None, None] * paste_box(windows, where[..., 0].exp(), where[..., 1:], self.data_shape)

    def _observed(self, x: Tensor) -> Tensor:
        return reshape_data(x, self.data_shape, self.data_shape)

    def _start(self, x: Tensor) -> tuple[Tensor, Tensor, _StepState]:
        """Return pictures (batch, height, width), their features (batch, hidden), and the state before step 0."""
        picture = self._observed(x)
        features = self.encoder(picture.flatten(1))
        zeros = features.new_zeros(len(features), _WHERE + self.latent)
        where, what = zeros[:, :_WHERE], zeros[:, _WHERE:]
        return picture, features, _StepState(torch.zeros_like(features), torch.ones_like(features[:, 0]), where, what)

    def _look(self, features: Tensor, state: _StepState) -> tuple[Tensor, Tensor, Any]:
        """Return the next recurrent state, the logit of a further object, and q(z_where given the steps before).

        Args:
            features: of the pictures, shape (batch, hidden).
            state: the state of the previous step, with dimensions of particles to the left of the batch.
        """
        parts = [features, state.pres.unsqueeze(-1), state.where, state.what]
        leading = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        hidden = self.recurrent(torch.cat([part.expand(*leading, -1) for part in parts], -1), state.hidden)
        numbers = self.pres_and_where(hidden)
        loc, raw = numbers[..., 1:].chunk(2, -1)
        density = dist.Normal(self.where_loc + self.where_scale * loc, self.where_scale * softplus(raw)).to_event(1)
        return hidden, numbers[..., 0], density

    def _appearance(self, picture: Tensor, where: Tensor) -> Any:
        """Return q(z_what given x and z_where), batch shape (...), event shape (latent,)."""
        window = cut_box(picture, where[..., 0].exp(), where[..., 1:], self.window)
        loc, raw = self.window_encoder(window.flatten(-2)).chunk(2, -1)
        return dist.Normal(loc, softplus(raw)).to_event(1)

    def _plausible_steps(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield for each step the probability of an object, and the means of z_where and z_what, if all are present.

        Shapes (batch,), (batch, 3) and (batch, latent).
        """
        picture, features, state = self._start(x.to(self.where_loc.dtype))
        for _ in range(self.steps):
            hidden, logit, density = self._look(features, state)
            where = density.mean
            what = self._appearance(picture, where).mean
            yield _probability(logit), where, what
            state = _StepState(hidden, state.pres, where, what)

    @torch.no_grad()
    @takes_data
    def classify(self, x: Tensor) -> dist.Categorical:
        """Return q(number of objects given x), batch shape (batch,), with the other latents at their means.

        With the number of objects as label y, `pvae.evaluate.accuracy` is the count accuracy.

        Args:
            x: data, (batch, features) or (batch,) + data_shape.
        """
        return count_density(torch.stack([further for further, _, _ in self._plausible_steps(x)], -1))

    @torch.no_grad()
    @takes_data
    def find(self, x: Tensor) -> FoundObjects:
        """Return the objects of pictures: the most probable number by `classify`, and boxes at the means of z_where.

        Args:
            x: data, (batch, features) or (batch,) + data_shape.
        """
        further, where, _ = (torch.stack(values, 1) for values in zip(*self._plausible_steps(x), strict=True))
        return find_objects(further, where, self.data_shape)

    @torch.no_grad()
    @takes_data
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the canvas of the most probable objects, at the means of their latents, (batch,) + data_shape."""
        further, where, what = (torch.stack(values, 1) for values in zip(*self._plausible_steps(x), strict=True))
        present = find_objects(further, where, self.data_shape).present
        return self._draw_object(present.to(where.dtype), where, what).sum(1)

    @torch.no_grad()
    def sample(self, n: int, *, mean: bool = False) -> Tensor:
        """Return new pictures, shape (n,) + data_shape.

        Args:
            n: number of pictures, at least 0.
            mean: whether to return the canvas without noise.
        """
        n = require_whole(n, "n", least=0)
        further = self.where_loc.new_tensor(self.presence).expand(n, -1).bernoulli()
        pres = further.cumprod(-1)
        where = torch.normal(self.where_loc.expand(n, self.steps, -1), self.where_scale.expand(n, self.steps, -1))
        what = torch.randn(n, self.steps, self.latent, dtype=pres.dtype, device=pres.device)
        canvas = self._draw_object(pres, where, what).sum(1)
        return canvas if mean else canvas + self.scale * torch.randn_like(canvas)

    def theta(self) -> list[nn.Parameter]:
        """Return the parameters of the model: those of the decoder of objects."""
        return list(self.decoder.parameters())

    def phi(self) -> list[nn.Parameter]:
        """Return the parameters of the guide: those of the other four networks."""
        networks = [self.encoder, self.recurrent, self.pres_and_where, self.window_encoder]
        return list(nn.ModuleList(networks).parameters())


def _last_bias(network: MLP) -> Tensor:
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    return layers[-1].bias


def _probability(logit: Tensor) -> Tensor:
    """Return the probability of an object, away from 0 and 1 so that every outcome keeps a finite log-density."""
    return logit.sigmoid().clamp(_LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)


def _size_share(size: float | None, window: tuple[int, ...], data_shape: tuple[int, ...]) -> float:
    """Return the share of the side of a picture that an object has, by default that of the window.

    Raises:
        InputError: for an object that is larger than the picture, or that lies between two pixels.
    """
    if size is None:
        return window[0] / data_shape[0]
    share, side = require_positive(size, "size"), min(data_shape)
    if not 1 / side <= share <= 1:
        raise InputError(
            f"size needs a share of the side of the picture, from one pixel, 1/{side}, to 1, the whole picture; got "
            f"{share:g}. For an object of 4 pixels in a picture of 16, give size=0.25."
        )
    return share
