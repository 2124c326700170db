"""Masks that leave entries of ``x`` out at random: 1 for an observed entry, 0 for a missing one."""

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
    """A distribution over masks, which draws one mask for each datum, independent of the others.

    Args:
        shape: shape of one datum, such as (28, 28) or (channels, height, width).
        whole: share of training data, at each use, that keep all entries. With a share of 0 the guide never gets
            complete data, and importance weights give poor estimates of log p(x).
    """

    shape: tuple[int, ...]
    whole: float = field(default=0.1, kw_only=True)

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Return which entries of `count` data are observed.

        Args:
            count: number of data.
            generator: draws the masks; None takes the global generator of the device.
            device: device of the result.

        Returns:
            Booleans, True for observed, of a shape that broadcasts to (count, *shape).
        """

    @classmethod
    def default_settings(cls, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return the settings that depend on the shape, for settings that a text does not give."""
        return {}

    def like(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a mask for each datum.

        Args:
            x: the data, shape (batch,) + shape, or flat, (batch, features).
            generator: draws the masks; None takes the global generator of the device of `x`.

        Returns:
            1 for observed and 0 for missing entries, in the shape and dtype of `x`.
        """
        drawn = self.draw(x.shape[0], generator, x.device)
        return drawn.expand(-1, *self.shape).to(x.dtype).reshape(x.shape)

    def in_training(self, x: Tensor) -> Tensor:
        """Return a mask for each datum as `like` does, but a share `whole` of the masks is all ones.

        Args:
            x: the data, shape (batch, ...); the global generator of their device draws.
        """
        mask = self.like(x)
        if self.whole == 0:
            return mask
        complete = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) < self.whole
        return torch.where(complete, torch.ones_like(mask), mask)

    @property
    def text(self) -> str:
        """The name with every setting, such as ``"block:size=14:whole=0.1"``; `make_mask` reads it."""
        settings = [f"{name}={getattr(self, name)}" for name in _setting_names(type(self))]
        return ":".join([_name_of(type(self)), *settings])

    def _check_count(self, name: str, most: int) -> None:
        """Check a setting that is a count, and keep it as a Python integer."""
        advice = f"The data have shape {self.shape}."
        label = f"{name} of the mask {_name_of(type(self))!r}"
        object.__setattr__(self, name, require_whole(getattr(self, name), label, most=most, advice=advice))


@dataclass(frozen=True)
class PixelsMask(Mask):
    """Each entry is missing with probability `share`, independent of the others; for data of any shape."""

    share: float = 0.5

    def __post_init__(self) -> None:
        """Check the share."""
        advice = "It is the probability that an entry is missing."
        share = require_number(self.share, "share of the mask 'pixels'", least=0, most=1, advice=advice)
        object.__setattr__(self, "share", share)

    def draw(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Return booleans, shape (count, *shape)."""
        return torch.rand(count, *self.shape, generator=generator, device=device) >= self.share


@dataclass(frozen=True)
class BlockMask(Mask):
    """A square of `size` times `size` pixels is missing, at a random place inside the picture."""

    size: int

    @classmethod
    def default_settings(cls, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return a size of half the shorter side."""
        return {"size": max(1, min(_sides(cls, shape)) // 2)}

    def __post_init__(self) -> None:
        """Check that the square fits into the picture."""
        self._check_count("size", min(_sides(type(self), self.shape)))

    def draw(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Return booleans, shape (count, height, width), or (count, 1, height, width) if there are channels."""
        rows_and_columns = []
        for side in self.shape[-2:]:
            start = torch.randint(side - self.size + 1, (count, 1), generator=generator, device=device)
            place = torch.arange(side, device=device)
            rows_and_columns.append((place >= start) & (place < start + self.size))
        rows, columns = rows_and_columns
        return _for_channels(~(rows.unsqueeze(-1) & columns.unsqueeze(-2)), self.shape)


@dataclass(frozen=True)
class RowsMask(Mask):
    """`count` rows of the picture are missing. Each row is chosen at random, so the rows may be apart."""

    count: int

    @classmethod
    def default_settings(cls, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return a count of half the rows."""
        return {"count": max(1, _sides(cls, shape)[0] // 2)}

    def __post_init__(self) -> None:
        """Check that the picture has this number of rows."""
        self._check_count("count", _sides(type(self), self.shape)[0])

    def draw(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Return booleans, shape (count, height, 1), or (count, 1, height, 1) if there are channels."""
        missing = _choose(self.count, self.shape[-2], count, generator, device)
        return _for_channels(~missing.unsqueeze(-1), self.shape)


@dataclass(frozen=True)
class QuadrantsMask(Mask):
    """`observed` quadrants of the picture, chosen at random, are observed; the others are missing."""

    observed: int = 1

    def __post_init__(self) -> None:
        """Check that 1 to 3 quadrants are observed, and that the picture is large enough to have four."""
        if min(_sides(type(self), self.shape)) < 2:
            raise InputError(f"The mask 'quadrants' needs pictures of at least 2 x 2 pixels; got {self.shape}.")
        self._check_count("observed", 3)

    def draw(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Return booleans, shape (count, height, width), or (count, 1, height, width) if there are channels."""
        observed = _choose(self.observed, 4, count, generator, device)
        lower, right = ((torch.arange(side, device=device) >= side // 2).long() for side in self.shape[-2:])
        return _for_channels(observed[:, 2 * lower.unsqueeze(-1) + right], self.shape)


MASKS: dict[str, type[Mask]] = {"block": BlockMask, "pixels": PixelsMask, "quadrants": QuadrantsMask, "rows": RowsMask}


def _name_of(kind: type[Mask]) -> str:
    return next(name for name, mask_class in MASKS.items() if mask_class is kind)


def _setting_names(kind: type[Mask]) -> list[str]:
    names = [setting.name for setting in fields(kind) if setting.name not in ("shape", "whole")]
    return [*names, "whole"]


def _sides(kind: type[Mask], shape: tuple[int, ...]) -> tuple[int, int]:
    """Return height and width of one picture."""
    if len(shape) not in (2, 3):
        raise InputError(
            f"The mask {_name_of(kind)!r} needs pictures, (height, width) or (channels, height, width); one datum has "
            f"shape {shape}. Give x in the shape of pictures, or use mask='pixels'."
        )
    return shape[-2], shape[-1]


def _choose(chosen: int, places: int, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Choose `chosen` of the places for each of `count` data, every choice with equal probability.

    Returns:
        Booleans, shape (count, places).
    """
    return torch.rand(count, places, generator=generator, device=device).argsort(1).argsort(1) < chosen


def _for_channels(pictures: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return masks that are the same in all channels: (count, height, width), or (count, 1, height, width)."""
    return pictures.unsqueeze(1) if len(shape) == 3 else pictures


def make_mask(text: str, shape: Sequence[int]) -> Mask:
    """Return the mask that a text names, such as ``"block:size=14"``.

    Args:
        text: a name of `MASKS`, with settings after colons.
        shape: shape of one datum.

    Raises:
        InputError: for an unknown name or setting (the message gives the nearest), a setting that does not fit the
            shape, or a mask for pictures if the data are not pictures.
    """
    written = text if isinstance(text, str) else repr(text)
    name, settings = parse_known(written, "mask", MASKS, _setting_names, further=["none"])
    kind, datum_shape = MASKS[name], tuple(shape)
    advice = "It is the share of training data that keep all entries."
    require_number(settings.get("whole", 0), "whole", least=0, below=1, advice=advice)
    return kind(datum_shape, **{**kind.default_settings(datum_shape), **settings})


def left_out(batch: Batch, mask: Mask, part: str, seed: int) -> Batch:
    """Return one split with the field ``mask``: 0 where an entry is missing in the data or left out by the draw.

    The training split gets no draw, because `minibatches` draws for it at every use.

    Args:
        batch: the data of the split.
        mask: draws which entries are left out.
        part: ``"train"``, ``"validation"`` or ``"test"``.
        seed: decides the draw.

    Raises:
        InputError: if the data have a mask of another shape than ``x``.
    """
    data_mask = batch.get("mask")
    if data_mask is not None and data_mask.shape != batch.x.shape:
        raise InputError(
            f"A mask of the data needs the shape of x, {tuple(batch.x.shape)}, because entries are left out one by "
            f"one; the mask of the {part} split has shape {tuple(data_mask.shape)}."
        )
    if part == "train":
        # an expanded number needs no memory per datum
        return batch if data_mask is not None else batch.replace(mask=batch.x.new_ones(1).expand(batch.x.shape))
    generator = torch.Generator().manual_seed(derived_seed(seed, "mask", part))
    drawn = mask.like(batch.x.cpu(), generator).to(batch.device)
    return batch.replace(mask=drawn if data_mask is None else data_mask * drawn)
