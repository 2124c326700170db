"""How p(x given z) changes with one latent unit at a time, for any latent model with one latent site."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pvae.batch import Batch
from pvae.errors import InputError
from pvae.models.draws import sample_sites
from pvae.models.programs import Fields
from pvae.models.queries import _as_data, _asked, _mean, _observed, encode

__all__ = ["traverse"]


def traverse(latent_model: Any, batch: Batch, values: Tensor, fields: Fields = None) -> Tensor:
    """Return the mean of x where one unit of z moves and all others are 0, shape (units, steps, *x).

    Args:
        latent_model: any object with ``model`` and ``guide``, and one latent site.
        batch: named tensors; the first datum gives shapes and conditions, its x does not matter.
        values: what the moving unit takes, shape (steps,).
        fields: as for `pvae.models.bind`.
    Raises:
        InputError: if the guide has no latent site or several.
    """
    codes = encode(latent_model, batch.take(slice(0, 1)), fields)
    if len(codes) != 1:
        raise InputError(f"A traversal needs one latent site; the guide has {', '.join(codes) or 'none'}.")
    ((name, code),) = codes.items()
    units, steps = code[0].numel(), len(values)
    z = torch.zeros(units, steps, units, dtype=code.dtype, device=code.device)
    z[range(units), :, range(units)] = values.to(z)
    moved = batch.take(torch.zeros(units * steps, dtype=torch.long, device=batch.device))
    with _asked(latent_model, moved, fields) as programs:
        arguments = programs.arguments(moved)
        seen = _observed(sample_sites(poutine.trace(programs.model).get_trace(*arguments)), moved)["name"]
        fixed = poutine.condition(poutine.uncondition(programs.model), data={name: z.reshape(-1, *code.shape[1:])})
        site: Any = poutine.trace(fixed).get_trace(*arguments).nodes[seen]
        return _as_data(_mean(site), moved).unflatten(0, (units, steps))
