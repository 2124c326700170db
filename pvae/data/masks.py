"""Entries of x left out at random: a mask has 1 for an observed entry and 0 for a missing one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_number, require_whole
from pvae.data.binarise import derived_seed
from pvae.errors import InputError
from pvae.names import parse_known

__all__ = ["MASKS", "Mask", "left_out", "make_mask"]


@dataclass(frozen=True)
class Mask(ABC):
    """A way to leave entries of x out at random, for each datum anew and apart from the others.

    Args:
        shape: of one datum, such as (28, 28); with channels in front, (channels, height, width).
        whole: share of training data, at each use, from which nothing is left out. Without any a guide never learns
            what complete data say of z, and log p(x) of complete data is poorly estimated by its weights.
    """

    shape: tuple[int, ...]
    whole: float = field(default=0.1, kw_only=True)

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Return which entries of `count` data are observed, booleans that broadcast to (count, *shape).

        Without a generator, the device's global one draws.
        """

    @classmethod
    def usual(cls, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return the settings that follow from the shape where they are not given."""
        return {}

    def like(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a mask for each datum of `x`, in its shape and dtype: 1 observed, 0 missing."""
        drawn = self.draw(x.shape[0], generator, x.device)
        return drawn.expand(-1, *self.shape).to(x.dtype).reshape(x.shape)

    def in_training(self, x: Tensor) -> Tensor:
        """Return a mask for each datum of `x` as `like` does, with a share `whole` of data that miss nothing."""
        mask = self.like(x)
        if self.whole == 0:
            return mask
        kept = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) < self.whole
        return torch.where(kept, torch.ones_like(mask), mask)

    @property
    def text(self) -> str:
        """The kind with every setting, as ``"block:size=14"``: with the shape, it makes the mask again."""
        return ":".join([_kind(type(self)), *(f"{name}={getattr(self, name)}" for name in _settings(type(self)))])

    def _require_whole(self, name: str, most: int) -> None:
        advice = f"The data have shape {self.shape}."
        label = f"{name} of the mask {_kind(type(self))!r}"
        object.__setattr__(self, name, require_whole(getattr(self, name), label, most=most, advice=advice))


