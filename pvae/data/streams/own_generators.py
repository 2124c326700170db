"""Random generators in the attributes of a data set, so that they can be seeded like the global ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import BuiltinMethodType, CellType, FunctionType, MethodType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pvae.data.binarise import derived_seed

__all__ = ["OwnGenerators"]

Generator: TypeAlias = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
_KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
#: The depth of the search: the data set, its transform, the list in it, a transform of this list, ...
_DEPTH = 8
_MOST_OBJECTS = 2000
#: Types of objects without generators, which may be large.
_PLAIN = (str, bytes, int, float, complex, bool, type(None), Tensor, np.ndarray, np.generic, type)


class OwnGenerators:
    """The generators among the attributes of a data set, of its transforms, and of a data set that it wraps.

    Args:
        dataset: the data set.
    """

    def __init__(self, dataset: Any) -> None:
        self.generators = list(_find(dataset))

    def seed(self, seed: int) -> None:
        """Seed all generators, each in its own way.

        Args:
            seed: the seed.
        """
        for number, generator in enumerate(self.generators):
            own = derived_seed(seed, "own generator", number)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(own)
            elif isinstance(generator, np.random.Generator):
                kind = type(generator.bit_generator)
                generator.bit_generator.state = kind(own).state
            else:
                generator.seed(own % 2**32)

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Run a block with seeded generators, then restore them.

        Args:
            seed: the seed.
        """
        restore = [_restorer(generator) for generator in self.generators]
        self.seed(seed)
        try:
            yield
        finally:
            for each in restore:
                each()


def _restorer(generator: Generator) -> Callable[[], object]:
    """Return a function that restores the present state of a generator."""
    if isinstance(generator, np.random.Generator):
        bits, state = generator.bit_generator, generator.bit_generator.state
        return lambda: setattr(bits, "state", state)
    if isinstance(generator, random.Random):
        own = generator.getstate()
        return lambda: generator.setstate(own)
    present = generator.get_state()
    return lambda: generator.set_state(present)  # type: ignore[arg-type]


def _find(root: Any) -> Iterator[Generator]:
    """Yield the generators that objects hold as attributes or elements, each once, in a fixed order."""
    seen: set[int] = set()
    level = [root]
    for _ in range(_DEPTH):
        following: list[Any] = []
        for holder in level:
            for value in _held(holder):
                if isinstance(value, _PLAIN) or id(value) in seen or len(seen) > _MOST_OBJECTS:
                    continue
                seen.add(id(value))
                if isinstance(value, _KINDS):
                    yield value
                else:
                    following.append(value)
        level = following


def _held(holder: Any) -> list[Any]:
    """Return the attributes and elements of an object, or the closure of a function.

    Only the first of a long collection.
    """
    if isinstance(holder, partial):
        return [holder.func, *holder.args, *holder.keywords.values()]
    if isinstance(holder, FunctionType):
        return [cell.cell_contents for cell in holder.__closure__ or () if cell != CellType()]
    if isinstance(holder, MethodType | BuiltinMethodType):
        return [holder.__self__]
    attributes = list(vars(holder).values()) if hasattr(holder, "__dict__") else []
    if isinstance(holder, Mapping):
        return [*list(holder.values())[:100], *attributes]
    return [*holder[:100], *attributes] if isinstance(holder, list | tuple) else attributes
