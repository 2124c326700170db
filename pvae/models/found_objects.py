"""The objects that a guide finds in pictures: their number and their boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pyro.distributions import Categorical
from torch import Tensor

__all__ = ["FoundObjects", "count_density", "find_objects"]


@dataclass(frozen=True, eq=False)
class FoundObjects:
    """The objects that a guide finds in pictures.

    Attributes:
        present: whether each step has an object, shape (batch, steps), bool. Objects come first.
        boxes: left, top, right and bottom edge of each object in pixels of the picture, shape (batch, steps, 4). The
            boxes of absent objects have no meaning.
    """

    present: Tensor
    boxes: Tensor

    @property
    def count(self) -> Tensor:
        """The number of objects, shape (batch,), int64."""
        return self.present.sum(-1)


def count_density(further: Tensor) -> Categorical:
    """Return the distribution of the number of objects, from 0 to steps, batch shape (batch,).

    Args:
        further: the probability of a further object at each step, given that all previous ones are present, (batch,
            steps).
    """
    one = torch.ones_like(further[:, :1])
    reached = torch.cat([one, further.cumprod(-1)], -1)
    stops = torch.cat([1 - further, one], -1)
    return Categorical(probs=reached * stops)


def find_objects(further: Tensor, where: Tensor, picture: tuple[int, int]) -> FoundObjects:
    """Return the most probable number of objects, with their boxes.

    Args:
        further: as for `count_density`.
        where: logarithm of the size, and column and row of the centre from -1 to 1, shape (batch, steps, 3).
        picture: height and width in pixels.
    """
    count = count_density(further).probs.argmax(-1, keepdim=True)
    present = torch.arange(further.shape[-1], device=further.device) < count
    centre = where[..., 1:]
    half = where[..., :1].exp().expand_as(centre)
    height, width = picture
    corners = (torch.cat([centre - half, centre + half], -1) + 1) / 2
    return FoundObjects(present, corners * corners.new_tensor([width, height, width, height]))