@dataclass(frozen=True)
class Pixels(Mask):
    """Each entry is missing with probability `share`, apart from the others; for data of any shape."""

    share: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        advice = "It is the probability that an entry is missing."
        share = require_number(self.share, "share of the mask 'pixels'", least=0, most=1, advice=advice)
        object.__setattr__(self, "share", share)

    def draw(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        return torch.rand(count, *self.shape, generator=generator, device=device) >= self.share


@dataclass(frozen=True)
class Block(Mask):
    """A square of `size` pixels a side is missing, at a random place inside the picture."""

    size: int

    @classmethod
    def usual(cls, shape: tuple[int, ...]) -> dict[str, Any]:
        """Half of the shorter side."""
        return {"size": max(1, min(_sides(cls, shape)) // 2)}

    def __post_init__(self) -> None:
        """Refuse a square that does not fit."""
        self._require_whole("size", min(_sides(type(self), self.shape)))

    def draw(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        inside = []
        for side in self.shape[-2:]:
            start = torch.randint(side - self.size + 1, (count, 1), generator=generator, device=device)
            place = torch.arange(side, device=device)
            inside.append((place >= start) & (place < start + self.size))
        return _of_channels(~(inside[0].unsqueeze(-1) & inside[1].unsqueeze(-2)), self.shape)


@dataclass(frozen=True)
class Rows(Mask):
    """`count` rows of the picture are missing, chosen at random, not as a block."""

    count: int

    @classmethod
    def usual(cls, shape: tuple[int, ...]) -> dict[str, Any]:
        """Half of the rows."""
        return {"count": max(1, _sides(cls, shape)[0] // 2)}

    def __post_init__(self) -> None:
        """Refuse more rows than there are."""
        self._require_whole("count", _sides(type(self), self.shape)[0])

    def draw(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        hidden = _chosen(self.count, self.shape[-2], count, generator, device)
        return _of_channels(~hidden.unsqueeze(-1), self.shape)


@dataclass(frozen=True)
class Quadrants(Mask):
    """`observed` quadrants of the picture, chosen at random, are observed, and the others missing."""

    observed: int = 1

    def __post_init__(self) -> None:
        """Refuse what leaves none, or all four, and pictures too small to have four."""
        if min(_sides(type(self), self.shape)) < 2:
            raise InputError(f"The mask 'quadrants' needs pictures of at least 2 x 2 pixels; got {self.shape}.")
        self._require_whole("observed", 3)

    def draw(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        seen = _chosen(self.observed, 4, count, generator, device)
        lower, right = ((torch.arange(side, device=device) >= side // 2).long() for side in self.shape[-2:])
        return _of_channels(seen[:, 2 * lower.unsqueeze(-1) + right], self.shape)


MASKS: dict[str, type[Mask]] = {"block": Block, "pixels": Pixels, "quadrants": Quadrants, "rows": Rows}


def _kind(made: type[Mask]) -> str:
    return next(name for name, each in MASKS.items() if each is made)


def _settings(made: type[Mask]) -> list[str]:
    return [*(each.name for each in fields(made) if each.name not in ("shape", "whole")), "whole"]


def _sides(made: type[Mask], shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of one picture."""
    if len(shape) not in (2, 3):
        raise InputError(
            f"The mask {_kind(made)!r} needs pictures, (height, width) or (channels, height, width), and one datum has "
            f"shape {shape}: give x in the shape of pictures, or use mask='pixels'."
        )
    return shape[-2], shape[-1]


def _chosen(some: int, of: int, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Choose `some` of the places for each datum, all choices being alike probable: booleans, (count, of)."""
    return torch.rand(count, of, generator=generator, device=device).argsort(1).argsort(1) < some


def _of_channels(pictures: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return masks of pictures, (count, height, width), as masks of data: alike in all channels."""
    return pictures.unsqueeze(1) if len(shape) == 3 else pictures


def make_mask(text: str, shape: Sequence[int]) -> Mask:
    """Return the mask that a text names, such as ``"block:size=14"``, for data of this shape.

    Raises:
        InputError: for an unknown kind or setting (the nearest is named), a size that does not fit the shape, or a
            kind for pictures where the data are none.
    """
    written = text if isinstance(text, str) else repr(text)
    name, settings = parse_known(written, "mask", MASKS, _settings, further=["none"])
    made, place = MASKS[name], tuple(shape)
    whole = settings.get("whole", 0)
    advice = "It is the share of training data that miss nothing."
    require_number(whole, "whole", least=0, below=1, advice=advice)
    return made(place, **{**made.usual(place), **settings})


def left_out(batch: Batch, mask: Mask, part: str, seed: int) -> Batch:
    """Return one split with the field ``mask``: 0 where its own values are missing, and where the draw leaves them out.

    The draw is fixed by `seed`. The training split is not drawn for: `minibatches` does that at every use.

    Raises:
        InputError: if the data have a mask of another shape than x.
    """
    own = batch.get("mask")
    if own is not None and own.shape != batch.x.shape:
        raise InputError(
            f"Entries of x are left out one by one, so a mask of the data needs the shape of x, "
            f"{tuple(batch.x.shape)}; the {part} split's has {tuple(own.shape)}."
        )
    if part == "train":
        # one number in memory, however many data
        return batch if own is not None else batch.replace(mask=batch.x.new_ones(1).expand(batch.x.shape))
    generator = torch.Generator().manual_seed(derived_seed(seed, "mask", part))
    drawn = mask.like(batch.x.cpu(), generator).to(batch.device)
    return batch.replace(mask=drawn if own is None else own * drawn)
